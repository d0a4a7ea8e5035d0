//! What somebody else has done to maps, pins and hooks, and whether it could be set right.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Labels;

/// The metrics of drift.
pub struct Drift {
    found: Family<Labels, Counter>,
    repaired: Family<Labels, Counter>,
    faults: Family<Labels, Gauge>,
    passes: Counter,
}

impl Drift {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let found = Family::default();
        registry.register(
            "drift_found",
            "What was found otherwise than this process had left it, by map, pins, hooks and devices",
            found.clone(),
        );
        let repaired = Family::default();
        registry.register("drift_repaired", "What of that has been set right", repaired.clone());
        let faults = Family::default();
        registry.register(
            "drift_faults",
            "1 while what was found cannot be set right, else 0",
            faults.clone(),
        );
        let passes = Counter::default();
        registry.register(
            "audit_passes",
            "Comparisons of all maps with what they should say",
            passes.clone(),
        );
        Self { found, repaired, faults, passes }
    }

    /// So many things are otherwise.
    pub fn found(&self, what: &'static str, count: usize) {
        self.found.get_or_create(&[("what", what)]).inc_by(count as u64);
    }

    /// So many have been set right.
    pub fn repaired(&self, what: &'static str, count: usize) {
        self.repaired.get_or_create(&[("what", what)]).inc_by(count as u64);
    }

    /// Whether something cannot be set right.
    pub fn fault(&self, what: &'static str, is: bool) {
        self.faults.get_or_create(&[("what", what)]).set(is.into());
    }

    /// All maps have been compared once more.
    pub fn passed(&self) {
        self.passes.inc();
    }
}
