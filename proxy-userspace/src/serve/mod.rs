//! The HTTP servers: health and metrics; and [`balancers`], which answers load balancers.
//!
//! `/healthz` and `/livez` answer 200 while no change has waited longer than a minute, as kube-proxy's do, which
//! also means: before the first sync. `/readyz` answers 200 once tables are complete and programs attached.

pub mod balancers;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde::Serialize;
use tokio::net::TcpListener;
use tracing::warn;

use crate::controller::status::{Health, Status};

/// How long to wait before an address in use is tried again, as kube-proxy does.
const AGAIN: Duration = Duration::from_secs(5);

/// Serves /healthz, /livez and /readyz.
///
/// # Errors
/// When the server breaks down; an address in use is tried again and again instead.
pub async fn health(address: SocketAddr, status: Arc<Status>) -> Result<()> {
    let router = Router::new()
        .route("/healthz", get(healthy))
        .route("/livez", get(healthy))
        .route("/readyz", get(ready))
        .with_state(status);
    axum::serve(bind(address, "health").await, router).await.context("the health server broke down")
}

/// Serves /metrics.
///
/// # Errors
/// As [`health`].
pub async fn metrics(address: SocketAddr, status: Arc<Status>) -> Result<()> {
    let router = Router::new().route("/metrics", get(text)).with_state(status);
    axum::serve(bind(address, "metrics").await, router).await.context("the metrics server broke down")
}

async fn bind(address: SocketAddr, what: &str) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                if !told {
                    warn!("cannot serve {what} on {address}: {error}; trying again every {AGAIN:?}");
                    told = true;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// The body people and probes get.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: Option<String>,
    current_time: String,
    healthy: bool,
    serving: bool,
}

async fn healthy(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let health = status.health();
    answer(health, health.healthy)
}

async fn ready(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let health = status.health();
    answer(health, health.healthy && health.serving)
}

fn answer(health: Health, well: bool) -> impl IntoResponse {
    let time =
        |at: std::time::SystemTime| jiff::Timestamp::try_from(at).map(|t| t.to_string()).unwrap_or_default();
    let body = Body {
        last_updated: health.last_synced.map(time),
        current_time: time(std::time::SystemTime::now()),
        healthy: health.healthy,
        serving: health.serving,
    };
    let code = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (code, headers, serde_json::to_string(&body).unwrap_or_default())
}

async fn text(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], status.metrics())
}
