//! A node: a network namespace, a cgroup and a pin folder.
//!
//! Invariant: what a real node has for kubeshunt to work with is here, and nothing more: forwarding
//! on, pods connected as a [`Layout`] says, an uplink with routes to the other nodes, a default route. No
//! netfilter rule and no masquerading, unless a test asks for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::layout::{Layout, cluster_subnets, default_routes, pod_addresses};
use crate::link::Prefix;
use crate::netfilter::rules;
use crate::netns::NetNs;
use crate::station::{Station, Uplink};
use crate::testbed::{Bed, lan_gateway, node_addresses};

/// A node; clones are the same node.
#[derive(Clone, Debug)]
pub struct Node {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    index: u8,
    layout: Layout,
    next_pod: AtomicU8,
    // Before the cgroup it lies in.
    host: Station,
    cgroup: Cgroup,
    pins: PathBuf,
    bed: Arc<Bed>,
}

impl Node {
    pub(crate) fn new(bed: Arc<Bed>, name: &str, index: u8, layout: Layout) -> Result<Self> {
        let netns = NetNs::new()?;
        for (sysctl, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // What the kernel would do by default; stated, because hosts differ and children inherit.
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ] {
            netns.sysctl(sysctl, value)?;
        }
        let addresses = node_addresses(index)?;
        let uplink = bed.join_lan(&netns, addresses)?;
        netns.links(async |links| default_routes(&links, lan_gateway()).await)?;
        layout.prepare(&bed, &netns, index, addresses)?;
        let cgroup = bed.cgroup().child(name)?;
        let pins = bed.bpffs().join(name);
        fs::create_dir(&pins).with_context(|| format!("cannot make {}", pins.display()))?;
        let host =
            Station::new(Arc::clone(&bed), name, netns, cgroup.child("host")?, addresses, Some(uplink))?;
        let next_pod = AtomicU8::new(2);
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                index,
                layout,
                next_pod,
                host,
                cgroup,
                pins,
                bed,
            }),
        })
    }

    /// Adds a pod. Dropping it removes it.
    ///
    /// # Errors
    /// When the kernel refuses something, or the subnet is full.
    pub fn pod(&self, name: &str) -> Result<Station> {
        self.pod_in(name, self.cgroup().child(&format!("pod-{name}"))?)
    }

    /// The same, with a cgroup named as the kubelet names it after this uid.
    ///
    /// # Errors
    /// See [`Node::pod`].
    pub fn pod_with_uid(&self, name: &str, uid: &str) -> Result<Station> {
        self.pod_in(name, self.cgroup().child(&format!("pod{uid}"))?)
    }

    /// Adds a pod whose processes are outside the node's cgroup, so that no socket hook sees them: as the
    /// sockets of a sandbox with a network stack of its own look to the node.
    ///
    /// # Errors
    /// See [`Node::pod`].
    pub fn bypassing_pod(&self, name: &str) -> Result<Station> {
        self.pod_in(name, self.bed().cgroup().child(&format!("bypassing-{}-{name}", self.name()))?)
    }

    fn pod_in(&self, name: &str, cgroup: Cgroup) -> Result<Station> {
        let Shared { index, layout, next_pod, host, bed, .. } = &*self.shared;
        let number = next_pod.fetch_add(1, Ordering::Relaxed);
        if number == u8::MAX || number < 2 {
            next_pod.store(u8::MAX, Ordering::Relaxed);
            anyhow::bail!("no address is left for one more pod on node {}", self.name());
        }
        let netns = NetNs::new()?;
        let port = bed.port_name();
        let addresses = layout.plug(host.netns(), &port, &netns, *index, number)?;
        let uplink = Uplink { netns: host.netns().clone(), port };
        Station::new(Arc::clone(bed), name, netns, cgroup, addresses, Some(uplink))
    }

    /// Gives the node the netfilter rules that CNIs install: masquerading of what leaves the cluster and of
    /// what enters it for pods elsewhere, and forwarding for pods only. Brings conntrack with it.
    ///
    /// # Errors
    /// When the kernel has no nftables, or the node has the rules already.
    pub fn add_cni_rules(&self) -> Result<()> {
        rules::install(self.netns(), cluster_subnets(), self.pod_subnets())
    }

    /// Has the node take IPv4 packets only by the device that leads to their source.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn filter_reverse_path(&self) -> Result<()> {
        self.netns().sysctl("net/ipv4/conf/all/rp_filter", "1")
    }

    /// The node's own namespace, as a place for clients and servers.
    #[must_use]
    pub fn host(&self) -> &Station {
        &self.shared.host
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        self.shared.host.netns()
    }

    /// The cgroup that holds the host's and every pod's processes: `--cgroup-root`.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.shared.cgroup
    }

    /// The folder for pins on the testbed's bpffs: `--bpffs-root`.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.shared.pins
    }

    /// The subnets of its pods.
    #[must_use]
    pub fn pod_subnets(&self) -> [Prefix; 2] {
        pod_addresses(self.shared.index, 0)
    }

    /// How its pods are connected.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.shared.layout
    }

    pub(crate) fn bed(&self) -> &Arc<Bed> {
        &self.shared.bed
    }
}
