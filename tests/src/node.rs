//! A node: a network namespace, a cgroup and a pin folder.
//!
//! Invariant: what a real node has for kubeshunt to work with is here, and nothing more: forwarding
//! on, a bridge with the pods, an uplink with routes to the other nodes, a default route. No netfilter
//! rule, no masquerading.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::link::Prefix;
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
    next_pod: AtomicU8,
    // Before the cgroup it lies in.
    host: Station,
    cgroup: Cgroup,
    pins: PathBuf,
    bed: Arc<Bed>,
}

const BRIDGE: &str = "cni0";

impl Node {
    pub(crate) fn new(bed: Arc<Bed>, name: &str, index: u8) -> Result<Self> {
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
        netns.links(async |links| {
            links.bridge(BRIDGE).await?;
            for address in pod_addresses(index, 1) {
                links.address(BRIDGE, address).await?;
            }
            Ok(())
        })?;
        let addresses = node_addresses(index)?;
        let uplink = bed.join_lan(&netns, addresses)?;
        netns.links(async |links| default_routes(&links, lan_gateway()).await)?;
        for ((subnet, length), (gateway, _)) in pod_addresses(index, 0).into_iter().zip(addresses) {
            bed.announce(&netns, (subnet, length), gateway)?;
        }
        let cgroup = bed.cgroup().child(name)?;
        let pins = bed.bpffs().join(name);
        fs::create_dir(&pins).with_context(|| format!("cannot make {}", pins.display()))?;
        let host =
            Station::new(Arc::clone(&bed), name, netns, cgroup.child("host")?, addresses, Some(uplink))?;
        let next_pod = AtomicU8::new(2);
        Ok(Self {
            shared: Arc::new(Shared { name: name.to_owned(), index, next_pod, host, cgroup, pins, bed }),
        })
    }

    /// Adds a pod. Dropping it removes it.
    ///
    /// # Errors
    /// When the kernel refuses something, or the subnet is full.
    pub fn pod(&self, name: &str) -> Result<Station> {
        let Shared { index, next_pod, host, cgroup, bed, .. } = &*self.shared;
        let number = next_pod.fetch_add(1, Ordering::Relaxed);
        if number == u8::MAX || number < 2 {
            next_pod.store(u8::MAX, Ordering::Relaxed);
            anyhow::bail!("no address is left for one more pod on node {}", self.name());
        }
        let addresses = pod_addresses(*index, number);
        let netns = NetNs::new()?;
        let port = bed.port_name();
        host.netns().links(async |links| {
            links.veth(&port, "eth0", &netns).await?;
            links.join_bridge(&port, BRIDGE).await
        })?;
        netns.links(async |links| {
            links.up("eth0").await?;
            for address in addresses {
                links.address("eth0", address).await?;
            }
            default_routes(&links, pod_addresses(*index, 1).map(|(address, _)| address)).await
        })?;
        let cgroup = cgroup.child(&format!("pod-{name}"))?;
        let uplink = Uplink { netns: host.netns().clone(), port };
        Station::new(Arc::clone(bed), name, netns, cgroup, addresses, Some(uplink))
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

    pub(crate) fn bed(&self) -> &Arc<Bed> {
        &self.shared.bed
    }
}

async fn default_routes(links: &crate::link::Links, gateways: [IpAddr; 2]) -> Result<()> {
    for gateway in gateways {
        let any: IpAddr = match gateway {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        links.route((any, 0), gateway).await?;
    }
    Ok(())
}

/// The addresses of a pod; number 0 is the subnet itself and 1 the bridge.
fn pod_addresses(node: u8, number: u8) -> [Prefix; 2] {
    [
        (Ipv4Addr::new(10, 244, node, number).into(), 24),
        (Ipv6Addr::new(0xfd00, 0x10, 0x244, node.into(), 0, 0, 0, number.into()).into(), 64),
    ]
}
