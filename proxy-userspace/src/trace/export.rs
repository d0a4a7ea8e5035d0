//! Spans on their way to a collector: OTLP over HTTP.
//!
//! OpenTelemetry's SDK queues, batches and encodes them, on a thread of its own; its queue is bounded (2048 spans, or
//! `OTEL_BSP_MAX_QUEUE_SIZE`), and what finds no room is dropped. The requests are made by the runtime that everything
//! else runs on.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use axum::body::{Body, Bytes, to_bytes};
use http::{Request, Response};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::{
    Context, KeyValue,
    trace::{
        Link, Span as _, SpanBuilder, SpanContext, TraceContextExt as _, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider, Span},
};
use tracing::{info, warn};

use super::{Journey, Steps};

/// For an answer of the collector.
const ANSWER: Duration = Duration::from_secs(5);

/// Nobody reads more of it than whether it says yes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// For what is ready, at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Where spans go, and who sends them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The collector's URL, to which `/v1/traces` is added.
    pub endpoint: String,
    /// The name of this node.
    pub node: String,
}

/// Whether a collector can be there.
///
/// # Errors
/// Why not.
pub fn check(endpoint: &str) -> Result<(), &'static str> {
    let is_plain = |url: http::Uri| url.scheme_str() == Some("http") && url.host().is_some();
    if endpoint.parse().is_ok_and(is_plain) {
        Ok(())
    } else {
        Err(
            "must be a URL that begins with http://: traces are sent without TLS, to a collector on this node or one that \
             is trusted to be reached like that",
        )
    }
}

/// Sends spans.
pub struct Exporter {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

impl Exporter {
    /// Sends to this collector, whether it is there or not. Needs a runtime around it.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(settings: &Settings) -> Result<Self> {
        let endpoint = settings.endpoint.trim_end_matches('/');
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(Sender::new())
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .build()
            .with_context(|| format!("--otlp-endpoint={endpoint:?} cannot be used"))?;
        let resource = Resource::builder()
            .with_service_name("kubeshunt")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("k8s.node.name", settings.node.clone()))
            .build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let tracer = provider.tracer("kubeshunt");
        info!(endpoint, "sending traces of changes");
        Ok(Self { provider, tracer })
    }

    /// What became of these changes in this sync.
    pub(super) fn export(&self, journeys: &[Journey], steps: &Steps, operations: usize) {
        let Some((first, others)) = journeys.split_first() else { return };
        let clock = Clock::now();
        let end = steps.done.last().map_or(steps.begin, |(_, at)| *at);
        let mut first = self.change(first, &clock);
        let mut others: Vec<Span> = others.iter().map(|journey| self.change(journey, &clock)).collect();

        let link = |span: &Span| Link::new(span.span_context().clone(), Vec::new(), 0);
        let sync = SpanBuilder::from_name("sync")
            .with_start_time(clock.at(steps.begin))
            .with_links(others.iter().map(link).collect())
            .with_attributes([
                KeyValue::new("kubeshunt.operations", count(operations)),
                KeyValue::new("kubeshunt.changes.followed", count(journeys.len())),
            ]);
        let mut sync = self.tracer.build_with_context(sync, &below(first.span_context()));
        let mut begin = steps.begin;
        for (step, at) in &steps.done {
            self.step(step, begin, *at, sync.span_context(), &clock);
            begin = *at;
        }
        for other in &mut others {
            other.add_link(sync.span_context().clone(), Vec::new());
            other.end_with_timestamp(clock.at(end));
        }
        sync.end_with_timestamp(clock.at(end));
        first.end_with_timestamp(clock.at(end));
    }

    /// A change up to the sync. It has not ended yet.
    fn change(&self, journey: &Journey, clock: &Clock) -> Span {
        let Journey { object, received, begin, end } = journey;
        let mut attributes = vec![
            KeyValue::new("kubeshunt.change", received.verb),
            KeyValue::new("k8s.object.kind", object.kind.to_string()),
        ];
        for (key, value) in [("k8s.namespace.name", &object.namespace), ("k8s.object.name", &object.name)] {
            if !value.is_empty() {
                attributes.push(KeyValue::new(key, value.to_string()));
            }
        }
        if let Some(version) = &received.version {
            attributes.push(KeyValue::new("k8s.object.resource_version", version.to_string()));
        }
        let change = SpanBuilder::from_name("change")
            .with_start_time(clock.at(received.at))
            .with_attributes(attributes);
        let change = self.tracer.build_with_context(change, &Context::new());
        self.step("queue", received.at, *begin, change.span_context(), clock);
        self.step("take in", *begin, *end, change.span_context(), clock);
        change
    }

    fn step(&self, name: &'static str, begin: Instant, end: Instant, of: &SpanContext, clock: &Clock) {
        let step = SpanBuilder::from_name(name).with_start_time(clock.at(begin));
        self.tracer.build_with_context(step, &below(of)).end_with_timestamp(clock.at(end));
    }

    /// Sends what is ready, and waits a little for it.
    pub(super) async fn finish(&self) {
        let provider = self.provider.clone();
        // It blocks until this runtime has sent the last request.
        let last = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_WORDS));
        let _ = tokio::time::timeout(LAST_WORDS, last).await;
    }
}

fn below(parent: &SpanContext) -> Context {
    Context::new().with_remote_span_context(parent.clone())
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Both clocks at one moment: all times of a trace are as far from each other as they were.
struct Clock {
    monotonic: Instant,
    wall: SystemTime,
}

impl Clock {
    fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    fn at(&self, moment: Instant) -> SystemTime {
        self.wall - self.monotonic.saturating_duration_since(moment)
    }
}

/// Makes the SDK's requests on the runtime that it was made on.
struct Sender {
    client: Client<HttpConnector, Body>,
    runtime: tokio::runtime::Handle,
    has_complained: AtomicBool,
}

impl Sender {
    fn new() -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            runtime: tokio::runtime::Handle::current(),
            has_complained: AtomicBool::new(false),
        }
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let exchange = async move {
            let request = request.map(Body::from);
            let (head, body) = client.request(request).await?.into_parts();
            let body = to_bytes(Body::new(body), LONGEST_ANSWER).await?;
            Ok(Response::from_parts(head, body))
        };
        // The timer belongs to the runtime as well.
        self.runtime.spawn(async move { tokio::time::timeout(ANSWER, exchange).await }).await??
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.send(request).await;
        let problem = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        let is_bad = problem.is_some();
        let was_bad = self.has_complained.swap(is_bad, Relaxed);
        if let Some(problem) = problem.filter(|_| !was_bad) {
            warn!(problem, "the collector does not take traces; what it does not take is dropped");
        } else if was_bad && !is_bad {
            info!("the collector takes traces again");
        }
        answer
    }
}
