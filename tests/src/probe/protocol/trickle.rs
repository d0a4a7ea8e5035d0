//! Datagrams at a steady pace.

use serde::{Deserialize, Serialize};

use super::{Failure, Record, Target};

/// Small datagrams from one socket, however they are answered. A connected socket that fails is replaced by a new one;
/// one that is not connected is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trickle {
    /// Whom and how.
    pub target: Target,
    /// The time between two.
    pub every_us: u64,
}

/// What became of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrickleReport {
    /// How many left.
    pub sent: u64,
    /// How many sockets were opened.
    pub sockets: u64,
    /// Who answered, and when.
    pub answers: Vec<Record>,
    /// What failed, and when.
    pub errors: Vec<Failure>,
}
