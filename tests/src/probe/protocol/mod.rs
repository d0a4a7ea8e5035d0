//! What the harness and a probe say to each other: one JSON object a line, one answer per request.
//!
//! Invariant: only plain data. Times named `_ns` without "elapsed" or "latency" are points on
//! CLOCK_MONOTONIC, comparable between all processes of the machine.

mod aim;
mod load;
mod measure;
mod trickle;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use self::aim::{Aim, Aimed};
pub use self::load::{Digests, EchoDatagrams, HeldReport, Hold, Transfer, TransferReport};
pub use self::measure::{BenchSlice, Latency, Load, SliceReport};
pub use self::trickle::{Trickle, TrickleReport};

/// What a probe is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Restrict this probe, and the threads it starts from now on, to these processors.
    Pin(Vec<usize>),
    /// Start a listener. Answer: [`Response::Listening`].
    Serve(Listener),
    /// Close a listener, and with `connections` what it accepted, too. Answer: [`Response::Done`].
    StopServing {
        /// The number that `Serve` gave.
        listener: u64,
        /// Also close the connections it holds.
        connections: bool,
    },
    /// Ask a server who it is, many times. Answer: [`Response::Asked`].
    Ask {
        /// Whom and how.
        target: Target,
        /// How often.
        times: u32,
        /// By how many threads at once.
        concurrency: u32,
    },
    /// One UDP socket, several destinations in turn. Answer: [`Response::Exchanged`].
    OneSocket(OneSocket),
    /// What getsockname and getpeername say on a connected socket. Answer: [`Response::Names`].
    Names(Target),
    /// Connect many sockets and see where that leads. Answer: [`Response::Aimed`].
    Aim(Vec<Aim>),
    /// Open a socket to be used again and again. Answer: [`Response::Kept`].
    SocketOpen(KeptSocket),
    /// Ask by that socket, one destination after the other. Answer: [`Response::Exchanged`].
    SocketAsk {
        /// The number that `SocketOpen` gave.
        socket: u64,
        /// The destinations, in turn.
        to: Vec<SocketAddr>,
    },
    /// Wait until something comes to that socket, be it an error. Answer: [`Response::Waited`].
    SocketWait {
        /// The number that `SocketOpen` gave.
        socket: u64,
    },
    /// Close that socket. Answer: [`Response::Done`].
    SocketClose {
        /// The number that `SocketOpen` gave.
        socket: u64,
    },
    /// Open a long-lived TCP connection to an echo. Answer: [`Response::Session`].
    SessionOpen(Target),
    /// Send lines on a session and read them back. Answer: [`Response::SessionHealth`].
    SessionExchange {
        /// The number that `SessionOpen` gave.
        session: u64,
        /// How many lines.
        times: u32,
    },
    /// Close a session. Answer: [`Response::Done`].
    SessionClose {
        /// The number that `SessionOpen` gave.
        session: u64,
    },
    /// Ask in the background until told to stop. Answer: [`Response::Stream`].
    StreamStart(StreamSpec),
    /// Look at a running stream. Answer: [`Response::Streamed`].
    StreamPeek {
        /// The number that `StreamStart` gave.
        stream: u64,
    },
    /// End a stream. Answer: [`Response::Streamed`].
    StreamStop {
        /// The number that `StreamStart` gave.
        stream: u64,
    },
    /// Send datagrams at a steady pace in the background. Answer: [`Response::Trickle`].
    TrickleStart(Trickle),
    /// Look at a running trickle. Answer: [`Response::Trickled`].
    TricklePeek {
        /// The number that `TrickleStart` gave.
        trickle: u64,
    },
    /// End a trickle. Answer: [`Response::Trickled`].
    TrickleStop {
        /// The number that `TrickleStart` gave.
        trickle: u64,
    },
    /// When datagrams of trickles came to the UDP servers of this probe. Answer: [`Response::Ticks`].
    Ticks,
    /// Measure for a while. Answer: [`Response::Measured`].
    Bench(BenchSlice),
    /// Send much and receive as much. Answer: [`Response::Transferred`].
    Transfer(Transfer),
    /// Have datagrams of random bytes echoed. Answer: [`Response::Echoed`].
    EchoDatagrams(EchoDatagrams),
    /// Open very many connections. Answer: [`Response::Held`].
    Hold(Hold),
    /// Exchange a byte on each of them. Answer: [`Response::Held`].
    HeldExchange {
        /// The number that `Hold` gave.
        held: u64,
    },
    /// Close them. Answer: [`Response::Done`].
    HeldClose {
        /// The number that `Hold` gave.
        held: u64,
    },
}

/// What a probe answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Nothing to say.
    Done,
    /// A listener works.
    Listening {
        /// Its number.
        listener: u64,
        /// Where it listens; tells the port when none was asked for.
        address: SocketAddr,
    },
    /// See [`Request::Ask`].
    Asked(AskReport),
    /// See [`Request::OneSocket`].
    Exchanged(Vec<Exchange>),
    /// See [`Request::Names`].
    Names(SocketNames),
    /// See [`Request::Aim`].
    Aimed(Vec<Aimed>),
    /// A socket is open.
    Kept {
        /// Its number.
        socket: u64,
    },
    /// See [`Request::SocketWait`]: whether a datagram came, or an error.
    Waited(Result<(), Failure>),
    /// See [`Request::SessionOpen`].
    Session(SessionOpened),
    /// See [`Request::SessionExchange`].
    SessionHealth(SessionHealth),
    /// A stream runs.
    Stream {
        /// Its number.
        stream: u64,
    },
    /// See [`Request::StreamStop`].
    Streamed(StreamReport),
    /// A trickle runs.
    Trickle {
        /// Its number.
        trickle: u64,
    },
    /// See [`Request::TrickleStop`].
    Trickled(TrickleReport),
    /// See [`Request::Ticks`].
    Ticks(Vec<u64>),
    /// See [`Request::Bench`].
    Measured(SliceReport),
    /// See [`Request::Transfer`].
    Transferred(TransferReport),
    /// See [`Request::EchoDatagrams`]: who sent each echo, which was as it should be.
    Echoed(Vec<Result<SocketAddr, Failure>>),
    /// See [`Request::Hold`].
    Held {
        /// Their number.
        held: u64,
        /// How they are.
        report: HeldReport,
    },
    /// The request could not be carried out at all.
    Failed(String),
}

/// A server that answers with its own name and the client address it saw.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listener {
    /// Where; port 0 lets the kernel choose.
    pub bind: SocketAddr,
    /// How it serves.
    pub service: Service,
}

/// The kinds of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// TCP for every request of a probe: who, echo, request and response, throughput.
    Tcp,
    /// TCP that accepts, holds the connection open and never answers.
    TcpSilent,
    /// TCP for [`Load::Connects`], [`Load::RequestResponse`] up to 1 KiB and [`Load::Throughput`], with blocking calls
    /// and as few of them as possible.
    TcpTurnaround {
        /// How many connections are served at a time.
        threads: u32,
    },
    /// UDP: who and echo.
    Udp,
}

/// Whom to talk to, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The destination.
    pub to: SocketAddr,
    /// The protocol and the system calls used.
    pub method: Method,
    /// Reach an IPv4 destination by its v4-mapped address, on an IPv6 socket.
    pub mapped: bool,
    /// How long connecting, and each wait for an answer, may take.
    pub timeout_ms: u64,
    /// UDP: fill the request, and have the reply filled, to this many bytes.
    pub padding: usize,
    /// Bind to this address first.
    pub from: Option<SocketAddr>,
    /// Have connect and sendto on a non-blocking socket, as event loops do.
    #[serde(default)]
    pub nonblocking: bool,
}

/// A protocol and the system calls used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// connect, send, recv.
    Tcp,
    /// connect, send, recv on a datagram socket.
    UdpConnected,
    /// sendto, recvfrom; every time on a new socket.
    UdpUnconnected {
        /// Look at the reply with MSG_PEEK first; both must show the same sender.
        peek: bool,
    },
}

/// What many questions gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AskReport {
    /// Answers per server name.
    pub answered: BTreeMap<String, u64>,
    /// The client addresses that servers saw.
    pub seen_as: BTreeSet<IpAddr>,
    /// Replies per sender address (what recvfrom or getpeername shows).
    pub senders: BTreeMap<SocketAddr, u64>,
    /// Failures per errno name, such as `ECONNREFUSED`; `TIMEOUT` and `CLOSED` are the probe's own.
    pub errors: BTreeMap<String, u64>,
    /// The first thousand failures.
    pub failures: Vec<Failure>,
    /// Of answered questions: the time of connect alone (TCP), or to the answer (UDP).
    pub latency: Latency,
}

/// One failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The name of the errno, or `TIMEOUT`, `CLOSED` or `GARBLED`.
    pub error: String,
    /// The system call.
    pub call: String,
    /// How long the question had taken.
    pub elapsed_ns: u64,
    /// When it failed.
    pub at_ns: u64,
}

/// One UDP socket that is used several times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OneSocket {
    /// The destinations, in turn; the same one may come again.
    pub to: Vec<SocketAddr>,
    /// Connect to each in turn instead of sendto.
    pub reconnect: bool,
    /// Use an IPv6 socket for IPv4 destinations.
    pub mapped: bool,
    /// How long each wait for an answer may take.
    pub timeout_ms: u64,
}

/// A socket that outlives a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSocket {
    /// The protocol, and whether it is connected anew for every question. A TCP socket is taken apart
    /// (connect to AF_UNSPEC) before it is connected again.
    pub method: Method,
    /// An IPv6 socket, which reaches IPv4 destinations by their v4-mapped addresses.
    pub v6: bool,
    /// How long connecting, and each wait for an answer, may take.
    pub timeout_ms: u64,
}

/// One step of [`OneSocket`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Where it went.
    pub to: SocketAddr,
    /// What came back.
    pub result: Result<Answer, Failure>,
}

/// One answer of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The name of the server.
    pub by: String,
    /// The client address that the server saw.
    pub seen_as: SocketAddr,
    /// The sender that recvfrom shows, or the peer that getpeername shows.
    pub sender: SocketAddr,
    /// See [`AskReport::latency`].
    pub latency_ns: u64,
}

/// The two names of a connected socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketNames {
    /// getsockname.
    pub local: SocketAddr,
    /// getpeername.
    pub peer: SocketAddr,
    /// Who answered on it.
    pub by: String,
}

/// An open session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOpened {
    /// Its number.
    pub session: u64,
    /// What its server said first.
    pub answer: Answer,
    /// getsockname.
    pub local: SocketAddr,
}

/// Whether a session still works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionHealth {
    /// Lines that came back since it was opened.
    pub exchanged: u64,
    /// What broke it, if it is broken.
    pub broken: Option<Failure>,
}

/// A stream of questions in the background.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StreamSpec {
    /// Whom and how.
    pub target: Target,
    /// By how many threads at once.
    pub concurrency: u32,
    /// The pause of each thread after each question.
    pub pause_us: u64,
    /// Keep every single record, not only the aggregates.
    pub keep_records: bool,
}

/// What a stream has seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamReport {
    /// The aggregates.
    pub asked: AskReport,
    /// When each server answered first and last.
    pub servers: BTreeMap<String, Seen>,
    /// When each error happened first and last.
    pub errors: BTreeMap<String, Seen>,
    /// Every question, by the time its connection (TCP) or answer (UDP) came, if they were to be kept.
    pub records: Vec<Record>,
}

/// First and last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When first.
    pub first_ns: u64,
    /// When last.
    pub last_ns: u64,
    /// How often.
    pub count: u64,
}

/// One question of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was begun.
    pub begun_ns: u64,
    /// When it was decided.
    pub done_ns: u64,
    /// The name of the server, or the error.
    pub result: Result<String, String>,
}

impl Target {
    /// TCP to `to`, with a time limit of two seconds.
    #[must_use]
    pub fn tcp(to: SocketAddr) -> Self {
        Self {
            to,
            method: Method::Tcp,
            mapped: false,
            timeout_ms: 2_000,
            padding: 0,
            from: None,
            nonblocking: false,
        }
    }

    /// UDP to `to` on a connected socket.
    #[must_use]
    pub fn udp_connected(to: SocketAddr) -> Self {
        Self { method: Method::UdpConnected, ..Self::tcp(to) }
    }

    /// UDP to `to` with sendto and recvfrom.
    #[must_use]
    pub fn udp(to: SocketAddr) -> Self {
        Self { method: Method::UdpUnconnected { peek: false }, ..Self::tcp(to) }
    }

    /// The same by the v4-mapped address, on an IPv6 socket.
    #[must_use]
    pub fn mapped(self) -> Self {
        Self { mapped: true, ..self }
    }

    /// The same with another time limit.
    #[must_use]
    pub fn timeout_ms(self, timeout_ms: u64) -> Self {
        Self { timeout_ms, ..self }
    }

    /// The same from this address.
    #[must_use]
    pub fn sent_from(self, from: SocketAddr) -> Self {
        Self { from: Some(from), ..self }
    }

    /// The same on a non-blocking socket.
    #[must_use]
    pub fn nonblocking(self) -> Self {
        Self { nonblocking: true, ..self }
    }

    /// The same with datagrams of this size.
    #[must_use]
    pub fn padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }
}

impl AskReport {
    /// Questions that were answered.
    #[must_use]
    pub fn successes(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Questions that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}
