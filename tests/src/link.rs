//! Links, addresses and routes of one namespace, over netlink.
//!
//! Invariant: a [`Links`] speaks to the namespace of the thread that opened it (see
//! [`NetNs::links`](crate::netns::NetNs::links)); devices are named, indexes are looked up.

use std::net::IpAddr;

use anyhow::{Context, Result, anyhow};
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::netns::NetNs;

/// An open netlink connection.
#[derive(Debug)]
pub struct Links {
    handle: Handle,
}

/// An address and the length of its subnet's prefix.
pub type Prefix = (IpAddr, u8);

impl Links {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// Makes a bridge and brings it up.
    ///
    /// # Errors
    /// When the kernel refuses, as do the other methods.
    pub async fn bridge(&self, name: &str) -> Result<()> {
        let message = LinkBridge::new(name).build();
        self.handle.link().add(message).execute().await.with_context(|| format!("cannot add bridge {name}"))
    }

    /// Makes a veth pair, its far end directly inside `there`. Both ends are still down.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn veth(&self, near: &str, far: &str, there: &NetNs) -> Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name(far).setns_by_fd(there.raw_fd()).build();
        let message = LinkVeth::new(near, far).set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
        self.handle.link().add(message).execute().await.with_context(|| format!("cannot add veth {near}"))
    }

    /// Makes `port` a port of `bridge`, and brings it up.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn join_bridge(&self, port: &str, bridge: &str) -> Result<()> {
        let controller = self.index(bridge).await?;
        let index = self.index(port).await?;
        let message = LinkUnspec::new_with_index(index).controller(controller).up().build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .with_context(|| format!("cannot add {port} to bridge {bridge}"))
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn up(&self, name: &str) -> Result<()> {
        let message = LinkUnspec::new_with_index(self.index(name).await?).up().build();
        self.handle.link().change(message).execute().await.with_context(|| format!("cannot bring {name} up"))
    }

    /// Removes a link; a veth takes its peer along.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn delete(&self, name: &str) -> Result<()> {
        let index = self.index(name).await?;
        self.handle.link().del(index).execute().await.with_context(|| format!("cannot delete {name}"))
    }

    /// Gives a link an address, usable at once.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn address(&self, name: &str, (address, length): Prefix) -> Result<()> {
        let mut request = self.handle.address().add(self.index(name).await?, address, length);
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.with_context(|| format!("cannot add {address}/{length} to {name}"))
    }

    /// Routes a prefix through a gateway.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn route(&self, (prefix, length): Prefix, gateway: IpAddr) -> Result<()> {
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(prefix, length)
            .and_then(|route| route.gateway(gateway))
            .map_err(|error| anyhow!("{prefix}/{length} via {gateway}: {error}"))?
            .build();
        self.handle
            .route()
            .add(message)
            .execute()
            .await
            .with_context(|| format!("cannot route {prefix}/{length} via {gateway}"))
    }

    /// The interface index of a link.
    ///
    /// # Errors
    /// When there is no such link.
    pub async fn index(&self, name: &str) -> Result<u32> {
        // The kernel's own look-up in the namespace of this thread; netlink would answer with far more.
        nix::net::if_::if_nametoindex(name).with_context(|| format!("no link named {name}"))
    }
}
