//! This node: its own addresses and its network devices, by netlink; and its pods' cgroups.
//!
//! - [`addresses`]: the node's own addresses;
//! - [`capabilities`]: what the kernel lets this process do;
//! - [`cgroups`]: where pods' processes are;
//! - [`devices`]: through which devices packets of Services pass, and what they are;
//! - [`leftovers`]: what kube-proxy has left here;
//! - [`tracked`]: which connections netfilter translates here.
//!
//! Addresses and devices are followed the same way: a notice of any change is followed by a look at everything.

pub mod addresses;
pub mod capabilities;
pub mod cgroups;
pub mod conntrack;
pub mod devices;
pub mod leftovers;
pub mod tracked;

use std::{future::Future, time::Duration};

use std::path::Path;

use anyhow::{Context as _, Result};
use futures::{Stream, StreamExt as _};
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tracing::warn;

use crate::cluster::model::Family;

/// A change is followed by a look at everything; several in a row by one look.
const SETTLE: Duration = Duration::from_millis(20);

/// How long changes in a row may put a look off: routes may change all the time.
const UNSETTLED: Duration = Duration::from_millis(200);

/// A look without any notice, in case one was lost (netlink drops what a slow reader does not fetch).
const AT_LEAST: Duration = Duration::from_secs(30);

/// The families that this node's kernel speaks.
#[must_use]
pub fn families() -> Vec<Family> {
    // There where IPv6 is, unless it is switched off altogether (`net/ipv6/addrconf.c`).
    if Path::new("/proc/net/if_inet6").exists() { vec![Family::V4, Family::V6] } else { vec![Family::V4] }
}

/// Something that is looked at as a whole.
trait Look: Send + 'static {
    /// What is seen.
    type Seen: PartialEq + Send + Sync + 'static;
    /// What it is called, in the plural.
    const WHAT: &'static str;
    /// Whose changes matter.
    const GROUPS: &'static [MulticastGroup];

    /// Looks.
    fn look(&mut self, handle: &Handle) -> impl Future<Output = Result<Self::Seen>> + Send;
    /// Is called when something else is seen than before.
    fn changed(&self, _seen: &Self::Seen) {}
}

/// Looks now, and again whenever there may be something else to see, in the network namespace that this process
/// is in.
async fn follow<L: Look>(mut look: L) -> Result<watch::Receiver<L::Seen>> {
    let (connection, handle, mut notices) =
        new_multicast_connection(L::GROUPS).context("cannot open a netlink socket")?;
    tokio::spawn(connection);
    let (sender, receiver) = watch::channel(look.look(&handle).await?);
    tokio::spawn(async move {
        loop {
            match timeout(AT_LEAST, notices.next()).await {
                Ok(None) => return,
                Ok(Some(_)) => settle(&mut notices).await,
                Err(_) => {}
            }
            match look.look(&handle).await {
                Ok(now) => {
                    let changed = sender.send_if_modified(|known| {
                        let differs = *known != now;
                        *known = now;
                        differs
                    });
                    if changed {
                        look.changed(&sender.borrow());
                    }
                }
                Err(error) => warn!("{error:#}; this node's {} stay as they were", L::WHAT),
            }
            if sender.is_closed() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Waits until nothing changes any more, within bounds.
async fn settle(notices: &mut (impl Stream + Unpin)) {
    let begin = Instant::now();
    while begin.elapsed() < UNSETTLED
        && let Ok(Some(_)) = timeout(SETTLE, notices.next()).await
    {}
}
