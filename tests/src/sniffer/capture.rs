//! AF_PACKET sockets with a ring that the kernel copies frames into.
//!
//! Invariant: a frame is seen as it was when it passed. Read from a socket without a ring, it would be shared with
//! whoever handles it next, and those who rewrite headers of fragments in place do so under the reader's eyes.

use std::io;
use std::mem::size_of;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use libc::{tpacket_block_desc, tpacket3_hdr};
use nix::net::if_::if_nametoindex;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

use super::Frame;

/// A block is handed over when it is full or some milliseconds old. Larger than any frame.
const BLOCK: usize = 1 << 18;
const BLOCKS: usize = 64;
const OLD_MS: u32 = 5;

/// How often a sniffer looks whether it is to stop: long against the age of a block.
const LOOK_MS: i32 = 50;

/// A ring of blocks that the kernel fills one after the other.
#[derive(Debug)]
pub(super) struct Ring {
    socket: Socket,
    memory: NonNull<libc::c_void>,
    next: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and one thread at a time has the ring.
unsafe impl Send for Ring {}

impl Ring {
    /// A ring that gets every frame of a device of this thread's namespace.
    pub(super) fn open(device: &str) -> Result<Self> {
        // Protocol 0: nothing is seen before the socket is bound to the device.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("cannot open a packet socket")?;
        let version: libc::c_int = 2; // TPACKET_V3
        set(&socket, libc::PACKET_VERSION, &version)?;
        let blocks = libc::c_uint::try_from(BLOCKS).context("a ring's size")?;
        let block = libc::c_uint::try_from(BLOCK).context("a ring's size")?;
        let ring = libc::tpacket_req3 {
            tp_block_size: block,
            tp_block_nr: blocks,
            tp_frame_size: block,
            tp_frame_nr: blocks,
            tp_retire_blk_tov: OLD_MS,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(&socket, libc::PACKET_RX_RING, &ring)?;
        let size = NonZeroUsize::new(BLOCK * BLOCKS).context("a ring's size")?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, of the socket's own memory.
        let memory = unsafe { mmap(None, size, access, MapFlags::MAP_SHARED, &socket, 0) };
        let memory = memory.context("cannot map a packet socket's ring")?;
        let ring = Self { socket, memory, next: 0 };
        // ETH_P_ALL, in the order of the wire.
        let everything = address(device, 3_u16.to_be())?;
        ring.socket.bind(&everything).with_context(|| format!("cannot listen on {device}"))?;
        Ok(ring)
    }

    /// Hands over the frames of the next block; false when none came in a while.
    pub(super) fn next(&mut self, mut take: impl FnMut(Frame)) -> io::Result<bool> {
        // SAFETY: `next` is below BLOCKS, so the block is inside the mapping.
        let block = unsafe { self.memory.cast::<u8>().add(self.next * BLOCK) };
        let head = block.cast::<tpacket_block_desc>();
        // SAFETY: a block begins with its description, whose status kernel and reader hand to each other.
        let status = unsafe { AtomicU32::from_ptr(&raw mut (*head.as_ptr()).hdr.bh1.block_status) };
        if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
            return self.wait();
        }
        // SAFETY: the kernel has written the description and leaves the block alone.
        let (count, first) = unsafe {
            let head = (*head.as_ptr()).hdr.bh1;
            (head.num_pkts, head.offset_to_first_pkt)
        };
        let mut at = first as usize;
        for _ in 0..count {
            // SAFETY: the kernel has put a frame there, which ends inside the block.
            let (frame, length) = unsafe { frame(block.add(at)) };
            take(frame);
            at += length;
        }
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % BLOCKS;
        Ok(true)
    }

    /// Waits for a block; false when none came. True also when there may be one.
    fn wait(&self) -> io::Result<bool> {
        let mut look = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `look` is one valid pollfd until the call returns.
        match unsafe { libc::poll(&raw mut look, 1, LOOK_MS) } {
            0 => Ok(false),
            1.. if look.revents & libc::POLLERR != 0 => Err(io::ErrorKind::NotConnected.into()),
            1.. => Ok(true),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// How many frames found no room.
    pub(super) fn dropped(&self) -> u64 {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = libc::socklen_t::try_from(size_of_val(&statistics)).unwrap_or_default();
        // SAFETY: the structure is valid for writes of its length until the call returns.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        if result == 0 { statistics.tp_drops.into() } else { 0 }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this ring's own, and nothing points into it any more.
        let _ = unsafe { munmap(self.memory, BLOCK * BLOCKS) };
    }
}

/// A frame of the ring, copied, and how far the next one is.
///
/// # Safety
/// The kernel has put a frame there.
unsafe fn frame(at: NonNull<u8>) -> (Frame, usize) {
    // SAFETY: as promised: a header, the link's address, the bytes at `tp_mac`.
    let (header, from, bytes) = unsafe {
        let header = at.cast::<tpacket3_hdr>().read_unaligned();
        let from = at.add(size_of::<tpacket3_hdr>().next_multiple_of(16));
        let bytes = at.add(header.tp_mac.into());
        let bytes = std::slice::from_raw_parts(bytes.as_ptr(), header.tp_snaplen as usize);
        (header, from.cast::<libc::sockaddr_ll>().read_unaligned(), bytes.to_vec())
    };
    let frame = Frame {
        bytes,
        outgoing: from.sll_pkttype == libc::PACKET_OUTGOING,
        checksummed: header.tp_status & libc::TP_STATUS_CSUMNOTREADY == 0,
    };
    (frame, header.tp_next_offset as usize)
}

/// A socket that sees nothing, and the address by which it sends frames to a device of this thread's namespace.
pub(crate) fn sender(device: &str) -> Result<(Socket, SockAddr)> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("cannot open a packet socket")?;
    Ok((socket, address(device, 0)?))
}

/// A device, as the address of a packet socket.
fn address(device: &str, protocol: u16) -> Result<SockAddr> {
    let index = if_nametoindex(device).with_context(|| format!("no link named {device}"))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll fits into every storage and is plain data.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = u16::try_from(libc::AF_PACKET).context("a family")?;
    link.sll_protocol = protocol;
    link.sll_ifindex = i32::try_from(index).context("an interface index")?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).context("a length")?;
    // SAFETY: the first `length` bytes have been filled above.
    Ok(unsafe { SockAddr::new(storage, length) })
}

fn set<T>(socket: &Socket, option: libc::c_int, value: &T) -> Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).context("a length")?;
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: the value is valid for reads of its length until the call returns.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, value, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("cannot set a socket's option") }
}
