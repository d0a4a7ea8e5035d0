//! Long-lived TCP connections to an echo.
//!
//! Invariant: once broken, a session stays broken and tells by what.

use std::io::{Read, Write};
use std::time::Instant;

use socket2::Socket;

use super::ask::{connected, who, wish};
use super::failure::Fault;
use super::protocol::{Answer, Failure, SessionHealth, Target};

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    socket: Socket,
    health: SessionHealth,
}

impl Session {
    pub(super) fn open(target: &Target) -> Result<(Self, Answer), Failure> {
        let begin = Instant::now();
        let open = || {
            let (socket, latency_ns) = connected(target)?;
            let answer = who(&socket, wish::ECHO, latency_ns)?;
            Ok((Self { socket, health: SessionHealth { exchanged: 0, broken: None } }, answer))
        };
        open().map_err(|fault: Fault| fault.since(begin))
    }

    pub(super) fn local(&self) -> Option<std::net::SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// Sends lines and reads each back.
    pub(super) fn exchange(&mut self, times: u32) -> SessionHealth {
        let begin = Instant::now();
        for _ in 0..times {
            if self.health.broken.is_some() {
                break;
            }
            match self.exchange_once() {
                Ok(()) => self.health.exchanged += 1,
                Err(fault) => self.health.broken = Some(fault.since(begin)),
            }
        }
        self.health.clone()
    }

    fn exchange_once(&mut self) -> Result<(), Fault> {
        let line = format!("line {}\n", self.health.exchanged);
        self.socket.write_all(line.as_bytes()).map_err(|error| Fault::of("send", &error))?;
        let mut back = vec![0; line.len()];
        let mut length = 0;
        while length < back.len() {
            match self.socket.read(&mut back[length..]).map_err(|error| Fault::of("recv", &error))? {
                0 => return Err(Fault::closed("recv")),
                more => length += more,
            }
        }
        if back == line.as_bytes() { Ok(()) } else { Err(Fault::garbled("recv")) }
    }
}
