//! This node's own addresses: all but loopback and IPv6 link-local ones. Every pod's veth brings a link-local address
//! that nobody uses for a NodePort.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use proxy_common::address::Address;
use rtnetlink::{
    Handle, MulticastGroup,
    packet_route::address::{AddressAttribute, AddressMessage},
};
use tokio::sync::watch;
use tracing::info;

use super::Look;

/// Follows the addresses of the network namespace that this process is in.
///
/// # Errors
/// When netlink cannot be asked at all.
pub async fn follow() -> Result<watch::Receiver<BTreeSet<Address>>> {
    super::follow(Addresses).await
}

struct Addresses;

impl Look for Addresses {
    type Seen = BTreeSet<Address>;
    const WHAT: &'static str = "addresses";
    const GROUPS: &'static [MulticastGroup] = &[MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

    async fn look(&mut self, handle: &Handle) -> Result<Self::Seen> {
        let mut addresses = BTreeSet::new();
        let mut dump = handle.address().get().execute();
        while let Some(message) = dump.try_next().await.context("cannot list this node's addresses")? {
            let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
            if let Some(ip) = own(&message)
                && !ip.is_loopback()
                && !is_link_local(&ip)
            {
                addresses.insert(Address::from(ip));
            }
        }
        Ok(addresses)
    }

    fn changed(&self, seen: &Self::Seen) {
        info!(addresses = seen.len(), "this node's addresses changed");
    }
}

/// The address that is ours: on point-to-point links the kernel's "address" is the peer's, and "local" is ours.
pub(super) fn own(message: &AddressMessage) -> Option<IpAddr> {
    let mut own = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => own = Some(*ip),
            AddressAttribute::Address(ip) => own = own.or(Some(*ip)),
            _ => {}
        }
    }
    own
}
