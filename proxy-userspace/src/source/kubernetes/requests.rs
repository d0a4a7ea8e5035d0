//! How many requests went to the API server and what became of them, as every Kubernetes client counts it
//! (`rest_client_requests_total` in `staging/src/k8s.io/component-base/metrics/prometheus/restclient/metrics.go`).

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Request, Response};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tower::{Layer, Service};

/// The counters; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Requests(Family<[(&'static str, String); 3], Counter>);

impl Requests {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "rest_client_requests",
            "Requests to the API server, by what they were answered",
            self.0.clone(),
        );
    }

    fn count(&self, code: String, method: &str, host: String) {
        self.0.get_or_create(&[("code", code), ("method", method.to_owned()), ("host", host)]).inc();
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
        Box::pin(async move {
            let result = answer.await;
            // As client-go calls what never got an answer.
            let code = match &result {
                Ok(answer) => answer.status().as_u16().to_string(),
                Err(_) => "<error>".to_owned(),
            };
            requests.count(code, method.as_str(), host);
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use tower::{ServiceExt as _, service_fn};

    use super::*;

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
