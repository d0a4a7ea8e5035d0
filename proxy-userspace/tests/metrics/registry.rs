//! All metrics, each with a value.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proxy_common::layout::{Counter, PortRanges};
use proxy_userspace::{
    cluster::{
        Cluster, Counts,
        change::{Change, Object},
        model::{Family, ServiceName},
    },
    controller::{
        health::Hooks,
        metrics::{Metrics, kube_proxy::Synced},
    },
    datapath::flows::sweep::FlowSweep,
    plan::{Capacity, Planner},
    source::kubernetes::requests::Requests,
    tables::lacking::Lacking,
};
use serde_json::json;
use tower::{Layer as _, ServiceExt as _, service_fn};

/// No name of a Service that an API server takes; a file may hold it.
pub(crate) const NASTY: &str = "we\\b\"} 1\n# TYPE evil \u{1f980}";

/// All metrics.
pub(crate) fn full() -> Metrics {
    let requests = Requests::default();
    ask(&requests);
    let metrics = Metrics::new(&requests);
    let families = [Family::V4, Family::V6];

    let pending = changed().take_pending();
    let kube_proxy = &metrics.kube_proxy;
    kube_proxy.queued(&families, &pending);
    for is_full in [true, false] {
        kube_proxy.synced(&families, &Synced { took: Duration::from_millis(3), is_full, has_worked: true });
    }
    kube_proxy.applied(&pending);
    kube_proxy.lacking(&families, &Lacking::default());
    kube_proxy.reconciled(&families, Duration::from_millis(5), &families.map(|family| (family, 1)));
    kube_proxy.healthz(200);
    kube_proxy.livez(503);

    let tables = &metrics.tables;
    let planner = Planner::new(Capacity { frontends: 8, services: 8, backends: 8 });
    tables.synced(&planner, Counts::default(), 7, Duration::from_millis(1));
    tables.rejected();
    tables.without_room(1);
    tables.remembers(proxy_userspace::datapath::Memory::default());
    tables.failed();
    tables.aborted("UDP", 1);
    tables.event("written");
    Counter::ALL.iter().for_each(|counter| tables.decided(*counter, 1));
    let sweep = FlowSweep::default();
    metrics.flows.swept(&sweep, 8, PortRanges(0), Duration::from_millis(1));

    let hooks = &metrics.hooks;
    hooks.effective(&Hooks::Failing("just so".to_owned()));
    hooks.effective(&Hooks::Effective);
    hooks.tested("led");
    hooks.devices("pod", 1);
    hooks.devices_failing(0);
    metrics.drift.found("frontends", 2);
    metrics.drift.repaired("frontends", 1);
    metrics.drift.fault("maps", true);
    metrics.drift.passed();

    let counted = std::sync::atomic::AtomicU64::new(0);
    metrics.services.begin(10, move |_| [counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed); 7]);
    let service = ServiceName { namespace: "default".into(), name: NASTY.into() };
    metrics.services.assign([(&service, [1].as_slice())]);
    metrics
}

/// Makes a request to nobody.
fn ask(requests: &Requests) {
    let server = service_fn(async |_: http::Request<()>| Ok::<_, String>(http::Response::new(())));
    let request = http::Request::get("https://10.0.0.1:6443/api").body(()).expect("a request");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(requests.layer(server).oneshot(request)).expect("an answer");
}

/// A cluster in which slices have just changed, those of both families.
fn changed() -> Cluster {
    let soon = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock") + Duration::from_secs(1);
    let soon = jiff::Timestamp::from_second(i64::try_from(soon.as_secs()).expect("a time")).expect("a time");
    let mut cluster = Cluster::new("node");
    for (family, address) in [("IPv4", "10.0.0.1"), ("IPv6", "fd00::1")] {
        let slice = json!({
            "metadata": {
                "name": family, "namespace": "default", "labels": {"kubernetes.io/service-name": "web"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": soon.to_string()},
            },
            "addressType": family,
            "endpoints": [{"addresses": [address]}],
            "ports": [{"port": 80}],
        });
        let slice = serde_json::from_value(slice).expect("a slice");
        assert_eq!(cluster.apply(Change::Applied(Object::EndpointSlice(slice))), []);
    }
    assert_eq!(cluster.pending().triggers().count(), 2);
    cluster
}
