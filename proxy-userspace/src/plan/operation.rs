//! What a plan consists of: writes to maps as plain values, and what could not be planned.

use std::{collections::BTreeSet, fmt};

use proxy_common::{
    address::Address,
    layout::{self, Backend, Frontend, FrontendKey, Prefix, Revision, Sets, Traits, protocol, scope},
};

use super::Capacity;
use crate::{
    cluster::model::ServiceName,
    tables::{PortName, node_ports::NodeAddresses},
};

/// One write. Nothing else ever writes to the controller's maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Says that frontends are about to change (odd) or have changed (even).
    SetRevision {
        /// The word.
        revision: Revision,
    },
    /// Deletes a frontend.
    RemoveFrontend {
        /// Which.
        key: FrontendKey,
    },
    /// Stores backends in slots that no published snapshot covers.
    WriteBackends {
        /// The first slot.
        start: u32,
        /// At least one.
        backends: Vec<Backend>,
    },
    /// Stores a service's properties.
    SetTraits {
        /// Its id.
        service: u32,
        /// The word.
        traits: Traits,
    },
    /// Publishes a service's endpoint sets.
    SetSets {
        /// Its id.
        service: u32,
        /// The word.
        sets: Sets,
    },
    /// Inserts or replaces a frontend.
    PutFrontend {
        /// Which.
        key: FrontendKey,
        /// What it leads to.
        frontend: Frontend,
    },
    /// Admits clients to a restricted service's load-balancer addresses.
    PutSource {
        /// Which clients, to which service.
        range: SourceRange,
    },
    /// Does so no longer.
    RemoveSource {
        /// Which clients, to which service.
        range: SourceRange,
    },
    /// Inserts one of the node's addresses, or says anew what it is.
    PutNodeAddress {
        /// Which.
        address: Address,
        /// Bits of [`proxy_common::layout::node_address`].
        is: u32,
    },
    /// Deletes one.
    RemoveNodeAddress {
        /// Which.
        address: Address,
    },
}

/// Clients of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceRange {
    /// Its id.
    pub service: u32,
    /// The first address.
    pub address: Address,
    /// How many of its bits count, of 32 for IPv4 and of 128 for IPv6.
    pub length: u8,
}

impl fmt::Display for SourceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl SourceRange {
    /// Whether the address is within.
    #[must_use]
    pub fn contains(&self, address: &Address) -> bool {
        Prefix::new(self.address.to_ip(), self.length).contains(address)
    }
}

/// Operations in an order of which every prefix is servable, and what they leave undone.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Number of the plan, for [`super::Planner::release`].
    pub epoch: u64,
    /// To be carried out in this order.
    pub operations: Vec<Operation>,
    /// For people.
    pub problems: Vec<Problem>,
    /// Services to plan again when something has been released.
    pub unplaced: BTreeSet<ServiceName>,
}

/// Something desired that the maps do not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Another Service has the frontend.
    Contested {
        /// Who wanted it.
        port: PortName,
        /// What.
        frontend: FrontendKey,
        /// Who has it.
        holder: PortName,
    },
    /// More endpoints than one set can hold.
    TooManyEndpoints {
        /// Whose.
        port: PortName,
        /// How many get no traffic.
        left_out: usize,
    },
    /// The frontends map is full.
    NoFrontend {
        /// Whose.
        port: PortName,
        /// Which.
        frontend: FrontendKey,
        /// What fits.
        capacity: Capacity,
    },
    /// The services map is full.
    NoService {
        /// Whose.
        port: PortName,
        /// What fits.
        capacity: Capacity,
    },
    /// The trie of admitted clients is full.
    NoSource {
        /// Whose.
        port: PortName,
        /// How many ranges are not admitted.
        left_out: usize,
    },
    /// The backends map has no free run of that length.
    NoBackends {
        /// Whose.
        port: PortName,
        /// How many slots.
        wanted: u32,
        /// What fits.
        capacity: Capacity,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contested { port, frontend, holder } => {
                write!(f, "{port}: {} is served for {holder}, which has the better claim", show(frontend))
            }
            Self::TooManyEndpoints { port, left_out } => {
                write!(f, "{port}: {left_out} endpoints beyond 65,535 get no traffic; split the Service")
            }
            Self::NoFrontend { port, frontend, capacity } => write!(
                f,
                "{port}: {} is not served, the frontends map is full ({} entries); raise --max-frontends",
                show(frontend),
                capacity.frontends
            ),
            Self::NoService { port, capacity } => write!(
                f,
                "{port}: not served, the services map is full ({} entries); raise --max-services",
                capacity.services
            ),
            Self::NoSource { port, left_out } => write!(
                f,
                "{port}: {left_out} of its source ranges are not admitted, the map of them is full ({} entries); use \
                 fewer and wider ones",
                layout::SOURCES
            ),
            Self::NoBackends { port, wanted, capacity } => write!(
                f,
                "{port}: its {wanted} endpoints do not fit, the backends map has no such run free ({} entries); it \
                 keeps the endpoints it had; raise --max-backends",
                capacity.backends
            ),
        }
    }
}

/// A frontend as people write it: `10.96.0.1:80/TCP`, `*:30080/UDP (IPv4)`.
#[must_use]
pub fn show(key: &FrontendKey) -> String {
    let protocol = match key.protocol {
        protocol::TCP => "TCP".to_owned(),
        protocol::UDP => "UDP".to_owned(),
        protocol::SCTP => "SCTP".to_owned(),
        other => other.to_string(),
    };
    let port = key.port.number();
    match (key.scope, key.address.to_ip()) {
        (scope::NODE_PORT, ip) => {
            format!("*:{port}/{protocol} ({})", if ip.is_ipv4() { "IPv4" } else { "IPv6" })
        }
        (scope::ADDRESS, ip) => format!("{ip}, whatever port"),
        (_, std::net::IpAddr::V4(ip)) => format!("{ip}:{port}/{protocol}"),
        (_, std::net::IpAddr::V6(ip)) => format!("[{ip}]:{port}/{protocol}"),
    }
}

impl Problem {
    /// Whose problem it is.
    #[must_use]
    pub fn port(&self) -> &PortName {
        match self {
            Self::Contested { port, .. }
            | Self::TooManyEndpoints { port, .. }
            | Self::NoFrontend { port, .. }
            | Self::NoService { port, .. }
            | Self::NoSource { port, .. }
            | Self::NoBackends { port, .. } => port,
        }
    }
}

/// What to do so that the node's addresses are `wanted`: new ones first.
#[must_use]
pub fn node_addresses(observed: &NodeAddresses, wanted: &NodeAddresses) -> Vec<Operation> {
    let put = wanted
        .iter()
        .filter(|(address, is)| observed.get(address) != Some(is))
        .map(|(address, is)| Operation::PutNodeAddress { address: *address, is: *is });
    let remove = observed
        .keys()
        .filter(|address| !wanted.contains_key(address))
        .map(|address| Operation::RemoveNodeAddress { address: *address });
    put.chain(remove).collect()
}
