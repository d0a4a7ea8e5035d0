//! The programs' counters, readable while the controller writes.

use anyhow::{Context as _, Result};
use aya::maps::{MapData, PerCpuArray};
use proxy_common::layout::{Counter, Fate, Fates};

use super::mapped::MappedArray;

/// One counter per outcome, summed over CPUs when read.
pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    pub(super) fn new(map: PerCpuArray<MapData, u64>) -> Self {
        Self(map)
    }

    /// The total of a counter since the map was created.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn total(&self, counter: Counter) -> Result<u64> {
        let cells = self.0.get(&(counter as u32), 0).context("reading the counters map")?;
        Ok(cells.iter().sum())
    }
}

/// What became of who asked, service by service. In memory: reading takes no system call.
#[derive(Debug)]
pub struct FateCounts(MappedArray<Fates>);

impl FateCounts {
    pub(super) fn new(map: MappedArray<Fates>) -> Self {
        Self(map)
    }

    /// How many have met each fate under that id since the map was created, whoever had the id.
    #[must_use]
    pub fn of(&self, service: u32) -> [u64; Fate::COUNT] {
        std::array::from_fn(|fate| self.0.load(service, fate * size_of::<u64>()).unwrap_or_default())
    }
}
