//! Probes: processes inside a pod, a node or the outside world that talk as real clients and servers
//! do, and report what they saw.
//!
//! [`protocol`] is the contract; [`Probe`] is the harness's handle; [`agent`] and the modules below it
//! run inside the probe process.
//!
//! Invariant: a probe ends with its harness (parent-death signal, and end of file on its input).

/// Unwraps the answer that fits the question.
macro_rules! expect_answer {
    ($answer:expr, $pattern:pat => $value:expr) => {
        match $answer {
            $pattern => Ok($value),
            other => bail!("the probe gave an answer to another question: {other:?}"),
        }
    };
}

pub mod agent;
mod aim;
mod ask;
mod bench;
mod echo;
mod failure;
mod held;
mod kept;
mod latency;
mod loads;
pub mod protocol;
mod serve;
mod session;
mod stream;
mod transfer;
mod trickle;
mod turnaround;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

pub use self::latency::merge;
use self::protocol::{
    Aim, Aimed, AskReport, BenchSlice, Exchange, Failure, KeptSocket, Listener, OneSocket, Request, Response,
    Service, SessionHealth, SessionOpened, SliceReport, SocketNames, StreamReport, StreamSpec, Target,
};
use crate::cgroup::Cgroup;
use crate::netns::NetNs;
use crate::process;

/// The harness's handle of a probe process. One request at a time; streams run in the background.
#[derive(Debug)]
pub struct Probe {
    name: String,
    process: Mutex<Child>,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

/// A running listener: its number at the probe, and its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    listener: u64,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Probe {
    /// Starts a probe that calls itself `name` inside the namespace and the cgroup.
    ///
    /// # Errors
    /// When the probe program is missing or cannot be run.
    pub fn start(name: &str, netns: &NetNs, cgroup: &Cgroup) -> Result<Self> {
        let mut command = Command::new(program()?);
        command.arg("agent").arg("--name").arg(name).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = process::spawn_in(netns, cgroup, command)?;
        let stdin = process.stdin.take().expect("stdin is piped");
        let stdout = process.stdout.take().expect("stdout is piped");
        Ok(Self {
            name: name.to_owned(),
            process: Mutex::new(process),
            pipes: Mutex::new((stdin, BufReader::new(stdout))),
        })
    }

    /// The name with which its servers answer.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process, for `nsenter --net=/proc/PID/ns/net`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// When the probe is gone or could not carry it out.
    pub fn request(&self, request: &Request) -> Result<Response> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let (stdin, stdout) = &mut *pipes;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        stdin.write_all(line.as_bytes()).with_context(|| format!("the probe {} is gone", self.name))?;
        line.clear();
        if stdout.read_line(&mut line).with_context(|| format!("cannot read from probe {}", self.name))? == 0
        {
            bail!("the probe {} died while at: {request:?}", self.name);
        }
        let response = serde_json::from_str(&line).with_context(|| {
            format!("cannot read the answer of probe {}; is kubeshunt-probe up to date? {line}", self.name)
        })?;
        match response {
            Response::Failed(why) => bail!("probe {}: {why}", self.name),
            response => Ok(response),
        }
    }

    /// Starts a server.
    ///
    /// # Errors
    /// When the address cannot be bound, or the probe is gone.
    pub fn serve(&self, service: Service, bind: SocketAddr) -> Result<Serving> {
        let answer = self.request(&Request::Serve(Listener { bind, service }))?;
        expect_answer!(answer, Response::Listening { listener, address } => Serving { listener, address })
    }

    /// Closes a listener; with `connections`, what it accepted too.
    ///
    /// # Errors
    /// When the probe is gone.
    pub fn stop_serving(&self, serving: Serving, connections: bool) -> Result<()> {
        let answer = self.request(&Request::StopServing { listener: serving.listener, connections })?;
        expect_answer!(answer, Response::Done => ())
    }

    /// Asks a server `times` times who it is, by `concurrency` threads.
    ///
    /// # Errors
    /// When the probe is gone. Failed questions are in the report.
    pub fn ask(&self, target: &Target, times: u32, concurrency: u32) -> Result<AskReport> {
        let answer = self.request(&Request::Ask { target: target.clone(), times, concurrency })?;
        expect_answer!(answer, Response::Asked(report) => report)
    }

    /// Connects many sockets, one after the other, and sees where each is led.
    ///
    /// # Errors
    /// When the probe is gone.
    pub fn aim(&self, aims: Vec<Aim>) -> Result<Vec<Aimed>> {
        expect_answer!(self.request(&Request::Aim(aims))?, Response::Aimed(list) => list)
    }

    /// Uses one UDP socket for several destinations.
    ///
    /// # Errors
    /// When the probe is gone.
    pub fn one_socket(&self, plan: OneSocket) -> Result<Vec<Exchange>> {
        expect_answer!(self.request(&Request::OneSocket(plan))?, Response::Exchanged(list) => list)
    }

    /// getsockname and getpeername of a connected socket.
    ///
    /// # Errors
    /// When it cannot be connected, or nobody answers.
    pub fn names(&self, target: &Target) -> Result<SocketNames> {
        expect_answer!(self.request(&Request::Names(target.clone()))?, Response::Names(names) => names)
    }

    /// Opens a socket to be used again and again.
    ///
    /// # Errors
    /// When the probe is gone.
    pub fn socket(&self, spec: KeptSocket) -> Result<Socket<'_>> {
        let answer = self.request(&Request::SocketOpen(spec))?;
        expect_answer!(answer, Response::Kept { socket } => Socket { probe: self, socket })
    }

    /// Opens a long-lived connection to an echo.
    ///
    /// # Errors
    /// When it cannot be connected, or nobody answers.
    pub fn session(&self, target: &Target) -> Result<SessionOpened> {
        expect_answer!(self.request(&Request::SessionOpen(target.clone()))?, Response::Session(open) => open)
    }

    /// Exchanges lines on a session.
    ///
    /// # Errors
    /// When there is no such session. That it broke is in the answer.
    pub fn exchange(&self, session: u64, times: u32) -> Result<SessionHealth> {
        let answer = self.request(&Request::SessionExchange { session, times })?;
        expect_answer!(answer, Response::SessionHealth(health) => health)
    }

    /// Closes a session.
    ///
    /// # Errors
    /// When there is no such session.
    pub fn close_session(&self, session: u64) -> Result<()> {
        expect_answer!(self.request(&Request::SessionClose { session })?, Response::Done => ())
    }

    /// Starts asking in the background.
    ///
    /// # Errors
    /// When the probe is gone.
    pub fn stream(&self, spec: &StreamSpec) -> Result<Stream<'_>> {
        let answer = self.request(&Request::StreamStart(spec.clone()))?;
        expect_answer!(answer, Response::Stream { stream } => Stream { probe: self, stream, runs: true })
    }

    /// Measures a slice.
    ///
    /// # Errors
    /// When the probe is gone, or a connection that must stand cannot be made.
    pub fn bench(&self, slice: &BenchSlice) -> Result<SliceReport> {
        expect_answer!(self.request(&Request::Bench(slice.clone()))?, Response::Measured(report) => report)
    }

    /// Restricts the probe to these processors.
    ///
    /// # Errors
    /// When there is no such processor.
    pub fn pin(&self, processors: &[usize]) -> Result<()> {
        expect_answer!(self.request(&Request::Pin(processors.to_vec()))?, Response::Done => ())
    }

    /// Kills it.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have ended already; either way it is gone after this.
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A socket at a probe that is used again and again, until it is closed or the probe ends.
#[derive(Debug)]
pub struct Socket<'probe> {
    probe: &'probe Probe,
    socket: u64,
}

impl Socket<'_> {
    /// Asks by this socket, one destination after the other.
    ///
    /// # Errors
    /// When the probe is gone. Failed questions are in the exchanges.
    pub fn ask(&self, to: &[SocketAddr]) -> Result<Vec<Exchange>> {
        let answer = self.probe.request(&Request::SocketAsk { socket: self.socket, to: to.to_vec() })?;
        expect_answer!(answer, Response::Exchanged(list) => list)
    }

    /// Waits until a datagram comes, or an error, or its time limit has passed.
    ///
    /// # Errors
    /// When the probe is gone.
    pub fn wait(&self) -> Result<Result<(), Failure>> {
        let answer = self.probe.request(&Request::SocketWait { socket: self.socket })?;
        expect_answer!(answer, Response::Waited(result) => result)
    }

    /// Closes it.
    ///
    /// # Errors
    /// When the probe is gone.
    pub fn close(self) -> Result<()> {
        let answer = self.probe.request(&Request::SocketClose { socket: self.socket })?;
        expect_answer!(answer, Response::Done => ())
    }
}

/// A stream of questions that runs at a probe until it is stopped or dropped, or the probe ends.
#[derive(Debug)]
pub struct Stream<'probe> {
    probe: &'probe Probe,
    stream: u64,
    runs: bool,
}

impl Stream<'_> {
    /// What it has seen so far.
    ///
    /// # Errors
    /// When the probe is gone.
    pub fn peek(&self) -> Result<StreamReport> {
        let answer = self.probe.request(&Request::StreamPeek { stream: self.stream })?;
        expect_answer!(answer, Response::Streamed(report) => report)
    }

    /// Ends it and tells what it has seen.
    ///
    /// # Errors
    /// When the probe is gone.
    pub fn stop(mut self) -> Result<StreamReport> {
        self.runs = false;
        let answer = self.probe.request(&Request::StreamStop { stream: self.stream })?;
        expect_answer!(answer, Response::Streamed(report) => report)
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if self.runs {
            // A probe that is gone runs no stream.
            let _ = self.probe.request(&Request::StreamStop { stream: self.stream });
        }
    }
}

/// Where the probe program lies.
///
/// # Errors
/// When it has not been built.
pub fn program() -> Result<std::path::PathBuf> {
    process::find_program("kubeshunt-probe", "KUBESHUNT_PROBE", "kubeshunt-tests")
}
