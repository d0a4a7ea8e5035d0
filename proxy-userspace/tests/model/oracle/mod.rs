//! What kube-proxy does with a new connection: slow, written down rule by rule from its sources (v1.36), and sharing no
//! code with the pipeline that it judges.
//!
//! Files of kube-proxy are named by their path below `pkg/proxy`. What is done differently here on purpose is in
//! [`differences`], and nowhere else.

pub(crate) mod affinity;
pub(crate) mod differences;
pub(crate) mod endpoints;
pub(crate) mod frontends;
pub(crate) mod objects;
pub(crate) mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use self::affinity::Records;
use self::endpoints::{Sets, Usable};
use self::frontends::{Claim, Kind};
use self::objects::{Policy, Protocol, World};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// A process in a pod of this node, by a socket.
    PodSocket(u8),
    /// A process of the node itself, by a socket; bound to this address, or to none.
    HostSocket(Option<IpAddr>),
    /// A pod of this node, by a packet that no socket hook has seen.
    PodPacket(IpAddr),
    /// Somebody elsewhere, whose packet comes in.
    OutsidePacket(IpAddr),
}

impl Who {
    /// Whether it asks by a system call.
    pub(crate) fn is_socket(self) -> bool {
        matches!(self, Self::PodSocket(_) | Self::HostSocket(_))
    }

    /// "Source matched by the local detector": the pods of this node.
    fn is_local_pod(self) -> bool {
        matches!(self, Self::PodSocket(_) | Self::PodPacket(_))
    }

    /// "Source address is any address of this node".
    fn is_node(self) -> bool {
        matches!(self, Self::HostSocket(_))
    }

    /// The source address, where there is one by then.
    pub(crate) fn address(self) -> Option<IpAddr> {
        match self {
            Self::PodSocket(_) => None,
            Self::HostSocket(bound) => bound,
            Self::PodPacket(own) | Self::OutsidePacket(own) => Some(own),
        }
    }
}

/// A new connection, or the first datagram of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) who: Who,
    pub(crate) to: SocketAddr,
    pub(crate) protocol: Protocol,
    /// The time, nanoseconds.
    pub(crate) now: u64,
}

/// Whose address an endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Kept,
    Masqueraded,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    /// It is nobody's business but the kernel's.
    NotAService,
    /// The client is told at once that nobody listens.
    Refused,
    /// It gets nowhere. A socket is told that there is no way.
    Dropped,
    /// It gets to one of exactly these.
    To(BTreeMap<SocketAddr, Source>),
}

/// What the rules say, and by which frontend.
#[derive(Clone, Debug)]
pub(crate) struct Ruling {
    pub(crate) answer: Answer,
    /// The same for a client of whom nothing is remembered.
    pub(crate) to_anyone: Answer,
    pub(crate) claim: Option<Claim>,
}

/// The rules, in the order in which a packet meets them.
pub(crate) fn ruling(world: &World, records: &Records, probe: &Probe) -> Ruling {
    let same = |answer: Answer, claim| Ruling { to_anyone: answer.clone(), answer, claim };
    let Some(claim) = frontends::claim(world, probe) else { return same(unclaimed(world, probe), None) };
    if let Some(answer) = firewall(world, &claim, probe) {
        return same(answer, Some(claim));
    }
    let sets = endpoints::sets(world, &claim.port);
    let set = match choice(&claim, &sets, probe.who) {
        Err(answer) => return same(answer, Some(claim)),
        Ok(set) => set,
    };
    let to = |set: BTreeSet<Usable>| {
        Answer::To(set.into_iter().map(|own| (own.at, source(&claim, &own, probe.who))).collect())
    };
    let timeout = world.services[&claim.port.service].affinity;
    let bound = records.narrowed(&claim.port, timeout, set.clone(), probe);
    Ruling { answer: to(bound), to_anyone: to(set), claim: Some(claim) }
}

/// No frontend matches. nftables: `clusterIPsCheckChain` refuses what active ClusterIPs do not serve.
fn unclaimed(world: &World, probe: &Probe) -> Answer {
    let is_cluster_ip = frontends::cluster_ips(world).contains(&probe.to.ip());
    if is_cluster_ip && !differences::leaves_closed_ports_alone(world, probe) {
        Answer::Refused
    } else {
        Answer::NotAService
    }
}

/// `loadBalancerSourceRanges`: load-balancer addresses only, pods and the node included, drops, and before endpoints are
/// looked at (nftables: `firewallIPsMap` at a higher priority than the destination NAT).
fn firewall(world: &World, claim: &Claim, probe: &Probe) -> Option<Answer> {
    if claim.kind != Kind::Balancer {
        return None;
    }
    let service = &world.services[&claim.port.service];
    let is_v4 = claim.port.is_v4;
    let ranges = text::ranges(&service.source_ranges, is_v4);
    if ranges.is_empty() || ranges.iter().any(|range| range.length == 0) {
        return None;
    }
    let contains = |address: &IpAddr| ranges.iter().any(|range| range.contains(*address));
    if let Some(answer) = differences::firewall_without_source(world, probe, contains) {
        return answer;
    }
    let source = probe.who.address().expect("judged before");
    // "the VIP itself may be chosen as source where it is bound locally"
    let is_vip = || frontends::balancer_addresses(service, is_v4).contains(&source);
    let is_allowed = contains(&source) || is_vip() && differences::admits_node(world, contains);
    (!is_allowed).then_some(Answer::Dropped)
}

/// The table of iptables/proxier.go and nftables/proxier.go: which set, or what else.
fn choice(claim: &Claim, sets: &Sets, who: Who) -> Result<BTreeSet<Usable>, Answer> {
    if !sets.any {
        return Err(Answer::Refused);
    }
    let is_short_circuited = who.is_local_pod() || who.is_node();
    let local = match claim.kind {
        Kind::ClusterIp => claim.internal == Policy::Local,
        _ => claim.external == Policy::Local && !is_short_circuited,
    };
    let set = if local { &sets.local } else { &sets.cluster };
    if set.is_empty() { Err(Answer::Dropped) } else { Ok(set.clone()) }
}

/// Whether the endpoint sees the client's address.
fn source(claim: &Claim, endpoint: &Usable, who: Who) -> Source {
    let by_kube_proxy = match claim.kind {
        Kind::ClusterIp => !who.is_local_pod(),
        _ if claim.external == Policy::Cluster => true,
        _ => who.is_node(),
    };
    let is_hairpin = who.address() == Some(endpoint.at.ip());
    differences::source(by_kube_proxy || is_hairpin, endpoint, who)
}
