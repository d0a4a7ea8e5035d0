//! What the packet path looks at first: whatever the maps hold has its cell, at the latest when it is there.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use kubeshunt_tests::pinned::PinnedMap;
use proxy_common::address::Address;
use proxy_common::layout::{
    CELLS, CELLS_PER_ROW, FrontendKey, Prefix, cell, frontend_kind, map, node_address, scope,
};
use proxy_userspace::plan::{Capacity, Extent, Operation, Planner};

use super::rig::Rig;
use super::world::{backend, service, table, vip};

const CAPACITY: Capacity = Capacity { frontends: 512, services: 256, backends: 1_024 };

fn is_set(cells: &PinnedMap, address: &Address) -> Result<bool> {
    let (row, column) = cell(address);
    Ok(cells.element_at(row)?[column as usize] == 1)
}

fn count(cells: &PinnedMap) -> Result<usize> {
    let mut count = 0;
    for row in 0..CELLS / CELLS_PER_ROW {
        count += cells.element_at(row)?.iter().filter(|cell| **cell != 0).count();
    }
    Ok(count)
}

/// Two frontends of a Service: its VIP and a NodePort; and that of its address alone.
fn operations(planner: &mut Planner, rig: &mut Rig) -> Vec<Operation> {
    let of = |number: u8| {
        let key = vip(Ipv4Addr::new(10, 96, 0, number), 80);
        let mut table = table(number.into(), key, vec![backend(Ipv4Addr::new(10, 1, 0, number))]);
        let node_port = FrontendKey { address: Address::ANY_V4, scope: scope::NODE_PORT, ..key };
        table.frontends.push((node_port, frontend_kind::NODE_PORT));
        // An address of its own, so that it cannot borrow the VIP's cell.
        let alone = vip(Ipv4Addr::new(10, 97, 0, number), 0);
        let alone = FrontendKey { protocol: 0, scope: scope::ADDRESS, ..alone };
        table.frontends.push((alone, frontend_kind::CLUSTER_IP));
        for (key, _) in &mut table.frontends {
            if key.scope == scope::NODE_PORT {
                key.port = proxy_common::address::Port::new(30_000 + u16::from(number));
            }
        }
        (service(number.into()), vec![table])
    };
    let desired = (0..100).map(of).collect();
    planner.plan(rig.datapath().backends(), desired, Extent::Everything).operations
}

#[test]
fn every_frontend_and_node_address_has_its_cell_before_it_is_there() -> Result<()> {
    let mut rig = Rig::new(CAPACITY)?;
    let cells = rig.pinned(map::VIP_CELLS)?;
    let mut planner = Planner::new(rig.datapath().capacity());
    let operations = operations(&mut planner, &mut rig);
    let mut expected = Vec::new();
    for operation in &operations {
        rig.datapath().carry_out(std::slice::from_ref(operation))?;
        if let Operation::PutFrontend { key, .. } = operation
            && key.scope != scope::NODE_PORT
        {
            expected.push(key.address);
        }
        for address in &expected {
            assert!(is_set(&cells, address)?, "{address}");
        }
    }
    assert_eq!(expected.len(), 200, "a VIP and an address each");
    let address = Address::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)));
    rig.datapath().carry_out(&[Operation::PutNodeAddress { address, is: node_address::OWN }])?;
    assert!(is_set(&cells, &address)?);
    let other = Address::from("2001:db8::77".parse::<IpAddr>()?);
    rig.datapath().mark(&other)?;
    assert!(is_set(&cells, &other)?);
    assert!(count(&cells)? <= 202, "and nothing else is set");
    Ok(())
}

#[test]
fn what_is_found_at_start_gets_its_cell() -> Result<()> {
    let mut rig = Rig::new(CAPACITY)?;
    let cells = rig.pinned(map::VIP_CELLS)?;
    let mut planner = Planner::new(rig.datapath().capacity());
    let operations = operations(&mut planner, &mut rig);
    let address = Address::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)));
    rig.datapath().carry_out(&operations)?;
    rig.datapath().carry_out(&[Operation::PutNodeAddress { address, is: node_address::OWN }])?;
    let before = count(&cells)?;
    for row in 0..CELLS / CELLS_PER_ROW {
        cells.update(&row.to_ne_bytes(), &[0; CELLS_PER_ROW as usize])?;
    }
    rig.reopen()?;
    assert_eq!(count(&cells)?, before);
    assert!(is_set(&cells, &address)?);
    Ok(())
}

#[test]
fn service_cidrs_stay_over_a_restart_until_it_is_known_which_there_are() -> Result<()> {
    let mut rig = Rig::new(CAPACITY)?;
    let pinned = rig.pinned(map::SERVICE_CIDRS)?;
    let all = || (0..8).map(|place| pinned.element_at(place)).collect::<Result<Vec<_>>>();
    assert!(all()?.iter().flatten().all(|byte| *byte == 0));
    rig.packets().service_cidrs[0] = Prefix::new("10.96.0.0".parse()?, 12);
    rig.packets().service_cidrs[1] = Prefix::new("fd00:10:96::".parse()?, 112);
    rig.reopen()?;
    let mut v4 = vec![0; 10];
    v4.extend([0xff, 0xff, 10, 96, 0, 0]);
    v4.extend([0xff; 12]);
    v4.extend([0xff, 0xf0, 0, 0]);
    assert_eq!(all()?[0], v4);
    assert_eq!(all()?[1][..6], [0xfd, 0, 0, 0x10, 0, 0x96]);
    rig.packets().service_cidrs[1] = Prefix::NONE;
    let before = all()?;
    rig.reopen()?;
    assert_eq!(all()?, before);
    let known = rig.packets().service_cidrs;
    rig.datapath().set_service_cidrs(&known)?;
    assert_eq!(all()?[0], v4);
    assert!(all()?[1..].iter().flatten().all(|byte| *byte == 0));
    Ok(())
}
