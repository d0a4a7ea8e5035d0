//! What a change of Services means for connections that were made before, and for load balancers: said by the loop to
//! those who see to it.

use std::{
    collections::BTreeSet,
    sync::{Arc, mpsc::Sender},
};

use proxy_common::layout::FrontendKey;
use tokio::sync::watch;

use super::Controller;
use crate::{
    cluster::model::{ServiceName, ServicePort},
    events::Recorder,
    flows::{
        backing::{News, Roster, Stage},
        stale::Served,
    },
    host::cgroups,
    plan::{Extent, Operation},
    tables::{
        checks::{self, Checks},
        rosters,
    },
    trace::Trace,
};

/// Who is told something of each change.
pub struct Hears {
    /// Which endpoints serve UDP.
    pub served: Sender<Served>,
    /// Which endpoints sockets may be connected to.
    pub backing: Sender<News>,
    /// Whether TCP's are among them.
    pub backing_of_tcp: bool,
    /// What load balancers are to be told.
    pub checks: watch::Sender<Checks>,
    /// Which pods' sockets are to be left alone.
    pub left: watch::Sender<cgroups::Wanted>,
    /// How long each step takes.
    pub trace: Trace,
    /// What people are to find with the objects.
    pub events: Recorder,
}

impl Controller {
    /// Who stands behind the frontends of these Services, and of those that these operations give one to: nothing else
    /// may have changed about such a Service.
    pub(super) fn rosters(&self, names: &[ServiceName], operations: &[Operation]) -> Arc<[Roster]> {
        let mut touched: BTreeSet<&ServiceName> = names.iter().collect();
        touched.extend(operations.iter().filter_map(|operation| match operation {
            Operation::PutFrontend { key, .. } => self.planner.holder(key).map(|holder| &holder.service),
            _ => None,
        }));
        let roster = |name: &ServiceName| {
            let holds = |port: &ServicePort, key: &FrontendKey| {
                let holder = self.planner.holder(key);
                holder.is_some_and(|holder| holder.service == *name && holder.port == port.name)
            };
            rosters::of_service(&self.cluster, name, holds, self.hears.backing_of_tcp)
        };
        touched.into_iter().map(roster).collect()
    }

    /// What has been done when a change has been made now.
    pub(super) fn made(&self) -> Stage {
        if self.extent == Extent::Everything && self.cluster.is_whole() {
            Stage::Complete(Arc::new(rosters::everybody(&self.cluster)))
        } else {
            Stage::Made
        }
    }

    /// Says who serves, or is about to.
    pub(super) fn announce(&self, rosters: &Arc<[Roster]>, stage: Stage) {
        // Flows are judged once whoever chooses anew chooses as it is now.
        if !matches!(stage, Stage::Coming) {
            let mut served = Served::on(Arc::clone(&self.surroundings.node_ports));
            for stand in rosters.iter().flat_map(|roster| &roster.stands) {
                served.add(stand.frontends.iter().copied(), &stand.endpoints);
            }
            if !served.is_empty() {
                // Who is to hear of it ends only when we do; so below.
                let _ = self.hears.served.send(served);
            }
        }
        let news =
            News { rosters: Arc::clone(rosters), node: Arc::clone(&self.surroundings.node_ports), stage };
        let _ = self.hears.backing.send(news);
    }

    /// Tells load balancers about these Services.
    pub(super) fn tell_balancers(&self, names: &[ServiceName]) {
        self.hears.checks.send_if_modified(|checks| {
            let mut is_modified = false;
            for name in names {
                let is = checks::of_service(&self.cluster, name);
                if is.as_ref() != checks.get(name) {
                    is_modified = true;
                    match is {
                        Some(check) => drop(checks.insert(name.clone(), check)),
                        None => drop(checks.remove(name)),
                    }
                }
            }
            is_modified
        });
    }
}
