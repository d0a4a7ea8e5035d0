//! The old iptables (`ip_tables`, `ip6_tables`), by the system calls that they have instead of netlink.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tracing::warn;

use super::{
    Family,
    blob::{Blob, COUNTERS},
    chains::{self, Chains},
};

/// `include/uapi/linux/netfilter_ipv4/ip_tables.h`; the same numbers for IPv6.
const SO_SET_REPLACE: i32 = 64;
const SO_SET_ADD_COUNTERS: i32 = 65;
const SO_GET_INFO: i32 = 64;
const SO_GET_ENTRIES: i32 = 65;

/// `XT_TABLE_MAXNAMELEN`.
const NAME: usize = 32;
/// Bytes of `ipt_getinfo`, and those before the rules of `ipt_get_entries`, before the counters of `xt_counters_info` and
/// before the rules of `ipt_replace`.
const INFO: usize = 84;
const ENTRIES_HEAD: usize = 40;
const COUNTERS_HEAD: usize = 40;
const REPLACE_HEAD: usize = 96;
/// That is how they are where pointers have 64 bits.
const _: () = assert!(size_of::<usize>() == 8);

/// How often a table is read that changes meanwhile.
const ATTEMPTS: u32 = 10;

/// What iptables keeps others out with, where it is to be seen from here.
const LOCK: &str = "/run/xtables.lock";

/// Looks for what is kube-proxy's. A table that nobody has used yet is not looked at, for that would make it.
pub(super) fn find() -> io::Result<Vec<Chains>> {
    let mut found = Vec::new();
    for family in [Family::V4, Family::V6] {
        let used = tables_in_use(family);
        for name in chains::tables().filter(|name| used.iter().any(|used| used == name)) {
            let table = read(&open(family)?, family, name)?.table().ok_or_else(unreadable)?;
            found.extend(table.leftovers(family, name));
        }
    }
    Ok(found)
}

/// Removes it, from the table as it is by now.
pub(super) fn remove(known: &Chains) -> io::Result<()> {
    let lock = File::open(LOCK).and_then(|file| file.lock().map(|()| file));
    if let Err(error) = &lock {
        warn!(
            "cannot keep iptables out by {LOCK}: {error}; a rule that another program changes at this very moment may come \
             back or be lost"
        );
    }
    let socket = open(known.family)?;
    let blob = read(&socket, known.family, &known.table)?;
    let table = blob.table().ok_or_else(unreadable)?;
    let Some(now) = table.leftovers(known.family, &known.table) else { return Ok(()) };
    let rest = blob.without(&now.chains, &now.jumps).ok_or_else(unreadable)?;
    // All that were there, as they were the very moment the table was exchanged. The kernel refuses a wrong number, so
    // that a rule somebody has added meanwhile is not lost.
    let mut counters = vec![0_u8; COUNTERS * blob.count().ok_or_else(unreadable)? as usize];
    let mut replace = name(&known.table).to_vec();
    replace.extend(rest.blob.valid_hooks.to_ne_bytes());
    let count = rest.blob.count().ok_or_else(unreadable)?;
    replace.extend(count.to_ne_bytes());
    replace.extend(u32::try_from(rest.blob.rules.len()).map_err(io::Error::other)?.to_ne_bytes());
    for offset in rest.blob.hooks.into_iter().chain(rest.blob.underflows) {
        replace.extend(offset.to_ne_bytes());
    }
    exchange(&socket, known.family, replace, &rest.blob.rules, &mut counters)?;

    // Counts go on.
    let mut add = name(&known.table).to_vec();
    add.extend(count.to_ne_bytes());
    add.resize(COUNTERS_HEAD, 0);
    for rule in rest.kept {
        add.extend_from_slice(&counters[rule * COUNTERS..][..COUNTERS]);
    }
    if let Err(error) = add_counters(&socket, known.family, &add) {
        warn!("the other rules of {} {} count from zero: {error}", known.family, known.table);
    }
    Ok(())
}

/// The tables that are there, in this network namespace.
fn tables_in_use(family: Family) -> Vec<String> {
    let file = match family {
        Family::V4 => "/proc/self/net/ip_tables_names",
        Family::V6 => "/proc/self/net/ip6_tables_names",
    };
    // No such file: no such iptables.
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn open(family: Family) -> io::Result<OwnedFd> {
    let family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    Ok(socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Reads a table.
fn read(socket: &OwnedFd, family: Family, table: &str) -> io::Result<Blob> {
    let mut attempts = 0;
    loop {
        let mut info = name(table).to_vec();
        info.resize(INFO, 0);
        get(socket, family, SO_GET_INFO, &mut info)?;
        let mut numbers = info[NAME..]
            .chunks_exact(4)
            .map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let mut take = || numbers.next().unwrap_or_default();
        let valid_hooks = take();
        let hooks = std::array::from_fn(|_| take());
        let underflows = std::array::from_fn(|_| take());
        let (_count, size) = (take(), take());
        let mut entries = name(table).to_vec();
        entries.extend(size.to_ne_bytes());
        entries.resize(ENTRIES_HEAD + size as usize, 0);
        match get(socket, family, SO_GET_ENTRIES, &mut entries) {
            // It has another size by now.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && attempts < ATTEMPTS => attempts += 1,
            Err(error) => return Err(error),
            Ok(()) => {
                let rules = entries.split_off(ENTRIES_HEAD);
                return Ok(Blob { family, valid_hooks, hooks, underflows, rules });
            }
        }
    }
}

fn name(table: &str) -> [u8; NAME] {
    let mut name = [0; NAME];
    name[..table.len()].copy_from_slice(table.as_bytes());
    name
}

fn level(family: Family) -> i32 {
    match family {
        Family::V4 => libc::IPPROTO_IP,
        Family::V6 => libc::IPPROTO_IPV6,
    }
}

fn get(socket: &OwnedFd, family: Family, option: i32, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most as many bytes as are given, and all of them may be written to.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level(family),
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Exchanges a table for one of these rules, and takes over the counters of the one before. `head` says how many of them
/// there are, and the rest of `ipt_replace`.
fn exchange(
    socket: &OwnedFd,
    family: Family,
    mut head: Vec<u8>,
    rules: &[u8],
    counters: &mut [u8],
) -> io::Result<()> {
    let count = u32::try_from(counters.len() / COUNTERS).map_err(io::Error::other)?;
    head.extend(count.to_ne_bytes());
    head.extend(counters.as_mut_ptr().expose_provenance().to_ne_bytes());
    debug_assert_eq!(head.len(), REPLACE_HEAD);
    head.extend_from_slice(rules);
    let length = libc::socklen_t::try_from(head.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads as many bytes as are given, and writes as many counters as they say, for which there is
    // room where they point to; nobody else uses that meanwhile.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level(family), SO_SET_REPLACE, head.as_ptr().cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn add_counters(socket: &OwnedFd, family: Family, counters: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(counters.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads as many bytes as are given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level(family),
            SO_SET_ADD_COUNTERS,
            counters.as_ptr().cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's table is not made as this program knows it")
}
