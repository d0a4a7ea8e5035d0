//! Random walks over desired worlds, planned once and carried out twice: in memory and in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use anyhow::{Context, Result};
use fastrand::Rng;
use proxy_userspace::plan::simulated::Maps;
use proxy_userspace::plan::{self, Capacity, Extent, Operation, Planner, Problem};

use super::layout;
use super::rig::{Pinned, Rig};
use super::world::{World, any_addresses};

/// Nothing a walk wants is refused.
const ROOMY: Capacity = Capacity { frontends: 512, services: 128, backends: 2_048 };
/// Something is refused in most of its steps, of every kind.
const TIGHT: Capacity = Capacity { frontends: 12, services: 9, backends: 96 };

/// Whether something is not served because a map is full, rather than because another Service has it.
fn is_full(problem: &Problem) -> bool {
    !matches!(problem, Problem::Contested { .. })
}

/// What happened on a walk.
#[derive(Debug, Default)]
struct Tale {
    operations: usize,
    /// For want of room for a frontend, a service, backends.
    refused: [usize; 3],
    crashes: usize,
    adoptions: usize,
    adoptions_without_writes: usize,
    reopened: usize,
}

struct Walk {
    rig: Rig,
    pinned: Pinned,
    maps: Maps,
    planner: Planner,
    world: World,
    random: Rng,
    tale: Tale,
}

#[track_caller]
fn assert_same<T: PartialEq + Debug>(kernel: &[T], memory: &[T], what: &str) {
    assert_eq!(kernel.len(), memory.len(), "{what}");
    let differs = kernel.iter().zip(memory).position(|(kernel, memory)| kernel != memory);
    if let Some(at) = differs {
        panic!("{what} {at}: the kernel has {:?}, memory has {:?}", kernel[at], memory[at]);
    }
}

impl Walk {
    fn new(capacity: Capacity, seed: u64) -> Result<Self> {
        let rig = Rig::new(capacity)?;
        Ok(Self {
            pinned: Pinned::of(&rig)?,
            rig,
            maps: Maps::new(capacity),
            planner: Planner::new(capacity),
            world: World::default(),
            random: Rng::with_seed(seed),
            tale: Tale::default(),
        })
    }

    fn carry_out(&mut self, operations: &[Operation]) -> Result<()> {
        self.tale.operations += operations.len();
        self.maps.carry_out(operations);
        self.rig.datapath().carry_out(operations)
    }

    fn step(&mut self) -> Result<()> {
        let next = self.world.changed(&mut self.random);
        let (desired, extent) = if self.random.u8(0..8) == 0 {
            (next.desired(), Extent::Everything)
        } else {
            (self.world.changes_to(&next), Extent::Changes)
        };
        let plan = self.planner.plan(self.rig.datapath().backends(), desired, extent);
        for problem in plan.problems.iter().filter(|problem| is_full(problem)) {
            self.tale.refused[match problem {
                Problem::NoFrontend { .. } => 0,
                Problem::NoService { .. } => 1,
                _ => 2,
            }] += 1;
        }
        self.world = next;
        if self.random.u8(0..8) == 0 {
            // Killed somewhere on the way; the world has moved on when the next process is there.
            let done = self.random.usize(0..=plan.operations.len());
            self.carry_out(&plan.operations[..done])?;
            self.assert_alike()?;
            self.tale.crashes += 1;
            self.world = self.world.changed(&mut self.random);
            self.adopt()?;
        } else {
            self.carry_out(&plan.operations)?;
        }
        self.assert_alike()?;
        if self.random.bool() {
            // Nobody reads, so a grace period has always passed.
            self.planner.release(plan.epoch);
        }
        let wanted = any_addresses(&mut self.random);
        let operations = plan::node_addresses(&self.maps.node_addresses, &wanted);
        assert_eq!(plan::node_addresses(&self.rig.datapath().node_addresses()?, &wanted), operations);
        self.carry_out(&operations)?;
        if self.random.u8(0..8) == 0 {
            self.adopt()?;
        }
        self.assert_alike()
    }

    /// Starts anew from the maps, from the kernel's and from those in memory; both have the same to do.
    fn adopt(&mut self) -> Result<()> {
        if self.tale.adoptions.is_multiple_of(5) {
            self.rig.reopen()?;
            self.tale.reopened += 1;
        }
        if self.random.bool() {
            self.world = self.world.leading();
        }
        let capacity = self.maps.capacity();
        let datapath = self.rig.datapath();
        assert_eq!(datapath.capacity(), capacity);
        let mut planner = Planner::adopt(capacity, datapath.observe()?);
        let plan = planner.plan(datapath.backends(), self.world.desired(), Extent::Everything);
        let mut twin = Planner::adopt(capacity, self.maps.observed());
        assert_eq!(twin.plan(&self.maps.backends, self.world.desired(), Extent::Everything), plan);
        self.planner = planner;
        self.carry_out(&plan.operations)?;
        self.tale.adoptions += 1;
        self.assert_alike()?;

        // Once more: now the maps say what they should, and whoever adopts them finds nothing to do.
        if self.world == self.world.leading() && !plan.problems.iter().any(is_full) {
            let datapath = self.rig.datapath();
            let mut planner = Planner::adopt(capacity, datapath.observe()?);
            let plan = planner.plan(datapath.backends(), self.world.desired(), Extent::Everything);
            // Whom services admitted that are gone is removed when nobody can be reading that any more.
            let is_late = |operation: &Operation| matches!(operation, Operation::RemoveSource { .. });
            let left: Vec<_> = plan.operations.iter().filter(|operation| !is_late(operation)).collect();
            assert!(left.is_empty(), "adopted from the kernel: {left:?}");
            let by_kernel = plan;
            let mut twin = Planner::adopt(capacity, self.maps.observed());
            let plan = twin.plan(&self.maps.backends, self.world.desired(), Extent::Everything);
            assert_eq!(plan, by_kernel, "adopted from memory");
            self.planner = planner;
            self.carry_out(&by_kernel.operations)?;
            self.tale.adoptions_without_writes += 1;
        }
        Ok(())
    }

    /// Both have the same in them, as the product reads it and as the kernel says it.
    fn assert_alike(&mut self) -> Result<()> {
        let (datapath, maps, pinned) = (self.rig.datapath(), &self.maps, &self.pinned);
        let observed = datapath.observe()?;
        assert_same(observed.services, &maps.services, "service");
        let frontends: BTreeMap<_, _> = observed.frontends.into_iter().collect();
        assert_eq!(frontends, maps.frontends);
        let sources: BTreeSet<_> = observed.sources.into_iter().collect();
        assert_eq!(sources, maps.sources);
        assert_same(datapath.backends(), &maps.backends, "slot");
        assert_eq!(datapath.node_addresses()?, maps.node_addresses);

        let mut raw = BTreeMap::new();
        for key in pinned.frontends.keys()? {
            let value = pinned.frontends.lookup(&key)?.context("a key without a value")?;
            raw.insert(key, value);
        }
        let expected = maps.frontends.iter();
        let expected: BTreeMap<_, _> =
            expected.map(|(key, value)| (layout::frontend_key(key), layout::frontend(value))).collect();
        assert_eq!(raw, expected, "frontends by their pin");
        for (index, service) in (0..).zip(&maps.services) {
            assert_eq!(pinned.services.element_at(index)?, layout::service(service), "service {index}");
        }
        for (slot, backend) in (0..).zip(&maps.backends) {
            assert_eq!(pinned.backends.element_at(slot)?, layout::backend(backend), "slot {slot}");
        }
        let raw: BTreeSet<_> = pinned.sources.keys()?.into_iter().collect();
        let expected: BTreeSet<_> = maps.sources.iter().map(layout::source).collect();
        assert_eq!(raw, expected, "admitted clients by their pin");
        let mut raw = BTreeMap::new();
        for key in pinned.node_addresses.keys()? {
            let value = pinned.node_addresses.lookup(&key)?.context("a key without a value")?;
            raw.insert(key, value);
        }
        let expected = maps.node_addresses.iter();
        let expected: BTreeMap<_, _> =
            expected.map(|(own, is)| (layout::address(*own), is.to_ne_bytes().to_vec())).collect();
        assert_eq!(raw, expected, "node addresses by their pin");
        Ok(())
    }
}

/// Walks, and says how to walk there again when a step fails: with its number and the seed in the message, or
/// on the line above a panic's.
fn walk(what: &str, capacity: Capacity, steps: u32) -> Result<Tale> {
    let seed = std::env::var("KUBESHUNT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("{what}: KUBESHUNT_SEED={seed}");
    let mut walk = Walk::new(capacity, seed)?;
    for step in 0..steps {
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| walk.step()));
        match stepped {
            Ok(done) => done.with_context(|| format!("{what}: step {step} with KUBESHUNT_SEED={seed}"))?,
            Err(panic) => {
                eprintln!("{what}: that was step {step} with KUBESHUNT_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{what}: {steps} steps, {:?}", walk.tale);
    Ok(walk.tale)
}

#[test]
fn the_kernel_does_what_the_maps_in_memory_do() -> Result<()> {
    let tale = walk("roomy", ROOMY, 300)?;
    assert!(tale.crashes > 0 && tale.adoptions_without_writes > 0 && tale.reopened > 0, "{tale:?}");
    assert_eq!(tale.refused, [0; 3]);
    Ok(())
}

#[test]
fn full_maps_are_noticed_by_the_plan_and_never_by_the_kernel() -> Result<()> {
    let tale = walk("tight", TIGHT, 300)?;
    assert!(tale.refused.iter().all(|count| *count > 0), "one of them was never full: {tale:?}");
    Ok(())
}
