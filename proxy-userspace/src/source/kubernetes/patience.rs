//! How long to wait: for an answer, and before asking again.

use std::time::Duration;

use super::backoff::Backoff;

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a page of a list, or the head of a watch.
    pub(super) answer: Duration,
    /// For how long the server is asked to keep a watch.
    pub(super) watch: Duration,
    /// How much longer than that is still no sign of a dead connection.
    pub(super) grace: Duration,
    /// Before the first new attempt.
    pub(super) first_wait: Duration,
    /// Before any later one. Less than a second, so that what changed meanwhile is served within one of the server's
    /// return. Who has too much to do says so, and is left alone for as long as it wants.
    pub(super) longest_wait: Duration,
    /// Before a kind that one can do without is asked for again.
    pub(super) withheld: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(30),
            watch: Duration::from_secs(290),
            grace: Duration::from_secs(5),
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_millis(900),
            withheld: Duration::from_secs(60),
        }
    }
}

/// How long to wait after which failure. Apart from each other, because a server that says it has forgotten our
/// place is there, however long it was away before.
#[derive(Debug)]
pub(super) struct Pauses {
    pub(super) lost: Backoff,
    /// From the beginning of one list to that of the next.
    pub(super) expired: Backoff,
}

impl Pauses {
    pub(super) fn new(patience: Patience) -> Self {
        let backoff = Backoff::new(patience.first_wait, patience.longest_wait);
        Self { lost: backoff, expired: backoff }
    }

    /// It worked: begin anew the next time.
    pub(super) fn reset(&mut self) {
        self.lost.reset();
        self.expired.reset();
    }
}
