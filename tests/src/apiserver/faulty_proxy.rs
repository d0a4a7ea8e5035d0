//! A proxy that speaks HTTP and TLS with both sides, and does neither well.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{self, sockopt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConnection, ServerConnection, StreamOwned};

use super::request::CONNECT_LIMIT;
use super::{ApiServer, lock};

/// How often everything looks whether something has changed.
const TICK: Duration = Duration::from_millis(20);

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Nothing.
    Nothing,
    /// Whatever the server says is late, by up to a third of a second.
    Latency,
    /// Connections are cut in the middle of what the server says.
    Resets,
    /// Requests are answered with 503.
    Errors,
    /// Requests are answered with 429, and to come back after a second.
    TooMany,
    /// What the server says is held up until the trouble is over.
    Silence,
    /// Connections vanish without a word, as if this machine had lost power: who holds one finds out by asking.
    Vanish,
}

impl Trouble {
    /// All that may be wrong.
    pub const ALL: [Self; 6] =
        [Self::Latency, Self::Resets, Self::Errors, Self::TooMany, Self::Silence, Self::Vanish];
}

/// See the module's documentation. Each connection carries one request.
#[derive(Debug)]
pub struct FaultyProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    as_server: Arc<rustls::ServerConfig>,
    as_client: Arc<rustls::ClientConfig>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    trouble: Trouble,
    is_over: bool,
    rng: fastrand::Rng,
    /// How many times which trouble has been made.
    made: BTreeMap<Trouble, u32>,
}

type ToClient = StreamOwned<ServerConnection, TcpStream>;

impl ApiServer {
    /// A faulty proxy to this server, on a free port of 127.0.0.1 in the network namespace of the calling thread.
    pub fn faulty_proxy(&self, seed: u64) -> Result<FaultyProxy> {
        let file = |name: &str| fs::read(self.dir.path().join(name)).context(name.to_owned());
        let chain = CertificateDer::from_pem_slice(&file("serving.crt")?)?;
        let key = PrivateKeyDer::from_pem_slice(&file("serving.key")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)?;
        let state = State {
            trouble: Trouble::Nothing,
            is_over: false,
            rng: fastrand::Rng::with_seed(seed),
            made: BTreeMap::new(),
        };
        let shared = Arc::new(Shared {
            target: self.addr(),
            as_server: Arc::new(config),
            as_client: Arc::clone(&self.tls),
            state: Mutex::new(state),
        });
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let body = Arc::clone(&shared);
        // Its threads connect where the server is.
        let acceptor = self.keeper.run(move || thread::spawn(move || body.accept(&listener)))?;
        Ok(FaultyProxy { addr, shared, acceptor: Some(acceptor) })
    }
}

impl FaultyProxy {
    /// `https://ADDRESS:PORT`, for [`ApiServer::kubeconfig`].
    pub fn url(&self) -> String {
        format!("https://{}", self.addr)
    }

    /// From now on this is wrong.
    pub fn make(&self, trouble: Trouble) {
        lock(&self.shared.state).trouble = trouble;
    }

    /// How many times which trouble has been made.
    pub fn made(&self) -> BTreeMap<Trouble, u32> {
        lock(&self.shared.state).made.clone()
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        lock(&self.shared.state).is_over = true;
        if let Some(acceptor) = self.acceptor.take() {
            // It has nothing to say but that it panicked, and panicking in a drop would hide why.
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut carriers: Vec<JoinHandle<()>> = Vec::new();
        while !self.is_over() {
            match listener.accept() {
                Ok((client, _)) => {
                    let shared = Arc::clone(self);
                    // Whatever ends a connection, the client has to cope with it.
                    carriers.push(thread::spawn(move || drop(shared.carry(client))));
                }
                Err(_) => thread::sleep(TICK),
            }
            carriers.retain(|carrier| !carrier.is_finished());
        }
        for carrier in carriers {
            let _ = carrier.join();
        }
    }

    fn is_over(&self) -> bool {
        lock(&self.state).is_over
    }

    /// Whether this is wrong now; it is counted if so.
    fn is(&self, trouble: Trouble) -> bool {
        let mut state = lock(&self.state);
        let is = state.trouble == trouble && !state.is_over;
        if is {
            *state.made.entry(trouble).or_default() += 1;
        }
        is
    }

    fn dice(&self, most: usize) -> usize {
        lock(&self.state).rng.usize(..=most)
    }

    /// Carries one request and its answer.
    fn carry(&self, client: TcpStream) -> Result<()> {
        prepare(&client)?;
        let mut client: ToClient =
            StreamOwned::new(ServerConnection::new(Arc::clone(&self.as_server))?, client);
        let request = self.request(&mut client)?;
        if self.is(Trouble::Errors) {
            return refuse(&mut client, "503 Service Unavailable\r\n");
        }
        if self.is(Trouble::TooMany) {
            return refuse(&mut client, "429 Too Many Requests\r\nretry-after: 1\r\n");
        }
        let server = TcpStream::connect_timeout(&self.target, CONNECT_LIMIT)?;
        prepare(&server)?;
        let name = ServerName::from(self.target.ip());
        let tls = ClientConnection::new(Arc::clone(&self.as_client), name)?;
        let mut server = StreamOwned::new(tls, server);
        all(&mut server, &request)?;
        self.answer(&mut server, &mut client)
    }

    /// Reads a request, and makes it the last one of its connection.
    fn request(&self, client: &mut ToClient) -> Result<Vec<u8>> {
        let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            if let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
                let length =
                    head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
                if request.len() >= end + 4 + length.unwrap_or(0) {
                    request.splice(end..end, b"\r\nconnection: close".iter().copied());
                    return Ok(request);
                }
            }
            ensure!(!self.is_over(), "the proxy ends");
            match client.read(&mut buffer) {
                Ok(0) => anyhow::bail!("no request"),
                Ok(count) => request.extend_from_slice(&buffer[..count]),
                Err(error) if is_idle(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn answer(&self, server: &mut impl Read, client: &mut ToClient) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            ensure!(!self.is_over(), "the proxy ends");
            if self.is(Trouble::Vanish) {
                // Closed in this state, a socket says nothing to its peer.
                return Ok(socket::setsockopt(&client.sock, sockopt::TcpRepair, &1)?);
            }
            let count = match server.read(&mut buffer) {
                Ok(0) => {
                    client.conn.send_close_notify();
                    return Ok(client.flush()?);
                }
                Ok(count) => count,
                // Nobody reads any more: the server should not have to find out.
                Err(error) if is_idle(&error) && matches!(client.sock.peek(&mut [0]), Ok(0)) => return Ok(()),
                Err(error) if is_idle(&error) => continue,
                Err(error) => return Err(error.into()),
            };
            if self.is(Trouble::Latency) {
                thread::sleep(Duration::from_millis(1) * u32::try_from(self.dice(300))?);
            }
            while self.is(Trouble::Silence) {
                thread::sleep(TICK);
            }
            if self.is(Trouble::Resets) {
                all(client, &buffer[..self.dice(count - 1)])?;
                let reset = libc::linger { l_onoff: 1, l_linger: 0 };
                return Ok(socket::setsockopt(&client.sock, sockopt::Linger, &reset)?);
            }
            all(client, &buffer[..count])?;
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TICK))?;
    stream.set_write_timeout(Some(CONNECT_LIMIT))
}

fn is_idle(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Writes all, also while the handshake is not over, of which the stream reads its part.
fn all(stream: &mut impl Write, data: &[u8]) -> Result<()> {
    let mut data = data;
    while !data.is_empty() {
        match stream.write(data) {
            Ok(count) => data = &data[count..],
            Err(error) if is_idle(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    loop {
        match stream.flush() {
            Err(error) if is_idle(&error) => {}
            result => return Ok(result?),
        }
    }
}

fn refuse(client: &mut ToClient, status: &str) -> Result<()> {
    all(client, format!("HTTP/1.1 {status}connection: close\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
    client.conn.send_close_notify();
    Ok(client.flush()?)
}
