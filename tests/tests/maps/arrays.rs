//! Arrays in memory: a store is a store to the map, and nothing is ever stored beside it.

use std::net::Ipv4Addr;

use anyhow::Result;
use aya::maps::MapData;
use proxy_common::layout::{Backend, Service, Sets, map};
use proxy_userspace::datapath::mapped::MappedArray;
use proxy_userspace::plan::{Capacity, Operation};

use super::layout;
use super::rig::Rig;
use super::world::backend;

/// No power of two, and no whole number of pages.
const CAPACITY: Capacity = Capacity { frontends: 16, services: 513, backends: 1_001 };

/// A backend that differs from those of all other slots.
fn numbered(slot: u32) -> Backend {
    backend(Ipv4Addr::from(0x0a00_0000 + slot))
}

fn array<T: aya::Pod>(rig: &Rig, name: &str) -> Result<MappedArray<T>> {
    MappedArray::new(&MapData::from_pin(rig.pin(name))?, name)
}

#[test]
fn stores_and_system_calls_see_each_other() -> Result<()> {
    let rig = Rig::new(CAPACITY)?;
    let mut services: MappedArray<Service> = array(&rig, map::SERVICES)?;
    let raw = rig.pinned(map::SERVICES)?;
    for index in [0, 1, 255, 256, CAPACITY.services - 1] {
        let word = u64::from(index) << 32 | 7;
        services.store(index, 0, word)?;
        services.store(index, 8, !word)?;
        let expected = Service { sets: word, traits: !word };
        assert_eq!(raw.element_at(index)?, layout::service(&expected), "service {index}");

        let other = Service { sets: !word, traits: word };
        raw.update(&index.to_ne_bytes(), &layout::service(&other))?;
        assert_eq!(services.as_slice()[index as usize], other, "service {index}");
    }
    Ok(())
}

#[test]
fn an_element_lies_where_the_kernel_looks_for_it() -> Result<()> {
    let rig = Rig::new(CAPACITY)?;
    let mut backends: MappedArray<Backend> = array(&rig, map::BACKENDS)?;
    let another: MappedArray<Backend> = array(&rig, map::BACKENDS)?;
    let raw = rig.pinned(map::BACKENDS)?;
    assert_eq!((backends.capacity(), raw.capacity()), (CAPACITY.backends, CAPACITY.backends));
    let all: Vec<_> = (0..CAPACITY.backends).map(numbered).collect();
    // In pieces that begin and end anywhere.
    for start in (0..CAPACITY.backends).step_by(77) {
        let end = (start + 77).min(CAPACITY.backends);
        backends.write(start, &all[start as usize..end as usize])?;
    }
    for slot in 0..CAPACITY.backends {
        assert_eq!(raw.element_at(slot)?, layout::backend(&numbered(slot)), "slot {slot}");
    }
    assert_eq!(another.as_slice(), all, "a second mapping, as `kubeshunt services` makes one");
    Ok(())
}

#[test]
fn what_lies_outside_is_an_error_and_changes_nothing() -> Result<()> {
    let mut rig = Rig::new(CAPACITY)?;
    let mut backends: MappedArray<Backend> = array(&rig, map::BACKENDS)?;
    let two = [numbered(1), numbered(2)];
    for start in [CAPACITY.backends - 1, CAPACITY.backends, CAPACITY.backends + 1, u32::MAX] {
        let error = backends.write(start, &two).expect_err("two elements do not fit there").to_string();
        assert!(error.contains(map::BACKENDS) && error.contains("1001"), "{error}");
    }
    let mut services: MappedArray<Service> = array(&rig, map::SERVICES)?;
    for (index, offset) in
        [(CAPACITY.services, 0), (u32::MAX, 0), (0, 16), (0, 12), (0, 4), (CAPACITY.services - 1, 16)]
    {
        let error = services.store(index, offset, !0).expect_err("there is no such word").to_string();
        assert!(error.contains(map::SERVICES) && error.contains("513"), "{error}");
    }
    for operation in [
        Operation::WriteBackends { start: CAPACITY.backends, backends: two.to_vec() },
        Operation::SetSets { service: CAPACITY.services, sets: Sets(!0) },
    ] {
        let error = rig.datapath().carry_out(std::slice::from_ref(&operation)).expect_err("out of bounds");
        assert!(format!("{error:#}").contains(&format!("{operation:?}")), "{error:#}");
    }
    let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let (raw_services, raw_backends) = (rig.pinned(map::SERVICES)?, rig.pinned(map::BACKENDS)?);
    for index in 0..CAPACITY.services {
        assert!(zero(&raw_services.element_at(index)?), "service {index}");
    }
    for slot in 0..CAPACITY.backends {
        assert!(zero(&raw_backends.element_at(slot)?), "slot {slot}");
    }
    Ok(())
}

#[test]
fn elements_of_another_size_are_refused() -> Result<()> {
    let rig = Rig::new(CAPACITY)?;
    let error = array::<Backend>(&rig, map::SERVICES).expect_err("16 bytes are not 24").to_string();
    assert!(error.contains("16") && error.contains("24") && error.contains(map::SERVICES), "{error}");
    Ok(())
}
