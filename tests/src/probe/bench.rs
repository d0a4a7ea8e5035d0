//! Closed loops that run for a slice of time.
//!
//! Invariant: between two clock readings lie only the system calls that are measured; whatever is
//! recorded is recorded afterwards, per worker, without a lock.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use socket2::{SockAddr, Socket};

use super::ask::{in_family, socket, who, wish};
use super::failure::{Fault, nanos};
use super::latency;
use super::protocol::{BenchSlice, Load, Method, SliceReport};

/// Time limit of every call in a benchmark.
const PATIENCE: Duration = Duration::from_secs(2);

/// What one worker has counted.
struct Count {
    done: u64,
    bytes: u64,
    connect: Histogram<u64>,
    whole: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

pub(super) fn run(slice: &BenchSlice) -> SliceReport {
    let begin = Instant::now();
    let end = begin + Duration::from_millis(slice.for_ms);
    let mut counts = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..slice.workers.max(1)).map(|_| scope.spawn(|| work(slice, end))).collect();
        for worker in workers {
            counts.push(worker.join().expect("a benchmark's thread does not panic"));
        }
    });
    let elapsed_ns = nanos(begin);
    let mut sum = Count::new();
    for count in counts {
        sum.done += count.done;
        sum.bytes += count.bytes;
        sum.connect.add(&count.connect).expect("all histograms have the same bounds");
        sum.whole.add(&count.whole).expect("all histograms have the same bounds");
        for (error, times) in count.errors {
            *sum.errors.entry(error).or_default() += times;
        }
    }
    SliceReport {
        count: sum.done,
        bytes: sum.bytes,
        elapsed_ns,
        connect: latency::summary(&sum.connect),
        whole: latency::summary(&sum.whole),
        errors: sum.errors,
    }
}

impl Count {
    fn new() -> Self {
        Self {
            done: 0,
            bytes: 0,
            connect: latency::histogram(),
            whole: latency::histogram(),
            errors: BTreeMap::new(),
        }
    }

    fn fail(&mut self, fault: &Fault) {
        *self.errors.entry(fault.name().to_owned()).or_default() += 1;
    }

    fn finish(&mut self, begin: Instant) {
        latency::record(&mut self.whole, nanos(begin));
        self.done += 1;
    }
}

fn work(slice: &BenchSlice, end: Instant) -> Count {
    let mut count = Count::new();
    let to: SockAddr = in_family(slice.to, slice.mapped).into();
    match slice.load {
        Load::Connects { reset } => {
            while Instant::now() < end {
                let begin = Instant::now();
                match connect_once(&to, reset) {
                    Ok(connect_ns) => {
                        latency::record(&mut count.connect, connect_ns);
                        count.finish(begin);
                    }
                    Err(fault) => count.fail(&fault),
                }
            }
        }
        Load::RequestResponse { size } => {
            if let Err(fault) = request_response(&to, size.max(1), end, &mut count) {
                count.fail(&fault);
            }
        }
        Load::Throughput { chunk } => {
            if let Err(fault) = throughput(&to, chunk.max(1), end, &mut count) {
                count.fail(&fault);
            }
        }
        Load::Datagrams { size, connected } => {
            if let Err(fault) = datagrams(&to, size.max(1), connected, end, &mut count) {
                count.fail(&fault);
            }
        }
    }
    count
}

fn open(to: &SockAddr, method: Method) -> Result<Socket, Fault> {
    let address = to.as_socket().ok_or_else(|| Fault::garbled("sockaddr"))?;
    socket(method, address, PATIENCE)
}

fn connect_once(to: &SockAddr, reset: bool) -> Result<u64, Fault> {
    let mut socket = open(to, Method::Tcp)?;
    let begin = Instant::now();
    socket.connect(to).map_err(|error| Fault::of("connect", &error))?;
    let connect_ns = nanos(begin);
    socket.write_all(&[wish::TURN]).map_err(|error| Fault::of("send", &error))?;
    socket.read_exact(&mut [0]).map_err(|error| Fault::of("recv", &error))?;
    if reset {
        socket.set_linger(Some(Duration::ZERO)).map_err(|error| Fault::of("setsockopt", &error))?;
    }
    Ok(connect_ns)
}

fn request_response(to: &SockAddr, size: usize, end: Instant, count: &mut Count) -> Result<(), Fault> {
    let mut socket = open(to, Method::Tcp)?;
    socket.set_tcp_nodelay(true).map_err(|error| Fault::of("setsockopt", &error))?;
    socket.connect(to).map_err(|error| Fault::of("connect", &error))?;
    who(&socket, wish::ECHO, 0)?;
    let mut bytes = vec![b'.'; size];
    while Instant::now() < end {
        let begin = Instant::now();
        socket.write_all(&bytes).map_err(|error| Fault::of("send", &error))?;
        socket.read_exact(&mut bytes).map_err(|error| Fault::of("recv", &error))?;
        count.finish(begin);
    }
    Ok(())
}

fn throughput(to: &SockAddr, chunk: usize, end: Instant, count: &mut Count) -> Result<(), Fault> {
    let mut socket = open(to, Method::Tcp)?;
    socket.connect(to).map_err(|error| Fault::of("connect", &error))?;
    socket.write_all(&[wish::SINK]).map_err(|error| Fault::of("send", &error))?;
    let bytes = vec![b'.'; chunk];
    while Instant::now() < end {
        let begin = Instant::now();
        socket.write_all(&bytes).map_err(|error| Fault::of("send", &error))?;
        count.finish(begin);
    }
    socket.shutdown(Shutdown::Write).map_err(|error| Fault::of("shutdown", &error))?;
    let mut arrived = [0; 8];
    socket.read_exact(&mut arrived).map_err(|error| Fault::of("recv", &error))?;
    count.bytes = u64::from_be_bytes(arrived);
    Ok(())
}

fn datagrams(
    to: &SockAddr,
    size: usize,
    connected: bool,
    end: Instant,
    count: &mut Count,
) -> Result<(), Fault> {
    let socket = open(to, Method::UdpConnected)?;
    if connected {
        socket.connect(to).map_err(|error| Fault::of("connect", &error))?;
    }
    let request = vec![wish::ECHO; size];
    let mut reply = Vec::with_capacity(size);
    while Instant::now() < end {
        reply.clear();
        let begin = Instant::now();
        let result = if connected {
            socket.send(&request).map_err(|error| Fault::of("send", &error)).and_then(|_| {
                socket.recv(reply.spare_capacity_mut()).map_err(|error| Fault::of("recv", &error))
            })
        } else {
            socket.send_to(&request, to).map_err(|error| Fault::of("sendto", &error)).and_then(|_| {
                let received = socket.recv_from(reply.spare_capacity_mut());
                received.map(|(length, _)| length).map_err(|error| Fault::of("recvfrom", &error))
            })
        };
        match result {
            Ok(_) => count.finish(begin),
            Err(fault) => count.fail(&fault),
        }
    }
    Ok(())
}
