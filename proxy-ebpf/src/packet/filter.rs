//! Whether addresses may concern us. Most packets of a node concern no Service; they must cost next to nothing.

use aya_ebpf::btf_maps::Array;
use core::ptr;
use proxy_common::{
    address::Address,
    layout::{self, Prefix},
};

use super::rewrite::End;
use crate::maps::{BACKEND_CELLS, MMAPABLE, POD_CIDRS, SERVICE_CIDRS, VIP_CELLS};

/// Whether the address may be a VIP, or one of the node's.
#[inline(always)]
pub fn is_vip(address: &Address) -> bool {
    let (row, column) = layout::cell(address);
    let Some(cells) = VIP_CELLS.get_ptr(row) else { return false };
    // SAFETY: the verifier checked the pointer, and that the column lies within the row.
    unsafe { ptr::read_volatile(cells.cast::<u8>().add(column as usize)) != 0 }
}

/// Whether packets from the address, or those to it, may belong to a flow whose source is translated.
#[inline(always)]
pub fn is_backend(address: &Address, end: End) -> bool {
    let (row, column) = layout::cell(address);
    let Some(cells) = BACKEND_CELLS.get_ptr(row + first_row(end)) else { return false };
    // SAFETY: as in `is_vip`.
    unsafe { ptr::read_volatile(cells.cast::<u8>().add(column as usize)) != 0 }
}

/// Notes that they may.
#[inline(always)]
pub fn mark_backend(address: &Address, end: End) {
    let (row, column) = layout::cell(address);
    let Some(cells) = BACKEND_CELLS.get_ptr_mut(row + first_row(end)) else { return };
    // SAFETY: as in `is_vip`; a byte of its own, so nothing else is lost by writing it.
    unsafe {
        let cell = cells.cast::<u8>().add(column as usize);
        if ptr::read_volatile(cell) == 0 {
            ptr::write_volatile(cell, 1);
        }
    }
}

/// Backends as sources come first, then backends as destinations.
#[inline(always)]
const fn first_row(end: End) -> u32 {
    match end {
        End::Source => 0,
        End::Destination => layout::CELLS / layout::CELLS_PER_ROW,
    }
}

/// Whether the address is one that ClusterIPs are taken from.
#[inline(always)]
pub fn is_in_service_cidr(address: &Address) -> bool {
    matches!(within(&SERVICE_CIDRS, address), Within::Yes)
}

/// Whether a packet from the address counts as one of this node's pods, if that is to be told by addresses.
#[inline(never)]
pub fn is_in_pod_cidr(address: &Address) -> Within {
    within(&POD_CIDRS, address)
}

/// Where an address is.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Within {
    /// In none of the ranges.
    No = 0,
    /// In one of them.
    Yes = 1,
    /// There are none.
    NoRanges = 2,
}

type Ranges = Array<Prefix, { layout::RANGES as usize }, MMAPABLE>;

#[inline(always)]
fn within(ranges: &Ranges, address: &Address) -> Within {
    let mut place = 0;
    while place < layout::RANGES {
        let Some(prefix) = ranges.get_ptr(place) else { break };
        // SAFETY: the verifier checked the pointer. Prefixes change while nobody waits: a mixture of two is off
        // for one packet.
        let prefix = unsafe { ptr::read(prefix) };
        if !prefix.is_some() {
            return if place == 0 { Within::NoRanges } else { Within::No };
        }
        if prefix.contains(address) {
            return Within::Yes;
        }
        place += 1;
    }
    Within::No
}
