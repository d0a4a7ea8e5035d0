//! Servers that answer with their own name and the client address they saw.
//!
//! Invariant: a listener is bound before its number is given out, and has stopped accepting before
//! `stop` returns.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::ask::{wish, write_answer};
use super::protocol::Service;
use super::transfer;
use super::turnaround::Turnaround;
use crate::wait::monotonic_ns;

/// How many connections may wait to be accepted: more than any test opens at once.
const BACKLOG: i32 = 4096;

/// How often a thread that blocks in a receive looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// When ticks came, on all of a probe's servers.
pub(super) type Ticks = Arc<Mutex<Vec<u64>>>;

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    how: Running,
}

#[derive(Debug)]
enum Running {
    /// A thread with an event loop; it says so when its listener is closed.
    Events { phase: watch::Sender<Phase>, closed: Receiver<()> },
    /// Threads that block in every call.
    Blocking(Turnaround),
    /// A thread that blocks in recvfrom.
    Datagrams { stop: Arc<AtomicBool>, thread: JoinHandle<()> },
}

/// How far a server with an event loop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It accepts.
    Open,
    /// It only serves on what it has accepted.
    Draining,
    /// It closes that, too.
    Cut,
}

impl Server {
    pub(super) fn start(name: &str, bind: SocketAddr, service: Service, ticks: &Ticks) -> io::Result<Self> {
        match service {
            Service::Tcp | Service::TcpSilent => events(name, bind, service == Service::TcpSilent),
            Service::TcpTurnaround { threads } => {
                let turnaround = Turnaround::start(listener(bind)?, threads)?;
                Ok(Self { address: turnaround.address()?, how: Running::Blocking(turnaround) })
            }
            Service::Udp => datagrams(name, bind, Arc::clone(ticks)),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening; with `connections`, closes what was accepted.
    pub(super) fn stop(self, connections: bool) {
        match self.how {
            Running::Events { phase, closed } => {
                phase.send_replace(if connections { Phase::Cut } else { Phase::Draining });
                // An error means that the whole loop is over, its listener too.
                let _ = closed.recv();
            }
            Running::Blocking(turnaround) => turnaround.stop(),
            Running::Datagrams { stop, thread } => {
                stop.store(true, Ordering::Relaxed);
                drop(thread.join());
            }
        }
    }
}

fn listener(bind: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(bind), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if bind.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&bind.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn events(name: &str, bind: SocketAddr, silent: bool) -> io::Result<Server> {
    let listener = listener(bind)?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let (phase, watched) = watch::channel(Phase::Open);
    let (say_closed, closed) = channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let name: Arc<str> = name.into();
    thread::Builder::new().name("serve".into()).spawn(move || {
        runtime.block_on(async {
            let mut connections = JoinSet::new();
            if let Err(error) = accept(listener, &name, silent, watched, &mut connections).await {
                eprintln!("probe: cannot listen on {address}: {error}");
            }
            // Nobody listens any more when the server was dropped instead of stopped.
            let _ = say_closed.send(());
            while connections.join_next().await.is_some() {}
        });
    })?;
    Ok(Server { address, how: Running::Events { phase, closed } })
}

/// Accepts until told to stop; the listener is closed on return.
async fn accept(
    listener: TcpListener,
    name: &Arc<str>,
    silent: bool,
    mut phase: watch::Receiver<Phase>,
    connections: &mut JoinSet<()>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let cut = phase.clone();
    loop {
        let (stream, client) = tokio::select! {
            _ = phase.wait_for(|phase| *phase != Phase::Open) => return Ok(()),
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, mostly. A server goes on.
                    eprintln!("probe: accept: {error}");
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            },
        };
        let (name, mut cut) = (Arc::clone(name), cut.clone());
        connections.spawn(async move {
            let is_cut = async {
                if cut.wait_for(|phase| *phase == Phase::Cut).await.is_err() {
                    // Nobody is left who could cut.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                // A client that hangs up in the middle is no news to a server.
                _ = talk(stream, client, &name, silent) => {}
                () = is_cut => {}
            }
        });
    }
}

async fn talk(
    mut stream: tokio::net::TcpStream,
    client: SocketAddr,
    name: &str,
    silent: bool,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if silent {
        while stream.read(&mut [0; 64]).await? > 0 {}
        return Ok(());
    }
    let wish = stream.read_u8().await?;
    if wish == wish::TURNS {
        return turns(stream).await;
    }
    if wish == wish::TRANSFER {
        transfer::serve(&mut stream).await?;
        // The client closes first, as always.
        while stream.read(&mut [0; 64]).await? > 0 {}
        return Ok(());
    }
    let line = write_answer(name, client, 0);
    let mut buffer = vec![0; 1 << 16];
    match wish {
        wish::WHO => {
            stream.write_all(line.as_bytes()).await?;
            // The client closes first, and so keeps the TIME_WAIT.
            while stream.read(&mut buffer).await? > 0 {}
        }
        wish::ECHO | wish::TURN => {
            let first = if wish == wish::TURN { &[wish] } else { line.as_bytes() };
            stream.write_all(first).await?;
            loop {
                let length = stream.read(&mut buffer).await?;
                if length == 0 {
                    break;
                }
                stream.write_all(&buffer[..length]).await?;
            }
        }
        wish::SINK => {
            let mut bytes = 0_u64;
            loop {
                let length = stream.read(&mut buffer).await?;
                if length == 0 {
                    break;
                }
                bytes += length as u64;
            }
            stream.write_all(&bytes.to_be_bytes()).await?;
        }
        _ => {}
    }
    Ok(())
}

/// Every byte back. There may be very many of these at once, so that a buffer on the heap would be felt.
async fn turns(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    loop {
        let byte = stream.read_u8().await?;
        stream.write_u8(byte).await?;
    }
}

fn datagrams(name: &str, bind: SocketAddr, ticks: Ticks) -> io::Result<Server> {
    let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, Some(Protocol::UDP))?;
    if bind.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&bind.into())?;
    let socket: UdpSocket = socket.into();
    socket.set_read_timeout(Some(LOOK))?;
    let address = socket.local_addr()?;
    let stop = Arc::new(AtomicBool::new(false));
    let (name, stopped) = (name.to_owned(), Arc::clone(&stop));
    let thread = thread::Builder::new().name("datagrams".into()).spawn(move || {
        let mut buffer = vec![0; 65_536];
        while !stopped.load(Ordering::Relaxed) {
            // Timeouts, and the ICMP errors of clients that are gone, are no news to a server.
            let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
            if length > 0 && buffer[0] == wish::TICK {
                ticks.lock().unwrap_or_else(PoisonError::into_inner).push(monotonic_ns());
            }
            let _ = match buffer[0] {
                wish::WHO | wish::TICK if length > 0 => {
                    socket.send_to(write_answer(&name, client, length).as_bytes(), client)
                }
                _ => socket.send_to(&buffer[..length], client),
            };
        }
    })?;
    Ok(Server { address, how: Running::Datagrams { stop, thread } })
}
