//! The program that runs inside a testbed: probes, and the janitor that cleans up after it.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use kubeshunt_tests::janitor::{self, Estate};
use kubeshunt_tests::probe::agent;
use kubeshunt_tests::{Kubeshunt, Setup, Testbed};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Part of kubeshunt's test harness; started by it, not by hand.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Serve requests, a JSON line each, from standard input.
    Agent {
        /// The name with which its servers answer.
        #[arg(long)]
        name: String,
    },
    /// Remove a testbed's estate at the end of standard input.
    #[command(hide = true)]
    Janitor(Estate),
    /// Make a testbed with one pod, say where it lies, and hold it for ever: for the janitor's own test.
    #[command(hide = true)]
    Hold {
        /// Also run the program under test on its node.
        #[arg(long)]
        kubeshunt: bool,
    },
}

fn main() -> Result<()> {
    match Cli::parse().role {
        Role::Agent { name } => agent::serve(name),
        Role::Janitor(estate) => janitor::serve(&estate),
        Role::Hold { kubeshunt } => {
            // Whoever runs the tests in the background of a script has SIGINT ignored, which is inherited.
            // SAFETY: the default action replaces whatever there was; no handler of ours is involved.
            unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }.context("cannot reset SIGINT")?;
            let bed = Testbed::new()?;
            let node = bed.node("node-a")?;
            let pod = node.pod("pod")?;
            let mut pids = vec![node.host().probe().pid(), pod.probe().pid()];
            let kubeshunt = if kubeshunt {
                let folder = bed.manifests("a")?;
                Some(Kubeshunt::start(&node, Setup::manifests(&folder))?)
            } else {
                None
            };
            pids.extend(kubeshunt.as_ref().and_then(Kubeshunt::pid));
            let estate = bed.estate();
            println!(
                "{}",
                serde_json::json!({
                    "cgroup": estate.cgroup,
                    "bpffs": estate.bpffs,
                    "folder": estate.folder,
                    "pins": node.pins(),
                    "pids": pids,
                })
            );
            loop {
                std::thread::park();
            }
        }
    }
}
