//! Which flows lead to a backend that serves no more.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use proxy_common::{
    address::Address,
    layout::{Flow, FrontendKey, Tuple, flow_state, protocol, scope},
};

use super::backing::End;

/// Who serves UDP at which address and port, of some Services.
///
/// Every endpoint counts that answers: ready or not, terminating or not, here or elsewhere. So a flow stays where it
/// is when only a policy changes, as TCP's do, and as with kube-proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// NodePorts stand under the wildcard of their family.
    by_end: HashMap<End, Arc<HashSet<End>>>,
    /// Where NodePorts are.
    node: Arc<BTreeSet<Address>>,
}

impl Served {
    /// Nothing yet, on a node with these addresses.
    #[must_use]
    pub fn on(node: Arc<BTreeSet<Address>>) -> Self {
        Self { by_end: HashMap::new(), node }
    }

    /// Adds a service port: where it answers, and who serves it, if anybody. Of other protocols than UDP nothing is
    /// noted.
    pub fn add(&mut self, frontends: impl IntoIterator<Item = FrontendKey>, endpoints: &Arc<HashSet<End>>) {
        for key in frontends {
            if key.protocol == protocol::UDP && matches!(key.scope, scope::VIP | scope::NODE_PORT) {
                self.by_end.insert((key.address, key.port), Arc::clone(endpoints));
            }
        }
    }

    /// Adds what is known later, and what it says of the same frontends counts.
    pub fn extend(&mut self, later: Self) {
        self.by_end.extend(later.by_end);
        self.node = later.node;
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_end.is_empty()
    }

    /// Whether a backend is known not to serve a frontend, while others do.
    fn is_elsewhere(&self, asked: End, backend: End) -> bool {
        let (address, port) = asked;
        let node_port = || {
            let is_here = self.node.contains(&address);
            is_here.then(|| self.by_end.get(&(address.any_of_family(), port))).flatten()
        };
        let endpoints = self.by_end.get(&asked).or_else(node_port);
        endpoints.is_some_and(|endpoints| !endpoints.is_empty() && !endpoints.contains(&backend))
    }

    /// Whether a flow is to be deleted, so that the client's next datagram chooses among those who serve.
    ///
    /// Only UDP's are: a client that sends more often than a flow may be idle would never choose again, while TCP and SCTP
    /// notice that nobody answers. And only if there is somebody else: kube-proxy leaves the others alone.
    #[must_use]
    pub fn leaves(&self, key: &Tuple, flow: &Flow) -> bool {
        if key.protocol != protocol::UDP || flow.state & flow_state::CLOSING != 0 || !flow.belongs_to(key) {
            return false;
        }
        let inside = flow.inside(key);
        self.is_elsewhere((flow.vip, flow.vip_port), (inside.destination, inside.destination_port))
    }
}
