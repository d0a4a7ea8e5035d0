//! Asking a server who it is: the system calls of ordinary clients, timed.
//!
//! Invariant: sockets are used as unsuspecting programs use them. Blocking calls with a time limit,
//! no bind unless asked for, and a new socket for every question.

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::failure::{Fault, nanos};
use super::latency;
use super::protocol::{Answer, AskReport, Exchange, Failure, Method, OneSocket, SocketNames, Target};

/// The first byte a client sends: what it wants from the server.
pub(super) mod wish {
    /// One line: who are you, and who am I?
    pub(in crate::probe) const WHO: u8 = b'w';
    /// That line, then every byte back.
    pub(in crate::probe) const ECHO: u8 = b'e';
    /// Every byte back, this one included.
    pub(in crate::probe) const TURN: u8 = b't';
    /// Swallow everything; at the end of it say how much it was.
    pub(in crate::probe) const SINK: u8 = b's';
    /// Every byte back, of a connection that is mostly idle.
    pub(in crate::probe) const TURNS: u8 = b'i';
    /// As [`WHO`], and the server notes when it came.
    pub(in crate::probe) const TICK: u8 = b'k';
    /// See [`transfer`](super::super::transfer).
    pub(in crate::probe) const TRANSFER: u8 = b'x';
}

/// How many failures a report keeps one by one.
const FAILURES_KEPT: usize = 1000;

/// The largest datagram.
pub(super) const DATAGRAM: usize = 65_536;

/// An address in the family of the socket that is to be used.
pub(super) fn in_family(to: SocketAddr, mapped: bool) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(v4) if mapped => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
        _ => to,
    }
}

/// A v4-mapped address as the IPv4 address it stands for.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A socket with time limits on every call.
pub(super) fn socket(method: Method, to: SocketAddr, timeout: Duration) -> Result<Socket, Fault> {
    let (kind, protocol) = match method {
        Method::Tcp => (Type::STREAM, Protocol::TCP),
        Method::UdpConnected | Method::UdpUnconnected { .. } => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))
        .map_err(|error| Fault::of("socket", &error))?;
    // SO_SNDTIMEO also limits connect.
    socket.set_write_timeout(Some(timeout)).map_err(|error| Fault::of("setsockopt", &error))?;
    socket.set_read_timeout(Some(timeout)).map_err(|error| Fault::of("setsockopt", &error))?;
    Ok(socket)
}

/// A socket that is connected, and how long connect took.
pub(super) fn connected(target: &Target) -> Result<(Socket, u64), Fault> {
    let to = in_family(target.to, target.mapped);
    let socket = socket(target.method, to, Duration::from_millis(target.timeout_ms))?;
    if let Some(from) = target.from {
        // One port may serve several connections, as long as they go to different places.
        socket.set_reuse_address(true).map_err(|error| Fault::of("setsockopt", &error))?;
        socket.bind(&in_family(from, target.mapped).into()).map_err(|error| Fault::of("bind", &error))?;
    }
    let begin = Instant::now();
    if target.nonblocking {
        connect_nonblocking(&socket, to, Duration::from_millis(target.timeout_ms))?;
    } else {
        socket.connect(&to.into()).map_err(|error| Fault::of("connect", &error))?;
    }
    Ok((socket, nanos(begin)))
}

/// connect, and what an event loop does when it says "in progress". What the later look finds is told as
/// a failure of `getsockopt`, so that it can be told from a refusal by connect itself.
fn connect_nonblocking(socket: &Socket, to: SocketAddr, timeout: Duration) -> Result<(), Fault> {
    let blocking =
        |blocking: bool| socket.set_nonblocking(!blocking).map_err(|error| Fault::of("fcntl", &error));
    blocking(false)?;
    if let Err(error) = socket.connect(&to.into()) {
        if error.raw_os_error() != Some(libc::EINPROGRESS) {
            return Err(Fault::of("connect", &error));
        }
        let mut look = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        let limit = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: `look` is one valid pollfd until the call returns.
        match unsafe { libc::poll(&raw mut look, 1, limit) } {
            1.. => {}
            0 => return Err(Fault::of("poll", &io::Error::from_raw_os_error(libc::EAGAIN))),
            _ => return Err(Fault::of("poll", &io::Error::last_os_error())),
        }
        if let Some(error) = socket.take_error().map_err(|error| Fault::of("getsockopt", &error))? {
            return Err(Fault::of("getsockopt", &error));
        }
    }
    blocking(true)
}

/// Asks once.
pub(super) fn ask(target: &Target) -> Result<Answer, Failure> {
    let begin = Instant::now();
    let answer = match target.method {
        Method::Tcp => ask_tcp(target),
        Method::UdpConnected => ask_connected(target),
        Method::UdpUnconnected { peek } => ask_unconnected(target, peek),
    };
    answer.map_err(|fault| fault.since(begin))
}

fn ask_tcp(target: &Target) -> Result<Answer, Fault> {
    let (socket, latency_ns) = connected(target)?;
    who(&socket, wish::WHO, latency_ns)
}

/// Sends a wish on a connected TCP socket and reads the line that answers it.
pub(super) fn who(mut socket: &Socket, wish: u8, latency_ns: u64) -> Result<Answer, Fault> {
    socket.send(&[wish]).map_err(|error| Fault::of("send", &error))?;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut piece = [0; 256];
        match socket.read(&mut piece).map_err(|error| Fault::of("recv", &error))? {
            0 => return Err(Fault::closed("recv")),
            length => line.extend_from_slice(&piece[..length]),
        }
    }
    read_answer(&line, peer(socket)?, latency_ns)
}

fn ask_connected(target: &Target) -> Result<Answer, Fault> {
    let begin = Instant::now();
    let (socket, _) = connected(target)?;
    socket.send(&question(target.padding)).map_err(|error| Fault::of("send", &error))?;
    let mut reply = vec![MaybeUninit::uninit(); DATAGRAM];
    let length = socket.recv(&mut reply).map_err(|error| Fault::of("recv", &error))?;
    let latency_ns = nanos(begin);
    read_answer(&filled(&reply, length), peer(&socket)?, latency_ns)
}

fn ask_unconnected(target: &Target, peek: bool) -> Result<Answer, Fault> {
    let to = in_family(target.to, target.mapped);
    let socket = socket(target.method, to, Duration::from_millis(target.timeout_ms))?;
    if let Some(from) = target.from {
        socket.bind(&in_family(from, target.mapped).into()).map_err(|error| Fault::of("bind", &error))?;
    }
    if target.nonblocking {
        let begin = Instant::now();
        socket.set_nonblocking(true).map_err(|error| Fault::of("fcntl", &error))?;
        let sent = socket.send_to(&question(target.padding), &to.into());
        sent.map_err(|error| Fault::of("sendto", &error))?;
        socket.set_nonblocking(false).map_err(|error| Fault::of("fcntl", &error))?;
        return reply_from(&socket, begin, peek);
    }
    exchange(&socket, to, target.padding, peek)
}

/// One sendto and recvfrom.
pub(super) fn exchange(socket: &Socket, to: SocketAddr, padding: usize, peek: bool) -> Result<Answer, Fault> {
    let begin = Instant::now();
    socket.send_to(&question(padding), &to.into()).map_err(|error| Fault::of("sendto", &error))?;
    reply_from(socket, begin, peek)
}

/// The recvfrom of an exchange.
fn reply_from(socket: &Socket, begin: Instant, peek: bool) -> Result<Answer, Fault> {
    let mut reply = vec![MaybeUninit::uninit(); DATAGRAM];
    let peeked = if peek {
        let (_, sender) = socket.peek_from(&mut reply).map_err(|error| Fault::of("recvfrom", &error))?;
        Some(sender)
    } else {
        None
    };
    let (length, sender) = socket.recv_from(&mut reply).map_err(|error| Fault::of("recvfrom", &error))?;
    let latency_ns = nanos(begin);
    if peeked.is_some_and(|peeked| peeked.as_socket() != sender.as_socket()) {
        return Err(Fault::garbled("recvfrom"));
    }
    read_answer(&filled(&reply, length), address(&sender)?, latency_ns)
}

fn question(padding: usize) -> Vec<u8> {
    let mut bytes = vec![b'.'; padding.max(1)];
    bytes[0] = wish::WHO;
    bytes
}

/// The part of a buffer that a receiving call has filled.
pub(super) fn filled(buffer: &[MaybeUninit<u8>], length: usize) -> Vec<u8> {
    // SAFETY: the kernel has written the first `length` bytes, as the return value of the call says.
    buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect()
}

pub(super) fn address(address: &SockAddr) -> Result<SocketAddr, Fault> {
    address.as_socket().map(plain).ok_or_else(|| Fault::garbled("sockaddr"))
}

fn peer(socket: &Socket) -> Result<SocketAddr, Fault> {
    address(&socket.peer_addr().map_err(|error| Fault::of("getpeername", &error))?)
}

/// The line that a server writes. A padded one is filled with blanks in front of its end.
pub(super) fn write_answer(name: &str, client: SocketAddr, padding: usize) -> String {
    let line = format!("{name} {}", plain(client));
    format!("{line:<width$}\n", width = padding.saturating_sub(1))
}

fn read_answer(line: &[u8], sender: SocketAddr, latency_ns: u64) -> Result<Answer, Fault> {
    let text = std::str::from_utf8(line).map_err(|_| Fault::garbled("recv"))?;
    let mut words = text.split_whitespace();
    let (Some(by), Some(client)) = (words.next(), words.next()) else {
        return Err(Fault::garbled("recv"));
    };
    let seen_as = client.parse().map_err(|_| Fault::garbled("recv"))?;
    Ok(Answer { by: by.to_owned(), seen_as, sender, latency_ns })
}

/// Adds answers up.
#[derive(Debug)]
pub(super) struct Tally {
    report: AskReport,
    latency: Histogram<u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self { report: AskReport::default(), latency: latency::histogram() }
    }

    pub(super) fn add(&mut self, result: Result<Answer, Failure>) {
        match result {
            Ok(answer) => {
                *self.report.answered.entry(answer.by).or_default() += 1;
                self.report.seen_as.insert(answer.seen_as.ip());
                *self.report.senders.entry(answer.sender).or_default() += 1;
                latency::record(&mut self.latency, answer.latency_ns);
            }
            Err(failure) => {
                *self.report.errors.entry(failure.error.clone()).or_default() += 1;
                if self.report.failures.len() < FAILURES_KEPT {
                    self.report.failures.push(failure);
                }
            }
        }
    }

    pub(super) fn report(&self) -> AskReport {
        AskReport { latency: latency::summary(&self.latency), ..self.report.clone() }
    }
}

/// Asks many times.
pub(super) fn ask_many(target: &Target, times: u32, concurrency: u32) -> AskReport {
    let tally = std::sync::Mutex::new(Tally::new());
    let left = std::sync::atomic::AtomicU32::new(times);
    std::thread::scope(|scope| {
        for _ in 0..concurrency.clamp(1, times.max(1)) {
            scope.spawn(|| {
                use std::sync::atomic::Ordering::Relaxed;
                while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                    let result = ask(target);
                    tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(result);
                }
            });
        }
    });
    tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).report()
}

/// Connects a datagram socket, be it connected already or not, and asks.
pub(super) fn connect_and_ask(socket: &Socket, to: SocketAddr) -> Result<Answer, Fault> {
    let begin = Instant::now();
    socket.connect(&to.into()).map_err(|error| Fault::of("connect", &error))?;
    socket.send(&question(0)).map_err(|error| Fault::of("send", &error))?;
    let mut reply = vec![MaybeUninit::uninit(); DATAGRAM];
    let length = socket.recv(&mut reply).map_err(|error| Fault::of("recv", &error))?;
    read_answer(&filled(&reply, length), peer(socket)?, nanos(begin))
}

/// Waits for whatever comes on a datagram socket.
pub(super) fn wait(socket: &Socket) -> Result<(), Fault> {
    socket.recv(&mut [MaybeUninit::uninit(); 256]).map(drop).map_err(|error| Fault::of("recv", &error))
}

/// One UDP socket, several destinations.
pub(super) fn one_socket(plan: &OneSocket) -> Result<Vec<Exchange>, Failure> {
    let begin = Instant::now();
    let Some(first) = plan.to.first() else { return Ok(Vec::new()) };
    let timeout = Duration::from_millis(plan.timeout_ms);
    let v6 = plan.mapped || plan.to.iter().any(SocketAddr::is_ipv6);
    let family = if v6 { SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0) } else { *first };
    let socket = socket(Method::UdpConnected, family, timeout).map_err(|fault| fault.since(begin))?;
    let step = |to: SocketAddr| {
        let begin = Instant::now();
        let there = in_family(to, v6);
        let result =
            if plan.reconnect { connect_and_ask(&socket, there) } else { exchange(&socket, there, 0, false) };
        Exchange { to, result: result.map_err(|fault| fault.since(begin)) }
    };
    Ok(plan.to.iter().copied().map(step).collect())
}

/// getsockname and getpeername.
pub(super) fn names(target: &Target) -> Result<SocketNames, Failure> {
    let begin = Instant::now();
    let (socket, latency_ns) = connected(target).map_err(|fault| fault.since(begin))?;
    let look = || -> Result<SocketNames, Fault> {
        let local = socket.local_addr().map_err(|error| Fault::of("getsockname", &error))?;
        let peer = peer(&socket)?;
        let answer = if target.method == Method::Tcp {
            who(&socket, wish::WHO, latency_ns)?
        } else {
            socket.send(&question(0)).map_err(|error| Fault::of("send", &error))?;
            let mut reply = vec![MaybeUninit::uninit(); DATAGRAM];
            let length = socket.recv(&mut reply).map_err(|error| Fault::of("recv", &error))?;
            read_answer(&filled(&reply, length), peer, latency_ns)?
        };
        Ok(SocketNames { local: address(&local)?, peer, by: answer.by })
    };
    look().map_err(|fault| fault.since(begin))
}
