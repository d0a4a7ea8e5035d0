//! The packet path.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};
use core::ptr;

#[unsafe(no_mangle)]
static LINK_HEADER: u32 = 14;
#[unsafe(no_mangle)]
static POD_SIDE: u8 = 0;

/// Translates destinations.
#[classifier]
pub fn packet_ingress(_ctx: TcContext) -> i32 {
    let _ = unsafe { (ptr::read_volatile(&LINK_HEADER), ptr::read_volatile(&POD_SIDE)) };
    TC_ACT_UNSPEC
}

/// Translates sources.
#[classifier]
pub fn packet_egress(_ctx: TcContext) -> i32 {
    let _ = unsafe { (ptr::read_volatile(&LINK_HEADER), ptr::read_volatile(&POD_SIDE)) };
    TC_ACT_UNSPEC
}
