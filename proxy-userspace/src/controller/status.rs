//! What the loop tells the outside: health and metrics. Written by the loop, read by the servers.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    health::{Expectations, Health, Hooks, Vitals},
    metrics::{Metrics, kube_proxy::Synced},
};
use crate::{
    cluster::{
        Cluster,
        model::{Family, ServiceName, Stay},
    },
    plan::Planner,
    source::kubernetes::requests::Requests,
    tables::lacking::Lacking,
};

/// Shared by the loop and the servers.
pub struct Status {
    vitals: Mutex<Vitals>,
    /// What is counted.
    pub metrics: Metrics,
}

impl Status {
    /// Healthy, and nothing counted.
    #[must_use]
    pub fn new(expectations: Expectations, requests: &Requests) -> Self {
        Self { vitals: Mutex::new(Vitals::new(expectations)), metrics: Metrics::new(requests) }
    }

    /// Something is to be brought into the maps.
    pub(super) fn change_queued(&self, cluster: &Cluster) {
        let mut vitals = self.vitals();
        vitals.queued();
        self.metrics.kube_proxy.queued(vitals.families(), cluster.pending());
    }

    pub(super) fn synced(&self, planner: &Planner, cluster: &mut Cluster, operations: usize, took: Duration) {
        self.vitals().updated();
        self.metrics.tables.synced(planner, cluster.counts(), operations, took);
        self.metrics.kube_proxy.applied(&cluster.take_pending());
    }

    /// These Services have been planned, and the plan carried out.
    pub(super) fn planned(&self, planner: &Planner, names: &[ServiceName], lacking: &Lacking) {
        self.metrics.services.assign(names.iter().map(|name| (name, planner.ids(name))));
        self.metrics.kube_proxy.lacking(self.vitals().families(), lacking);
    }

    /// A look for UDP flows to endpoints that serve no more has ended; of each family so many were removed.
    pub(super) fn reconciled(&self, took: Duration, removed: &[(Family, u64)]) {
        self.metrics.kube_proxy.reconciled(self.vitals().families(), took, removed);
    }

    /// A sync has ended, in whichever way.
    pub(super) fn sync_ended(&self, sync: &Synced) {
        self.metrics.kube_proxy.synced(self.vitals().families(), sync);
    }

    pub(super) fn serving(&self) {
        self.vitals().serving();
    }

    pub(super) fn node(&self, stay: Stay) {
        self.vitals().node(stay);
    }

    /// Says whether that is news.
    pub(super) fn hooks(&self, hooks: Hooks) -> bool {
        self.metrics.hooks.effective(&hooks);
        self.vitals().hooks(hooks)
    }

    /// What somebody else has done cannot be set right, and why; or it can be again. Says whether that is news.
    pub(super) fn fault(&self, what: &'static str, reason: Option<String>) -> bool {
        self.metrics.drift.fault(what, reason.is_some());
        self.vitals().fault(what, reason)
    }

    /// These Services are not served as they should be, for want of room.
    pub(super) fn without_room<'a>(&self, services: impl ExactSizeIterator<Item = &'a ServiceName>) {
        self.metrics.tables.without_room(services.len());
        self.vitals().without_room(services);
    }

    /// The state of health, now.
    pub fn health(&self) -> Health {
        self.vitals().health()
    }

    fn vitals(&self) -> MutexGuard<'_, Vitals> {
        // Plain values: whoever panicked while holding it left nothing half done.
        self.vitals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
