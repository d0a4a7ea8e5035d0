//! Maps of other sizes take the place of those in use: what was in them is in them, and no other map is touched.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kubeshunt_tests::inspect;
use kubeshunt_tests::pinned::PinnedMap;
use proxy_common::layout::{ABI_VERSION, Flow, Frontend, FrontendKey, Tuple, frontend_kind, map};
use proxy_userspace::datapath::flows::settings::PacketSettings;
use proxy_userspace::plan::{Capacity, Operation};

use super::rig::Rig;
use super::world::vip;

const SMALL: Capacity = Capacity { frontends: 64, services: 64, backends: 64 };
/// More than are read at a time.
const FLOWS: u16 = 2_000;

fn key(number: u8) -> FrontendKey {
    vip(Ipv4Addr::new(10, 96, 0, number), 80)
}

/// Small maps with something in them.
fn rig() -> Result<Rig> {
    let packets = PacketSettings { flows: 4_096, queue_length: 64, ..PacketSettings::default() };
    let mut rig = Rig::with_packets(SMALL, packets)?;
    let put = |number| {
        let key = key(number);
        Operation::PutFrontend {
            key,
            frontend: Frontend::sealed(&key, number.into(), frontend_kind::CLUSTER_IP),
        }
    };
    rig.datapath().carry_out(&(0..64).map(put).collect::<Vec<_>>())?;
    for number in 0..FLOWS {
        write_flow(&rig.pins().map(map::FLOWS), number)?;
    }
    Ok(rig)
}

/// As a program would: of what is in it nothing matters here but that it stays.
fn write_flow(pin: &Path, number: u16) -> Result<()> {
    let flows = PinnedMap::open(pin)?;
    let mut key = [7; size_of::<Tuple>()];
    key[..2].copy_from_slice(&number.to_ne_bytes());
    let mut value = [9; size_of::<Flow>()];
    value[..2].copy_from_slice(&number.to_ne_bytes());
    flows.update(&key, &value)
}

type Entries = BTreeSet<(Vec<u8>, Vec<u8>)>;

fn entries(rig: &Rig, name: &str) -> Result<Entries> {
    let map = rig.pinned(name)?;
    map.keys()?.into_iter().map(|key| Ok((key.clone(), map.lookup(&key)?.context("it is gone")?))).collect()
}

fn generations(rig: &Rig) -> Result<Vec<PathBuf>> {
    inspect::generations(rig.pins().root())
}

/// Each pinned map's id.
fn ids(rig: &Rig) -> Result<Vec<(String, u32)>> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(inspect::maps(rig.pins().root())?)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ids.push((name, PinnedMap::open(&path)?.id()));
    }
    ids.sort();
    Ok(ids)
}

/// Asks for twice as much of everything that has a size.
fn ask_for_more(rig: &mut Rig) {
    let Capacity { frontends, services, backends } = SMALL;
    *rig.capacity() = Capacity { frontends: frontends * 2, services: services * 2, backends: backends * 2 };
    rig.packets().flows *= 2;
}

#[test]
fn larger_maps_hold_what_the_smaller_ones_held() -> Result<()> {
    let mut rig = rig()?;
    let (frontends, flows, before) = (entries(&rig, map::FRONTENDS)?, entries(&rig, map::FLOWS)?, ids(&rig)?);
    assert_eq!((frontends.len(), flows.len()), (64, usize::from(FLOWS)));

    ask_for_more(&mut rig);
    rig.reopen()?;
    assert_eq!(rig.datapath().capacity().frontends, 128);
    assert_eq!(
        entries(&rig, map::FRONTENDS)?,
        frontends,
        "what the controller writes is there before it is read back"
    );
    assert_eq!(generations(&rig)?.len(), 2, "programs that are attached still work on the old ones");
    rig.datapath().let_go_of_older_maps()?;
    assert_eq!(entries(&rig, map::FLOWS)?, flows);
    assert_eq!(generations(&rig)?.len(), 1);

    let after = ids(&rig)?;
    let changed: BTreeSet<&str> = before
        .iter()
        .zip(&after)
        .filter(|(old, new)| old != new)
        .map(|((name, _), _)| name.as_str())
        .collect();
    let tables = [map::FRONTENDS, map::SERVICES, map::BACKENDS, map::FATES];
    let flows = [map::FLOWS, map::ARRIVALS, map::NASCENT, map::CLOSING, map::TURNS];
    let sized: Vec<_> = tables.into_iter().chain(flows).collect();
    assert_eq!(changed, BTreeSet::from_iter(sized), "the others are the same maps");

    rig.reopen()?;
    assert_eq!(ids(&rig)?, after, "nothing changes where nothing else is asked for");
    Ok(())
}

#[test]
fn maps_never_get_smaller() -> Result<()> {
    let mut rig = rig()?;
    let before = ids(&rig)?;
    *rig.capacity() = Capacity { frontends: 8, services: 8, backends: 8 };
    rig.reopen()?;
    assert_eq!((ids(&rig)?, rig.datapath().capacity().frontends), (before, 64));
    Ok(())
}

#[test]
fn a_process_that_dies_on_the_way_is_no_harm() -> Result<()> {
    let mut rig = rig()?;
    let flows = entries(&rig, map::FLOWS)?;
    // While maps are being filled: here, one more pin of a map, in the folder where they are made.
    let unfinished = rig.pins().root().join(format!("unfinished/maps-{ABI_VERSION}-2"));
    std::fs::create_dir_all(&unfinished)?;
    aya::maps::MapData::from_pin(rig.pin(map::FLOWS))?.pin(unfinished.join(map::FLOWS))?;
    ask_for_more(&mut rig);
    rig.reopen()?;
    assert!(!unfinished.exists());

    // After that, and before the old ones have gone. Meanwhile the old programs write on.
    let old = generations(&rig)?[0].join(map::FLOWS);
    write_flow(&old, FLOWS)?;
    rig.reopen()?;
    assert_eq!(generations(&rig)?.len(), 2);
    rig.datapath().let_go_of_older_maps()?;
    let mut now = entries(&rig, map::FLOWS)?;
    assert_eq!((now.len(), generations(&rig)?.len()), (flows.len() + 1, 1));
    now.retain(|entry| flows.contains(entry));
    assert_eq!(now, flows);

    // And a third size, before the second one has been attached.
    ask_for_more(&mut rig);
    rig.packets().flows *= 2;
    rig.reopen()?;
    rig.packets().flows *= 2;
    rig.reopen()?;
    rig.datapath().let_go_of_older_maps()?;
    assert_eq!((entries(&rig, map::FLOWS)?.len(), generations(&rig)?.len()), (flows.len() + 1, 1));
    Ok(())
}
