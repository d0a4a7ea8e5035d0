//! What is attached, and whether it is in force.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Labels;
use crate::controller::health::Hooks;

/// The metrics of hooks and devices.
pub struct Attachments {
    effective: Gauge,
    checks: Family<Labels, Counter>,
    selftests: Family<Labels, Counter>,
    devices: Family<Labels, Gauge>,
    devices_failing: Gauge,
}

impl Attachments {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let effective = Gauge::default();
        registry.register(
            "hooks_effective",
            "1 while all socket hooks are attached and lead connections where they should, else 0",
            effective.clone(),
        );
        let checks = Family::default();
        registry.register("hook_checks", "Looks at the socket hooks, by result", checks.clone());
        let selftests = Family::default();
        registry.register(
            "selftests",
            "Connections of our own that tried the socket hooks, by what became of them",
            selftests.clone(),
        );
        let devices = Family::default();
        registry.register(
            "devices",
            "Devices with programs for packets, by what is behind them",
            devices.clone(),
        );
        let devices_failing = Gauge::default();
        registry.register(
            "devices_failing",
            "Devices that should have programs for packets and could not be given them",
            devices_failing.clone(),
        );
        Self { effective, checks, selftests, devices, devices_failing }
    }

    /// The socket hooks have been looked at.
    pub fn effective(&self, hooks: &Hooks) {
        let (is, result) = match hooks {
            Hooks::NotYet => return,
            Hooks::Effective => (1, "effective"),
            Hooks::Failing(_) => (0, "failing"),
        };
        self.effective.set(is);
        self.checks.get_or_create(&[("result", result)]).inc();
    }

    /// A connection of our own has tried them.
    pub fn tested(&self, result: &'static str) {
        self.selftests.get_or_create(&[("result", result)]).inc();
    }

    /// How many devices on a side have programs.
    pub fn devices(&self, side: &'static str, count: usize) {
        self.devices.get_or_create(&[("side", side)]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// How many should have and have not.
    pub fn devices_failing(&self, count: usize) {
        self.devices_failing.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
