//! What has been said of Services and slices and is not in the maps yet: for metrics that kube-proxy has as well
//! (`pkg/proxy/servicechangetracker.go`, `pkg/proxy/endpointschangetracker.go`).

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Family, ServiceName};

/// Changes since they were last carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// What was said of Services, whether or not it changed anything.
    pub service_events: u64,
    /// The same of slices.
    pub slice_events: u64,
    /// Services that are other than they were.
    pub services: BTreeSet<ServiceName>,
    /// How many times a slice has become another one.
    pub slices: u64,
    triggers: BTreeMap<(ServiceName, Family), Vec<i64>>,
}

impl Pending {
    pub(super) fn service(&mut self, name: &ServiceName, is_changed: bool) {
        self.service_events += 1;
        if is_changed {
            self.services.insert(name.clone());
        }
    }

    pub(super) fn slice_unchanged(&mut self) {
        self.slice_events += 1;
    }

    pub(super) fn slice(&mut self, service: &ServiceName, family: Family, triggered: Option<i64>) {
        self.slice_events += 1;
        self.slices += 1;
        if let Some(at) = triggered {
            self.triggers.entry((service.clone(), family)).or_default().push(at);
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
