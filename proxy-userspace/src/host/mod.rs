//! This node's own addresses, by netlink: on which addresses NodePorts answer.
//!
//! All local addresses but loopback and IPv6 link-local ones; the former is kube-proxy's rule while
//! nodePortAddresses is empty in iptables mode. Loopback needs no entry: the programs know it, and answer there
//! only in the host's namespace. Every pod's veth brings a link-local address that nobody uses for a NodePort.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _};
use proxy_common::address::Address;
use rtnetlink::{MulticastGroup, new_multicast_connection, packet_route::address::AddressAttribute};
use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

/// A change is followed by a look at everything; several in a row by one look.
const SETTLE: Duration = Duration::from_millis(20);

/// A look without any notice, in case one was lost (netlink drops what a slow reader does not fetch).
const AT_LEAST: Duration = Duration::from_secs(30);

/// Follows the addresses of the network namespace that this process is in.
///
/// # Errors
/// When netlink cannot be asked at all.
pub async fn addresses() -> Result<watch::Receiver<BTreeSet<Address>>> {
    let (connection, handle, mut notices) =
        new_multicast_connection(&[MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr])
            .context("cannot open a netlink socket")?;
    tokio::spawn(connection);
    let (sender, receiver) = watch::channel(list(&handle).await?);
    tokio::spawn(async move {
        loop {
            match timeout(AT_LEAST, notices.next()).await {
                Ok(None) => return,
                Ok(Some(_)) => while let Ok(Some(_)) = timeout(SETTLE, notices.next()).await {},
                Err(_) => {}
            }
            match list(&handle).await {
                Ok(now) => {
                    let changed = sender.send_if_modified(|known| {
                        let differs = *known != now;
                        *known = now;
                        differs
                    });
                    if changed {
                        info!(addresses = sender.borrow().len(), "this node's addresses changed");
                    }
                }
                Err(error) => warn!("{error:#}; this node's addresses stay as they were"),
            }
            if sender.is_closed() {
                return;
            }
        }
    });
    Ok(receiver)
}

async fn list(handle: &rtnetlink::Handle) -> Result<BTreeSet<Address>> {
    let mut addresses = BTreeSet::new();
    let mut dump = handle.address().get().execute();
    while let Some(message) = dump.try_next().await.context("cannot list this node's addresses")? {
        // On point-to-point links the address is the peer's, and the local one is ours.
        let mut own: Option<IpAddr> = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => own = Some(*ip),
                AddressAttribute::Address(ip) => own = own.or(Some(*ip)),
                _ => {}
            }
        }
        let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if let Some(ip) = own
            && !ip.is_loopback()
            && !is_link_local(&ip)
        {
            addresses.insert(Address::from(ip));
        }
    }
    Ok(addresses)
}
