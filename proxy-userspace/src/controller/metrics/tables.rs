//! What came in and what was written.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use proxy_common::layout;

use super::Labels;
use crate::{cluster::Counts, datapath::Memory, plan::Planner};

/// The metrics of objects and maps.
pub struct Tables {
    sync_duration: Histogram,
    sync_operations: Counter,
    plan_operations: Histogram,
    sync_failures: Counter,
    rejects: Counter,
    without_room: Gauge,
    services: Gauge,
    endpoints: Gauge,
    pub(super) map_entries: Family<Labels, Gauge>,
    pub(super) map_capacity: Family<Labels, Gauge>,
    decisions: Family<Labels, Counter<u64, AtomicU64>>,
    aborted: Family<Labels, Counter>,
    /// Connections of our own among those that the programs have counted.
    own_connections: AtomicU64,
    /// What they had counted, by outcome, before this process began: with connections of its predecessors' own.
    before: Mutex<BTreeMap<&'static str, u64>>,
    events: Family<Labels, Counter>,
}

impl Tables {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let sync_duration = Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        registry.register_with_unit(
            "sync_duration",
            "Time from taken-in changes to written maps",
            Unit::Seconds,
            sync_duration.clone(),
        );
        let sync_operations = Counter::default();
        registry.register("sync_operations", "Map writes", sync_operations.clone());
        let plan_operations = Histogram::new(exponential_buckets(1.0, 4.0, 10));
        registry.register("plan_operations", "Map writes in one plan", plan_operations.clone());
        let sync_failures = Counter::default();
        registry.register("sync_failures", "Syncs that a failed map write ended", sync_failures.clone());
        let rejects = Counter::default();
        registry.register("rejects", "Objects or parts of them that were not taken over", rejects.clone());
        let without_room = Gauge::default();
        registry.register(
            "services_without_room",
            "Services that are not served as they should be, because a map is full",
            without_room.clone(),
        );
        let services = Gauge::default();
        registry.register("services", "Services known", services.clone());
        let endpoints = Gauge::default();
        registry.register("endpoints", "Endpoints known", endpoints.clone());
        let map_entries = Family::default();
        registry.register("map_entries", "Entries of a map in use", map_entries.clone());
        let map_capacity = Family::<Labels, Gauge>::default();
        registry.register("map_capacity", "Entries a map has room for", map_capacity.clone());
        // Who has not come for longest makes room in this one, so that it is full for most of the time; so in those of
        // `remembers`.
        map_capacity.get_or_create(&[("map", "fragments")]).set(i64::from(layout::FRAGMENTED));
        let decisions = Family::default();
        registry.register(
            "decisions",
            "Decisions of the programs, for sockets and for packets, by outcome",
            decisions.clone(),
        );
        let aborted = Family::default();
        registry.register(
            "sockets_aborted",
            "Connected sockets that were woken with an error, because their endpoint was gone, by protocol",
            aborted.clone(),
        );
        let events = Family::default();
        registry.register(
            "events",
            "Kubernetes events, by what became of them: written, repeated (said before, or by another node), dropped, \
             forbidden",
            events.clone(),
        );
        Self {
            sync_duration,
            sync_operations,
            plan_operations,
            sync_failures,
            rejects,
            without_room,
            services,
            endpoints,
            map_entries,
            map_capacity,
            decisions,
            aborted,
            own_connections: AtomicU64::new(0),
            before: Mutex::default(),
            events,
        }
    }

    pub(super) fn forgive_one(&self) {
        self.own_connections.fetch_add(1, Relaxed);
    }

    /// Something was not taken over.
    pub fn rejected(&self) {
        self.rejects.inc();
    }

    /// A map write has failed.
    pub fn failed(&self) {
        self.sync_failures.inc();
    }

    /// A sync has worked.
    pub fn synced(&self, planner: &Planner, counts: Counts, operations: usize, took: Duration) {
        self.sync_duration.observe(took.as_secs_f64());
        self.sync_operations.inc_by(operations as u64);
        if operations > 0 {
            #[expect(clippy::cast_precision_loss, reason = "no plan has 2^52 operations")]
            self.plan_operations.observe(operations as f64);
        }
        self.services.set(i64::try_from(counts.services).unwrap_or(i64::MAX));
        self.endpoints.set(i64::try_from(counts.endpoints).unwrap_or(i64::MAX));
        let (usage, capacity) = (planner.usage(), planner.capacity());
        for (map, used, fits) in [
            ("frontends", usage.frontends, capacity.frontends),
            ("services", usage.services, capacity.services),
            ("backends", usage.backends, capacity.backends),
        ] {
            self.map(map, used as usize, fits);
        }
        self.map("sources", planner.admitted(), layout::SOURCES);
    }

    /// How much the programs can remember.
    pub fn remembers(&self, memory: Memory) {
        for (map, fits) in [("affinity", memory.affinities), ("senders", memory.senders)] {
            self.map_capacity.get_or_create(&[("map", map)]).set(i64::from(fits));
        }
    }

    /// So many Services are not served as they should be, because a map is full.
    pub fn without_room(&self, services: usize) {
        self.without_room.set(i64::try_from(services).unwrap_or(i64::MAX));
    }

    /// How full a map is, and how much fits.
    pub fn map(&self, name: &'static str, used: usize, fits: u32) {
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        self.map_entries.get_or_create(&[("map", name)]).set(used);
        self.map_capacity.get_or_create(&[("map", name)]).set(i64::from(fits));
    }

    /// A Kubernetes event has come to its end.
    pub fn event(&self, outcome: &'static str) {
        self.events.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Sockets were woken.
    pub fn aborted(&self, protocol: &'static str, sockets: u64) {
        self.aborted.get_or_create(&[("protocol", protocol)]).inc_by(sockets);
    }

    /// Brings a decision counter up to what the programs have counted.
    pub fn decided(&self, outcome: layout::Counter, total: u64) {
        let is_own = outcome == layout::Counter::Connected;
        let own = if is_own { self.own_connections.load(Relaxed) } else { 0 };
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *before.entry(outcome.name()).or_insert(total);
        let counter = self.decisions.get_or_create(&[("outcome", outcome.name())]);
        counter.inner().store(total.saturating_sub(before).saturating_sub(own), Relaxed);
    }
}
