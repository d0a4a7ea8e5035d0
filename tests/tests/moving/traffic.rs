//! Connections that are there before a move and are used all the while, and new ones without end.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use kubeshunt_tests::probe::{Probe, Stream};
use kubeshunt_tests::protocol::{Hold, StreamSpec, Target};
use kubeshunt_tests::{Station, wait};

/// How many connections are held at each address.
const HELD: u32 = 50;

/// How many new ones are under way to each address.
const AT_ONCE: u32 = 2;
/// And to both addresses of a line.
pub(crate) const IN_FLIGHT: u64 = 2 * AT_ONCE as u64;

/// How long a held connection may take to carry a byte there and back.
const SOON_MS: u64 = 10_000;

/// After each step of a move so many new connections are made to each address, and each held one is used twice.
const BETWEEN: u64 = 300;
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody's connections to the addresses of a Service.
pub(crate) struct Line {
    what: &'static str,
    to: [SocketAddr; 2],
    keeper: Probe,
    held: Vec<u64>,
    asker: Probe,
    rounds: AtomicU64,
}

/// What became of them.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) what: &'static str,
    /// How many connections were held, and how many of them still work.
    pub(crate) held: u32,
    pub(crate) alive: u32,
    /// What broke the others.
    pub(crate) broken: BTreeMap<String, u64>,
    /// New connections that were answered, and that failed.
    pub(crate) answered: u64,
    pub(crate) failed: BTreeMap<String, u64>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, held, alive, broken, answered, failed } = self;
        write!(
            f,
            "{what}: {alive} of {held} held connections live, {broken:?}; {answered} new ones, {failed:?}"
        )
    }
}

impl Line {
    /// Opens connections that are to last.
    pub(crate) fn open(what: &'static str, client: &Station, to: [SocketAddr; 2]) -> Result<Self> {
        let keeper = client.another_probe("keeper")?;
        let mut held = Vec::new();
        for to in to {
            let hold = Hold { to, from: Vec::new(), count: HELD, at_once: 10, timeout_ms: SOON_MS };
            let (number, report) = keeper.hold(&hold)?;
            ensure!(report.alive == HELD && report.errors.is_empty(), "{what}, {to}: {report:?}");
            held.push(number);
        }
        let asker = client.another_probe("asker")?;
        Ok(Self { what, to, keeper, held, asker, rounds: AtomicU64::new(0) })
    }

    /// Uses all held connections.
    fn use_held(&self, broken: &mut BTreeMap<String, u64>) -> Result<u32> {
        let mut alive = 0;
        for number in &self.held {
            let report = self.keeper.exchange_held(*number)?;
            alive += report.alive;
            for (error, count) in report.errors {
                *broken.entry(error).or_default() += count;
            }
        }
        self.rounds.fetch_add(1, Ordering::Relaxed);
        Ok(alive)
    }

    fn new_ones(&self) -> Result<Vec<Stream<'_>>> {
        let spec = |to| StreamSpec {
            target: Target::tcp(to),
            concurrency: AT_ONCE,
            pause_us: 5_000,
            keep_records: false,
        };
        self.to.iter().map(|to| self.asker.stream(&spec(*to))).collect()
    }
}

/// Waits for traffic between two steps of a move.
pub(crate) struct Pulse<'a> {
    lines: &'a [Line],
    streams: Vec<Vec<Stream<'a>>>,
}

impl Pulse<'_> {
    /// Until every address has seen so many connections more.
    pub(crate) fn beat(&self) -> Result<()> {
        let asked = |stream: &Stream<'_>| -> Result<u64> {
            let report = stream.peek()?.asked;
            Ok(report.successes() + report.failed())
        };
        for (line, streams) in self.lines.iter().zip(&self.streams) {
            // The round that is under way began before.
            let enough = line.rounds.load(Ordering::Relaxed) + 3;
            for stream in streams {
                let enough = asked(stream)? + BETWEEN;
                wait::until_true("new connections are made", PATIENCE, || Ok(asked(stream)? >= enough))?;
            }
            let is_enough = || Ok(line.rounds.load(Ordering::Relaxed) >= enough);
            wait::until_true("held connections are used", PATIENCE, is_enough)?;
        }
        Ok(())
    }
}

/// Has all lines used while the steps are taken.
pub(crate) fn through(lines: &[Line], steps: impl FnOnce(&Pulse<'_>) -> Result<()>) -> Result<Vec<Outcome>> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let users: Vec<_> = lines
            .iter()
            .map(|line| {
                scope.spawn(|| -> Result<_> {
                    let mut broken = BTreeMap::new();
                    while !is_over.load(Ordering::Relaxed) {
                        line.use_held(&mut broken)?;
                    }
                    Ok((line.use_held(&mut broken)?, broken))
                })
            })
            .collect();
        let streams = lines.iter().map(Line::new_ones).collect::<Result<_>>();
        let taken = streams.and_then(|streams| {
            let pulse = Pulse { lines, streams };
            steps(&pulse)?;
            Ok(pulse)
        });
        is_over.store(true, Ordering::Relaxed);
        let used: Vec<_> = users.into_iter().map(|user| user.join().expect("it does not panic")).collect();
        let mut outcomes = Vec::new();
        for ((line, used), streams) in lines.iter().zip(used).zip(taken?.streams) {
            let (alive, broken) = used?;
            let (mut answered, mut failed) = (0, BTreeMap::new());
            for stream in streams {
                let report = stream.stop()?.asked;
                answered += report.successes();
                for (error, count) in report.errors {
                    *failed.entry(error).or_default() += count;
                }
            }
            let held = HELD * u32::try_from(line.held.len())?;
            let outcome = Outcome { what: line.what, held, alive, broken, answered, failed };
            println!("{outcome}");
            outcomes.push(outcome);
        }
        Ok(outcomes)
    })
}
