//! An API server that says as much as its client can read: each watch tells of change after change, without a pause.
//!
//! It speaks just enough HTTP/1.1. Lists come in pages. Watches end in good order now and then, and are gone on with where
//! they were; now and then the place is said to be forgotten, and all is listed anew.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use kubeshunt_tests::Node;

use super::world::{Kind, World};

/// Lines of a watch before it ends.
const LINES: u64 = 20_000;

/// One in so many watches cannot be gone on with.
const FORGETS: u64 = 8;

/// Lines that are written at once.
const BATCH: usize = 32;

/// Between two looks whether a watch that says nothing is to say something.
const LOOK: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Shared {
    node: String,
    world: Mutex<World>,
    /// What all threads are to do.
    pace: Mutex<Pace>,
    /// Lines of watches so far.
    told: AtomicU64,
    watches: AtomicU64,
    /// Connections, to be shut down at the end.
    open: Mutex<Vec<TcpStream>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Full,
    None,
    End,
}

/// The server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    node: Node,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// On the node's loopback. Nothing happens before [`Server::churn`].
    pub(crate) fn start(node: &Node, world: World) -> Result<Self> {
        let listener = node.netns().run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            node: node.name().to_owned(),
            world: Mutex::new(world),
            pace: Mutex::new(Pace::None),
            told: AtomicU64::new(0),
            watches: AtomicU64::new(0),
            open: Mutex::default(),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        });
        Ok(Self { address, node: node.clone(), shared, acceptor: Some(acceptor) })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// As much as can be, from now on.
    pub(crate) fn churn(&self) {
        *lock(&self.shared.pace) = Pace::Full;
    }

    /// Nothing any more.
    pub(crate) fn calm(&self) {
        *lock(&self.shared.pace) = Pace::None;
    }

    /// Changes told so far.
    pub(crate) fn told(&self) -> u64 {
        self.shared.told.load(Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        *lock(&self.shared.pace) = Pace::End;
        // Wakes the thread that accepts; if that fails it has ended already.
        drop(self.node.netns().run(|| TcpStream::connect(self.address)));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut threads = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            if self.pace() == Pace::End {
                break;
            }
            if let Ok(stream) = stream.try_clone() {
                lock(&self.open).push(stream);
            }
            threads.retain(|thread: &JoinHandle<()>| !thread.is_finished());
            let shared = Arc::clone(self);
            // A client that goes away is none of our business.
            threads.push(thread::spawn(move || drop(shared.answer(&stream))));
        }
        for stream in lock(&self.open).drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }

    fn answer(&self, stream: &TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while reader.read_line(&mut head)? > 2 {}
        let target = head.split(' ').nth(1).context("no target")?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query: HashMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let number = |key: &str| query.get(key).and_then(|value| value.parse().ok());
        let result = match (Kind::of(path), query.get("watch") == Some(&"true")) {
            (Some(kind), true) => self.watch(stream, kind, number("resourceVersion").unwrap_or_default()),
            (Some(kind), false) => self.page(stream, kind, &query),
            (None, true) => self.silence(stream),
            (None, false) if path == "/api/v1/nodes" => {
                list(stream, 1, "", &format!("{{\"metadata\":{{\"name\":\"{}\"}}}}", self.node))
            }
            (None, false) => list(stream, 1, "", ""),
        };
        drop(stream.shutdown(Shutdown::Both));
        result
    }

    fn page(&self, stream: &TcpStream, kind: Kind, query: &HashMap<&str, &str>) -> Result<()> {
        let world = lock(&self.world);
        let number = |key: &str| query.get(key).and_then(|value| value.parse::<usize>().ok());
        let first = number("continue").unwrap_or_default();
        let end = number("limit").map_or(world.len(), |limit| (first + limit).min(world.len()));
        let next = if end < world.len() { end.to_string() } else { String::new() };
        // What has happened between two pages is told by the watch: nothing then, for simplicity.
        let (version, items) = (world.version(kind), world.list(kind, first..end));
        drop(world);
        list(stream, version, &next, &items)
    }

    fn watch(&self, mut stream: &TcpStream, kind: Kind, from: u64) -> Result<()> {
        let forgets = self.watches.fetch_add(1, Relaxed) % FORGETS == FORGETS - 1;
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        )?;
        if forgets || lock(&self.world).version(kind) != from {
            return chunk(stream, "{\"type\":\"ERROR\",\"object\":{\"code\":410,\"reason\":\"Expired\"}}\n");
        }
        let (mut told, mut lines) = (0, String::new());
        while told < LINES {
            match self.pace() {
                Pace::End => return Ok(()),
                Pace::None => thread::sleep(LOOK),
                Pace::Full => {
                    lines.clear();
                    let mut world = lock(&self.world);
                    for _ in 0..BATCH {
                        world.churn(kind, &mut lines);
                    }
                    drop(world);
                    chunk(stream, &lines)?;
                    let count = u64::try_from(lines.matches('\n').count())?;
                    told += count;
                    self.told.fetch_add(count, Relaxed);
                }
            }
        }
        Ok(stream.write_all(b"0\r\n\r\n")?)
    }

    fn silence(&self, mut stream: &TcpStream) -> Result<()> {
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        )?;
        while self.pace() != Pace::End {
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn pace(&self) -> Pace {
        *lock(&self.pace)
    }
}

fn list(mut stream: &TcpStream, version: u64, next: &str, items: &str) -> Result<()> {
    let body = format!(
        "{{\"metadata\":{{\"resourceVersion\":\"{version}\",\"continue\":\"{next}\"}},\"items\":[{items}]}}"
    );
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )?;
    Ok(())
}

fn chunk(mut stream: &TcpStream, text: &str) -> Result<()> {
    Ok(write!(stream, "{:x}\r\n{text}\r\n", text.len())?)
}

/// Whoever panicked has made the test fail already.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
