//! Why asking the server did not succeed, and how to go on.

use std::fmt::Write as _;
use std::time::Duration;

use super::access::{Cause, Failed, Next};
use crate::source::Closed;

/// Why a step did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nobody reads the changes.
    Closed,
    /// What we build on is no longer there, or cannot be trusted: list again.
    Expired(String),
    /// Another server has been found wanting: ask the one that is in use now.
    Moved(String),
    /// Try again later.
    Lost(String),
    /// Try again after that time: the server wants it so.
    Busy(Duration, String),
    /// The server does not have this kind, or not for us: try again later.
    Withheld(String),
    /// The credentials were refused: renew them, then try again later.
    Unauthorized(String),
}

impl From<Closed> for Failure {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        match (&failed.cause, failed.next) {
            (cause, Next::AtOnce) => Self::Moved(chain(cause)),
            (Cause::Answer(kube::Error::Api(status)), _) => match status.code {
                410 => Self::Expired("the version is too old for the server".to_owned()),
                401 => Self::Unauthorized(status.message.clone()),
                403 => Self::Withheld(format!("{} (are the RBAC rules in place?)", status.message)),
                404 => Self::Withheld(status.message.clone()),
                code => Self::Lost(format!("{code} {}", status.message)),
            },
            (cause, _) => match cause.asks_for_pause() {
                Some(pause) => Self::Busy(pause, chain(cause)),
                None => Self::Lost(chain(cause)),
            },
        }
    }
}

/// Of a request that cannot even be written, though all of it is ours.
pub(super) fn unaskable(error: kube::core::request::Error) -> Failure {
    Failure::Lost(chain(&error))
}

/// An error and what caused it, in one line; the outermost alone often says nothing.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}
