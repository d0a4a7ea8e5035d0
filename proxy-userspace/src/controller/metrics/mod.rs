//! Metrics: kube-proxy's, under its names, and ours. `docs/metrics.md` says what each of them means.
//!
//! - [`kube_proxy`]: what kube-proxy's dashboards know;
//! - [`tables`]: what came in and what was written;
//! - [`flows`]: what the packet path remembers;
//! - [`hooks`]: what is attached, and whether it is in force;
//! - [`drift`]: what somebody else has done to all that;
//! - [`services`]: what became of connections, Service by Service;
//! - [`process`]: this process and this build.

pub mod drift;
pub mod flows;
pub mod hooks;
pub mod kube_proxy;
pub mod process;
pub mod services;
pub mod tables;

use prometheus_client::{encoding::text::encode, registry::Registry};

use crate::source::kubernetes::requests::Requests;

/// One label.
pub type Labels = [(&'static str, &'static str); 1];

/// All metrics.
pub struct Metrics {
    registry: Registry,
    /// Under kube-proxy's names.
    pub kube_proxy: kube_proxy::KubeProxy,
    /// What came in and what was written.
    pub tables: tables::Tables,
    /// What the packet path remembers.
    pub flows: flows::FlowMetrics,
    /// What is attached.
    pub hooks: hooks::Attachments,
    /// What somebody else has done.
    pub drift: drift::Drift,
    /// What became of connections, Service by Service.
    pub services: services::Services,
}

impl Metrics {
    /// Nothing counted.
    #[must_use]
    pub fn new(requests: &Requests) -> Self {
        let mut registry = Registry::default();
        let kube_proxy = kube_proxy::KubeProxy::new(registry.sub_registry_with_prefix("kubeproxy"));
        requests.register(&mut registry);
        process::register(&mut registry);
        let own = registry.sub_registry_with_prefix("kubeshunt");
        let tables = tables::Tables::new(own);
        let flows = flows::FlowMetrics::new(own, tables.map_entries.clone(), tables.map_capacity.clone());
        let hooks = hooks::Attachments::new(own);
        let drift = drift::Drift::new(own);
        let services = services::Services::default();
        own.register_collector(Box::new(services.clone()));
        Self { registry, kube_proxy, tables, flows, hooks, drift, services }
    }

    /// We have made a connection of our own, which the programs have counted for this id: it is not to be seen.
    pub fn tried_out(&self, id: u32) {
        self.services.forgive(id);
        self.tables.forgive_one();
    }

    /// All of them in the OpenMetrics text format.
    #[must_use]
    pub fn open_metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
