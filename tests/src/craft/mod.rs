//! Packets that no socket would send: crafted, and put on a link as frames.
//!
//! Invariant: everything sent is counted in advance, and random parts come from a seed that is told.

mod fragments;
mod packets;

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{SockAddr, Socket};

pub use self::fragments::fragments;
pub use self::packets::{Flow, datagram, sctp_init, segment, syn};
use crate::link::Mac;
use crate::sniffer::capture;
use crate::stage::PATIENCE;
use crate::station::Station;
use crate::wait;

/// What a flood is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// The first packets of TCP connections.
    Syns,
    /// UDP datagrams.
    Datagrams,
}

/// Sends crafted packets by a station's device to one neighbour.
#[derive(Debug)]
pub struct Injector {
    socket: Socket,
    device: SockAddr,
    from: Mac,
    to: Mac,
}

impl Injector {
    /// From a client on the LAN to a node or another client, or from a node's host to one of them.
    ///
    /// # Errors
    /// When the kernel does not tell their hardware addresses.
    pub fn new(from: &Station, to: &Station) -> Result<Self> {
        let to = to.netns().links(async |links| links.mac("eth0"))?;
        Self::to_mac(from, to)
    }

    /// To whoever has that hardware address.
    ///
    /// # Errors
    /// See [`Injector::new`].
    pub fn to_mac(from: &Station, to: Mac) -> Result<Self> {
        from.netns().links(async |links| {
            let (socket, device) = capture::sender("eth0")?;
            Ok(Self { socket, device, from: links.mac("eth0")?, to })
        })
    }

    /// Sends an IP packet.
    ///
    /// # Errors
    /// When the device does not take it.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        let kind: [u8; 2] =
            if packet.first().is_some_and(|byte| byte >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
        let frame = [&self.to[..], &self.from, &kind, packet].concat();
        // The device's queue may be full for a moment.
        let has_gone = || match self.socket.send_to(&frame, &self.device) {
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(false),
            other => other.map(|_| true).context("cannot send a crafted frame"),
        };
        wait::until_true("the device takes a crafted frame", PATIENCE, has_gone)
    }

    /// Sends so many of these from random addresses and ports, evenly over time. Nobody answers what comes back, so that
    /// as many connections stay half open.
    ///
    /// # Errors
    /// See [`Injector::send`].
    pub fn flood(&self, of: Flood, to: SocketAddr, count: u32, per_second: u32, seed: u64) -> Result<()> {
        let mut random = fastrand::Rng::with_seed(seed);
        let (begin, interval) = (Instant::now(), Duration::from_secs(1) / per_second.max(1));
        for number in 0..count {
            // 100.64.0.0/10 is nobody's in a testbed.
            let from = Ipv4Addr::from(0x6440_0000 | random.u32(..1 << 22));
            let flow = Flow { from: SocketAddr::new(from.into(), random.u16(1024..)), to };
            self.send(&match of {
                Flood::Syns => syn(flow, random.u32(..))?,
                Flood::Datagrams => datagram(flow, b"flood")?,
            })?;
            let due = begin + interval * number;
            // Sleeping for each would cost more than sending does.
            if number % 64 == 0 && due > Instant::now() {
                thread::sleep(due - Instant::now());
            }
        }
        Ok(())
    }
}
