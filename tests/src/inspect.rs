//! What the kernel says of BPF programs, maps and links: by pin, and by id.
//!
//! Invariant: looks only, and holds nothing: every descriptor is closed before a function returns, so that
//! looking keeps nothing alive.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::{fs, io, mem};

use anyhow::{Context, Result};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info, bpf_map_info, bpf_prog_info};

/// The bpf() system call.
///
/// # Safety
/// Pointers within `attr` must be valid for what `command` does with them.
pub(crate) unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the size is that of the union, whose unused bytes are zero; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, mem::size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An attribute of zeros.
pub(crate) fn attribute() -> bpf_attr {
    // SAFETY: a union of structures of integers, for which zero is a value.
    unsafe { mem::zeroed() }
}

/// Takes over a descriptor that bpf() has just returned.
pub(crate) fn owned(fd: i64) -> OwnedFd {
    let fd = RawFd::try_from(fd).expect("bpf() returns descriptors as small numbers");
    // SAFETY: just returned as a new descriptor, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A thing of the BPF subsystem, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// A program.
    Program(u32),
    /// A map.
    Map(u32),
    /// A link.
    Link(u32),
}

impl Thing {
    /// Does the kernel still have it? It frees things some time after their last user has gone.
    ///
    /// # Errors
    /// When not root.
    pub fn exists(self) -> Result<bool> {
        let (command, id) = match self {
            Self::Program(id) => (bpf_cmd::BPF_PROG_GET_FD_BY_ID, id),
            Self::Map(id) => (bpf_cmd::BPF_MAP_GET_FD_BY_ID, id),
            Self::Link(id) => (bpf_cmd::BPF_LINK_GET_FD_BY_ID, id),
        };
        let mut attr = attribute();
        attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
        // SAFETY: no pointers are involved.
        match unsafe { bpf(command, &mut attr) } {
            Ok(fd) => {
                drop(owned(fd));
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot look for {self:?}")),
        }
    }
}

/// A pinned link and its program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedLink {
    /// The name of the pin.
    pub name: String,
    /// The link's id.
    pub link: u32,
    /// The program's id.
    pub program: u32,
    /// The cgroup's id, 0 when it is detached.
    pub cgroup: u64,
    /// How many instructions the verifier looked at.
    pub verified: u32,
    /// The maps that the program uses.
    pub maps: Vec<u32>,
}

/// All links pinned in the folder, by name.
///
/// # Errors
/// When there is no such folder, or something else is pinned in it.
pub fn links(folder: &Path) -> Result<Vec<PinnedLink>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut links = Vec::new();
    for entry in entries {
        let path = entry?.path();
        links.push(link(&path).with_context(|| format!("cannot ask about {}", path.display()))?);
    }
    links.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(links)
}

/// The link pinned at that path.
///
/// # Errors
/// When there is none.
pub fn link(path: &Path) -> Result<PinnedLink> {
    // SAFETY: structures of integers, for which zero is a value.
    let (mut link, mut program): (bpf_link_info, bpf_prog_info) = unsafe { mem::zeroed() };
    info(&open_pin(path)?, &mut link)?;
    let program_fd = program_by_id(link.prog_id)?;
    let mut maps = [0_u32; 64];
    program.nr_map_ids = u32::try_from(maps.len())?;
    program.map_ids = maps.as_mut_ptr() as u64;
    info(&program_fd, &mut program)?;
    let count = maps.len().min(program.nr_map_ids as usize);
    // SAFETY: the members of the union are integers.
    let cgroup = unsafe { link.__bindgen_anon_1.cgroup.cgroup_id };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(PinnedLink {
        name,
        link: link.id,
        program: link.prog_id,
        cgroup,
        verified: program.verified_insns,
        maps: maps[..count].to_vec(),
    })
}

/// Everything that is kept alive by what kubeshunt has pinned below a `--bpffs-root`: links, their programs,
/// the maps of those, and the pinned maps.
///
/// # Errors
/// When nothing is pinned there.
pub fn belongings(bpffs_root: &Path) -> Result<BTreeSet<Thing>> {
    let mut things = BTreeSet::new();
    for link in links(&bpffs_root.join("links"))? {
        things.extend([Thing::Link(link.link), Thing::Program(link.program)]);
        things.extend(link.maps.into_iter().map(Thing::Map));
    }
    for link in crate::attached::by_pins(bpffs_root)?.into_values() {
        things.extend([Thing::Link(link.link), Thing::Program(link.program)]);
    }
    for entry in fs::read_dir(maps(bpffs_root)?).context("cannot list the pinned maps")? {
        // SAFETY: a structure of integers, for which zero is a value.
        let mut map: bpf_map_info = unsafe { mem::zeroed() };
        info(&open_pin(&entry?.path())?, &mut map)?;
        things.insert(Thing::Map(map.id));
    }
    Ok(things)
}

/// The folders of pinned maps below a `--bpffs-root`, a generation each, in their order.
///
/// # Errors
/// When there is no such root.
pub fn generations(bpffs_root: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(bpffs_root).with_context(|| format!("cannot list {}", bpffs_root.display()))?;
    let is_of_maps =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("maps-"));
    let mut folders: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(is_of_maps).collect();
    folders.sort();
    Ok(folders)
}

/// The folder of the pinned maps that are in use.
///
/// # Errors
/// When there is none.
pub fn maps(bpffs_root: &Path) -> Result<PathBuf> {
    generations(bpffs_root)?
        .pop()
        .with_context(|| format!("no maps are pinned below {}", bpffs_root.display()))
}

pub(crate) fn open_pin(path: &Path) -> Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes()).context("a pin's path holds a zero byte")?;
    let mut attr = attribute();
    attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
    // SAFETY: the path is a C string that lives until the call returns.
    let fd = unsafe { bpf(bpf_cmd::BPF_OBJ_GET, &mut attr) };
    Ok(owned(fd.with_context(|| format!("cannot open the pin {}", path.display()))?))
}

pub(crate) fn program_by_id(id: u32) -> Result<OwnedFd> {
    let mut attr = attribute();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    // SAFETY: no pointers are involved.
    let fd = unsafe { bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr) };
    Ok(owned(fd.with_context(|| format!("cannot open program {id}"))?))
}

/// Has the kernel fill in what it knows of an object; `T` must be the structure of its kind.
pub(crate) fn info<T>(object: &OwnedFd, into: &mut T) -> Result<()> {
    let mut attr = attribute();
    attr.info.bpf_fd = object.as_raw_fd().cast_unsigned();
    attr.info.info = std::ptr::from_mut(into) as u64;
    attr.info.info_len = u32::try_from(size_of::<T>())?;
    // SAFETY: `into` is valid for writes of `info_len` bytes until the call returns, and the one pointer in
    // it, that of map ids, for as many numbers as stand beside it.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }.context("the kernel tells nothing")?;
    Ok(())
}
