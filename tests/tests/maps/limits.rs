//! Where the kernel says no, and how long a grace period is.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Result;
use proxy_common::address::Address;
use proxy_common::layout::{self as layout_of, Frontend, FrontendKey, frontend_kind, map, node_address};
use proxy_userspace::datapath::kernel;
use proxy_userspace::plan::{Capacity, Extent, Operation, Planner};

use super::layout;
use super::rig::Rig;
use super::world::{backend, service, table, vip};

const CAPACITY: Capacity = Capacity { frontends: 8, services: 64, backends: 64 };

fn key(number: u8) -> FrontendKey {
    vip(Ipv4Addr::new(10, 96, 0, number), 80)
}

fn put(number: u8, id: u32) -> Operation {
    let key = key(number);
    Operation::PutFrontend { key, frontend: Frontend::sealed(&key, id, frontend_kind::CLUSTER_IP) }
}

#[test]
fn a_frontend_too_many_is_an_error_that_names_it() -> Result<()> {
    let mut rig = Rig::new(CAPACITY)?;
    let raw = rig.pinned(map::FRONTENDS)?;
    let fill: Vec<_> = (0..8).map(|number| put(number, 1)).collect();
    rig.datapath().carry_out(&fill)?;
    let stopped = [put(8, 1), put(0, 9)];
    let error = rig.datapath().carry_out(&stopped).expect_err("the ninth of eight");
    let kernel = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    assert_eq!(kernel.and_then(std::io::Error::raw_os_error), Some(libc::E2BIG), "{error:#}");
    let text = format!("{error:#}");
    assert!(text.contains("PutFrontend") && text.contains("10.96.0.8"), "{text}");
    assert_eq!(raw.lookup(&layout::frontend_key(&key(8)))?, None);
    let id = |number| -> Result<Option<Vec<u8>>> {
        Ok(raw.lookup(&layout::frontend_key(&key(number)))?.map(|value| value[..4].to_vec()))
    };
    assert_eq!(id(0)?, Some(1_u32.to_ne_bytes().to_vec()), "nothing is carried out after a failure");

    // A full map still takes what replaces something, and what follows a removal.
    let replace = [put(0, 2), Operation::RemoveFrontend { key: key(1) }, put(8, 3)];
    rig.datapath().carry_out(&replace)?;
    assert_eq!(id(0)?, Some(2_u32.to_ne_bytes().to_vec()));
    assert_eq!(id(8)?, Some(3_u32.to_ne_bytes().to_vec()));
    assert_eq!(raw.keys()?.len(), 8);
    Ok(())
}

#[test]
fn the_plan_stops_before_the_kernel_would() -> Result<()> {
    let mut rig = Rig::new(CAPACITY)?;
    let mut planner = Planner::new(rig.datapath().capacity());
    let desired = (0..20)
        .map(|number| {
            let endpoint = backend(Ipv4Addr::new(10, 1, 0, number));
            (service(number.into()), vec![table(number.into(), key(number), vec![endpoint])])
        })
        .collect();
    let plan = planner.plan(rig.datapath().backends(), desired, Extent::Everything);
    assert_eq!((plan.problems.len(), plan.unplaced.len()), (12, 12));
    rig.datapath().carry_out(&plan.operations)?;
    assert_eq!(rig.pinned(map::FRONTENDS)?.keys()?.len(), 8);
    // One goes, one of those that wait comes.
    let freed = planner.plan(rig.datapath().backends(), vec![(service(0), Vec::new())], Extent::Changes);
    rig.datapath().carry_out(&freed.operations)?;
    let endpoint = backend(Ipv4Addr::new(10, 1, 0, 19));
    let waiting = vec![(service(19), vec![table(19, key(19), vec![endpoint])])];
    let plan = planner.plan(rig.datapath().backends(), waiting, Extent::Changes);
    assert_eq!(plan.problems, []);
    rig.datapath().carry_out(&plan.operations)?;
    assert!(rig.pinned(map::FRONTENDS)?.lookup(&layout::frontend_key(&key(19)))?.is_some());
    Ok(())
}

#[test]
fn what_is_not_there_can_be_removed() -> Result<()> {
    let mut rig = Rig::new(CAPACITY)?;
    let address = Address::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
    rig.datapath().carry_out(&[put(1, 1), Operation::PutNodeAddress { address, is: node_address::OWN }])?;
    let removals = [Operation::RemoveFrontend { key: key(1) }, Operation::RemoveNodeAddress { address }];
    for round in 0..2 {
        rig.datapath().carry_out(&removals)?;
        assert_eq!(rig.pinned(map::FRONTENDS)?.keys()?.len(), 0, "round {round}");
        assert_eq!(rig.pinned(map::NODE_ADDRESSES)?.keys()?.len(), 0, "round {round}");
    }
    Ok(())
}

/// As many as fit are left alone, those before all others; the one too many is an error.
#[test]
fn pods_without_room_harm_none_that_are_left_alone() -> Result<()> {
    let mut rig = Rig::new(CAPACITY)?;
    let most = u64::from(layout_of::LEFT_CGROUPS);
    let before: BTreeSet<u64> = (1..=8).collect();
    rig.datapath().leave_alone(&before)?;
    let all: BTreeSet<u64> = (1..=most + 1).collect();
    let error = rig.datapath().leave_alone(&all).expect_err("one too many");
    assert!(error.to_string().contains("no room for the pod of cgroup"), "{error:#}");
    let (left, count) = rig.datapath().left_alone()?;
    assert_eq!((left.len() as u64, count), (most, most));
    assert!(left.is_superset(&before) && left.is_subset(&all));
    // What was too many goes, and everything is as it should be.
    let fewer: BTreeSet<u64> = (5..=most).collect();
    rig.datapath().leave_alone(&fewer)?;
    assert_eq!(rig.datapath().left_alone()?, (fewer.clone(), fewer.len() as u64));
    Ok(())
}

#[test]
fn a_grace_period_passes() -> Result<()> {
    let mut took = Vec::new();
    for _ in 0..21 {
        let begin = Instant::now();
        kernel::grace_period()?;
        took.push(begin.elapsed());
    }
    took.sort_unstable();
    println!("a grace period took {:?} at least, {:?} as a rule, {:?} at most", took[0], took[10], took[20]);
    assert!(took[0] > Duration::ZERO);
    Ok(())
}
