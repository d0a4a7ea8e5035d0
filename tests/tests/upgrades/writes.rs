//! Killed inside its writes: what it leaves is servable, and the next one finds its way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kubeshunt_tests::manifests::{EndpointSlice, Port, Service};
use kubeshunt_tests::pinned::PinnedMap;
use kubeshunt_tests::stage::{PATIENCE, PORT, Stage, TARGET_PORT};
use kubeshunt_tests::{inspect, wait};

use crate::seed;

/// Services that are in both worlds, with other endpoints; and as many in each that are in that one only.
const SERVICES: u16 = 300;
const ROUNDS: usize = 30;
/// Within this time of the first write it is killed. To write all takes longer.
const WITHIN_US: u64 = 2_000;

/// Each frontend's address, and where it leads.
type World = BTreeMap<IpAddr, BTreeSet<IpAddr>>;

fn world(number: u8) -> World {
    let endpoints = |network: u8, service: u16| {
        let [high, low] = service.to_be_bytes();
        (1..=3).map(|one| IpAddr::from([10, 200 + network, high * 8 + one, low])).collect()
    };
    let address = |network: u8, service: u16| {
        let [high, low] = service.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, 96, network * 64 + high, low))
    };
    let both = (1..=SERVICES).map(|service| (address(0, service), endpoints(number, service)));
    let own = (1..=SERVICES).map(|service| (address(number + 1, service), endpoints(number + 2, service)));
    both.chain(own).collect()
}

fn publish(stage: &Stage, world: &World) -> Result<()> {
    let mut objects: Vec<Box<dyn Display>> = Vec::new();
    for (address, endpoints) in world {
        let name = format!("web-{}", address.to_string().replace('.', "-"));
        let service = Service::new(&name).cluster_ip(*address).port(Port::tcp(PORT).target(TARGET_PORT));
        let slice = EndpointSlice::v4(&name).tcp(None, TARGET_PORT).ready(endpoints.iter().copied());
        objects.extend([Box::new(service) as Box<dyn Display>, Box::new(slice)]);
    }
    stage.folder.write("all", &objects.iter().map(Box::as_ref).collect::<Vec<_>>())
}

/// What the maps say, whoever is in charge.
fn served(stage: &Stage) -> Result<World> {
    let text = |value: &serde_json::Value| -> Result<IpAddr> {
        Ok(value["address"].as_str().context("an address")?.parse()?)
    };
    let frontends = stage.frontends()?;
    let entry = |frontend: &serde_json::Value| {
        let set = frontend["cluster"].as_array().context("a list of endpoints")?;
        Ok((text(frontend)?, set.iter().map(text).collect::<Result<_>>()?))
    };
    frontends.iter().map(entry).collect()
}

/// How often frontends have been changed; odd while they are.
fn revision(stage: &Stage) -> Result<u64> {
    let map = PinnedMap::open(&inspect::maps(stage.node.pins())?.join("REVISION"))?;
    let word: [u8; 8] = map.element_at(0)?[..8].try_into()?;
    Ok(u64::from_ne_bytes(word))
}

/// Returns at the first write of a change, and some time of less than [`WITHIN_US`] later.
fn await_a_moment_inside(stage: &Stage, random: &mut fastrand::Rng) -> Result<()> {
    let (begin, before) = (Instant::now(), revision(stage)?);
    while revision(stage)? == before {
        anyhow::ensure!(begin.elapsed() < PATIENCE, "nothing was written");
    }
    // Not slept, because a sleep takes longer than what it is to hit.
    let (begin, rest) = (Instant::now(), Duration::from_micros(random.u64(..WITHIN_US)));
    while begin.elapsed() < rest {}
    Ok(())
}

#[test]
fn killed_inside_its_writes_it_leaves_nothing_between_old_and_new() -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed());
    let worlds = [world(0), world(1)];
    let mut stage = Stage::new(0)?;
    publish(&stage, &worlds[0])?;
    stage.start()?;
    let mut cut_short = 0;
    for round in 0..ROUNDS {
        let [old, new] = [&worlds[round % 2], &worlds[(round + 1) % 2]];
        publish(&stage, new)?;
        await_a_moment_inside(&stage, &mut random)?;
        stage.kubeshunt_mut().kill9()?;
        cut_short += revision(&stage)? % 2;
        let served = served(&stage)?;
        for (address, endpoints) in &served {
            let worlds = || [old, new].into_iter().filter_map(|world| world.get(address));
            // A Service comes before its endpoints, and may go after them.
            let comes_or_goes = endpoints.is_empty() && worlds().count() == 1;
            let is_right = comes_or_goes || worlds().any(|set| set == endpoints);
            assert!(is_right, "round {round}: {address} leads to {endpoints:?}");
        }
        for address in old.keys().filter(|address| new.contains_key(*address)) {
            assert!(served.contains_key(address), "round {round}: {address} is gone");
        }
        stage.kubeshunt_mut().restart()?;
        wait::until_true(
            "the maps say what the folder says",
            PATIENCE,
            || Ok(self::served(&stage)? == *new),
        )?;
    }
    println!("{cut_short} of {ROUNDS} kills came in the middle of the writes");
    assert!(cut_short > 0, "no kill came in the middle of the writes");
    Ok(())
}
