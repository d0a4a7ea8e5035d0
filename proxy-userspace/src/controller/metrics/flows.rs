//! What is told of flows: written by the sweep after each pass.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use proxy_common::layout::PortRanges;

use super::Labels;
use crate::datapath::flows::sweep::FlowSweep;

/// The metrics of flows.
pub struct FlowMetrics {
    flows: Family<[(&'static str, &'static str); 2], Gauge>,
    masqueraded: Gauge,
    ports_share: Gauge<f64, AtomicU64>,
    sweeps: Counter,
    removed: Counter,
    sweep_duration: Gauge<f64, AtomicU64>,
    map_entries: Family<Labels, Gauge>,
    map_capacity: Family<Labels, Gauge>,
}

impl FlowMetrics {
    /// Registers them; those of maps are there already.
    pub(super) fn new(
        registry: &mut Registry,
        map_entries: Family<Labels, Gauge>,
        map_capacity: Family<Labels, Gauge>,
    ) -> Self {
        let flows = Family::default();
        registry.register(
            "flows",
            "Flows that the packet path remembers, by protocol and state",
            flows.clone(),
        );
        let masqueraded = Gauge::default();
        registry.register(
            "flows_masqueraded",
            "Flows whose backend sees an address of the node",
            masqueraded.clone(),
        );
        let ports_share = Gauge::default();
        registry.register_with_unit(
            "masquerade_ports_taken",
            "The greatest share of source ports that flows to one backend have taken",
            Unit::Other("ratio".to_owned()),
            ports_share.clone(),
        );
        let sweeps = Counter::default();
        registry.register("flow_sweeps", "Passes over all flows", sweeps.clone());
        let removed = Counter::default();
        registry.register(
            "flows_expired",
            "Flows removed because they were idle for too long",
            removed.clone(),
        );
        let sweep_duration = Gauge::default();
        registry.register_with_unit(
            "flow_sweep_duration",
            "Time that the last pass over all flows took, rests included",
            Unit::Seconds,
            sweep_duration.clone(),
        );
        Self { flows, masqueraded, ports_share, sweeps, removed, sweep_duration, map_entries, map_capacity }
    }

    /// Takes over what a pass has found.
    pub fn swept(&self, sweep: &FlowSweep, capacity: u32, ports: PortRanges, took: Duration) {
        let census = &sweep.census;
        for (protocol, stage, count) in census.kinds() {
            let labels = [("protocol", protocol), ("state", stage.name())];
            self.flows.get_or_create(&labels).set(i64::from(count));
        }
        self.masqueraded.set(i64::from(census.masqueraded));
        self.ports_share.set(census.shares(ports).map(|(_, share)| share).fold(0.0, f64::max));
        self.sweeps.inc();
        self.removed.inc_by(u64::from(sweep.removed));
        self.sweep_duration.set(took.as_secs_f64());
        self.map_entries.get_or_create(&[("map", "flows")]).set(i64::from(census.flows));
        self.map_capacity.get_or_create(&[("map", "flows")]).set(i64::from(capacity));
        // One for the client's packets, and one for answers to another name than the client's.
        let arrivals = i64::from(census.flows) + i64::from(census.masqueraded);
        self.map_entries.get_or_create(&[("map", "arrivals")]).set(arrivals);
        self.map_capacity.get_or_create(&[("map", "arrivals")]).set(2 * i64::from(capacity));
    }
}
