//! A Kubernetes API server: four watches, with the filters kube-proxy uses; and one of this node's pods for who wants it.
//!
//! Input: the API server, and files with credentials. Output: [`Change`]s. Needs the rights to list and watch
//! services, endpointslices and nodes; servicecidrs are followed where the server has them (Kubernetes
//! 1.33) and the rights are there.
//!
//! Invariants:
//! - Each kind is listed in pages and sent as one [`Change::Listed`] when the list is complete, never before; then
//!   watched from there. A watch that ends is resumed where it was; only when the server has forgotten that place
//!   (410) is the kind listed again, and until then everything known stays in force.
//! - One object that does not decode is reported and passed over.
//! - A watch's versions grow. What comes twice is passed over; what comes too late means that the watch cannot be
//!   trusted, and the kind is listed again. So it is when the server is behind what it has said, as one restored from a
//!   backup: after every failure that is asked before the watch is resumed.
//! - When the server is away, it is tried again after 50 ms at first and 900 ms at most, with jitter, or another one at
//!   once if there are several; but not before it wants to be asked (`Retry-After`). The loss and the return, or the
//!   change of server, are logged once each.
//! - A connection that silently died is noticed: by TCP within eleven seconds, and at the latest when the server
//!   should have ended the watch.
//! - What a server says has an end: an answer, a list, an event, all pages together. One that goes on beyond is given up.
//! - Credentials may be replaced on disk at any time; see `access`.

mod access;
mod backoff;
mod failure;
mod outage;
mod page;
mod patience;
pub mod requests;
mod version;
mod watch;

use std::sync::Arc;

pub(crate) use self::access::Cause;
pub use self::access::{
    Access, AccessError, AccessSettings, Dial, Network, Stream, check_kubeconfig, check_server,
};
use self::outage::Outage;
use self::patience::Patience;
use self::watch::{Subject, Watch};
use super::Outlet;
use crate::cluster::change::Kind;

/// The source. See the module's documentation.
#[derive(Debug)]
pub struct Kubernetes {
    access: Arc<Access>,
    node_name: String,
    follows_pods: bool,
    patience: Patience,
}

impl Kubernetes {
    /// A source that sees what concerns the node of that name.
    #[must_use]
    pub fn new(access: Arc<Access>, node_name: &str) -> Self {
        Self {
            access,
            node_name: node_name.trim().to_lowercase(),
            follows_pods: false,
            patience: Patience::default(),
        }
    }

    /// Access to the server that it follows.
    #[must_use]
    pub fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access)
    }

    /// The same with this node's pods.
    #[must_use]
    pub fn following_pods(self, follows_pods: bool) -> Self {
        Self { follows_pods, ..self }
    }

    /// Sends the lists, then what changes, until nobody reads any more. A server that does not answer, or refuses, is
    /// tried again, or another one.
    pub async fn run(self, changes: impl Into<Outlet>) {
        let changes = changes.into();
        let access = &*self.access;
        let outage = Outage::default();
        let watch =
            |subject: Subject| Watch::new(subject, access, &outage, self.patience, changes.clone()).run();
        tokio::select! {
            ((), (), (), (), ()) = futures::future::join5(
                watch(Subject {
                    kind: Kind::Service,
                    path: "/api/v1/services",
                    labels: Some("!service.kubernetes.io/service-proxy-name"),
                    fields: Some("spec.clusterIP!=None".to_owned()),
                    without: None,
                }),
                watch(Subject {
                    kind: Kind::EndpointSlice,
                    path: "/apis/discovery.k8s.io/v1/endpointslices",
                    labels: Some("!service.kubernetes.io/headless"),
                    fields: None,
                    without: None,
                }),
                watch(Subject {
                    kind: Kind::Node,
                    path: "/api/v1/nodes",
                    labels: None,
                    fields: Some(format!("metadata.name={}", self.node_name)),
                    without: None,
                }),
                watch(Subject {
                    kind: Kind::ServiceCidr,
                    path: "/apis/networking.k8s.io/v1/servicecidrs",
                    labels: None,
                    fields: None,
                    without: Some("of ranges of cluster IPs only those in --service-cidr are known"),
                }),
                async {
                    if !self.follows_pods {
                        return;
                    }
                    let pods = Subject {
                        kind: Kind::Pod,
                        path: "/api/v1/pods",
                        labels: None,
                        fields: Some(format!("spec.nodeName={}", self.node_name)),
                        without: Some("no pod's sockets are left alone"),
                    };
                    watch(pods).await;
                },
            ) => {}
            () = access.attend() => {}
            () = changes.closed() => {}
        }
    }
}

#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod fake_server;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

/// What reads lines and pages, for tests of all readers.
#[cfg(test)]
pub(super) mod fuzzed {
    use super::page::{self, Event};
    use crate::cluster::change::{Change, Kind, Object};

    pub(in super::super) fn event(kind: Kind, line: &str) -> Option<Change> {
        match page::event(kind, line).ok()? {
            Event::Change(change, _) => Some(change),
            _ => None,
        }
    }

    pub(in super::super) fn page(kind: Kind, text: &str) -> Option<Vec<Object>> {
        Some(page::page(kind, text).ok()?.objects)
    }
}
