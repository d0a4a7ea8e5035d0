//! What the loop tells the outside: counts, health, metrics. Written by the loop, read by the servers.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::flow_metrics::FlowMetrics;
use crate::{cluster::Counts, plan::Planner};

/// How long a change may wait before the process counts as unhealthy: twice kube-proxy's default syncPeriod, as
/// there.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) type Labels = [(&'static str, &'static str); 1];

/// Shared by the loop and the servers.
pub struct Status {
    state: Mutex<State>,
    serving: AtomicBool,
    /// What the sweep tells.
    pub(super) flows: FlowMetrics,
    registry: Registry,
    sync_duration: Histogram,
    sync_operations: Counter,
    sync_failures: Counter,
    rejects: Counter,
    services: Gauge,
    endpoints: Gauge,
    map_entries: Family<Labels, Gauge>,
    map_capacity: Family<Labels, Gauge>,
    decisions: Family<Labels, Counter<u64, AtomicU64>>,
    devices: Family<Labels, Gauge>,
    aborted: Family<Labels, Counter>,
}

#[derive(Default)]
struct State {
    /// Since when a change has been waiting.
    waiting: Option<Instant>,
    last_synced: Option<SystemTime>,
}

/// The state of health.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    /// No change has waited too long.
    pub healthy: bool,
    /// Tables are complete and programs attached.
    pub serving: bool,
    /// When the maps were last brought in line.
    pub last_synced: Option<SystemTime>,
}

impl Default for Status {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("kubeshunt");
        let sync_duration = Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        registry.register_with_unit(
            "sync_duration",
            "Time from taken-in changes to written maps",
            Unit::Seconds,
            sync_duration.clone(),
        );
        let sync_operations = Counter::default();
        registry.register("sync_operations", "Map writes", sync_operations.clone());
        let sync_failures = Counter::default();
        registry.register("sync_failures", "Syncs that a failed map write ended", sync_failures.clone());
        let rejects = Counter::default();
        registry.register("rejects", "Objects or parts of them that were not taken over", rejects.clone());
        let services = Gauge::default();
        registry.register("services", "Services known", services.clone());
        let endpoints = Gauge::default();
        registry.register("endpoints", "Endpoints known", endpoints.clone());
        let map_entries = Family::default();
        registry.register("map_entries", "Entries of a map in use", map_entries.clone());
        let map_capacity = Family::default();
        registry.register("map_capacity", "Entries a map has room for", map_capacity.clone());
        let decisions = Family::default();
        registry.register(
            "decisions",
            "Decisions of the programs, for sockets and for packets, by outcome",
            decisions.clone(),
        );
        let flows = FlowMetrics::new(&mut registry, map_entries.clone(), map_capacity.clone());
        let devices = Family::default();
        registry.register(
            "devices",
            "Devices with programs for packets, by what is behind them",
            devices.clone(),
        );
        let aborted = Family::default();
        registry.register(
            "sockets_aborted",
            "Connected sockets that were woken with an error, because their endpoint was gone, by protocol",
            aborted.clone(),
        );
        Self {
            state: Mutex::default(),
            serving: AtomicBool::new(false),
            flows,
            registry,
            sync_duration,
            sync_operations,
            sync_failures,
            rejects,
            services,
            endpoints,
            map_entries,
            map_capacity,
            decisions,
            devices,
            aborted,
        }
    }
}

impl Status {
    pub(super) fn change_received(&self) {
        self.state().waiting.get_or_insert_with(Instant::now);
    }

    pub(super) fn rejected(&self) {
        self.rejects.inc();
    }

    pub(super) fn failed(&self) {
        self.sync_failures.inc();
    }

    pub(super) fn serving(&self) {
        self.serving.store(true, Relaxed);
    }

    pub(super) fn synced(&self, planner: &Planner, counts: Counts, operations: usize, took: Duration) {
        {
            let mut state = self.state();
            state.waiting = None;
            state.last_synced = Some(SystemTime::now());
        }
        self.sync_duration.observe(took.as_secs_f64());
        self.sync_operations.inc_by(operations as u64);
        self.services.set(i64::try_from(counts.services).unwrap_or(i64::MAX));
        self.endpoints.set(i64::try_from(counts.endpoints).unwrap_or(i64::MAX));
        let (usage, capacity) = (planner.usage(), planner.capacity());
        for (map, used, fits) in [
            ("frontends", usage.frontends, capacity.frontends),
            ("services", usage.services, capacity.services),
            ("backends", usage.backends, capacity.backends),
        ] {
            self.map_entries.get_or_create(&[("map", map)]).set(i64::from(used));
            self.map_capacity.get_or_create(&[("map", map)]).set(i64::from(fits));
        }
    }

    pub(super) fn devices(&self, side: &'static str, count: usize) {
        self.devices.get_or_create(&[("side", side)]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn aborted(&self, protocol: &'static str, sockets: u64) {
        self.aborted.get_or_create(&[("protocol", protocol)]).inc_by(sockets);
    }

    /// Brings a decision counter up to what the programs have counted.
    pub fn decided(&self, outcome: &'static str, total: u64) {
        let counter = self.decisions.get_or_create(&[("outcome", outcome)]);
        counter.inner().store(total, Relaxed);
    }

    /// The state of health, now.
    pub fn health(&self) -> Health {
        let state = self.state();
        Health {
            healthy: state.waiting.is_none_or(|since| since.elapsed() < PATIENCE),
            serving: self.serving.load(Relaxed),
            last_synced: state.last_synced,
        }
    }

    /// All metrics in the OpenMetrics text format.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is two plain values: whoever panicked while holding it left nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
