//! What has been said of Services and slices and is not in the maps yet: for metrics that kube-proxy has as well
//! (`pkg/proxy/servicechangetracker.go`, `pkg/proxy/endpointschangetracker.go`).

use std::collections::BTreeMap;

use super::model::{Family, ServiceName};

/// So many times of a Service are kept until they are carried out, which may be long if the kernel takes no writes.
const TIMES: usize = 100;

/// Changes since they were last carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// What was said of Services, whether or not it changed anything.
    pub service_events: u64,
    /// The same of slices.
    pub slice_events: u64,
    /// How many Services are other than they were.
    pub services: u64,
    /// How many times a slice has become another one.
    pub slices: u64,
    triggers: BTreeMap<(ServiceName, Family), Vec<i64>>,
}

impl Pending {
    pub(super) fn service(&mut self) {
        self.service_events += 1;
    }

    /// A Service is other than it was, for the first time.
    pub(super) fn service_changed(&mut self) {
        self.services += 1;
    }

    pub(super) fn slice_unchanged(&mut self) {
        self.slice_events += 1;
    }

    pub(super) fn slice(&mut self, service: &ServiceName, family: Family, triggered: Option<i64>) {
        self.slice_events += 1;
        self.slices += 1;
        if let Some(at) = triggered {
            let times = self.triggers.entry((service.clone(), family)).or_default();
            if times.len() < TIMES {
                times.push(at);
            }
        }
    }

    /// What a slice that is gone says of time is when it was last written, and nothing about its end. Like kube-proxy, we
    /// forget what other slices of the Service have said as well.
    pub(super) fn slice_gone(&mut self, service: &ServiceName, family: Family) {
        self.slice_events += 1;
        self.slices += 1;
        self.triggers.remove(&(service.clone(), family));
    }

    /// When that came about which is to be carried out, in nanoseconds since 1970, by family.
    pub fn triggers(&self) -> impl Iterator<Item = (Family, i64)> {
        self.triggers.iter().flat_map(|((_, family), times)| times.iter().map(|at| (*family, *at)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::cluster::{
        Cluster,
        change::{Change, Kind, Object, ObjectRef},
    };

    fn service(cluster: &mut Cluster, ip: &str) {
        let object = json!({"metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
        let object = serde_json::from_value(object).expect("a Service");
        assert_eq!(cluster.apply(Change::Applied(Object::Service(object))), []);
    }

    fn slice(cluster: &mut Cluster, name: &str, address: &str, at: &str) {
        let object = json!({
            "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "web"},
                "annotations": {"other": "x", "endpoints.kubernetes.io/last-change-trigger-time": at}},
            "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": [{"port": 80}]});
        let object = serde_json::from_value(object).expect("a slice");
        assert_eq!(cluster.apply(Change::Applied(Object::EndpointSlice(object))), []);
    }

    #[test]
    fn events_count_each_time_and_changed_services_once() {
        let mut cluster = Cluster::new("node");
        ["10.0.0.1", "10.0.0.1", "10.0.0.2"].iter().for_each(|ip| service(&mut cluster, ip));
        let pending = cluster.take_pending();
        assert_eq!((pending.service_events, pending.services), (3, 1));
        service(&mut cluster, "10.0.0.2");
        assert_eq!((cluster.pending().service_events, cluster.pending().services), (1, 0));
        service(&mut cluster, "10.0.0.3");
        assert_eq!((cluster.pending().service_events, cluster.pending().services), (2, 1));
    }

    #[test]
    fn what_triggered_a_change_is_kept_until_a_slice_goes() {
        let mut cluster = Cluster::new("node");
        slice(&mut cluster, "a", "10.0.0.1", "1970-01-01T00:00:01.5Z");
        slice(&mut cluster, "b", "10.0.0.2", "no time");
        slice(&mut cluster, "a", "10.0.0.1", "1970-01-01T00:00:07Z");
        let pending = cluster.pending();
        assert_eq!(pending.triggers().map(|(_, at)| at).collect::<Vec<_>>(), [1_500_000_000]);
        assert_eq!((pending.slice_events, pending.slices), (3, 2), "one of them changed nothing");
        slice(&mut cluster, "a", "10.0.0.3", "1970-01-01T00:00:08Z");
        assert_eq!(cluster.pending().triggers().count(), 2);
        cluster.apply(Change::Deleted(ObjectRef::new(Kind::EndpointSlice, "default", "b")));
        assert_eq!(cluster.pending().triggers().count(), 0);
    }

    #[test]
    fn what_waits_has_an_end() {
        let mut cluster = Cluster::new("node");
        for number in 0..super::TIMES + 50 {
            slice(&mut cluster, "a", &format!("10.0.0.{number}"), "1970-01-01T00:00:07Z");
        }
        assert_eq!(cluster.pending().triggers().count(), super::TIMES);
    }
}
