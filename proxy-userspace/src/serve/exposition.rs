//! Metrics in the format that the client reads: the Prometheus text format 0.0.4, or OpenMetrics if it says so.
//!
//! Both are alike. In the older one a counter is named with its `_total`, an info is a gauge, and there is neither a word on
//! units nor an end (<https://prometheus.io/docs/instrumenting/exposition_formats>).

use std::fmt::Write as _;

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What a client wants most, by its `Accept` header; the older one if that is all the same to it.
    #[must_use]
    pub fn accepted(header: &str) -> Self {
        let (mut text, mut open_metrics) = (0.0, 0.0);
        for range in header.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q="));
            let weight: f64 = weight.map_or(Some(1.0), |text| text.parse().ok()).unwrap_or_default();
            match kind.as_str() {
                "application/openmetrics-text" => open_metrics = f64::max(open_metrics, weight),
                "text/plain" | "text/*" | "*/*" => text = f64::max(text, weight),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// What the answer's `Content-Type` says.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Puts a text that is OpenMetrics into this format.
    #[must_use]
    pub fn of(self, open_metrics: String) -> String {
        match self {
            Self::Text => plain(&open_metrics),
            Self::OpenMetrics => open_metrics,
        }
    }
}

/// From OpenMetrics to the older format.
fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + open_metrics.len() / 16);
    // Its name comes with the type, which comes behind it.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map(|(_, words)| words);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            // Writing to a String does not fail.
            if let Some(help) = help.take() {
                let _ = writeln!(text, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_ask_for_openmetrics_gets_the_older_format() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
                          q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, format) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/plain;version=0.0.4", Format::Text),
            ("text/html, text/plain;q=0.3", Format::Text),
            ("application/openmetrics-text;q=0.2,text/plain;q=0.5", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/vnd.google.protobuf;q=0.7,text/plain;q=0.3", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("Application/OpenMetrics-Text; version=1.0.0, */*", Format::OpenMetrics),
            (prometheus, Format::OpenMetrics),
        ] {
            assert_eq!(Format::accepted(accept), format, "{accept}");
        }
    }

    #[test]
    fn the_older_format_names_counters_and_infos_in_full() {
        let open_metrics = "# HELP a_seconds How long.\n# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 1\n\
                            # HELP b How often.\n# TYPE b counter\nb_total{name=\"x # TYPE b\"} 2\n\
                            # HELP c Built so.\n# TYPE c info\nc_info{v=\"1\"} 1\n# EOF\n";
        let text = "# HELP a_seconds How long.\n# TYPE a_seconds gauge\na_seconds 1\n\
                    # HELP b_total How often.\n# TYPE b_total counter\nb_total{name=\"x # TYPE b\"} 2\n\
                    # HELP c_info Built so.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n";
        assert_eq!(Format::Text.of(open_metrics.to_owned()), text);
        assert_eq!(Format::OpenMetrics.of(open_metrics.to_owned()), open_metrics);
    }
}
