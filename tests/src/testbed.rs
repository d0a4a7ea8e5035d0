//! A testbed: a LAN, nodes on it, and the world outside.
//!
//! ```text
//!   outside ──┐
//!             │          ┌── node-a (10.244.1.0/24, fd00:10:244:1::/64) ── cni0 ── pods
//!   lan0 (192.168.0.0/24, fd00:192:168::/64)
//!                        └── node-b (10.244.2.0/24, fd00:10:244:2::/64) ── cni0 ── pods
//! ```
//!
//! Everybody on the LAN routes each pod subnet to its node, as a CNI without tunnels does it; other
//! [`Layout`]s are there for the asking. The gateway of the LAN swallows everything else, as the Internet would swallow private addresses.
//!
//! Invariant: whatever is in the machine outside processes and anonymous namespaces is in the
//! [`Estate`], which a janitor removes however this process ends. Testbeds share nothing, so any
//! number of them may stand side by side, with the same addresses.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::bpffs;
use crate::cgroup::{Cgroup, NAME_PREFIX};
use crate::janitor::{Estate, Janitor};
use crate::layout::{Layout, Member};
use crate::link::Prefix;
use crate::manifests::Folder;
use crate::netns::NetNs;
use crate::node::Node;
use crate::probe;
use crate::station::{Station, Uplink};

/// A LAN with nodes and clients.
#[derive(Debug)]
pub struct Testbed {
    outside: Station,
    bed: Arc<Bed>,
}

/// What nodes and stations share; the last of them to go has the janitor clean up.
#[derive(Debug)]
pub(crate) struct Bed {
    // Before the janitor: namespaces and the LAN go with their descriptors.
    fabric: NetNs,
    lan: Mutex<Lan>,
    overlay: Mutex<Vec<Member>>,
    next_node: AtomicU8,
    next_outsider: AtomicU8,
    next_port: AtomicU32,
    cgroup: Cgroup,
    estate: Estate,
    _janitor: Janitor,
}

/// Who is on the LAN, and which prefixes are behind whom.
#[derive(Debug, Default)]
struct Lan {
    members: Vec<NetNs>,
    routes: Vec<(Prefix, IpAddr)>,
}

/// The last part of the LAN addresses of nodes, plus their number.
const FIRST_NODE: u8 = 10;
/// The last part of the LAN addresses of clients outside, plus their number.
const FIRST_OUTSIDER: u8 = 200;

static BEDS: AtomicU32 = AtomicU32::new(0);

impl Testbed {
    /// A new testbed with one client outside and no node.
    ///
    /// # Errors
    /// When not root, the machine lacks cgroup v2 or bpffs, or the probe program is not built.
    pub fn new() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the testbed makes network namespaces, cgroups and mounts; run as root");
        }
        let name = format!("{NAME_PREFIX}{}-{}", process::id(), BEDS.fetch_add(1, Ordering::Relaxed));
        let folder = PathBuf::from("/run").join(&name);
        let estate = Estate { cgroup: Cgroup::mount_point()?.join(&name), bpffs: folder.join("bpf"), folder };
        if let Some(taken) = [&estate.cgroup, &estate.folder].into_iter().find(|path| path.exists()) {
            bail!("{} is left of another run; remove it", taken.display());
        }
        let janitor = Janitor::start(&probe::program()?, &estate)?;
        fs::create_dir(&estate.folder).with_context(|| format!("cannot make {}", estate.folder.display()))?;
        bpffs::mount_fresh(&estate.bpffs)?;
        let cgroup = Cgroup::create(&estate.cgroup)?;
        let fabric = NetNs::new()?;
        fabric.links(async |links| {
            links.bridge("lan0").await?;
            for address in lan_addresses(1) {
                links.address("lan0", address).await?;
            }
            Ok(())
        })?;
        let bed = Arc::new(Bed {
            fabric,
            lan: Mutex::default(),
            overlay: Mutex::default(),
            next_node: AtomicU8::new(1),
            next_outsider: AtomicU8::new(0),
            next_port: AtomicU32::new(0),
            cgroup,
            estate,
            _janitor: janitor,
        });
        let outside = bed.outsider("outside")?;
        Ok(Self { outside, bed })
    }

    /// Adds a node.
    ///
    /// # Errors
    /// When the kernel refuses something.
    pub fn node(&self, name: &str) -> Result<Node> {
        self.node_with(name, Layout::default())
    }

    /// Adds a node whose pods are connected in that way. Nodes of one testbed should agree.
    ///
    /// # Errors
    /// See [`Testbed::node`].
    pub fn node_with(&self, name: &str, layout: Layout) -> Result<Node> {
        let index = self.bed.next_node.fetch_add(1, Ordering::Relaxed);
        Node::new(Arc::clone(&self.bed), name, index, layout)
    }

    /// The client outside: on the LAN, no node, and in no node's cgroup.
    #[must_use]
    pub fn outside(&self) -> &Station {
        &self.outside
    }

    /// Another client outside, with an address of its own.
    ///
    /// # Errors
    /// When the kernel refuses something.
    pub fn outsider(&self, name: &str) -> Result<Station> {
        self.bed.outsider(name)
    }

    /// Has clients outside reach `prefix`, say of external addresses, through `node`.
    ///
    /// # Errors
    /// When the route exists already, or the families differ.
    pub fn route_outside(&self, prefix: Prefix, node: &Node) -> Result<()> {
        let gateway = node.host().ip(prefix.0);
        self.outside.netns().links(async |links| links.route(prefix, gateway).await)
    }

    /// A new folder for manifests.
    ///
    /// # Errors
    /// When it exists already.
    pub fn manifests(&self, name: &str) -> Result<Folder> {
        Folder::create(self.bed.estate.folder.join(format!("manifests-{name}")))
    }

    /// A folder of files that goes with the testbed.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.bed.estate.folder
    }

    /// What is in the machine.
    #[must_use]
    pub fn estate(&self) -> &Estate {
        &self.bed.estate
    }
}

impl Bed {
    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.estate.folder
    }

    pub(crate) fn bpffs(&self) -> &Path {
        &self.estate.bpffs
    }

    /// The nodes in the overlay.
    pub(crate) fn overlay(&self) -> &Mutex<Vec<Member>> {
        &self.overlay
    }

    /// A name for a link that no other link of this testbed has.
    pub(crate) fn port_name(&self) -> String {
        format!("veth{}", self.next_port.fetch_add(1, Ordering::Relaxed))
    }

    fn outsider(self: &Arc<Self>, name: &str) -> Result<Station> {
        let index = self.next_outsider.fetch_add(1, Ordering::Relaxed);
        let netns = NetNs::new()?;
        let host = FIRST_OUTSIDER.checked_add(index).context("no address is left for one more client")?;
        let addresses = lan_addresses(host);
        let uplink = self.join_lan(&netns, addresses)?;
        let cgroup = self.cgroup.child(name)?;
        Station::new(Arc::clone(self), name, netns, cgroup, addresses, Some(uplink))
    }

    /// Puts a namespace on the LAN with `eth0`, and gives it everybody's routes.
    pub(crate) fn join_lan(&self, netns: &NetNs, addresses: [Prefix; 2]) -> Result<Uplink> {
        let port = self.port_name();
        self.fabric.links(async |links| {
            links.veth(&port, "eth0", netns).await?;
            links.join_bridge(&port, "lan0").await
        })?;
        let mut lan = self.lan.lock().unwrap_or_else(PoisonError::into_inner);
        netns.links(async |links| {
            links.up("eth0").await?;
            for address in addresses {
                links.address("eth0", address).await?;
            }
            for (prefix, gateway) in &lan.routes {
                links.route(*prefix, *gateway).await?;
            }
            Ok(())
        })?;
        lan.members.push(netns.clone());
        Ok(Uplink { netns: self.fabric.clone(), port })
    }

    /// Lets everybody on the LAN but its owner know where a prefix is.
    pub(crate) fn announce(&self, owner: &NetNs, prefix: Prefix, gateway: IpAddr) -> Result<()> {
        let mut lan = self.lan.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = owner.inode()?;
        for member in &lan.members {
            if member.inode()? != owner {
                member.links(async |links| links.route(prefix, gateway).await)?;
            }
        }
        lan.routes.push((prefix, gateway));
        Ok(())
    }
}

/// The LAN addresses of a host.
fn lan_addresses(host: u8) -> [Prefix; 2] {
    [
        (Ipv4Addr::new(192, 168, 0, host).into(), 24),
        (Ipv6Addr::new(0xfd00, 0x192, 0x168, 0, 0, 0, 0, host.into()).into(), 64),
    ]
}

/// The LAN addresses of a node.
pub(crate) fn node_addresses(index: u8) -> Result<[Prefix; 2]> {
    let host = FIRST_NODE.checked_add(index).filter(|host| *host < FIRST_OUTSIDER);
    Ok(lan_addresses(host.context("no address is left for one more node")?))
}

/// The gateway of the LAN, which swallows everything.
pub(crate) fn lan_gateway() -> [IpAddr; 2] {
    lan_addresses(1).map(|(address, _)| address)
}
