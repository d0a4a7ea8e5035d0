//! What the user said about what kube-proxy has left on this node.

use clap::{Args, ValueEnum};

use super::Output;

/// What `kubeshunt run` does about it.
#[derive(Args, Debug, Clone, Copy)]
pub struct Leftovers {
    /// What to do about rules, chains and devices that kube-proxy has left on this node. `remove` waits until Services
    /// are served by the programs here and no kube-proxy is to be seen at work, and leaves IPVS alone
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Treatment::Report)]
    pub kube_proxy_leftovers: Treatment,
}

/// What is done about leftovers.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Name them in the log, once
    Report,
    /// Remove them
    Remove,
    /// Do not look
    Ignore,
}

/// What `kubeshunt cleanup` does about it.
#[derive(Args, Debug, Clone, Copy)]
pub struct Removal {
    /// Remove what kube-proxy has left on this node (nftables tables, iptables chains, IPVS servers), and nothing of
    /// kubeshunt's, which may be running. Established connections go on, but for those of IPVS: its virtual servers go,
    /// those of others too
    #[arg(long)]
    pub kube_proxy: bool,
    /// Remove it although a kube-proxy is at work here, which will bring it back, or may be
    #[arg(long, requires = "kube_proxy")]
    pub force: bool,
    /// Form of the answer about what kube-proxy has left
    #[arg(short, long, value_enum, default_value_t = Output::Table, requires = "kube_proxy")]
    pub output: Output,
}
