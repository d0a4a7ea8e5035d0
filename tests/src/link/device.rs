//! What a device is beyond its name: its hardware address, its MTU, and a tunnel's far ends.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use rtnetlink::{LinkBridgePort, LinkUnspec, LinkVxlan};

use super::{Links, Mac};

impl Links {
    /// Makes a VXLAN device that learns nothing, and brings it up.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn vxlan(&self, name: &str, vni: u32, local: Ipv4Addr, below: &str) -> Result<()> {
        let message = LinkVxlan::new(name, vni)
            .local(local)
            .dev(self.index(below).await?)
            // What Linux itself would take if it were not for compatibility, and flannel takes.
            .port(8472)
            .learning(false)
            .up()
            .build();
        self.handle.link().add(message).execute().await.with_context(|| format!("cannot add vxlan {name}"))
    }

    /// Sets the hardware address of a link.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn set_mac(&self, name: &str, mac: Mac) -> Result<()> {
        let message = LinkUnspec::new_with_index(self.index(name).await?).address(mac.to_vec()).build();
        let changed = self.handle.link().change(message).execute().await;
        changed.with_context(|| format!("cannot give {name} a hardware address"))
    }

    /// The hardware address of a link.
    ///
    /// # Errors
    /// When there is no such link, or it has none.
    pub fn mac(&self, name: &str) -> Result<Mac> {
        let mut addresses = getifaddrs().context("cannot list the links")?;
        let found = addresses.find_map(|entry| {
            (entry.interface_name == name).then(|| entry.address?.as_link_addr()?.addr()).flatten()
        });
        found.with_context(|| format!("{name} has no hardware address"))
    }

    /// Lets a bridge send a frame back to the port it came by.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn hairpin(&self, port: &str) -> Result<()> {
        let message = LinkBridgePort::new(self.index(port).await?).hairpin(true).build();
        let changed = self.handle.link().change(message).execute().await;
        changed.with_context(|| format!("cannot let {port} be a hairpin"))
    }

    /// Sets the MTU of a link.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(self.index(name).await?).mtu(mtu).build();
        let changed = self.handle.link().change(message).execute().await;
        changed.with_context(|| format!("cannot set the MTU of {name} to {mtu}"))
    }
}
