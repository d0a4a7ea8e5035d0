//! AF_PACKET sockets: frames of one device, and whether their checksums have been written yet.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

use super::Frame;

/// Larger than what segmentation that is left to a device makes.
pub(super) const LARGEST: usize = 1 << 18;

/// What may wait to be read: some hundred milliseconds of a busy device.
const WAITING: libc::c_int = 64 << 20;

/// How often a sniffer looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(20);

/// ETH_P_ALL, in the order of the wire.
const EVERYTHING: u16 = 0x0003_u16.to_be();

/// A socket that sees every frame of a device of this thread's namespace.
pub(super) fn open(device: &str) -> Result<Socket> {
    // Protocol 0: nothing is seen before the socket is bound to the device.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("cannot open a packet socket")?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, WAITING)?;
    socket.set_read_timeout(Some(LOOK)).context("cannot limit a socket's patience")?;
    socket.bind(&address(device, EVERYTHING)?).with_context(|| format!("cannot listen on {device}"))?;
    Ok(socket)
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

/// The next frame; `None` when none came in a while.
pub(super) fn next(socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<Frame>> {
    let mut control = [0_u64; 16];
    // SAFETY: all zeros is valid for these structures of the kernel.
    let (mut from, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { (zeroed(), zeroed()) };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = libc::socklen_t::try_from(size_of_val(&from)).map_err(io::Error::other)?;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in the message is valid for its length until the call returns.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        };
    };
    Ok(Some(Frame {
        bytes: buffer[..length.min(buffer.len())].to_vec(),
        outgoing: from.sll_pkttype == libc::PACKET_OUTGOING,
        checksummed: status(&message) & libc::TP_STATUS_CSUMNOTREADY == 0,
    }))
}

/// What the kernel says beside the frame.
fn status(message: &libc::msghdr) -> u32 {
    // SAFETY: the kernel has filled the control buffer, which the message still points to.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: the header lies inside the control buffer, as CMSG_FIRSTHDR and CMSG_NXTHDR see to.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if level == libc::SOL_PACKET && kind == libc::PACKET_AUXDATA {
            // SAFETY: data of this kind is a tpacket_auxdata, wherever it is aligned.
            return unsafe { libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned() }
                .tp_status;
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    0
}

/// How many frames found no room.
pub(super) fn dropped(socket: &Socket) -> u64 {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = libc::socklen_t::try_from(size_of_val(&statistics)).unwrap_or_default();
    // SAFETY: the structure is valid for writes of its length until the call returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if result == 0 { statistics.tp_drops.into() } else { 0 }
}

fn set(socket: &Socket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).context("a length")?;
    // SAFETY: the value is valid for reads of its length until the call returns.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("cannot set a socket's option") }
}
