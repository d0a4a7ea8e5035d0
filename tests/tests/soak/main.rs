//! Five thousand Services that change as fast as they can be taken in: what the program holds does not grow, and once
//! nothing happens any more it does nothing.
//!
//! The program follows an API server, as it does for its users; this one never pauses.

mod gauge;
mod server;
mod world;

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kubeshunt_tests::{Kubeshunt, Setup, Testbed, wait};

use self::gauge::{Gauge, Reading};
use self::server::Server;
use self::world::World;

const SERVICES: usize = 5_000;

/// How long things change, in seconds, unless this variable says otherwise.
const SECONDS: &str = "KUBESHUNT_SOAK";
const DEFAULT_SECONDS: u64 = 60;

/// Between two readings.
const EVERY: Duration = Duration::from_secs(1);

#[test]
fn nothing_grows_while_everything_changes_and_nothing_runs_when_nothing_does() -> Result<()> {
    let length = match env::var(SECONDS) {
        Ok(seconds) => seconds.parse().with_context(|| format!("{SECONDS}={seconds} is no number"))?,
        Err(_) => DEFAULT_SECONDS,
    };
    let seed = fastrand::u64(..);
    println!("seed {seed}, {length} s");
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let server = Server::start(&node, World::new(SERVICES, seed))?;
    let setup = Setup::source(["--master".into(), server.url().into()]).within(Duration::from_secs(60));
    let kubeshunt = Kubeshunt::start(&node, setup)?;
    let gauge = Gauge::of(kubeshunt.pid().context("it runs")?);
    server.churn();
    let begun = Instant::now();
    let mut readings: Vec<Reading> = Vec::new();
    while begun.elapsed() < Duration::from_secs(length) {
        thread::sleep(EVERY);
        let reading = gauge.read(begun.elapsed())?;
        println!(
            "{reading}; {} changes, {} writes",
            server.told(),
            kubeshunt.metric("kubeshunt_sync_operations_total")?
        );
        readings.push(reading);
    }
    server.calm();
    let mut last = -1.0;
    wait::until_true("it has caught up", Duration::from_secs(60), || {
        thread::sleep(EVERY);
        let now = kubeshunt.metric("kubeshunt_sync_operations_total")?;
        let is_calm = now == last;
        last = now;
        Ok(is_calm)
    })?;
    let (before, cpu) = (gauge.sleeps()?, kubeshunt.cgroup().cpu_time()?);
    thread::sleep(Duration::from_secs(10));
    let after = gauge.sleeps()?;
    let of = |thread: &_| after[thread] - before.get(thread).copied().unwrap_or_default();
    let sleeps: u64 = after.keys().map(of).sum();
    println!("sleeps {sleeps} cpu {:?}", kubeshunt.cgroup().cpu_time()? - cpu);
    println!("{}", gauge.read(begun.elapsed())?);
    Ok(())
}
