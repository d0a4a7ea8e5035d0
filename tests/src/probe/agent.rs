//! The probe process: reads requests, carries them out, answers.
//!
//! Invariant: requests are carried out one after another on the first thread, so that the threads
//! they start inherit what [`Request::Pin`] has set.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::sync::PoisonError;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::held::Held;
use super::kept::Kept;
use super::protocol::{Failure, Request, Response, SessionOpened};
use super::serve::{Server, Ticks};
use super::session::Session;
use super::stream::Stream;
use super::{aim, ask, bench, echo, transfer, trickle};

/// What a probe keeps between requests, each under the number it gave out.
#[derive(Debug)]
struct Agent {
    name: String,
    last_number: u64,
    servers: HashMap<u64, Server>,
    sessions: HashMap<u64, Session>,
    sockets: HashMap<u64, Kept>,
    streams: HashMap<u64, Stream>,
    trickles: HashMap<u64, trickle::Running>,
    ticks: Ticks,
    held: HashMap<u64, Held>,
}

/// Serves requests from standard input until it ends.
///
/// # Errors
/// When a line is no request, or nobody reads the answers.
pub fn serve(name: String) -> Result<()> {
    let mut agent = Agent {
        name,
        last_number: 0,
        servers: HashMap::new(),
        sessions: HashMap::new(),
        sockets: HashMap::new(),
        streams: HashMap::new(),
        trickles: HashMap::new(),
        ticks: Ticks::default(),
        held: HashMap::new(),
    };
    allow_descriptors();
    let mut stdout = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read a request")?;
        let request =
            serde_json::from_str(&line).with_context(|| format!("this line is no request: {line}"))?;
        let response = agent.carry_out(request).unwrap_or_else(|why| Response::Failed(format!("{why:#}")));
        let mut answer = serde_json::to_string(&response).context("cannot write an answer")?;
        answer.push('\n');
        stdout.write_all(answer.as_bytes()).context("nobody reads the answers")?;
        stdout.flush().context("nobody reads the answers")?;
    }
    Ok(())
}

impl Agent {
    fn carry_out(&mut self, request: Request) -> Result<Response> {
        Ok(match request {
            Request::Pin(processors) => {
                pin(&processors)?;
                Response::Done
            }
            Request::Serve(listener) => {
                let server = Server::start(&self.name, listener.bind, listener.service, &self.ticks)
                    .with_context(|| format!("cannot serve on {}", listener.bind))?;
                let (listener, address) = (self.number(), server.address());
                self.servers.insert(listener, server);
                Response::Listening { listener, address }
            }
            Request::StopServing { listener, connections } => {
                self.servers.remove(&listener).context("no such listener")?.stop(connections);
                Response::Done
            }
            Request::Ask { target, times, concurrency } => {
                Response::Asked(ask::ask_many(&target, times, concurrency))
            }
            Request::OneSocket(plan) => Response::Exchanged(ask::one_socket(&plan).map_err(broken)?),
            Request::Aim(aims) => Response::Aimed(aim::aim(&aims)?),
            Request::Names(target) => Response::Names(ask::names(&target).map_err(broken)?),
            Request::SocketOpen(spec) => {
                let (kept, socket) = (Kept::open(spec).map_err(broken)?, self.number());
                self.sockets.insert(socket, kept);
                Response::Kept { socket }
            }
            Request::SocketAsk { socket, to } => {
                let kept = self.sockets.get_mut(&socket).context("no such socket")?;
                Response::Exchanged(to.into_iter().map(|to| kept.ask(to)).collect())
            }
            Request::SocketWait { socket } => {
                Response::Waited(self.sockets.get(&socket).context("no such socket")?.wait())
            }
            Request::SocketClose { socket } => {
                self.sockets.remove(&socket).context("no such socket")?;
                Response::Done
            }
            Request::SessionOpen(target) => {
                let (session, answer) = Session::open(&target).map_err(broken)?;
                let local = session.local().context("the new session has no address")?;
                let number = self.number();
                self.sessions.insert(number, session);
                Response::Session(SessionOpened { session: number, answer, local })
            }
            Request::SessionExchange { session, times } => {
                let session = self.sessions.get_mut(&session).context("no such session")?;
                Response::SessionHealth(session.exchange(times))
            }
            Request::SessionClose { session } => {
                self.sessions.remove(&session).context("no such session")?;
                Response::Done
            }
            Request::StreamStart(spec) => {
                let stream = self.number();
                self.streams.insert(stream, Stream::start(&spec));
                Response::Stream { stream }
            }
            Request::StreamPeek { stream } => {
                Response::Streamed(self.streams.get(&stream).context("no such stream")?.peek())
            }
            Request::StreamStop { stream } => {
                Response::Streamed(self.streams.remove(&stream).context("no such stream")?.stop())
            }
            Request::TrickleStart(spec) => {
                let (running, trickle) = (trickle::Running::start(spec)?, self.number());
                self.trickles.insert(trickle, running);
                Response::Trickle { trickle }
            }
            Request::TricklePeek { trickle } => {
                Response::Trickled(self.trickles.get(&trickle).context("no such trickle")?.peek())
            }
            Request::TrickleStop { trickle } => {
                Response::Trickled(self.trickles.remove(&trickle).context("no such trickle")?.stop())
            }
            Request::Ticks => {
                Response::Ticks(self.ticks.lock().unwrap_or_else(PoisonError::into_inner).clone())
            }
            Request::Bench(slice) => Response::Measured(bench::run(&slice)),
            Request::Transfer(plan) => Response::Transferred(transfer::run(&plan).map_err(broken)?),
            Request::EchoDatagrams(plan) => Response::Echoed(echo::echo(&plan).map_err(broken)?),
            Request::Hold(plan) => {
                let (connections, report) = Held::open(plan)?;
                let held = self.number();
                self.held.insert(held, connections);
                Response::Held { held, report }
            }
            Request::HeldExchange { held } => {
                let report = self.held.get_mut(&held).context("no such connections")?.exchange();
                Response::Held { held, report }
            }
            Request::HeldClose { held } => {
                self.held.remove(&held).context("no such connections")?;
                Response::Done
            }
        })
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// Lets this process have as many descriptors as may be, for those who hold many connections.
fn allow_descriptors() {
    /// As many as a kernel lets any process have by default.
    const MOST: libc::rlim_t = 1 << 20;
    let mut limit = libc::rlimit { rlim_cur: MOST, rlim_max: MOST };
    // SAFETY: the structure is valid until each call returns.
    unsafe {
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0
            && libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0
        {
            // Who may not raise the hard limit, root in a container say, may still go up to it.
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

fn broken(failure: Failure) -> anyhow::Error {
    anyhow!("{} in {} after {} µs", failure.error, failure.call, failure.elapsed_ns / 1000)
}

fn pin(processors: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor).with_context(|| format!("no processor {processor}"))?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot pin to these processors")
}
