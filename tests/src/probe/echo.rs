//! Datagrams that come back, up to the largest there are.
//!
//! Invariant: an echo counts only if every byte of it is as it was sent.

use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::ask::{DATAGRAM, address, connected, filled, in_family, socket, wish};
use super::failure::Fault;
use super::protocol::{EchoDatagrams, Failure, Method};

/// Sends random datagrams by one socket, and compares what comes back.
pub(super) fn echo(plan: &EchoDatagrams) -> Result<Vec<Result<SocketAddr, Failure>>, Failure> {
    let begin = Instant::now();
    let to = in_family(plan.target.to, plan.target.mapped);
    let timeout = Duration::from_millis(plan.target.timeout_ms);
    let socket = match plan.target.method {
        Method::UdpConnected => connected(&plan.target).map(|(socket, _)| socket),
        method => socket(method, to, timeout),
    };
    let socket = socket.map_err(|fault| fault.since(begin))?;
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let mut one = |size: usize| {
        let mut bytes = vec![0; size.max(1)];
        random.fill(&mut bytes);
        bytes[0] = wish::ECHO;
        let sent = match plan.target.method {
            Method::UdpConnected => socket.send(&bytes),
            _ => socket.send_to(&bytes, &to.into()),
        };
        sent.map_err(|error| Fault::of("sendto", &error))?;
        let mut reply = vec![MaybeUninit::uninit(); DATAGRAM];
        let (length, sender) = socket.recv_from(&mut reply).map_err(|error| Fault::of("recvfrom", &error))?;
        if filled(&reply, length) == bytes { address(&sender) } else { Err(Fault::garbled("recvfrom")) }
    };
    let timed = |size: &usize| {
        let begin = Instant::now();
        one(*size).map_err(|fault: Fault| fault.since(begin))
    };
    Ok(plan.sizes.iter().map(timed).collect())
}
