//! Whether addresses may concern us. Most packets of a node concern no Service; they must cost next to nothing.

use core::ptr;
use proxy_common::{address::Address, layout};

use super::rewrite::End;
use crate::maps::{BACKEND_CELLS, SERVICE_CIDRS, VIP_CELLS};

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
    let mut place = 0;
    while place < layout::SERVICE_CIDRS {
        let Some(prefix) = SERVICE_CIDRS.get_ptr(place) else { return false };
        // SAFETY: the verifier checked the pointer. Prefixes change while nobody waits: a mixture of two is off
        // for one packet.
        let prefix = unsafe { ptr::read(prefix) };
        if !prefix.is_some() {
            return false;
        }
        if prefix.contains(address) {
            return true;
        }
        place += 1;
    }
    false
}
