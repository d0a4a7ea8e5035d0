//! When what failed is tried again: after a pause that grows.

use std::{
    future::pending,
    time::{Duration, Instant},
};

use tokio::time::sleep_until;

/// First and longest pause.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Whether something failed, and when it is tried again.
#[derive(Debug)]
pub(super) struct Retry {
    at: Option<Instant>,
    pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { at: None, pause: PAUSES.0 }
    }
}

impl Retry {
    /// It failed; returns how long until the next attempt.
    pub(super) fn failed(&mut self) -> Duration {
        let pause = self.pause;
        self.at = Some(Instant::now() + pause);
        self.pause = (pause * 2).min(PAUSES.1);
        pause
    }

    /// It worked.
    pub(super) fn worked(&mut self) {
        *self = Self::default();
    }

    /// Whether it failed and its time has not come.
    pub(super) fn is_waiting(&self) -> bool {
        self.at.is_some_and(|at| at > Instant::now())
    }

    /// Returns when it is time to try again; never if nothing failed.
    pub(super) async fn due(&mut self) {
        match self.at {
            Some(at) => sleep_until(at.into()).await,
            None => pending().await,
        }
        self.at = None;
    }
}
