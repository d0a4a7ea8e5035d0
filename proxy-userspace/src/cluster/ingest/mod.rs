//! Parsing: from API objects to the model.
//!
//! Input: one API object. Output: the value, and a list of typed rejects for everything that was not taken over.
//!
//! Invariants: pure functions of one object (and this node's name); a bad field costs that field only; nothing
//! is clamped or guessed silently. Where kube-proxy has a rule, it is the same rule; the server-side filters of
//! its watches are repeated here because manifests come without a server.

pub(crate) mod address;
mod node;
mod pod;
mod service;
mod service_cidr;
mod slice;

use super::change::ObjectRef;
use super::model::Protocol;
use super::reject::{Problem, Reject};

pub use node::node;
pub use pod::pod;
pub use service::service;
pub use service_cidr::service_cidr;
pub use slice::{Backends, Hints, Slice, SliceEndpoint, SlicePort, slice};

/// What came of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed<T> {
    /// A value to serve.
    Value(T),
    /// A sound object that is not for us, like a headless Service: whatever it was before is gone.
    NotOurs,
    /// Nothing usable is left of it: its last good version stays.
    Unusable,
}

impl<T> Parsed<T> {
    /// The value, if there is one.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::NotOurs | Self::Unusable => None,
        }
    }
}

/// Collects the rejects of one object.
struct Rejects {
    object: ObjectRef,
    list: Vec<Reject>,
}

impl Rejects {
    fn new(object: ObjectRef) -> Self {
        Self { object, list: Vec::new() }
    }

    fn push(&mut self, field: impl Into<String>, problem: Problem) {
        self.list.push(Reject { object: self.object.clone(), field: field.into(), problem });
    }

    /// Passes a good value on, and notes a bad one. The field's name is only built for the latter.
    fn take<T>(&mut self, result: Result<T, Problem>, field: impl FnOnce() -> String) -> Option<T> {
        result.map_err(|problem| self.push(field(), problem)).ok()
    }
}

/// A port number that must be there.
fn port_number(number: Option<i64>) -> Result<u16, Problem> {
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
        .ok_or(Problem::InvalidPort(number))
}

/// A protocol; TCP when absent, as the API defaults it.
fn protocol(text: Option<&str>) -> Result<Protocol, Problem> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(Problem::UnknownProtocol(other.to_owned())),
    }
}
