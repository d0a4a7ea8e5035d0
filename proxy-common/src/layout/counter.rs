//! What the programs count.

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
}

impl Counter {
    /// How many there are.
    pub const COUNT: u32 = 5;
    /// All of them, in order of their index.
    pub const ALL: [Self; Self::COUNT as usize] =
        [Self::Connected, Self::Associated, Self::Refused, Self::Unreachable, Self::NoMemory];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Associated => "associated",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NoMemory => "no_memory",
        }
    }
}
