//! Where connections are led, without a packet's coming back: what the kernel has written down as a socket's peer, which
//! no hook translates back.
//!
//! Invariant: the sockets of one request exist at the same time and are gone with it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::Socket;

use super::ask::{in_family, plain, socket};
use super::failure::Fault;
use super::protocol::{Aim, Aimed, Method};

/// Connects all of them, in order, without waiting for anybody's answer.
pub(super) fn aim(aims: &[Aim]) -> Result<Vec<Aimed>> {
    let connected: Vec<Result<Socket, Fault>> = aims.iter().map(connect).collect();
    let peers = peers()?;
    let led = |connected: Result<Socket, Fault>| match connected {
        Err(fault) => Aimed::Failed(fault.name().to_owned()),
        Ok(socket) => match inode(&socket).ok().and_then(|inode| peers.get(&inode)) {
            Some(peer) => Aimed::Led(plain(*peer)),
            None => Aimed::Closed,
        },
    };
    Ok(connected.into_iter().map(led).collect())
}

fn connect(aim: &Aim) -> Result<Socket, Fault> {
    let to = in_family(aim.to, aim.mapped);
    let method = if aim.tcp { Method::Tcp } else { Method::UdpConnected };
    let socket = socket(method, to, Duration::from_secs(1))?;
    if let Some(from) = aim.from {
        be_anybody(&socket, to).map_err(|error| Fault::of("setsockopt", &error))?;
        let from = in_family(SocketAddr::new(from, 0), aim.mapped);
        socket.bind(&from.into()).map_err(|error| Fault::of("bind", &error))?;
    }
    socket.set_nonblocking(true).map_err(|error| Fault::of("fcntl", &error))?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(Fault::of("connect", &error)),
        _ => Ok(socket),
    }
}

/// Lets it have an address that is on no interface.
fn be_anybody(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    let (level, option) = match to.ip() {
        IpAddr::V4(_) => (libc::SOL_IP, libc::IP_TRANSPARENT),
        IpAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    let yes: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&yes)).map_err(io::Error::other)?;
    // SAFETY: the value is valid for reads of its size until the call returns.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const yes).cast(), size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn inode(socket: &Socket) -> nix::Result<u64> {
    Ok(nix::sys::stat::fstat(socket)?.st_ino)
}

/// The peers of all connected sockets of this namespace, by inode, see `Documentation/networking/proc_net_tcp.rst`.
fn peers() -> Result<HashMap<u64, SocketAddr>> {
    let mut peers = HashMap::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let file = format!("/proc/thread-self/net/{table}");
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        peers.extend(text.lines().skip(1).filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            Some((fields.get(9)?.parse().ok()?, address(fields.get(2)?)?))
        }));
    }
    Ok(peers)
}

/// `0100007F:1F90`: words in the order of this machine, the port in everybody's.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let words = address.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let octets = words.collect::<Option<Vec<[u8; 4]>>>()?.concat();
    let ip = match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}
