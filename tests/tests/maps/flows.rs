//! Flows in the kernel's maps: what is over goes, with what leads to it, and nothing else, whatever others do.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use fastrand::Rng;
use proxy_common::address::{Address, Port};
use proxy_common::layout::{
    Arrival, Flow, FrontendKey, PortRanges, Tuple, arrival_flag, flow_flag, flow_state, map, protocol, scope,
};
use proxy_userspace::datapath::flows::FlowMaps;
use proxy_userspace::datapath::flows::settings::PacketSettings;
use proxy_userspace::datapath::flows::sweep::{FlowSweep, Judge, OrphanSweep, StaleSweep};
use proxy_userspace::flows::age::Timeouts;
use proxy_userspace::flows::stale::Served;
use proxy_userspace::plan::Capacity;

use super::rig::Rig;

const CAPACITY: Capacity = Capacity { frontends: 16, services: 16, backends: 16 };
const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_000_000 * SECOND;
const JUDGE: Judge = Judge { timeouts: Timeouts::DEFAULT, ports: PortRanges::new((1024, 60_000), (0, 0)) };

/// The maps as a program has them: written to without any thought.
struct Maps {
    flows: HashMap<MapData, Tuple, Flow>,
    arrivals: HashMap<MapData, Tuple, Arrival>,
}

impl Maps {
    fn open(rig: &Rig) -> Result<Self> {
        let data = |name| MapData::from_pin(rig.pin(name));
        Ok(Self {
            flows: HashMap::try_from(Map::HashMap(data(map::FLOWS)?))?,
            arrivals: HashMap::try_from(Map::HashMap(data(map::ARRIVALS)?))?,
        })
    }

    /// Writes a flow as a program does: flow, answer, client.
    fn write(&mut self, key: &Tuple, flow: &Flow) -> Result<()> {
        self.flows.insert(key, flow, 0)?;
        for (tuple, arrival) in arrivals(key, flow) {
            self.arrivals.insert(tuple, arrival, 0)?;
        }
        Ok(())
    }

    fn keys(&self) -> Result<(BTreeSet<Tuple>, BTreeSet<Tuple>)> {
        let flows = self.flows.keys().collect::<Result<_, _>>()?;
        Ok((flows, self.arrivals.keys().collect::<Result<_, _>>()?))
    }
}

/// What leads to a flow.
fn arrivals(key: &Tuple, flow: &Flow) -> Vec<(Tuple, Arrival)> {
    let inside = flow.inside(key);
    let arrival = |address, port, source_port, flags, tuple| {
        let arrival = Arrival { address, born: flow.born, port, source_port, flags, noted: 1, seal: 0 };
        (tuple, arrival.sealed(&tuple))
    };
    let there = arrival(inside.destination, inside.destination_port, inside.source_port, 0, flow.asked(key));
    let back = flow.is_masqueraded().then(|| {
        let answer = flow.answered(key);
        arrival(inside.source, inside.source_port, inside.destination_port, arrival_flag::REPLY, answer)
    });
    back.into_iter().chain([there]).collect()
}

fn v4(word: u32) -> Address {
    Address::from(IpAddr::from(Ipv4Addr::from(word)))
}

/// The flow of client `number`.
fn flow(number: u32, protocol: u8, is_masqueraded: bool, state: u32, seen: u64) -> (Tuple, Flow) {
    let client = if number.is_multiple_of(2) { v4(0xc633_0000 + number) } else { v4(0x0102_0000 + number) };
    let inside = Tuple {
        source: client,
        destination: v4(0x0a01_0000 + number % 50),
        source_port: Port::new(if is_masqueraded {
            1024 + u16::try_from(number % 60_000).unwrap_or(0)
        } else {
            4711
        }),
        destination_port: Port::new(8080),
        protocol,
        reserved: [0; 3],
    };
    let (key, is_reversed) = inside.ordered();
    let flow = Flow {
        vip: v4(0x0a60_0001),
        masquerade: if is_masqueraded { v4(0xc000_0201) } else { Address::ANY_V6 },
        born: seen - SECOND / 2,
        seen,
        vip_port: Port::new(80),
        client_port: Port::new(4711),
        service: 1,
        state,
        flags: if is_reversed { 0 } else { flow_flag::CLIENT_IS_SOURCE },
        place: 0,
        reserved: 0,
        seal: 0,
    };
    (key, flow.sealed(&key))
}

/// What may be idle how many seconds, written down once more.
const KINDS: [(u8, u32, u64); 8] = [
    (protocol::TCP, 0, 60),
    (protocol::TCP, flow_state::REPLIED | flow_state::ESTABLISHED, 86_400),
    (protocol::TCP, flow_state::REPLIED | flow_state::ESTABLISHED | flow_state::CLIENT_DONE, 3_600),
    (protocol::TCP, flow_state::RESET | flow_state::CLOSING, 10),
    (protocol::UDP, flow_state::REPLIED, 30),
    (protocol::UDP, flow_state::REPLIED | flow_state::ESTABLISHED, 120),
    (protocol::SCTP, 0, 30),
    (protocol::SCTP, flow_state::REPLIED | flow_state::ESTABLISHED, 210),
];

fn sweep(maps: &mut FlowMaps, now: u64) -> Result<FlowSweep> {
    let mut sweep = FlowSweep::default();
    while sweep.step(maps, &JUDGE, now)? {}
    Ok(sweep)
}

#[test]
fn a_sweep_removes_exactly_what_is_over_of_ten_thousand() -> Result<()> {
    const FLOWS: u32 = 10_000;
    let rig = Rig::new(CAPACITY)?;
    let mut maps = Maps::open(&rig)?;
    let mut random = Rng::with_seed(7);
    let (mut flows, mut leading, mut removed) = (BTreeSet::new(), BTreeSet::new(), 0);
    for number in 0..FLOWS {
        let (protocol, state, patience) = KINDS[random.usize(0..KINDS.len())];
        // Just not over, just over, and anything.
        let idle = match random.u8(0..3) {
            0 => patience * SECOND,
            1 => patience * SECOND + 1,
            _ => random.u64(0..200_000 * SECOND),
        };
        let (key, flow) = flow(number, protocol, random.bool(), state, NOW - idle);
        maps.write(&key, &flow)?;
        if idle > patience * SECOND {
            removed += 1;
            // The client asks again from the same port meanwhile: that is not this flow's any more.
            if random.u8(0..10) == 0 {
                let (tuple, arrival) = arrivals(&key, &flow).pop().context("each has one")?;
                let later = Arrival { born: NOW, ..arrival }.sealed(&tuple);
                maps.arrivals.insert(tuple, later, 0)?;
                leading.insert(tuple);
            }
        } else {
            flows.insert(key);
            leading.extend(arrivals(&key, &flow).into_iter().map(|(tuple, _)| tuple));
        }
    }
    let begin = Instant::now();
    let sweep = sweep(&mut FlowMaps::open(&rig.pins())?, NOW)?;
    println!("{FLOWS} flows, {removed} of them over: swept in {:?}", begin.elapsed());
    assert_eq!(maps.keys()?, (flows.clone(), leading));
    assert_eq!(sweep.removed, removed);
    assert_eq!(sweep.census.flows as usize, flows.len());
    Ok(())
}

#[test]
fn a_full_map_has_room_again_after_a_sweep() -> Result<()> {
    // One place in each queue, whose flows come on top.
    let packets = PacketSettings { flows: 62, cpus: 1, queue_length: 1, ..PacketSettings::default() };
    let rig = Rig::with_packets(CAPACITY, packets)?;
    let mut maps = Maps::open(&rig)?;
    let mut ours = FlowMaps::open(&rig.pins())?;
    assert_eq!(ours.capacity()?, 64);
    let live = |number| flow(number, protocol::UDP, true, 0, NOW);
    for number in 0..64 {
        let idle = if number < 8 { 31 } else { 29 };
        let (key, flow) = flow(number, protocol::UDP, true, 0, NOW - idle * SECOND);
        maps.write(&key, &flow)?;
    }
    assert!(maps.flows.insert(live(64).0, live(64).1, 0).is_err(), "the sixty-fifth of sixty-four");
    let swept = sweep(&mut ours, NOW)?;
    assert_eq!((swept.removed, swept.census.flows, swept.census.masqueraded), (8, 56, 56));
    for number in 64..72 {
        let (key, flow) = live(number);
        maps.write(&key, &flow)?;
    }
    assert!(maps.flows.insert(live(72).0, live(72).1, 0).is_err());
    assert_eq!(sweep(&mut ours, NOW)?.census.flows, 64);
    assert_eq!(ours.all()?.len(), 64);
    Ok(())
}

#[test]
fn flows_to_endpoints_that_serve_no_more_go_and_others_stay() -> Result<()> {
    let rig = Rig::new(CAPACITY)?;
    let mut maps = Maps::open(&rig)?;
    let mut served = Served::default();
    let mut stay = BTreeSet::new();
    for number in 0..3_000 {
        let protocol = if number % 2 == 0 { protocol::UDP } else { protocol::TCP };
        let (key, flow) = flow(number, protocol, number % 3 == 0, 0, NOW);
        maps.write(&key, &flow)?;
        if protocol == protocol::TCP {
            stay.insert(key);
        }
    }
    let (_, one) = flow(0, protocol::UDP, false, 0, NOW);
    let at = FrontendKey { address: one.vip, port: one.vip_port, protocol: protocol::UDP, scope: scope::VIP };
    let backends = (0..50).map(|number| (v4(0x0a01_0000 + number), Port::new(8080)));
    let elsewhere = (v4(0x0a01_0000), Port::new(8081));
    let pass = |maps: &Maps, served: &Served| -> Result<(u32, BTreeSet<Tuple>)> {
        let (mut sweep, mut ours) = (StaleSweep::default(), FlowMaps::open(&rig.pins())?);
        while sweep.step(&mut ours, served)? {}
        assert!(!sweep.has_missed);
        Ok((sweep.removed.iter().sum::<u32>(), maps.keys()?.0))
    };
    let all = maps.keys()?.0;
    assert_eq!(pass(&maps, &served)?, (0, all.clone()), "nothing is known");
    served.add([at], &Arc::new(backends.collect()));
    assert_eq!(pass(&maps, &served)?, (0, all), "they serve still");
    let mut later = Served::default();
    later.add([at], &Arc::new([elsewhere].into()));
    served.extend(later);
    assert_eq!(pass(&maps, &served)?, (1_500, stay.clone()));
    assert!(
        maps.keys()?.1.iter().all(|tuple| tuple.protocol == protocol::TCP),
        "what led to them is gone, too"
    );
    Ok(())
}

#[test]
fn arrivals_without_their_flow_go_and_others_stay() -> Result<()> {
    let rig = Rig::new(CAPACITY)?;
    let mut maps = Maps::open(&rig)?;
    for number in 0..2_000 {
        let (key, flow) = flow(number, protocol::TCP, number % 3 == 0, 0, NOW - 100 * SECOND);
        maps.write(&key, &flow)?;
    }
    let (flows, leading) = maps.keys()?;
    for number in 5_000..6_000 {
        // One in five is so young that its flow may be about to be written.
        let age = if number % 5 == 0 { 1 } else { 100 };
        let (key, flow) = flow(number, protocol::TCP, number % 3 == 0, 0, NOW - age * SECOND);
        maps.write(&key, &flow)?;
        maps.flows.remove(&key)?;
    }
    let young = maps.keys()?.1.difference(&leading).count();
    let mut sweep = OrphanSweep::default();
    let mut ours = FlowMaps::open(&rig.pins())?;
    while sweep.step(&mut ours, NOW)? {}
    let (flows_after, leading_after) = maps.keys()?;
    assert!(flows_after == flows && leading_after.is_superset(&leading));
    let left = leading_after.difference(&leading).count();
    assert_eq!(left + sweep.removed as usize, young);
    assert_eq!(left, 200 + (5_000..6_000).filter(|number| number % 15 == 0).count());
    Ok(())
}

#[test]
fn a_sweep_sees_each_flow_that_stays_once_while_others_come_and_go() -> Result<()> {
    const STAY: u32 = 20_000;
    let rig = Rig::new(CAPACITY)?;
    let mut maps = Maps::open(&rig)?;
    for number in 0..STAY {
        let (key, flow) = flow(number, protocol::TCP, false, 0, NOW);
        maps.write(&key, &flow)?;
    }
    let mut ours = FlowMaps::open(&rig.pins())?;
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let churn = scope.spawn(|| -> Result<u64> {
            let mut turns = 0;
            while !ended.load(Ordering::Relaxed) {
                for number in STAY..STAY + 100 {
                    let (key, flow) = flow(number, protocol::TCP, false, 0, NOW);
                    maps.write(&key, &flow)?;
                    for (tuple, _) in arrivals(&key, &flow) {
                        maps.arrivals.remove(&tuple)?;
                    }
                    maps.flows.remove(&key)?;
                }
                turns += 1;
            }
            Ok(turns)
        });
        let result = (0..20).try_for_each(|_| {
            let all = ours.all()?;
            let stay: BTreeSet<Tuple> = all.iter().map(|(key, _)| *key).collect();
            assert_eq!(stay.len(), all.len(), "none twice");
            let expected = (0..STAY).map(|number| flow(number, protocol::TCP, false, 0, NOW).0);
            assert!(expected.into_iter().all(|key| stay.contains(&key)), "none left out");
            assert!(all.iter().all(|(key, flow)| flow.belongs_to(key)), "none torn");
            assert_eq!(sweep(&mut ours, NOW)?.removed, 0);
            Ok(())
        });
        ended.store(true, Ordering::Relaxed);
        let turns = churn.join().expect("it does not panic")?;
        assert!(turns > 0);
        result
    })
}
