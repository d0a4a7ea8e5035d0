//! The rules that CNIs install on a node, after those of flannel and of Docker.
//!
//! ```text
//! POSTROUTING  -s CLUSTER -d CLUSTER              RETURN
//!              -s CLUSTER ! -d MULTICAST          MASQUERADE
//!              ! -s CLUSTER -d THIS NODE'S PODS   RETURN
//!              ! -s CLUSTER -d CLUSTER            MASQUERADE
//! FORWARD      -s CLUSTER                         ACCEPT
//!              -d CLUSTER                         ACCEPT
//!              policy                             DROP
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use super::wire::{Batch, attribute, nest, number, text};
use crate::link::Prefix;
use crate::netns::NetNs;

const TABLE: &str = "cni";
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// The register that addresses go through.
const NFT_REG_1: u32 = 1;

/// What a rule looks at: an address, which is or is not in a prefix.
type Match = (Side, bool, Prefix);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

#[derive(Clone, Copy, Debug)]
enum Verdict {
    Accept,
    Return,
    Masquerade,
}

/// Installs the rules of both families; arguments are IPv4, IPv6.
pub(crate) fn install(netns: &NetNs, cluster: [Prefix; 2], pods: [Prefix; 2]) -> Result<()> {
    let mut batch = Batch::new();
    for (cluster, pods) in cluster.into_iter().zip(pods) {
        family(&mut batch, cluster, pods);
    }
    netns.run(|| batch.commit()).context("cannot install the rules of a CNI")
}

fn family(batch: &mut Batch, cluster: Prefix, pods: Prefix) {
    use Side::{Destination, Source};
    let (family, multicast): (u8, Prefix) = match cluster.0 {
        IpAddr::V4(_) => (NFPROTO_IPV4, (Ipv4Addr::new(224, 0, 0, 0).into(), 4)),
        IpAddr::V6(_) => (NFPROTO_IPV6, (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8)),
    };
    batch.make(NFT_MSG_NEWTABLE, family, &[text(1, TABLE)]);
    // NF_INET_POST_ROUTING at NF_IP_PRI_NAT_SRC, NF_INET_FORWARD at NF_IP_PRI_FILTER; NF_ACCEPT and NF_DROP.
    batch.make(NFT_MSG_NEWCHAIN, family, &chain("postrouting", "nat", 4, 100, 1));
    batch.make(NFT_MSG_NEWCHAIN, family, &chain("forward", "filter", 2, 0, 0));
    let mut rule = |chain: &str, matches: &[Match], verdict| {
        batch.make(NFT_MSG_NEWRULE, family, &rule(chain, matches, verdict));
    };
    let (inside, outside) = ((Source, true, cluster), (Source, false, cluster));
    rule("postrouting", &[inside, (Destination, true, cluster)], Verdict::Return);
    rule("postrouting", &[inside, (Destination, false, multicast)], Verdict::Masquerade);
    rule("postrouting", &[outside, (Destination, true, pods)], Verdict::Return);
    rule("postrouting", &[outside, (Destination, true, cluster)], Verdict::Masquerade);
    rule("forward", &[inside], Verdict::Accept);
    rule("forward", &[(Destination, true, cluster)], Verdict::Accept);
}

fn chain(name: &str, kind: &str, hook: u32, priority: u32, policy: u32) -> [Vec<u8>; 5] {
    let hook = nest(4, &[number(1, hook), number(2, priority)]);
    [text(1, TABLE), text(3, name), hook, number(5, policy), text(7, kind)]
}

fn rule(chain: &str, matches: &[Match], verdict: Verdict) -> [Vec<u8>; 3] {
    let mut expressions: Vec<_> = matches.iter().flat_map(matching).collect();
    expressions.push(match verdict {
        Verdict::Accept => immediate(1),
        Verdict::Return => immediate(-5),
        // NF_NAT_RANGE_PROTO_RANDOM_FULLY, as flannel asks for.
        Verdict::Masquerade => expression("masq", &[number(1, 1 << 4)]),
    });
    [text(1, TABLE), text(2, chain), nest(4, &expressions)]
}

/// payload → bitwise → cmp.
fn matching(&(side, is, (address, length)): &Match) -> [Vec<u8>; 3] {
    let (bytes, offset) = match address {
        IpAddr::V4(v4) => (v4.octets().to_vec(), if side == Side::Source { 12 } else { 16 }),
        IpAddr::V6(v6) => (v6.octets().to_vec(), if side == Side::Source { 8 } else { 24 }),
    };
    let mask: Vec<u8> = (0..bytes.len()).map(|index| mask_byte(length, index)).collect();
    let size = if address.is_ipv4() { 4 } else { 16 };
    let network_header = number(2, 1);
    let data = |kind, bytes: &[u8]| nest(kind, &[attribute(1, bytes)]);
    let load = [number(1, NFT_REG_1), network_header, number(3, offset), number(4, size)];
    let nothing = vec![0; bytes.len()];
    let cut =
        [number(1, NFT_REG_1), number(2, NFT_REG_1), number(3, size), data(4, &mask), data(5, &nothing)];
    let compare = [number(1, NFT_REG_1), number(2, u32::from(!is)), data(3, &bytes)];
    [expression("payload", &load), expression("bitwise", &cut), expression("cmp", &compare)]
}

/// Of a prefix's mask, the byte with that number.
fn mask_byte(length: u8, index: usize) -> u8 {
    let bits = usize::from(length).saturating_sub(8 * index).min(8);
    u8::try_from(0xff00_u16 >> bits & 0xff).expect("one byte is left")
}

fn immediate(code: i32) -> Vec<u8> {
    let verdict = nest(2, &[attribute(1, &code.to_be_bytes())]);
    expression("immediate", &[number(1, 0), nest(2, &[verdict])])
}

/// An element of a rule's list of expressions.
fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    nest(1, &[text(1, name), nest(2, data)])
}

#[cfg(test)]
mod tests {
    use super::mask_byte;

    #[test]
    fn masks() {
        assert_eq!([0, 1, 2].map(|index| mask_byte(16, index)), [255, 255, 0]);
        assert_eq!([0, 1].map(|index| mask_byte(4, index)), [0xf0, 0]);
    }
}
