//! Tuples, flows and their seals; ranges of ports and addresses; cells.

use std::{collections::BTreeSet, net::IpAddr, vec::Vec};

use proptest::prelude::*;

use super::*;

fn address(text: &str) -> Address {
    Address::from(text.parse::<IpAddr>().unwrap())
}

fn any_address() -> impl Strategy<Value = Address> {
    // Few, so that equal ones meet; of both families.
    prop::sample::select(vec!["10.0.0.1", "10.0.0.2", "192.168.0.1", "fd00::1", "fd00::2"]).prop_map(address)
}

fn any_port() -> impl Strategy<Value = Port> {
    prop_oneof![1u16..4, any::<u16>()].prop_map(Port::new)
}

fn any_tuple() -> impl Strategy<Value = Tuple> {
    let ends = (any_address(), any_address(), any_port(), any_port());
    (ends, prop::sample::select(vec![6u8, 17, 132])).prop_map(|(ends, protocol)| Tuple {
        source: ends.0,
        destination: ends.1,
        source_port: ends.2,
        destination_port: ends.3,
        protocol,
        reserved: [0; 3],
    })
}

fn any_flow() -> impl Strategy<Value = Flow> {
    let own = prop_oneof![Just(Address::ANY_V6), any_address()];
    (any_address(), own, any_port(), any_port(), 0u32..2, 1u64..9).prop_map(
        |(vip, masquerade, vip_port, client_port, flags, born)| Flow {
            vip,
            masquerade,
            born,
            seen: born,
            vip_port,
            client_port,
            service: 0,
            state: 0,
            flags,
            place: 0,
            reserved: 0,
            seal: 0,
        },
    )
}

proptest! {
    /// Both directions have one key, and it is said which of them it is.
    #[test]
    fn both_directions_have_one_key(tuple in any_tuple()) {
        let (key, is_reversed) = tuple.ordered();
        prop_assert_eq!(if is_reversed { key.reversed() } else { key }, tuple);
        prop_assert_eq!(tuple.reversed().ordered().0, key);
        prop_assert_eq!(key.ordered(), (key, false));
        prop_assert_eq!(tuple.reversed().reversed(), tuple);
        prop_assert!(tuple == tuple.reversed() || tuple.reversed().ordered().1 != is_reversed);
    }

    /// A flow's names say what the packets' ends are on each stage of their way.
    #[test]
    fn names_share_what_no_translation_touches(tuple in any_tuple(), flow in any_flow()) {
        let (key, is_reversed) = tuple.ordered();
        let flow = Flow { flags: u32::from(!is_reversed), ..flow }.sealed(&key);
        prop_assert_eq!(flow.inside(&key), tuple);
        let asked = flow.asked(&key);
        prop_assert_eq!((asked.source, asked.source_port), (tuple.source, flow.client_port));
        prop_assert_eq!((asked.destination, asked.destination_port), (flow.vip, flow.vip_port));
        let answered = flow.answered(&key);
        prop_assert_eq!(Tuple { destination: tuple.source, ..answered }, tuple.reversed());
        prop_assert_eq!(answered.destination, flow.masquerade);
        prop_assert!([asked.protocol, answered.protocol].iter().all(|own| *own == tuple.protocol));
    }

    /// No part of a flow may come from another one, except those that change as packets pass.
    #[test]
    fn a_mixture_of_two_flows_belongs_to_neither(
        one in (any_tuple(), any_flow()), other in (any_tuple(), any_flow())
    ) {
        let (key, flow) = (one.0, one.1.sealed(&one.0));
        prop_assert!(flow.belongs_to(&key));
        prop_assert!(Flow { state: 63, seen: 99, place: 7, ..flow }.belongs_to(&key), "these are written in place");
        prop_assert_eq!(flow.belongs_to(&other.0), key == other.0);
        let o = other.1;
        for mixture in [
            Flow { vip: o.vip, ..flow },
            Flow { masquerade: o.masquerade, ..flow },
            Flow { born: o.born, ..flow },
            Flow { vip_port: o.vip_port, ..flow },
            Flow { client_port: o.client_port, ..flow },
            Flow { flags: o.flags, ..flow },
            Flow { service: 7, ..flow },
        ] {
            prop_assert_eq!(mixture.belongs_to(&key), mixture == flow);
        }
    }

    /// The same of arrivals.
    #[test]
    fn a_mixture_of_two_arrivals_belongs_to_neither(
        keys in (any_tuple(), any_tuple()), ports in (any_port(), any_port()), address in any_address(), flags in 0u16..4
    ) {
        let (port, source_port) = ports;
        let arrival =
            Arrival { address, born: 1, port, source_port, flags, noted: 0, seal: 0 }.sealed(&keys.0);
        prop_assert!(arrival.belongs_to(&keys.0));
        prop_assert!(Arrival { noted: 9, ..arrival }.belongs_to(&keys.0), "this is written in place");
        prop_assert_eq!(arrival.belongs_to(&keys.1), keys.0 == keys.1);
        for mixture in [
            Arrival { address: keys.1.source, ..arrival },
            Arrival { born: 2, ..arrival },
            Arrival { port: keys.1.source_port, ..arrival },
            Arrival { source_port: keys.1.source_port, ..arrival },
            Arrival { port: ports.1, source_port: ports.0, ..arrival },
            Arrival { flags: flags ^ 1, ..arrival },
        ] {
            prop_assert_eq!(mixture.belongs_to(&keys.0), mixture == arrival);
        }
    }

    /// Every index below the length is a port of its own, and `contains` knows exactly these.
    #[test]
    fn every_port_has_one_index(first in (1u16..30_000, 0u16..2_000), second in (40_000u16..60_000, 0u16..5_000)) {
        let ranges = PortRanges::new(first, second);
        let drawn: Vec<u16> = (0..ranges.len()).map(|index| ranges.port(index).number()).collect();
        let expected = (first.0..first.0 + first.1).chain(second.0..second.0 + second.1);
        prop_assert!(drawn.iter().copied().eq(expected));
        let known = (0..=u16::MAX).filter(|number| ranges.contains(Port::new(*number)));
        prop_assert!(known.eq(drawn.iter().copied()));
        prop_assert_eq!(ranges.is_empty(), drawn.is_empty());
    }

    /// A prefix contains what shares its leading bits.
    #[test]
    fn a_prefix_contains_what_shares_its_leading_bits(
        own in any::<u32>(), other in any::<u32>(), len in 0u8..=32, v6 in any::<u128>(), bit in 0u32..128
    ) {
        let v4 = |bits: u32| IpAddr::from(bits.to_be_bytes());
        let shared = (own ^ other).leading_zeros() >= u32::from(len);
        prop_assert_eq!(Prefix::new(v4(own), len).contains(&Address::from(v4(other))), shared);
        prop_assert!(Prefix::new(v4(own), len).contains(&Address::from(v4(own))));
        prop_assert!(!Prefix::new(v4(own), len).contains(&address("fd00::1")));
        let v6_len = u8::try_from(bit + 1).unwrap();
        let prefix = Prefix::new(std::net::Ipv6Addr::from(v6).into(), v6_len);
        let changed = |bit: u32| Address::from_octets((v6 ^ (1 << (127 - bit))).to_be_bytes());
        prop_assert!(!prefix.contains(&changed(bit)), "the last bit that counts");
        prop_assert!(bit == 127 || prefix.contains(&changed(bit + 1)), "the first that does not");
    }
}

#[test]
fn a_range_may_reach_the_last_port() {
    let ranges = PortRanges::new((65_535, 1), (61_000, 4_535));
    assert_eq!((ranges.port(0), ranges.port(1)), (Port::new(65_535), Port::new(61_000)));
    assert_eq!(ranges.port(ranges.len() - 1), Port::new(65_534));
    assert!(ranges.contains(Port::new(65_535)) && !ranges.contains(Port::new(0)));
}

#[test]
fn a_place_without_a_prefix_is_told_from_one_with() {
    assert!(!Prefix::NONE.is_some());
    assert!(Prefix::new("10.96.0.0".parse().unwrap(), 12).is_some());
    assert!(Prefix::new("0.0.0.0".parse().unwrap(), 0).is_some(), "all of IPv4");
    let host_bits = Prefix::new("10.96.3.4".parse().unwrap(), 16);
    assert_eq!(
        host_bits,
        Prefix::new("10.96.0.0".parse().unwrap(), 16),
        "bits beyond the length do not count"
    );
}

#[test]
fn neighbours_seldom_share_a_cell() {
    let v4 = |number: u16| {
        let [third, fourth] = number.to_be_bytes();
        Address::from(IpAddr::from([10, 244, third, fourth]))
    };
    let v6 = |number: u16| Address::from_octets((0xfd00_u128 << 112 | u128::from(number)).to_be_bytes());
    for (pods, expected) in [(256, 250), (1 << 16, 40_000)] {
        for address in [v4 as fn(u16) -> Address, v6] {
            let numbers = (0..pods).map(|number: u32| u16::try_from(number).unwrap());
            let used: BTreeSet<_> = numbers.map(|number| cell(&address(number))).collect();
            assert!(used.iter().all(|(row, column)| *row < CELLS / CELLS_PER_ROW && *column < CELLS_PER_ROW));
            assert!(used.len() >= expected, "{} of {pods}", used.len());
        }
    }
}
