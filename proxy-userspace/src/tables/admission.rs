//! Which clients a service port admits to its load-balancer addresses: `spec.loadBalancerSourceRanges`.
//!
//! Pure. kube-proxy: `pkg/proxy/serviceport.go` (`newBaseServiceInfo`) and the firewall chains of the iptables and
//! nftables proxiers.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use proxy_common::address::Address;

use crate::cluster::model::{Family, NodeInfo, Service};

/// A range of addresses: the first one, and how many of its leading bits count, of 32 for IPv4 and of 128 for IPv6.
pub type Range = (Address, u8);

/// Who is admitted where not everybody is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Clients by their addresses.
    pub ranges: BTreeSet<Range>,
    /// Whether the node is, under whichever of its addresses.
    pub is_node: bool,
}

/// Who is admitted in one family; `None` for everybody.
///
/// A node that is admitted may use a load-balancer address as its own: then it speaks from there.
#[must_use]
pub fn of_family(service: &Service, family: Family, node: &NodeInfo) -> Option<Admission> {
    let is_ours = |ip: IpAddr| Family::of(ip) == family;
    let nets: Vec<&IpNet> = service.source_ranges.iter().filter(|net| is_ours(net.addr())).collect();
    if nets.is_empty() || nets.iter().any(|net| net.prefix_len() == 0) {
        return None;
    }
    let is_node = node.addresses.iter().any(|own| nets.iter().any(|net| net.contains(own)));
    // As few as say the same: each takes a place in a map that all Services share.
    let few = IpNet::aggregate(&nets.into_iter().copied().collect());
    let mut ranges: BTreeSet<Range> =
        few.iter().map(|net| (Address::from(net.network()), net.prefix_len())).collect();
    if is_node {
        let own = service.load_balancer_ips.iter().filter(|ip| is_ours(**ip));
        ranges.extend(own.map(|ip| (Address::from(*ip), IpNet::from(*ip).max_prefix_len())));
    }
    Some(Admission { ranges, is_node })
}
