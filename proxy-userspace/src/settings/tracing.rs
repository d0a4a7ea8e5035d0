//! What the user said about traces of changes.

use clap::Args;

use crate::trace;

/// Traces.
#[derive(Args, Debug, Clone)]
pub struct Tracing {
    /// Send a trace of each change, from the API event to the map write, to this OpenTelemetry collector by OTLP over HTTP,
    /// as in http://127.0.0.1:4318; off by default
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

impl Tracing {
    /// Where traces go, if anywhere.
    #[must_use]
    pub fn exporter(&self, node: &str) -> Option<trace::Settings> {
        let endpoint =
            self.otlp_endpoint.as_deref().map(str::trim).filter(|endpoint| !endpoint.is_empty())?;
        Some(trace::Settings { endpoint: endpoint.to_owned(), node: node.to_owned() })
    }
}
