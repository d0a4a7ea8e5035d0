//! One thing that the maps say otherwise than they should, by the names of those concerned.

use std::{fmt, net::SocketAddr};

use proxy_common::{
    address::Address,
    layout::{Backend, FrontendKey, Sets, Traits},
};

use crate::{
    cluster::model::ServiceName,
    plan::{SourceRange, operation::show},
    tables::PortName,
};

/// How many endpoints, or ranges, are named before the rest is counted.
const NAMED: usize = 3;

/// A difference between what a map says and what it should say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Difference {
    /// A frontend is not there.
    Missing {
        /// Which.
        frontend: FrontendKey,
        /// Whose, if it is anybody's.
        owner: Option<PortName>,
    },
    /// A frontend is there and is nobody's.
    Foreign {
        /// Which.
        frontend: FrontendKey,
    },
    /// A frontend leads to somebody else, or nowhere.
    Misled {
        /// Which.
        frontend: FrontendKey,
        /// Whose it should be.
        owner: Option<PortName>,
    },
    /// A service port's words are others.
    Properties {
        /// Whose.
        port: PortName,
        /// In which respect.
        what: String,
    },
    /// A service port leads to other endpoints.
    Endpoints {
        /// Whose.
        port: PortName,
        /// To whom it should lead and does not.
        lacking: Vec<Backend>,
        /// To whom it leads and should not.
        foreign: Vec<Backend>,
    },
    /// Clients are kept out who should be let in.
    KeptOut {
        /// From what.
        port: PortName,
        /// Who.
        range: SourceRange,
    },
    /// Clients are let in who should be kept out.
    LetIn {
        /// To what, if it is known.
        port: Option<PortName>,
        /// Who.
        range: SourceRange,
    },
    /// The frontends' revision is not the one that we wrote last.
    Revision,
    /// An address of the node is missing, too many, or taken for something else.
    NodeAddress {
        /// Which.
        address: Address,
        /// Its bits in the map.
        found: Option<u32>,
        /// Those that it should have.
        wanted: Option<u32>,
    },
    /// Another list of ranges, or of cgroups, than the one we wrote.
    List {
        /// The map.
        map: &'static str,
    },
    /// Packets to an address are not looked at.
    Unmarked {
        /// Which.
        address: Address,
    },
}

impl Difference {
    /// Where a service port leads, if that is not where it should.
    #[must_use]
    pub fn of_endpoints(port: &PortName, wanted: &[Backend], held: &[Backend]) -> Option<Self> {
        let without = |all: &[Backend], others: &[Backend]| {
            all.iter().filter(|one| !others.contains(one)).copied().collect()
        };
        (wanted != held).then(|| Self::Endpoints {
            port: port.clone(),
            lacking: without(wanted, held),
            foreign: without(held, wanted),
        })
    }

    /// The map, as metrics call it.
    #[must_use]
    pub fn map(&self) -> &'static str {
        match self {
            Self::Missing { .. } | Self::Foreign { .. } | Self::Misled { .. } => "frontends",
            Self::Properties { .. } => "services",
            Self::Endpoints { .. } => "backends",
            Self::KeptOut { .. } | Self::LetIn { .. } => "sources",
            Self::Revision => "revision",
            Self::NodeAddress { .. } => "node_addresses",
            Self::List { map } => map,
            Self::Unmarked { .. } => "vip_cells",
        }
    }

    /// The Service that is to be planned anew for it.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceName> {
        let port = match self {
            Self::Missing { owner, .. } | Self::Misled { owner, .. } => owner.as_ref(),
            Self::Properties { port, .. } | Self::Endpoints { port, .. } | Self::KeptOut { port, .. } => {
                Some(port)
            }
            Self::LetIn { port, .. } => port.as_ref(),
            _ => None,
        };
        port.map(|port| &port.service)
    }

    /// What it is about: the service port, if it is one's.
    #[must_use]
    pub fn object(&self) -> String {
        let or_nobody = |owner: &Option<PortName>| owner.as_ref().map_or("-".to_owned(), ToString::to_string);
        match self {
            Self::Missing { owner, .. } | Self::Misled { owner, .. } => or_nobody(owner),
            Self::Properties { port, .. } | Self::Endpoints { port, .. } | Self::KeptOut { port, .. } => {
                port.to_string()
            }
            Self::LetIn { port, .. } => or_nobody(port),
            _ => "-".to_owned(),
        }
    }

    /// What is otherwise, without whose it is.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Missing { frontend, .. } => format!("{} is missing", show(frontend)),
            Self::Foreign { frontend } => format!("{} is there and is nobody's", show(frontend)),
            Self::Misled { frontend, .. } => format!("{} leads elsewhere", show(frontend)),
            Self::Properties { what, .. } => what.clone(),
            Self::Endpoints { lacking, foreign, .. } => {
                let lacks = (!lacking.is_empty()).then(|| format!("lacks {}", some(lacking, at)));
                let has = (!foreign.is_empty()).then(|| format!("leads to {} in vain", some(foreign, at)));
                let both: Vec<String> = lacks.into_iter().chain(has).collect();
                if both.is_empty() {
                    "endpoints in another order".to_owned()
                } else {
                    format!("endpoints: {}", both.join("; "))
                }
            }
            Self::KeptOut { range, .. } => format!("{range} is kept out"),
            Self::LetIn { range, .. } => format!("{range} is let in"),
            Self::Revision => "somebody else has changed the revision of the frontends".to_owned(),
            Self::NodeAddress { address, found, wanted } => match (found, wanted) {
                (None, _) => format!("{address} is missing"),
                (_, None) => format!("{address} is there and is not the node's"),
                _ => format!("{address} is taken for something else"),
            },
            Self::List { .. } => "the list is another one".to_owned(),
            Self::Unmarked { address } => format!("packets to {address} are not looked at"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.object() {
            nobody if nobody == "-" => write!(f, "{}: {}", self.map(), self.detail()),
            object => write!(f, "{}: {object}: {}", self.map(), self.detail()),
        }
    }
}

fn at(backend: &Backend) -> String {
    SocketAddr::new(backend.address.to_ip(), backend.port.number()).to_string()
}

/// The first few, and how many there are beyond.
fn some<T>(all: &[T], show: impl Fn(&T) -> String) -> String {
    let mut shown: Vec<String> = all.iter().take(NAMED).map(show).collect();
    if all.len() > NAMED {
        shown.push(format!("{} more", all.len() - NAMED));
    }
    shown.join(", ")
}

/// A service port's words.
type Words = (Sets, Traits);

/// A name, what the words say of it, and how that is shown.
type Respect<'a> = (&'static str, fn(Words) -> u32, &'a dyn Fn(u32) -> String);

/// In which respects a service port's words are others than they should be, wherever its slots lie; `None` if in none.
#[must_use]
pub fn properties(wanted: Words, found: Words) -> Option<String> {
    let policy = |local: bool| if local { "Local" } else { "Cluster" }.to_owned();
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let respects: [Respect<'_>; 6] = [
        ("internalTrafficPolicy", |(sets, _)| sets.internal_local().into(), &|is| policy(is == 1)),
        ("externalTrafficPolicy", |(sets, _)| sets.external_local().into(), &|is| policy(is == 1)),
        ("any endpoint", |(sets, _)| sets.any_endpoint().into(), &|is| yes(is == 1)),
        ("affinity", |(_, traits)| traits.affinity_seconds(), &|seconds| format!("{seconds}s")),
        ("restricted", |(_, traits)| traits.is_restricted().into(), &|is| yes(is == 1)),
        ("the node admitted", |(_, traits)| traits.is_node_admitted().into(), &|is| yes(is == 1)),
    ];
    let differ: Vec<String> = respects
        .iter()
        .filter(|(_, of, _)| of(wanted) != of(found))
        .map(|(name, of, show)| format!("{name} is {} in place of {}", show(of(found)), show(of(wanted))))
        .collect();
    (!differ.is_empty()).then(|| differ.join("; "))
}
