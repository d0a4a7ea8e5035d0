//! `demo`: kubeshunt at work, in a small cluster on this machine.
//!
//! Invariant: nothing shown is staged. Every number comes from real sockets in this run, a promise
//! that was not kept is shown as such, and then the demo fails.

mod scenes;
mod screen;
mod stage;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};

use self::scenes::SCENES;
use self::screen::Screen;
use self::stage::{HTTP, Stage, WEB};
use crate::{build, facts, setup, workspace};

/// How it is shown.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Stay up afterwards, and say how to look around, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Shows everything; true when every promise was kept.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if !facts::is_root() {
        bail!("the demo makes network namespaces and loads BPF programs; run: sudo -E cargo xtask demo");
    }
    println!("Preparing");
    setup::run()?;
    build::release()?;
    let program = workspace::built("release", "kubeshunt")?;
    let folder = program.parent().context("programs lie in a folder")?;

    let mut stage = Stage::set_up(folder)?;
    let mut screen = Screen::default();
    screen.title(
        "kubeshunt at work",
        "A node with a client pod and three backends, and a client outside. Each is a network namespace\n\
         of its own; kubeshunt runs on the node, fed by a folder of manifests. Ctrl-C cleans up.",
    );
    for (text, scene) in SCENES {
        screen.step(text);
        if let Err(error) = scene(&mut stage, &mut screen) {
            screen.promise(false, format!("{error:#}"));
        }
    }
    let kept = screen.verdict();
    if options.keep {
        keep(&stage, &screen)?;
    }
    let estate = stage.bed.estate().clone();
    drop(stage);
    if estate.cgroup.exists() || estate.folder.exists() {
        bail!("something is left in {} or {}", estate.cgroup.display(), estate.folder.display());
    }
    println!("Cleaned up: no process, cgroup, pin or mount is left.");
    Ok(kept)
}

/// Says how to look around, and waits for Ctrl-C.
fn keep(stage: &Stage, screen: &Screen) -> Result<()> {
    let client = stage.client.probe().pid();
    let program = workspace::built("release", "kubeshunt")?;
    println!("\nThe cluster stays up. From another terminal, as root:\n");
    screen.command(
        "a shell in the client pod: its network, and its cgroup, where kubeshunt's hooks are",
        &format!(
            "sh -c 'echo $$ > {}/cgroup.procs; exec nsenter --net=/proc/{client}/ns/net bash'",
            stage.client.cgroup().path().display()
        ),
    );
    let vip = WEB[0];
    screen.command(
        "in that shell: ask the service who answers (repeat it)",
        &format!("bash -c 'exec 3<>/dev/tcp/{vip}/{}; printf w >&3; head -n1 <&3'", HTTP.0),
    );
    screen.command(
        "the services as the kernel has them",
        &format!("{} services --bpffs-root {}", program.display(), stage.node.pins().display()),
    );
    screen.command("the manifests; change one and see", &format!("ls {}", stage.manifests.path().display()));
    screen.command("what kubeshunt says", &format!("tail -f {}", stage.kubeshunt.log().display()));
    println!("\nCtrl-C ends it.");
    // Blocked only now, so that Ctrl-C before this ends the demo at once (the janitor cleans up).
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    signals.thread_block().context("cannot wait for signals")?;
    signals.wait().context("cannot wait for signals")?;
    println!();
    Ok(())
}
