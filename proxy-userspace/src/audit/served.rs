//! What maps serve next to what they should, frontend by frontend: ids and slots are nobody's business here.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proxy_common::layout::{Backend, FrontendKey, Sets, Traits, frontend_kind};

use super::{Difference, properties};
use crate::{
    plan::{Capacity, Desired, Extent, NodeAddresses, Planner, SourceRange},
    tables::{PortName, PortTable, admission::Range},
};

/// What a frontend leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Which of a Service's fields it comes from; `None` where key and value do not belong together.
    pub kind: Option<u32>,
    /// Policies, and whether there is any endpoint.
    pub sets: Sets,
    /// Affinity, and whether everybody is admitted.
    pub traits: Traits,
    /// The Cluster set.
    pub cluster: Vec<Backend>,
    /// The Local set.
    pub local: Vec<Backend>,
    /// Who is admitted, where not everybody is.
    pub admitted: BTreeSet<Range>,
}

/// All frontends.
pub type Frontends = BTreeMap<FrontendKey, Served>;

/// What the maps should serve, and for whom.
#[derive(Debug, Default)]
pub struct Expected {
    frontends: Frontends,
    owners: BTreeMap<FrontendKey, PortName>,
}

impl Expected {
    /// Of complete tables, however much fits: what found no room is missing.
    #[must_use]
    pub fn of(desired: &[Desired]) -> Self {
        let endless = Capacity { frontends: u32::MAX, services: u32::MAX, backends: Sets::MAX_SLOTS };
        let mut planner = Planner::new(endless);
        planner.plan(&[], desired.to_vec(), Extent::Everything);
        let mut expected = Self::default();
        for table in desired.iter().flat_map(|(_, tables)| tables) {
            for (key, kind) in &table.frontends {
                if planner.holder(key) == Some(&table.name) {
                    expected.frontends.insert(*key, served(table, *kind));
                    expected.owners.insert(*key, table.name.clone());
                }
            }
        }
        expected
    }

    /// What a frontend should lead to.
    #[must_use]
    pub fn served(&self, key: &FrontendKey) -> Option<&Served> {
        self.frontends.get(key)
    }

    /// How many frontends there should be.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frontends.len()
    }

    /// Whether nothing is to be served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
    }

    /// Where `found` says something else; each thing once, in the order of frontends.
    #[must_use]
    pub fn differences(&self, found: &Frontends) -> Vec<Difference> {
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        for (key, wanted) in &self.frontends {
            let of_one = self.of_frontend(key, wanted, found.get(key));
            all.extend(of_one.into_iter().filter(|difference| seen.insert(difference.clone())));
        }
        let foreign = found.keys().filter(|key| !self.frontends.contains_key(key));
        all.extend(foreign.map(|key| Difference::Foreign { frontend: *key }));
        all
    }

    fn of_frontend(&self, key: &FrontendKey, wanted: &Served, found: Option<&Served>) -> Vec<Difference> {
        let (frontend, owner) = (*key, self.owners.get(key).cloned());
        let Some(found) = found else { return vec![Difference::Missing { frontend, owner }] };
        if wanted.kind != found.kind {
            return vec![Difference::Misled { frontend, owner }];
        }
        let Some(port) = owner else { return Vec::new() };
        let mut all = Vec::new();
        if let Some(what) = properties((wanted.sets, wanted.traits), (found.sets, found.traits)) {
            all.push(Difference::Properties { port: port.clone(), what });
        }
        for (wanted, found) in [(&wanted.cluster, &found.cluster), (&wanted.local, &found.local)] {
            all.extend(Difference::of_endpoints(&port, wanted, found));
        }
        let range =
            |(address, length): &Range| SourceRange { service: 0, address: *address, length: *length };
        let kept_out = wanted.admitted.difference(&found.admitted);
        all.extend(kept_out.map(|kept| Difference::KeptOut { port: port.clone(), range: range(kept) }));
        let let_in = found.admitted.difference(&wanted.admitted);
        all.extend(let_in.map(|let_in| Difference::LetIn { port: Some(port.clone()), range: range(let_in) }));
        all
    }
}

fn served(table: &PortTable, kind: u32) -> Served {
    let traits = Traits::new(table.affinity_seconds);
    let admission = table.admission.as_ref();
    let is_judged = kind == frontend_kind::LOAD_BALANCER;
    Served {
        kind: Some(kind),
        sets: Sets::EMPTY
            .with_any_endpoint(table.any_endpoint)
            .with_internal_local(table.internal_local)
            .with_external_local(table.external_local),
        traits: admission.map_or(traits, |admission| traits.restricted(admission.is_node)),
        cluster: table.cluster.clone(),
        local: table.local.clone(),
        admitted: admission
            .filter(|_| is_judged)
            .map(|admission| admission.ranges.clone())
            .unwrap_or_default(),
    }
}

/// Where the map of the node's addresses says something else.
#[must_use]
pub fn node_addresses(wanted: &NodeAddresses, found: &NodeAddresses) -> Vec<Difference> {
    let all: BTreeSet<_> = wanted.keys().chain(found.keys()).copied().collect();
    all.into_iter()
        .map(|address| Difference::NodeAddress {
            address,
            found: found.get(&address).copied(),
            wanted: wanted.get(&address).copied(),
        })
        .filter(|one| matches!(one, Difference::NodeAddress { found, wanted, .. } if found != wanted))
        .collect()
}
