//! Tells who reads it what sockets remember: those of all network namespaces, one after the other.

use aya_ebpf::{bindings::seq_file, cty::c_void, helpers::generated::bpf_seq_write};
use core::ptr;
use proxy_common::layout::Origin;

/// `struct bpf_iter_meta`, as far as it is used (`include/linux/bpf.h`).
#[repr(C)]
pub struct Meta {
    seq: *mut seq_file,
}

/// `struct bpf_iter__bpf_sk_storage_map` (`net/core/bpf_sk_storage.c`, 5.9).
#[repr(C)]
pub struct Step {
    meta: *mut Meta,
    map: *mut c_void,
    socket: *mut c_void,
    value: *mut Origin,
}

/// Writes an origin as it is; whoever reads it looks at its seal.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn origins(step: *const Step) -> i32 {
    // SAFETY: the kernel hands a valid context to every run.
    let (meta, value) = unsafe { ((*step).meta, (*step).value) };
    if value.is_null() {
        // After the last one.
        return 0;
    }
    // SAFETY: not NULL, and the map's values are of this type. The socket's owner may write meanwhile: the seal tells.
    let origin = unsafe { ptr::read_volatile(value) };
    // SAFETY: `meta` and its first field are valid in every run. What does not fit is written again in the next run.
    unsafe { bpf_seq_write((*meta).seq, (&raw const origin).cast(), size_of::<Origin>() as u32) };
    0
}
