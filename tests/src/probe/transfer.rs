//! Large transfers in both directions at once, with digests computed at both ends.
//!
//! Invariant: a digest covers what a socket call was given or has given, in order; nothing is computed twice.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use crc::{CRC_64_XZ, Crc, Digest, Table};
use socket2::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ask::{connected, wish};
use super::failure::{Fault, nanos};
use super::protocol::{Digests, Failure, Transfer, TransferReport};

static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_XZ);

const CHUNK: usize = 1 << 16;

/// So many random bytes, a chunk at a time.
struct Source<'chunk> {
    random: fastrand::Rng,
    left: u64,
    chunk: &'chunk mut [u8],
    digest: Digest<'static, u64, Table<16>>,
}

impl<'chunk> Source<'chunk> {
    fn new(seed: u64, left: u64, chunk: &'chunk mut [u8]) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), left, chunk, digest: CRC.digest() }
    }

    fn next(&mut self) -> Option<&[u8]> {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.chunk.len());
        self.left -= length as u64;
        self.random.fill(self.chunk);
        let bytes = &self.chunk[..length];
        self.digest.update(bytes);
        (length > 0).then_some(bytes)
    }
}

/// The client's end.
pub(super) fn run(transfer: &Transfer) -> Result<TransferReport, Failure> {
    let begin = Instant::now();
    let end = begin + Duration::from_millis(transfer.within_ms);
    exchange(transfer, begin, end).map_err(|fault| fault.since(begin))
}

fn exchange(transfer: &Transfer, begin: Instant, end: Instant) -> Result<TransferReport, Fault> {
    let (socket, _) = connected(&transfer.target)?;
    let mut request = vec![wish::TRANSFER];
    request.extend_from_slice(&transfer.bytes.to_be_bytes());
    request.extend_from_slice(&transfer.seed.to_be_bytes());
    (&socket).write_all(&request).map_err(|error| Fault::of("send", &error))?;
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&socket, transfer, end));
        let received = receive(&socket, transfer.bytes, end);
        if received.is_err() {
            // The sender may wait for a server that reads no more.
            let _ = socket.shutdown(Shutdown::Both);
        }
        let sent = sending.join().expect("the sending thread does not panic");
        let (arrived_here, [arrived_there, sent_there]) = received?;
        Ok(TransferReport {
            there: Digests { sent: sent?, arrived: arrived_there },
            back: Digests { sent: sent_there, arrived: arrived_here },
            elapsed_ns: nanos(begin),
        })
    })
}

fn in_time(call: &'static str, end: Instant) -> Result<(), Fault> {
    let late = || Fault::of(call, &io::Error::from_raw_os_error(libc::EAGAIN));
    if Instant::now() < end { Ok(()) } else { Err(late()) }
}

fn send(mut socket: &Socket, transfer: &Transfer, end: Instant) -> Result<u64, Fault> {
    let mut chunk = vec![0; CHUNK];
    let mut source = Source::new(transfer.seed, transfer.bytes, &mut chunk);
    while let Some(bytes) = source.next() {
        in_time("send", end)?;
        socket.write_all(bytes).map_err(|error| Fault::of("send", &error))?;
    }
    Ok(source.digest.finalize())
}

/// The digest of what arrives, and the two that the server says afterwards.
fn receive(mut socket: &Socket, mut left: u64, end: Instant) -> Result<(u64, [u64; 2]), Fault> {
    let mut chunk = vec![0; CHUNK];
    let mut digest = CRC.digest();
    while left > 0 {
        in_time("recv", end)?;
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
        match socket.read(&mut chunk[..wanted]).map_err(|error| Fault::of("recv", &error))? {
            0 => return Err(Fault::closed("recv")),
            length => {
                digest.update(&chunk[..length]);
                left -= length as u64;
            }
        }
    }
    let mut words = [[0; 8]; 2];
    for word in &mut words {
        socket.read_exact(word).map_err(|error| Fault::of("recv", &error))?;
    }
    Ok((digest.finalize(), words.map(u64::from_be_bytes)))
}

/// The server's end.
pub(super) async fn serve(stream: &mut TcpStream) -> io::Result<()> {
    let (bytes, seed) = (stream.read_u64().await?, stream.read_u64().await?);
    let (mut from, mut to) = stream.split();
    let receive = async {
        let (mut chunk, mut digest, mut left) = (vec![0; CHUNK], CRC.digest(), bytes);
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK);
            match from.read(&mut chunk[..wanted]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => {
                    digest.update(&chunk[..length]);
                    left -= length as u64;
                }
            }
        }
        Ok(digest.finalize())
    };
    let send = async {
        let mut chunk = vec![0; CHUNK];
        let mut source = Source::new(!seed, bytes, &mut chunk);
        while let Some(bytes) = source.next() {
            to.write_all(bytes).await?;
        }
        io::Result::Ok(source.digest.finalize())
    };
    let (arrived, sent) = tokio::try_join!(receive, send)?;
    stream.write_u64(arrived).await?;
    stream.write_u64(sent).await
}
