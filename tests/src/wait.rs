//! Waiting for a condition with a deadline, and the clock every measurement shares.
//!
//! Invariant: nothing in the harness sleeps for a fixed time and hopes. It polls, finely, and the
//! error of a missed deadline says what was being waited for.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::time::{ClockId, clock_gettime};

/// Between two looks at a condition: short against everything that is waited for, long against the
/// cost of looking.
const INTERVAL: Duration = Duration::from_millis(2);

/// Polls `look` until it yields a value; an error from `look` ends the wait at once.
///
/// # Errors
/// When `look` fails, or `within` has passed; the message names `what`.
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let within = within * patience();
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = look().with_context(|| format!("while waiting until {what}"))? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {within:?} in vain until {what}");
        }
        thread::sleep(INTERVAL);
    }
}

/// How many times as long as elsewhere things may take on this machine: an emulated one is slow. It changes how long is
/// waited for what does not come, and nothing else.
fn patience() -> u32 {
    static PATIENCE: OnceLock<u32> = OnceLock::new();
    *PATIENCE.get_or_init(|| {
        let set = std::env::var("KUBESHUNT_TEST_PATIENCE").ok();
        set.and_then(|text| text.parse().ok()).unwrap_or(1)
    })
}

/// [`until`] for a plain yes or no.
///
/// # Errors
/// See [`until`].
pub fn until_true(what: &str, within: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, within, || Ok(look()?.then_some(())))
}

/// CLOCK_MONOTONIC in nanoseconds. The same for every process of the machine, so that a probe's
/// times can be compared with the harness's own.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists on every Linux");
    let seconds = u64::try_from(now.tv_sec()).expect("the monotonic clock counts up from zero");
    let nanos = u64::try_from(now.tv_nsec()).expect("nanoseconds are never negative");
    seconds * 1_000_000_000 + nanos
}
