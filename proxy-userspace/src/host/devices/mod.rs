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
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tracing::{info, warn};

use super::Look;
pub use choice::Choice;
pub use class::{Device, Side};

/// Devices by interface index.
pub type Devices = BTreeMap<u32, Device>;

/// Follows the devices of the network namespace that this process is in.
///
/// # Errors
/// When netlink cannot be asked at all, or a device is chosen for both sides.
pub async fn follow(choice: Choice) -> Result<watch::Receiver<Devices>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let pump = tokio::spawn(connection);
    let seen = class::classify(&facts::gather(&handle).await?, &choice);
    pump.abort();
    if let Some(both) = seen.contested.first() {
        bail!("both --devices and --pod-devices name the device {both}; it can only be on one side");
    }
    super::follow(Watch { choice, told: BTreeSet::new() }).await
}

struct Watch {
    choice: Choice,
    /// What has been told already.
    told: BTreeSet<String>,
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
        let seen = class::classify(&facts::gather(handle).await?, &self.choice);
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
