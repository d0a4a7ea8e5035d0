//! What the user said about the log.

use clap::{Args, ValueEnum};

use crate::configuration::KubeProxyConfiguration;

/// From this verbosity of kube-proxy's on, debug.
const DEBUG: u32 = 4;
/// From this one on, trace.
const TRACE: u32 = 6;

/// The log.
#[derive(Args, Debug, Clone)]
pub struct Logging {
    /// Log every decision of the programs (slow; for looking at one node closely)
    #[arg(long)]
    pub log_decisions: bool,
    /// How to write the log [default: text, or what --logging-format says]
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormat>,
    /// What to log: error, warn, info, debug, trace, or a tracing filter [default: info, or more with -v]
    #[arg(long, value_name = "FILTER", env = "KUBESHUNT_LOG")]
    pub log: Option<String>,
}

/// Form of the log.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// A line per event
    Text,
    /// A JSON object per event
    Json,
}

impl Logging {
    /// What to log: our own word, or else kube-proxy's.
    #[must_use]
    pub fn filter(&self, configuration: &KubeProxyConfiguration) -> String {
        let by_verbosity = match configuration.logging.verbosity {
            ..DEBUG => "info",
            DEBUG..TRACE => "debug",
            TRACE.. => "trace",
        };
        self.log.clone().unwrap_or_else(|| by_verbosity.to_owned())
    }

    /// How to write it: our own word, or else kube-proxy's.
    #[must_use]
    pub fn format(&self, configuration: &KubeProxyConfiguration) -> LogFormat {
        let is_json = configuration.logging.format == "json";
        self.log_format.unwrap_or(if is_json { LogFormat::Json } else { LogFormat::Text })
    }
}
