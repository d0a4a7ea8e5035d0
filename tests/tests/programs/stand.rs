//! Where programs run: a node with one device of each kind, and what the maps hold.
//!
//! The programs are loaded and attached by the product, as always, and run by hand. Nothing else passes the devices.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData, MapError};
use kubeshunt_tests::attached::{self, Way};
use kubeshunt_tests::test_run::{Program, Ran, Sum};
use kubeshunt_tests::{Node, Testbed, netns::NetNs};
use proxy_common::address::Address;
use proxy_common::layout::{
    self, Affinity, AffinityKey, Arrival, Counter, Flow, PortRanges, Prefix, Tuple, map,
};
use proxy_userspace::cluster::model::Family;
use proxy_userspace::datapath::counters::Counters;
use proxy_userspace::datapath::flows::settings::{PacketSettings, Pods};
use proxy_userspace::datapath::pins::Pins;
use proxy_userspace::datapath::{Datapath, Settings, devices::Hook};
use proxy_userspace::host::devices::{Device, Side};

use super::packet::Link;
use super::world::{self, CAPACITY, FAMILIES, Net};

/// From which ports the programs draw.
pub(crate) const PORTS: PortRanges = PortRanges::new((20_000, 8_000), (61_000, 4_000));
/// How many flows fit.
pub(crate) const FLOWS: u32 = 4096;
/// Places per CPU in each queue.
pub(crate) const PLACES: u32 = 64;

/// A device of the stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) side: Side,
    pub(crate) link: Link,
}

/// To pods, and to the world outside.
pub(crate) const PODS: Kind = Kind { side: Side::Pod, link: Link::Ethernet };
pub(crate) const WORLD: Kind = Kind { side: Side::Outside, link: Link::Ethernet };
/// The same without a link-layer header.
pub(crate) const BARE_PODS: Kind = Kind { side: Side::Pod, link: Link::Bare };
pub(crate) const BARE_WORLD: Kind = Kind { side: Side::Outside, link: Link::Bare };

impl Kind {
    fn name(self) -> &'static str {
        match (self.side, self.link) {
            (Side::Pod, Link::Ethernet) => "pods",
            (Side::Outside, Link::Ethernet) => "world",
            (Side::Pod, Link::Bare) => "barepods",
            (Side::Outside, Link::Bare) => "bareworld",
        }
    }
}

/// What return codes mean, as in `include/uapi/linux/pkt_cls.h`.
pub(crate) const PASS: i32 = -1;
pub(crate) const DROP: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;

type FlowMap = HashMap<MapData, Tuple, Flow>;
type ArrivalMap = HashMap<MapData, Tuple, Arrival>;

/// Fields are dropped in order.
pub(crate) struct Stand {
    programs: BTreeMap<(Kind, Way), (Program, u32)>,
    counters: Counters,
    flows: FlowMap,
    arrivals: ArrivalMap,
    /// Whether the kernel can tell that a sum over the whole packet no longer fits.
    pub(crate) knows_sums: bool,
    pub(crate) datapath: Datapath,
    pins: Pins,
}

/// Has a test run on a stand that has these devices.
pub(crate) fn on_stand(kinds: &[Kind], test: impl FnOnce(&mut Stand) -> Result<()> + Send) -> Result<()> {
    on_empty_stand(kinds, &[], |stand| {
        stand.datapath.carry_out(&world::operations())?;
        test(stand)
    })
}

/// The same without any Services, and with routes to more addresses.
pub(crate) fn on_empty_stand(
    kinds: &[Kind],
    routes: &[(IpAddr, Kind)],
    test: impl FnOnce(&mut Stand) -> Result<()> + Send,
) -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let far = NetNs::new()?;
    lay(&node, &far, kinds)?;
    node.netns().links(async |links| {
        for (address, kind) in routes {
            let length = if address.is_ipv4() { 32 } else { 128 };
            links.route_to_device((*address, length), kind.name()).await?;
        }
        Ok(())
    })?;
    node.netns().run(|| test(&mut Stand::new(&node, kinds)?))
}

/// The devices, and where the node's routes lead.
fn lay(node: &Node, far: &NetNs, kinds: &[Kind]) -> Result<()> {
    node.netns().links(async |links| {
        for kind in kinds.iter().copied() {
            links.veth(kind.name(), kind.name(), far).await?;
            // What the kernel sends by itself through the others would be malformed there: it has a header.
            if kind.link == Link::Ethernet {
                links.up(kind.name()).await?;
            }
        }
        Ok(())
    })?;
    far.links(async |links| {
        for kind in kinds.iter().filter(|kind| kind.link == Link::Ethernet) {
            links.up(kind.name()).await?;
        }
        Ok(())
    })?;
    node.netns().links(async |links| {
        for family in FAMILIES {
            let length = if family == Family::V4 { 24 } else { 64 };
            let routes = [(Net::Pods, PODS), (Net::Remote, WORLD), (Net::World, WORLD), (Net::Node, WORLD)];
            for (net, kind) in routes.into_iter().filter(|(_, kind)| kinds.contains(kind)) {
                links.route_to_device((world::ip(family, net, 0), length), kind.name()).await?;
            }
        }
        Ok(())
    })
}

impl Stand {
    fn new(node: &Node, kinds: &[Kind]) -> Result<Self> {
        // The queues are a CPU's own.
        stay_on_this_cpu()?;
        let settings = Settings {
            cgroup_root: node.cgroup().path().to_owned(),
            bpffs_root: node.pins().to_owned(),
            capacity: CAPACITY,
            memory: proxy_userspace::datapath::Memory::default(),
            log_decisions: false,
            tc_attach: None,
            packets: packets()?,
        };
        let mut datapath = Datapath::open(&settings)?;
        for family in FAMILIES {
            datapath.mark(&world::node(family).into())?;
        }
        let devices: BTreeMap<u32, Device> = kinds
            .iter()
            .map(|kind| Ok((nix::net::if_::if_nametoindex(kind.name())?, device(*kind))))
            .collect::<Result<_>>()?;
        let changes = datapath.devices().bring_in_line(&devices);
        ensure!(changes.failed.is_empty(), "{:?}", changes.failed);
        let hook = datapath.devices().hook();
        let mut programs = BTreeMap::new();
        for kind in kinds {
            for way in Way::ALL {
                let device = nix::net::if_::if_nametoindex(kind.name())?;
                let id = program_id(node, kind.name(), way, hook)?;
                programs.insert((*kind, way), (Program::by_id(id)?, device));
            }
        }
        let knows_sums = match programs.first_key_value() {
            Some((_, (program, _))) => program.knows_sums()?,
            None => false,
        };
        let pins = Pins::new(node.pins());
        Ok(Self {
            programs,
            counters: datapath.counters()?,
            flows: open(pins.map(map::FLOWS))?.try_into()?,
            arrivals: open(pins.map(map::ARRIVALS))?.try_into()?,
            knows_sums,
            datapath,
            pins,
        })
    }

    /// Runs a program on what has come to a device of that kind.
    pub(crate) fn run(&self, kind: Kind, way: Way, packet: &[u8], sum: Sum) -> Result<Ran> {
        let (program, device) = self.programs.get(&(kind, way)).context("not on this stand")?;
        // Without a link-layer header the kernel would begin to sum up amid the IP header.
        let sum = if self.knows_sums && kind.link == Link::Ethernet { sum } else { Sum::Unknown };
        program
            .run(packet, *device, sum)
            .with_context(|| format!("{way:?} of {kind:?} on {packet:02x?} with {sum:?}"))
    }

    /// How often each outcome was counted since `before`.
    pub(crate) fn counted(&self, before: &Counts) -> Result<Vec<(Counter, u64)>> {
        let now = self.counts()?;
        let more = Counter::ALL.into_iter().zip(now.0.iter().zip(&before.0));
        Ok(more
            .map(|(counter, (now, before))| (counter, now - before))
            .filter(|(_, more)| *more > 0)
            .collect())
    }

    /// What has been counted so far.
    pub(crate) fn counts(&self) -> Result<Counts> {
        Ok(Counts(Counter::ALL.iter().map(|counter| self.counters.total(*counter)).collect::<Result<_>>()?))
    }

    /// Every flow.
    pub(crate) fn flows(&self) -> Result<BTreeMap<Tuple, Flow>> {
        Ok(self.flows.iter().collect::<Result<_, _>>()?)
    }

    /// One of them.
    pub(crate) fn flow(&self, key: &Tuple) -> Result<Option<Flow>> {
        match self.flows.get(key, 0) {
            Ok(flow) => Ok(Some(flow)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes clients that are kept forgotten.
    pub(crate) fn forget_clients(&self) -> Result<()> {
        let map = MapData::from_pin(self.pins.map(map::AFFINITY))?;
        let mut rows: HashMap<MapData, AffinityKey, Affinity> = Map::LruHashMap(map).try_into()?;
        let keys: Vec<AffinityKey> = rows.keys().collect::<Result<_, _>>()?;
        for key in keys {
            rows.remove(&key)?;
        }
        Ok(())
    }

    /// Every arrival.
    pub(crate) fn arrivals(&self) -> Result<BTreeMap<Tuple, Arrival>> {
        Ok(self.arrivals.iter().collect::<Result<_, _>>()?)
    }
}

/// Whether the kernel would not run a program on a frame: too short for the header that it announces. Behind a tag the
/// kernel does not look.
pub(crate) fn is_too_short(frame: &[u8]) -> bool {
    match frame.get(12..) {
        None | Some([] | [_]) => true,
        Some([8, 0, ..]) => frame.len() < 34,
        Some([0x86, 0xdd, ..]) => frame.len() < 54,
        Some(_) => false,
    }
}

/// What has been counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counts(Vec<u64>);

fn open(pin: PathBuf) -> Result<Map> {
    Ok(Map::HashMap(MapData::from_pin(pin)?))
}

/// The packet path as on a small node. Queues are short, so that flows make room for others.
fn packets() -> Result<PacketSettings> {
    let mut service_cidrs = [Prefix::NONE; layout::RANGES as usize];
    for (place, family) in service_cidrs.iter_mut().zip(FAMILIES) {
        let length = if family == Family::V4 { 24 } else { 64 };
        *place = Prefix::new(world::ip(family, Net::Services, 0), length);
    }
    Ok(PacketSettings {
        flows: FLOWS,
        cpus: u32::try_from(aya::util::nr_cpus().map_err(|(_, error)| error)?)?,
        queue_length: PLACES,
        ports: PORTS,
        service_cidrs,
        pods: Pods::ByDevice,
    })
}

fn device(kind: Kind) -> Device {
    let own = |family| -> Address { IpAddr::into(world::node(family)) };
    Device {
        name: kind.name().to_owned(),
        side: kind.side,
        header: u32::try_from(kind.link.len()).expect("14 or 0"),
        is_covered: false,
        masquerade: layout::Device { v4: own(Family::V4), v6: own(Family::V6) },
    }
}

fn program_id(node: &Node, device: &str, way: Way, hook: Hook) -> Result<u32> {
    let id = match hook {
        Hook::Tcx => attached::by_tcx(node.netns(), device, way)?.first().copied(),
        Hook::Clsact => attached::by_filters(node.netns(), device, way)?.first().map(|filter| filter.program),
    };
    id.with_context(|| format!("no program at {device}'s {way:?}"))
}

fn stay_on_this_cpu() -> Result<()> {
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(nix::sched::sched_getcpu()?)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)?;
    Ok(())
}
