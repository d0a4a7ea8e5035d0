//! The loop's share in devices: which there are, and what is attached to them.

use std::{
    collections::BTreeMap,
    future::pending,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use proxy_common::layout;
use tokio::{sync::watch, time::sleep_until};
use tracing::{info, warn};

use super::status::Status;
use crate::{
    datapath::Datapath,
    host::devices::{Devices, Side},
};

/// How often it is looked whether everything is still attached, and what failed is tried again.
const LOOK: Duration = Duration::from_secs(30);

/// Devices as they come and go.
pub(super) struct DeviceWatch {
    /// `None` when no device is to have programs.
    wanted: Option<watch::Receiver<Devices>>,
    /// When to look; `None` until programs are attached for the first time.
    next_look: Option<Instant>,
    /// Failures already told, by device, for as long as they last.
    told: BTreeMap<String, String>,
}

impl DeviceWatch {
    pub(super) fn new(wanted: Option<watch::Receiver<Devices>>) -> Self {
        Self { wanted, next_look: None, told: BTreeMap::new() }
    }

    /// Returns when there may be something to do; not before the first [`Self::bring_in_line`].
    pub(super) async fn due(&mut self) -> Result<()> {
        let Some(next_look) = self.next_look else { return pending().await };
        let timer = sleep_until(next_look.into());
        let Some(wanted) = &mut self.wanted else {
            timer.await;
            return Ok(());
        };
        tokio::select! {
            changed = wanted.changed() => changed.context("the watch on this node's devices ended"),
            () = timer => Ok(()),
        }
    }

    /// Attaches what is to be attached, detaches the rest, and says so. Failures are told and tried again.
    pub(super) async fn bring_in_line(&mut self, datapath: &mut Datapath, status: &Status) {
        let devices = datapath.devices();
        let is_first = self.next_look.is_none();
        let mut lost = 0;
        if self.next_look.is_none_or(|at| at <= Instant::now()) {
            self.next_look = Some(Instant::now() + LOOK);
            match devices.look().await {
                Ok(count) => lost = count,
                Err(error) => warn!("{error:#}; what an earlier process attached to devices may stay"),
            }
        }
        let wanted = self.wanted.as_mut().map(|all| all.borrow_and_update().clone()).unwrap_or_default();
        let changes = devices.bring_in_line(&wanted);
        let [outside, pod] = [Side::Outside, Side::Pod].map(|side| {
            let count = devices.count(side);
            status.metrics.hooks.devices(side.name(), count);
            count
        });
        status.metrics.drift.found("device", lost);
        status.metrics.drift.repaired("device", lost.min(changes.attached.len()));
        if is_first {
            info!(outside, pod, by = devices.hook().name(), "programs for packets attached to devices");
        } else {
            for device in changes.attached {
                let (side, header) = (device.side.name(), device.header);
                info!(device = device.name, side, header, "programs for packets attached");
            }
        }
        for device in changes.detached {
            info!(device, "programs for packets detached");
        }
        let mut told = BTreeMap::new();
        for (device, error) in changes.failed {
            let reason = format!("{error:#}");
            if self.told.get(&device) != Some(&reason) {
                warn!(
                    device,
                    "packets of Services are not seen to here: {reason}; trying again every {LOOK:?}"
                );
            }
            told.insert(device, reason);
        }
        if let Err(error) = datapath.hold_links() {
            warn!("links of devices cannot be held: {error:#}");
        }
        status.metrics.tables.map("devices", datapath.devices().entries(), layout::DEVICES);
        status.metrics.hooks.devices_failing(told.len());
        self.told = told;
    }
}
