//! Kubernetes events: what a person should find with `kubectl describe` or `kubectl events`.
//!
//! A [`Recorder`] is asked from anywhere and never waits: its queue is bounded, and what finds no room is dropped and
//! counted. [`writer`] sends what is queued to the API server at a pace of its own; [`known`] sees to it that what
//! lasts, or comes again and again, is written once an hour.
//!
//! Of kube-proxy's events those that mean something here are sent as kube-proxy sends them
//! (`cmd/kube-proxy/app/server.go` and `pkg/proxy/healthcheck/service_health.go`, v1.36): same reason, action, type and
//! object. Beyond, a Service of which something is not served gets a Warning. Every node would say the same of it: such an
//! event has the same name on all of them, so that the first one writes it and the others find it written.

mod known;
pub mod writer;

use serde::Serialize;
use tokio::sync::mpsc::{self, Receiver, Sender, error::TrySendError};
use tracing::debug;

use crate::{
    cluster::{change::Kind, model::ServiceName, reject::Reject},
    plan::Problem,
};

/// Events that may wait to be written; beyond, they are dropped.
const QUEUE: usize = 128;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// How bad it is.
    pub severity: Severity,
    /// Why, in a word for machines.
    pub reason: &'static str,
    /// What was being done, in a word for machines.
    pub action: &'static str,
    /// What it is about.
    pub regarding: Regarding,
    /// Whether every node of the cluster has the same to say.
    pub is_everywhere: bool,
    /// For people.
    pub note: String,
}

/// How bad an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Somebody should do something.
    Warning,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Regarding {
    /// This node.
    Node,
    /// A Service.
    Service(ServiceName),
}

impl Event {
    /// This process begins to serve.
    #[must_use]
    pub fn starting() -> Self {
        let note = concat!("kubeshunt ", env!("CARGO_PKG_VERSION"), " begins to serve Services").to_owned();
        Self { severity: Severity::Normal, ..Self::of_node("Starting", note) }
    }

    /// The health server cannot have its address, and this is to be fatal.
    #[must_use]
    pub fn no_health_server(problem: String) -> Self {
        Self::of_node("FailedToStartProxierHealthcheck", problem)
    }

    /// The metrics server cannot have its address, and this is to be fatal.
    #[must_use]
    pub fn no_metrics_server(problem: String) -> Self {
        Self::of_node("FailedToStartMetricServer", problem)
    }

    /// Somebody else has written to the maps, or removed pins.
    #[must_use]
    pub fn drifted(what: String) -> Self {
        Self { action: "Audit", ..Self::of_node("DriftFound", what) }
    }

    /// Load balancers that ask for a Service's health get no answer.
    #[must_use]
    pub fn no_health_of_service(service: &ServiceName, note: String) -> Self {
        Self {
            action: "Listen",
            is_everywhere: false,
            ..Self::of_service("FailedToStartServiceHealthcheck", service, note)
        }
    }

    /// Something of a Service was not taken over; nothing for other objects.
    #[must_use]
    pub fn of_reject(reject: &Reject) -> Option<Self> {
        let object = &reject.object;
        if object.kind != Kind::Service || object.name.is_empty() {
            return None;
        }
        let service = ServiceName { namespace: object.namespace.clone(), name: object.name.clone() };
        // The object is named by the event itself.
        let whole = reject.to_string();
        let note = whole.strip_prefix(&format!("{object}: ")).unwrap_or(&whole);
        Some(Self::of_service("Rejected", &service, note.to_owned()))
    }

    /// Something of a Service that the maps do not say.
    #[must_use]
    pub fn of_problem(problem: &Problem) -> Self {
        let reason = match problem {
            Problem::Contested { .. } => "AddressInUse",
            Problem::TooManyEndpoints { .. } => "TooManyEndpoints",
            Problem::NoFrontend { .. }
            | Problem::NoService { .. }
            | Problem::NoSource { .. }
            | Problem::NoBackends { .. } => "NoRoom",
        };
        Self::of_service(reason, &problem.port().service, problem.to_string())
    }

    fn of_node(reason: &'static str, note: String) -> Self {
        let (severity, regarding) = (Severity::Warning, Regarding::Node);
        Self { severity, reason, action: "StartKubeProxy", regarding, is_everywhere: false, note }
    }

    fn of_service(reason: &'static str, service: &ServiceName, note: String) -> Self {
        let (severity, regarding) = (Severity::Warning, Regarding::Service(service.clone()));
        Self { severity, reason, action: "Serve", regarding, is_everywhere: true, note }
    }
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The API server has it.
    Written,
    /// It has been said already.
    Repeated,
    /// There was no room, or no server for too long.
    Dropped,
    /// We may not write it.
    Forbidden,
}

impl Outcome {
    /// In a metric.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Repeated => "repeated",
            Self::Dropped => "dropped",
            Self::Forbidden => "forbidden",
        }
    }
}

/// Counts outcomes.
pub type Count = std::sync::Arc<dyn Fn(Outcome) + Send + Sync>;

/// Takes events from anywhere, without ever waiting. Clones write to the same queue.
#[derive(Clone)]
pub struct Recorder {
    queue: Option<Sender<Event>>,
    count: Count,
}

impl Recorder {
    /// A recorder, and the events recorded, for [`writer`].
    #[must_use]
    pub fn new(count: Count) -> (Self, Receiver<Event>) {
        let (queue, events) = mpsc::channel(QUEUE);
        (Self { queue: Some(queue), count }, events)
    }

    /// One that forgets everything.
    #[must_use]
    pub fn none() -> Self {
        Self { queue: None, count: std::sync::Arc::new(|_| ()) }
    }

    /// Records an event, if it is one; it is made only if there is room.
    pub fn record(&self, event: impl FnOnce() -> Option<Event>) {
        let Some(queue) = &self.queue else { return };
        if queue.capacity() == 0 {
            (self.count)(Outcome::Dropped);
            return;
        }
        let Some(event) = event() else { return };
        match queue.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(event) | TrySendError::Closed(event)) => {
                debug!(reason = event.reason, "an event is dropped");
                (self.count)(Outcome::Dropped);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use super::*;
    use crate::cluster::{change::ObjectRef, reject};

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let dropped = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&dropped);
        let count: Count = Arc::new(move |outcome| {
            assert_eq!(outcome, Outcome::Dropped);
            counted.fetch_add(1, Relaxed);
        });
        let (recorder, events) = Recorder::new(count);
        for _ in 0..QUEUE + 7 {
            recorder.record(|| Some(Event::starting()));
        }
        assert_eq!((events.len(), dropped.load(Relaxed)), (QUEUE, 7));
    }

    #[test]
    fn a_reject_of_a_service_names_the_field_and_not_the_service_again() {
        let reject = |kind| Reject {
            object: ObjectRef::new(kind, "shop", "web"),
            field: "spec.ports[1].port".to_owned(),
            problem: reject::Problem::InvalidPort(Some(0)),
        };
        let event = Event::of_reject(&reject(Kind::Service)).expect("a Service");
        assert_eq!(
            event.regarding,
            Regarding::Service(ServiceName { namespace: "shop".into(), name: "web".into() })
        );
        assert_eq!(
            event.note,
            "spec.ports[1].port: 0 is not a port number (1 to 65535); the port is left out"
        );
        assert_eq!(Event::of_reject(&reject(Kind::EndpointSlice)), None);
    }
}
