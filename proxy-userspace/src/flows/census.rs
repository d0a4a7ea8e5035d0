//! How many flows there are of which kind, and how many source ports they take.

use std::{collections::HashMap, fmt, net::SocketAddr};

use proxy_common::{
    address::{Address, Port},
    layout::{Flow, PortRanges, Tuple, flow_state, protocol},
};

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The client has not said anything after an answer.
    Nascent = 0,
    /// It has.
    Established = 1,
    /// Both sides are done, or one broke it off.
    Closing = 2,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Nascent, Self::Established, Self::Closing];

    /// The stage of a flow in this state.
    #[must_use]
    pub fn of(state: u32) -> Self {
        if state & flow_state::CLOSING != 0 {
            Self::Closing
        } else if state & flow_state::ESTABLISHED != 0 {
            Self::Established
        } else {
            Self::Nascent
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nascent => "nascent",
            Self::Established => "established",
            Self::Closing => "closing",
        }
    }
}

/// The protocols that flows can have, and their names.
pub const PROTOCOLS: [(u8, &str); 3] =
    [(protocol::TCP, "TCP"), (protocol::UDP, "UDP"), (protocol::SCTP, "SCTP")];

/// What source ports are taken for: no two flows of one crowd may have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Crowd {
    /// The node's address.
    pub masquerade: Address,
    /// The backend.
    pub backend: (Address, Port),
    /// IP protocol number.
    pub protocol: u8,
}

impl fmt::Display for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, port) = self.backend;
        write!(f, "{} as {}", SocketAddr::new(address.to_ip(), port.number()), self.masquerade)
    }
}

/// Flows, counted one by one.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// All.
    pub flows: u32,
    /// Those whose backend sees an address of the node.
    pub masqueraded: u32,
    kinds: [[u32; Stage::ALL.len()]; PROTOCOLS.len()],
    crowds: HashMap<Crowd, u32>,
}

impl Census {
    /// Counts a flow. Of ports, only those that a new flow could take count.
    pub fn count(&mut self, key: &Tuple, flow: &Flow, ports: PortRanges) {
        self.flows += 1;
        if let Some(protocol) = PROTOCOLS.iter().position(|(number, _)| *number == key.protocol) {
            self.kinds[protocol][Stage::of(flow.state) as usize] += 1;
        }
        if !flow.is_masqueraded() {
            return;
        }
        self.masqueraded += 1;
        let answer = flow.answered(key);
        if ports.contains(answer.destination_port) {
            let crowd = Crowd {
                masquerade: answer.destination,
                backend: (answer.source, answer.source_port),
                protocol: answer.protocol,
            };
            *self.crowds.entry(crowd).or_default() += 1;
        }
    }

    /// Flows by protocol and stage.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, Stage, u32)> {
        PROTOCOLS.iter().zip(&self.kinds).flat_map(|((_, name), counts)| {
            Stage::ALL.into_iter().zip(counts).map(|(stage, count)| (*name, stage, *count))
        })
    }

    /// How many ports a crowd takes.
    #[must_use]
    pub fn taken(&self, crowd: &Crowd) -> u32 {
        self.crowds.get(crowd).copied().unwrap_or_default()
    }

    /// Which share of the ports each crowd takes.
    pub fn shares(&self, ports: PortRanges) -> impl Iterator<Item = (Crowd, f64)> {
        let available = f64::from(ports.len());
        self.crowds.iter().map(move |(crowd, taken)| (*crowd, f64::from(*taken) / available))
    }
}
