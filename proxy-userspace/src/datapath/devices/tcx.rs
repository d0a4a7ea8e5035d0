//! Programs attached by tcx links, which are pinned.
//!
//! Ours comes first on the way in and last on the way out, so that everybody else's programs see endpoints and not
//! Services' addresses, as they do with kube-proxy.

use std::{collections::BTreeSet, fs, os::fd::AsFd as _};

use anyhow::{Context as _, Result, bail};
use aya::programs::{LinkOrder, SchedClassifier, links::FdLink, tc::TcAttachOptions};

use super::{
    super::{
        kernel,
        pins::{self, Pins},
    },
    Direction,
};
use crate::host::devices::name_of;

/// Where a program of ours is attached.
pub(super) fn present(pins: &Pins) -> Result<BTreeSet<(u32, Direction)>> {
    let mut present = BTreeSet::new();
    for index in pins.pinned_devices() {
        for way in Direction::ALL {
            if let Some(link) = kernel::open_pin(&pins.device(index, way))?
                && kernel::tcx_link(link.as_fd())? == index
            {
                present.insert((index, way));
            }
        }
    }
    Ok(present)
}

/// Replaces the program of the pinned link, or attaches it.
pub(super) fn attach(pins: &Pins, index: u32, way: Direction, program: &mut SchedClassifier) -> Result<()> {
    let path = pins.device(index, way);
    if let Some(link) = kernel::open_pin(&path)? {
        let device = kernel::tcx_link(link.as_fd());
        if device.with_context(|| format!("asking about {}", path.display()))? == index {
            return kernel::update_link(link.as_fd(), program.fd()?.as_fd())
                .with_context(|| format!("cannot replace the program of {}", path.display()));
        }
        // The link of a device that is gone: another one has its index now.
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    let name = name_of(index).context("the device is gone")?;
    let order = match way {
        Direction::Ingress => LinkOrder::first(),
        Direction::Egress => LinkOrder::last(),
    };
    let link = program
        .attach_with_options(&name, way.attach_type(), TcAttachOptions::TcxOrder(order))
        .with_context(|| format!("cannot attach {} by tcx", way.program()))?;
    let link = FdLink::try_from(program.take_link(link)?).context("tcx makes links")?;
    link.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
    // aya attaches by name, which may have been given to another device in this moment.
    if !is_attached(pins, index, way)? {
        pins::unpin(&path)?;
        bail!("the device was renamed or removed meanwhile");
    }
    Ok(())
}

fn is_attached(pins: &Pins, index: u32, way: Direction) -> Result<bool> {
    let link = kernel::open_pin(&pins.device(index, way))?;
    Ok(link.map(|link| kernel::tcx_link(link.as_fd())).transpose()? == Some(index))
}

/// Detaches the program, if it is attached.
pub(super) fn detach(pins: &Pins, index: u32, way: Direction) -> Result<()> {
    let path = pins.device(index, way);
    if path.exists() { pins::unpin(&path) } else { Ok(()) }
}
