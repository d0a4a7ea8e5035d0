//! What is asked for in large amounts: bytes, connections, datagrams beyond the size of a frame.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::Target;

/// Random bytes there and as many back, at the same time, on one TCP connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// Whom.
    pub target: Target,
    /// How many each way.
    pub bytes: u64,
    /// What they follow from.
    pub seed: u64,
    /// How long all of it may take.
    pub within_ms: u64,
}

/// Digests of what was sent and of what arrived, each computed where that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// At the sender.
    pub sent: u64,
    /// At the receiver.
    pub arrived: u64,
}

/// What a transfer gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferReport {
    /// From the client to the server.
    pub there: Digests,
    /// From the server to the client.
    pub back: Digests,
    /// How long it took.
    pub elapsed_ns: u64,
}

impl TransferReport {
    /// Has everything arrived as it was sent, and was it not twice the same?
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.there.sent == self.there.arrived
            && self.back.sent == self.back.arrived
            && self.there.sent != self.back.sent
    }
}

/// Datagrams of random bytes, sent one by one by one socket to a UDP server that echoes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EchoDatagrams {
    /// Whom and how.
    pub target: Target,
    /// The size of each.
    pub sizes: Vec<usize>,
    /// What they follow from.
    pub seed: u64,
}

/// Very many connections to a TCP server, from each of the addresses in turn. Given up after a hundred failures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hold {
    /// The destination.
    pub to: SocketAddr,
    /// The client's addresses; none lets the kernel choose.
    pub from: Vec<IpAddr>,
    /// How many.
    pub count: u32,
    /// How many are being opened, or asked, at a time.
    pub at_once: u32,
    /// How long each may take.
    pub timeout_ms: u64,
}

/// How held connections are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldReport {
    /// So many have just exchanged a byte.
    pub alive: u32,
    /// Failures since the last report, per errno name.
    pub errors: BTreeMap<String, u64>,
}
