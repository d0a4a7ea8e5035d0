//! Where kubeshunt does something else than kube-proxy, on purpose: `docs/differences.md`, as far as it bears on where a
//! connection goes. Each item says what kube-proxy does.
//!
//! What needs no rule of its own: where kube-proxy drops, a socket is told EHOSTUNREACH; a slice whose label moves to
//! another Service moves; who is a local pod follows from where its packet comes in, not from its address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::endpoints::Usable;
use super::frontends::{self, Claim, Kind, PortId};
use super::objects::World;
use super::{Answer, Probe, Source, Who};

/// One address claimed by several Services. kube-proxy: whichever it writes last.
/// Here: by kind, then the older, then by name.
pub(crate) fn winner<'a>(claims: impl Iterator<Item = &'a Claim>) -> Option<&'a Claim> {
    claims.min_by_key(|claim| (claim.kind, claim.created, claim.port.service.clone()))
}

/// Loopback as external or load-balancer IP. kube-proxy: rules that are never met. Here: left out.
pub(crate) fn is_left_out(address: IpAddr) -> bool {
    address.is_loopback()
}

/// Of two endpoints with one address and port, whether the later replaces the earlier. kube-proxy: whenever the later
/// does not terminate, in the order of a map. Here: in the order of the slices' names, and only one that does.
pub(crate) fn replaces(earlier_terminates: bool, later_terminates: bool) -> bool {
    earlier_terminates && !later_terminates
}

/// NodePorts at loopback. kube-proxy: IPv4 only, in iptables mode only. Here: both, for the node's own sockets; a
/// setting that admits no loopback keeps them out. The kernel takes the unspecified address for loopback.
pub(crate) fn answers_node_ports_at_loopback(world: &World, probe: &Probe) -> bool {
    let loopback: IpAddr =
        if probe.to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    matches!(probe.who, Who::HostSocket(_)) && frontends::admits_node_ports(world, loopback)
}

/// Closed ports of ClusterIPs. kube-proxy (nftables): refused. Here: packets are; sockets are let go, and their packets
/// refused; and where the node has the address itself, somebody may listen there.
pub(crate) fn leaves_closed_ports_alone(world: &World, probe: &Probe) -> bool {
    probe.who.is_socket() || world.interfaces.contains(&probe.to.ip())
}

/// Whether source ranges hold the node, which may then come from the load-balancer address as well. kube-proxy: its first
/// address of the family. Here: any that the Node object names.
pub(crate) fn admits_node(world: &World, contains: impl Fn(&IpAddr) -> bool) -> bool {
    world.node_object.iter().any(contains)
}

/// Source ranges where there is no source yet. kube-proxy: by the packet's source. Here: a process of the node that is bound
/// to nothing by the Node object's addresses; a pod's socket is let go, and its packets judged.
/// `None` where there is a source; `Some(None)` lets in.
pub(crate) fn firewall_without_source(
    world: &World,
    probe: &Probe,
    contains: impl Fn(&IpAddr) -> bool,
) -> Option<Option<Answer>> {
    let is_allowed = match probe.who {
        Who::PodSocket(_) => return Some(Some(Answer::NotAService)),
        Who::HostSocket(None) => admits_node(world, contains),
        Who::HostSocket(Some(_)) | Who::PodPacket(_) | Who::OutsidePacket(_) => return None,
    };
    Some((!is_allowed).then_some(Answer::Dropped))
}

/// Whose address the endpoint sees. kube-proxy: the node's, if `is_masqueraded`. Here: only where the answer would not come
/// back through this node by itself. Sockets translate nothing but the destination.
pub(crate) fn source(is_masqueraded: bool, endpoint: &Usable, who: Who) -> Source {
    let is_itself = who.address() == Some(endpoint.at.ip());
    let comes_back = match who {
        Who::PodSocket(_) | Who::HostSocket(_) => true,
        Who::PodPacket(_) => !is_itself,
        Who::OutsidePacket(_) => endpoint.is_local && !is_itself,
    };
    if is_masqueraded && !comes_back { Source::Masqueraded } else { Source::Kept }
}

/// Who counts as one client. kube-proxy: a source address. Here: at sockets a pod, or the node as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    Node,
    Pod(u8),
    Address(IpAddr),
}

/// See [`Client`].
pub(crate) fn client(who: Who) -> Client {
    match who {
        Who::PodSocket(pod) => Client::Pod(pod),
        Who::HostSocket(_) => Client::Node,
        Who::PodPacket(own) | Who::OutsidePacket(own) => Client::Address(own),
    }
}

/// kube-proxy: a client may have records at several endpoints, and go back. Here: one row per client and service port.
pub(crate) fn forget_elsewhere(
    last: &mut BTreeMap<(PortId, Client, SocketAddr), u64>,
    port: &PortId,
    client: &Client,
) {
    last.retain(|(own, who, _), _| own != port || who != client);
}

/// When a record goes, of a service port that is still there. kube-proxy: with the last rule that leads to the endpoint,
/// and when affinity is turned off. Here: it stays with the client's row.
pub(crate) fn keeps_record(_has_affinity: bool, _is_reachable: bool) -> bool {
    true
}

/// A datagram of an unconnected socket that has sent to this Service before. kube-proxy: to the same endpoint until the
/// conntrack entry times out. Here: for as long as the endpoint is among those that it may go to.
pub(crate) fn keeps_endpoint(kept: SocketAddr, answer: &Answer) -> bool {
    matches!(answer, Answer::To(set) if set.contains_key(&kept))
}

/// A restart during which frontends have changed. kube-proxy: finds everything by name. Here: a service port finds itself by
/// what its frontends lead to. One whose frontends are no longer the same may be a new one, with no records or those of
/// another, see [`is_inherited`].
pub(crate) fn is_lost_at_restart(before: &[Claim], after: &[Claim], port: &PortId) -> bool {
    let its = |claims: &[Claim]| -> BTreeSet<(SocketAddr, Kind)> {
        let is_its = |claim: &&Claim| {
            let is_rival = |other: &&Claim| {
                (other.at, other.port.protocol) == (claim.at, claim.port.protocol)
                    && (other.kind == Kind::NodePort) == (claim.kind == Kind::NodePort)
            };
            claim.port == *port && winner(claims.iter().filter(is_rival)) == Some(*claim)
        };
        claims.iter().filter(is_its).map(|claim| (claim.at, claim.kind)).collect()
    };
    its(before) != its(after) || its(before).is_empty()
}

/// What becomes of the records of a service port that is gone. kube-proxy: they are gone as well. Here: the next service
/// port to get its number finds them, and is bound by those whose endpoint it has too.
pub(crate) fn is_inherited(is_heir: bool, has_affinity: bool, expected: &Answer, found: &Answer) -> bool {
    let (Answer::To(expected), Answer::To(found)) = (expected, found) else { return false };
    let is_one_of_them = found.len() == 1 && found.iter().all(|(at, own)| expected.get(at) == Some(own));
    is_heir && has_affinity && is_one_of_them
}
