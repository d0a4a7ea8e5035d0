//! What devices are: typical nodes, one table each.

use std::net::IpAddr;

use proxy_common::{address::Address, layout};

use super::{
    choice::{Choice, ToPods},
    class::{Classes, Device, classify},
    facts::{Facts, Link, OwnAddress, Route},
};

const ETHER: u16 = 1;
const NONE: u16 = 0xfffe;

/// Links with indexes from 1 on: name, kind, ARPHRD_*, master.
fn node(links: &[(&str, &str, u16, Option<&str>)]) -> Facts {
    let index = |name: &str| {
        let at = links.iter().position(|link| link.0 == name).expect("a link of the table");
        u32::try_from(at).unwrap() + 1
    };
    let links = links.iter().map(|(name, kind, layer, master)| Link {
        index: index(name),
        name: (*name).to_owned(),
        kind: (!kind.is_empty()).then(|| (*kind).to_owned()),
        layer: *layer,
        is_loopback: *name == "lo",
        master: master.map(index),
    });
    Facts { links: links.collect(), ..Facts::default() }
}

impl Facts {
    fn index(&self, name: &str) -> u32 {
        self.links.iter().find(|link| link.name == name).expect("a link of the table").index
    }

    fn address(mut self, name: &str, ip: &str) -> Self {
        let ip: IpAddr = ip.parse().unwrap();
        self.addresses.push(OwnAddress { link: self.index(name), ip, is_secondary: false });
        self
    }

    fn secondary(mut self, name: &str, ip: &str) -> Self {
        self = self.address(name, ip);
        self.addresses.last_mut().unwrap().is_secondary = true;
        self
    }

    fn default_route(mut self, name: &str, is_v4: bool) -> Self {
        self.routes.push(Route { link: self.index(name), is_v4, is_default: true, has_gateway: true });
        self
    }

    fn route(mut self, name: &str, has_gateway: bool) -> Self {
        self.routes.push(Route { link: self.index(name), is_v4: true, is_default: false, has_gateway });
        self
    }
}

/// `name side header`, in the order of indexes, in brackets where ports see to the packets.
fn show(classes: &Classes) -> Vec<String> {
    let show = |device: &Device| {
        let shown = format!("{} {} {}", device.name, device.side.name(), device.header);
        if device.is_covered { format!("({shown})") } else { shown }
    };
    classes.devices.values().map(show).collect()
}

fn assert_classes(facts: &Facts, wanted: &[&str]) {
    assert_eq!(show(&classify(facts, &Choice::default())), wanted);
}

#[test]
fn a_node_with_a_bridge_and_an_overlay() {
    let facts = node(&[
        ("lo", "", 772, None),
        ("eth0", "", ETHER, None),
        ("flannel.1", "vxlan", ETHER, None),
        ("cni0", "bridge", ETHER, None),
        ("veth1", "veth", ETHER, Some("cni0")),
        ("veth2", "veth", ETHER, Some("cni0")),
    ])
    .default_route("eth0", true)
    .route("flannel.1", true)
    .route("cni0", false);
    let wanted = ["eth0 outside 14", "flannel.1 outside 14", "(cni0 pod 14)", "veth1 pod 14", "veth2 pod 14"];
    assert_classes(&facts, &wanted);
}

#[test]
fn a_bridge_is_covered_when_all_its_ports_have_programs() {
    let with = |port: Option<(&str, &str, u16)>| {
        let mut links = vec![("cni0", "bridge", ETHER, None), ("veth1", "veth", ETHER, Some("cni0"))];
        links.extend(port.map(|(name, kind, layer)| (name, kind, layer, Some("cni0"))));
        node(&links)
    };
    assert_classes(&with(None), &["(cni0 pod 14)", "veth1 pod 14"]);
    assert_classes(&with(Some(("tap1", "tun", ETHER))), &["(cni0 pod 14)", "veth1 pod 14", "tap1 pod 14"]);
    // A port to the outside, and one whose packets nobody can read.
    assert_classes(&with(Some(("eth1", "", ETHER))), &["cni0 pod 14", "veth1 pod 14"]);
    assert_classes(&with(Some(("veth2", "veth", 824))), &["cni0 pod 14", "veth1 pod 14"]);
    // Nobody uses it yet; and somebody wants it.
    assert_classes(&node(&[("cni0", "bridge", ETHER, None)]), &["cni0 pod 14"]);
    let choice = Choice { outside: None, pods: Some(ToPods::Named("cni0,veth*".parse().unwrap())) };
    assert_eq!(show(&classify(&with(None), &choice)), ["cni0 pod 14", "veth1 pod 14"]);
}

#[test]
fn a_node_that_is_a_container() {
    let facts = node(&[
        ("lo", "", 772, None),
        ("eth0", "veth", ETHER, None),
        ("veth1", "veth", ETHER, None),
        ("eth1", "veth", ETHER, None),
    ])
    .default_route("eth0", true)
    .route("veth1", false)
    .route("eth1", true);
    assert_classes(&facts, &["eth0 outside 14", "veth1 pod 14", "eth1 outside 14"]);
}

#[test]
fn bonds_and_bridges_with_ports_to_the_outside() {
    let facts = node(&[
        ("bond0", "bond", ETHER, Some("br0")),
        ("eth0", "", ETHER, Some("bond0")),
        ("eth1", "", ETHER, Some("bond0")),
        ("team0", "team", ETHER, None),
        ("eth2", "", ETHER, Some("team0")),
        ("br0", "bridge", ETHER, None),
        ("eth3", "", ETHER, Some("br0")),
        ("bond0.5", "vlan", ETHER, Some("br0")),
        ("vxlan1", "vxlan", ETHER, Some("br0")),
        ("veth1", "veth", ETHER, Some("br0")),
        ("tap1", "tun", ETHER, Some("br0")),
        ("nk1", "netkit", ETHER, Some("br0")),
        ("bond1", "bond", ETHER, None),
        ("bond1.7", "vlan", ETHER, None),
    ])
    .default_route("br0", true);
    let wanted = [
        "team0 outside 14",
        "br0 outside 14",
        "veth1 pod 14",
        "tap1 pod 14",
        "nk1 pod 14",
        "bond1 outside 14",
        "bond1.7 outside 14",
    ];
    assert_classes(&facts, &wanted);
}

#[test]
fn a_virtual_switch_is_like_a_bridge() {
    let facts = node(&[
        ("ovs-system", "openvswitch", ETHER, None),
        ("eth0", "", ETHER, Some("ovs-system")),
        ("veth1", "veth", ETHER, Some("ovs-system")),
        ("br-int", "openvswitch", ETHER, None),
    ]);
    assert_classes(&facts, &["ovs-system outside 14", "veth1 pod 14", "br-int outside 14"]);
}

#[test]
fn members_of_a_routing_domain_are_devices_of_their_own() {
    let facts = node(&[("vrf1", "vrf", ETHER, None), ("eth0", "", ETHER, Some("vrf1"))]);
    assert_classes(&facts, &["vrf1 outside 14", "eth0 outside 14"]);
}

#[test]
fn devices_without_a_header() {
    let facts = node(&[
        ("wg0", "wireguard", NONE, None),
        ("tun0", "tun", NONE, None),
        ("tap0", "tun", ETHER, None),
        ("ppp0", "ppp", 512, None),
        ("tunl0", "ipip", 768, None),
        ("ip6tnl0", "ip6tnl", 769, None),
        ("sit0", "sit", 776, None),
        ("gre0", "gre", 778, None),
        ("ip6gre0", "ip6gre", 823, None),
        ("gretap0", "gretap", ETHER, None),
    ]);
    let wanted = [
        "wg0 outside 0",
        "tun0 outside 0",
        "tap0 pod 14",
        "ppp0 outside 0",
        "tunl0 outside 0",
        "ip6tnl0 outside 0",
        "sit0 outside 0",
        "gre0 outside 0",
        "ip6gre0 outside 0",
        "gretap0 outside 14",
    ];
    assert_classes(&facts, &wanted);
}

#[test]
fn what_cannot_be_read_is_left_alone_and_told() {
    let facts = node(&[("can0", "can", 280, None), ("ifb0", "ifb", ETHER, None), ("ib0", "", 32, None)]);
    let classes = classify(&facts, &Choice::default());
    assert!(classes.devices.is_empty(), "{classes:?}");
    let unfit = [("can0", "can"), ("ib0", "ARPHRD 32")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(classes.unfit, unfit);
}

fn choice(outside: Option<&str>, pods: Option<&str>) -> Choice {
    let names = |text: &str| text.parse().unwrap();
    Choice { outside: outside.map(names), pods: pods.map(names).map(ToPods::Named) }
}

#[test]
fn the_user_chooses() {
    let facts = node(&[
        ("lo", "", 772, None),
        ("eth0", "", ETHER, None),
        ("eth1", "", ETHER, None),
        ("cni0", "bridge", ETHER, None),
        ("veth1", "veth", ETHER, Some("cni0")),
        ("eth2", "", ETHER, Some("cni0")),
    ]);
    for (outside, pods, wanted) in [
        (Some("eth0"), None, &["eth0 outside 14", "cni0 pod 14", "veth1 pod 14"][..]),
        (None, Some("none"), &["eth0 outside 14", "eth1 outside 14"]),
        (None, Some("eth1,veth*"), &["eth0 outside 14", "eth1 pod 14", "veth1 pod 14"]),
        (
            Some("eth*"),
            Some("cni0"),
            &["eth0 outside 14", "eth1 outside 14", "cni0 pod 14", "eth2 outside 14"],
        ),
        (Some("lo"), Some("none"), &[]),
    ] {
        let classes = classify(&facts, &choice(outside, pods));
        assert_eq!(show(&classes), wanted, "--devices {outside:?} --pod-devices {pods:?}");
        assert!(classes.contested.is_empty());
    }
}

#[test]
fn a_bridge_is_chosen_with_its_ports() {
    let facts = node(&[
        ("eth0", "", ETHER, None),
        ("cni0", "bridge", ETHER, None),
        ("veth1", "veth", ETHER, Some("cni0")),
        ("docker0", "bridge", ETHER, None),
        ("veth2", "veth", ETHER, Some("docker0")),
        ("veth3", "veth", ETHER, None),
    ]);
    let choice = Choice { outside: None, pods: Some(ToPods::Bridge("cni0".to_owned())) };
    assert_eq!(show(&classify(&facts, &choice)), ["eth0 outside 14", "(cni0 pod 14)", "veth1 pod 14"]);
}

#[test]
fn nobody_is_on_both_sides() {
    let facts = node(&[("eth0", "", ETHER, None), ("eth1", "", ETHER, None)]);
    let classes = classify(&facts, &choice(Some("eth*"), Some("eth1")));
    assert_eq!(show(&classes), ["eth0 outside 14"]);
    assert_eq!(classes.contested, ["eth1"]);
}

/// What a device masquerades as.
fn masquerade(facts: &Facts, name: &str) -> [String; 2] {
    let layout::Device { v4, v6 } =
        classify(facts, &Choice::default()).devices[&facts.index(name)].masquerade;
    [v4, v6].map(|address| match address {
        Address::ANY_V6 => "none".to_owned(),
        address => address.to_ip().to_string(),
    })
}

#[test]
fn masquerade_addresses() {
    let facts = node(&[
        ("eth0", "", ETHER, None),
        ("eth1", "", ETHER, None),
        ("cni0", "bridge", ETHER, None),
        ("veth1", "veth", ETHER, Some("cni0")),
        ("veth2", "veth", ETHER, None),
        ("bare", "", ETHER, None),
    ])
    .secondary("eth1", "192.0.2.2")
    .address("eth1", "192.0.2.1")
    .secondary("eth1", "2001:db8::2")
    .address("eth0", "198.51.100.1")
    .address("cni0", "10.244.1.1");
    // Without a default route the first device outside counts.
    assert_eq!(masquerade(&facts, "bare"), ["198.51.100.1", "2001:db8::2"]);
    let facts = facts.default_route("eth1", true).default_route("eth1", false);
    for (name, wanted) in [
        ("eth0", ["198.51.100.1", "2001:db8::2"]),
        ("eth1", ["192.0.2.1", "2001:db8::2"]),
        ("cni0", ["10.244.1.1", "2001:db8::2"]),
        ("veth1", ["10.244.1.1", "2001:db8::2"]),
        ("veth2", ["192.0.2.1", "2001:db8::2"]),
    ] {
        assert_eq!(masquerade(&facts, name), wanted, "{name}");
    }
    let v4_only = node(&[("eth0", "", ETHER, None)]).address("eth0", "192.0.2.1");
    assert_eq!(masquerade(&v4_only, "eth0"), ["192.0.2.1", "none"]);
}
