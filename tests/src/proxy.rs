//! The program under test, running on a node.
//!
//! Invariant: it runs in the node's network namespace but in a cgroup of its own beside the node's, unless asked
//! otherwise, so that its own connections are not translated and its processor time can be read. Its log goes to
//! a file, and every error shows the end of it.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::manifests::Folder;
use crate::node::Node;
use crate::{process, wait};

/// Where it serves its metrics, inside the node's namespace.
pub const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// Where it serves its health, inside the node's namespace: on every address, for load balancers.
pub const HEALTHZ: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10256);

/// A condition of a running program.
pub type Check = dyn Fn(&Kubeshunt) -> Result<bool> + Send + Sync;

/// When is a started program ready?
#[derive(Clone)]
pub enum Ready {
    /// When /readyz answers 200: tables complete, programs attached.
    Readyz,
    /// As soon as it runs.
    AtOnce,
    /// When this says so. Errors of the check end the wait.
    When(Arc<Check>),
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Readyz => "Readyz",
            Self::AtOnce => "AtOnce",
            Self::When(_) => "When(..)",
        })
    }
}

/// How to run it.
#[derive(Clone, Debug)]
pub struct Setup {
    source: Vec<OsString>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    ready: Ready,
    within: Duration,
    is_led: bool,
}

impl Setup {
    /// Fed by a folder of manifests.
    #[must_use]
    pub fn manifests(folder: &Folder) -> Self {
        Self::source(["--manifests".into(), folder.path().into()])
    }

    /// Fed by what these arguments name, such as `--kubeconfig FILE`.
    #[must_use]
    pub fn source(arguments: impl IntoIterator<Item = OsString>) -> Self {
        Self {
            source: arguments.into_iter().collect(),
            arguments: Vec::new(),
            environment: Vec::new(),
            ready: Ready::Readyz,
            within: Duration::from_secs(10),
            is_led: false,
        }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Ready under another condition.
    #[must_use]
    pub fn ready(self, ready: Ready) -> Self {
        Self { ready, ..self }
    }

    /// In a cgroup below the node's, as in a DaemonSet: its own connections are translated.
    #[must_use]
    pub fn among_pods(self) -> Self {
        Self { is_led: true, ..self }
    }

    /// With another time limit for becoming ready.
    #[must_use]
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }
}

/// The program under test on one node. Dropping it kills it; what it pinned stays, as it should.
#[derive(Debug)]
pub struct Kubeshunt {
    node: Node,
    binary: PathBuf,
    setup: Setup,
    cgroup: Cgroup,
    log: PathBuf,
    process: Option<Child>,
}

/// Where the program under test lies: KUBESHUNT_BIN, else beside the running program.
///
/// # Errors
/// When it has not been built.
pub fn program() -> Result<PathBuf> {
    process::find_program("kubeshunt", "KUBESHUNT_BIN", "proxy-userspace")
}

/// An HTTP GET inside the node's namespace: status code and body.
///
/// # Errors
/// When nobody listens, or the answer is not HTTP.
pub fn http_get(node: &Node, address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let (head, body) = http(node, address, "GET", path, "*/*")?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.context("no HTTP status")?, body))
}

fn http(
    node: &Node,
    address: SocketAddr,
    method: &str,
    path: &str,
    accept: &str,
) -> Result<(String, String)> {
    let mut answer = String::new();
    node.netns().run(|| -> Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        )?;
        stream.read_to_string(&mut answer)?;
        Ok(())
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the HTTP headers")?;
    Ok((head.to_owned(), body.to_owned()))
}

impl Kubeshunt {
    /// Runs the binary that [`program`] finds, and waits until it is ready.
    ///
    /// # Errors
    /// When it is missing, ends, or is not ready in time; with the end of its log.
    pub fn start(node: &Node, setup: Setup) -> Result<Self> {
        Self::start_binary(node, setup, program()?)
    }

    /// Runs this binary, and waits until it is ready.
    ///
    /// # Errors
    /// See [`Kubeshunt::start`].
    pub fn start_binary(node: &Node, setup: Setup, binary: PathBuf) -> Result<Self> {
        let parent = if setup.is_led { node.cgroup() } else { node.bed().cgroup() };
        let cgroup = parent.child(&format!("kubeshunt-{}", node.name()))?;
        let log = node.bed().folder().join(format!("kubeshunt-{}.log", node.name()));
        let mut this = Self { node: node.clone(), binary, setup, cgroup, log, process: None };
        this.run()?;
        Ok(this)
    }

    fn run(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_until_ready()
    }

    fn spawn(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot open {}", self.log.display()))?;
        let mut command = Command::new(&self.binary);
        command
            .arg("run")
            .args(&self.setup.source)
            .arg("--cgroup-root")
            .arg(self.node.cgroup().path())
            .arg("--bpffs-root")
            .arg(self.node.pins())
            .args(["--hostname-override", self.node.name()])
            .args(["--metrics-bind-address", &METRICS.to_string()])
            .args(["--healthz-bind-address", &HEALTHZ.to_string()])
            .args(&self.setup.arguments)
            .envs(self.setup.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot duplicate a descriptor")?)
            .stderr(log);
        self.process = Some(process::spawn_in(self.node.netns(), &self.cgroup, command)?);
        Ok(())
    }

    /// Waits until it is ready, after [`Kubeshunt::restart_at_once`].
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        self.wait_ready().with_context(|| self.log_tail())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let ready = self.setup.ready.clone();
        let what = format!("{} on {} is ready", self.binary.display(), self.node.name());
        wait::until_true(&what, self.setup.within, || {
            if let Some(process) = &mut self.process
                && let Some(status) = process.try_wait().context("cannot wait for a child")?
            {
                self.process = None;
                bail!("it ended at once: {status}");
            }
            match &ready {
                Ready::AtOnce => Ok(true),
                // Refused until it listens.
                Ready::Readyz => Ok(self.get(HEALTHZ.port(), "/readyz").is_ok_and(|(code, _)| code == 200)),
                Ready::When(check) => check(self),
            }
        })
    }

    /// Runs a sub-command of the same binary on the same node and pins, and waits for its end.
    ///
    /// # Errors
    /// When it cannot be run. A failure of the sub-command is in the output.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--bpffs-root").arg(self.node.pins());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = process::spawn_in(self.node.netns(), &self.cgroup, command)?;
        child.wait_with_output().context("cannot wait for a child")
    }

    /// An HTTP GET inside the node's namespace: status code and body.
    ///
    /// # Errors
    /// When nobody listens, or the answer is not HTTP.
    pub fn get(&self, port: u16, path: &str) -> Result<(u16, String)> {
        http_get(&self.node, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), path)
    }

    /// An HTTP request inside the node's namespace: status and headers, and the body.
    ///
    /// # Errors
    /// As [`Kubeshunt::get`].
    pub fn http(&self, address: SocketAddr, method: &str, path: &str) -> Result<(String, String)> {
        self.http_with(address, method, path, "*/*")
    }

    /// The same, for who accepts only these kinds of content.
    ///
    /// # Errors
    /// As [`Kubeshunt::get`].
    pub fn http_with(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        accept: &str,
    ) -> Result<(String, String)> {
        http(&self.node, address, method, path, accept)
    }

    /// The value of a metric, named as the exposition shows it, labels included.
    ///
    /// # Errors
    /// When metrics are not served, or this one is not among them.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = self.get(METRICS.port(), "/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.with_context(|| format!("no metric {name}"))?;
        value.trim().parse().with_context(|| format!("the metric {name} is no number: {value}"))
    }

    /// Kills it with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill9(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it is not running")?;
        process.kill().context("cannot kill")?;
        let status = process.wait().context("cannot wait for a child")?;
        if status.signal() != Some(libc::SIGKILL) {
            bail!("it had ended by itself before: {status}\n{}", self.log_tail());
        }
        Ok(())
    }

    /// Asks it to end with SIGTERM and waits for that.
    ///
    /// # Errors
    /// When it is not running, or does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        let process = self.process.as_mut().context("it is not running")?;
        let pid = i32::try_from(process.id()).context("a process id")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("cannot send SIGTERM")?;
        let status =
            wait::until("it ends after SIGTERM", Duration::from_secs(10), || Ok(process.try_wait()?));
        let status = status.with_context(|| self.log_tail())?;
        self.process = None;
        Ok(status)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it is not running, or does not end in time.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let process = self.process.as_mut().context("it is not running")?;
        let status = wait::until("it ends by itself", within, || Ok(process.try_wait()?));
        let status = status.with_context(|| self.log_tail())?;
        self.process = None;
        Ok(status)
    }

    /// Starts it again, after [`Kubeshunt::kill9`] or [`Kubeshunt::terminate`], and waits until ready.
    ///
    /// # Errors
    /// When it still runs, ends, or is not ready in time.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("it still runs; end it first");
        }
        self.run()
    }

    /// The same, without waiting.
    ///
    /// # Errors
    /// When it still runs, or cannot be run.
    pub fn restart_at_once(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("it still runs; end it first");
        }
        self.spawn()
    }

    /// Starts it again as another binary: an upgrade or a downgrade.
    ///
    /// # Errors
    /// See [`Kubeshunt::restart`].
    pub fn restart_as(&mut self, binary: &Path) -> Result<()> {
        binary.clone_into(&mut self.binary);
        self.restart()
    }

    /// The process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// The cgroup of the program itself, for its processor time.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Its log, of all its starts.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        format!("the end of its log ({}):\n{}", self.log.display(), process::last_lines(&self.log))
    }
}

impl Drop for Kubeshunt {
    fn drop(&mut self) {
        process::bury(&mut self.process, &self.cgroup);
    }
}
