//! Who is at which hardware address, for ever: what a CNI writes down so that nobody needs to ask.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use rtnetlink::packet_route::neighbour::NeighbourFlags;

use super::{Links, Mac};

impl Links {
    /// Says which hardware address a neighbour has.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn neighbour(&self, device: &str, address: IpAddr, mac: Mac) -> Result<()> {
        let index = self.index(device).await?;
        let added =
            self.handle.neighbours().add(index, address).link_layer_address(&mac).replace().execute().await;
        added.with_context(|| format!("cannot make {address} a neighbour on {device}"))
    }

    /// Says behind which far end of a VXLAN device a hardware address is.
    ///
    /// # Errors
    /// See [`Links::bridge`].
    pub async fn tunnel_to(&self, device: &str, mac: Mac, far_end: Ipv4Addr) -> Result<()> {
        let index = self.index(device).await?;
        let request = self.handle.neighbours().add_bridge(index, &mac).destination(far_end.into());
        // NTF_SELF: an entry of the device itself, not of a bridge that it would be a port of.
        let added = request.flags(NeighbourFlags::Own).execute().await;
        added.with_context(|| format!("cannot lead {device} to {far_end}"))
    }
}
