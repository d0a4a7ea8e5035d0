//! One container: its configuration for the runtime (OCI runtime-spec v1.0), its process, its end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::confinement::Confinement;
use super::volumes::{SERVICE_ACCOUNT, Volumes};
use super::{Kubelet, fields};
use crate::cgroup::{self, Cgroup};
use crate::{process, wait};

/// The address of the Service `kubernetes`, which every container is told of.
const API_SERVICE: &str = "10.96.0.1";

/// A container that runs, or has run. Dropping it kills it.
#[derive(Debug)]
pub struct Container {
    child: Child,
    cgroup: Cgroup,
    log: PathBuf,
}

/// The runtime.
pub(super) fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("crun")).find(|file| file.is_file());
    found.context("there is no crun to run containers with; run `cargo xtask setup`")
}

/// Starts one.
pub(super) fn start(
    kubelet: &Kubelet,
    pod: &Value,
    spec: &Value,
    volumes: &Volumes,
    bundle: &Path,
    cgroup: Cgroup,
) -> Result<Container> {
    kubelet.image.unpack(&bundle.join("rootfs"))?;
    let config = configuration(kubelet, pod, spec, volumes, &cgroup)?;
    fs::write(bundle.join("config.json"), config.to_string()).context("cannot write config.json")?;
    let log = bundle.join("log");
    let file = File::create(&log).context("cannot make a log")?;
    let name = format!("{}-{}", std::process::id(), bundle.strip_prefix(&kubelet.folder)?.display())
        .replace('/', "-");
    let mut command = Command::new(find()?);
    command
        // The cgroup is where we put it.
        .args(["--cgroup-manager=disabled", "--root"])
        .arg(kubelet.folder.join("crun"))
        .args(["run", "--bundle"])
        .arg(bundle)
        .arg(name)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    kubelet.mounts.enter(&mut command)?;
    let child = process::spawn_in(kubelet.node.netns(), &cgroup, command)?;
    Ok(Container { child, cgroup, log })
}

fn configuration(
    kubelet: &Kubelet,
    pod: &Value,
    spec: &Value,
    volumes: &Volumes,
    cgroup: &Cgroup,
) -> Result<Value> {
    fields(
        spec,
        "container",
        &[
            "name",
            "image",
            "command",
            "args",
            "env",
            "securityContext",
            "volumeMounts",
            // These concern the kubelet, and not what the container sees.
            "imagePullPolicy",
            "livenessProbe",
            "readinessProbe",
            "resources",
            "terminationMessagePath",
            "terminationMessagePolicy",
        ],
    )?;
    let confinement = Confinement::of(&spec["securityContext"])?;
    let environment = environment(kubelet, pod, spec)?;
    let entrypoint = kubelet.image.config["Entrypoint"].clone();
    let command = if spec["command"].is_array() { &spec["command"] } else { &entrypoint };
    let words = [command, &spec["args"]].into_iter().filter_map(Value::as_array).flatten();
    let arguments: Vec<_> =
        words.filter_map(Value::as_str).map(|word| expanded(word, &environment)).collect();
    let capabilities: Vec<_> = confinement.capabilities.iter().collect();
    let (mounts, propagation) = mounts(kubelet, spec, volumes, &confinement, cgroup)?;
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "env": environment.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": confinement.no_new_privileges,
        },
        "root": {"path": "rootfs", "readonly": confinement.read_only_root},
        "mounts": mounts,
        "linux": {
            // Not the network's, nor with it the host's name.
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}],
            "rootfsPropagation": propagation,
            "maskedPaths": confinement.masked(),
            "readonlyPaths": confinement.read_only(),
        },
    });
    if let Some(seccomp) = confinement.seccomp {
        config["linux"]["seccomp"] = seccomp;
    }
    Ok(config)
}

fn environment(kubelet: &Kubelet, pod: &Value, spec: &Value) -> Result<Vec<(String, String)>> {
    let of_image = kubelet.image.config["Env"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut all: Vec<(String, String)> = of_image
        .filter_map(|pair| pair.split_once('='))
        .chain([("KUBERNETES_SERVICE_HOST", API_SERVICE), ("KUBERNETES_SERVICE_PORT", "443")])
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for variable in spec["env"].as_array().into_iter().flatten() {
        fields(variable, "env", &["name", "value", "valueFrom"])?;
        let name = variable["name"].as_str().context("a variable without name")?;
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("spec.nodeName") => kubelet.node.name().to_owned(),
            Some("metadata.name") => pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            Some("metadata.namespace") => {
                pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned()
            }
            Some("status.hostIP" | "status.podIP") => kubelet.node.host().v4().to_string(),
            Some(other) => bail!("{name} is taken from {other}"),
            None => variable["value"].as_str().unwrap_or_default().to_owned(),
        };
        all.push((name.to_owned(), value));
    }
    Ok(all)
}

/// With `$(NAME)` replaced, as the kubelet does it.
fn expanded(word: &str, environment: &[(String, String)]) -> String {
    environment.iter().fold(word.to_owned(), |word, (name, value)| word.replace(&format!("$({name})"), value))
}

/// What containerd mounts by itself, and then what the specification asks for; and how mounts propagate at all.
fn mounts(
    kubelet: &Kubelet,
    spec: &Value,
    volumes: &Volumes,
    confinement: &Confinement,
    cgroup: &Cgroup,
) -> Result<(Vec<Value>, &'static str)> {
    let access = if confinement.privileged { "rw" } else { "ro" };
    // A privileged container sees all cgroups of the node, others their own.
    let own = cgroup.path().strip_prefix(kubelet.node.cgroup().path())?;
    let seen = Path::new("/sys/fs/cgroup").join(if confinement.privileged { Path::new("") } else { own });
    let plain = |to: &str, kind: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
    let bound = |to: &str, from: &Path, options: &[&str]| {
        let options: Vec<_> = ["rbind"].iter().chain(options).collect();
        json!({"destination": to, "type": "bind", "source": from, "options": options})
    };
    let mut mounts = vec![
        plain("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        plain("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        plain("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        plain("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        // Modules are the machine's, and no node's.
        bound("/sys/module", Path::new("/sys/module"), &["ro"]),
        bound("/sys/fs/cgroup", &seen, &["nosuid", "noexec", "nodev", access]),
        bound("/etc/hosts", &kubelet.folder.join("hosts"), &["rprivate", access]),
        bound("/etc/resolv.conf", &kubelet.folder.join("resolv.conf"), &["rprivate", access]),
    ];
    if let Some(credentials) = volumes.get(SERVICE_ACCOUNT) {
        mounts.push(bound(SERVICE_ACCOUNT, credentials, &["rprivate", "ro"]));
    }
    let mut propagation = "rprivate";
    for mount in spec["volumeMounts"].as_array().into_iter().flatten() {
        fields(
            mount,
            "volumeMount",
            &["name", "mountPath", "readOnly", "recursiveReadOnly", "mountPropagation"],
        )?;
        let name = mount["name"].as_str().context("a mount without name")?;
        let to = mount["mountPath"].as_str().context("a mount without path")?;
        let from = volumes.get(name).with_context(|| format!("no volume {name}"))?;
        let spread = match mount["mountPropagation"].as_str() {
            None | Some("None") => "rprivate",
            Some("HostToContainer") => "rslave",
            Some("Bidirectional") => {
                ensure!(confinement.privileged, "{to}: only privileged containers may mount into the host");
                "rshared"
            }
            Some(other) => bail!("{to}: mountPropagation {other}"),
        };
        // As containerd has it: the root follows the most generous of them.
        propagation = match (propagation, spread) {
            ("rshared", _) | (_, "rshared") => "rshared",
            ("rslave", _) | (_, "rslave") => "rslave",
            _ => "rprivate",
        };
        let access = if mount["readOnly"] == Value::Bool(true) { "ro" } else { "rw" };
        mounts.retain(|mount| mount["destination"] != to);
        mounts.push(bound(to, from, &[spread, access]));
    }
    mounts.sort_by_key(|mount| mount["destination"].as_str().map(|path| path.matches('/').count()));
    Ok((mounts, propagation))
}

impl Container {
    /// What it has written.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).context("cannot read the container's log")
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When that cannot be asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("cannot wait for a container")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When that does not come in time.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let child = &mut self.child;
        let ended = wait::until("the container ends", limit, || Ok(child.try_wait()?));
        ended.with_context(|| self.log().unwrap_or_default())
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        // The runtime passes the signal on.
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)
            .context("cannot send SIGTERM")?;
        self.wait(Duration::from_secs(10))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The runtime and what it has started are in there, and nothing else.
        if let Err(error) = cgroup::remove_tree(self.cgroup.path()) {
            eprintln!("{error:#}");
        }
        // Killed by now.
        let _ = self.child.wait();
    }
}
