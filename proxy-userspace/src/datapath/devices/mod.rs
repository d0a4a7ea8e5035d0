//! The programs for packets, on the devices that packets of Services pass through.
//!
//! - [`variant`]: the programs, loaded once for each kind of device;
//! - [`tcx`]: attached by pinned links, where the kernel has them (6.6);
//! - [`clsact`]: attached as filters elsewhere.
//!
//! Like all that is attached, this outlives the process: what is found at start is replaced in place. What fails
//! on one device harms no other, and is tried again at the next [`Devices::bring_in_line`].
//!
//! Order matters. A device's entry in the map is there before its programs and goes after them; and what undoes
//! a translation (egress) is attached before what translates (ingress), on all devices, and detached after it.

mod clsact;
mod tcx;
mod variant;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Error, Result, bail};
use aya::{
    maps::{HashMap, MapData},
    programs::TcAttachType,
};
use proxy_common::layout::{self, packet_program};

use super::{Settings, absent_is_fine, kernel, pins::Pins};
use crate::host::devices::{Device, Side, name_of};
pub use clsact::remove_all as remove_filters;
use variant::Variants;
pub use variant::probe;

/// Which way packets go; in the order of attaching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    /// Out by the device.
    Egress,
    /// In by the device.
    Ingress,
}

impl Direction {
    pub(super) const ALL: [Self; 2] = [Self::Egress, Self::Ingress];

    /// As it is called in pins.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Egress => packet_program::EGRESS,
            Self::Ingress => packet_program::INGRESS,
        }
    }

    fn attach_type(self) -> TcAttachType {
        match self {
            Self::Egress => TcAttachType::Egress,
            Self::Ingress => TcAttachType::Ingress,
        }
    }
}

/// How programs are attached to devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// As tcx links (Linux 6.6).
    Tcx,
    /// As filters of a clsact qdisc.
    Clsact,
}

impl Hook {
    /// As it is called in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Tcx => Self::Clsact,
            Self::Clsact => Self::Tcx,
        }
    }
}

/// What is attached to devices.
pub struct Devices {
    pins: Pins,
    hook: Hook,
    variants: Variants,
    entries: HashMap<MapData, u32, layout::Device>,
    /// What is attached, and what is covered, by interface index; `None` where something of ours may be, but not all as
    /// it should be.
    known: BTreeMap<u32, Option<Device>>,
    /// Devices on which there is no room for filters, as they were when it was looked last.
    with_ingress: BTreeSet<u32>,
    /// Where there is something of ours on the other hook, which an earlier process used.
    leftover: BTreeSet<(u32, Direction)>,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Changes {
    /// Devices that have both programs now, and had not before.
    pub attached: Vec<Device>,
    /// Devices that have none any more, by name if it is known.
    pub detached: Vec<String>,
    /// Devices that are not as they should be, and why.
    pub failed: Vec<(String, Error)>,
}

impl Devices {
    pub(super) fn new(
        settings: &Settings,
        pins: Pins,
        entries: HashMap<MapData, u32, layout::Device>,
    ) -> Result<Self> {
        let hook = match settings.tc_attach {
            Some(hook) => hook,
            None if kernel::has_tcx().context("asking whether devices have tcx hooks")? => Hook::Tcx,
            None => Hook::Clsact,
        };
        let variants = Variants::new(settings.clone(), pins.clone())?;
        Ok(Self {
            pins,
            hook,
            variants,
            entries,
            known: BTreeMap::new(),
            with_ingress: BTreeSet::new(),
            leftover: BTreeSet::new(),
        })
    }

    /// How many devices are attached on a side.
    #[must_use]
    pub fn count(&self, side: Side) -> usize {
        self.known.values().flatten().filter(|device| device.side == side && !device.is_covered).count()
    }

    /// How many devices the map speaks of.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.known.len()
    }

    /// How programs are attached.
    #[must_use]
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// Looks for what there is of ours, by this process or an earlier one, and what of it somebody else has
    /// removed; says from how many devices. What could not be loaded will be tried again.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn look(&mut self) -> Result<usize> {
        self.variants.forget_failures();
        let (links, filters) = (tcx::present(&self.pins)?, clsact::present().await?);
        self.with_ingress = filters.with_ingress;
        let filters = filters.attached;
        let (present, leftover) = match self.hook {
            Hook::Tcx => (links, filters),
            Hook::Clsact => (filters, links),
        };
        let mut lost = 0;
        for (index, device) in &mut self.known {
            let due = device.as_ref().is_some_and(|device| !device.is_covered);
            let is_whole = Direction::ALL.iter().all(|way| present.contains(&(*index, *way)) == due);
            let has_more = Direction::ALL.iter().any(|way| leftover.contains(&(*index, *way)));
            let entry = self.entries.get(index, 0).ok();
            let is_in_map = device.as_ref().is_none_or(|device| entry == Some(device.masquerade));
            if !is_whole || has_more || !is_in_map {
                lost += usize::from(due && name_of(*index).is_some());
                *device = None;
            }
        }
        // Pins count even where their links lead nowhere any more: they are to go.
        let pins = self.pins.pinned_devices().into_iter();
        let entries = self.entries.keys().filter_map(Result::ok);
        let attached = present.iter().chain(&leftover).map(|(index, _)| *index);
        for index in pins.chain(entries).chain(attached) {
            self.known.entry(index).or_insert(None);
        }
        self.leftover = leftover;
        Ok(lost)
    }

    /// Attaches to exactly these devices, as far as that is possible.
    pub fn bring_in_line(&mut self, wanted: &BTreeMap<u32, Device>) -> Changes {
        let mut changes = Changes::default();
        let gone: Vec<u32> = self.known.keys().filter(|index| !wanted.contains_key(index)).copied().collect();
        self.detach(&gone, &mut changes);

        let mut due: BTreeMap<u32, &Device> = BTreeMap::new();
        for (index, device) in wanted {
            let is = self.known.get(index).and_then(Option::as_ref);
            if is == Some(device) {
                continue;
            }
            let entry = self.entries.insert(index, device.masquerade, 0);
            match entry.context("cannot write the devices map") {
                Ok(()) => drop(due.insert(*index, device)),
                Err(error) => changes.failed.push((device.name.clone(), error)),
            }
        }
        due.retain(|_, device| !device.is_covered);
        self.attach_all(due, &mut changes);
        self.cover(wanted, &mut changes);
        changes
    }

    /// Attaches the programs of each device, as far as that is possible, and notes it.
    fn attach_all(&mut self, mut due: BTreeMap<u32, &Device>, changes: &mut Changes) {
        self.variants.prepare(due.values().copied());
        for way in Direction::ALL {
            due.retain(|index, device| match self.attach(*index, device, way) {
                Ok(()) => true,
                Err(error) => {
                    self.known.insert(*index, None);
                    // One that is gone by now is no failure: the next list of devices is without it.
                    if name_of(*index).is_some() {
                        changes.failed.push((device.name.clone(), error));
                    }
                    false
                }
            });
        }
        for (index, device) in due {
            let before = self.known.insert(index, Some(device.clone())).flatten();
            if before.is_none_or(|before| programs(&before) != programs(device)) {
                changes.attached.push(device.clone());
            }
        }
    }

    /// Takes the programs off bridges whose ports have them; where ports have not got theirs, the bridge has its own for
    /// as long, which see at least what goes to the world and comes from it.
    fn cover(&mut self, wanted: &BTreeMap<u32, Device>, changes: &mut Changes) {
        let has_programs = |(index, device): (&u32, &Device)| {
            device.side == Side::Outside
                || device.is_covered
                || matches!(self.known.get(index), Some(Some(_)))
        };
        let all_have = wanted.iter().all(has_programs);
        let covered = wanted.iter().filter(|(_, device)| device.is_covered);
        if all_have {
            let is_done = |index: &u32, device: &Device| self.known.get(index) == Some(&Some(device.clone()));
            self.clear(covered.filter(|(index, device)| !is_done(index, device)).collect(), changes);
            return;
        }
        let own: BTreeMap<u32, Device> =
            covered.map(|(index, device)| (*index, Device { is_covered: false, ..device.clone() })).collect();
        self.attach_all(own.iter().map(|(index, device)| (*index, device)).collect(), changes);
    }

    /// Takes programs off devices that keep their entries.
    fn clear(&mut self, covered: BTreeMap<&u32, &Device>, changes: &mut Changes) {
        for (&index, device) in covered {
            let ways = Direction::ALL.into_iter().rev();
            let done = ways.map(|way| self.detach_wherever(index, way)).collect::<Result<Vec<()>>>();
            match done {
                Ok(_) => {
                    let before = self.known.insert(index, Some(device.clone())).flatten();
                    if before.is_some_and(|before| !before.is_covered) {
                        changes.detached.push(device.name.clone());
                    }
                }
                Err(error) => {
                    self.known.insert(index, None);
                    changes.failed.push((device.name.clone(), error));
                }
            }
        }
    }

    fn attach(&mut self, index: u32, device: &Device, way: Direction) -> Result<()> {
        let is = self.known.get(&index).and_then(Option::as_ref);
        // Only its name or its addresses are new: the map has them already.
        if is.is_some_and(|is| programs(is) == programs(device)) {
            return Ok(());
        }
        let program = self.variants.program(device, way)?;
        match self.hook {
            Hook::Tcx => tcx::attach(&self.pins, index, way, program)?,
            Hook::Clsact if self.with_ingress.contains(&index) => bail!(
                "it has an ingress qdisc, beside which there is no room for filters; Linux 6.6 has hooks of its own for \
                 programs"
            ),
            Hook::Clsact => clsact::attach(index, way, program)?,
        }
        // Not before: no packet is to find both hooks empty.
        let is_leftover = self.leftover.remove(&(index, way));
        if is_leftover { self.detach_from(self.hook.other(), index, way) } else { Ok(()) }
    }

    fn detach_from(&self, hook: Hook, index: u32, way: Direction) -> Result<()> {
        match hook {
            Hook::Tcx => tcx::detach(&self.pins, index, way),
            Hook::Clsact => clsact::detach(index, way),
        }
    }

    /// From the hook, and from the other one if there is something of ours.
    fn detach_wherever(&mut self, index: u32, way: Direction) -> Result<()> {
        let done = self.detach_from(self.hook, index, way);
        let is_leftover = self.leftover.remove(&(index, way));
        if is_leftover { done.and(self.detach_from(self.hook.other(), index, way)) } else { done }
    }

    fn detach(&mut self, gone: &[u32], changes: &mut Changes) {
        let name = |known: &Option<Device>, index: u32| {
            known.as_ref().map_or_else(|| format!("interface {index}"), |device| device.name.clone())
        };
        let mut failed: BTreeMap<u32, Error> = BTreeMap::new();
        for way in Direction::ALL.into_iter().rev() {
            for index in gone {
                if let Err(error) = self.detach_wherever(*index, way) {
                    failed.insert(*index, error);
                }
            }
        }
        for index in gone {
            let error = failed.remove(index).or_else(|| {
                let removed = absent_is_fine(self.entries.remove(index));
                removed.context("cannot write the devices map").err()
            });
            let known = self.known.remove(index).flatten();
            match error {
                None => changes.detached.push(name(&known, *index)),
                Some(error) => {
                    changes.failed.push((name(&known, *index), error));
                    self.known.insert(*index, None);
                }
            }
        }
    }
}

/// The devices of this network namespace that have both programs of ours, by interface index.
///
/// # Errors
/// When the kernel does not tell.
pub async fn equipped(pins: &Pins) -> Result<BTreeSet<u32>> {
    let mut attached = tcx::present(pins)?;
    attached.extend(clsact::present().await?.attached);
    let is_whole = |index: &u32| Direction::ALL.iter().all(|way| attached.contains(&(*index, *way)));
    Ok(attached.iter().map(|(index, _)| *index).filter(is_whole).collect())
}

/// Which programs a device has, if any.
fn programs(device: &Device) -> Option<(Side, u32)> {
    (!device.is_covered).then_some((device.side, device.header))
}
