//! Events on their way to the API server.
//!
//! Input: what recorders have queued. Output: objects of `events.k8s.io/v1`, at a pace of its own. A server
//! that is away is tried again for ten minutes, meanwhile the queue fills up. Where the right is lacking that is said
//! once, and not asked for again within ten minutes.

use std::{sync::Arc, time::Duration};

use http::Request;
use kube::Client;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep},
};
use tracing::{debug, warn};

use super::{Count, Event, Outcome, Regarding, known::Known};
use crate::{
    bucket::Bucket,
    cluster::model::ServiceName,
    source::kubernetes::{Access, Cause},
};

/// So many may be written in a row...
const BURST: u32 = 25;
/// ...and one more each time this has passed.
const REFILL: Duration = Duration::from_secs(10);

/// For an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// An event is given up when it could not be written for so long.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// Who was told that it may not write does not ask again before.
const FORBIDDEN: Duration = Duration::from_secs(10 * 60);

/// Between two attempts, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Within this time the nodes of a cluster say what all of them have to say, so that one of them is the first.
const SPREAD: Duration = Duration::from_secs(5);

/// The longest note that an API server takes (`pkg/apis/core/validation/events.go`).
const LONGEST_NOTE: usize = 1024;

/// Where events of what has no namespace go.
const NAMESPACE_OF_NODES: &str = "default";

/// Who reports.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// `reportingController`: what the binary is called.
    pub controller: String,
    /// The name of this node.
    pub node: String,
}

/// Writes events until nobody can record any more.
pub async fn run(mut events: Receiver<Event>, access: Arc<Access>, reporter: Reporter, count: Count) {
    let mut known = Known::default();
    let mut pace = Bucket::full(BURST, REFILL, Instant::now().into_std());
    let mut writer = Writer { access, reporter, may_ask_from: Instant::now(), has_complained: false };
    loop {
        let is_idle = events.is_empty();
        let Some(event) = events.recv().await else { return };
        if !known.is_new(&event, Instant::now()) {
            count(Outcome::Repeated);
            continue;
        }
        if is_idle && event.is_everywhere {
            sleep(SPREAD.mul_f64(fastrand::f64())).await;
        }
        sleep(pace.take(Instant::now().into_std())).await;
        let outcome = writer.deliver(&event).await;
        if matches!(outcome, Outcome::Dropped | Outcome::Forbidden) {
            known.forget(&event);
        }
        count(outcome);
    }
}

struct Writer {
    access: Arc<Access>,
    reporter: Reporter,
    may_ask_from: Instant,
    has_complained: bool,
}

/// How an attempt ended.
enum Attempt {
    Done(Outcome),
    Failed(String),
}

impl Writer {
    async fn deliver(&mut self, event: &Event) -> Outcome {
        let begin = Instant::now();
        if begin < self.may_ask_from {
            return Outcome::Forbidden;
        }
        let mut pause = PAUSES.0;
        loop {
            match self.attempt(event).await {
                Attempt::Done(outcome) => return outcome,
                Attempt::Failed(problem) => {
                    debug!(reason = event.reason, problem, "an event could not be written");
                    if begin.elapsed() + pause > PATIENCE {
                        return Outcome::Dropped;
                    }
                    sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    async fn attempt(&mut self, event: &Event) -> Attempt {
        let uid = match &event.regarding {
            Regarding::Node => None,
            Regarding::Service(service) => match self.uid(service).await {
                Ok(uid) => uid,
                // Nobody can look for what is said of it any more.
                Err(NoService) => return Attempt::Done(Outcome::Dropped),
            },
        };
        let request = match request(event, &self.reporter, uid) {
            Ok(request) => request,
            Err(error) => {
                debug!(%error, "an event makes no request");
                return Attempt::Done(Outcome::Dropped);
            }
        };
        let ask = |client: Client| async move { client.request_text(request).await };
        let cause = match self.access.ask_in_passing(ANSWER, ask).await {
            Ok(_) => return Attempt::Done(Outcome::Written),
            Err(cause) => cause,
        };
        let Cause::Answer(kube::Error::Api(status)) = &cause else {
            return Attempt::Failed(cause.to_string());
        };
        match status.code {
            // An earlier start has said it, or another node.
            409 => Attempt::Done(Outcome::Repeated),
            // What authorization says (`apiserver/pkg/endpoints/handlers/responsewriters/errors.go`). Quotas and admission
            // say no with 403, too: of this one object.
            403 if status.message.contains("cannot create resource") => {
                self.may_ask_from = Instant::now() + FORBIDDEN;
                if !self.has_complained {
                    self.has_complained = true;
                    warn!(
                        problem = status.message,
                        "Kubernetes events cannot be written, going on without them (are the RBAC rules in place? \
                         --events=off does without)"
                    );
                }
                Attempt::Done(Outcome::Forbidden)
            }
            400..=428 | 430..=499 if status.code != 401 => {
                debug!(
                    reason = event.reason,
                    problem = status.message,
                    "the API server does not take an event"
                );
                Attempt::Done(Outcome::Dropped)
            }
            _ => Attempt::Failed(cause.to_string()),
        }
    }

    /// `kubectl describe` looks for events of an object by its uid, too, and a Service's is not held in memory. Asked for
    /// by a list, which needs no other right than the one there is.
    async fn uid(&self, service: &ServiceName) -> Result<Option<String>, NoService> {
        let path = format!(
            "/api/v1/namespaces/{}/services?fieldSelector=metadata.name%3D{}",
            service.namespace, service.name
        );
        let Ok(request) = Request::get(path).body(Vec::new()) else { return Ok(None) };
        let ask = |client: Client| async move { client.request::<Value>(request).await };
        match self.access.ask_in_passing(ANSWER, ask).await {
            Ok(list) => match list["items"].as_array().and_then(|items| items.first()) {
                Some(item) => Ok(item["metadata"]["uid"].as_str().map(str::to_owned)),
                None => Err(NoService),
            },
            Err(_) => Ok(None),
        }
    }
}

/// There is no such Service.
struct NoService;

/// The request that makes the object.
fn request(event: &Event, reporter: &Reporter, uid: Option<String>) -> Result<Request<Vec<u8>>, http::Error> {
    let Reporter { controller, node } = reporter;
    let (mut regarding, namespace) = match &event.regarding {
        Regarding::Node => (json!({"apiVersion": "v1", "kind": "Node", "name": node}), NAMESPACE_OF_NODES),
        Regarding::Service(ServiceName { namespace, name }) => (
            json!({"apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": name}),
            &**namespace,
        ),
    };
    if let Some(uid) = uid {
        regarding["uid"] = uid.into();
    }
    let object = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name(event, reporter), "namespace": namespace},
        "eventTime": now(),
        "reportingController": controller,
        "reportingInstance": truncated(&format!("{controller}-{node}"), 128),
        "action": event.action,
        "reason": event.reason,
        "type": event.severity,
        "regarding": regarding,
        "note": truncated(&event.note, LONGEST_NOTE),
    });
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let request = Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
    request.body(object.to_string().into_bytes())
}

/// The object's name. What every node would say has one name; a start is another one each time; and what a node says
/// again after a restart has the name it had.
fn name(event: &Event, reporter: &Reporter) -> String {
    let (object, mut hash) = match &event.regarding {
        Regarding::Node => (&*reporter.node, Fnv::default()),
        Regarding::Service(service) => (&*service.name, Fnv::default()),
    };
    hash.add(event.reason);
    hash.add(&event.note);
    if !event.is_everywhere {
        hash.add(&reporter.node);
    }
    if event.regarding == Regarding::Node {
        hash.add(&std::process::id().to_string());
        hash.add(&jiff::Timestamp::now().as_nanosecond().to_string());
    }
    // Names have an end, too (253), and a Service's is much shorter.
    format!("{}.{:016x}", truncated(object, 200), hash.0)
}

/// Fowler, Noll and Vo's hash, 1a, of 64 bits: the same in every build.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, text: &str) {
        // 0 ends a text: no two lists of texts look the same.
        for byte in text.bytes().chain([0]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn now() -> String {
    // As Kubernetes writes a MicroTime.
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn truncated(text: &str, length: usize) -> &str {
    &text[..text.floor_char_boundary(length)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reporter(node: &str) -> Reporter {
        Reporter { controller: "kube-proxy".to_owned(), node: node.to_owned() }
    }

    fn web() -> ServiceName {
        ServiceName { namespace: "shop".into(), name: "web".into() }
    }

    fn body(request: &Request<Vec<u8>>) -> Value {
        serde_json::from_slice(request.body()).expect("JSON")
    }

    #[test]
    fn a_start_looks_as_kube_proxys_does() {
        let request = request(&Event::starting(), &reporter("node-a"), None).expect("a request");
        assert_eq!(request.uri().path(), "/apis/events.k8s.io/v1/namespaces/default/events");
        let event = body(&request);
        assert_eq!(event["regarding"], json!({"apiVersion": "v1", "kind": "Node", "name": "node-a"}));
        assert_eq!(
            ["reason", "action", "type", "reportingController", "reportingInstance"]
                .map(|field| &event[field]),
            ["Starting", "StartKubeProxy", "Normal", "kube-proxy", "kube-proxy-node-a"]
        );
        let time = event["eventTime"].as_str().expect("a time");
        assert!(time.len() == "2026-01-01T00:00:00.000000Z".len() && time.ends_with('Z'), "{time}");
    }

    #[test]
    fn names_are_shared_by_what_every_node_says() {
        let mut everywhere = Event::no_health_of_service(&web(), "taken".to_owned());
        let of = |event: &Event, node| name(event, &reporter(node));
        assert_ne!(of(&everywhere, "node-a"), of(&everywhere, "node-b"));
        assert_eq!(of(&everywhere, "node-a"), of(&everywhere, "node-a"));
        everywhere.is_everywhere = true;
        assert_eq!(of(&everywhere, "node-a"), of(&everywhere, "node-b"));
        assert!(of(&everywhere, "node-a").starts_with("web."));
        let start = Event::starting();
        assert_ne!(of(&start, "node-a"), of(&start, "node-a"), "each start is one");
    }

    #[test]
    fn notes_have_an_end() {
        let event = Event::no_health_of_service(&web(), "é".repeat(2000));
        let request = request(&event, &reporter("node-a"), Some("uid".to_owned())).expect("a request");
        let note = body(&request)["note"].as_str().expect("a note").len();
        assert!(note <= LONGEST_NOTE && note > LONGEST_NOTE - 2, "{note}");
        assert_eq!(body(&request)["regarding"]["uid"], "uid");
    }
}
