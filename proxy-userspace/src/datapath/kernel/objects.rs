//! BPF objects by their descriptors: which one it is, and pinning it; and a map's keys, one after the other.

use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::Pod;
use aya_obj::generated::bpf_cmd;

use super::{attribute, bpf};

/// The id of a map or link: no other one of its kind has it as long as this one is there
/// (`BPF_OBJ_GET_INFO_BY_FD`; links since 5.8).
///
/// # Errors
/// What the kernel says.
pub fn object_id(object: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(first_words(object)?[1])
}

/// How many entries a map has room for.
///
/// # Errors
/// What the kernel says.
pub fn map_room(map: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(first_words(map)?[4])
}

/// `struct bpf_map_info` and `struct bpf_link_info` begin with the type and the id; a map's sizes of keys and values, and
/// how many of them fit, follow. The kernel writes no more than there is room for.
fn first_words(object: BorrowedFd<'_>) -> io::Result<[u32; 5]> {
    let mut info = [0u32; 5];
    let mut attr = attribute();
    attr.info.bpf_fd = object.as_raw_fd().cast_unsigned();
    attr.info.info = (&raw mut info) as u64;
    attr.info.info_len = u32::try_from(mem::size_of_val(&info)).map_err(io::Error::other)?;
    // SAFETY: `info` is valid for writes of `info_len` bytes until the call returns.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// Pins a map or link (`BPF_OBJ_PIN`). Nothing may be there.
///
/// # Errors
/// What the kernel says.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let name = CString::new(path.as_os_str().as_bytes()).context("a pin's path holds a zero byte")?;
    let mut attr = attribute();
    attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = object.as_raw_fd().cast_unsigned();
    // SAFETY: the path is a C string that lives until the call returns.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr) }
        .with_context(|| format!("cannot pin {}", path.display()))?;
    Ok(())
}

/// The key behind `key`, or the first one; `None` behind the last. From a key that is gone it begins anew
/// (`BPF_MAP_GET_NEXT_KEY`).
///
/// # Errors
/// When keys have another size; what the kernel says.
pub fn next_key<K: Pod>(map: BorrowedFd<'_>, key: Option<&K>) -> Result<Option<K>> {
    let [_, _, size, ..] = first_words(map).context("asking about a map")?;
    anyhow::ensure!(size as usize == size_of::<K>(), "keys of {size} bytes");
    let mut next = mem::MaybeUninit::<K>::uninit();
    let mut attr = attribute();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    attr.__bindgen_anon_2.key = key.map_or(0, |key| std::ptr::from_ref(key) as u64);
    attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    // SAFETY: both keys have the size just compared, and live until the call returns; no key asks for the first.
    match unsafe { bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) } {
        // SAFETY: the kernel has written all of it, and any bytes are a value of this type (Pod).
        Ok(_) => Ok(Some(unsafe { next.assume_init() })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("walking over a map"),
    }
}
