//! What happens, one step after the other.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use super::super::oracle::frontends::{self, Claim, Kind};
use super::super::oracle::objects::{Name, NodePortAddresses, Policy, Protocol, Service, Slice, Type, World};
use super::super::oracle::{Probe, Who};
use super::pools::{NODE_PORTS, NUMBERS, PODS, interfaces, pods, vips};
use super::services::{
    any_affinity, any_node_port_addresses, any_policy, any_service, any_service_name, any_type,
};
use super::slices::{any_conditions, any_slice, any_slice_name};

/// A step.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    PutService(Name, Box<Service>),
    DeleteService(Name),
    /// Changes one of the Services there are.
    EditService(Index, Edit),
    PutSlice(Name, Slice),
    DeleteSlice(Name),
    /// Changes the conditions of an endpoint of one of the slices there are.
    EditEndpoint(Index, Index, [Option<bool>; 3]),
    /// Takes an endpoint out of one of the slices there are.
    DropEndpoint(Index, Index),
    /// The node's zone.
    Zone(Option<&'static str>),
    /// What the Node object says its addresses are.
    NodeObject(Vec<IpAddr>),
    /// Where NodePorts answer.
    NodePorts(NodePortAddresses),
    /// What is on its interfaces.
    Interfaces(BTreeSet<IpAddr>),
    /// Another process takes over.
    Restart,
    /// Seconds pass.
    Wait(u32),
    /// Somebody asks.
    Ask(Ask),
}

/// What changes about a Service.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Type(Type),
    Internal(Option<Policy>),
    External(Option<Policy>),
    Affinity(Option<u32>),
}

impl Edit {
    pub(crate) fn apply(&self, service: &mut Service) {
        match self {
            Self::Type(kind) => service.kind = *kind,
            Self::Internal(policy) => service.internal = *policy,
            Self::External(policy) => service.external = *policy,
            Self::Affinity(seconds) => service.affinity = *seconds,
        }
    }
}

/// A question; where it leads depends on what there is by then.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) who: Asker,
    pub(crate) aim: Aim,
    /// Of a datagram: by an unconnected socket.
    pub(crate) is_unconnected: bool,
}

/// Numbers choose among addresses of the right family.
#[derive(Clone, Debug)]
pub(crate) enum Asker {
    PodSocket(u8),
    /// Bound to one of the node's addresses, or to none.
    HostSocket(Option<Index>),
    PodPacket(u8),
    OutsidePacket(u8),
}

#[derive(Clone, Debug)]
pub(crate) enum Aim {
    /// One of the frontends there are, of that kind if there is one; of a NodePort, at one of the node's addresses or
    /// another.
    Frontend(Kind, Index, Index),
    /// The address of one of them, with any port and protocol.
    Beside(Index, u16, Protocol),
    /// Anything.
    Anywhere(IpAddr, u16, Protocol),
}

impl Ask {
    /// The question as it is asked now; `None` where nobody could.
    pub(crate) fn probe(&self, world: &World, now: u64) -> Option<Probe> {
        let (to, protocol) = self.destination(world);
        let is_v4 = to.is_ipv4();
        let is_nowhere = to.ip().is_loopback() || to.ip().is_unspecified();
        let who = match self.who {
            Asker::PodSocket(_) | Asker::HostSocket(_) if protocol == Protocol::Sctp => return None,
            Asker::PodPacket(_) | Asker::OutsidePacket(_) if is_nowhere => return None,
            Asker::PodSocket(number) => Who::PodSocket(number % 2),
            Asker::HostSocket(bound) => {
                let mut own = world.interfaces.iter().copied().filter(|own| own.is_ipv4() == is_v4);
                let count = own.clone().count();
                Who::HostSocket(bound.filter(|_| count > 0).and_then(|which| own.nth(which.index(count))))
            }
            Asker::PodPacket(number) => Who::PodPacket(pods(is_v4)[usize::from(number) % PODS]),
            Asker::OutsidePacket(number) => Who::OutsidePacket(outside(is_v4)[usize::from(number % 4)]),
        };
        Some(Probe { who, to, protocol, now })
    }

    fn destination(&self, world: &World) -> (SocketAddr, Protocol) {
        let claims = frontends::claims(world);
        match &self.aim {
            Aim::Anywhere(ip, port, protocol) => (SocketAddr::new(*ip, *port), *protocol),
            _ if claims.is_empty() => (SocketAddr::new(interfaces()[0], NUMBERS[0]), Protocol::Tcp),
            Aim::Beside(which, port, protocol) => {
                (SocketAddr::new(which.get(&claims).at.ip(), *port), *protocol)
            }
            Aim::Frontend(kind, which, at) => {
                let of_kind: Vec<&Claim> = claims.iter().filter(|claim| claim.kind == *kind).collect();
                let claim = if of_kind.is_empty() { which.get(&claims) } else { *which.get(&of_kind) };
                let mut to = claim.at;
                if claim.kind == Kind::NodePort {
                    let mut all: Vec<IpAddr> = world.interfaces.iter().copied().collect();
                    all.extend(world.interfaces.iter().copied());
                    all.extend(interfaces());
                    all.extend(["127.0.0.1", "::1", "127.1.2.3", "0.0.0.0", "::"].map(address));
                    all.retain(|own| own.is_ipv4() == to.is_ipv4());
                    to.set_ip(*at.get(&all));
                }
                (to, claim.port.protocol)
            }
        }
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Who is elsewhere: in the world, and pods of another node.
fn outside(is_v4: bool) -> [IpAddr; 4] {
    let texts = if is_v4 {
        ["198.51.100.1", "198.51.100.200", "10.244.2.1", "10.244.2.9"]
    } else {
        ["2001:db8:100::1", "2001:db8:200::1", "fd00:244:2::1", "fd00:244:2::9"]
    };
    texts.map(address)
}

fn any_number() -> impl Strategy<Value = u16> {
    select([NUMBERS.to_vec(), NODE_PORTS.to_vec(), vec![8080, 9]].concat())
}

fn any_protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

fn any_ask() -> impl Strategy<Value = Step> {
    let who = prop_oneof![
        any::<u8>().prop_map(Asker::PodSocket),
        prop::option::of(any::<Index>()).prop_map(Asker::HostSocket),
        any::<u8>().prop_map(Asker::PodPacket),
        any::<u8>().prop_map(Asker::OutsidePacket),
    ];
    let addresses = [vips(true), vips(false), interfaces(), pods(true)].concat();
    let kind = select(vec![Kind::ClusterIp, Kind::Balancer, Kind::External, Kind::NodePort]);
    let aim = prop_oneof![
        16 => (kind, any::<Index>(), any::<Index>())
            .prop_map(|(kind, which, at)| Aim::Frontend(kind, which, at)),
        2 => (any::<Index>(), any_number(), any_protocol())
            .prop_map(|(which, port, protocol)| Aim::Beside(which, port, protocol)),
        1 => (select(addresses), any_number(), any_protocol())
            .prop_map(|(ip, port, protocol)| Aim::Anywhere(ip, port, protocol)),
    ];
    (who, aim, any::<bool>())
        .prop_map(|(who, aim, is_unconnected)| Step::Ask(Ask { who, aim, is_unconnected }))
}

fn any_put() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (any_service_name(), any_service())
            .prop_map(|(name, service)| Step::PutService(name, Box::new(service))),
        5 => (any_slice_name(), any_slice()).prop_map(|(name, slice)| Step::PutSlice(name, slice)),
    ]
}

fn any_change() -> impl Strategy<Value = Step> {
    let edit = prop_oneof![
        any_type().prop_map(Edit::Type),
        any_policy().prop_map(Edit::Internal),
        any_policy().prop_map(Edit::External),
        any_affinity().prop_map(Edit::Affinity),
    ];
    let zone = select(vec![None, Some("zone-a"), Some("zone-a"), Some("zone-b"), Some("")]);
    prop_oneof![
        4 => any_put(),
        3 => (any::<Index>(), edit).prop_map(|(which, edit)| Step::EditService(which, edit)),
        4 => (any::<Index>(), any::<Index>(), any_conditions())
            .prop_map(|(slice, endpoint, conditions)| Step::EditEndpoint(slice, endpoint, conditions)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(slice, endpoint)| Step::DropEndpoint(slice, endpoint)),
        1 => any_service_name().prop_map(Step::DeleteService),
        1 => any_slice_name().prop_map(Step::DeleteSlice),
        1 => zone.prop_map(Step::Zone),
        1 => subsequence(interfaces()[..4].to_vec(), 0..=4).prop_shuffle().prop_map(Step::NodeObject),
        1 => any_node_port_addresses().prop_map(Step::NodePorts),
        1 => subsequence(interfaces(), 1..=interfaces().len())
            .prop_map(|all| Step::Interfaces(all.into_iter().collect())),
        1 => Just(Step::Restart),
        2 => select(vec![1u32, 5, 9, 30, 59, 3600]).prop_map(Step::Wait),
    ]
}

/// A cluster comes into being, then things happen and people ask.
pub(crate) fn any_history() -> impl Strategy<Value = Vec<Step>> {
    let beginning = prop::collection::vec(any_put(), 0..60);
    let then = prop::collection::vec(prop_oneof![1 => any_change(), 3 => any_ask()], 0..100);
    (beginning, then).prop_map(|(beginning, then)| [beginning, then].concat())
}
