//! What is measured, and how.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Latencies in nanoseconds, as a histogram that can be merged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// The shortest.
    pub min: u64,
    /// The mean.
    pub mean: f64,
    /// Half were shorter.
    pub p50: u64,
    /// 90 % were shorter.
    pub p90: u64,
    /// 99 % were shorter.
    pub p99: u64,
    /// 99.9 % were shorter.
    pub p999: u64,
    /// The longest.
    pub max: u64,
    /// Value and count, with three significant digits.
    pub buckets: Vec<(u64, u64)>,
}

/// A closed loop that runs for a while as fast as it can.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BenchSlice {
    /// The destination.
    pub to: SocketAddr,
    /// Use the v4-mapped address on an IPv6 socket.
    pub mapped: bool,
    /// How long.
    pub for_ms: u64,
    /// By how many threads at once.
    pub workers: u32,
    /// What is repeated.
    pub load: Load,
}

/// What a benchmark repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// connect, one byte there, one byte back, close.
    Connects {
        /// Close with a reset (SO_LINGER 0), which leaves no TIME_WAIT and so never runs out of ports.
        reset: bool,
    },
    /// Request and response on one established and warm TCP connection per worker.
    RequestResponse {
        /// Bytes each way.
        size: usize,
    },
    /// One direction on one established and warm TCP connection per worker.
    Throughput {
        /// Bytes per write.
        chunk: usize,
    },
    /// Request and response in datagrams, one socket per worker.
    Datagrams {
        /// Bytes each way.
        size: usize,
        /// Connect the socket first, instead of sendto.
        connected: bool,
    },
}

/// What a benchmark slice gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SliceReport {
    /// Whole repetitions.
    pub count: u64,
    /// Bytes sent (only [`Load::Throughput`]), all of which arrived: the server counts.
    pub bytes: u64,
    /// How long it really took, without what comes before on a connection that has to be warm.
    pub elapsed_ns: u64,
    /// Time of connect alone, for [`Load::Connects`].
    pub connect: Latency,
    /// Time of whole repetitions.
    pub whole: Latency,
    /// Failures per errno name.
    pub errors: BTreeMap<String, u64>,
}
