//! From an I/O error to the name of what happened.
//!
//! Invariant: a failure is named after its errno, never after its text.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::protocol::Failure;
use crate::wait;

/// What went wrong: the system call, and the name of the errno.
#[derive(Debug)]
pub(super) struct Fault {
    call: &'static str,
    error: String,
}

impl Fault {
    /// Names an I/O error of `call`.
    pub(super) fn of(call: &'static str, error: &io::Error) -> Self {
        let name = match error.raw_os_error() {
            // A blocking call that ran into SO_RCVTIMEO or SO_SNDTIMEO.
            Some(libc::EAGAIN | libc::EINPROGRESS) => "TIMEOUT".to_owned(),
            Some(number) => format!("{:?}", Errno::from_raw(number)),
            None => format!("{:?}", error.kind()),
        };
        Self { call, error: name }
    }

    /// The other side closed without an answer.
    pub(super) fn closed(call: &'static str) -> Self {
        Self { call, error: "CLOSED".to_owned() }
    }

    /// Something came that no probe says.
    pub(super) fn garbled(call: &'static str) -> Self {
        Self { call, error: "GARBLED".to_owned() }
    }

    pub(super) fn name(&self) -> &str {
        &self.error
    }

    pub(super) fn since(self, begin: Instant) -> Failure {
        Failure {
            error: self.error,
            call: self.call.to_owned(),
            elapsed_ns: nanos(begin),
            at_ns: wait::monotonic_ns(),
        }
    }
}

/// Nanoseconds since `begin`.
pub(super) fn nanos(begin: Instant) -> u64 {
    nanoseconds(begin.elapsed())
}

/// A time in nanoseconds.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
