//! Words keep their parts apart; seals tell mixtures from wholes.

use super::*;
use crate::address::{Address, Port};

fn key(last: u8, port: u16) -> FrontendKey {
    FrontendKey {
        address: Address::from_v4_word(u32::from_ne_bytes([10, 96, 0, last])),
        port: Port::new(port),
        protocol: protocol::TCP,
        scope: scope::VIP,
    }
}

#[test]
fn sets_keep_their_parts_apart() {
    let start = Sets::MAX_SLOTS - 2;
    for bits in 0..8 {
        let [any, internal, external] = [1, 2, 4].map(|bit| bits & bit != 0);
        let sets = Sets::new(start, 65_535, 1)
            .with_any_endpoint(any)
            .with_internal_local(internal)
            .with_external_local(external);
        let parts = (sets.any_endpoint(), sets.internal_local(), sets.external_local());
        assert_eq!(parts, (any, internal, external));
        assert_eq!(sets.cluster(), Range { start, len: 65_535 });
        assert_eq!(sets.local().len, 1);
        let none = sets.with_any_endpoint(false).with_internal_local(false).with_external_local(false);
        assert_eq!(none, Sets::new(start, 65_535, 1));
    }
    assert_eq!(Sets::new(7, 2, 3).local(), Range { start: 9, len: 3 });
    assert_eq!(Sets::new(7, 2, 3).all(), Range { start: 7, len: 5 });
}

#[test]
fn a_seal_tells_neighbouring_frontends_and_values_apart() {
    let mut seen = std::collections::HashSet::new();
    for last in 0..=255 {
        for port in [80u16, 81, 443, 20_480] {
            for service in [0u32, 1, 2, 256, 65_536] {
                assert!(seen.insert(Frontend::sealed(&key(last, port), service, 0).seal));
            }
        }
    }
}

#[test]
fn a_mixture_of_two_origins_is_not_whole() {
    let origin = |last: u8, service: u32| {
        Origin {
            stamp: 2,
            sets: Sets::new(service * 4, 4, 0).0,
            vip: key(last, 53).address,
            backend: key(last + 100, 53).address,
            vip_port: Port::new(53),
            backend_port: Port::new(5353),
            service,
            slot: service * 4 + 1,
            flags: 0,
            seal: 0,
        }
        .sealed()
    };
    let (a, b) = (origin(1, 1), origin(2, 2));
    assert!(a.is_whole() && b.is_whole());
    for mixture in [
        Origin { vip: b.vip, ..a },
        Origin { service: b.service, slot: b.slot, ..a },
        Origin { backend: b.backend, ..a },
        Origin { sets: b.sets, ..a },
        Origin { stamp: 4, ..a },
        Origin { seal: b.seal, ..a },
        Origin { flags: origin_flag::CONNECTED, ..a },
    ] {
        assert!(!mixture.is_whole(), "{mixture:?}");
    }
}

#[test]
fn a_torn_frontend_does_not_pass() {
    let mine = Frontend::sealed(&key(1, 80), 5, frontend_kind::CLUSTER_IP);
    let other = Frontend::sealed(&key(2, 80), 6, frontend_kind::CLUSTER_IP);
    assert!(mine.belongs_to(&key(1, 80)));
    assert!(!other.belongs_to(&key(1, 80)));
    assert!(!Frontend { seal: mine.seal, ..other }.belongs_to(&key(1, 80)));
    assert!(!Frontend { service: other.service, ..mine }.belongs_to(&key(1, 80)));
}
