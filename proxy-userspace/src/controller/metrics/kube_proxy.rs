//! kube-proxy's metrics, under its names and with its labels and buckets (`pkg/proxy/metrics/metrics.go`).
//!
//! kube-proxy has a proxier for each family; here both families are written in one go, and what is said of it is said
//! under each family that the node speaks.

use std::{
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::Labels;
use crate::{
    cluster::{model, pending::Pending},
    tables::lacking::{Lacking, Policy},
};

type PerFamily<M> = Family<ByFamily, M, fn() -> M>;
type Seconds = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFamily {
    ip_family: Labelled<model::Family>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPolicy {
    traffic_policy: &'static str,
    ip_family: Labelled<model::Family>,
}

/// What stands in a label as it is displayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Labelled<T>(T);

impl<T: std::fmt::Display> EncodeLabelValue for Labelled<T> {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        use std::fmt::Write as _;
        write!(encoder, "{}", self.0)
    }
}

fn by(family: model::Family) -> ByFamily {
    ByFamily { ip_family: Labelled(family) }
}

/// How a sync went.
#[derive(Clone, Copy, Debug)]
pub struct Synced {
    /// How long it took.
    pub took: Duration,
    /// Whether everything was looked at, and not only what had changed.
    pub is_full: bool,
    /// Whether it came to its end.
    pub has_worked: bool,
}

/// The metrics.
pub struct KubeProxy {
    started: SystemTime,
    sync: PerFamily<Histogram>,
    full_sync: PerFamily<Histogram>,
    partial_sync: PerFamily<Histogram>,
    last_synced: PerFamily<Seconds>,
    last_queued: PerFamily<Seconds>,
    programming: PerFamily<Histogram>,
    endpoint_changes_pending: Gauge,
    endpoint_changes: Counter,
    service_changes_pending: Gauge,
    service_changes: Counter,
    no_local_endpoints: Family<ByPolicy, Gauge>,
    healthz: Family<Labels, Counter>,
    livez: Family<Labels, Counter>,
    reconciled: PerFamily<Histogram>,
    reconciler_deleted: PerFamily<Counter>,
}

/// kube-proxy's buckets of sync times: 1 ms to 16 s.
fn sync_times() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// kube-proxy's buckets of network programming times: a quarter of a second to five minutes.
fn programming_times() -> Histogram {
    let steps = (60..120).step_by(5).chain((120..=300).step_by(30));
    Histogram::new([0.25, 0.5].into_iter().chain((1..60).chain(steps).map(f64::from)))
}

impl KubeProxy {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let mut times = |name: &str, help: &str, make: fn() -> Histogram| {
            let family = PerFamily::new_with_constructor(make);
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
            family
        };
        let sync = times("sync_proxy_rules_duration", "Time that a sync took", sync_times);
        let full_sync =
            times("sync_full_proxy_rules_duration", "Time that a sync of everything took", sync_times);
        let partial_sync = times(
            "sync_partial_proxy_rules_duration",
            "Time that a sync of what had changed took",
            sync_times,
        );
        let programming = times(
            "network_programming_duration",
            "Time from a change of endpoints in the cluster to the maps of this node",
            programming_times,
        );
        let reconciled = times(
            "conntrack_reconciler_sync_duration",
            "Time that a look for UDP flows to endpoints that serve no more took",
            sync_times,
        );
        let mut moment = |name: &str, help: &str| {
            let family = PerFamily::new_with_constructor(Seconds::default as fn() -> Seconds);
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
            family
        };
        let last_synced = moment("sync_proxy_rules_last_timestamp", "When a sync last succeeded");
        let last_queued = moment("sync_proxy_rules_last_queued_timestamp", "When a sync was last asked for");
        let endpoint_changes_pending = Gauge::default();
        registry.register(
            "sync_proxy_rules_endpoint_changes_pending",
            "Changes of EndpointSlices that are not in the maps yet",
            endpoint_changes_pending.clone(),
        );
        let endpoint_changes = Counter::default();
        registry.register(
            "sync_proxy_rules_endpoint_changes",
            "Events about EndpointSlices",
            endpoint_changes.clone(),
        );
        let service_changes_pending = Gauge::default();
        registry.register(
            "sync_proxy_rules_service_changes_pending",
            "Services whose changes are not in the maps yet",
            service_changes_pending.clone(),
        );
        let service_changes = Counter::default();
        registry.register(
            "sync_proxy_rules_service_changes",
            "Events about Services",
            service_changes.clone(),
        );
        let no_local_endpoints = Family::default();
        // A gauge of this name, as kube-proxy has it.
        registry.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports with a Local policy that have endpoints, but none on this node",
            no_local_endpoints.clone(),
        );
        let healthz = Family::default();
        registry.register("proxy_healthz", "Answers of /healthz, by code", healthz.clone());
        let livez = Family::default();
        registry.register("proxy_livez", "Answers of /livez, by code", livez.clone());
        let reconciler_deleted = PerFamily::new_with_constructor(Counter::default as fn() -> Counter);
        registry.register(
            "conntrack_reconciler_deleted_entries",
            "UDP flows removed because their endpoint serves no more",
            reconciler_deleted.clone(),
        );
        Self {
            started: SystemTime::now(),
            sync,
            full_sync,
            partial_sync,
            last_synced,
            last_queued,
            programming,
            endpoint_changes_pending,
            endpoint_changes,
            service_changes_pending,
            service_changes,
            no_local_endpoints,
            healthz,
            livez,
            reconciled,
            reconciler_deleted,
        }
    }

    /// Something is to be brought into the maps.
    pub fn queued(&self, families: &[model::Family], pending: &Pending) {
        for family in families {
            self.last_queued.get_or_create(&by(*family)).set(now());
        }
        self.endpoint_changes_pending.set(i64::try_from(pending.slices).unwrap_or(i64::MAX));
        self.service_changes_pending.set(i64::try_from(pending.services).unwrap_or(i64::MAX));
    }

    /// All that was pending is in the maps.
    pub fn applied(&self, pending: &Pending) {
        self.endpoint_changes.inc_by(pending.slice_events);
        self.service_changes.inc_by(pending.service_events);
        self.endpoint_changes_pending.set(0);
        self.service_changes_pending.set(0);
        let now = SystemTime::now();
        for (family, nanoseconds) in pending.triggers() {
            let Ok(since) = u64::try_from(nanoseconds) else { continue };
            let at = UNIX_EPOCH + Duration::from_nanos(since);
            // What came about before this process was there says how long nobody was.
            if at > self.started {
                // Clocks of the cluster differ: what lies ahead of ours has taken no time.
                let took = now.duration_since(at).unwrap_or_default();
                self.programming.get_or_create(&by(family)).observe(took.as_secs_f64());
            }
        }
    }

    /// A sync has ended, in whichever way.
    pub fn synced(&self, families: &[model::Family], sync: &Synced) {
        let took = sync.took.as_secs_f64();
        for family in families.iter().copied().map(by) {
            self.sync.get_or_create(&family).observe(took);
            let kind = if sync.is_full { &self.full_sync } else { &self.partial_sync };
            kind.get_or_create(&family).observe(took);
            if sync.has_worked {
                self.last_synced.get_or_create(&family).set(now());
            }
        }
    }

    /// Which service ports lack a local endpoint.
    pub fn lacking(&self, families: &[model::Family], lacking: &Lacking) {
        for family in families {
            for (policy, traffic_policy) in [(Policy::Internal, "internal"), (Policy::External, "external")] {
                let labels = ByPolicy { traffic_policy, ip_family: Labelled(*family) };
                let ports = i64::try_from(lacking.ports(policy, *family)).unwrap_or(i64::MAX);
                self.no_local_endpoints.get_or_create(&labels).set(ports);
            }
        }
    }

    /// A look for UDP flows to endpoints that serve no more has ended.
    pub fn reconciled(&self, families: &[model::Family], took: Duration, removed: &[(model::Family, u64)]) {
        for family in families {
            self.reconciled.get_or_create(&by(*family)).observe(took.as_secs_f64());
        }
        for (family, count) in removed {
            self.reconciler_deleted.get_or_create(&by(*family)).inc_by(*count);
        }
    }

    /// `/healthz` has given an answer.
    pub fn healthz(&self, code: u16) {
        self.healthz.get_or_create(&[("code", code_label(code))]).inc();
    }

    /// `/livez` has given an answer.
    pub fn livez(&self, code: u16) {
        self.livez.get_or_create(&[("code", code_label(code))]).inc();
    }
}

fn code_label(code: u16) -> &'static str {
    if code == 200 { "200" } else { "503" }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
