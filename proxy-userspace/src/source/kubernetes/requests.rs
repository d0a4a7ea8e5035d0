//! How many requests went to the API server and what became of them, as every Kubernetes client counts it
//! (`rest_client_requests_total` in `staging/src/k8s.io/component-base/metrics/prometheus/restclient/metrics.go`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tower::{Layer, Service};

/// So many servers are counted by themselves: who may write the endpoints of `default/kubernetes` makes us ask others.
const HOSTS: usize = 32;

/// The counters; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    counters: Family<[(&'static str, String); 3], Counter>,
    hosts: Arc<Mutex<BTreeSet<String>>>,
}

impl Requests {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "rest_client_requests",
            "Requests to the API server, by what they were answered",
            self.counters.clone(),
        );
    }

    fn count(&self, code: String, method: &str, host: String) {
        let host = {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            if hosts.contains(&host) || hosts.len() < HOSTS && hosts.insert(host.clone()) {
                host
            } else {
                "other".to_owned()
            }
        };
        self.counters.get_or_create(&[("code", code), ("method", method.to_owned()), ("host", host)]).inc();
    }
}

impl<S> Layer<S> for Requests {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counting { inner, requests: self.clone() }
    }
}

/// A client whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counting<S> {
    inner: S,
    requests: Requests,
}

impl<S, Body, Answer> Service<Request<Body>> for Counting<S>
where
    S: Service<Request<Body>, Response = Response<Answer>>,
    S::Future: Send + 'static,
    S::Error: Send,
    Answer: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let requests = self.requests.clone();
        let method = request.method().clone();
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let answer = self.inner.call(request);
        let pending = Pending { requests, method, host, code: None };
        Box::pin(async move {
            let mut pending = pending;
            let result = answer.await;
            pending.code = result.as_ref().ok().map(|answer| answer.status().as_u16());
            result
        })
    }
}

/// A request that is counted when it is over, also when nobody has waited for its end.
struct Pending {
    requests: Requests,
    method: Method,
    host: String,
    code: Option<u16>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        // As client-go calls what never got an answer.
        let code = self.code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
        self.requests.count(code, self.method.as_str(), std::mem::take(&mut self.host));
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    #[tokio::test]
    async fn a_request_that_nobody_waits_for_any_more_is_counted() {
        let requests = Requests::default();
        let silent =
            service_fn(|_: Request<()>| std::future::pending::<Result<Response<()>, &'static str>>());
        let request = Request::get("https://10.0.0.1:6443/api").body(()).expect("a request");
        let answer = requests.layer(silent).oneshot(request);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(1), answer).await.is_err());
        let labels = [
            ("code", "<error>".to_owned()),
            ("method", "GET".to_owned()),
            ("host", "10.0.0.1:6443".to_owned()),
        ];
        assert_eq!(requests.counters.get_or_create(&labels).get(), 1);
    }

    #[test]
    fn hosts_beyond_some_are_counted_together() {
        let requests = Requests::default();
        for round in 0..3 {
            for host in 0..HOSTS + 9 {
                requests.count("200".to_owned(), "GET", format!("10.0.0.{host}:{round}"));
            }
        }
        let mut registry = Registry::default();
        requests.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).expect("memory takes anything");
        assert_eq!(text.matches("host=").count(), HOSTS + 1, "{text}");
        assert!(text.contains("host=\"other\"} 91"), "{text}");
    }

    #[tokio::test]
    async fn answers_and_failures_are_counted_by_host() {
        let requests = Requests::default();
        let server = service_fn(|request: Request<&'static str>| async move {
            match *request.body() {
                "dead" => Err("nobody there"),
                _ => Ok(Response::builder().status(404).body(()).expect("a response")),
            }
        });
        for body in ["dead", "gone", "gone"] {
            let request = Request::get("https://10.0.0.1:6443/api").body(body).expect("a request");
            let _ = requests.layer(server).oneshot(request).await;
        }
        let mut registry = Registry::default();
        requests.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).expect("memory takes anything");
        for line in [
            "rest_client_requests_total{code=\"404\",method=\"GET\",host=\"10.0.0.1:6443\"} 2",
            "rest_client_requests_total{code=\"<error>\",method=\"GET\",host=\"10.0.0.1:6443\"} 1",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} in {text}");
        }
    }
}
