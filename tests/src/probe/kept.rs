//! Sockets that are kept between requests, so that things can happen around them.
//!
//! Invariant: what a kept socket remembers, the kernel remembers for it; nothing of it is here.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::ask::{connect_and_ask, exchange, in_family, socket, wait, who, wish};
use super::failure::{Fault, nanos};
use super::protocol::{Answer, Exchange, Failure, KeptSocket, Method};

/// An open socket.
#[derive(Debug)]
pub(super) struct Kept {
    socket: Socket,
    spec: KeptSocket,
    used: bool,
}

impl Kept {
    pub(super) fn open(spec: KeptSocket) -> Result<Self, Failure> {
        let begin = Instant::now();
        let family = if spec.v6 {
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0)
        } else {
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)
        };
        let socket = socket(spec.method, family, Duration::from_millis(spec.timeout_ms))
            .map_err(|fault| fault.since(begin))?;
        Ok(Self { socket, spec, used: false })
    }

    /// Asks there, with the system calls of the socket's method.
    pub(super) fn ask(&mut self, to: SocketAddr) -> Exchange {
        let begin = Instant::now();
        Exchange { to, result: self.ask_once(to).map_err(|fault| fault.since(begin)) }
    }

    /// Waits on it, connected or not, and sends nothing.
    pub(super) fn wait(&self) -> Result<(), Failure> {
        let begin = Instant::now();
        wait(&self.socket).map_err(|fault| fault.since(begin))
    }

    fn ask_once(&mut self, to: SocketAddr) -> Result<Answer, Fault> {
        let there = in_family(to, self.spec.v6);
        match self.spec.method {
            Method::UdpUnconnected { peek } => exchange(&self.socket, there, 0, peek),
            Method::UdpConnected => connect_and_ask(&self.socket, there),
            Method::Tcp => {
                if std::mem::replace(&mut self.used, true) {
                    disconnect(&self.socket).map_err(|error| Fault::of("connect(AF_UNSPEC)", &error))?;
                }
                let begin = Instant::now();
                self.socket.connect(&there.into()).map_err(|error| Fault::of("connect", &error))?;
                who(&self.socket, wish::WHO, nanos(begin))
            }
        }
    }
}

/// Takes a connection apart so that the socket can be connected again.
fn disconnect(socket: &Socket) -> io::Result<()> {
    let unspecified = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    let length = libc::socklen_t::try_from(size_of_val(&unspecified)).map_err(io::Error::other)?;
    // SAFETY: the address is valid for reads of its length until the call returns.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const unspecified, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
