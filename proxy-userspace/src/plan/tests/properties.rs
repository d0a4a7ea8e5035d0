//! Convergence, prefix safety, idempotence and stable ids, over random worlds.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proxy_common::layout::{FrontendKey, Sets};

use super::{
    settle,
    world::{Answer, CAPACITY, CLIENTS, World, any_world, ask, kept_out, truly_kept_out, truth},
};
use crate::{
    plan::{Extent, Operation, Plan, Planner, SourceRange, simulated::Maps},
    tables::PortTable,
};

pub(super) fn keys(worlds: &[&World]) -> BTreeSet<FrontendKey> {
    worlds.iter().flat_map(|world| world.keys()).collect()
}

/// Whether every connection gets what `world` says.
pub(super) fn check_served(
    maps: &Maps,
    world: &World,
    keys: &BTreeSet<FrontendKey>,
) -> Result<(), TestCaseError> {
    for key in keys {
        let owner = world.owner(key);
        prop_assert_eq!(ask(maps, *key), truth(owner, key), "{:?}", key);
        prop_assert_eq!(kept_out(maps, *key), truly_kept_out(owner, key), "{:?}", key);
        // Sockets are never outside: packets will ask for this.
        let sets = maps.frontends.get(key).map(|found| Sets(maps.services[found.service as usize].sets));
        let external_local = sets.map(Sets::external_local);
        prop_assert_eq!(external_local, owner.map(|owner| owner.external_local), "{:?}", key);
    }
    Ok(())
}

/// What a frontend gives when its old owner has its new endpoints already, but the frontend is the old one.
fn renewed(old: Option<&PortTable>, after: &World) -> Option<PortTable> {
    let old = old?;
    let new = after.tables().find(|table| table.name == old.name);
    Some(PortTable { frontends: old.frontends.clone(), ..new.unwrap_or(old).clone() })
}

/// Whether a frontend gives what it does by one of these tables. Clients may be admitted one by one.
fn check_frontend(
    maps: &Maps,
    key: &FrontendKey,
    allowed: &[Option<&PortTable>],
) -> Result<(), TestCaseError> {
    let answer = ask(maps, *key);
    let answers: Vec<Answer> = allowed.iter().map(|table| truth(*table, key)).collect();
    // Who is admitted and where he is led are two words: the one may be new and the other old.
    let tables = || allowed.iter().flatten();
    let is_mixed = || {
        tables().any(|sets| {
            tables().any(|admits| {
                let admission = admits.admission.clone();
                truth(Some(&PortTable { admission, ..(*sets).clone() }), key) == answer
            })
        })
    };
    let is_allowed = answers.contains(&answer) || is_mixed();
    prop_assert!(is_allowed, "{:?} gives {:?}, allowed are {:?}", key, answer, answers);
    let kept: Vec<_> = allowed.iter().map(|table| truly_kept_out(*table, key)).collect();
    for (client, is_kept_out) in kept_out(maps, *key).into_iter().enumerate() {
        let as_allowed = kept.iter().any(|of_table| of_table[client] == is_kept_out);
        prop_assert!(as_allowed, "{:?} keeps {:?} out: {}", key, CLIENTS.get(client), is_kept_out);
    }
    Ok(())
}

/// Whether `maps`, somewhere on the way from one world to the next, misdirects nobody: a frontend gives what its
/// old owner gave or gives now, or what its new owner gives now; and it is missing only if one world lacks it.
fn check_servable(
    maps: &Maps,
    before: &World,
    after: &World,
    keys: &BTreeSet<FrontendKey>,
) -> Result<(), TestCaseError> {
    for key in keys {
        let old = before.owner(key);
        check_frontend(maps, key, &[old, after.owner(key), renewed(old, after).as_ref()])?;
    }
    Ok(())
}

/// Slots that a program may be reading: of every snapshot published in `maps`.
fn live_slots(maps: &Maps) -> BTreeSet<u32> {
    maps.frontends
        .values()
        .flat_map(|frontend| {
            let range = Sets(maps.services[frontend.service as usize].sets).all();
            range.start..range.start + range.len
        })
        .collect()
}

/// Whether the plan writes to no slot that anybody may be reading.
fn check_writes(plan: &Plan, read: &BTreeSet<u32>) -> Result<(), TestCaseError> {
    for operation in &plan.operations {
        if let Operation::WriteBackends { start, backends } = operation {
            let end = start + u32::try_from(backends.len()).unwrap();
            prop_assert!(!(*start..end).any(|slot| read.contains(&slot)), "{:?} is being read", operation);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    /// A sequence of worlds, each planned as changes: after each plan everything is served as it should be, a
    /// second plan is empty, every prefix on the way is servable, and no slot is written that is being read.
    /// Grace periods pass now and then only.
    #[test]
    fn every_prefix_is_servable_and_the_end_is_right(
        worlds in prop::collection::vec((any_world(), any::<bool>()), 1..5)
    ) {
        let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
        let mut before = World::default();
        settle(&mut planner, &mut maps, &before, Extent::Everything);
        let mut read = BTreeSet::new();
        for (after, grace) in worlds {
            let keys = keys(&[&before, &after]);
            read.extend(live_slots(&maps));
            let plan = planner.plan(&maps.backends, before.changes_to(&after), Extent::Changes);
            check_writes(&plan, &read)?;
            let frontends = maps.frontends.clone();
            for done in 0..=plan.operations.len() {
                let mut maps = maps.clone();
                maps.carry_out(&plan.operations[..done]);
                check_servable(&maps, &before, &after, &keys)?;
                // A program that looked its frontend up before the plan began, and reads on only now.
                maps.frontends.clone_from(&frontends);
                check_servable(&maps, &before, &after, &keys)?;
            }
            let revision = maps.revision;
            maps.carry_out(&plan.operations);
            check_served(&maps, &after, &keys)?;
            prop_assert!(maps.revision.is_settled());
            prop_assert_eq!(maps.revision != revision, maps.frontends != frontends, "sockets are told of changes");
            let again = planner.plan(&maps.backends, after.desired(), Extent::Everything);
            prop_assert_eq!(&again.operations, &Vec::new());
            if grace {
                planner.release(again.epoch);
                read = live_slots(&maps);
            }
            before = after;
        }
        // And back to nothing.
        settle(&mut planner, &mut maps, &World::default(), Extent::Everything);
        settle(&mut planner, &mut maps, &World::default(), Extent::Everything);
        prop_assert!(maps.frontends.is_empty() && maps.sources.is_empty());
        let usage = planner.usage();
        prop_assert_eq!((usage.frontends, usage.services, usage.backends), (0, 0, 0));
    }

    /// Killed after any prefix of a plan, another one has what it needs. See also the test below, where the world
    /// has gone on meanwhile.
    #[test]
    fn every_crash_of_a_plan_is_servable_and_the_restart_converges(
        before in any_world(), after in any_world()
    ) {
        let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
        settle(&mut planner, &mut maps, &before, Extent::Everything);
        let plan = planner.plan(&maps.backends, before.changes_to(&after), Extent::Changes);
        let keys = keys(&[&before, &after]);
        for done in 0..=plan.operations.len() {
            let mut maps = maps.clone();
            maps.carry_out(&plan.operations[..done]);
            check_servable(&maps, &before, &after, &keys)?;
            let mut planner = Planner::adopt(CAPACITY, maps.observed());
            let plan = planner.plan(&maps.backends, after.desired(), Extent::Everything);
            maps.carry_out(&plan.operations);
            check_served(&maps, &after, &keys)?;
            prop_assert!(maps.revision.is_settled());
        }
    }

    /// Killed after any prefix of a plan, the next process finds its way from the maps alone to the world as it
    /// is by then, and misdirects nobody on that way either.
    #[test]
    fn a_restart_after_any_prefix_converges(
        before in any_world(), after in any_world(), later in any_world(), at in any::<prop::sample::Index>()
    ) {
        let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
        settle(&mut planner, &mut maps, &before, Extent::Everything);
        let plan = planner.plan(&maps.backends, before.changes_to(&after), Extent::Changes);
        let done = at.index(plan.operations.len() + 1);
        maps.carry_out(&plan.operations[..done]);

        let mut planner = Planner::adopt(CAPACITY, maps.observed());
        let plan = planner.plan(&maps.backends, later.desired(), Extent::Everything);
        let keys = keys(&[&before, &after, &later]);
        for done in 0..=plan.operations.len() {
            let mut maps = maps.clone();
            maps.carry_out(&plan.operations[..done]);
            for key in &keys {
                // What it gave when the process died, or gives now.
                let owners = [before.owner(key), after.owner(key), later.owner(key)];
                let renewed = [
                    renewed(owners[0], &after),
                    renewed(owners[0], &later),
                    renewed(owners[1], &later),
                ];
                let allowed: Vec<_> = owners.into_iter().chain(renewed.iter().map(Option::as_ref)).collect();
                check_frontend(&maps, key, &allowed)?;
            }
        }
        maps.carry_out(&plan.operations);
        check_served(&maps, &later, &keys)?;
        prop_assert!(maps.revision.is_settled());
        prop_assert_eq!(planner.plan(&maps.backends, later.desired(), Extent::Everything).operations, Vec::new());
    }

    /// A restart in an unchanged world writes nothing and keeps every id.
    #[test]
    fn a_restart_in_an_unchanged_world_changes_nothing(world in any_world()) {
        let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
        settle(&mut planner, &mut maps, &world, Extent::Everything);
        let mut restarted = Planner::adopt(CAPACITY, maps.observed());
        let plan = restarted.plan(&maps.backends, world.desired(), Extent::Everything);
        // Ports that own no frontend are nowhere in the maps, so they are set up anew; nobody is led to them.
        let owners: BTreeSet<u32> = maps.frontends.values().map(|frontend| frontend.service).collect();
        for operation in &plan.operations {
            match operation {
                Operation::SetSets { service, .. }
                | Operation::SetTraits { service, .. }
                | Operation::PutSource { range: SourceRange { service, .. } }
                | Operation::RemoveSource { range: SourceRange { service, .. } } => {
                    prop_assert!(!owners.contains(service), "{:?}", operation);
                }
                Operation::WriteBackends { .. } => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
        for table in world.tables().filter(|table| {
            table.frontends.iter().any(|(key, _)| world.owner(key).is_some_and(|owner| owner.name == table.name))
        }) {
            prop_assert_eq!(restarted.id(&table.name), planner.id(&table.name), "{}", table.name);
        }
    }

    /// Whatever is found in the maps: it is read without harm, the end is right, and then nothing is left to do.
    #[test]
    fn whatever_is_found_in_the_maps_the_end_is_right(
        before in any_world(), after in any_world(), seed in any::<u64>(), damages in 1..20
    ) {
        let (mut planner, mut maps) = (Planner::new(CAPACITY), Maps::new(CAPACITY));
        settle(&mut planner, &mut maps, &before, Extent::Everything);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..damages {
            damage(&mut maps, &mut random);
        }
        let mut planner = Planner::adopt(CAPACITY, maps.observed());
        settle(&mut planner, &mut maps, &after, Extent::Everything);
        check_served(&maps, &after, &keys(&[&before, &after]))?;
        // What nobody asks for any more goes after a grace period.
        settle(&mut planner, &mut maps, &after, Extent::Everything);
        prop_assert_eq!(planner.plan(&maps.backends, after.desired(), Extent::Everything).operations, Vec::new());
    }
}

/// Changes a word of the maps, as somebody else might.
fn damage(maps: &mut Maps, random: &mut fastrand::Rng) {
    let service = random.usize(..maps.services.len());
    let frontend = random.usize(..maps.frontends.len().max(1));
    match (random.u8(..6), maps.frontends.values_mut().nth(frontend)) {
        (0, _) => maps.services[service].sets = random.u64(..),
        (1, _) => maps.services[service].traits = random.u64(..),
        (2, Some(frontend)) => {
            frontend.service = random.choice([0, 1, u32::MAX, CAPACITY.services]).unwrap_or(0)
        }
        (3, Some(frontend)) => frontend.kind = random.u32(..),
        (4, Some(frontend)) => frontend.seal = random.u32(..),
        _ => {
            let slot = random.usize(..maps.backends.len());
            maps.backends[slot].flags = random.u16(..);
        }
    }
}
