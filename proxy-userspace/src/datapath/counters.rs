//! The programs' counters, readable while the controller writes.

use anyhow::{Context as _, Result};
use aya::maps::{MapData, PerCpuArray};
use proxy_common::layout::Counter;

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
