//! `/metrics`, and what debugging tools ask kube-proxy for (`cmd/kube-proxy/app/server.go`). Plain HTTP, without
//! authentication, as there: it belongs on loopback.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{HeaderMap, header},
    response::IntoResponse,
    routing::{any, delete, get},
};

use super::{Settings, exposition::Format};
use crate::controller::{metrics::process::KUBERNETES, status::Status};

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// The only key of /configz.
const CONFIG: &str = "kubeproxy.config.k8s.io";

/// Above the answers of /flagz and /statusz, which are for people.
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";

struct Answers {
    status: Arc<Status>,
    mode: String,
    configz: String,
    flagz: String,
    begun: (Instant, SystemTime),
    /// How often /healthz was asked for, for /metrics/slis.
    pings: AtomicU64,
}

pub(super) fn router(settings: &Settings, status: Arc<Status>) -> Router {
    let mut flagz = format!("\nkube-proxy flagz\n{WARNING}\n\n");
    for (name, value) in &settings.flags {
        let _ = writeln!(flagz, "{name}={value}");
    }
    let answers = Answers {
        status,
        mode: settings.mode.clone(),
        configz: serde_json::json!({ CONFIG: settings.configz }).to_string(),
        flagz,
        begun: (Instant::now(), SystemTime::now()),
        pings: AtomicU64::new(0),
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/metrics/slis", get(slis).merge(delete(reset_slis)))
        .route("/healthz", any(healthz))
        .route("/healthz/ping", any(async || plain("ok".to_owned())))
        .route("/proxyMode", any(async |State(own): State<Arc<Answers>>| plain(own.mode.clone())))
        .route("/configz", any(async |State(own): State<Arc<Answers>>| typed(JSON, own.configz.clone())))
        .route("/flagz", get(async |State(own): State<Arc<Answers>>| plain(own.flagz.clone())))
        .route("/statusz", get(statusz))
        .with_state(Arc::new(answers))
}

fn plain(text: String) -> impl IntoResponse {
    typed(PLAIN, text)
}

fn typed(kind: &'static str, text: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], text)
}

fn format(headers: &HeaderMap) -> Format {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    Format::accepted(accept.unwrap_or_default())
}

async fn metrics(State(own): State<Arc<Answers>>, headers: HeaderMap) -> impl IntoResponse {
    let format = format(&headers);
    ([(header::CONTENT_TYPE, format.content_type())], format.of(own.status.metrics.open_metrics()))
}

/// A ping: that this process answers, and not that it is well.
async fn healthz(State(own): State<Arc<Answers>>, RawQuery(query): RawQuery) -> impl IntoResponse {
    own.pings.fetch_add(1, Relaxed);
    let is_verbose = query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
    plain(if is_verbose { "[+]ping ok\nhealthz check passed\n".to_owned() } else { "ok".to_owned() })
}

async fn slis(State(own): State<Arc<Answers>>, headers: HeaderMap) -> impl IntoResponse {
    let (format, pings) = (format(&headers), own.pings.load(Relaxed));
    let text = if pings == 0 {
        "# EOF\n".to_owned()
    } else {
        format!(
            "# HELP kubernetes_healthcheck This metric records the result of a single healthcheck.\n\
             # TYPE kubernetes_healthcheck gauge\n\
             kubernetes_healthcheck{{name=\"ping\",type=\"healthz\"}} 1\n\
             # HELP kubernetes_healthchecks This metric records the results of all healthchecks.\n\
             # TYPE kubernetes_healthchecks counter\n\
             kubernetes_healthchecks_total{{name=\"ping\",status=\"success\",type=\"healthz\"}} {pings}\n\
             # EOF\n"
        )
    };
    ([(header::CONTENT_TYPE, format.content_type())], format.of(text))
}

async fn reset_slis(State(own): State<Arc<Answers>>) -> impl IntoResponse {
    own.pings.store(0, Relaxed);
    plain("metrics reset\n".to_owned())
}

async fn statusz(State(own): State<Arc<Answers>>) -> impl IntoResponse {
    let (begun, started) = own.begun;
    let started = jiff::Timestamp::try_from(started).map(|time| time.to_string()).unwrap_or_default();
    let (major, minor) = KUBERNETES;
    plain(format!(
        "\nkube-proxy statusz\n{WARNING}\n\nStarted: {started}\nUp: {}\nBinary version: kubeshunt {}\n\
         Emulation version: {major}.{minor}\n\nPaths: /configz /flagz /healthz /metrics /metrics/slis /proxyMode\n",
        up(begun.elapsed()),
        env!("CARGO_PKG_VERSION"),
    ))
}

/// As component-base writes it.
fn up(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{} hr {:02} min {:02} sec", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
