//! Somebody else writes to the maps: it is seen, named and set right, and nobody else notices.

use proptest::prelude::*;
use proxy_common::layout::{Frontend, FrontendKey, Revision, frontend_kind};

use super::{
    settle,
    world::{CAPACITY, World, any_world, backend, vip},
};
use crate::{
    audit::Difference,
    plan::{Desired, Extent, Planner, SourceRange, simulated::Maps},
};

/// What somebody does to the maps.
#[derive(Clone, Debug)]
enum Damage {
    FlushFrontends,
    Misdirect(prop::sample::Index, u32),
    AddFrontend(u8),
    Words(prop::sample::Index, u64, u64),
    Slot(prop::sample::Index, u8),
    FlushSources,
    AddSource(u8, u32),
    Revision(u64),
}

fn any_damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        Just(Damage::FlushFrontends),
        (index(), 0..400u32).prop_map(|(which, id)| Damage::Misdirect(which, id)),
        any::<u8>().prop_map(Damage::AddFrontend),
        (index(), any::<u64>(), any::<u64>())
            .prop_map(|(which, sets, traits)| Damage::Words(which, sets, traits)),
        (index(), any::<u8>()).prop_map(|(which, endpoint)| Damage::Slot(which, endpoint)),
        Just(Damage::FlushSources),
        (any::<u8>(), 0..400u32).prop_map(|(last, id)| Damage::AddSource(last, id)),
        any::<u64>().prop_map(Damage::Revision),
    ]
}

fn harm(maps: &mut Maps, damage: &Damage) {
    let key = |which: &prop::sample::Index, maps: &Maps| -> Option<FrontendKey> {
        (!maps.frontends.is_empty()).then(|| *which.get(&maps.frontends.keys().copied().collect::<Vec<_>>()))
    };
    match damage {
        Damage::FlushFrontends => maps.frontends.clear(),
        Damage::Misdirect(which, id) => {
            if let Some(key) = key(which, maps) {
                maps.frontends.insert(key, Frontend::sealed(&key, *id, frontend_kind::CLUSTER_IP));
            }
        }
        Damage::AddFrontend(last) => {
            let key = vip([172, 16, 0, *last], 1);
            maps.frontends.insert(key, Frontend::sealed(&key, 0, frontend_kind::CLUSTER_IP));
        }
        Damage::Words(which, sets, traits) => {
            if let Some(key) = key(which, maps) {
                let id = maps.frontends[&key].service as usize % maps.services.len();
                (maps.services[id].sets, maps.services[id].traits) = (*sets, *traits);
            }
        }
        Damage::Slot(which, endpoint) => {
            let slot = which.index(maps.backends.len().min(64));
            maps.backends[slot] = backend(*endpoint);
        }
        Damage::FlushSources => maps.sources.clear(),
        Damage::AddSource(last, service) => {
            let address = backend(*last).address;
            maps.sources.insert(SourceRange { service: *service, address, length: 32 });
        }
        Damage::Revision(revision) => maps.revision = Revision(*revision),
    }
}

/// Everything that the auditor looks at, at once.
fn look(planner: &mut Planner, maps: &Maps, world: &World) -> Vec<Difference> {
    let mut differences: Vec<Difference> = planner.sight_revision(maps.revision).into_iter().collect();
    let mut last = None;
    while let Some(service) = planner.service_after(last.as_ref()).cloned() {
        for key in planner.frontends_of(&service).collect::<Vec<_>>() {
            differences.extend(planner.sight_frontend(key, maps.frontends.get(&key).copied()));
        }
        let tables = world.0.get(&service).cloned().unwrap_or_default();
        let words = (maps.services.as_slice(), maps.backends.as_slice());
        differences.extend(planner.sight_service(&service, &tables, words, true));
        for range in planner.admitted_to(&service).collect::<Vec<_>>() {
            if !maps.sources.contains(&range) {
                differences.extend(planner.sight_kept_out(range));
            }
        }
        last = Some(service);
    }
    for (key, found) in &maps.frontends {
        differences.extend(planner.sight_frontend(*key, Some(*found)));
    }
    differences.extend(maps.sources.iter().filter_map(|range| planner.sight_source(*range)));
    differences
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Nothing is said of maps that nobody has touched, whatever plans came before and whatever waits in limbo. What is
    /// touched is seen, one plan of the Services named sets it right, and the next look finds nothing. Ids stay.
    #[test]
    fn what_somebody_else_has_written_is_seen_and_set_right(
        worlds in prop::collection::vec(any_world(), 1..4), damages in prop::collection::vec(any_damage(), 1..4)
    ) {
        let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
        let mut before = World::default();
        for world in &worlds {
            let plan = planner.plan(&maps.backends, before.changes_to(world), Extent::Changes);
            maps.carry_out(&plan.operations);
            prop_assert_eq!(look(&mut planner, &maps, world), Vec::new());
            before = world.clone();
        }
        let world = before;
        let (frontends, revision, services) = (maps.frontends.clone(), maps.revision, maps.services.clone());
        damages.iter().for_each(|damage| harm(&mut maps, damage));
        let is_harmed = maps.frontends != frontends || maps.revision != revision;
        let found = look(&mut planner, &maps, &world);
        prop_assert!(!is_harmed || !found.is_empty(), "{:?} went unnoticed", damages);

        let desired: Vec<Desired> = found
            .iter()
            .filter_map(Difference::service)
            .map(|name| (name.clone(), world.0.get(name).cloned().unwrap_or_default()))
            .collect();
        let plan = planner.plan(&maps.backends, desired, Extent::Changes);
        maps.carry_out(&plan.operations);
        prop_assert_eq!(&maps.frontends, &frontends, "ids and all");
        prop_assert_eq!(look(&mut planner, &maps, &world), Vec::new());
        prop_assert!(maps.revision.is_settled());
        super::properties::check_served(&maps, &world, &super::properties::keys(&[&world]))?;
        for frontend in frontends.values() {
            let id = frontend.service as usize;
            prop_assert_eq!(maps.services[id].traits, services[id].traits);
        }
        prop_assert_eq!(settle(&mut planner, &mut maps, &world, Extent::Everything), 0, "nothing is left to do");
    }
}
