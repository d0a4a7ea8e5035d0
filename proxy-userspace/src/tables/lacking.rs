//! Service ports that have endpoints, but none where their policy wants them: kube-proxy has a metric of that
//! (`no_local_endpoints_total` in `pkg/proxy/metrics/metrics.go`).

use std::collections::BTreeMap;

use super::PortTable;
use crate::cluster::model::{Family, ServiceName};

/// Whose policy leads to endpoints of this node only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// internalTrafficPolicy
    Internal,
    /// externalTrafficPolicy
    External,
}

type Counts = BTreeMap<(Policy, Family), usize>;

/// How many ports lack a local endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacking {
    /// Services of which some port does.
    services: BTreeMap<ServiceName, Counts>,
    all: Counts,
}

impl Lacking {
    /// Takes over what the tables of a Service say, in place of what they said before.
    pub fn take_over(&mut self, service: &ServiceName, tables: &[PortTable]) {
        for (kind, count) in self.services.remove(service).unwrap_or_default() {
            *self.all.entry(kind).or_default() -= count;
        }
        let now = of_tables(tables);
        for (kind, count) in &now {
            *self.all.entry(*kind).or_default() += count;
        }
        if !now.is_empty() {
            self.services.insert(service.clone(), now);
        }
    }

    /// How many ports of a family do by a policy.
    #[must_use]
    pub fn ports(&self, policy: Policy, family: Family) -> usize {
        self.all.get(&(policy, family)).copied().unwrap_or_default()
    }
}

fn of_tables(tables: &[PortTable]) -> Counts {
    let mut counts = Counts::new();
    for table in tables.iter().filter(|table| table.local.is_empty() && table.any_endpoint) {
        for (policy, is_local) in
            [(Policy::Internal, table.internal_local), (Policy::External, table.external_local)]
        {
            if is_local {
                *counts.entry((policy, table.name.family)).or_default() += 1;
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::model::Protocol, tables::PortName};

    fn table(service: &ServiceName, family: Family, internal: bool, external: bool) -> PortTable {
        PortTable {
            name: PortName { service: service.clone(), port: "".into(), protocol: Protocol::Tcp, family },
            created: 0,
            frontends: Vec::new(),
            cluster: Vec::new(),
            local: Vec::new(),
            any_endpoint: true,
            internal_local: internal,
            external_local: external,
            admission: None,
            affinity_seconds: 0,
            left_out: 0,
        }
    }

    #[test]
    fn ports_without_a_local_endpoint_count_as_long_as_that_is_so() {
        let web = ServiceName { namespace: "default".into(), name: "web".into() };
        let dns = ServiceName { namespace: "kube-system".into(), name: "dns".into() };
        let mut lacking = Lacking::default();
        lacking.take_over(&web, &[table(&web, Family::V4, true, true), table(&web, Family::V6, false, true)]);
        lacking.take_over(&dns, &[table(&dns, Family::V4, false, true)]);
        let ports = |lacking: &Lacking| {
            [Policy::Internal, Policy::External]
                .map(|policy| [Family::V4, Family::V6].map(|family| lacking.ports(policy, family)))
        };
        assert_eq!(ports(&lacking), [[1, 0], [2, 1]]);
        let without = PortTable { any_endpoint: false, ..table(&web, Family::V4, true, true) };
        lacking.take_over(&web, &[without]);
        assert_eq!(
            ports(&lacking),
            [[0, 0], [1, 0]],
            "who has no endpoint at all is refused, and not counted"
        );
        lacking.take_over(&dns, &[]);
        assert_eq!(ports(&lacking), [[0, 0], [0, 0]]);
    }
}
