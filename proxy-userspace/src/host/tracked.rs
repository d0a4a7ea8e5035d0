//! Which connections netfilter translates on this node: conntrack's entries, by netlink.

use std::{collections::BTreeSet, io, net::IpAddr};

use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Status, Tuple as Parts},
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::ifaddrs::getifaddrs;
use proxy_common::{
    address::{Address, Port},
    layout::Tuple,
};

use crate::netlink::Netlink;

/// How the answers arrive to connections that netfilter leads to another destination, under an address of this node: those
/// of its own processes, and those that it masquerades. All that kube-proxy has translated under such an address is among
/// them. Needs `CAP_NET_ADMIN`.
///
/// # Errors
/// When the kernel does not tell. One without conntrack has none.
pub fn answers_to_this_node() -> io::Result<BTreeSet<Tuple>> {
    let own = own_addresses()?;
    let netlink = Netlink::open(NETLINK_NETFILTER)?;
    let mut found = BTreeSet::new();
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        let all =
            NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), ConntrackMessage::Get(Vec::new()));
        let listed = netlink.dump(all, |answer: NetfilterMessage| {
            if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(entry)) = answer.inner {
                found.extend(answer_of(&entry).filter(|answer| own.contains(&answer.destination)));
            }
        });
        match listed {
            Ok(()) => {}
            // Entries come and go all the time: what was missed is found the next time.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The tuple of an answer to a connection whose destination netfilter translates.
fn answer_of(entry: &[ConntrackAttribute]) -> Option<Tuple> {
    let is_translated = |part: &ConntrackAttribute| matches!(part, ConntrackAttribute::CtaStatus(status) if status.contains(Status::DstNat));
    if !entry.iter().any(is_translated) {
        return None;
    }
    entry.iter().find_map(|part| match part {
        ConntrackAttribute::CtaTupleReply(parts) => tuple(parts),
        _ => None,
    })
}

/// The tuple that these parts make; of a protocol with ports.
fn tuple(parts: &[Parts]) -> Option<Tuple> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut source_port, mut destination_port) = (None, None, None);
    for part in parts {
        match part {
            Parts::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            Parts::Proto(numbers) => {
                for number in numbers {
                    match number {
                        ProtoTuple::Protocol(number) => protocol = Some(u8::from(*number)),
                        ProtoTuple::SourcePort(port) => source_port = Some(Port::new(*port)),
                        ProtoTuple::DestinationPort(port) => destination_port = Some(Port::new(*port)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Tuple {
        source: Address::from(source?),
        destination: Address::from(destination?),
        source_port: source_port?,
        destination_port: destination_port?,
        protocol: protocol?,
        reserved: [0; 3],
    })
}

fn own_addresses() -> io::Result<BTreeSet<Address>> {
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip()))).map(Address::from)
    });
    Ok(addresses.collect())
}
