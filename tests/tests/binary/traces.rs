//! Traces of changes, as a collector gets them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::stage::{PATIENCE, Stage, service};
use kubeshunt_tests::wait;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

/// A collector in a node's network. It ends with the process: a thread that accepts has nothing to clean up.
struct Collector {
    at: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
}

fn lock(spans: &Mutex<Vec<Span>>) -> MutexGuard<'_, Vec<Span>> {
    spans.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector {
    fn start(stage: &Stage) -> Result<Self> {
        let listener = stage.node.netns().run(|| TcpListener::bind("127.0.0.1:0"))?;
        let at = listener.local_addr()?;
        let spans = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&spans);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taken = Arc::clone(&taken);
                thread::spawn(move || {
                    // An error is the end of a connection; the test sees that something is missing.
                    while let Ok(Some(request)) = answer(&stream) {
                        let resources = request.resource_spans.into_iter();
                        let scopes = resources.flat_map(|resource| resource.scope_spans);
                        lock(&taken).extend(scopes.flat_map(|scope| scope.spans));
                    }
                });
            }
        });
        Ok(Self { at, spans })
    }

    fn endpoint(&self) -> String {
        format!("--otlp-endpoint=http://{}", self.at)
    }

    /// The trace of a change that has this attribute, once it has come.
    fn trace_of(&self, key: &str, value: &str) -> Result<Vec<Span>> {
        wait::until(&format!("a trace with {key}={value}"), PATIENCE, || {
            let spans = lock(&self.spans);
            let root = spans.iter().find(|span| {
                span.name == "change" && text(&span.attributes, key).is_some_and(|is| is == value)
            });
            Ok(root.map(|root| {
                spans.iter().filter(|span| span.trace_id == root.trace_id).cloned().collect::<Vec<_>>()
            }))
        })
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

/// One request of a connection, answered; nothing at its end.
fn answer(mut stream: &TcpStream) -> Result<Option<ExportTraceServiceRequest>> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    let mut first = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if first.is_empty() {
            first.clone_from(&line);
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    ensure!(first.starts_with("POST /v1/traces "), "{first}");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")?;
    Ok(Some(ExportTraceServiceRequest::decode(&*body)?))
}

fn stage_with(collector: &Collector, mut stage: Stage) -> Result<Stage> {
    stage.start_with(|setup| setup.arg(collector.endpoint()).env("OTEL_BSP_SCHEDULE_DELAY", "100"))?;
    Ok(stage)
}

#[test]
fn a_change_is_followed_to_the_map_write() -> Result<()> {
    let stage = Stage::new(1)?;
    let collector = Collector::start(&stage)?;
    let stage = stage_with(&collector, stage)?;
    stage.publish(&service("traced", 1), "traced", &[0])?;
    stage.wait_for_backends(1, &[0])?;

    let trace = collector.trace_of("k8s.object.name", "traced")?;
    let by_name: HashMap<&str, &Span> = trace.iter().map(|span| (span.name.as_str(), span)).collect();
    let span = |name: &str| by_name.get(name).copied().with_context(|| format!("no span {name}: {trace:#?}"));
    let change = span("change")?;
    assert_eq!(text(&change.attributes, "kubeshunt.change").as_deref(), Some("applied"));
    ensure!(change.parent_span_id.is_empty() && change.start_time_unix_nano > 0);
    let mut before = change.start_time_unix_nano;
    // The Service and its slices may come together: then the sync belongs to the first, and is linked to the others.
    let followed = match span("sync") {
        Ok(sync) => sync.clone(),
        Err(_) => {
            let linked = change.links.first().context("neither a sync nor a link to one")?;
            let spans = lock(&collector.spans);
            let sync = spans.iter().find(|span| span.span_id == linked.span_id).context("the linked sync")?;
            ensure!(sync.links.iter().any(|link| link.span_id == change.span_id), "no link back");
            sync.clone()
        }
    };
    ensure!(
        text(&followed.attributes, "kubeshunt.operations").is_some_and(|count| count != "0"),
        "{followed:?}"
    );
    for name in ["queue", "take in"] {
        let step = span(name)?;
        ensure!(step.parent_span_id == change.span_id, "{name} belongs to the change");
        ensure!(step.start_time_unix_nano >= before && step.end_time_unix_nano >= step.start_time_unix_nano);
        before = step.end_time_unix_nano;
    }
    ensure!(followed.start_time_unix_nano >= before, "the sync begins before the change is taken in");
    before = followed.start_time_unix_nano;
    let all = lock(&collector.spans).clone();
    for name in ["tables", "plan", "write"] {
        let is_it = |span: &&Span| span.name == name && span.parent_span_id == followed.span_id;
        let step = all.iter().find(is_it).with_context(|| format!("no span {name}"))?;
        ensure!(step.start_time_unix_nano >= before && step.end_time_unix_nano >= step.start_time_unix_nano);
        before = step.end_time_unix_nano;
    }
    ensure!(
        followed.end_time_unix_nano >= before && change.end_time_unix_nano >= followed.end_time_unix_nano
    );
    let took = change.end_time_unix_nano - change.start_time_unix_nano;
    ensure!(took < PATIENCE.as_nanos().try_into().unwrap_or(u64::MAX), "{took} ns");
    Ok(())
}

#[test]
fn a_collector_that_never_answers_delays_nothing() -> Result<()> {
    let mut stage = Stage::new(1)?;
    // It takes connections, for as long as its queue has room, and nothing else.
    let silent = stage.node.netns().run(|| TcpListener::bind("127.0.0.1:0"))?;
    let endpoint = format!("http://{}", silent.local_addr()?);
    stage.start_with(|setup| {
        setup.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "50")
    })?;
    for number in 1..=100 {
        stage.publish(&service(&format!("web-{number}"), number), &format!("web-{number}"), &[0])?;
    }
    for number in 1..=100 {
        stage.wait_for_backends(number, &[0])?;
    }
    stage.wait_for_log(&["the collector does not take traces"])?;
    let begin = std::time::Instant::now();
    stage.kubeshunt_mut().terminate()?;
    ensure!(begin.elapsed() < PATIENCE, "it waits for the collector at its end");
    Ok(())
}

#[test]
fn an_endpoint_with_tls_is_refused_with_a_reason() -> Result<()> {
    let mut stage = Stage::new(0)?;
    let error = stage.start_with(|setup| setup.arg("--otlp-endpoint=https://collector:4318"));
    let text = format!("{:#}", error.err().context("it started")?);
    ensure!(text.contains("begins with http://") && text.contains("exit status: 2"), "{text}");
    Ok(())
}
