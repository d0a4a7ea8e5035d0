//! Endpoints that come and go a hundred times a second, and the record of when each did.
//!
//! Invariant: the time of a change is taken before its file is renamed into place, so that an endpoint counts
//! as gone from a moment on at which it certainly was still there: ages are never measured too short.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kubeshunt_tests::manifests::{EndpointSlice, Folder};
use kubeshunt_tests::wait::{self, monotonic_ns};

/// Between two changes.
pub(crate) const INTERVAL: Duration = Duration::from_millis(10);

/// So many changes long one of those that come and go stays away, so that connections to an endpoint long gone
/// would be seen; then it is another's turn.
const REST: u32 = 200;

/// One endpoint that appeared or disappeared.
#[derive(Clone, Copy, Debug)]
struct Change {
    at_ns: u64,
    /// Its number among those that come and go.
    endpoint: usize,
    present: bool,
}

/// What became of the endpoints, in order.
#[derive(Debug, Default)]
pub(crate) struct History {
    changes: Vec<Change>,
}

/// How long an endpoint had been gone when it was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// It was there.
    Present,
    /// At most that long.
    Gone(Duration),
    /// It had never been there.
    Never,
}

impl History {
    /// The age of an endpoint for a connection that was begun and decided at these times.
    pub(crate) fn age(&self, endpoint: usize, begun_ns: u64, done_ns: u64) -> Age {
        let mut age = Age::Never;
        for change in self.changes.iter().filter(|change| change.endpoint == endpoint) {
            match (change.present, change.at_ns) {
                (_, at) if at > done_ns => break,
                (true, _) => age = Age::Present,
                // It was there when the connection began.
                (false, at) if at >= begun_ns => return Age::Present,
                (false, at) => age = Age::Gone(Duration::from_nanos(done_ns - at)),
            }
        }
        age
    }

    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Changes per second.
    pub(crate) fn rate(&self) -> f64 {
        let (Some(first), Some(last)) = (self.changes.first(), self.changes.last()) else { return 0.0 };
        let seconds = Duration::from_nanos(last.at_ns - first.at_ns).as_secs_f64();
        f64::from(u32::try_from(self.changes.len() - 1).unwrap_or(u32::MAX)) / seconds
    }
}

/// A thread that rewrites the slice. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Churner {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    thread: Option<JoinHandle<Result<History>>>,
}

impl Churner {
    /// Begins. `slice` is the slice without endpoints, written to `NAME.yaml`; `stay` are always in it.
    pub(crate) fn start(
        folder: Folder,
        name: &'static str,
        slice: EndpointSlice,
        stay: Vec<IpAddr>,
        others: Vec<IpAddr>,
        seed: u64,
    ) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let thread = thread::spawn({
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut present = vec![false; others.len()];
                let mut history = History::default();
                let begin = Instant::now();
                for number in 0_u32.. {
                    thread::sleep((INTERVAL * number).saturating_sub(begin.elapsed()));
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let resting = (number / REST) as usize % others.len();
                    let endpoint = if present[resting] {
                        resting
                    } else {
                        (resting + random.usize(1..others.len())) % others.len()
                    };
                    present[endpoint] = !present[endpoint];
                    let there = others.iter().zip(&present).filter(|(_, present)| **present);
                    let slice =
                        slice.clone().ready(stay.iter().copied()).ready(there.map(|(address, _)| *address));
                    let at_ns = monotonic_ns();
                    folder.write(name, &[&slice])?;
                    history.changes.push(Change { at_ns, endpoint, present: present[endpoint] });
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(history)
            }
        });
        Self { stop, done, thread: Some(thread) }
    }

    /// Waits until so many more changes have been made.
    pub(crate) fn wait_for(&self, more: u32) -> Result<()> {
        let until = self.done.load(Ordering::Relaxed) + more;
        let within = INTERVAL * more * 2 + Duration::from_secs(10);
        wait::until_true(&format!("{more} more changes are made"), within, || {
            Ok(self.done.load(Ordering::Relaxed) >= until)
        })
    }

    /// Ends it.
    pub(crate) fn stop(mut self) -> Result<History> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it is stopped once")?;
        thread.join().expect("the thread does not panic")
    }
}

impl Drop for Churner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A test that failed has said why already.
            drop(thread.join());
        }
    }
}

#[test]
fn ages_are_counted_from_the_last_removal() {
    let change = |at_ns, present| Change { at_ns, endpoint: 1, present };
    let history = History { changes: vec![change(10, true), change(20, false), change(40, true)] };
    for (begun, done, age) in [
        (1, 9, Age::Never),
        (5, 12, Age::Present),
        (12, 15, Age::Present),
        (19, 25, Age::Present),
        (21, 25, Age::Gone(Duration::from_nanos(5))),
        (21, 45, Age::Present),
        (50, 60, Age::Present),
    ] {
        assert_eq!(history.age(1, begun, done), age, "{begun}..{done}");
    }
    assert_eq!(history.age(0, 12, 15), Age::Never);
}
