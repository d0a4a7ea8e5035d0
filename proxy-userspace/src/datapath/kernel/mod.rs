//! The few system calls that aya 0.14 lacks: link update, what a link is attached to, whether there is tcx, an RCU
//! grace period, the cookie of a network namespace, reading a hash many entries at a time, and having a program walk
//! over a map.

mod objects;

use std::{
    ffi::CString,
    fs::File,
    io, mem,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, MapData, MapType},
};
use aya_obj::generated::{
    BPF_F_QUERY_EFFECTIVE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type, bpf_map_type,
};

pub use objects::{map_room, next_key, object_id, pin};

/// `BPF_NOEXIST` of `include/uapi/linux/bpf.h`: what is there already stays.
pub(super) const NOT_OVER_ANOTHER: u64 = 1;

/// The bpf() system call.
///
/// # Safety
/// Pointers within `attr` must be valid for what `command` does with them.
pub(super) unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the size is that of the union, whose unused bytes are zero; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, mem::size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// An all-zero attribute.
pub(super) fn attribute() -> bpf_attr {
    // SAFETY: a union of structures of integers, for which zero is a value; the kernel asks for zero padding.
    unsafe { mem::zeroed() }
}

/// Takes over a file descriptor that the kernel has just returned.
fn owned(fd: i64) -> Result<OwnedFd> {
    let fd = RawFd::try_from(fd).context("the kernel returned no file descriptor")?;
    // SAFETY: just returned by bpf() as a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens what is pinned at `path`; `None` if there is nothing.
///
/// # Errors
/// What the kernel says.
pub fn open_pin(path: &Path) -> Result<Option<OwnedFd>> {
    let name = CString::new(path.as_os_str().as_bytes()).context("a pin's path holds a zero byte")?;
    let mut attr = attribute();
    attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
    // SAFETY: the path is a C string that lives until the call returns.
    match unsafe { bpf(bpf_cmd::BPF_OBJ_GET, &mut attr) } {
        Ok(fd) => owned(fd).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot open the pin {}", path.display())),
    }
}

/// Where in a hash a walk over its entries stands: a bucket's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(Option<u32>);

/// Reads entries of a hash from `cursor` on, and moves it; `false` with the last ones (`BPF_MAP_LOOKUP_BATCH`, 5.6).
///
/// A walk from key to key begins again whenever the key it has come to is deleted meanwhile. This one goes from bucket
/// to bucket: it meets each entry that is there all the time exactly once, and ends, whatever others do.
///
/// # Errors
/// EBUSY when somebody writes to the bucket right now (before 6.15); ENOSPC when a bucket has more than `most` entries;
/// what else the kernel says. The cursor then stays.
pub fn read_hash<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    cursor: &mut Cursor,
    most: usize,
) -> io::Result<(Vec<(K, V)>, bool)> {
    let (mut keys, mut values) = (Vec::<K>::with_capacity(most), Vec::<V>::with_capacity(most));
    let mut next = 0u32;
    let mut attr = attribute();
    attr.batch.in_batch = cursor.0.as_ref().map_or(0, |bucket| std::ptr::from_ref(bucket) as u64);
    attr.batch.out_batch = (&raw mut next) as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = u32::try_from(most).map_err(io::Error::other)?;
    attr.batch.map_fd = map.map().fd().as_fd().as_raw_fd().cast_unsigned();
    // SAFETY: the cursors are 4 bytes, as hashes have them; keys and values have room for `count` each, of the map's
    // sizes, which aya has compared with those of the types; all live until the call returns.
    let more = match unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) } {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    // SAFETY: the kernel has replaced the count by that of the entries it wrote, which is not more; any bytes are
    // values of these types (Pod).
    unsafe {
        let count = attr.batch.count as usize;
        keys.set_len(count);
        values.set_len(count);
    }
    cursor.0 = more.then_some(next);
    Ok((keys.into_iter().zip(values).collect(), more))
}

/// Lets the program behind a link be replaced in one step, without a moment in which none is attached
/// (`BPF_LINK_UPDATE`, 5.7).
///
/// # Errors
/// ENOLINK when the cgroup is gone; what else the kernel says.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = attribute();
    attr.link_update.link_fd = link.as_raw_fd().cast_unsigned();
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd().cast_unsigned();
    // SAFETY: no pointers are involved.
    unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches a link's program at once, whoever still holds the link (`BPF_LINK_DETACH`, 5.9).
///
/// # Errors
/// EOPNOTSUPP or EINVAL when the kernel cannot; what else it says.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = attribute();
    attr.link_detach.link_fd = link.as_raw_fd().cast_unsigned();
    // SAFETY: no pointers are involved.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// What a cgroup link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupLink {
    /// The cgroup's id: the inode number of its folder. 0 when the cgroup is gone.
    pub cgroup: u64,
    /// The hook.
    pub attach_type: u32,
    /// The program's id.
    pub program: u32,
}

/// Asks the kernel what a link is attached to (`BPF_OBJ_GET_INFO_BY_FD`, 5.8).
///
/// # Errors
/// What the kernel says.
pub fn cgroup_link(link: BorrowedFd<'_>) -> io::Result<CgroupLink> {
    let info = link_info(link)?;
    // SAFETY: the union's other members are integers too; a link that is none of a cgroup's has other numbers
    // there, which then differ from what is expected.
    let (cgroup, attach_type) =
        unsafe { (info.__bindgen_anon_1.cgroup.cgroup_id, info.__bindgen_anon_1.cgroup.attach_type) };
    Ok(CgroupLink { cgroup, attach_type, program: info.prog_id })
}

/// The index of the device that a tcx link is attached to: 0 when the device is gone, or it is no tcx link.
///
/// # Errors
/// What the kernel says.
pub(super) fn tcx_link(link: BorrowedFd<'_>) -> io::Result<u32> {
    let info = link_info(link)?;
    if info.type_ != bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
        return Ok(0);
    }
    // SAFETY: a tcx link has this member of the union, and all are integers.
    Ok(unsafe { info.__bindgen_anon_1.tcx.ifindex })
}

/// Whether a link of a cgroup or a device still leads to one.
///
/// # Errors
/// What the kernel says.
pub(super) fn is_attached(link: BorrowedFd<'_>) -> io::Result<bool> {
    let info = link_info(link)?;
    // SAFETY: each kind of link has its own member of the union, all of integers.
    Ok(unsafe {
        match info.type_ {
            kind if kind == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 => {
                info.__bindgen_anon_1.cgroup.cgroup_id != 0
            }
            kind if kind == bpf_link_type::BPF_LINK_TYPE_TCX as u32 => info.__bindgen_anon_1.tcx.ifindex != 0,
            _ => false,
        }
    })
}

fn link_info(link: BorrowedFd<'_>) -> io::Result<bpf_link_info> {
    // SAFETY: plain integers and unions of such, for which zero is a value.
    let mut info: bpf_link_info = unsafe { mem::zeroed() };
    let mut attr = attribute();
    attr.info.bpf_fd = link.as_raw_fd().cast_unsigned();
    attr.info.info = (&raw mut info) as u64;
    attr.info.info_len = u32::try_from(mem::size_of_val(&info)).map_err(io::Error::other)?;
    // SAFETY: `info` is valid for writes of `info_len` bytes until the call returns.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// Whether devices have tcx hooks (6.6): found out by asking for the programs on that of `lo`, which is always
/// there, under this index.
///
/// # Errors
/// When the kernel does not tell.
pub fn has_tcx() -> io::Result<bool> {
    const LO: u32 = 1;
    let mut attr = attribute();
    attr.query.__bindgen_anon_1.target_ifindex = LO;
    attr.query.attach_type = bpf_attach_type::BPF_TCX_INGRESS as u32;
    // SAFETY: no pointers are involved: without room for ids only their number is told.
    match unsafe { bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            // The hook is there, and nothing on it.
            Some(libc::ENOENT) => Ok(true),
            Some(libc::EINVAL) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Makes a program the one that walks over a map (`BPF_LINK_CREATE` with `iter_info`, 5.9). The link lasts as long as
/// the descriptor.
///
/// # Errors
/// What the kernel says.
pub fn walk_over(map: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<OwnedFd> {
    // `union bpf_iter_link_info`, as long as it was in the beginning.
    let info = map.as_raw_fd().cast_unsigned();
    let mut attr = attribute();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
    attr.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info = (&raw const info) as u64;
    attr.link_create.__bindgen_anon_3.__bindgen_anon_1.iter_info_len = 4;
    // SAFETY: `info` is as long as is said, and lives until the call returns.
    owned(unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr) }.context("attaching to a map")?)
}

/// Begins a walk: what its program writes can be read (`BPF_ITER_CREATE`, 5.8).
///
/// # Errors
/// What the kernel says.
pub fn walk(link: BorrowedFd<'_>) -> Result<File> {
    let mut attr = attribute();
    attr.iter_create.link_fd = link.as_raw_fd().cast_unsigned();
    // SAFETY: no pointers are involved.
    Ok(owned(unsafe { bpf(bpf_cmd::BPF_ITER_CREATE, &mut attr) }?)?.into())
}

/// Returns when every BPF program that was running when it was called has ended.
///
/// A change to a map of maps waits for that before it returns to userspace (`maybe_wait_bpf_programs` in
/// `kernel/bpf/syscall.c`), so a throw-away one is a grace period to be had for the asking: some milliseconds.
/// membarrier(2) would do nothing on a machine with one CPU.
///
/// # Errors
/// What the kernel says.
pub fn grace_period() -> Result<()> {
    let create = |kind: bpf_map_type, inner: Option<BorrowedFd<'_>>| -> Result<OwnedFd> {
        let mut attr = attribute();
        attr.__bindgen_anon_1.map_type = kind as u32;
        attr.__bindgen_anon_1.key_size = 4;
        attr.__bindgen_anon_1.value_size = 4;
        attr.__bindgen_anon_1.max_entries = 1;
        attr.__bindgen_anon_1.inner_map_fd = inner.map_or(0, |fd| fd.as_raw_fd().cast_unsigned());
        // SAFETY: no pointers are involved.
        owned(unsafe { bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr) }?)
    };
    let inner = create(bpf_map_type::BPF_MAP_TYPE_ARRAY, None).context("creating an array map")?;
    let outer = create(bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS, Some(inner.as_fd()))
        .context("creating a map of maps")?;
    let (key, value) = (0u32, inner.as_raw_fd().cast_unsigned());
    let mut attr = attribute();
    attr.__bindgen_anon_2.map_fd = outer.as_raw_fd().cast_unsigned();
    attr.__bindgen_anon_2.key = (&raw const key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = (&raw const value) as u64;
    // SAFETY: key and value are 4 bytes each, as the map was created, and live until the call returns.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.context("updating a map of maps")?;
    Ok(())
}

/// What a map of socket storage holds for a socket of this process (`BPF_MAP_LOOKUP_ELEM` on `BPF_MAP_TYPE_SK_STORAGE`,
/// 5.2); `None` if that is nothing.
///
/// # Errors
/// When it is another kind of map, or its values are of another size; what the kernel says.
pub fn stored<V: Pod>(map: &MapData, socket: BorrowedFd<'_>) -> Result<Option<V>> {
    let info = map.info().context("asking about a map")?;
    if info.value_size() as usize != size_of::<V>() || !matches!(info.map_type(), Ok(MapType::SkStorage)) {
        bail!("no storage of such values");
    }
    let key = socket.as_raw_fd();
    let mut value = mem::MaybeUninit::<V>::uninit();
    let mut attr = attribute();
    attr.__bindgen_anon_2.map_fd = map.fd().as_fd().as_raw_fd().cast_unsigned();
    attr.__bindgen_anon_2.key = (&raw const key) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    // SAFETY: the key is a file descriptor, as such maps have it; the value has the size just compared; both live until
    // the call returns.
    match unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) } {
        // SAFETY: the kernel has written all of it, and any bytes are a value of this type (Pod).
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("reading what is stored for a socket"),
    }
}

/// The cookie of the network namespace this thread is in (`SO_NETNS_COOKIE`, 5.14); `None` on older kernels.
///
/// # Errors
/// When no socket can be had.
pub fn netns_cookie() -> Result<Option<u64>> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .context("opening a UDP socket")?;
    let mut cookie = 0u64;
    let mut len = libc::socklen_t::try_from(mem::size_of_val(&cookie))?;
    // SAFETY: `cookie` is valid for writes of `len` bytes until the call returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        return Ok(Some(cookie));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => Ok(None),
        _ => Err(error).context("asking for the network namespace's cookie"),
    }
}

/// Which programs of a cgroup's hook are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those attached to the cgroup itself.
    Attached,
    /// Those that run for its processes, its ancestors' among them.
    Effective,
}

/// Ids of the programs on a hook of `cgroup` (`BPF_PROG_QUERY`, 4.15; takes CAP_NET_ADMIN).
///
/// # Errors
/// What the kernel says.
pub fn programs_on(cgroup: BorrowedFd<'_>, attach_type: u32, which: Which) -> io::Result<Vec<u32>> {
    // `BPF_CGROUP_MAX_PROGS` is 64.
    let mut ids = [0u32; 64];
    let mut attr = attribute();
    attr.query.__bindgen_anon_1.target_fd = cgroup.as_raw_fd().cast_unsigned();
    attr.query.attach_type = attach_type;
    attr.query.query_flags = if which == Which::Effective { BPF_F_QUERY_EFFECTIVE } else { 0 };
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = u32::try_from(ids.len()).map_err(io::Error::other)?;
    // SAFETY: `ids` is valid for writes of `prog_cnt` numbers until the call returns.
    unsafe { bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) }?;
    // SAFETY: the kernel has filled in the count, a plain number.
    let count = unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize;
    Ok(ids.into_iter().take(count).collect())
}

/// The name of the program with an id, if it may be known (opening by id takes CAP_SYS_ADMIN).
#[must_use]
pub fn program_name(id: u32) -> Option<String> {
    let found = aya::programs::loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    found.name_as_str().map(str::to_owned)
}
