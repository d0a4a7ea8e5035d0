//! Is this destination a Service's?

use super::{Caller, Destination, Tables};
use crate::layout::{Frontend, FrontendKey, scope};

/// The frontend that `destination` belongs to, as seen by `caller`.
///
/// A VIP wins over a NodePort. NodePorts answer on the node's own addresses; on loopback addresses only for
/// sockets in the host's namespace, because in a pod 127.0.0.1 is the pod.
#[inline(always)]
pub fn find(tables: &impl Tables, caller: &impl Caller, destination: &Destination) -> Option<Frontend> {
    let mut key = FrontendKey {
        address: destination.address,
        port: destination.port,
        protocol: destination.protocol,
        scope: scope::VIP,
    };
    if let Some(frontend) = lookup(tables, &key) {
        return Some(frontend);
    }
    key.address = destination.address.any_of_family();
    key.scope = scope::NODE_PORT;
    // First the port, then whose address it is: for most connections of a node, which concern no Service,
    // that is one look-up instead of two.
    let frontend = lookup(tables, &key)?;
    let ours = if destination.address.is_loopback() {
        caller.in_host_namespace()
    } else {
        tables.is_node_address(&destination.address)
    };
    if ours { Some(frontend) } else { None }
}

/// A look-up that does not fall for a hash element reused under its eyes, see [`Frontend::sealed`].
#[inline(always)]
fn lookup(tables: &impl Tables, key: &FrontendKey) -> Option<Frontend> {
    let first = tables.frontend(key)?;
    if first.belongs_to(key) {
        return Some(first);
    }
    // Our element was replaced while we read it; its successor is already linked.
    let second = tables.frontend(key)?;
    if second.belongs_to(key) { Some(second) } else { None }
}
