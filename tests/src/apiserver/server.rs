//! The running server: its start, its end, its history.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::binaries::Binaries;
use super::credentials::write_credentials;
use super::cutting_proxy::{CuttingProxy, Listener};
use super::daemon::{Daemon, Keeper};
use super::lock;
use super::port::Port;
use super::request::exchange;
use super::settings::{ADMIN_TOKEN, Options};

/// How long a start may take: some seconds as a rule, but tests share their cores with builds.
const START_LIMIT: Duration = Duration::from_secs(120);

/// A running kube-apiserver and etcd. Both die with this value, and with the process however it ends.
///
/// All that belongs to a network namespace happens in the one that the starting thread was in, whichever
/// thread calls. The value can be shared, also in a `static` (which is never dropped: the next start
/// removes the files that it left).
#[derive(Debug)]
pub struct ApiServer {
    // Dropped in this order: processes first, then the thread they hang on, then the files they write.
    server: Mutex<Option<Daemon>>,
    etcd: Daemon,
    pub(super) keeper: Keeper,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) binaries: Binaries,
    pub(super) options: Options,
    etcd_port: Port,
    port: Port,
    pub(super) admin: PathBuf,
    pub(super) kubeconfigs: AtomicUsize,
    pub(super) dir: TempDir,
    _lock: File,
}

impl ApiServer {
    /// Starts a server with the default [`Options`] and waits until it is ready.
    pub fn start(binaries: &Binaries) -> Result<Self> {
        Self::start_with(binaries, Options::default())
    }

    /// Starts a server and waits until it is ready.
    pub fn start_with(binaries: &Binaries, options: Options) -> Result<Self> {
        let (dir, lock) = data_dir()?;
        let keeper = Keeper::new()?;
        let tls = write_credentials(dir.path(), &options)?;
        let etcd_port = Port::reserve((Ipv4Addr::LOCALHOST, 0).into())?;
        let port = Port::reserve((options.listen, 0).into())?;

        let client_url = format!("http://{}", etcd_port.addr);
        let mut command = Command::new(&binaries.etcd);
        command.arg("--data-dir").arg(dir.path().join("etcd")).args([
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            // There is one member, and nobody to tell the port to.
            "--listen-peer-urls=http://127.0.0.1:0".into(),
            // The data dies with the test anyway.
            "--unsafe-no-fsync=true".into(),
            "--log-level=error".into(),
        ]);
        let etcd = Daemon::spawn(&keeper, "etcd", command, dir.path())?;

        let admin = dir.path().join("admin.kubeconfig");
        let this = Self {
            server: Mutex::new(None),
            etcd,
            keeper,
            tls,
            binaries: binaries.clone(),
            options,
            etcd_port,
            port,
            admin,
            kubeconfigs: AtomicUsize::new(0),
            dir,
            _lock: lock,
        };
        this.write_kubeconfig(&this.admin, &this.url(), ADMIN_TOKEN)?;
        // kube-apiserver waits whole seconds before it tries a second time.
        poll("etcd", || {
            this.etcd.check()?;
            Ok(this.etcd_call("/v3/maintenance/status", &json!({}))?.is_some())
        })
        .map_err(|error| anyhow!("{error:#}\n{}", this.etcd.story()))?;
        this.restart()?;
        Ok(this)
    }

    /// `https://ADDRESS:PORT`
    pub fn url(&self) -> String {
        format!("https://{}", self.addr())
    }

    /// Where the server listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr
    }

    /// The folder with certificates, kubeconfigs and logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Kills the API server, and not etcd, without a chance to say goodbye. Until
    /// [`restart`](Self::restart) connections to it are refused.
    pub fn kill(&self) {
        lock(&self.server).take();
    }

    /// Starts the API server again, with the same data and on the same port, and waits until it is ready.
    /// Kills it first if it runs.
    pub fn restart(&self) -> Result<()> {
        let mut server = lock(&self.server);
        server.take();
        let server = server.insert(self.spawn_server()?);
        let mut last = String::new();
        let ready = poll("kube-apiserver", || {
            server.check()?;
            self.etcd.check()?;
            // Ready comes a moment before the namespace that most tests use.
            for path in ["/readyz", "/api/v1/namespaces/default"] {
                match self.request("GET", path, None) {
                    Ok(answer) if answer.status == 200 => continue,
                    Ok(answer) => last = format!("GET {path}: HTTP {}: {}", answer.status, answer.body),
                    Err(error) => last = format!("{error:#}"),
                }
                return Ok(false);
            }
            Ok(true)
        });
        ready.map_err(|error| {
            anyhow!("{error:#}\nLast try: {}\n{}\n{}", last.trim(), server.story(), self.etcd.story())
        })
    }

    fn spawn_server(&self) -> Result<Daemon> {
        let addr = self.addr();
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.dir.path().join(name).display());
        let mut command = Command::new(&self.binaries.kube_apiserver);
        command.args([
            format!("--etcd-servers=http://{}", self.etcd_port.addr),
            format!("--bind-address={}", addr.ip()),
            format!("--secure-port={}", addr.port()),
            // Given, for a network namespace may have no default route to take it from.
            format!("--advertise-address={}", addr.ip()),
            // With no kubelet nor a second server, nobody is to be pointed here by an EndpointSlice.
            "--endpoint-reconciler-type=none".into(),
            format!("--service-cluster-ip-range={}", self.options.service_cidrs),
            "--authorization-mode=RBAC".into(),
            "--allow-privileged=true".into(),
            // It refuses Pods until a controller, which does not run, has made service accounts.
            "--disable-admission-plugins=ServiceAccount".into(),
            // History goes when a test says so and not in between.
            "--etcd-compaction-interval=0".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            file("service-account-signing-key-file", "sa.key"),
            file("service-account-key-file", "sa.pub"),
            file("token-auth-file", "tokens.csv"),
            file("tls-cert-file", "serving.crt"),
            file("tls-private-key-file", "serving.key"),
            file("cert-dir", "certs"),
            "--profiling=false".into(),
        ]);
        command.args(&self.options.args);
        Daemon::spawn(&self.keeper, "kube-apiserver", command, self.dir.path())
    }

    /// Makes etcd forget everything but the present, and returns the revision it is at. Whatever resource
    /// version a client holds is older than that.
    ///
    /// A running API server still answers watches from its watch cache, which has a past of its own:
    /// [`expire_history`](Self::expire_history) ends that too. One with `--watch-cache=false` in its
    /// [`Options`] has none.
    pub fn compact_history(&self) -> Result<u64> {
        // Two writes of our own, so that even who has seen the last change of the API lacks one that is
        // forgotten. "a3ViZXNodW50" is "kubeshunt".
        let put = || self.etcd_call("/v3/kv/put", &json!({"key": "a3ViZXNodW50", "value": ""}));
        put()?;
        let put = put()?.context("etcd is down")?;
        let revision = put.pointer("/header/revision").and_then(Value::as_str).context("no revision")?;
        self.etcd_call("/v3/kv/compaction", &json!({"revision": revision, "physical": true}))?
            .context("etcd is down")?;
        Ok(revision.parse()?)
    }

    /// Compacts etcd and restarts the API server, whose watch cache then starts in the present: whoever
    /// resumes a watch gets 410 "too old resource version" and has to list again.
    pub fn expire_history(&self) -> Result<()> {
        self.kill();
        self.compact_history()?;
        self.restart()
    }

    /// A call of etcd's JSON gateway; `None` if it does not listen (yet).
    fn etcd_call(&self, path: &str, body: &Value) -> Result<Option<Value>> {
        let Ok(stream) = self.connect(self.etcd_port.addr) else { return Ok(None) };
        let answer = exchange(stream, "POST", path, "Content-Type: application/json\r\n", Some(body))?;
        answer.json().map(Some).with_context(|| format!("etcd: {path}"))
    }

    /// A proxy to this server on a free port of `listen`.
    ///
    /// It listens in the network namespace of the calling thread and connects in the server's: called
    /// from inside another namespace with 127.0.0.1, it gives that one a server on its own loopback.
    pub fn proxy(&self, listen: IpAddr) -> Result<CuttingProxy> {
        self.proxy_at(SocketAddr::new(listen, 0))
    }

    /// The same, on that port.
    pub fn proxy_at(&self, listen: SocketAddr) -> Result<CuttingProxy> {
        let (listener, target) = (Listener::new(listen)?, self.addr());
        self.keeper.run(move || CuttingProxy::run(listener, target))?
    }
}

/// The folder for one server, and the lock that says that it is in use.
fn data_dir() -> Result<(TempDir, File)> {
    const PREFIX: &str = "kubeshunt-apiserver-";
    // Who was killed, or kept the server in a static, could not clean up: 128 MB of etcd's log each.
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Ok(lock) = File::open(entry.path().join("lock"))
            && lock.try_lock().is_ok()
        {
            // Another process may be at the same.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let dir = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
    // Under another name until locked, lest somebody finds it in between.
    let lock = File::create(dir.path().join("lock.new"))?;
    lock.try_lock()?;
    fs::rename(dir.path().join("lock.new"), dir.path().join("lock"))?;
    Ok((dir, lock))
}

/// Calls `ready` until it says so, fails or [`START_LIMIT`] has passed.
fn poll(what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !ready()? {
        ensure!(started.elapsed() < START_LIMIT, "{what} is not ready after {} s", START_LIMIT.as_secs());
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
