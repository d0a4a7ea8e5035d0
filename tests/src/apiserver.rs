//! A real kube-apiserver with its etcd, for tests that want the API itself and not a mock of it.
//!
//! [`Binaries`] finds or builds the programs pinned by `apiserver/go.mod`, [`ApiServer`] runs them, and a
//! [`CuttingProxy`] stands between the server and a client to break their connection at will.
//!
//! No controller runs. Nothing makes EndpointSlices out of Pods, a test writes them by hand, and the
//! server's own `default/kubernetes` Service has none.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Bearer token of a user in `system:masters`, who may do everything.
pub const ADMIN_TOKEN: &str = "admin-token";

/// Bearer token of the user `kubeshunt` in the group `kubeshunt`, who may do nothing until a role is bound.
pub const KUBESHUNT_TOKEN: &str = "kubeshunt-token";

/// How long a start may take: some seconds as a rule, but tests share their cores with builds.
const START_LIMIT: Duration = Duration::from_secs(120);

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

// --- The programs ---

const GO_MOD: &str = include_str!("../apiserver/go.mod");
const GO_SUM: &str = include_str!("../apiserver/go.sum");

const PACKAGES: [&str; 3] =
    ["go.etcd.io/etcd/server/v3", "k8s.io/kubernetes/cmd/kubectl", "k8s.io/kubernetes/cmd/kube-apiserver"];

/// Those of the upstream release builds, less `selinux`; without them the linker keeps much more code.
const TAGS: &str = "notest,grpcnotrace";

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// Its store.
    pub etcd: PathBuf,
    /// The command-line client; a folder named by `KUBEBUILDER_ASSETS` may lack it.
    pub kubectl: Option<PathBuf>,
}

impl Binaries {
    /// Looks in the folder that `KUBEBUILDER_ASSETS` names, or else in our cache. `None` if nothing was
    /// built yet; an error if the variable names a folder without the programs.
    pub fn find() -> Result<Option<Self>> {
        if let Some(dir) = std::env::var_os("KUBEBUILDER_ASSETS").filter(|dir| !dir.is_empty()) {
            let found = Self::in_dir(Path::new(&dir));
            return found.map(Some).with_context(|| {
                format!("KUBEBUILDER_ASSETS={}: no kube-apiserver and etcd there", dir.display())
            });
        }
        Ok(Self::in_dir(&cache_dir()?.join(cache_key()?)))
    }

    /// Builds the programs with Go from the module in `apiserver/` unless the cache has them. This takes
    /// minutes and more than 2 GB of Go's own cache the first time; `progress` is told how it goes.
    ///
    /// Fails with a sentence that says what to install if there is no `go`.
    pub fn build(mut progress: impl FnMut(&str)) -> Result<Self> {
        let cache = cache_dir()?;
        let dir = cache.join(cache_key()?);
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;

        // Test binaries run side by side, and one build is enough of a load.
        let lock = File::create(cache.join("lock"))?;
        if lock.try_lock().is_err() {
            progress("waiting for another process that builds kube-apiserver");
            lock.lock()?;
        }
        if let Some(found) = Self::in_dir(&dir) {
            return Ok(found);
        }
        for entry in fs::read_dir(&cache)?.flatten() {
            // Ours alone while we hold the lock: left by a build that was killed.
            if entry.file_name().to_string_lossy().starts_with(".building-") {
                fs::remove_dir_all(entry.path())?;
            }
        }

        let out = tempfile::Builder::new().prefix(".building-").tempdir_in(&cache)?;
        go_build(out.path(), &mut progress)?;
        // `go build` names a program after the last part of its package path.
        fs::rename(out.path().join("server"), out.path().join("etcd"))?;
        fs::set_permissions(out.path(), fs::Permissions::from_mode(0o755))?;
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        // Only whole sets get their final name, so that whatever has it can be trusted.
        fs::rename(out.keep(), &dir)?;
        Self::in_dir(&dir).with_context(|| format!("go build left no programs in {}", dir.display()))
    }

    /// [`find`](Self::find), and [`build`](Self::build) if that found nothing.
    pub fn find_or_build(progress: impl FnMut(&str)) -> Result<Self> {
        match Self::find()? {
            Some(found) => Ok(found),
            None => Self::build(progress),
        }
    }

    fn in_dir(dir: &Path) -> Option<Self> {
        let program = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
        Some(Self {
            kube_apiserver: program("kube-apiserver")?,
            etcd: program("etcd")?,
            kubectl: program("kubectl"),
        })
    }
}

fn cache_dir() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("kubeshunt/apiserver"))
}

/// Changes with whatever changes the programs.
fn cache_key() -> Result<String> {
    let parts = [GO_MOD, GO_SUM, TAGS];
    // FNV-1a: the standard library's hashers promise no stability, and this key outlives the process.
    let hash = parts.iter().flat_map(|part| part.bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Ok(format!("{}-{hash:016x}", kubernetes_version()?))
}

fn kubernetes_version() -> Result<&'static str> {
    let mut words = GO_MOD.lines().map(str::split_whitespace);
    words
        .find_map(|mut line| line.next().filter(|module| *module == "k8s.io/kubernetes").and(line.next()))
        .context("go.mod requires no k8s.io/kubernetes")
}

fn go_build(out: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("apiserver");
    let version = kubernetes_version()?;
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    // Unstamped, the server would call itself v0.0.0-master and clients would adapt to that.
    let stamp =
        [("gitVersion", version), ("gitMajor", major), ("gitMinor", minor), ("gitTreeState", "clean")];
    let stamp = stamp.map(|(name, value)| format!("-X k8s.io/component-base/version.{name}={value}"));

    let started = Instant::now();
    let mut go = Command::new(find_go()?)
        .current_dir(&module)
        .envs([("CGO_ENABLED", "0"), ("GOWORK", "off"), ("GOFLAGS", "-mod=readonly")])
        .args(["build", "-v", "-trimpath", "-tags", TAGS])
        .args(["-ldflags", &format!("-s -w {}", stamp.join(" "))])
        .arg("-o")
        .arg(out)
        .args(PACKAGES)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run go")?;
    progress(&format!("building kube-apiserver {version}, kubectl and etcd with Go: some minutes, once"));

    let mut said = String::new();
    let mut packages = 0;
    let mut told = Instant::now();
    let stderr = go.stderr.take().context("go has no stderr")?;
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        if line.starts_with("go: downloading ") || !line.contains([' ', '\t']) {
            packages += usize::from(!line.starts_with("go: "));
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                let seconds = started.elapsed().as_secs();
                progress(&format!("{packages} packages compiled in {seconds} s, now {line}"));
            }
        } else {
            said.push_str(&line);
            said.push('\n');
        }
    }
    let status = go.wait()?;
    ensure!(status.success(), "go build in {} failed ({status}):\n{}", module.display(), tail(&said));
    progress(&format!("built in {} s", started.elapsed().as_secs()));
    Ok(())
}

fn find_go() -> Result<PathBuf> {
    // The last is where Go's own installer puts it, often without touching PATH.
    let known = ["go", "/usr/local/go/bin/go"];
    let works = |go: &&str| {
        let run = Command::new(go).arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    };
    known.iter().find(|go| works(go)).map(PathBuf::from).context(
        "there is no `go` to build kube-apiserver with: install Go 1.26 or newer, or set KUBEBUILDER_ASSETS \
         to a folder with kube-apiserver, etcd and kubectl",
    )
}

// --- The server ---

/// A user that the server knows by a bearer token.
#[derive(Clone, Debug)]
pub struct User {
    /// What the client presents.
    pub token: String,
    /// The name that role bindings use. It may be a service account's,
    /// `system:serviceaccount:NAMESPACE:NAME`, to try the roles of a manifest as they are.
    pub name: String,
    /// The groups that role bindings use.
    pub groups: Vec<String>,
}

impl User {
    /// A user with these groups.
    pub fn new(token: &str, name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|&group| group.into()).collect();
        Self { token: token.into(), name: name.into(), groups }
    }
}

/// How an [`ApiServer`] is set up. The default suits most tests.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen. Default: 127.0.0.1 of the network namespace that the starting thread is in.
    pub listen: IpAddr,
    /// Further names or addresses for the serving certificate, beside `listen` and the loopback's.
    pub names: Vec<String>,
    /// Addresses for Services, primary family first. Default: 10.96.0.0/16 and fd00:10:96::/108.
    pub service_cidrs: String,
    /// Default: those of [`ADMIN_TOKEN`] (which the methods here need) and [`KUBESHUNT_TOKEN`].
    pub users: Vec<User>,
    /// Further arguments of kube-apiserver.
    pub args: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: Ipv4Addr::LOCALHOST.into(),
            names: Vec::new(),
            service_cidrs: "10.96.0.0/16,fd00:10:96::/108".into(),
            users: vec![
                User::new(ADMIN_TOKEN, "admin", &["system:masters"]),
                User::new(KUBESHUNT_TOKEN, "kubeshunt", &["kubeshunt"]),
            ],
            args: Vec::new(),
        }
    }
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// The body; of a watch, one JSON object a line.
    pub body: String,
}

impl Response {
    /// The body as JSON, if the status is a good one.
    pub fn json(&self) -> Result<Value> {
        ensure!((200..300).contains(&self.status), "HTTP {}: {}", self.status, self.body.trim());
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", tail(&self.body)))
    }
}

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
    keeper: Keeper,
    tls: Arc<rustls::ClientConfig>,
    binaries: Binaries,
    options: Options,
    etcd_port: Port,
    port: Port,
    admin: PathBuf,
    kubeconfigs: AtomicUsize,
    dir: TempDir,
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
        let etcd_port = Port::reserve(Ipv4Addr::LOCALHOST.into())?;
        let port = Port::reserve(options.listen)?;

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

    /// The authority that signed the serving certificate, in PEM.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// A kubeconfig that may do everything.
    pub fn kubeconfig_admin(&self) -> &Path {
        &self.admin
    }

    /// Writes a kubeconfig for the user with this token.
    pub fn kubeconfig_for(&self, token: &str) -> Result<PathBuf> {
        self.kubeconfig(&self.url(), token)
    }

    /// Writes a kubeconfig for the user with this token that goes to `server`, such as the
    /// [`url`](CuttingProxy::url) of a proxy. Its address must be among the certificate's names.
    pub fn kubeconfig(&self, server: &str, token: &str) -> Result<PathBuf> {
        let number = self.kubeconfigs.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.path().join(format!("{number}.kubeconfig"));
        self.write_kubeconfig(&path, server, token)?;
        Ok(path)
    }

    fn write_kubeconfig(&self, path: &Path, server: &str, token: &str) -> Result<()> {
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": self.ca()}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        });
        fs::write(path, format!("{config:#}\n")).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Runs kubectl as the admin and returns what it prints. An error has what it complained about.
    pub fn kubectl(&self, args: &[&str], stdin: Option<&str>) -> Result<String> {
        let kubectl = self.binaries.kubectl.as_ref().context("there is no kubectl beside kube-apiserver")?;
        let mut command = Command::new(kubectl);
        command
            .env("KUBERC", "off")
            .arg("--kubeconfig")
            .arg(&self.admin)
            // Another server may have had this port before, with other resources.
            .arg("--cache-dir")
            .arg(self.dir.path().join("kubectl-cache"))
            .arg("--request-timeout=60s")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(text) = stdin {
            // A file and not a pipe: kubectl prints while it reads, and two full pipes would block us both.
            let mut file = tempfile::tempfile()?;
            file.write_all(text.as_bytes())?;
            file.seek(SeekFrom::Start(0))?;
            command.stdin(file);
        }
        let output = self.keeper.run(move || command.spawn())??.wait_with_output()?;
        ensure!(
            output.status.success(),
            "kubectl {} failed ({}): {}",
            args.join(" "),
            output.status,
            tail(&String::from_utf8_lossy(&output.stderr))
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `kubectl apply` of any YAML, without its client-side checks. For many objects see
    /// [`apply_all`](Self::apply_all).
    pub fn apply(&self, yaml: &str) -> Result<()> {
        self.kubectl(&["apply", "--server-side=false", "--validate=false", "-f", "-"], Some(yaml)).map(drop)
    }

    /// Makes or changes many objects, as a server-side apply: many times faster than kubectl, which
    /// throttles itself. Knows kinds whose plural is in -s: Services, EndpointSlices, Nodes, Pods and so on.
    pub fn apply_all(&self, objects: &[Value]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                let path = object_path(object)?;
                let query = "fieldManager=kubeshunt-tests&force=true";
                let answer = self.send("PATCH", &format!("{path}?{query}"), "apply-patch+yaml", Some(object));
                answer.and_then(|answer| answer.json()).with_context(|| format!("cannot apply {path}"))?;
            }
            anyhow::Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
        })
    }

    /// One HTTP request as the admin. A PATCH is a JSON merge patch; a watch has to end by itself
    /// (`timeoutSeconds=`).
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Response> {
        self.send(method, path, if method == "PATCH" { "merge-patch+json" } else { "json" }, body)
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> Result<Response> {
        let addr = self.addr();
        let name = ServerName::from(addr.ip());
        let tls = rustls::ClientConnection::new(Arc::clone(&self.tls), name)?;
        let stream = rustls::StreamOwned::new(tls, self.connect(addr)?);
        let headers = format!("Authorization: Bearer {ADMIN_TOKEN}\r\nContent-Type: application/{kind}\r\n");
        exchange(stream, method, path, &headers, body).with_context(|| format!("{method} {path}"))
    }

    fn connect(&self, addr: SocketAddr) -> Result<TcpStream> {
        let stream = self.keeper.run(move || TcpStream::connect_timeout(&addr, CONNECT_LIMIT))??;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(stream)
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

/// Writes certificates, keys and tokens; returns how to talk to a server that uses them.
fn write_credentials(dir: &Path, options: &Options) -> Result<Arc<rustls::ClientConfig>> {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

    let write = |name: &str, text: String| {
        fs::write(dir.join(name), text).with_context(|| format!("cannot write {}", dir.join(name).display()))
    };

    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "kubeshunt-tests");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_cert = ca.self_signed(&ca_key)?;
    write("ca.crt", ca_cert.pem())?;

    let mut names = vec!["localhost".into(), "127.0.0.1".into(), "::1".into(), options.listen.to_string()];
    names.extend_from_slice(&options.names);
    names.sort();
    names.dedup();
    let mut serving = CertificateParams::new(names)?;
    serving.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    serving.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    write("serving.crt", serving.signed_by(&key, &Issuer::new(ca, ca_key))?.pem())?;
    write("serving.key", key.serialize_pem())?;

    let key = KeyPair::generate()?;
    write("sa.key", key.serialize_pem())?;
    write("sa.pub", key.public_key_pem())?;

    let lines = options.users.iter().map(|user| {
        let User { token, name, groups } = user;
        format!("{token},{name},{name},\"{}\"\n", groups.join(","))
    });
    write("tokens.csv", lines.collect())?;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::clone(ca_cert.der()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn object_path(object: &Value) -> Result<String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let version = text("/apiVersion").context("an object without apiVersion")?;
    let kind = text("/kind").context("an object without kind")?;
    let name = text("/metadata/name").context("an object without metadata.name")?;
    let root = if version.contains('/') { "/apis" } else { "/api" };
    let plural = format!("{}s", kind.to_lowercase());
    let cluster_wide = ["Namespace", "Node", "ServiceCIDR"].contains(&kind) || kind.starts_with("Cluster");
    Ok(match text("/metadata/namespace").unwrap_or("default") {
        _ if cluster_wide => format!("{root}/{version}/{plural}/{name}"),
        namespace => format!("{root}/{version}/namespaces/{namespace}/{plural}/{name}"),
    })
}

/// One request and its answer. In HTTP/1.0, where an answer simply ends with its connection.
fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &str,
    body: Option<&Value>,
) -> Result<Response> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: kubernetes\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer ends in its header")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Response { status: status.context("the answer has no status")?, body: body.into() })
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

/// The last lines of a text.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A panic of one test says nothing about what these locks guard.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// --- Processes and ports ---

/// A thread that lives as long as its server, in the network namespace where that was started.
///
/// The kernel kills our children when the *thread* that forked them ends, and the thread of a test ends
/// long before a server that several tests share. It is also the one way to be in that namespace again.
#[derive(Debug)]
struct Keeper {
    jobs: mpsc::Sender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Keeper {
    fn new() -> Result<Self> {
        let (jobs, received) = mpsc::channel::<Job>();
        let body = move || received.into_iter().for_each(|job| job());
        thread::Builder::new().name("apiserver-keeper".into()).spawn(body)?;
        Ok(Self { jobs })
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, result) = mpsc::channel();
        let job = move || {
            // Nobody listens any more if the caller's thread has panicked.
            let _ = done.send(job());
        };
        self.jobs.send(Box::new(job)).ok().context("the keeper thread has ended")?;
        result.recv().context("the keeper thread has panicked")
    }
}

/// A child process that is killed when dropped, or when its keeper or this process is gone.
#[derive(Debug)]
struct Daemon {
    name: &'static str,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Daemon {
    fn spawn(keeper: &Keeper, name: &'static str, mut command: Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let us = std::process::id().cast_signed();
        let bind_to_parent = move || {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            // Too late for the signal if the parent has gone since the fork.
            if nix::unistd::getppid().as_raw() != us {
                return Err(io::Error::from(ErrorKind::BrokenPipe));
            }
            Ok(())
        };
        // SAFETY: between fork and exec only two system calls are made, and nothing is allocated.
        unsafe { command.pre_exec(bind_to_parent) };
        let program = command.get_program().display().to_string();
        let child = keeper.run(move || command.spawn())?.with_context(|| format!("cannot run {program}"))?;
        Ok(Self { name, child: Mutex::new(child), log })
    }

    /// Fails if the process has ended.
    fn check(&self) -> Result<()> {
        match lock(&self.child).try_wait()? {
            Some(status) => bail!("{} ended ({status})", self.name),
            None => Ok(()),
        }
    }

    /// The end of the log, for an error message.
    fn story(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        format!("--- end of {}'s log ---\n{}", self.name, tail(&String::from_utf8_lossy(&log)))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        // Both fail only for a child that has already been waited for.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A free port that stays ours, while a server listens on it as well as before and after.
///
/// A socket that is bound and does not listen keeps others from being given the port, and still lets a
/// server bind it by number if both set SO_REUSEADDR, as Go and Rust do.
#[derive(Debug)]
struct Port {
    addr: SocketAddr,
    _socket: OwnedFd,
}

impl Port {
    fn reserve(ip: IpAddr) -> Result<Self> {
        let family = if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, 0)))
            .with_context(|| format!("cannot bind {ip}"))?;
        let bound: SockaddrStorage = socket::getsockname(socket.as_raw_fd())?;
        let port = match (bound.as_sockaddr_in(), bound.as_sockaddr_in6()) {
            (Some(v4), _) => v4.port(),
            (_, Some(v6)) => v6.port(),
            _ => bail!("a socket of an unknown family"),
        };
        Ok(Self { addr: SocketAddr::new(ip, port), _socket: socket })
    }
}

// --- The proxy ---

/// A TCP forwarder that can break its connections, or refuse new ones.
#[derive(Debug)]
pub struct CuttingProxy {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    port: Port,
}

#[derive(Debug)]
struct Shared {
    listener: Listener,
    target: SocketAddr,
    mode: Mutex<Mode>,
    changed: Condvar,
    links: Mutex<Vec<Weak<Link>>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Forward,
    Refuse,
    Stop,
}

/// One forwarded connection. Its two threads share it, and the last to go closes both sockets.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: TcpStream,
    cut: AtomicBool,
}

impl Listener {
    fn new(ip: IpAddr) -> Result<Self> {
        // By number, for the kernel takes back a port that it chose itself when the socket stops listening.
        let port = Port::reserve(ip)?;
        Ok(Self { socket: TcpListener::bind(port.addr)?, port })
    }

    fn close(&self) {
        // On Linux this ends listening and wakes `accept`; the socket itself stays and can listen again.
        let _ = socket::shutdown(self.socket.as_raw_fd(), socket::Shutdown::Both);
    }

    fn open(&self) -> Result<()> {
        Ok(socket::listen(&self.socket, socket::Backlog::new(128)?)?)
    }
}

impl CuttingProxy {
    /// Forwards a free port of `listen` to `target`, both in the network namespace of the calling thread.
    pub fn start(listen: IpAddr, target: SocketAddr) -> Result<Self> {
        Self::run(Listener::new(listen)?, target)
    }

    fn run(listener: Listener, target: SocketAddr) -> Result<Self> {
        let mode = Mutex::new(Mode::Forward);
        let (changed, links) = (Condvar::new(), Mutex::default());
        let shared = Arc::new(Shared { listener, target, mode, changed, links });
        let body = Arc::clone(&shared);
        let acceptor = thread::Builder::new().name("cutting-proxy".into()).spawn(move || body.accept())?;
        Ok(Self { shared, acceptor: Some(acceptor) })
    }

    /// Where the proxy listens.
    pub fn addr(&self) -> SocketAddr {
        self.shared.listener.port.addr
    }

    /// `https://ADDRESS:PORT`, for [`ApiServer::kubeconfig`].
    pub fn url(&self) -> String {
        format!("https://{}", self.addr())
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        lock(&self.shared.links).iter().filter(|link| link.strong_count() > 0).count()
    }

    /// Resets all connections, in whatever they are in the middle of; returns how many there were.
    /// New ones are still accepted.
    pub fn cut(&self) -> usize {
        let links = std::mem::take(&mut *lock(&self.shared.links));
        let cut = links.iter().filter_map(Weak::upgrade).map(|link| link.cut()).count();
        // Closing is up to the forwarding threads, which wake up at once.
        let started = Instant::now();
        while links.iter().any(|link| link.strong_count() > 0) && started.elapsed() < CONNECT_LIMIT {
            thread::sleep(Duration::from_millis(1));
        }
        cut
    }

    /// From now on new connections are refused, or accepted again. Open ones go on; see
    /// [`cut`](Self::cut).
    pub fn refuse(&self, refuse: bool) -> Result<()> {
        let mut mode = lock(&self.shared.mode);
        match (*mode, refuse) {
            (Mode::Forward, true) => {
                *mode = Mode::Refuse;
                self.shared.listener.close();
            }
            (Mode::Refuse, false) => {
                self.shared.listener.open()?;
                *mode = Mode::Forward;
                self.shared.changed.notify_all();
            }
            _ => {}
        }
        Ok(())
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        *lock(&self.shared.mode) = Mode::Stop;
        self.shared.listener.close();
        self.shared.changed.notify_all();
        if let Some(acceptor) = self.acceptor.take() {
            // It has nothing to say but that it panicked, and panicking in a drop would hide why.
            let _ = acceptor.join();
        }
        self.cut();
    }
}

impl Shared {
    fn accept(self: &Arc<Self>) {
        loop {
            match self.listener.socket.accept() {
                Ok((client, _)) => {
                    let shared = Arc::clone(self);
                    thread::spawn(move || shared.forward(client));
                }
                Err(_) => {
                    let mode = lock(&self.mode);
                    let mode = self.changed.wait_while(mode, |mode| *mode == Mode::Refuse);
                    if *mode.unwrap_or_else(PoisonError::into_inner) == Mode::Stop {
                        return;
                    }
                    // An error of one connection, perhaps. Not a reason to spin.
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    fn forward(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect_timeout(&self.target, CONNECT_LIMIT) else {
            // The listener has already accepted: a reset is the nearest to "refused" that is left.
            reset_on_close(&client);
            return;
        };
        let link = Arc::new(Link { client, server, cut: AtomicBool::new(false) });
        for stream in [&link.client, &link.server] {
            // Without delay, and with a way out for a writer whose reader has stopped reading.
            let _ = stream.set_nodelay(true);
            let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
        }
        let mut links = lock(&self.links);
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(&link));
        drop(links);
        if *lock(&self.mode) == Mode::Stop {
            // The proxy has already cut all that it knew.
            return link.cut();
        }

        let back = Arc::clone(&link);
        thread::spawn(move || back.pump(&back.server, &back.client));
        link.pump(&link.client, &link.server);
    }
}

impl Link {
    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        for stream in [&self.client, &self.server] {
            reset_on_close(stream);
            // Wakes the reader and, unlike a shutdown of the other direction, says nothing to the peer.
            let _ = stream.shutdown(Shutdown::Read);
        }
    }

    fn pump(&self, mut from: &TcpStream, to: &TcpStream) {
        let mut buffer = [0; 16 * 1024];
        loop {
            let result =
                from.read(&mut buffer).and_then(|count| self.write(to, &buffer[..count]).map(|()| count));
            if self.cut.load(Ordering::Acquire) {
                return;
            }
            match result {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Reset by one side: so shall it be for the other.
                Err(_) => return self.cut(),
            }
        }
    }

    fn write(&self, mut to: &TcpStream, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() && !self.cut.load(Ordering::Acquire) {
            match to.write(data) {
                Ok(count) => data = &data[count..],
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Makes closing the socket a reset of its connection.
fn reset_on_close(stream: &TcpStream) {
    // Fails only for what is no socket.
    let _ = socket::setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}
