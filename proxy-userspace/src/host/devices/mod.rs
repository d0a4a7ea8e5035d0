//! Through which network devices packets of Services pass, and what these devices are.
//!
//! - [`facts`]: what the kernel says of links, addresses and routes;
//! - [`class`]: what follows from it, without I/O;
//! - [`choice`]: what the user wants instead.

pub mod choice;
pub mod class;
pub mod facts;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use nix::net::if_::if_indextoname;
use rtnetlink::{Handle, MulticastGroup};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::{Look, SETTLE};
pub use choice::Choice;
pub use class::{Device, Side};
use facts::Facts;

/// Devices by interface index.
pub type Devices = BTreeMap<u32, Device>;

/// Follows the devices of the network namespace that this process is in.
///
/// # Errors
/// When netlink cannot be asked at all, or a device is chosen for both sides.
pub async fn follow(choice: Choice) -> Result<watch::Receiver<Devices>> {
    super::follow(Watch { choice, links: None, told: BTreeSet::new() }).await
}

/// The name of a device, as long as there is one.
#[must_use]
pub fn name_of(index: u32) -> Option<String> {
    let name = if_indextoname(index).ok()?.into_string().ok()?;
    // nix 0.31 takes no device for one without a name.
    (!name.is_empty()).then_some(name)
}

struct Watch {
    choice: Choice,
    /// The links seen last; `None` before the first look.
    links: Option<BTreeSet<u32>>,
    /// What has been told already.
    told: BTreeSet<String>,
}

impl Watch {
    /// Asks for everything, and again if something is missing that is still there: before Linux 6.9 a list of
    /// links skips some when others go while it is made, and a device must not lose its programs for that.
    async fn gather(&self, handle: &Handle) -> Result<Facts> {
        loop {
            let facts = facts::gather(handle).await?;
            let listed: BTreeSet<u32> = facts.links.iter().map(|link| link.index).collect();
            let mut missing = self.links.iter().flatten().filter(|index| !listed.contains(index));
            if missing.all(|index| name_of(*index).is_none()) {
                return Ok(facts);
            }
            sleep(SETTLE).await;
        }
    }
}

impl Look for Watch {
    type Seen = Devices;
    const WHAT: &'static str = "devices";
    const GROUPS: &'static [MulticastGroup] = &[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];

    async fn look(&mut self, handle: &Handle) -> Result<Self::Seen> {
        let facts = self.gather(handle).await?;
        let seen = class::classify(&facts, &self.choice);
        let links = facts.links.iter().map(|link| link.index).collect();
        let is_first = self.links.replace(links).is_none();
        if is_first && let Some(both) = seen.contested.first() {
            bail!("both --devices and --pod-devices name the device {both}; it can only be on one side");
        }
        for name in seen.contested {
            if self.told.insert(name.clone()) {
                warn!(device = name, "left alone: both --devices and --pod-devices name it");
            }
        }
        for (name, kind) in seen.unfit {
            if self.told.insert(name.clone()) {
                info!(device = name, kind, "left alone: what its packets begin with is not known");
            }
        }
        Ok(seen.devices)
    }
}

#[cfg(test)]
mod tests;
