//! Which flows are over, and what is counted.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proxy_common::{
    address::{Address, Port},
    decision::packet::{Signals, state},
    layout::{
        Arrival, Flow, FrontendKey, PortRanges, Tuple, arrival_flag, flow_flag, flow_state, protocol, scope,
    },
};

use super::{
    age::{Timeouts, is_over},
    alarm::Alarm,
    census::{Census, Stage},
    orphan::{is_orphan, key_of},
    stale::Served,
};

const SECOND: u64 = 1_000_000_000;
const DEFAULT: Timeouts = Timeouts::DEFAULT;

fn address(text: &str) -> Address {
    Address::from(text.parse::<std::net::IpAddr>().unwrap())
}

/// A flow from 198.51.100.7:port by 10.96.0.1:80 to `backend`:8080.
fn flow(protocol: u8, port: u16, backend: &str, masquerade: Option<&str>, state: u32) -> (Tuple, Flow) {
    let inside = Tuple {
        source: address("198.51.100.7"),
        destination: address(backend),
        source_port: Port::new(port),
        destination_port: Port::new(8080),
        protocol,
        reserved: [0; 3],
    };
    let (key, is_reversed) = inside.ordered();
    let flow = Flow {
        vip: address("10.96.0.1"),
        masquerade: masquerade.map_or(Address::ANY_V6, address),
        born: 1,
        seen: 1,
        vip_port: Port::new(80),
        client_port: Port::new(4711),
        service: 3,
        state,
        flags: if is_reversed { 0 } else { flow_flag::CLIENT_IS_SOURCE },
        place: 0,
        reserved: 0,
        seal: 0,
    };
    (key, flow.sealed(&key))
}

fn patience(protocol: u8, state: u32) -> u64 {
    DEFAULT.patience(protocol, state).as_secs()
}

#[test]
fn each_state_has_its_time() {
    use flow_state::{BACKEND_DONE, CLIENT_DONE, CLOSING, ESTABLISHED, REPLIED, RESET};
    use protocol::{SCTP, TCP, UDP};
    let established = REPLIED | ESTABLISHED;
    for (protocol, state, seconds) in [
        (TCP, 0, 60),
        (TCP, REPLIED, 60),
        (TCP, REPLIED | BACKEND_DONE, 60),
        (TCP, established, 86_400),
        (TCP, established | CLIENT_DONE, 3_600),
        (TCP, established | BACKEND_DONE, 3_600),
        (TCP, established | CLIENT_DONE | BACKEND_DONE | CLOSING, 10),
        (TCP, established | RESET | CLOSING, 10),
        (TCP, CLOSING, 10),
        (UDP, 0, 30),
        (UDP, REPLIED, 30),
        (UDP, established, 120),
        (SCTP, 0, 30),
        (SCTP, established, 210),
        (SCTP, established | CLIENT_DONE, 210),
        (SCTP, established | CLIENT_DONE | BACKEND_DONE | CLOSING, 10),
    ] {
        assert_eq!(patience(protocol, state), seconds, "{protocol} {state:#b}");
    }
}

#[derive(Clone, Debug)]
struct Packet {
    after: u64,
    from_client: bool,
    signals: u32,
}

fn packets() -> impl Strategy<Value = Vec<Packet>> {
    let one = (0..100 * SECOND, any::<bool>(), prop_oneof![4 => Just(0), 1 => 0..8u32])
        .prop_map(|(after, from_client, signals)| Packet { after, from_client, signals });
    prop::collection::vec(one, 0..20)
}

fn a_protocol() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![protocol::TCP, protocol::UDP, protocol::SCTP])
}

/// The flow after these packets.
fn played(protocol: u8, packets: &[Packet]) -> Flow {
    let (_, mut flow) = flow(protocol, 5000, "10.1.0.1", None, 0);
    for packet in packets {
        flow.seen += packet.after;
        flow.state = state::next(flow.state, packet.from_client, Signals(packet.signals));
    }
    flow
}

proptest! {
    #[test]
    fn it_is_over_exactly_when_its_time_has_passed(
        protocol in a_protocol(), packets in packets(), idle in 0..200_000 * SECOND,
    ) {
        let flow = played(protocol, &packets);
        let patience = DEFAULT.patience(protocol, flow.state);
        let over = is_over(&flow, protocol, flow.seen + idle, &DEFAULT);
        prop_assert_eq!(over, Duration::from_nanos(idle) > patience);
    }

    #[test]
    fn what_is_seen_after_the_clock_was_read_is_not_over(
        protocol in a_protocol(), state in 0..64u32, seen in any::<u64>(), ahead in any::<u64>(),
    ) {
        let flow = Flow { seen, state, ..played(protocol, &[]) };
        prop_assert!(!is_over(&flow, protocol, seen.saturating_sub(ahead), &DEFAULT));
    }

    #[test]
    fn what_is_over_stays_over_until_a_packet_comes(
        protocol in a_protocol(), packets in packets(), idle in 0..200_000 * SECOND, more in 0..200_000 * SECOND,
    ) {
        let flow = played(protocol, &packets);
        let at = flow.seen + idle;
        if is_over(&flow, protocol, at, &DEFAULT) {
            prop_assert!(is_over(&flow, protocol, at + more, &DEFAULT));
            let touched = Flow { seen: at + more, ..flow };
            prop_assert!(!is_over(&touched, protocol, at + more, &DEFAULT));
        }
    }

    #[test]
    fn traffic_of_one_side_alone_is_soon_over(
        protocol in a_protocol(), packets in packets(), from_client in any::<bool>(),
    ) {
        let one_sided: Vec<Packet> =
            packets.into_iter().map(|packet| Packet { from_client, ..packet }).collect();
        let flow = played(protocol, &one_sided);
        prop_assert!(is_over(&flow, protocol, flow.seen + 61 * SECOND, &DEFAULT));
    }

    #[test]
    fn more_patience_ends_no_flow_earlier(
        protocol in a_protocol(), packets in packets(), idle in 0..200_000 * SECOND, seconds in 0..100_000u64,
    ) {
        let more = Duration::from_secs(seconds);
        let patient = Timeouts {
            tcp_established: DEFAULT.tcp_established + more,
            tcp_close_wait: DEFAULT.tcp_close_wait + more,
            udp: DEFAULT.udp + more,
            udp_stream: DEFAULT.udp_stream + more,
        };
        let flow = played(protocol, &packets);
        let at = flow.seen + idle;
        prop_assert!(is_over(&flow, protocol, at, &DEFAULT) || !is_over(&flow, protocol, at, &patient));
    }
}

#[test]
fn flows_are_counted_by_what_they_are() {
    let ports = PortRanges::new((5000, 10), (0, 0));
    let mut census = Census::default();
    let established = flow_state::REPLIED | flow_state::ESTABLISHED;
    for (protocol, port, backend, own, state) in [
        (protocol::TCP, 5000, "10.1.0.1", Some("192.0.2.1"), established),
        (protocol::TCP, 5001, "10.1.0.1", Some("192.0.2.1"), flow_state::CLOSING),
        (protocol::UDP, 5000, "10.1.0.1", Some("192.0.2.1"), 0),
        (protocol::TCP, 5000, "10.1.0.2", Some("192.0.2.1"), 0),
        // Not a port that another flow could want.
        (protocol::TCP, 4999, "10.1.0.1", Some("192.0.2.1"), established),
        (protocol::TCP, 5002, "10.1.0.1", None, established),
    ] {
        let (key, flow) = flow(protocol, port, backend, own, state);
        census.count(&key, &flow, ports);
    }
    assert_eq!((census.flows, census.masqueraded), (6, 5));
    let kinds: Vec<_> = census.kinds().filter(|(_, _, count)| *count > 0).collect();
    let expected = [
        ("TCP", Stage::Nascent, 1),
        ("TCP", Stage::Established, 3),
        ("TCP", Stage::Closing, 1),
        ("UDP", Stage::Nascent, 1),
    ];
    assert_eq!(kinds, expected);
    let (crowd, share) = census.shares(ports).max_by(|one, other| one.1.total_cmp(&other.1)).unwrap();
    assert_eq!((crowd.to_string().as_str(), crowd.protocol), ("10.1.0.1:8080 as 192.0.2.1", protocol::TCP));
    assert!((share - 0.2).abs() < 1e-9 && census.taken(&crowd) == 2);
}

#[test]
fn an_alarm_rings_once_until_it_has_rested() {
    let mut alarm = Alarm::default();
    let rings: Vec<bool> = [0.79, 0.81, 0.9, 0.75, 0.85, 0.69, 0.8, 0.81]
        .into_iter()
        .map(|share| !alarm.hear([('a', share)].into_iter()).is_empty())
        .collect();
    assert_eq!(rings, [false, true, false, false, false, false, false, true]);
    assert_eq!(alarm.hear([('a', 0.9), ('b', 0.9)].into_iter()), ['b']);
    assert!(alarm.hear(std::iter::empty()).is_empty());
    assert_eq!(alarm.hear([('b', 0.9)].into_iter()), ['b']);
}

#[test]
fn both_arrivals_lead_to_their_flow() {
    for (backend, own) in
        [("10.1.0.1", "192.0.2.1"), ("fd00::1", "2001:db8::1"), ("203.0.113.9", "192.0.2.1")]
    {
        let (key, flow) = flow(protocol::TCP, 5000, backend, Some(own), 0);
        let inside = flow.inside(&key);
        let arrival = |address, port, source_port, flags| Arrival {
            address,
            born: flow.born,
            port,
            source_port,
            flags,
            noted: 0,
            seal: 0,
        };
        let there = arrival(inside.destination, inside.destination_port, inside.source_port, 0);
        assert_eq!(key_of(&flow.asked(&key), &there), key);
        let back = arrival(inside.source, inside.source_port, inside.destination_port, arrival_flag::REPLY);
        assert_eq!(key_of(&flow.answered(&key), &back), key);
    }
}

#[test]
fn only_udp_flows_are_led_elsewhere_and_only_if_there_is_an_elsewhere() {
    let key =
        |address, port, protocol, scope| FrontendKey { address, port: Port::new(port), protocol, scope };
    let ends = |all: &[(&str, u16)]| {
        Arc::new(all.iter().map(|(ip, port)| (address(ip), Port::new(*port))).collect())
    };
    let leaves = |protocol, state, frontend: FrontendKey, serving: &[(&str, u16)]| {
        let (key, flow) = flow(protocol, 5000, "10.1.0.1", None, state);
        let mut served = Served::on(Arc::new([address("10.96.0.1")].into()));
        served.add([frontend], &ends(serving));
        served.leaves(&key, &flow)
    };
    let vip = key(address("10.96.0.1"), 80, protocol::UDP, scope::VIP);
    let (this, other) = (("10.1.0.1", 8080), ("10.1.0.2", 8080));
    assert!(leaves(protocol::UDP, 0, vip, &[other]));
    assert!(leaves(protocol::UDP, flow_state::REPLIED | flow_state::ESTABLISHED, vip, &[other]));
    assert!(leaves(protocol::UDP, 0, vip, &[("10.1.0.1", 8081)]), "another port of the same endpoint");
    assert!(!leaves(protocol::UDP, 0, vip, &[this]));
    assert!(!leaves(protocol::UDP, 0, vip, &[other, this]));
    assert!(!leaves(protocol::UDP, 0, vip, &[]), "nobody serves");
    assert!(!leaves(protocol::TCP, 0, vip, &[other]));
    assert!(!leaves(protocol::SCTP, 0, vip, &[other]));
    // Other frontends have other endpoints; a NodePort is one at every address.
    let tcp = key(address("10.96.0.1"), 80, protocol::TCP, scope::VIP);
    for elsewhere in [
        tcp,
        key(address("10.96.0.1"), 81, protocol::UDP, scope::VIP),
        key(address("10.96.0.2"), 80, protocol::UDP, scope::VIP),
        key(Address::ANY_V6, 80, protocol::UDP, scope::NODE_PORT),
    ] {
        assert!(!leaves(protocol::UDP, 0, elsewhere, &[other]), "{elsewhere:?}");
    }
    let node_port = key(Address::ANY_V4, 80, protocol::UDP, scope::NODE_PORT);
    assert!(leaves(protocol::UDP, 0, node_port, &[other]));
    let mut not_here = Served::default();
    not_here.add([node_port], &ends(&[other]));
    let (inside, to_vip) = flow(protocol::UDP, 5000, "10.1.0.1", None, 0);
    assert!(!not_here.leaves(&inside, &to_vip), "the address is not the node's");
    // The last word counts, and what belongs to another key is not believed.
    let mut served = Served::default();
    served.add([vip], &ends(&[other]));
    let mut later = Served::default();
    later.add([vip], &ends(&[this, other]));
    let (key, flow) = flow(protocol::UDP, 5000, "10.1.0.1", None, 0);
    assert!(served.leaves(&key, &flow) && !served.leaves(&key, &Flow { service: 9, ..flow }));
    let mut nobody = Served::default();
    nobody.add([vip], &ends(&[]));
    let mut gone = served.clone();
    gone.extend(nobody);
    assert!(!gone.leaves(&key, &flow), "nobody serves any more");
    served.extend(later);
    assert!(!served.leaves(&key, &flow));
}

#[test]
fn an_arrival_of_another_flow_is_an_orphan_once_things_have_settled() {
    let (_, flow) = flow(protocol::TCP, 5000, "10.1.0.1", None, 0);
    let arrival = Arrival {
        address: address("10.1.0.1"),
        born: flow.born,
        port: Port::new(8080),
        source_port: Port::new(5000),
        flags: 0,
        noted: 0,
        seal: 0,
    };
    let later = Flow { born: 100 * SECOND, ..flow };
    for (flow, now, orphan) in [
        (None, 59, false),
        (None, 61, true),
        (Some(&flow), 1_000, false),
        (Some(&later), 159, false),
        (Some(&later), 161, true),
        (None, 0, false),
    ] {
        assert_eq!(is_orphan(&arrival, flow, now * SECOND), orphan, "{flow:?} at {now}");
    }
    // What leads nowhere on purpose stays for as long as netfilter may need it.
    let nowhere = Arrival { address: Address::ANY_V6, ..arrival };
    for (now, orphan) in [(61, false), (179, false), (181, true)] {
        assert_eq!(is_orphan(&nowhere, None, now * SECOND), orphan, "at {now}");
    }
}
