//! What a cold start, a restart and a change cost in map writes: exact numbers, the same on every machine.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::Result;
use proxy_userspace::plan::{Capacity, Extent, Operation, Planner};

use super::rig::Rig;
use super::world::{World, backend, service, table, vip};

const SERVICES: u16 = 1_000;
const ENDPOINTS: u8 = 10;
const CAPACITY: Capacity = Capacity { frontends: 4_096, services: 4_096, backends: 32_768 };

fn world() -> World {
    let of = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let endpoints = (0..ENDPOINTS).map(|last| backend(Ipv4Addr::new(10, high, low, last)));
        let key = vip(Ipv4Addr::new(10, 96, high, low), 80);
        (service(number), vec![table(number, key, endpoints.collect())])
    };
    World((0..SERVICES).map(of).collect())
}

/// Writes of backends, traits, sets, frontends, and others.
fn census(operations: &[Operation]) -> [usize; 5] {
    let mut census = [0; 5];
    for operation in operations {
        let kind = match operation {
            Operation::WriteBackends { .. } => 0,
            Operation::SetTraits { .. } => 1,
            Operation::SetSets { .. } => 2,
            Operation::PutFrontend { .. } => 3,
            _ => 4,
        };
        census[kind] += 1;
    }
    census
}

#[test]
fn a_cold_start_costs_four_writes_per_service_port_and_a_restart_none() -> Result<()> {
    let mut rig = Rig::new(CAPACITY)?;
    let world = world();
    let mut planner = Planner::new(rig.datapath().capacity());
    let begin = Instant::now();
    let plan = planner.plan(rig.datapath().backends(), world.desired(), Extent::Everything);
    let planned = begin.elapsed();
    rig.datapath().carry_out(&plan.operations)?;
    println!(
        "{SERVICES} Services with {ENDPOINTS} endpoints each: {} map writes, planned in {planned:?}, carried \
         out in {:?}",
        plan.operations.len(),
        begin.elapsed() - planned
    );
    let each = usize::from(SERVICES);
    // And two stores of the revision, around all frontends.
    assert_eq!(census(&plan.operations), [each, each, each, each, 2]);

    let mut restarted = Planner::adopt(rig.datapath().capacity(), rig.datapath().observe()?);
    let plan = restarted.plan(rig.datapath().backends(), world.desired(), Extent::Everything);
    assert_eq!(plan.operations, [], "after a restart");

    let (name, mut tables) = world.desired().swap_remove(500);
    tables[0].cluster.truncate(usize::from(ENDPOINTS) - 1);
    let plan = restarted.plan(rig.datapath().backends(), vec![(name.clone(), tables)], Extent::Changes);
    rig.datapath().carry_out(&plan.operations)?;
    assert_eq!(census(&plan.operations), [1, 0, 1, 0, 0], "one endpoint less");

    let plan = restarted.plan(rig.datapath().backends(), vec![(name, Vec::new())], Extent::Changes);
    rig.datapath().carry_out(&plan.operations)?;
    assert_eq!(census(&plan.operations), [0, 0, 0, 0, 3], "a Service less");
    Ok(())
}
