//! The kernel's side: maps and programs, pinned; the only folder that writes to them.
//!
//! Ownership: the pin is the only owner of a map or link. This process may die at any instruction; what is
//! pinned goes on serving. [`Datapath::open`] therefore begins with what it finds, and nothing here detaches on
//! drop. [`Pins::remove`] does, for `kubeshunt cleanup`.
//!
//! - [`pins`]: the folder, its lock and its names;
//! - [`object`]: the object file, which both kinds of programs come from;
//! - [`generations`]: maps of other shapes take the place of those in use;
//! - [`raw`]: maps of any shape;
//! - [`programs`]: those for sockets: loading, attaching, replacing;
//! - [`devices`]: those for packets, the same;
//! - [`log`]: what programs write;
//! - [`mapped`]: arrays written by memory stores;
//! - [`kernel`]: the system calls that aya lacks;
//! - [`contents`]: reading everything back;
//! - `audited`: reading back a little at a time;
//! - `kept`: what is pinned, held open;
//! - [`cells`]: which addresses packets are looked at for;
//! - [`flows`]: what the packet path remembers;
//! - [`sockets`]: those that were connected to a Service, in all network namespaces;
//! - [`counters`], [`attachments`]: what the programs counted, and who else is attached;
//! - [`selftest`]: a connection of our own through the hooks.

pub mod attachments;
mod audited;
pub mod cells;
pub mod contents;
pub mod counters;
pub mod devices;
pub mod flows;
mod generations;
mod kept;
pub mod kernel;
mod log;
pub mod mapped;
pub mod object;
pub mod pins;
pub mod programs;
mod raw;
pub mod selftest;
pub mod sockets;

use std::{collections::BTreeSet, fs::File, path::PathBuf};

use anyhow::{Context as _, Result};
use aya::maps::{
    HashMap, MapData,
    lpm_trie::{Key, LpmTrie},
};
use proxy_common::{
    address::Address,
    layout::{
        self, Backend, Frontend, FrontendKey, LEFT_CGROUPS, Prefix, Revision, Service, Source, map,
        node_address, scope,
    },
};

use crate::{
    plan::{Capacity, NodeAddresses, Observed, Operation, SourceRange},
    tables::ranges::{self, Ranges},
};
use cells::Cells;
use counters::{Counters, FateCounts};
use flows::settings::{PacketSettings, Pods};
use generations::{Begun, Handover};
use kept::Kept;
use mapped::MappedArray;
use pins::Pins;

/// Where and how large.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A cgroup v2 folder: sockets of processes at or below it are translated.
    pub cgroup_root: PathBuf,
    /// A folder on a bpffs, ours alone.
    pub bpffs_root: PathBuf,
    /// Sizes of maps. One that is smaller gives way to a new one, one that is larger stays.
    pub capacity: Capacity,
    /// The same, of what programs remember.
    pub memory: Memory,
    /// Log every decision of the programs.
    pub log_decisions: bool,
    /// How programs are attached to devices; `None` for the better way that the kernel has.
    pub tc_attach: Option<devices::Hook>,
    /// The packet path.
    pub packets: PacketSettings,
}

/// How much programs remember: beyond, what was used least recently makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Clients with affinity, for each service port.
    pub affinities: u32,
    /// Endpoints that unconnected UDP sockets have talked to.
    pub senders: u32,
}

impl Default for Memory {
    fn default() -> Self {
        Self { affinities: layout::AFFINITY_ROWS, senders: layout::SENDER_ROWS }
    }
}

impl Settings {
    /// Maps and their sizes.
    fn sizes(&self) -> Vec<(&'static str, u32)> {
        let Capacity { frontends, services, backends } = self.capacity;
        let mut sizes = vec![
            (map::FRONTENDS, frontends),
            (map::SERVICES, services),
            (map::BACKENDS, backends),
            (map::FATES, services),
            (map::AFFINITY, self.memory.affinities),
            (map::SENDERS, self.memory.senders),
        ];
        sizes.extend(self.packets.sizes());
        sizes
    }
}

/// Maps and attached programs.
pub struct Datapath {
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    services: MappedArray<Service>,
    backends: MappedArray<Backend>,
    revision: MappedArray<u64>,
    node_addresses: HashMap<MapData, Address, u32>,
    sources: LpmTrie<MapData, Source, u32>,
    left_cgroups: HashMap<MapData, u64, u32>,
    left_count: MappedArray<u64>,
    service_cidrs: MappedArray<Prefix>,
    pod_cidrs: MappedArray<Prefix>,
    vip_cells: Cells,
    counters: Option<Counters>,
    fates: Option<FateCounts>,
    /// What sockets remember.
    origins: MapData,
    programs: programs::Programs,
    devices: devices::Devices,
    /// From the maps that the programs still attached work on.
    handover: Option<Handover>,
    pins: Pins,
    kept: Kept,
    /// Held for as long as we write.
    lock: pins::Lock,
}

impl Datapath {
    /// Opens what is pinned and creates what is not. Programs are loaded and verified, but not attached before
    /// [`Datapath::attach`]: a node without tables must not refuse what it does not know yet.
    ///
    /// # Errors
    /// When another process holds the pins, the bpffs or cgroup is none, the kernel lacks something, or rights
    /// are missing; the message says which.
    pub fn open(settings: &Settings) -> Result<Self> {
        // Attaching comes much later, with the first complete tables; that the folder is wrong is clear now.
        pins::cgroup_id(&settings.cgroup_root)?;
        let pins = Pins::new(&settings.bpffs_root);
        pins.create()?;
        let lock = pins.lock()?;
        let Begun { pins: maps, sizes, handover } = generations::begin(&pins, settings.sizes())?;
        let mut programs = programs::load(settings, &sizes, &maps, &pins)?;
        let pins = match &handover {
            Some(handover) => handover.fill().context("going over to maps of other shapes")?,
            None => maps,
        };
        let ebpf = programs.object();
        let mut datapath = Self {
            frontends: contents::map(ebpf, map::FRONTENDS)?,
            services: MappedArray::of(ebpf, map::SERVICES)?,
            backends: MappedArray::of(ebpf, map::BACKENDS)?,
            revision: MappedArray::of(ebpf, map::REVISION)?,
            node_addresses: contents::map(ebpf, map::NODE_ADDRESSES)?,
            sources: contents::map(ebpf, map::SOURCES)?,
            left_cgroups: contents::map(ebpf, map::LEFT_CGROUPS)?,
            left_count: MappedArray::of(ebpf, map::LEFT_COUNT)?,
            service_cidrs: MappedArray::of(ebpf, map::SERVICE_CIDRS)?,
            pod_cidrs: MappedArray::of(ebpf, map::POD_CIDRS)?,
            vip_cells: Cells::of(ebpf)?,
            counters: Some(Counters::new(contents::map(ebpf, map::COUNTERS)?)),
            fates: Some(FateCounts::new(MappedArray::of(ebpf, map::FATES)?)),
            origins: MapData::from_pin(pins.map(map::ORIGINS)).context("opening what sockets remember")?,
            devices: devices::Devices::new(settings, pins.clone(), contents::map(ebpf, map::DEVICES)?)?,
            programs,
            pins,
            kept: Kept::default(),
            handover,
            lock,
        };
        datapath.kept.hold_maps(&datapath.pins, object::pinned_maps())?;
        // What an earlier process knew of objects is better than nothing, until they are listed.
        let chosen = settings.packets.service_cidrs;
        let is_there = |range: &Prefix| datapath.service_cidrs.as_slice().contains(range);
        if !chosen.iter().filter(|range| range.is_some()).all(is_there) {
            datapath.set_service_cidrs(&chosen)?;
        }
        match settings.packets.pods {
            Pods::ByDevice => datapath.set_pod_cidrs(&ranges::NONE)?,
            Pods::ByAddress(ranges) => datapath.set_pod_cidrs(&ranges)?,
            Pods::ByNode => {}
        }
        datapath.mark_all()?;
        // Slots that the last process gave up may still be in use by a program that runs right now.
        kernel::grace_period()?;
        Ok(datapath)
    }

    /// Says that packets to an address must be looked at by the packet path; for addresses that no operation speaks of,
    /// such as those that masqueraded flows have towards their backends.
    ///
    /// # Errors
    /// When the map is smaller than it should be.
    pub fn mark(&mut self, address: &Address) -> Result<()> {
        self.vip_cells.mark(address)
    }

    /// Says where ClusterIPs are taken from. Programs may be reading: what is right stays untouched.
    ///
    /// # Errors
    /// When the map is smaller than it should be.
    pub fn set_service_cidrs(&mut self, cidrs: &Ranges) -> Result<()> {
        if self.service_cidrs.as_slice() == cidrs { Ok(()) } else { self.service_cidrs.write(0, cidrs) }
    }

    /// Says whose packets count as those of this node's pods, in the same way.
    ///
    /// # Errors
    /// When the map is smaller than it should be.
    pub fn set_pod_cidrs(&mut self, cidrs: &Ranges) -> Result<()> {
        if self.pod_cidrs.as_slice() == cidrs { Ok(()) } else { self.pod_cidrs.write(0, cidrs) }
    }

    /// Leaves alone the sockets of processes in these cgroups, by id, and of no others.
    ///
    /// # Errors
    /// When the kernel refuses, or there are too many.
    pub fn leave_alone(&mut self, wanted: &BTreeSet<u64>) -> Result<()> {
        let known: BTreeSet<u64> =
            self.left_cgroups.keys().collect::<Result<_, _>>().context("reading the map of cgroups")?;
        for id in known.difference(wanted) {
            absent_is_fine(self.left_cgroups.remove(id))?;
        }
        // Whoever finds no room harms nobody who has found some.
        let (mut left, mut failed) = (known.intersection(wanted).count(), None);
        for id in wanted.difference(&known) {
            match self.left_cgroups.insert(id, 0, 0) {
                Ok(()) => left += 1,
                Err(error) => failed = Some((id, error)),
            }
        }
        self.left_count.store(0, 0, left as u64)?;
        failed.map_or(Ok(()), |(id, error)| {
            Err(error).with_context(|| {
                format!("no room for the pod of cgroup {id}: there are more than {LEFT_CGROUPS} such")
            })
        })
    }

    /// Marks what the maps hold already, in case whoever wrote that did not.
    fn mark_all(&mut self) -> Result<()> {
        for key in self.frontends.keys() {
            mark_frontend(&mut self.vip_cells, &key.context("reading the frontends map")?)?;
        }
        for entry in self.node_addresses.iter() {
            let (address, is) = entry.context("reading the node addresses map")?;
            if is & node_address::OWN != 0 {
                self.vip_cells.mark(&address)?;
            }
        }
        Ok(())
    }

    /// Attaches the programs, or replaces those of an earlier process in place.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, settings: &Settings) -> Result<programs::Attached> {
        if let Some(handover) = &self.handover {
            handover.carry().context("going over to maps of other shapes")?;
        }
        self.programs.attach(settings)
    }

    /// Whether other programs still work on older maps.
    #[must_use]
    pub fn is_handing_over(&self) -> bool {
        self.handover.is_some()
    }

    /// All programs are this process': maps that earlier ones worked on go.
    ///
    /// # Errors
    /// When maps cannot be read or written, or pins cannot be removed.
    pub fn let_go_of_older_maps(&mut self) -> Result<()> {
        let ended = self.handover.take().map(Handover::end);
        ended.transpose().map(drop).context("letting go of maps of other shapes")
    }

    /// Holds the links that are pinned now, so that whoever removes their pins does not detach anything.
    ///
    /// # Errors
    /// When the kernel does not tell what is pinned.
    pub fn hold_links(&mut self) -> Result<()> {
        self.kept.hold_links(&self.pins)
    }

    /// Makes pins anew that somebody has removed, and their folders, and takes the lock of these; says how many they
    /// were. To be called before anything is loaded or attached: what finds no pin makes a map or a link of its own.
    ///
    /// # Errors
    /// [`pins::Taken`] when another process has made the folder its own meanwhile; when there is no bpffs any more.
    pub fn restore_pins(&mut self) -> Result<usize> {
        let is_new = self.pins.restore(&mut self.lock)?;
        Ok(self.kept.restore()? + usize::from(is_new))
    }

    /// The socket hooks that are not attached as they should be.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn hooks_astray(&self, settings: &Settings) -> Result<Vec<&'static str>> {
        self.programs.astray(pins::cgroup_id(&settings.cgroup_root)?)
    }

    /// A hook of ours whose program does not run for processes of a cgroup, if there is one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ineffective_in(&self, cgroup: &File) -> Result<Option<&'static str>> {
        for (hook, own) in self.programs.ids() {
            if !attachments::effective(cgroup, hook)?.contains(own) {
                return Ok(Some(hook));
            }
        }
        Ok(None)
    }

    /// Connects to a frontend as any process would, and says what came of it. Nothing is sent.
    ///
    /// # Errors
    /// When it cannot be tried.
    pub fn try_out(&self, key: &FrontendKey) -> Result<selftest::Found> {
        selftest::connect(&self.origins, key)
    }

    /// What is attached to devices.
    pub fn devices(&mut self) -> &mut devices::Devices {
        &mut self.devices
    }

    /// The sockets that were connected to a Service; of TCP only if asked for.
    ///
    /// # Errors
    /// When the kernel cannot list them.
    pub fn sockets(&mut self, with_tcp: bool) -> Result<sockets::Sockets> {
        sockets::Sockets::of(self.programs.object(), with_tcp)
    }

    /// What fits into the maps as they are.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        Capacity {
            frontends: self.programs.frontends_capacity(),
            services: self.services.capacity(),
            backends: self.backends.capacity(),
        }
    }

    /// Reads back what the controller's maps hold.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn observe(&self) -> Result<Observed<'_>> {
        let frontends =
            self.frontends.iter().collect::<Result<Vec<_>, _>>().context("reading the frontends map")?;
        let revision = Revision(self.revision.as_slice().first().copied().unwrap_or_default());
        let sources = contents::sources(&self.sources)?;
        Ok(Observed { frontends, services: self.services.as_slice(), sources, revision })
    }

    /// How much the programs can remember, with the maps as they are.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn memory(&self) -> Result<Memory> {
        let room = |name| {
            let map = self.kept.map(&self.pins.map(name)).context("it was pinned when we began")?;
            kernel::map_room(map).with_context(|| format!("asking about the map {name}"))
        };
        Ok(Memory { affinities: room(map::AFFINITY)?, senders: room(map::SENDERS)? })
    }

    /// The backends map.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        self.backends.as_slice()
    }

    /// The node's addresses.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn node_addresses(&self) -> Result<NodeAddresses> {
        self.node_addresses.iter().collect::<Result<_, _>>().context("reading the node addresses map")
    }

    /// The counters, once: they go to whoever exports them.
    ///
    /// # Errors
    /// When they are gone already.
    pub fn counters(&mut self) -> Result<Counters> {
        self.counters.take().context("the counters were taken before")
    }

    /// What became of who asked for each service, once: it goes to whoever exports it.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn fates(&mut self) -> Result<FateCounts> {
        self.fates.take().context("the fates were taken before")
    }

    /// Carries out operations in their order; stops at the first that fails.
    ///
    /// # Errors
    /// With the operation and what the kernel said. The maps then hold a prefix of the plan, which is
    /// servable; read them back and plan anew.
    pub fn carry_out(&mut self, operations: &[Operation]) -> Result<()> {
        for operation in operations {
            self.write(operation).with_context(|| format!("map write failed: {operation:?}"))?;
        }
        Ok(())
    }

    fn write(&mut self, operation: &Operation) -> Result<()> {
        match operation {
            Operation::RemoveFrontend { key } => absent_is_fine(self.frontends.remove(key))?,
            Operation::SetRevision { revision } => self.revision.store(0, 0, revision.0)?,
            Operation::WriteBackends { start, backends } => self.backends.write(*start, backends)?,
            Operation::SetTraits { service, traits } => {
                self.services.store(*service, std::mem::offset_of!(Service, traits), traits.0)?;
            }
            Operation::SetSets { service, sets } => {
                self.services.store(*service, std::mem::offset_of!(Service, sets), sets.0)?;
            }
            Operation::PutFrontend { key, frontend } => {
                mark_frontend(&mut self.vip_cells, key)?;
                self.frontends.insert(key, frontend, 0)?;
            }
            Operation::PutSource { range } => self.sources.insert(&source(range), 0, 0)?,
            Operation::RemoveSource { range } => absent_is_fine(self.sources.remove(&source(range)))?,
            Operation::PutNodeAddress { address, is } => {
                if is & node_address::OWN != 0 {
                    self.vip_cells.mark(address)?;
                }
                self.node_addresses.insert(address, is, 0)?;
            }
            Operation::RemoveNodeAddress { address } => absent_is_fine(self.node_addresses.remove(address))?,
        }
        Ok(())
    }
}

fn source(range: &SourceRange) -> Key<Source> {
    let SourceRange { service, address, length } = *range;
    Key::new(Source::bits(&address, length), Source { service, address })
}

/// Marks a frontend's address. NodePorts have none of their own: node addresses are marked.
fn mark_frontend(cells: &mut Cells, key: &FrontendKey) -> Result<()> {
    if key.scope == scope::NODE_PORT { Ok(()) } else { cells.mark(&key.address) }
}

/// A deletion that finds nothing has what it wants.
fn absent_is_fine(result: Result<(), aya::maps::MapError>) -> Result<(), aya::maps::MapError> {
    match result {
        Err(aya::maps::MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}
