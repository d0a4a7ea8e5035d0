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

use super::ask::{in_family, socket, wish};
use super::failure::{Fault, nanos, nanoseconds};
use super::latency;
use super::protocol::{BenchSlice, Load, Method, SliceReport};

/// Time limit of every call in a benchmark.
const PATIENCE: Duration = Duration::from_secs(2);

/// For how long a connection is used before anything on it counts: congestion and receive windows have grown then.
const WARM_UP: Duration = Duration::from_millis(20);

/// What one worker has counted, and between when.
struct Count {
    begin: Instant,
    end: Instant,
    last: Instant,
    done: u64,
    bytes: u64,
    connect: Histogram<u64>,
    whole: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

pub(super) fn run(slice: &BenchSlice) -> SliceReport {
    let mut counts = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..slice.workers.max(1)).map(|_| scope.spawn(|| work(slice))).collect();
        for worker in workers {
            counts.push(worker.join().expect("a benchmark's thread does not panic"));
        }
    });
    let (mut connect, mut whole) = (latency::histogram(), latency::histogram());
    let mut report = SliceReport::default();
    for count in counts {
        report.count += count.done;
        report.bytes += count.bytes;
        report.elapsed_ns = report.elapsed_ns.max(nanoseconds(count.last - count.begin));
        connect.add(&count.connect).expect("all histograms have the same bounds");
        whole.add(&count.whole).expect("all histograms have the same bounds");
        for (error, times) in count.errors {
            *report.errors.entry(error).or_default() += times;
        }
    }
    SliceReport { connect: latency::summary(&connect), whole: latency::summary(&whole), ..report }
}

impl Count {
    fn begin(slice: &BenchSlice) -> Self {
        let now = Instant::now();
        Self {
            begin: now,
            end: now + Duration::from_millis(slice.for_ms),
            last: now,
            done: 0,
            bytes: 0,
            connect: latency::histogram(),
            whole: latency::histogram(),
            errors: BTreeMap::new(),
        }
    }

    /// Whether there is time left.
    fn goes_on(&self) -> bool {
        Instant::now() < self.end
    }

    fn fail(&mut self, fault: &Fault) {
        *self.errors.entry(fault.name().to_owned()).or_default() += 1;
        self.last = Instant::now();
    }

    fn finish(&mut self, begin: Instant) {
        self.last = Instant::now();
        latency::record(&mut self.whole, nanoseconds(self.last - begin));
        self.done += 1;
    }
}

fn work(slice: &BenchSlice) -> Count {
    let to: SockAddr = in_family(slice.to, slice.mapped).into();
    let mut count = Count::begin(slice);
    let result = match slice.load {
        Load::Connects { reset } => {
            connects(&to, reset, &mut count);
            Ok(())
        }
        Load::RequestResponse { size } => request_response(&to, size.max(1), slice, &mut count),
        Load::Throughput { chunk } => throughput(&to, chunk.max(1), slice, &mut count),
        Load::Datagrams { size, connected } => datagrams(&to, size.max(1), connected, &mut count),
    };
    if let Err(fault) = result {
        count.fail(&fault);
    }
    count
}

fn open(to: &SockAddr, method: Method) -> Result<Socket, Fault> {
    let address = to.as_socket().ok_or_else(|| Fault::garbled("sockaddr"))?;
    socket(method, address, PATIENCE)
}

fn connects(to: &SockAddr, reset: bool, count: &mut Count) {
    while count.goes_on() {
        let begin = Instant::now();
        match connect_once(to, reset) {
            Ok(connect_ns) => {
                latency::record(&mut count.connect, connect_ns);
                count.finish(begin);
            }
            Err(fault) => count.fail(&fault),
        }
    }
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

fn request_response(to: &SockAddr, size: usize, slice: &BenchSlice, count: &mut Count) -> Result<(), Fault> {
    let mut socket = open(to, Method::Tcp)?;
    socket.set_tcp_nodelay(true).map_err(|error| Fault::of("setsockopt", &error))?;
    socket.connect(to).map_err(|error| Fault::of("connect", &error))?;
    let mut bytes = vec![wish::TURN; size];
    let mut exchange = || {
        socket.write_all(&bytes).map_err(|error| Fault::of("send", &error))?;
        socket.read_exact(&mut bytes).map_err(|error| Fault::of("recv", &error))
    };
    let warm = Instant::now() + WARM_UP;
    while Instant::now() < warm {
        exchange()?;
    }
    *count = Count::begin(slice);
    while count.goes_on() {
        let begin = Instant::now();
        exchange()?;
        count.finish(begin);
    }
    Ok(())
}

fn throughput(to: &SockAddr, chunk: usize, slice: &BenchSlice, count: &mut Count) -> Result<(), Fault> {
    let mut socket = open(to, Method::Tcp)?;
    socket.connect(to).map_err(|error| Fault::of("connect", &error))?;
    socket.write_all(&[wish::SINK]).map_err(|error| Fault::of("send", &error))?;
    let bytes = vec![b'.'; chunk];
    let mut send = || socket.write_all(&bytes).map_err(|error| Fault::of("send", &error));
    let mut before = 0;
    let warm = Instant::now() + WARM_UP;
    while Instant::now() < warm {
        send()?;
        before += chunk as u64;
    }
    // From here on buffers are full, so that what is taken from us is what arrives.
    *count = Count::begin(slice);
    while count.goes_on() {
        let begin = Instant::now();
        send()?;
        count.finish(begin);
        count.bytes += chunk as u64;
    }
    socket.shutdown(Shutdown::Write).map_err(|error| Fault::of("shutdown", &error))?;
    let mut arrived = [0; 8];
    socket.read_exact(&mut arrived).map_err(|error| Fault::of("recv", &error))?;
    if u64::from_be_bytes(arrived) == before + count.bytes { Ok(()) } else { Err(Fault::garbled("recv")) }
}

fn datagrams(to: &SockAddr, size: usize, connected: bool, count: &mut Count) -> Result<(), Fault> {
    let socket = open(to, Method::UdpConnected)?;
    if connected {
        socket.connect(to).map_err(|error| Fault::of("connect", &error))?;
    }
    let request = vec![wish::ECHO; size];
    let mut reply = Vec::with_capacity(size);
    while count.goes_on() {
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
