//! The plan against the maps in memory, asked through the real decision core.

mod addresses;
mod capacity;
mod properties;
mod sight;
mod world;

use proxy_common::{address::Address, layout::frontend_kind};

use super::{Extent, Operation, Planner, simulated::Maps};
use crate::tables::admission::Admission;
use world::{CAPACITY, Port, World, backend, kept_out, service, table, truly_kept_out, vip};

/// Plans `world` onto `maps`, carries it out, and lets the grace period pass.
fn settle(planner: &mut Planner, maps: &mut Maps, world: &World, extent: Extent) -> usize {
    let plan = planner.plan(&maps.backends, world.desired(), extent);
    maps.carry_out(&plan.operations);
    planner.release(plan.epoch);
    plan.operations.len()
}

#[test]
fn one_endpoint_more_costs_two_operations_whatever_else_there_is() {
    for (services, frontends) in [(1u16, 1u8), (1, 5), (200, 1), (200, 5)] {
        let mut world = World::default();
        for number in 0..services {
            let keys = (0..frontends).map(|n| vip([10, 0, u8::try_from(number % 256).unwrap(), n], 80));
            let port = Port { endpoints: vec![1, 2, 3], ..Port::default() };
            world.0.insert(service(number), vec![table(number, 0, keys.collect(), &port)]);
        }
        let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
        settle(&mut planner, &mut maps, &world, Extent::Everything);

        let changed = world.0.get_mut(&service(0)).unwrap();
        changed[0].cluster.push(backend(4));
        let desired = vec![(service(0), changed.clone())];
        let plan = planner.plan(&maps.backends, desired, Extent::Changes);
        assert!(
            matches!(plan.operations[..], [Operation::WriteBackends { .. }, Operation::SetSets { .. }]),
            "{services} services, {frontends} frontends: {:?}",
            plan.operations
        );
    }
}

#[test]
fn a_policy_change_is_one_store() {
    let port = Port { endpoints: vec![1], local: vec![1], ..Port::default() };
    let mut world = World::default();
    world.0.insert(service(0), vec![table(0, 0, vec![vip([10, 0, 0, 1], 80)], &port)]);
    let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
    settle(&mut planner, &mut maps, &world, Extent::Everything);
    world.0.get_mut(&service(0)).unwrap()[0].internal_local = true;
    assert_eq!(settle(&mut planner, &mut maps, &world, Extent::Changes), 1);
}

/// What a service admitted before it was open to everybody does not count when it is restricted anew, though the map
/// still holds it: between the two no grace period has passed.
#[test]
fn who_was_admitted_before_it_was_open_is_not_admitted_for_that() {
    let key = vip([10, 0, 0, 1], 80);
    let only = |first: [u8; 4], length| {
        let range = (Address::from_v4_word(u32::from_ne_bytes(first)), length);
        Some(Admission { ranges: [range].into(), is_node: false })
    };
    let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
    for admission in [only([10, 8, 0, 0], 15), None, only([10, 9, 1, 0], 24)] {
        let port = Port { endpoints: vec![1], admission, ..Port::default() };
        let mut table = table(0, 0, vec![key], &port);
        table.frontends[0].1 = frontend_kind::LOAD_BALANCER;
        let plan = planner.plan(&maps.backends, vec![(service(0), vec![table.clone()])], Extent::Changes);
        maps.carry_out(&plan.operations);
        assert_eq!(kept_out(&maps, key), truly_kept_out(Some(&table), &key), "{:?}", table.admission);
    }
    assert_eq!(maps.sources.len(), 1, "what counts no more is gone");
}

#[test]
fn a_renamed_port_changes_its_id_and_never_leaves_its_frontend() {
    let keys = || vec![vip([10, 0, 0, 1], 80)];
    let port = Port { endpoints: vec![1], ..Port::default() };
    let mut world = World::default();
    world.0.insert(service(0), vec![table(0, 0, keys(), &port)]);
    let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
    settle(&mut planner, &mut maps, &world, Extent::Everything);
    world.0.insert(service(0), vec![table(0, 1, keys(), &port)]);
    let plan = planner.plan(&maps.backends, world.desired(), Extent::Changes);
    assert!(!plan.operations.iter().any(|op| matches!(op, Operation::RemoveFrontend { .. })));
}

#[test]
fn ids_that_two_services_would_share_are_given_up() {
    // Two frontends of one service port; while nobody watched, a second Service took one of them over.
    let (a, b) = (vip([10, 0, 0, 1], 80), vip([10, 0, 0, 2], 80));
    let mut world = World::default();
    world
        .0
        .insert(service(0), vec![table(0, 0, vec![a, b], &Port { endpoints: vec![1], ..Port::default() })]);
    let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
    settle(&mut planner, &mut maps, &world, Extent::Everything);

    let mut after = World::default();
    for (number, key, endpoint) in [(1, a, 2), (2, b, 3)] {
        let port = Port { endpoints: vec![endpoint], ..Port::default() };
        after.0.insert(service(number), vec![table(number, 0, vec![key], &port)]);
    }
    let mut planner = Planner::adopt(CAPACITY, maps.observed());
    let plan = planner.plan(&maps.backends, after.desired(), Extent::Everything);
    for done in 0..=plan.operations.len() {
        let mut maps = maps.clone();
        maps.carry_out(&plan.operations[..done]);
        for (key, new) in [(a, 2), (b, 3)] {
            let answer = world::ask(&maps, key);
            assert!(
                answer == world::Answer::Backends(vec![backend(1)])
                    || answer == world::Answer::Backends(vec![backend(new)]),
                "after {done} operations {key:?} leads to {answer:?}"
            );
        }
    }
}

#[test]
fn nonsense_in_the_maps_is_rewritten() {
    let key = vip([10, 0, 0, 1], 80);
    let mut world = World::default();
    let port = Port { endpoints: vec![1, 2], ..Port::default() };
    world.0.insert(service(0), vec![table(0, 0, vec![key], &port)]);
    let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
    settle(&mut planner, &mut maps, &world, Extent::Everything);
    let expected = world::ask(&maps, key);

    let id = maps.frontends[&key].service as usize;
    let sets = maps.services[id].sets;
    type Damage = fn(&mut Maps, usize);
    let damages: [(&str, Damage); 4] = [
        ("slots out of bounds", |maps, id| maps.services[id].sets = 0xffff_ffff_0000_fff0),
        ("an id out of bounds", |maps, _| {
            for frontend in maps.frontends.values_mut() {
                frontend.service = u32::MAX;
            }
        }),
        ("a broken seal", |maps, _| {
            for frontend in maps.frontends.values_mut() {
                frontend.seal ^= 1;
            }
        }),
        ("overwritten backends", |maps, _| maps.backends.fill(backend(99))),
    ];
    for (what, damage) in damages {
        maps.services[id].sets = sets;
        damage(&mut maps, id);
        let mut planner = Planner::adopt(CAPACITY, maps.observed());
        settle(&mut planner, &mut maps, &world, Extent::Everything);
        assert_eq!(world::ask(&maps, key), expected, "{what}");
        assert_eq!(settle(&mut planner, &mut maps, &world, Extent::Everything), 0, "{what}");
    }
}

#[test]
fn the_better_claim_wins_and_the_other_takes_over() {
    let key = vip([10, 0, 0, 1], 80);
    let mut external = table(0, 0, vec![key], &Port { endpoints: vec![1], ..Port::default() });
    external.frontends[0].1 = frontend_kind::EXTERNAL_IP;
    external.created = 1;
    let mut cluster = table(1, 0, vec![key], &Port { endpoints: vec![2], ..Port::default() });
    cluster.created = 2;

    let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
    let both = World([(service(0), vec![external]), (service(1), vec![cluster])].into());
    let plan = planner.plan(&maps.backends, both.desired(), Extent::Everything);
    assert_eq!(plan.problems.len(), 1, "{:?}", plan.problems);
    maps.carry_out(&plan.operations);
    assert_eq!(world::ask(&maps, key), world::Answer::Backends(vec![backend(2)]));

    let plan = planner.plan(&maps.backends, vec![(service(1), Vec::new())], Extent::Changes);
    maps.carry_out(&plan.operations);
    assert_eq!(world::ask(&maps, key), world::Answer::Backends(vec![backend(1)]));
}
