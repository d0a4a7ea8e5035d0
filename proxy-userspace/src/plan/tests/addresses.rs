//! ClusterIPs as such, which refuse whatever none of their ports serves: they come last, go first, and make no noise.

use proxy_common::layout::{FrontendKey, scope};

use super::{
    settle,
    world::{CAPACITY, Port, World, service, table, vip},
};
use crate::plan::{Extent, Operation, Planner, Problem, simulated::Maps};

const IP: [u8; 4] = [10, 0, 0, 1];

fn address() -> FrontendKey {
    FrontendKey { protocol: 0, scope: scope::ADDRESS, ..vip(IP, 0) }
}

/// A Service at [`IP`] with these ports, of which the first has the address.
fn at_ip(number: u16, ports: &[u8]) -> World {
    let mut tables: Vec<_> = ports
        .iter()
        .map(|port| {
            let endpoints = vec![10 * u8::try_from(number).unwrap() + port];
            let with = Port { endpoints, ..Port::default() };
            table(number, *port, vec![vip(IP, 80 + u16::from(*port))], &with)
        })
        .collect();
    tables[0].frontends.push((address(), proxy_common::layout::frontend_kind::CLUSTER_IP));
    World([(service(number), tables)].into())
}

fn contested(problems: &[Problem]) -> Vec<FrontendKey> {
    let frontend = |problem: &Problem| match problem {
        Problem::Contested { frontend, .. } => *frontend,
        other => panic!("{other}"),
    };
    problems.iter().map(frontend).collect()
}

#[test]
fn two_services_that_claim_one_cluster_ip_quarrel_about_their_common_ports_alone() {
    let mut planner = Planner::new(CAPACITY);
    let maps = Maps::new(CAPACITY);
    let plan = planner.plan(&maps.backends, at_ip(1, &[1, 2]).desired(), Extent::Changes);
    assert_eq!(plan.problems, []);
    let plan = planner.plan(&maps.backends, at_ip(2, &[2, 3]).desired(), Extent::Changes);
    assert_eq!(contested(&plan.problems), [vip(IP, 82)]);
    let plan = planner.plan(&maps.backends, at_ip(3, &[3]).desired(), Extent::Changes);
    assert_eq!(contested(&plan.problems), [vip(IP, 83)], "the oldest has the address, which is no news");
}

#[test]
fn no_port_is_refused_while_its_service_comes_or_goes() {
    let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
    let check = |planner: &mut Planner, maps: &mut Maps, desired| {
        let plan = planner.plan(&maps.backends, desired, Extent::Changes);
        for operation in plan.operations {
            maps.carry_out(&[operation]);
            if maps.frontends.contains_key(&address()) {
                let ports = [81, 82].map(|port| maps.frontends.contains_key(&vip(IP, port)));
                assert_eq!(ports, [true, true]);
            }
        }
        maps.frontends.len()
    };
    assert_eq!(check(&mut planner, &mut maps, at_ip(1, &[1, 2]).desired()), 3);
    assert_eq!(check(&mut planner, &mut maps, vec![(service(1), Vec::new())]), 0);
}

#[test]
fn ids_survive_a_restart_after_which_another_port_has_the_address() {
    let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
    settle(&mut planner, &mut maps, &at_ip(1, &[1, 2]), Extent::Everything);
    let before = maps.clone();
    let mut planner = Planner::adopt(CAPACITY, maps.observed());
    let plan = planner.plan(&maps.backends, at_ip(1, &[2, 1]).desired(), Extent::Everything);
    maps.carry_out(&plan.operations);
    assert_eq!(maps.services, before.services);
    let puts = plan.operations.iter().filter(|own| matches!(own, Operation::PutFrontend { .. }));
    assert_eq!(puts.count(), 1, "the address: {:?}", plan.operations);
}
