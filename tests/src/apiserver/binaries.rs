//! The programs, found or built once and kept in a cache.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{cache, tail};

const GO_MOD: &str = include_str!("../../apiserver/go.mod");
const GO_SUM: &str = include_str!("../../apiserver/go.sum");

const PACKAGES: [&str; 4] = [
    "go.etcd.io/etcd/server/v3",
    "k8s.io/kubernetes/cmd/kubectl",
    "k8s.io/kubernetes/cmd/kube-apiserver",
    "k8s.io/kubernetes/cmd/kube-proxy",
];

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
    /// The proxy that ours replaces; such a folder lacks it as a rule.
    pub kube_proxy: Option<PathBuf>,
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
            kube_proxy: program("kube-proxy"),
        })
    }
}

fn cache_dir() -> Result<PathBuf> {
    cache::folder("apiserver")
}

/// Changes with whatever changes the programs.
fn cache_key() -> Result<String> {
    let parts = [&[GO_MOD, GO_SUM, TAGS], &PACKAGES[..]].concat();
    Ok(format!("{}-{}", kubernetes_version()?, cache::key(&parts)))
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
    let mut go = Command::new(cache::go()?)
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
    progress(&format!(
        "building kube-apiserver {version}, kube-proxy, kubectl and etcd with Go: some minutes, once"
    ));

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
