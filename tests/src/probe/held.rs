//! Very many connections that are held open, from several addresses, and asked now and then for a byte.
//!
//! Invariant: a connection costs a socket and some hundred bytes here, no thread and no buffer.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::ask::wish;
use super::failure::Fault;
use super::protocol::{HeldReport, Hold};

/// After so many failures nothing more is tried: what is wrong has been seen, and waiting for it takes long.
const ENOUGH: u64 = 100;

/// The connections of one request.
#[derive(Debug)]
pub(super) struct Held {
    // Before the runtime they belong to.
    streams: Vec<TcpStream>,
    runtime: Runtime,
    hold: Hold,
}

impl Held {
    pub(super) fn open(hold: Hold) -> io::Result<(Self, HeldReport)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let limit = Duration::from_millis(hold.timeout_ms);
        let mut errors = BTreeMap::new();
        let mut streams = Vec::with_capacity(hold.count as usize);
        runtime.block_on(async {
            let mut workers = JoinSet::new();
            let (share, failures) = (hold.at_once.max(1), Arc::new(AtomicU64::new(0)));
            for worker in 0..share {
                let (hold, failures) = (hold.clone(), Arc::clone(&failures));
                workers.spawn(async move {
                    let mut outcomes = Vec::new();
                    for number in (worker..hold.count).step_by(share as usize) {
                        let from = hold.from.get(number as usize % hold.from.len().max(1)).copied();
                        if failures.load(Ordering::Relaxed) >= ENOUGH {
                            break;
                        }
                        let outcome = within(limit, "connect", connect(hold.to, from)).await;
                        failures.fetch_add(outcome.is_err().into(), Ordering::Relaxed);
                        outcomes.push(outcome);
                    }
                    outcomes
                });
            }
            for outcome in workers.join_all().await.into_iter().flatten() {
                count(outcome, &mut errors).into_iter().for_each(|stream| streams.push(stream));
            }
        });
        let report = HeldReport { alive: number(&streams), errors };
        Ok((Self { streams, runtime, hold }, report))
    }

    /// A byte there and back on every connection; those that fail, or come after too many failures, are closed.
    pub(super) fn exchange(&mut self) -> HeldReport {
        let limit = Duration::from_millis(self.hold.timeout_ms);
        let share = self.streams.len().div_ceil(self.hold.at_once.max(1) as usize).max(1);
        let mut errors = BTreeMap::new();
        let mut streams = std::mem::take(&mut self.streams);
        self.runtime.block_on(async {
            let mut workers = JoinSet::new();
            let failures = Arc::new(AtomicU64::new(0));
            while !streams.is_empty() {
                let part = streams.split_off(streams.len().saturating_sub(share));
                let failures = Arc::clone(&failures);
                workers.spawn(async move {
                    let mut outcomes = Vec::new();
                    for stream in part {
                        if failures.load(Ordering::Relaxed) >= ENOUGH {
                            break;
                        }
                        let outcome = within(limit, "recv", turn(stream)).await;
                        failures.fetch_add(outcome.is_err().into(), Ordering::Relaxed);
                        outcomes.push(outcome);
                    }
                    outcomes
                });
            }
            for outcome in workers.join_all().await.into_iter().flatten() {
                count(outcome, &mut errors).into_iter().for_each(|stream| self.streams.push(stream));
            }
        });
        HeldReport { alive: number(&self.streams), errors }
    }
}

fn number(streams: &[TcpStream]) -> u32 {
    u32::try_from(streams.len()).unwrap_or(u32::MAX)
}

fn count<T>(outcome: Result<T, Fault>, errors: &mut BTreeMap<String, u64>) -> Option<T> {
    outcome.map_err(|fault| *errors.entry(fault.name().to_owned()).or_default() += 1).ok()
}

async fn within<T>(
    limit: Duration,
    call: &'static str,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(|error| Fault::of(call, &error)),
        Err(_) => Err(Fault::of(call, &io::Error::from_raw_os_error(libc::EAGAIN))),
    }
}

async fn connect(to: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
    let mut stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    stream.write_u8(wish::TURNS).await?;
    turn(stream).await
}

async fn turn(mut stream: TcpStream) -> io::Result<TcpStream> {
    stream.write_u8(b'.').await?;
    stream.read_u8().await?;
    Ok(stream)
}
