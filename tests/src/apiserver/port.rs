//! Ports that stay ours.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};

/// A free port that stays ours, while a server listens on it as well as before and after.
///
/// A socket that is bound and does not listen keeps others from being given the port, and still lets a
/// server bind it by number if both set SO_REUSEADDR, as Go and Rust do.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) addr: SocketAddr,
    _socket: OwnedFd,
}

impl Port {
    /// That port, or any free one for 0.
    pub(super) fn reserve(addr: SocketAddr) -> Result<Self> {
        let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(addr))
            .with_context(|| format!("cannot bind {addr}"))?;
        let bound: SockaddrStorage = socket::getsockname(socket.as_raw_fd())?;
        let port = match (bound.as_sockaddr_in(), bound.as_sockaddr_in6()) {
            (Some(v4), _) => v4.port(),
            (_, Some(v6)) => v6.port(),
            _ => bail!("a socket of an unknown family"),
        };
        Ok(Self { addr: SocketAddr::new(addr.ip(), port), _socket: socket })
    }
}
