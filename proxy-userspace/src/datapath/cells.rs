//! Which addresses may concern the packet path: a byte each, in the controller's memory.
//!
//! A cell is set before what it announces, and never cleared while anything runs: one that is set in vain costs a
//! look-up, one that is missing costs connections.

use anyhow::Result;
use aya::Ebpf;
use proxy_common::{
    address::Address,
    layout::{CELLS_PER_ROW, cell, map},
};

use super::mapped::MappedArray;

/// The filter of VIPs and of the node's own addresses.
pub struct Cells(MappedArray<[u8; CELLS_PER_ROW as usize]>);

impl Cells {
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self(MappedArray::of(ebpf, map::VIP_CELLS)?))
    }

    /// Says that packets to this address must be looked at.
    ///
    /// # Errors
    /// When the map is smaller than it should be.
    pub fn mark(&mut self, address: &Address) -> Result<()> {
        let (row, column) = cell(address);
        self.0.store_byte(row, column as usize, 1)
    }

    /// Whether they are.
    #[must_use]
    pub fn is_marked(&self, address: &Address) -> bool {
        let (row, column) = cell(address);
        self.0.as_slice().get(row as usize).is_some_and(|cells| cells[column as usize] != 0)
    }
}
