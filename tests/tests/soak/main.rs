//! Five thousand Services that change as fast as they can be taken in: what the program holds does not grow, and once
//! nothing happens any more it does nothing.
//!
//! The program follows an API server, as it does for its users; this one never pauses.

mod gauge;
mod server;
mod world;

use std::env;
use std::fmt::Display;
use std::ops::Add;
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

/// Of ten minutes or more the first minute is compared with the last one; of less the first quarter with the last.
const LONG: u64 = 600;
/// By how much memory may have grown by then, in KiB: in a long run, and in one that has hardly been through everything at the
/// beginning. The latter is some bytes for each change. What is allocated does not grow at all; what the allocator holds comes
/// to its size over minutes.
const GROWTH_KIB: [u64; 2] = [1024, 16 * 1024];
/// By how much the kernel's memory for the maps may grow: hash tables hold a little more or less at each moment.
const MAPS_KIB: u64 = 256;
/// Threads that wait for a grace period of the kernel's come and go, as do connections to the API server.
const MORE_DESCRIPTORS: usize = 8;
const MORE_THREADS: usize = 2;

/// How often threads may wake up while nothing happens, in a second. Devices, hooks and counters are looked at on a clock.
const WAKES: u64 = 20;
const IDLE_SECONDS: u64 = 5;

/// Between two readings.
const EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

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
    let setup = Setup::source(["--master".into(), server.url().into()]).within(PATIENCE);
    let kubeshunt = Kubeshunt::start(&node, setup)?;
    let gauge = Gauge::of(kubeshunt.pid().context("it runs")?);

    server.churn();
    let begun = Instant::now();
    let mut readings: Vec<Reading> = Vec::new();
    while begun.elapsed() < Duration::from_secs(length) {
        thread::sleep(EVERY);
        let reading = gauge.read(begun.elapsed())?;
        println!("{reading}; {} changes told", server.told());
        readings.push(reading);
    }
    let (is_long, told) = (length >= LONG, server.told());
    let part = Duration::from_secs(if is_long { 60 } else { length / 4 });
    let first: Vec<_> = readings.iter().filter(|reading| reading.at <= part).collect();
    let last: Vec<_> = readings.iter().filter(|reading| begun.elapsed() - reading.at <= part).collect();
    flat("memory of its own", &first, &last, |reading| reading.own_kib, GROWTH_KIB[usize::from(!is_long)]);
    flat("memory of its maps", &first, &last, |reading| reading.maps_kib, MAPS_KIB);
    flat("descriptors", &first, &last, |reading| reading.descriptors, MORE_DESCRIPTORS);
    flat("threads", &first, &last, |reading| reading.threads, MORE_THREADS);
    assert!(told > 1_000 * length, "changes have hardly come: {told}");

    server.calm();
    rests(&kubeshunt, &gauge)
}

/// What there is in the end is not more than what there was at the beginning, by more than that. Medians: a list of everything
/// takes memory for a moment.
fn flat<T>(what: &str, first: &[&Reading], last: &[&Reading], of: impl Fn(&Reading) -> T, more: T)
where
    T: Copy + Display + Ord + Add<Output = T>,
{
    let median = |readings: &[&Reading]| {
        let mut values: Vec<T> = readings.iter().map(|reading| of(reading)).collect();
        values.sort_unstable();
        values[values.len() / 2]
    };
    let (first, last) = (median(first), median(last));
    println!("{what}: {first} at the beginning, {last} in the end");
    assert!(last <= first + more, "{what} grows: {first} at the beginning, {last} in the end");
}

/// Once everything has been carried out it sleeps.
fn rests(kubeshunt: &Kubeshunt, gauge: &Gauge) -> Result<()> {
    let mut last = String::new();
    wait::until_true("it has carried out all that was told", PATIENCE, || {
        thread::sleep(EVERY);
        let now = format!("{:?}", kubeshunt.metric("kubeshunt_sync_operations_total")?);
        Ok(std::mem::replace(&mut last, now.clone()) == now)
    })?;
    let before = gauge.sleeps()?;
    thread::sleep(Duration::from_secs(IDLE_SECONDS));
    let after = gauge.sleeps()?;
    let of = |thread: &_| after[thread] - before.get(thread).copied().unwrap_or_default();
    let wakes: u64 = after.keys().map(of).sum();
    println!("{wakes} times awake in {IDLE_SECONDS} s");
    assert!(wakes <= WAKES * IDLE_SECONDS, "awake {wakes} times in {IDLE_SECONDS} s while nothing happens");
    Ok(())
}
