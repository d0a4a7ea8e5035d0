//! A client that sends small datagrams at a steady pace from one socket, whatever comes back.
//!
//! Invariant: the pace does not depend on answers, and every answer and error is in the report with its time.

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::ask::{connected, filled, in_family, socket, wish};
use super::failure::Fault;
use super::protocol::{Method, Record, Trickle, TrickleReport};
use crate::wait::monotonic_ns;

/// A running trickle.
#[derive(Debug)]
pub(super) struct Running {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<TrickleReport>>,
    thread: JoinHandle<()>,
}

impl Running {
    pub(super) fn start(spec: Trickle) -> io::Result<Self> {
        let (stop, report) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::default()));
        let client = Client { spec, socket: None, report: Arc::clone(&report) };
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("trickle".into()).spawn(move || client.run(&stopped))?;
        Ok(Self { stop, report, thread })
    }

    pub(super) fn peek(&self) -> TrickleReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn stop(self) -> TrickleReport {
        let Self { stop, report, thread } = self;
        stop.store(true, Ordering::Relaxed);
        thread.join().expect("a trickle's thread does not panic");
        report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Client {
    spec: Trickle,
    socket: Option<Socket>,
    report: Arc<Mutex<TrickleReport>>,
}

impl Client {
    fn run(mut self, stop: &AtomicBool) {
        let pace = Duration::from_micros(self.spec.every_us);
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            due += pace;
            if let Err(fault) = self.tick(due) {
                let failure = fault.since(Instant::now());
                self.report().errors.push(failure);
                if self.spec.target.method == Method::UdpConnected {
                    // As programs do that are told by a connected socket.
                    self.socket = None;
                }
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
    }

    /// Sends one, and takes what comes until the next is due.
    fn tick(&mut self, due: Instant) -> Result<(), Fault> {
        let target = &self.spec.target;
        let to = in_family(target.to, target.mapped);
        let is_connected = target.method == Method::UdpConnected;
        if self.socket.is_none() {
            let timeout = Duration::from_millis(target.timeout_ms);
            self.socket =
                Some(if is_connected { connected(target)?.0 } else { socket(target.method, to, timeout)? });
            self.report().sockets += 1;
        }
        let socket = self.socket.as_ref().expect("it has just been opened");
        if is_connected {
            socket.send(&[wish::TICK]).map_err(|error| Fault::of("send", &error))?;
        } else {
            socket.send_to(&[wish::TICK], &to.into()).map_err(|error| Fault::of("sendto", &error))?;
        }
        self.report().sent += 1;
        loop {
            let left = due.saturating_duration_since(Instant::now());
            // Less than a microsecond would mean for ever.
            if left < Duration::from_micros(100) {
                thread::sleep(left);
                return Ok(());
            }
            socket.set_read_timeout(Some(left)).map_err(|error| Fault::of("setsockopt", &error))?;
            let mut reply = [MaybeUninit::uninit(); 256];
            let begun_ns = monotonic_ns();
            match socket.recv(&mut reply) {
                Ok(length) => {
                    let line = filled(&reply, length);
                    let name =
                        String::from_utf8_lossy(&line).split(' ').next().unwrap_or_default().to_owned();
                    self.report().answers.push(Record {
                        begun_ns,
                        done_ns: monotonic_ns(),
                        result: Ok(name),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Fault::of("recv", &error)),
            }
        }
    }

    fn report(&self) -> std::sync::MutexGuard<'_, TrickleReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
