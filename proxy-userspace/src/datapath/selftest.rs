//! A connection of our own through the hooks: whether they do what they should, and not only whether they are attached.
//!
//! Nothing leaves: connect() of a UDP socket sends nothing, and neither does that of a TCP socket under repair
//! (TCP_REPAIR, `tcp_connect` in `net/ipv4/tcp_output.c`), nor its end. The hook runs before the kernel looks for a way, so
//! it does not matter whether there is one. What it did stands in the socket's storage.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect as connect_to, getpeername, socket,
};
use proxy_common::layout::{FrontendKey, Origin, protocol};

use super::kernel;

/// What became of a connection.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// The hook led it somewhere.
    Led(Origin),
    /// The same, but the socket has another peer by now, or shows another one: somebody else has changed that.
    Diverted(SocketAddr),
    /// No hook of ours has seen it, or it was taken for no Service's.
    Untouched,
}

/// Connects to a frontend and looks at what the hook remembers.
pub(super) fn connect(origins: &MapData, key: &FrontendKey) -> Result<Found> {
    let address = SocketAddr::new(key.address.to_ip(), key.port.number());
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = if key.protocol == protocol::TCP { SockType::Stream } else { SockType::Datagram };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
        .context("opening a socket to try the hooks with")?;
    if kind == SockType::Stream {
        keep_silent(&socket).context("TCP_REPAIR, which takes CAP_NET_ADMIN")?;
    }
    let connected = connect_to(socket.as_raw_fd(), &SockaddrStorage::from(address));
    let Some(origin) = kernel::stored::<Origin>(origins, socket.as_fd())?.filter(Origin::is_whole) else {
        return Ok(Found::Untouched);
    };
    if connected.is_ok() {
        // Asking goes through a hook as well, which shows the VIP if the peer is the backend that it knows of.
        let peer: SockaddrStorage = getpeername(socket.as_raw_fd()).context("asking for a socket's peer")?;
        let shown = peer
            .as_sockaddr_in()
            .map(|v4| SocketAddr::from((v4.ip(), v4.port())))
            .or_else(|| peer.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))));
        if let Some(shown) = shown.filter(|shown| *shown != address) {
            return Ok(Found::Diverted(shown));
        }
    }
    Ok(Found::Led(origin))
}

/// Puts a TCP socket under repair.
fn keep_silent(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the option takes an int, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const on).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
