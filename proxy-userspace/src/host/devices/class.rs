//! What a device is, by what the kernel says of it. No I/O.
//!
//! The rule of thumb: what has a way to the rest of the world (a default route, a gateway) leads outside, whatever
//! it is made of: a node that is a container itself has a veth for that. Of the rest, pods are behind what is made
//! for pods and virtual machines.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proxy_common::{address::Address, layout};

use super::{
    choice::{Choice, ToPods},
    facts::{Facts, Link},
};

/// What is behind a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Pods of this node.
    Pod,
    /// Everything else.
    Outside,
}

impl Side {
    /// As people and metrics name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Outside => "outside",
        }
    }
}

/// A device that packets of Services pass through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What is behind it.
    pub side: Side,
    /// Bytes in front of the network header: 14 or 0.
    pub header: u32,
    /// Whether it is a bridge all of whose ports have programs: each of its packets passes one of them, so it has
    /// none itself.
    pub is_covered: bool,
    /// What the node sends from through this device when it masquerades.
    pub masquerade: layout::Device,
}

/// What there is to say of a node's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// By interface index.
    pub devices: BTreeMap<u32, Device>,
    /// Names that are chosen for both sides.
    pub contested: Vec<String>,
    /// Names and kinds of devices whose header is not known.
    pub unfit: Vec<(String, String)>,
}

/// What a family without any address has.
const NONE: Address = Address::from_v6_words([0; 4]);

/// Ethernet among ARPHRD_*, the only one with a header.
const ETHER: u16 = 1;

/// Derives what each device is.
#[must_use]
pub fn classify(facts: &Facts, choice: &Choice) -> Classes {
    let view = View {
        facts,
        choice,
        links: facts.links.iter().map(|link| (link.index, link)).collect(),
        to_world: facts.routes.iter().filter(|r| r.is_default || r.has_gateway).map(|r| r.link).collect(),
    };
    let mut classes = Classes::default();
    for link in &facts.links {
        let Some(side) = view.side(link, &mut classes.contested) else { continue };
        let Some(header) = header(link.layer) else {
            let kind = link.kind.clone().unwrap_or_else(|| format!("ARPHRD {}", link.layer));
            classes.unfit.push((link.name.clone(), kind));
            continue;
        };
        let masquerade = layout::Device { v4: NONE, v6: NONE };
        let device = Device { name: link.name.clone(), side, header, is_covered: false, masquerade };
        classes.devices.insert(link.index, device);
    }
    for index in view.covered(&classes.devices) {
        classes.devices.entry(index).and_modify(|device| device.is_covered = true);
    }
    let node = [true, false].map(|is_v4| view.of_node(&classes.devices, is_v4));
    for (index, device) in &mut classes.devices {
        let master = view.links.get(index).and_then(|link| link.master);
        let [v4, v6] = [(true, node[0]), (false, node[1])].map(|(is_v4, node)| {
            let own = view.of_link(*index, is_v4).or_else(|| view.of_link(master?, is_v4));
            own.or(node).map_or(NONE, Address::from)
        });
        device.masquerade = layout::Device { v4, v6 };
    }
    classes
}

/// Bytes of link-layer header, by ARPHRD_*; `None` if it is not known.
fn header(layer: u16) -> Option<u32> {
    match layer {
        ETHER => Some(14),
        // PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE: packets begin with the network header.
        512 | 519 | 768 | 769 | 776 | 778 | 823 | 0xfffe => Some(0),
        _ => None,
    }
}

struct View<'a> {
    facts: &'a Facts,
    choice: &'a Choice,
    links: BTreeMap<u32, &'a Link>,
    /// Links with a way to the rest of the world.
    to_world: BTreeSet<u32>,
}

impl View<'_> {
    /// On which side a link is; `None` where no packet of a Service passes, or one that another device sees.
    fn side(&self, link: &Link, contested: &mut Vec<String>) -> Option<Side> {
        let over = link.master.and_then(|index| self.links.get(&index));
        let master = over.and_then(|link| link.kind.as_deref());
        // The members of a bond: the bond itself has every packet. ifb: other devices' packets once more.
        if link.is_loopback
            || matches!(master, Some("bond" | "team"))
            || matches!(link.kind.as_deref(), Some("ifb" | "nlmon"))
        {
            return None;
        }
        let over = over.map(|link| link.name.as_str());
        let is_outside = self.choice.outside.as_ref().is_some_and(|names| names.contain(&link.name));
        let is_to_pods = self.choice.pods.as_ref().is_some_and(|pods| pods.contain(&link.name, over));
        match (is_outside, is_to_pods) {
            (true, true) => {
                contested.push(link.name.clone());
                return None;
            }
            (true, false) => return Some(Side::Outside),
            (false, true) => return Some(Side::Pod),
            (false, false) => {}
        }
        let side = self.natural_side(link, matches!(master, Some("bridge" | "openvswitch")))?;
        // A choice for a side is the whole of it.
        let is_settled = match side {
            Side::Outside => self.choice.outside.is_some(),
            Side::Pod => self.choice.pods.is_some(),
        };
        (!is_settled).then_some(side)
    }

    /// The same when nobody has chosen.
    fn natural_side(&self, link: &Link, is_port: bool) -> Option<Side> {
        let is_for_pods = match link.kind.as_deref() {
            Some("veth" | "netkit" | "bridge") => true,
            // A tap is a virtual machine's; a tun is some way to the world.
            Some("tun") => link.layer == ETHER,
            _ => false,
        };
        if is_port {
            // A reply between two pods of one bridge passes their ports only; to and from the world, the bridge
            // itself sees everything that is for this node to route.
            return (is_for_pods && link.kind.as_deref() != Some("bridge")).then_some(Side::Pod);
        }
        let outside = !is_for_pods || self.to_world.contains(&link.index);
        Some(if outside { Side::Outside } else { Side::Pod })
    }

    /// Bridges to pods, not chosen by name, that have ports, and programs on every one of them.
    fn covered(&self, devices: &BTreeMap<u32, Device>) -> Vec<u32> {
        let is_pod = |index: &u32| devices.get(index).is_some_and(|device| device.side == Side::Pod);
        let is_covered = |bridge: &&Link| {
            let mut ports =
                self.facts.links.iter().filter(|link| link.master == Some(bridge.index)).peekable();
            bridge.kind.as_deref() == Some("bridge")
                && is_pod(&bridge.index)
                && !matches!(self.choice.pods, Some(ToPods::Named(_)))
                && ports.peek().is_some()
                && ports.all(|port| is_pod(&port.index))
        };
        self.facts.links.iter().filter(is_covered).map(|bridge| bridge.index).collect()
    }

    /// A link's own address to send from.
    fn of_link(&self, index: u32, is_v4: bool) -> Option<IpAddr> {
        let own = |secondary: bool| {
            let mut all = self.facts.addresses.iter();
            all.find(|a| a.link == index && a.ip.is_ipv4() == is_v4 && a.is_secondary == secondary)
        };
        own(false).or_else(|| own(true)).map(|address| address.ip)
    }

    /// The node's address: where the default route is, else the first there is on a device to the outside.
    fn of_node(&self, devices: &BTreeMap<u32, Device>, is_v4: bool) -> Option<IpAddr> {
        let mut defaults = self.facts.routes.iter().filter(|r| r.is_default && r.is_v4 == is_v4);
        let outside = devices.iter().filter(|(_, device)| device.side == Side::Outside);
        defaults
            .find_map(|route| self.of_link(route.link, is_v4))
            .or_else(|| outside.map(|(index, _)| *index).find_map(|index| self.of_link(index, is_v4)))
    }
}
