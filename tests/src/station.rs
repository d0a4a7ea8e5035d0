//! A station: a place where processes run, be it a pod, a node's host or a client outside.
//!
//! Invariant: every process of a station is created in its cgroup and its namespace, so sockets are
//! seen by the hooks of the right node and by no other's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, Command};
use std::sync::Arc;

use anyhow::Result;

use crate::cgroup::{self, Cgroup};
use crate::link::Prefix;
use crate::netns::NetNs;
use crate::probe::Probe;
use crate::process;
use crate::testbed::Bed;

/// A place where processes run, with a probe in it. Dropping it kills them and takes it off the net.
#[derive(Debug)]
pub struct Station {
    name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    probe: Probe,
    netns: NetNs,
    cgroup: Cgroup,
    uplink: Option<Uplink>,
    _bed: Arc<Bed>,
}

/// The far end of a station's link.
#[derive(Debug)]
pub(crate) struct Uplink {
    pub(crate) netns: NetNs,
    pub(crate) port: String,
}

impl Station {
    pub(crate) fn new(
        bed: Arc<Bed>,
        name: &str,
        netns: NetNs,
        cgroup: Cgroup,
        addresses: [Prefix; 2],
        uplink: Option<Uplink>,
    ) -> Result<Self> {
        let [(IpAddr::V4(v4), _), (IpAddr::V6(v6), _)] = addresses else {
            unreachable!("addresses come as IPv4, IPv6");
        };
        let probe = Probe::start(name, &netns, &cgroup)?;
        Ok(Self { name: name.to_owned(), v4, v6, probe, netns, cgroup, uplink, _bed: bed })
    }

    /// Its name, which is also its probe's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// Its address of the same family as `like`.
    #[must_use]
    pub fn ip(&self, like: IpAddr) -> IpAddr {
        match like {
            IpAddr::V4(_) => self.v4.into(),
            IpAddr::V6(_) => self.v6.into(),
        }
    }

    /// A port at its IPv4 address.
    #[must_use]
    pub fn at4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4.into(), port)
    }

    /// A port at its IPv6 address.
    #[must_use]
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6.into(), port)
    }

    /// Its probe: client and servers.
    #[must_use]
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// One more probe in the same place, with a name of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn another_probe(&self, name: &str) -> Result<Probe> {
        Probe::start(name, &self.netns, &self.cgroup)
    }

    /// Starts any program here.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: Command) -> Result<Child> {
        process::spawn_in(&self.netns, &self.cgroup, command)
    }

    /// Gives it one more address, reachable only from where it is routed to.
    ///
    /// # Errors
    /// When it has that address already.
    pub fn add_address(&self, prefix: Prefix) -> Result<()> {
        self.netns.links(async |links| links.address("eth0", prefix).await)
    }

    /// Has its device compute checksums and cut segments, or has the stack do so before. Off, what it sends is
    /// on the wire as it would be on a real one.
    ///
    /// # Errors
    /// When the device cannot do without.
    pub fn offload(&self, on: bool) -> Result<()> {
        self.netns.links(async |links| links.offload("eth0", on))
    }

    /// Sets the MTU of its link, at both ends.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        if let Some(Uplink { netns, port }) = &self.uplink {
            netns.links(async |links| links.set_mtu(port, mtu).await)?;
        }
        self.netns.links(async |links| links.set_mtu("eth0", mtu).await)
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The name of the far end of its link: for a pod, the veth on the node's bridge.
    #[must_use]
    pub fn port(&self) -> Option<&str> {
        self.uplink.as_ref().map(|uplink| uplink.port.as_str())
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.probe.kill();
        if let Err(error) = cgroup::remove_tree(self.cgroup.path()) {
            eprintln!("{error:#}");
        }
        // The namespace goes with its last descriptor, but not at once; the link does.
        if let Some(Uplink { netns, port }) = self.uplink.take()
            && let Err(error) = netns.links(async |links| links.delete(&port).await)
        {
            eprintln!("{error:#}");
        }
    }
}
