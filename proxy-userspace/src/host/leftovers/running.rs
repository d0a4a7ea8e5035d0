//! Whether a kube-proxy is at work on this node, as far as can be seen from here.

use std::{
    fmt, fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

/// What its processes are called. Ours call themselves otherwise, under whatever name they were started.
const NAME: &str = "kube-proxy";

/// Where it serves its metrics, and k3s's does, which has no process of its own.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);

/// For an answer from this very machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a kube-proxy was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// By its process.
    Process(u32),
    /// By its answer at `/proxyMode`.
    Answer(String),
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid} is called {NAME}"),
            Self::Answer(mode) => write!(f, "{METRICS} answers as a kube-proxy in mode {mode}"),
        }
    }
}

/// Looks for one in the network namespace of this process.
#[must_use]
pub fn sign() -> Option<Sign> {
    process().map(Sign::Process).or_else(|| answer().map(Sign::Answer))
}

/// Processes elsewhere do not count: below a cluster of containers on one host there are several. One whose network
/// namespace cannot be read does.
fn process() -> Option<u32> {
    let namespace = |folder: &Path| fs::read_link(folder.join("ns/net")).ok();
    let own = namespace(Path::new("/proc/self"));
    let entries = fs::read_dir("/proc").ok()?;
    entries.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        let is_here = || namespace(&entry.path()).is_none_or(|namespace| Some(namespace) == own);
        (name.trim_end() == NAME && is_here()).then_some(pid)
    })
}

/// The mode that a kube-proxy says to be in. One of ours says so too, but has metrics of its own.
fn answer() -> Option<String> {
    let mode = get("/proxyMode").filter(|mode| ["iptables", "ipvs", "nftables"].contains(&mode.as_str()))?;
    // One that is too busy to say more is at work.
    (!is_ours()).then_some(mode)
}

/// Whether the absence of a [`sign`] says something. Not in a container with processes of its own only, where a kube-proxy's
/// is not to be seen, as long as the port where it would answer is ours.
#[must_use]
pub fn can_tell() -> bool {
    let name = |process: &str| fs::read_to_string(format!("/proc/{process}/comm")).ok();
    // There process 1 is one of ours, and on a host it is not.
    let is_alone = name("1").is_some_and(|first| Some(first) == name("self"));
    !is_alone || !is_ours()
}

/// Whether one of ours has the port.
fn is_ours() -> bool {
    get("/metrics").is_some_and(|metrics| metrics.contains("\nkubeshunt_"))
}

fn get(path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&METRICS, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // 1.0: the answer ends with the connection, and comes in one piece.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {METRICS}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|code| *code == "200")?;
    Some(body.trim().to_owned())
}
