//! The API server: lists in pages, watches, credentials, as far as the source knows of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::node::NODE;
use crate::store::{Kind, Moment, Store};
use crate::watching::Watching;
use crate::weather::{Fault, Weather, lock};

pub(crate) struct Server {
    pub(crate) store: Mutex<Store>,
    pub(crate) weather: Weather,
    /// The token that is taken.
    pub(crate) token: Mutex<String>,
    /// Watches look again.
    pub(crate) changed: watch::Sender<()>,
    /// When those may come back who were told to wait, by what they ask for.
    waits: Mutex<HashMap<String, Instant>>,
    /// What was asked for before its time.
    pub(crate) impatient: Mutex<Option<String>>,
}

impl Server {
    pub(crate) fn new(store: Store, weather: Weather, token: &str) -> Arc<Self> {
        Arc::new(Self {
            store: Mutex::new(store),
            weather,
            token: Mutex::new(token.to_owned()),
            changed: watch::Sender::new(()),
            waits: Mutex::default(),
            impatient: Mutex::default(),
        })
    }

    /// When the last one who was told to wait may come back.
    pub(crate) fn come_back(&self) -> Option<Instant> {
        lock(&self.waits).values().max().copied()
    }

    fn list(&self, kind: Option<Kind>, query: &HashMap<&str, &str>) -> Response {
        let store = lock(&self.store);
        let (index, from) = match query.get("continue").map(|token| place(token, &store)) {
            None => (store.moments.len() - 1, 0),
            Some(Some(place)) if !self.weather.is(Fault::Gone, kind) => place,
            Some(_) => return failed(410, "the list cannot be gone on with"),
        };
        let moment = &store.moments[index];
        let items = objects(kind, moment);
        // A server may give less than it is asked for.
        let most = match query.get("limit").and_then(|limit| limit.parse::<usize>().ok()) {
            Some(limit) => limit.min(self.weather.dice(|rng| rng.usize(2..=4))),
            None => items.len(),
        };
        let until = (from + most).min(items.len());
        let next = (until < items.len()).then(|| format!("{}.{index}.{until}", store.restored));
        let metadata = json!({"resourceVersion": moment.revision.to_string(), "continue": next});
        answered(200, &json!({"kind": "List", "metadata": metadata, "items": items[from..until]}))
    }

    fn watch(self: &Arc<Self>, kind: Option<Kind>, query: &HashMap<&str, &str>) -> Response {
        let number = |name: &str| query.get(name).and_then(|text| text.parse::<u64>().ok());
        let (Some(version), Some(seconds)) = (number("resourceVersion"), number("timeoutSeconds")) else {
            return failed(400, "a watch has a version and a time");
        };
        let is_forgotten = version < lock(&self.store).compacted || self.weather.is(Fault::Gone, kind);
        if is_forgotten && self.weather.dice(fastrand::Rng::bool) {
            return failed(410, "too old resource version");
        }
        let watching = Watching::new(self, kind, version, Duration::from_secs(seconds), is_forgotten);
        Response::new(Body::from_stream(watching.into_stream()))
    }
}

/// Answers a request.
pub(crate) async fn answer(State(server): State<Arc<Server>>, request: Request) -> Response {
    let kind = match request.uri().path() {
        "/api/v1/services" => Some(Kind::Service),
        "/apis/discovery.k8s.io/v1/endpointslices" => Some(Kind::Slice),
        "/api/v1/nodes" | "/apis/networking.k8s.io/v1/servicecidrs" => None,
        other => panic!("{other} is asked for"),
    };
    let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let weather = &server.weather;
    if token != Some(&*format!("Bearer {}", lock(&server.token))) {
        weather.acted(Fault::Expired);
        return failed(401, "Unauthorized");
    }
    let path = request.uri().path();
    if lock(&server.waits).get(path).is_some_and(|until| Instant::now() < *until) {
        *lock(&server.impatient) = Some(path.to_owned());
    }
    let wrong = weather.now(kind, |fault| match fault {
        Fault::Errors(code) => Some((fault, failed(code, "something is wrong"))),
        Fault::TooMany(after) => {
            let mut answer = failed(429, "too many requests");
            if let Some(seconds) = after {
                answer.headers_mut().insert(RETRY_AFTER, u16::from(seconds).into());
                let until = Instant::now() + Duration::from_secs(seconds.into());
                lock(&server.waits).insert(path.to_owned(), until);
            }
            Some((fault, answer))
        }
        Fault::Nonsense => {
            let texts =
                ["{}", "<html>a proxy</html>", "", r#"{"kind":"Status","status":"Success","metadata":{}}"#];
            let text = weather.dice(|rng| texts[rng.usize(..texts.len())]);
            Some((fault, Response::new(Body::from(text))))
        }
        _ => None,
    });
    if let Some(((fault, answer), _)) = wrong {
        weather.acted(fault);
        return answer;
    }
    let query = request.uri().query().unwrap_or_default();
    let query: HashMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    if query.contains_key("watch") { server.watch(kind, &query) } else { server.list(kind, &query) }
}

/// Where a list goes on; nothing if that has been forgotten.
fn place(token: &str, store: &Store) -> Option<(usize, usize)> {
    let numbers: Vec<usize> = token.split('.').filter_map(|number| number.parse().ok()).collect();
    let [restored, index, from] = numbers[..] else { return None };
    let is_there = restored == store.restored as usize && store.moments[index].revision >= store.compacted;
    is_there.then_some((index, from))
}

fn objects(kind: Option<Kind>, moment: &Moment) -> Vec<Value> {
    match kind {
        Some(kind) => moment.objects(kind),
        // Whoever asks for ranges finds a node, which says nothing about them.
        None => vec![json!({"kind": "Node", "metadata": {"name": NODE, "resourceVersion": "1"}})],
    }
}

fn answered(code: u16, body: &Value) -> Response {
    let mut answer = Response::new(Body::from(body.to_string()));
    *answer.status_mut() = axum::http::StatusCode::from_u16(code).expect("a status");
    answer
}

pub(crate) fn status(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message})
}

fn failed(code: u16, message: &str) -> Response {
    answered(code, &status(code, message))
}
