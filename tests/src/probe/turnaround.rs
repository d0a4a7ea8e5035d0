//! A server for benchmarks: threads that block in every call, one connection at a time each.
//!
//! Invariant: no system call but those that every server needs.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::ask::wish;

/// The listener and its threads.
#[derive(Debug)]
pub(super) struct Turnaround {
    socket: Arc<TcpListener>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Turnaround {
    pub(super) fn start(socket: TcpListener, threads: u32) -> io::Result<Self> {
        let (socket, stop) = (Arc::new(socket), Arc::new(AtomicBool::new(false)));
        let serve = || {
            let (socket, stop) = (Arc::clone(&socket), Arc::clone(&stop));
            thread::Builder::new().name("turnaround".into()).spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // A client that resets in the middle, which is how most end, is no news to a server.
                    let _ = socket.accept().and_then(|(stream, _)| turn(stream));
                }
            })
        };
        let threads = (0..threads.max(1)).map(|_| serve()).collect::<io::Result<_>>()?;
        Ok(Self { socket, stop, threads })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes every accept.
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

fn turn(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = [0; 1024];
    let mut length = stream.read(&mut bytes)?;
    if bytes[0] == wish::SINK {
        return swallow(stream, length - 1);
    }
    // The client closes first.
    while length > 0 {
        stream.write_all(&bytes[..length])?;
        length = stream.read(&mut bytes)?;
    }
    stream.shutdown(Shutdown::Both)
}

/// Reads to the end and says how much that was, and what was read before.
fn swallow(mut stream: TcpStream, before: usize) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let (mut sum, mut length) = (0, before);
    loop {
        sum += length as u64;
        length = stream.read(&mut buffer)?;
        if length == 0 {
            return stream.write_all(&sum.to_be_bytes());
        }
    }
}
