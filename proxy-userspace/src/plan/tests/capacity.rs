//! Full maps: the newcomer is told and turned away, everybody else is served as before.

use proxy_common::{address::Address, layout};

use super::world::{Answer, Port, World, ask, backend, service, table, vip};
use crate::{
    plan::{Capacity, Extent, Operation, Planner, Problem, simulated::Maps},
    tables::admission::Admission,
};

fn one(number: u16, endpoints: &[u8]) -> World {
    let key = vip([10, 0, 0, u8::try_from(number).unwrap()], 80);
    let port = Port { endpoints: endpoints.to_vec(), ..Port::default() };
    World([(service(number), vec![table(number, 0, vec![key], &port)])].into())
}

/// Serves Service 1, adds Service 2, which does not fit; then removes 1, and 2 gets its place.
fn check(capacity: Capacity, is_expected: impl Fn(&Problem) -> bool) {
    let (mut planner, mut maps) = (Planner::new(capacity), Maps::new(capacity));
    let plan = planner.plan(&maps.backends, one(1, &[1, 2, 3, 4, 5]).desired(), Extent::Everything);
    assert_eq!(plan.problems, []);
    maps.carry_out(&plan.operations);
    let first = ask(&maps, vip([10, 0, 0, 1], 80));

    let plan = planner.plan(&maps.backends, one(2, &[6, 7, 8, 9, 10]).desired(), Extent::Changes);
    assert!(plan.problems.iter().all(is_expected) && plan.problems.len() == 1, "{:?}", plan.problems);
    assert!(plan.problems[0].to_string().starts_with("ns/s2:p0/TCP (IPv4): "), "{}", plan.problems[0]);
    assert_eq!(plan.unplaced, [service(2)].into());
    maps.carry_out(&plan.operations);
    assert_eq!(ask(&maps, vip([10, 0, 0, 1], 80)), first);
    assert!(!matches!(ask(&maps, vip([10, 0, 0, 2], 80)), Answer::Backends(_)));

    let plan = planner.plan(&maps.backends, vec![(service(1), Vec::new())], Extent::Changes);
    maps.carry_out(&plan.operations);
    planner.release(plan.epoch);
    let plan = planner.plan(&maps.backends, one(2, &[6, 7, 8, 9, 10]).desired(), Extent::Changes);
    assert_eq!((plan.problems, plan.unplaced.len()), (Vec::new(), 0));
    maps.carry_out(&plan.operations);
    assert_eq!(ask(&maps, vip([10, 0, 0, 2], 80)), Answer::Backends((6..=10).map(backend).collect()));
}

#[test]
fn no_room_for_frontends() {
    check(Capacity { frontends: 1, services: 10, backends: 100 }, |p| {
        matches!(p, Problem::NoFrontend { .. })
    });
}

#[test]
fn no_room_for_services() {
    check(Capacity { frontends: 10, services: 1, backends: 100 }, |p| matches!(p, Problem::NoService { .. }));
}

#[test]
fn no_room_for_backends() {
    check(Capacity { frontends: 10, services: 10, backends: 9 }, |p| matches!(p, Problem::NoBackends { .. }));
}

#[test]
fn a_served_service_may_use_the_reserve() {
    let capacity = Capacity { frontends: 10, services: 10, backends: 32 };
    let (mut planner, mut maps) = (Planner::new(capacity), Maps::new(capacity));
    for world in [one(1, &(0..15).collect::<Vec<_>>()), one(1, &(0..16).collect::<Vec<_>>())] {
        let plan = planner.plan(&maps.backends, world.desired(), Extent::Changes);
        assert_eq!(plan.problems, []);
        maps.carry_out(&plan.operations);
    }
    let plan = planner.plan(&maps.backends, one(2, &[1]).desired(), Extent::Changes);
    assert_eq!(plan.unplaced, [service(2)].into());
}

/// Nobody is admitted whom there is no room for: not even everybody.
#[test]
fn no_room_for_ranges_of_clients() {
    let capacity = Capacity { frontends: 10, services: 10, backends: 100 };
    let (mut planner, maps) = (Planner::new(capacity), Maps::new(capacity));
    let ranges =
        (0..layout::SOURCES + 5).map(|number| (Address::from_v4_word(number.to_be()), 128)).collect();
    let admission = Some(Admission { ranges, is_node: false });
    let port = Port { endpoints: vec![1], admission, ..Port::default() };
    let restricted = table(1, 0, vec![vip([10, 0, 0, 1], 80)], &port);
    let plan = planner.plan(&maps.backends, vec![(service(1), vec![restricted])], Extent::Everything);
    let admitted =
        plan.operations.iter().filter(|operation| matches!(operation, Operation::PutSource { .. }));
    assert_eq!(admitted.count(), layout::SOURCES as usize);
    assert!(matches!(&*plan.problems, [Problem::NoSource { left_out: 5, .. }]), "{:?}", plan.problems);
}
