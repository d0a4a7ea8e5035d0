//! A proxy between the server and a client that breaks their connection at will.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::socket::{self, sockopt};

use super::lock;
use super::port::Port;
use super::request::CONNECT_LIMIT;

/// A TCP forwarder that can break its connections, or refuse new ones.
#[derive(Debug)]
pub struct CuttingProxy {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    port: Port,
}

#[derive(Debug)]
struct Shared {
    listener: Listener,
    target: SocketAddr,
    mode: Mutex<Mode>,
    changed: Condvar,
    links: Mutex<Vec<Weak<Link>>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Forward,
    Refuse,
    Stop,
}

/// One forwarded connection. Its two threads share it, and the last to go closes both sockets.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: TcpStream,
    cut: AtomicBool,
}

impl Listener {
    pub(super) fn new(addr: SocketAddr) -> Result<Self> {
        // By number, for the kernel takes back a port that it chose itself when the socket stops listening.
        let port = Port::reserve(addr)?;
        Ok(Self { socket: TcpListener::bind(port.addr)?, port })
    }

    fn close(&self) {
        // On Linux this ends listening and wakes `accept`; the socket itself stays and can listen again.
        let _ = socket::shutdown(self.socket.as_raw_fd(), socket::Shutdown::Both);
    }

    fn open(&self) -> Result<()> {
        Ok(socket::listen(&self.socket, socket::Backlog::new(128)?)?)
    }
}

impl CuttingProxy {
    /// Forwards a free port of `listen` to `target`, both in the network namespace of the calling thread.
    pub fn start(listen: IpAddr, target: SocketAddr) -> Result<Self> {
        Self::run(Listener::new(SocketAddr::new(listen, 0))?, target)
    }

    pub(super) fn run(listener: Listener, target: SocketAddr) -> Result<Self> {
        let mode = Mutex::new(Mode::Forward);
        let (changed, links) = (Condvar::new(), Mutex::default());
        let shared = Arc::new(Shared { listener, target, mode, changed, links });
        let body = Arc::clone(&shared);
        let acceptor = thread::Builder::new().name("cutting-proxy".into()).spawn(move || body.accept())?;
        Ok(Self { shared, acceptor: Some(acceptor) })
    }

    /// Where the proxy listens.
    pub fn addr(&self) -> SocketAddr {
        self.shared.listener.port.addr
    }

    /// `https://ADDRESS:PORT`, for [`ApiServer::kubeconfig`].
    pub fn url(&self) -> String {
        format!("https://{}", self.addr())
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        lock(&self.shared.links).iter().filter(|link| link.strong_count() > 0).count()
    }

    /// Resets all connections, in whatever they are in the middle of; returns how many there were.
    /// New ones are still accepted.
    pub fn cut(&self) -> usize {
        let links = std::mem::take(&mut *lock(&self.shared.links));
        let cut = links.iter().filter_map(Weak::upgrade).map(|link| link.cut()).count();
        // Closing is up to the forwarding threads, which wake up at once.
        let started = Instant::now();
        while links.iter().any(|link| link.strong_count() > 0) && started.elapsed() < CONNECT_LIMIT {
            thread::sleep(Duration::from_millis(1));
        }
        cut
    }

    /// From now on new connections are refused, or accepted again. Open ones go on; see
    /// [`cut`](Self::cut).
    pub fn refuse(&self, refuse: bool) -> Result<()> {
        let mut mode = lock(&self.shared.mode);
        match (*mode, refuse) {
            (Mode::Forward, true) => {
                *mode = Mode::Refuse;
                self.shared.listener.close();
            }
            (Mode::Refuse, false) => {
                self.shared.listener.open()?;
                *mode = Mode::Forward;
                self.shared.changed.notify_all();
            }
            _ => {}
        }
        Ok(())
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        *lock(&self.shared.mode) = Mode::Stop;
        self.shared.listener.close();
        self.shared.changed.notify_all();
        if let Some(acceptor) = self.acceptor.take() {
            // It has nothing to say but that it panicked, and panicking in a drop would hide why.
            let _ = acceptor.join();
        }
        self.cut();
    }
}

impl Shared {
    fn accept(self: &Arc<Self>) {
        loop {
            match self.listener.socket.accept() {
                Ok((client, _)) => {
                    let shared = Arc::clone(self);
                    thread::spawn(move || shared.forward(client));
                }
                Err(_) => {
                    let mode = lock(&self.mode);
                    let mode = self.changed.wait_while(mode, |mode| *mode == Mode::Refuse);
                    if *mode.unwrap_or_else(PoisonError::into_inner) == Mode::Stop {
                        return;
                    }
                    // An error of one connection, perhaps. Not a reason to spin.
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    fn forward(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect_timeout(&self.target, CONNECT_LIMIT) else {
            // The listener has already accepted: a reset is the nearest to "refused" that is left.
            reset_on_close(&client);
            return;
        };
        let link = Arc::new(Link { client, server, cut: AtomicBool::new(false) });
        for stream in [&link.client, &link.server] {
            // Without delay, and with a way out for a writer whose reader has stopped reading.
            let _ = stream.set_nodelay(true);
            let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
        }
        let mut links = lock(&self.links);
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(&link));
        drop(links);
        if *lock(&self.mode) == Mode::Stop {
            // The proxy has already cut all that it knew.
            return link.cut();
        }

        let back = Arc::clone(&link);
        thread::spawn(move || back.pump(&back.server, &back.client));
        link.pump(&link.client, &link.server);
    }
}

impl Link {
    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        for stream in [&self.client, &self.server] {
            reset_on_close(stream);
            // Wakes the reader and, unlike a shutdown of the other direction, says nothing to the peer.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    fn pump(&self, mut from: &TcpStream, to: &TcpStream) {
        let mut buffer = [0; 16 * 1024];
        loop {
            let result =
                from.read(&mut buffer).and_then(|count| self.write(to, &buffer[..count]).map(|()| count));
            if self.cut.load(Ordering::Acquire) {
                return;
            }
            match result {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Reset by one side: so shall it be for the other.
                Err(_) => return self.cut(),
            }
        }
    }

    fn write(&self, mut to: &TcpStream, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() && !self.cut.load(Ordering::Acquire) {
            match to.write(data) {
                Ok(count) => data = &data[count..],
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Makes closing the socket a reset of its connection.
fn reset_on_close(stream: &TcpStream) {
    // Fails only for what is no socket.
    let _ = socket::setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}
