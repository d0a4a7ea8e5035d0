//! An API server in memory, and random faults between it and the source: after every plan the maps say what the API said
//! at some time, and never again what it said before; and soon after the last fault they say what it says now. Services
//! and slices are followed each for itself, so this is so of each of the two kinds; and of each object where somebody
//! changes the order of events.
//!
//! The source is the real one with its real waits, from the HTTP client's connections upwards; the clock is turned by
//! hand, so hours cost nothing and a bound is a bound on any machine. Behind it are the real stages up to the maps in
//! memory.
//!
//! - [`store`]: what the API holds, and every state it has ever had;
//! - [`server`], [`watching`]: its lists and watches over HTTP;
//! - [`weather`], [`schedule`]: what goes wrong, and when;
//! - [`wire`]: the connections, and what becomes of their bytes;
//! - [`node`]: from changes to the maps; [`view`]: what maps say, and what they should; [`versions`]: whose that is;
//! - [`life`]: one schedule from beginning to end; [`report`]: what was seen of all.
//!
//! `KUBESHUNT_SEED` is the first schedule's seed, `KUBESHUNT_SCHEDULES` their number.

mod life;
mod node;
mod report;
mod schedule;
mod server;
mod store;
mod versions;
mod view;
mod watching;
mod weather;
mod wire;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use report::Report;
use schedule::Schedule;

/// With fewer not every fault need have come.
const SCHEDULES: u64 = 1000;
const WORKERS: u64 = 2;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Has schedules lived through, from the first seed on.
fn run(first: u64, count: u64) -> Report {
    let next = AtomicU64::new(0);
    let work = || {
        let mut report = Report::default();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return report;
            }
            let seed = first.wrapping_add(index);
            let schedule = Schedule::random(seed);
            match life::live(seed, &schedule) {
                Ok(lived) => report.add(&schedule, &lived),
                Err(problem) => report.failed(seed, &schedule, &problem),
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        workers.into_iter().fold(Report::default(), |report, worker| {
            report.with(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    })
}

#[test]
fn whatever_happens_the_maps_say_what_the_api_said_and_soon_what_it_says() {
    let first = number("KUBESHUNT_SEED").unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        (u64::from(std::process::id()) ^ now << 20) * SCHEDULES
    });
    let count = number("KUBESHUNT_SCHEDULES").unwrap_or(SCHEDULES);
    println!("KUBESHUNT_SEED={first} KUBESHUNT_SCHEDULES={count}");
    let report = run(first, count);
    println!("{report}");
    report.assert_faultless();
    if count >= SCHEDULES {
        report.assert_everything_came();
    }
}
