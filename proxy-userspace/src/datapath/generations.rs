//! Maps of other shapes than those in use: made beside them, filled from them, and switched to.
//!
//! A shape is a map's kind, the lengths of its keys and values, its number of entries, its flags. Two builds, or two
//! runs with other sizes, that want the same shapes share their maps. Where one wants others, it makes a new
//! *generation*: a folder of pins, in which maps of the same shape are the same maps, and the rest are new. So the
//! new ones
//!
//! 1. get what the controller writes, before it is read back ([`Handover::fill`]): ids stay;
//! 2. get what programs write, when the old programs are about to be replaced ([`Handover::carry`]);
//! 3. and once more when they are ([`Handover::end`]), for what came in between; then the old generation goes.
//!
//! Until its programs are replaced the old generation serves as before, whatever becomes of this process. What was begun
//! and not finished goes with the next start, or is continued by it.
//!
//! So that this works in both directions, a layout may change in one way only: **keys and values get longer at their
//! ends, and zeros there mean what was meant before.** A change that cannot keep to this counts up
//! [`ABI_VERSION`](proxy_common::layout::ABI_VERSION): tables are then written anew, flows and affinities are lost. What
//! sockets remember cannot be copied: of another shape, it is lost as well. Maps never get smaller.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result};
use proxy_common::layout::map;
use tracing::{info, warn};

use super::{
    object,
    pins::{self, Pins},
    raw::{RawMap, Shape},
};

/// What programs write; the rest is written by the controller, but for what is stored with sockets.
const WRITTEN_BY_PROGRAMS: [&str; 12] = [
    map::AFFINITY,
    map::SENDERS,
    map::COUNTERS,
    map::FATES,
    map::FLOWS,
    map::ARRIVALS,
    map::NASCENT,
    map::CLOSING,
    map::TURNS,
    map::BACKEND_CELLS,
    map::FRAGMENTS,
    map::PUT_BY,
];

/// What stands in these refers to each other: they are all made anew, or none is.
const OF_FLOWS: [&str; 5] = [map::FLOWS, map::ARRIVALS, map::NASCENT, map::CLOSING, map::TURNS];

/// Maps and their sizes.
pub(super) type Sizes = Vec<(&'static str, u32)>;

/// Shapes of maps, by name.
type Shapes<N> = BTreeMap<N, Shape>;

/// Which of the maps that are there have to be made anew. One that is not there is made where the others are.
fn renewed(there: &Shapes<String>, wanted: &Shapes<&'static str>) -> BTreeSet<&'static str> {
    let is_other = |name: &&str| there.get(*name).is_some_and(|shape| *shape != wanted[*name]);
    let mut renewed: BTreeSet<_> = wanted.keys().copied().filter(is_other).collect();
    if OF_FLOWS.iter().any(|name| renewed.contains(name)) {
        renewed.extend(OF_FLOWS.into_iter().filter(|name| there.contains_key(*name)));
    }
    renewed
}

/// Where the maps are to be found or made.
pub(super) struct Begun {
    pub(super) pins: Pins,
    /// With what sizes those are to be made that are not there.
    pub(super) sizes: Sizes,
    pub(super) handover: Option<Handover>,
}

/// From one generation to the next.
#[derive(Debug)]
pub(super) struct Handover {
    /// `None` if there are only those of another ABI version.
    from: Option<Pins>,
    to: Pins,
}

/// Looks for a generation of the right shapes, or begins one. Under the lock.
///
/// # Errors
/// When pins cannot be read or made.
pub(super) fn begin(pins: &Pins, mut sizes: Sizes) -> Result<Begun> {
    for folder in pins.unfinished().folders_of_maps() {
        pins::remove_maps(&folder)?;
    }
    let mut numbers = pins.generations();
    let Some(newest) = numbers.pop() else {
        let to = pins.of_generation(1);
        let others = !pins.folders_of_maps().is_empty();
        pins::create_folder(&to.maps())?;
        let handover = others.then(|| Handover { from: None, to: to.clone() });
        return Ok(Begun { pins: to, sizes, handover });
    };
    let mut older = numbers.into_iter().map(|number| pins.of_generation(number));
    let current = pins.of_generation(newest);
    let there = maps(&current)?;
    let shapes: Shapes<String> = there.iter().map(|(name, map)| (name.clone(), map.shape())).collect();
    for (name, size) in &mut sizes {
        *size = shapes.get(*name).map_or(*size, |shape| shape.entries.max(*size));
    }
    let wanted = object::shapes(&sizes)?;
    let changed = renewed(&shapes, &wanted);
    if changed.is_empty() {
        // A process may have died on its way here.
        let handover = older.next_back().map(|from| Handover { from: Some(from), to: current.clone() });
        return Ok(Begun { pins: current, sizes, handover });
    }
    for old in older {
        Handover { from: Some(old), to: current.clone() }.carry()?;
    }
    for name in &changed {
        let (shape, was) = (wanted[name], shapes[*name]);
        info!(
            map = name,
            entries = shape.entries,
            were = was.entries,
            key = shape.key,
            value = shape.value,
            "making a new map"
        );
    }
    let to = pins.of_generation(newest + 1);
    let unfinished = to.unfinished();
    pins::create_folder(&unfinished.maps())?;
    for (name, map) in there.iter().filter(|(name, _)| !changed.contains(name.as_str())) {
        map.pin(&unfinished.map(name))?;
    }
    Ok(Begun { pins: unfinished, sizes, handover: Some(Handover { from: Some(current), to }) })
}

impl Handover {
    /// Fills the maps that the controller writes, once they are made; from then on the generation is there.
    ///
    /// # Errors
    /// When maps cannot be copied or the folder cannot be renamed.
    pub(super) fn fill(&self) -> Result<Pins> {
        let unfinished = self.to.unfinished();
        if unfinished.maps().exists() {
            if let Some(from) = &self.from {
                copy(from, &unfinished, |name| name != map::ORIGINS && !WRITTEN_BY_PROGRAMS.contains(&name))?;
            }
            fs::rename(unfinished.maps(), self.to.maps())
                .with_context(|| format!("cannot rename {}", unfinished.maps().display()))?;
            unfinished.remove_unfinished()?;
        }
        Ok(self.to.clone())
    }

    /// Copies what the programs of the old generation have written.
    ///
    /// # Errors
    /// When maps cannot be read or written.
    pub(super) fn carry(&self) -> Result<()> {
        let Some(from) = &self.from else { return Ok(()) };
        copy(from, &self.to, |name| WRITTEN_BY_PROGRAMS.contains(&name))
    }

    /// The new programs are in place: what the old ones have written last is copied, and their maps go.
    ///
    /// # Errors
    /// When maps cannot be read or written, or pins cannot be removed.
    pub(super) fn end(self) -> Result<()> {
        self.carry()?;
        for folder in self.to.folders_of_maps().into_iter().filter(|folder| *folder != self.to.maps()) {
            pins::remove_maps(&folder)?;
        }
        Ok(())
    }
}

/// Copies maps that are in both generations and are not the same.
fn copy(from: &Pins, to: &Pins, is_to_be: impl Fn(&str) -> bool) -> Result<()> {
    let (old, new) = (maps(from)?, maps(to)?);
    for (name, new) in new.iter().filter(|(name, _)| is_to_be(name)) {
        let Some(old) = old.get(name).filter(|old| old.id() != new.id()) else { continue };
        let copied = old.copy_to(new).with_context(|| format!("cannot copy the map {name}"))?;
        if copied.left_out > 0 {
            warn!(map = name, entries = copied.left_out, "no room for what was in the map before");
        }
    }
    Ok(())
}

/// The maps pinned in a generation, by name.
fn maps(pins: &Pins) -> Result<BTreeMap<String, RawMap>> {
    let folder = pins.maps();
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    entries
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), RawMap::open(&entry.path())?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(entries: u32) -> Shape {
        Shape { kind: 1, key: 4, value: 8, entries, flags: 0 }
    }

    fn wanted(changed: &[&'static str]) -> Shapes<&'static str> {
        let names = [map::FRONTENDS, map::AFFINITY].into_iter().chain(OF_FLOWS);
        names.map(|name| (name, shape(if changed.contains(&name) { 2 } else { 1 }))).collect()
    }

    fn there() -> Shapes<String> {
        wanted(&[]).into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect()
    }

    #[test]
    fn what_has_another_shape_is_made_anew_and_the_maps_of_flows_together() {
        assert_eq!(renewed(&there(), &wanted(&[])), BTreeSet::new());
        assert_eq!(renewed(&there(), &wanted(&[map::AFFINITY])), BTreeSet::from([map::AFFINITY]));
        assert_eq!(renewed(&there(), &wanted(&[map::NASCENT])), BTreeSet::from(OF_FLOWS));
    }

    #[test]
    fn what_is_not_there_takes_nothing_along() {
        let mut there = there();
        there.remove(map::FLOWS);
        assert_eq!(renewed(&there, &wanted(&[map::FLOWS, map::FRONTENDS])), BTreeSet::from([map::FRONTENDS]));
        assert!(!renewed(&there, &wanted(&[map::ARRIVALS])).contains(map::FLOWS));
    }
}
