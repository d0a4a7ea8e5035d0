//! What the user said, and what it means.
//!
//! ```text
//! command line ─┬─► kube-proxy's flags ──► KubeProxyConfiguration ─┬─► Settings
//!               └─► our own flags ─────────────────────────────────┤
//! file of --config ─► KubeProxyConfiguration, in place of the flags ┤
//!                  └► stanza `kubeshunt` ─► arguments, in front of ours
//! ```

pub mod api;
pub mod effective;
mod flows;
pub mod kube_proxy;
mod leftovers;
mod line;
mod logging;
mod metrics;
mod packets;
mod place;
mod queries;
mod room;
mod sockets;
mod stanza;
#[cfg(test)]
mod tests;
mod tracing;

use std::path::PathBuf;

pub use api::Api;
use clap::{Args, Parser, Subcommand};
pub use effective::{Mistake, Settings};
pub use flows::Flows;
pub use kube_proxy::KubeProxy;
pub use leftovers::{Leftovers, Removal, Treatment};
pub use line::Line;
pub use logging::{LogFormat, Logging};
pub use metrics::Metrics;
pub use packets::{Packets, Switch};
pub use place::Place;
pub use queries::{Check, Cleanup, Completion, FlowList, Man, Output, Services, Verify};
pub use room::Room;
pub use sockets::Sockets;
pub use tracing::Tracing;

/// What the numbers mean with which the program ends.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done, or stopped by SIGTERM or SIGINT
  1  failed; the reason is the last line on standard error. Also: the configuration file has changed, start again
  2  the command line, the configuration file, the kubeconfig or a credential makes no sense; it has to be corrected
  3  another kubeshunt works on the same pins
  4  an address for health or metrics is taken, with --bind-address-hard-fail
  5  `kubeshunt verify` has found differences

Whatever the code, Services that are served go on being served.";

/// Heading of our own settings.
const OURS: &str = "kubeshunt's own settings";

/// Kubernetes Services by eBPF, beside any CNI, in place of kube-proxy.
#[derive(Parser, Debug)]
#[command(name = "kubeshunt", version, propagate_version = true, args_override_self = true, after_help = EXIT_CODES)]
pub struct CommandLine {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Serve Services on this node until stopped; connections outlive the process
    ///
    /// It takes kube-proxy's command line and configuration file. Called under the name kube-proxy, the program is this
    /// command.
    #[command(display_name = "kubeshunt", args_override_self = true, after_help = EXIT_CODES)]
    Run(Box<Run>),
    /// Show the Services that the kernel's maps hold right now
    Services(Services),
    /// Show the flows that the packet path remembers right now
    Flows(FlowList),
    /// Check what this machine offers, and what to do about what it lacks
    Check(Check),
    /// Compare what the kernel serves with what it should serve, and name each difference
    ///
    /// It takes the arguments of `run`: where objects come from, where maps are pinned. It changes nothing, and runs beside
    /// the process that serves.
    #[command(args_override_self = true, after_help = EXIT_CODES)]
    Verify(Box<Verify>),
    /// Detach the programs and remove everything kubeshunt has pinned; or else what kube-proxy has left
    Cleanup(Cleanup),
    /// Print completions of the command line for a shell
    Completion(Completion),
    /// Write the man pages
    #[command(hide = true)]
    Man(Man),
}

/// `kubeshunt run`
#[derive(Args, Debug)]
#[command(next_help_heading = OURS)]
pub struct Run {
    /// Read Services, EndpointSlices and Nodes from the YAML and JSON files of this folder, and follow them
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "master"])]
    pub manifests: Option<PathBuf>,
    /// Which API servers
    #[command(flatten)]
    pub api: Api,
    /// What is traced
    #[command(flatten)]
    pub tracing: Tracing,
    /// How much the maps are to hold
    #[command(flatten)]
    pub room: Room,
    /// Which flows are remembered, and for how long
    #[command(flatten)]
    pub flows: Flows,
    /// The log
    #[command(flatten)]
    pub logging: Logging,
    /// Which packets are seen to
    #[command(flatten)]
    pub packets: Packets,
    /// Which sockets are woken
    #[command(flatten)]
    pub sockets: Sockets,
    /// What is counted
    #[command(flatten)]
    pub metrics: Metrics,
    /// What kube-proxy has left
    #[command(flatten)]
    pub leftovers: Leftovers,
    /// Where programs attach and maps are pinned
    #[command(flatten)]
    pub place: Place,
    /// kube-proxy's command line
    #[command(flatten)]
    pub kube_proxy: KubeProxy,
}
