//! Who is told that his backend is gone, and who is not.

use std::net::IpAddr;

use proxy_common::layout::origin_flag;

use super::*;

const UDP: u8 = protocol::UDP;
const TCP: u8 = protocol::TCP;
const NOBODY: [u8; 0] = [];
const VIP: &str = "10.96.0.1";

fn end(text: &str, port: u16) -> End {
    (Address::from(text.parse::<IpAddr>().unwrap()), Port::new(port))
}

/// Endpoints by their last byte.
fn ends(last: &[u8]) -> Arc<HashSet<End>> {
    Arc::new(last.iter().map(|last| end(&format!("10.1.0.{last}"), 8080)).collect())
}

fn frontend(text: &str, port: u16, protocol: u8) -> FrontendKey {
    let (address, port) = end(text, port);
    let scope = if address == address.any_of_family() { scope::NODE_PORT } else { scope::VIP };
    FrontendKey { address, port, protocol, scope }
}

fn stand(frontends: &[FrontendKey], last: &[u8]) -> Stand {
    Stand { frontends: frontends.to_vec(), endpoints: ends(last) }
}

fn roster(name: &str, stands: &[Stand], answering: &[u8]) -> Roster {
    let service = ServiceName { namespace: "default".into(), name: name.into() };
    Roster { service, stands: stands.to_vec(), answering: ends(answering) }
}

/// A Service `web` with a UDP port at [`VIP`], whose slices name nobody else.
fn web(last: &[u8]) -> Roster {
    roster("web", &[stand(&[frontend(VIP, 80, UDP)], last)], last)
}

fn gone(name: &str, answering: &[u8]) -> Roster {
    roster(name, &[], answering)
}

fn hear(backing: &mut Backing, rosters: &[Roster], stage: Stage) {
    let node = Arc::new(BTreeSet::from([end("192.168.0.1", 0).0]));
    backing.hear(&News { rosters: rosters.into(), node, stage });
}

/// A change, as the loop says it.
fn change(backing: &mut Backing, rosters: &[Roster]) {
    hear(backing, rosters, Stage::Coming);
    hear(backing, rosters, Stage::Made);
}

/// All looks that follow from the beginning.
fn knowing(rosters: &[Roster]) -> Backing {
    let mut backing = Backing::default();
    hear(&mut backing, rosters, Stage::Coming);
    hear(&mut backing, rosters, Stage::Complete(ends(&[])));
    look(&mut backing);
    look(&mut backing);
    assert!(!backing.is_waiting());
    backing
}

fn look(backing: &mut Backing) {
    backing.begin();
    backing.end();
}

/// A socket that asked there and got the endpoint with that last byte.
fn origin(asked: End, last: u8) -> Origin {
    let (backend, backend_port) = end(&format!("10.1.0.{last}"), 8080);
    Origin {
        stamp: 1,
        sets: 0,
        vip: asked.0,
        backend,
        vip_port: asked.1,
        backend_port,
        service: 0,
        slot: 0,
        flags: origin_flag::CONNECTED,
        seal: 0,
    }
    .sealed()
}

/// Which of the endpoints 1 to 4 are over for sockets that asked there.
fn over_at(backing: &Backing, protocol: u8, asked: End) -> Vec<u8> {
    (1..=4).filter(|last| backing.is_over(protocol, &origin(asked, *last))).collect()
}

fn over(backing: &Backing) -> Vec<u8> {
    over_at(backing, UDP, end(VIP, 80))
}

#[test]
fn who_lost_an_endpoint_is_told_in_two_looks_and_nobody_else_is() {
    let mut backing = knowing(&[web(&[1, 2, 3])]);
    assert_eq!(over(&backing), NOBODY, "4 was never there, and nobody knows of it");
    change(&mut backing, &[web(&[1, 4])]);
    for _ in 0..2 {
        assert!(backing.is_waiting());
        backing.begin();
        assert_eq!(over(&backing), [2, 3]);
        // Another port, another address, another protocol.
        for (protocol, asked) in [(UDP, end(VIP, 81)), (UDP, end("10.96.0.2", 80)), (TCP, end(VIP, 80))] {
            assert_eq!(over_at(&backing, protocol, asked), NOBODY);
        }
        backing.end();
    }
    assert!(!backing.is_waiting());
    assert_eq!(over(&backing), NOBODY);
}

#[test]
fn nobody_is_left_and_all_are_told() {
    let mut backing = knowing(&[web(&[1, 2])]);
    change(&mut backing, &[web(&[])]);
    assert_eq!(over(&backing), [1, 2]);
}

#[test]
fn nothing_is_looked_at_when_nobody_was_lost() {
    let mut backing = knowing(&[web(&[1])]);
    for rosters in
        [web(&[1]), web(&[1, 2]), roster("new", &[stand(&[frontend("10.96.0.9", 53, UDP)], &[])], &[])]
    {
        change(&mut backing, &[rosters]);
        assert!(!backing.is_waiting());
    }
}

#[test]
fn an_endpoint_that_is_back_is_over_for_nobody_even_before_it_can_be_chosen() {
    let mut backing = knowing(&[web(&[1, 2])]);
    change(&mut backing, &[web(&[1])]);
    assert_eq!(over(&backing), [2]);
    hear(&mut backing, &[web(&[1, 2])], Stage::Coming);
    assert_eq!(over(&backing), NOBODY);
    assert!(backing.lost.values().all(HashMap::is_empty));
    hear(&mut backing, &[web(&[1, 2])], Stage::Made);
    assert_eq!(over(&backing), NOBODY);
    // Gone for good before it was there: the sockets of the moment are told.
    hear(&mut backing, &[web(&[1, 2, 3])], Stage::Coming);
    hear(&mut backing, &[web(&[1])], Stage::Made);
    assert_eq!(over(&backing), [2, 3]);
}

#[test]
fn what_is_lost_while_a_look_is_under_way_has_two_more() {
    let mut backing = knowing(&[web(&[1, 2, 3])]);
    change(&mut backing, &[web(&[1, 2])]);
    backing.begin();
    change(&mut backing, &[web(&[1])]);
    backing.end();
    backing.begin();
    assert_eq!(over(&backing), [2, 3]);
    backing.end();
    backing.begin();
    assert_eq!(over(&backing), [2]);
    backing.end();
    assert!(!backing.is_waiting());
}

#[test]
fn sockets_of_a_deleted_service_stay_while_its_slices_name_their_endpoints() {
    let mut backing = knowing(&[web(&[1, 2])]);
    change(&mut backing, &[gone("web", &[1])]);
    assert_eq!(over(&backing), [2]);
    look(&mut backing);
    look(&mut backing);
    assert_eq!(over(&backing), NOBODY);
    change(&mut backing, &[gone("web", &[])]);
    assert_eq!(over(&backing), [1]);
    look(&mut backing);
    look(&mut backing);
    assert!(backing.held.is_empty() && backing.by_service.is_empty() && backing.lost.is_empty());
}

#[test]
fn a_service_that_is_made_again_judges_those_of_the_old_one() {
    let mut backing = knowing(&[web(&[1, 2])]);
    change(&mut backing, &[gone("web", &[1, 2])]);
    change(&mut backing, &[web(&[2, 3])]);
    assert_eq!(over(&backing), [1]);
}

#[test]
fn a_frontend_that_a_service_gives_up_is_judged_by_who_has_it_then() {
    let both = [frontend(VIP, 80, UDP), frontend("198.51.100.7", 80, UDP)];
    let external = end("198.51.100.7", 80);
    let before = [roster("web", &[stand(&both, &[1, 2])], &[1, 2])];
    let web = web(&[1, 2]);
    // By nobody: whoever its slices name stays.
    let mut backing = knowing(&before);
    change(&mut backing, std::slice::from_ref(&web));
    assert_eq!(over_at(&backing, UDP, external), NOBODY);
    change(&mut backing, &[roster("web", &web.stands, &[1])]);
    assert_eq!(over_at(&backing, UDP, external), [2]);
    // By another Service, whichever is spoken of first.
    let other = roster("other", &[stand(&both[1..], &[2, 3])], &[2, 3]);
    for rosters in [[web.clone(), other.clone()], [other, web]] {
        let mut backing = knowing(&before);
        change(&mut backing, &rosters);
        assert_eq!(over_at(&backing, UDP, external), [1], "{rosters:?}");
        assert_eq!(over(&backing), NOBODY);
    }
}

#[test]
fn node_ports_are_those_of_the_nodes_addresses_and_of_loopback() {
    let ports = |last: &[u8]| {
        let keys = [frontend("0.0.0.0", 30_053, UDP), frontend("::", 30_053, UDP)];
        let vip = stand(&[frontend("192.168.0.1", 30_054, UDP)], last);
        roster("web", &[stand(&keys, last), vip], last)
    };
    let mut backing = knowing(&[ports(&[1, 2])]);
    change(&mut backing, &[ports(&[1])]);
    for here in ["192.168.0.1", "127.0.0.1", "::1"] {
        assert_eq!(over_at(&backing, UDP, end(here, 30_053)), [2], "{here}");
    }
    for elsewhere in ["192.168.0.2", "fd00::1"] {
        assert_eq!(over_at(&backing, UDP, end(elsewhere, 30_053)), NOBODY, "{elsewhere}");
    }
    // A Service's own address is not a NodePort, be it the node's, too.
    assert_eq!(over_at(&backing, UDP, end("192.168.0.1", 30_054)), [2]);
}

#[test]
fn the_first_complete_lists_judge_everything() {
    let mut backing = Backing::default();
    // Nothing is concluded from lists with gaps.
    hear(&mut backing, &[web(&[1])], Stage::Made);
    assert!(!backing.is_waiting());
    hear(&mut backing, &[web(&[1])], Stage::Complete(ends(&[1, 3])));
    let (known, unknown) = (end(VIP, 80), end("10.96.0.99", 80));
    for round in 0..2 {
        assert!(backing.is_waiting());
        backing.begin();
        assert_eq!(over_at(&backing, UDP, known), [2, 3, 4]);
        assert_eq!(over_at(&backing, UDP, unknown), [2, 4], "whoever answers anywhere is not gone");
        assert_eq!(over_at(&backing, TCP, unknown), NOBODY, "of TCP nothing is known, in round {round}");
        backing.end();
    }
    assert!(!backing.is_waiting());
    assert_eq!(over_at(&backing, UDP, known), NOBODY);
}

#[test]
fn tcp_is_told_by_the_second_look_and_only_of_endpoints_that_its_service_lost() {
    let tcp = |name: &str, last: &[u8]| roster(name, &[stand(&[frontend(VIP, 80, TCP)], last)], &[]);
    let at = |backing: &Backing| over_at(backing, TCP, end(VIP, 80));
    let mut backing = knowing(&[tcp("web", &[1, 2])]);
    change(&mut backing, &[tcp("web", &[1])]);
    backing.begin();
    assert_eq!(at(&backing), NOBODY, "it may only be moving from one slice to another");
    backing.end();
    backing.begin();
    assert_eq!(at(&backing), [2]);
    backing.end();
    assert!(!backing.is_waiting());
    // Whether the endpoints of a Service that is gone are gone, too, nobody knows.
    for rosters in [
        vec![gone("web", &[])],
        vec![tcp("other", &[3]), gone("web", &[])],
        vec![gone("web", &[]), tcp("other", &[3])],
    ] {
        let mut backing = knowing(&[tcp("web", &[1, 2])]);
        change(&mut backing, &rosters);
        look(&mut backing);
        backing.begin();
        assert_eq!(at(&backing), NOBODY, "{rosters:?}");
    }
}
