//! What is pinned, held open by this process: a pin that somebody removes takes nothing along, and is made anew.
//!
//! The pin is still the owner when this process is gone; that is why it must not be missing.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use proxy_common::layout::program;

use super::{
    devices::Direction,
    kernel,
    pins::{self, Pins},
};

/// Maps and links, by their pins.
#[derive(Debug, Default)]
pub(super) struct Kept {
    maps: BTreeMap<PathBuf, Object>,
    links: BTreeMap<PathBuf, Object>,
}

#[derive(Debug)]
struct Object {
    object: OwnedFd,
    id: u32,
}

impl Object {
    fn of(path: &Path) -> Result<Option<Self>> {
        let Some(object) = kernel::open_pin(path)? else { return Ok(None) };
        let id = kernel::object_id(object.as_fd());
        let id = id.with_context(|| format!("asking about the pin {}", path.display()))?;
        Ok(Some(Self { object, id }))
    }

    /// Sees to it that it is what is pinned there; says whether it was not.
    fn restore(&self, path: &Path) -> Result<bool> {
        match Self::of(path)? {
            Some(there) if there.id == self.id => return Ok(false),
            Some(_) => {
                fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
            None => {}
        }
        kernel::pin(self.object.as_fd(), path)?;
        Ok(true)
    }
}

impl Kept {
    /// Holds these maps.
    pub(super) fn hold_maps(&mut self, pins: &Pins, names: impl Iterator<Item = &'static str>) -> Result<()> {
        for name in names {
            let path = pins.map(name);
            if let Some(map) = Object::of(&path)? {
                self.maps.insert(path, map);
            }
        }
        Ok(())
    }

    /// A map that is held.
    pub(super) fn map(&self, pin: &Path) -> Option<BorrowedFd<'_>> {
        self.maps.get(pin).map(|map| map.object.as_fd())
    }

    /// Holds the links that are pinned now, and no others: somebody has attached or detached programs.
    pub(super) fn hold_links(&mut self, pins: &Pins) -> Result<()> {
        let hooks = program::ALL.into_iter().map(|hook| pins.link(hook));
        let devices = pins.pinned_devices().into_iter();
        let devices = devices.flat_map(|index| Direction::ALL.map(|way| pins.device(index, way)));
        let mut links = BTreeMap::new();
        for path in hooks.chain(devices) {
            if let Some(link) = Object::of(&path)? {
                links.insert(path, link);
            }
        }
        self.links = links;
        Ok(())
    }

    /// Pins again what is not pinned, and says how much that was.
    pub(super) fn restore(&mut self) -> Result<usize> {
        // Of one that somebody has detached there is nothing to keep.
        self.links.retain(|_, link| kernel::is_attached(link.object.as_fd()).unwrap_or(false));
        let mut restored = 0;
        if let Some(folder) = self.maps.keys().next().and_then(|pin| pin.parent()) {
            pins::create_folder(folder)?;
        }
        for (path, object) in self.maps.iter().chain(&self.links) {
            restored += usize::from(object.restore(path)?);
        }
        Ok(restored)
    }
}
