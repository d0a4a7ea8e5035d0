//! A datapath on pins and a cgroup of its own, and the same maps by their pins.
//!
//! Invariant: programs are loaded, as always, but never attached: nobody reads the maps but the test.

use std::path::PathBuf;

use anyhow::{Context, Result};
use kubeshunt_tests::pinned::PinnedMap;
use kubeshunt_tests::{Node, Testbed};
use proxy_common::layout::map;
use proxy_userspace::datapath::flows::settings::PacketSettings;
use proxy_userspace::datapath::pins::Pins;
use proxy_userspace::datapath::{Datapath, Settings};
use proxy_userspace::plan::Capacity;

/// Fields are dropped in order: the datapath first, the testbed last.
pub(crate) struct Rig {
    datapath: Option<Datapath>,
    settings: Settings,
    _node: Node,
    _bed: Testbed,
}

impl Rig {
    /// Fresh maps of these sizes.
    pub(crate) fn new(capacity: Capacity) -> Result<Self> {
        Self::with_packets(capacity, PacketSettings::default())
    }

    /// The same, with a packet path that is not as usual.
    pub(crate) fn with_packets(capacity: Capacity, packets: PacketSettings) -> Result<Self> {
        let bed = Testbed::new()?;
        let node = bed.node("node-a")?;
        let settings = Settings {
            cgroup_root: node.cgroup().path().to_owned(),
            bpffs_root: node.pins().to_owned(),
            capacity,
            memory: proxy_userspace::datapath::Memory::default(),
            log_decisions: false,
            tc_attach: None,
            packets,
        };
        let datapath = Some(Datapath::open(&settings)?);
        Ok(Self { datapath, settings, _node: node, _bed: bed })
    }

    pub(crate) fn datapath(&mut self) -> &mut Datapath {
        self.datapath.as_mut().expect("taken only within reopen")
    }

    /// What the next process will be told of sizes.
    pub(crate) fn capacity(&mut self) -> &mut Capacity {
        &mut self.settings.capacity
    }

    /// What the next process will be told of the packet path.
    pub(crate) fn packets(&mut self) -> &mut PacketSettings {
        &mut self.settings.packets
    }

    /// Lets go of everything and opens what is pinned, as the next process does.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        self.datapath = None;
        self.datapath = Some(Datapath::open(&self.settings)?);
        Ok(())
    }

    /// Where everything is pinned.
    pub(crate) fn pins(&self) -> Pins {
        Pins::new(&self.settings.bpffs_root)
    }

    /// Where a map is pinned.
    pub(crate) fn pin(&self, name: &str) -> PathBuf {
        self.pins().map(name)
    }

    /// A map by its pin, through system calls only.
    pub(crate) fn pinned(&self, name: &str) -> Result<PinnedMap> {
        PinnedMap::open(&self.pin(name)).with_context(|| name.to_owned())
    }
}

/// The controller's maps by their pins.
pub(crate) struct Pinned {
    pub(crate) frontends: PinnedMap,
    pub(crate) services: PinnedMap,
    pub(crate) backends: PinnedMap,
    pub(crate) sources: PinnedMap,
    pub(crate) node_addresses: PinnedMap,
}

impl Pinned {
    pub(crate) fn of(rig: &Rig) -> Result<Self> {
        Ok(Self {
            frontends: rig.pinned(map::FRONTENDS)?,
            services: rig.pinned(map::SERVICES)?,
            backends: rig.pinned(map::BACKENDS)?,
            sources: rig.pinned(map::SOURCES)?,
            node_addresses: rig.pinned(map::NODE_ADDRESSES)?,
        })
    }
}
