//! Links, addresses and routes of one namespace, over netlink.
//!
//! Invariant: a [`Links`] speaks to the namespace of the thread that opened it (see
//! [`NetNs::links`](crate::netns::NetNs::links)); devices are named, indexes are looked up.

use std::net::IpAddr;

use anyhow::{Context, Result, anyhow};
use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkMessage};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcOption};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

mod device;
mod neighbour;
mod offload;

use crate::attached::{Filter, Way};
use crate::netns::NetNs;

/// An open netlink connection.
#[derive(Debug)]
pub struct Links {
    handle: Handle,
}

/// An address and the length of its subnet's prefix.
pub type Prefix = (IpAddr, u8);

/// A hardware address.
pub type Mac = [u8; 6];

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

    /// Makes a link of that kind, with its master if it has one; `false` if the kernel lacks the kind.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn add(&self, name: &str, message: LinkMessage) -> Result<bool> {
        match self.handle.link().add(message).execute().await {
            Ok(()) => Ok(true),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EOPNOTSUPP => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot add {name}")),
        }
    }

    /// Changes a link.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn change(&self, name: &str, message: LinkMessage) -> Result<()> {
        self.handle.link().change(message).execute().await.with_context(|| format!("cannot change {name}"))
    }

    /// Gives a device an `ingress` qdisc, as the bandwidth plugin of the CNI project does: no clsact fits beside it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn ingress_qdisc(&self, name: &str) -> Result<()> {
        let index = self.index(name).await?.cast_signed();
        let added = self.handle.qdisc().add(index).ingress().execute().await;
        added.with_context(|| format!("cannot give {name} an ingress qdisc"))
    }

    /// Takes it away.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_ingress_qdisc(&self, name: &str) -> Result<()> {
        let index = self.index(name).await?.cast_signed();
        let mut request = self.handle.qdisc().del(index);
        request.message_mut().header.parent = TcHandle::INGRESS;
        request.message_mut().header.handle = TcHandle::from(0xffff_0000);
        request.execute().await.with_context(|| format!("cannot take the ingress qdisc off {name}"))
    }

    /// The BPF filters of a clsact qdisc, in order.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn filters(&self, name: &str, way: Way) -> Result<Vec<Filter>> {
        let request = self.handle.traffic_filter(self.index(name).await?.cast_signed()).get();
        let mut dump = match way {
            Way::Ingress => request.ingress(),
            Way::Egress => request.egress(),
        }
        .execute();
        let mut filters = Vec::new();
        while let Some(message) = dump.try_next().await.with_context(|| format!("filters of {name}"))? {
            let mut filter = Filter { priority: message.header.info >> 16, name: String::new(), program: 0 };
            for attribute in message.attributes {
                let TcAttribute::Options(options) = attribute else { continue };
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name = name,
                        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = id,
                        _ => {}
                    }
                }
            }
            // Each priority has an entry of its own beside those of its filters.
            if filter.program != 0 {
                filters.push(filter);
            }
        }
        Ok(filters)
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
    pub async fn route(&self, prefix: Prefix, gateway: IpAddr) -> Result<()> {
        let added = self.handle.route().add(via(prefix, gateway)?.build()).execute().await;
        added.with_context(|| format!("cannot route {}/{} via {gateway}", prefix.0, prefix.1))
    }

    /// Routes a prefix through another gateway than before.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn reroute(&self, prefix: Prefix, gateway: IpAddr) -> Result<()> {
        let changed = self.handle.route().add(via(prefix, gateway)?.build()).replace().execute().await;
        changed.with_context(|| format!("cannot route {}/{} via {gateway}", prefix.0, prefix.1))
    }

    /// Routes a prefix to a device: whoever has these addresses is on that very link.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn route_to_device(&self, (prefix, length): Prefix, device: &str) -> Result<()> {
        let mut route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(prefix, length)
            .map_err(|error| anyhow!("{prefix}/{length} on {device}: {error}"))?
            .output_interface(self.index(device).await?);
        if prefix.is_ipv4() {
            route = route.scope(RouteScope::Link);
        }
        let added = self.handle.route().add(route.build()).execute().await;
        added.with_context(|| format!("cannot route {prefix}/{length} to {device}"))
    }

    /// Routes a prefix through a gateway that is on that device, whatever its address.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn route_onlink(&self, prefix: Prefix, gateway: IpAddr, device: &str) -> Result<()> {
        let route = via(prefix, gateway)?.output_interface(self.index(device).await?).onlink();
        let added = self.handle.route().add(route.build()).execute().await;
        added.with_context(|| format!("cannot route {}/{} via {gateway} on {device}", prefix.0, prefix.1))
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

/// A route through a gateway.
fn via((prefix, length): Prefix, gateway: IpAddr) -> Result<RouteMessageBuilder<IpAddr>> {
    RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(prefix, length)
        .and_then(|route| route.gateway(gateway))
        .map_err(|error| anyhow!("{prefix}/{length} via {gateway}: {error}"))
}
