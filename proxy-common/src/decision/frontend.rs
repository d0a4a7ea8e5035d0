//! Is this destination a Service's?

use super::{Caller, Destination, Tables};
use crate::{
    address::{Address, Port},
    layout::{Frontend, FrontendKey, node_address, scope},
};

/// The frontend that `destination` belongs to, as seen by `caller`.
///
/// A VIP wins over a NodePort. NodePorts answer on the node's own addresses; on loopback addresses only for
/// sockets in the host's namespace, because in a pod 127.0.0.1 is the pod.
#[inline(always)]
pub fn find(tables: &impl Tables, caller: &impl Caller, destination: &Destination) -> Option<Frontend> {
    if let Some(frontend) = vip(tables, destination) {
        return Some(frontend);
    }
    let frontend = node_port(tables, destination)?;
    if has_node_ports(tables, caller, &destination.address) { Some(frontend) } else { None }
}

/// Whether NodePorts answer at the address, as seen by `caller`. A function of its own, so that the verifier follows one
/// way from here.
#[inline(never)]
fn has_node_ports(tables: &impl Tables, caller: &impl Caller, address: &Address) -> bool {
    if !address.is_loopback() {
        return has_node_ports_outside(tables, address);
    }
    caller.in_host_namespace()
        && tables.node_address(&address.loopback_of_family()) & node_address::NODE_PORTS != 0
}

/// Whether NodePorts answer at the address, which is the node's own beyond loopback.
#[inline(always)]
fn has_node_ports_outside(tables: &impl Tables, address: &Address) -> bool {
    const BOTH: u32 = node_address::OWN | node_address::NODE_PORTS;
    tables.node_address(address) & BOTH == BOTH
}

/// What a packet for `destination` meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnTheWire {
    /// A frontend.
    Served(Frontend),
    /// A Service's ClusterIP, but none of its ports.
    ClosedPort,
    /// Nothing of ours.
    Foreign,
}

/// What a packet for `destination` meets. One for a loopback address should not come by a device, but nobody has looked
/// at it before us: it meets nothing (CVE-2020-8558). One key serves all look-ups: the stack is short.
#[inline(always)]
pub fn on_the_wire(tables: &impl Tables, destination: &Destination) -> OnTheWire {
    let mut key = FrontendKey {
        address: destination.address,
        port: destination.port,
        protocol: destination.protocol,
        scope: scope::VIP,
    };
    if let Some(frontend) = lookup(tables, &key) {
        return OnTheWire::Served(frontend);
    }
    key.address = destination.address.any_of_family();
    key.scope = scope::NODE_PORT;
    if let Some(frontend) = lookup(tables, &key)
        && has_node_ports_outside(tables, &destination.address)
    {
        return OnTheWire::Served(frontend);
    }
    if is_cluster_ip(tables, &destination.address) { OnTheWire::ClosedPort } else { OnTheWire::Foreign }
}

/// Whether the address is some Service's ClusterIP, whatever the port, and nobody but the Service answers there. Where
/// the node itself has the address (a DNS cache on each node does that), the rest is its business.
#[inline(always)]
pub fn is_cluster_ip(tables: &impl Tables, address: &Address) -> bool {
    let key = FrontendKey { address: *address, port: Port::new(0), protocol: 0, scope: scope::ADDRESS };
    lookup(tables, &key).is_some() && tables.node_address(address) == 0
}

/// A frontend of that very address.
#[inline(always)]
fn vip(tables: &impl Tables, destination: &Destination) -> Option<Frontend> {
    let key = FrontendKey {
        address: destination.address,
        port: destination.port,
        protocol: destination.protocol,
        scope: scope::VIP,
    };
    lookup(tables, &key)
}

/// The NodePort of that number, whosever address was asked. The port comes first and the address after it: for most
/// connections of a node, which concern no Service, that is one look-up instead of two.
#[inline(always)]
fn node_port(tables: &impl Tables, destination: &Destination) -> Option<Frontend> {
    let key = FrontendKey {
        address: destination.address.any_of_family(),
        port: destination.port,
        protocol: destination.protocol,
        scope: scope::NODE_PORT,
    };
    lookup(tables, &key)
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
