//! What the kernel says of links, addresses and routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
        link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
    },
};

/// Everything that the class of a device follows from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// All links.
    pub links: Vec<Link>,
    /// Addresses to send from, in the kernel's order, which begins with the primary ones.
    pub addresses: Vec<OwnAddress>,
    /// The ways to somewhere in the main table, one for each next hop.
    pub routes: Vec<Route>,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What made it, such as `veth`; physical devices have none.
    pub kind: Option<String>,
    /// ARPHRD_* of `include/uapi/linux/if_arp.h`.
    pub layer: u16,
    /// Whether it is `lo`.
    pub is_loopback: bool,
    /// The bridge, bond or the like that it belongs to.
    pub master: Option<u32>,
}

/// An address of global scope that is neither on trial nor deprecated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// Whose.
    pub link: u32,
    /// Which.
    pub ip: IpAddr,
    /// Secondary (IPv4) or temporary (IPv6), which is the same flag.
    pub is_secondary: bool,
}

/// A way through a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The link.
    pub link: u32,
    /// Of which family.
    pub is_v4: bool,
    /// To everywhere.
    pub is_default: bool,
    /// By way of a neighbour.
    pub has_gateway: bool,
}

/// Asks for everything.
pub(super) async fn gather(handle: &Handle) -> Result<Facts> {
    let mut facts = Facts::default();
    let mut links = handle.link().get().execute();
    while let Some(message) = links.try_next().await.context("cannot list this node's links")? {
        facts.links.extend(link(message));
    }
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await.context("cannot list this node's addresses")? {
        facts.addresses.extend(address(&message));
    }
    for request in
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
    {
        let mut routes = handle.route().get(request).execute();
        while let Some(message) = routes.try_next().await.context("cannot list this node's routes")? {
            facts.routes.extend(ways(&message));
        }
    }
    Ok(facts)
}

fn link(message: LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        layer: message.header.link_layer_type.into(),
        is_loopback: message.header.flags.contains(LinkFlags::Loopback),
        master: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    // Every link has a name; a message without is about something else.
    (!link.name.is_empty()).then_some(link)
}

fn address(message: &AddressMessage) -> Option<OwnAddress> {
    let short = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let flags = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let flags = flags.unwrap_or(short);
    let unusable = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
    if message.header.scope != AddressScope::Universe || flags.intersects(unusable) {
        return None;
    }
    let ip = super::super::addresses::own(message)?;
    // Whoever adds a link-local address by hand may forget to give it its scope.
    let is_link_local = matches!(ip, IpAddr::V4(v4) if v4.is_link_local());
    let is_secondary = flags.contains(AddressFlags::Secondary);
    (!is_link_local).then_some(OwnAddress { link: message.header.index, ip, is_secondary })
}

fn ways(message: &RouteMessage) -> Vec<Route> {
    let header = &message.header;
    if header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
        return Vec::new();
    }
    let way = |link: u32, has_gateway: bool| Route {
        link,
        is_v4: header.address_family == AddressFamily::Inet,
        is_default: header.destination_prefix_length == 0,
        has_gateway,
    };
    let has_gateway = |attributes: &[RouteAttribute]| {
        // Via: a gateway of the other family (RFC 5549).
        attributes.iter().any(|one| matches!(one, RouteAttribute::Gateway(_) | RouteAttribute::Via(_)))
    };
    let mut ways = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(link) => ways.push(way(*link, has_gateway(&message.attributes))),
            RouteAttribute::MultiPath(hops) => {
                ways.extend(hops.iter().map(|hop| way(hop.interface_index, has_gateway(&hop.attributes))));
            }
            _ => {}
        }
    }
    ways
}
