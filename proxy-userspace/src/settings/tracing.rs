//! What the user said about traces of changes.

use clap::Args;

use crate::trace;

/// OpenTelemetry's own name for the address of a collector.
pub(super) const OTLP_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Traces.
#[derive(Args, Debug, Clone)]
pub struct Tracing {
    /// Send a trace of each change, from the API event to the map write, to this OpenTelemetry collector by OTLP over HTTP,
    /// as in http://127.0.0.1:4318; off by default. The environment may say it as OTEL_EXPORTER_OTLP_ENDPOINT
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

impl Tracing {
    /// Takes what the environment says, if nothing else has been said; it may be meant for all programs alike, and for none
    /// like this one, so a mistake there is a remark.
    ///
    /// # Errors
    /// When what was said to us cannot be used.
    pub(super) fn settle(&mut self, environment: Option<String>) -> Result<Option<String>, String> {
        let said = |text: Option<String>| {
            text.map(|text| text.trim().to_owned()).filter(|endpoint| !endpoint.is_empty())
        };
        if let Some(endpoint) = said(self.otlp_endpoint.take()) {
            trace::check(&endpoint).map_err(|wrong| format!("--otlp-endpoint={endpoint:?} {wrong}"))?;
            self.otlp_endpoint = Some(endpoint);
        } else if let Some(endpoint) = said(environment) {
            match trace::check(&endpoint) {
                Ok(()) => self.otlp_endpoint = Some(endpoint),
                Err(wrong) => {
                    return Ok(Some(format!("{OTLP_VARIABLE}={endpoint:?} has no effect: it {wrong}")));
                }
            }
        }
        Ok(None)
    }

    /// Where traces go, if anywhere.
    #[must_use]
    pub fn exporter(&self, node: &str) -> Option<trace::Settings> {
        let endpoint = self.otlp_endpoint.clone()?;
        Some(trace::Settings { endpoint, node: node.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_counts_where_nothing_is_said_and_does_no_harm() {
        let settled = |said: Option<&str>, environment: Option<&str>| {
            let mut tracing = Tracing { otlp_endpoint: said.map(str::to_owned) };
            let remark = tracing.settle(environment.map(str::to_owned))?;
            Ok::<_, String>((tracing.otlp_endpoint, remark.is_some()))
        };
        let to = |host: &str| Some(format!("http://{host}:4318"));
        assert_eq!(settled(None, None), Ok((None, false)));
        assert_eq!(settled(Some(" http://a:4318 "), Some("http://b:4318")), Ok((to("a"), false)));
        assert_eq!(settled(Some(""), Some("http://b:4318")), Ok((to("b"), false)));
        assert_eq!(settled(None, Some("https://b:4318")), Ok((None, true)));
        assert!(settled(Some("https://a:4318"), None).is_err_and(|wrong| wrong.contains("https://a:4318")));
    }
}
