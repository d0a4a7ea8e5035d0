//! What the programs count.

use super::map_type;

/// Index into [`crate::layout::map::COUNTERS`].
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counter {
    /// A connect() was sent to a backend.
    Connected = 0,
    /// A datagram of an unconnected socket chose a backend (datagrams that reuse the choice do not count).
    Associated = 1,
    /// Refused: the service has no endpoint.
    Refused = 2,
    /// Refused: the service has endpoints, but none for this caller.
    Unreachable = 3,
    /// Refused: no memory for the socket's state.
    NoMemory = 4,
    /// A packet opened a flow to a backend.
    PacketOpened = 5,
    /// A packet was refused: the service has no endpoint.
    PacketNoEndpoint = 6,
    /// A packet was dropped: the service has endpoints, but none for this client.
    PacketNoLocalEndpoint = 7,
    /// A packet was refused: no Service has that port or protocol of a ClusterIP.
    PacketClosedPort = 8,
    /// A packet was dropped: it was about to leave the node for an address that only Services have.
    PacketUnassigned = 9,
    /// A packet was refused: every source port tried for its backend is taken.
    PacketPortsExhausted = 10,
    /// A packet was refused: the map of flows is full.
    PacketFlowsFull = 11,
    /// A packet was dropped: the node has no route to its backend, or no address towards it.
    PacketNoRoute = 12,
    /// A packet passed whose headers do not hold together.
    PacketMalformed = 13,
    /// A fragment was dropped: what it belongs to is unknown, or there was no room to keep it.
    PacketFragmentLost = 14,
    /// A packet was dropped: the kernel did not let it be rewritten.
    PacketFailed = 15,
    /// A packet was dropped: its Service keeps clients outside from its load-balancer addresses.
    PacketDenied = 16,
}

impl Counter {
    /// How many there are.
    pub const COUNT: u32 = 17;
    /// All of them, in order of their index.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Connected,
        Self::Associated,
        Self::Refused,
        Self::Unreachable,
        Self::NoMemory,
        Self::PacketOpened,
        Self::PacketNoEndpoint,
        Self::PacketNoLocalEndpoint,
        Self::PacketClosedPort,
        Self::PacketUnassigned,
        Self::PacketPortsExhausted,
        Self::PacketFlowsFull,
        Self::PacketNoRoute,
        Self::PacketMalformed,
        Self::PacketFragmentLost,
        Self::PacketFailed,
        Self::PacketDenied,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Associated => "associated",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NoMemory => "no_memory",
            Self::PacketOpened => "packet_opened",
            Self::PacketNoEndpoint => "packet_no_endpoint",
            Self::PacketNoLocalEndpoint => "packet_no_local_endpoint",
            Self::PacketClosedPort => "packet_closed_port",
            Self::PacketUnassigned => "packet_unassigned",
            Self::PacketPortsExhausted => "packet_ports_exhausted",
            Self::PacketFlowsFull => "packet_flows_full",
            Self::PacketNoRoute => "packet_no_route",
            Self::PacketMalformed => "packet_malformed",
            Self::PacketFragmentLost => "packet_fragment_lost",
            Self::PacketFailed => "packet_failed",
            Self::PacketDenied => "packet_denied",
        }
    }
}

/// What became of who asked for a Service: index into [`Fates::counts`].
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// A socket's connect() was sent to a backend.
    Connected = 0,
    /// An unconnected socket has chosen a backend for its datagrams.
    Associated = 1,
    /// A packet has opened a flow.
    Opened = 2,
    /// Refused: the service has no endpoint.
    Refused = 3,
    /// The service has endpoints, but none for this caller: refused at the socket, dropped on the wire.
    NoLocalEndpoint = 4,
    /// The service keeps this client out.
    Denied = 5,
    /// A packet could not open a flow: no route, no room, no port.
    Failed = 6,
}

impl Fate {
    /// How many there are.
    pub const COUNT: usize = 7;
    /// All of them, in order of their index.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Connected,
        Self::Associated,
        Self::Opened,
        Self::Refused,
        Self::NoLocalEndpoint,
        Self::Denied,
        Self::Failed,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Associated => "associated",
            Self::Opened => "opened",
            Self::Refused => "refused",
            Self::NoLocalEndpoint => "no_local_endpoint",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

map_type! {
    /// How many met which [`Fate`] at one service, since the map was created, whoever had the id. As long as a cache line:
    /// services do not disturb each other.
    pub struct Fates [64] {
        /// By fate; the last is unused.
        counts: [u64; 8],
    }
}
