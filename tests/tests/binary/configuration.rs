//! kube-proxy's command line and configuration file, from outside: what is accepted, refused and noticed, and that whatever
//! is wrong with them does no harm to what is being served.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use kubeshunt_tests::inspect;
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::proxy::{self, METRICS};
use kubeshunt_tests::stage::{PATIENCE, Stage, at4, at6};
use kubeshunt_tests::{process, wait};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const HEAD: &str = "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1alpha1\n";

/// Writes a configuration file of these lines below kind and version.
fn write(stage: &Stage, name: &str, lines: &str) -> Result<PathBuf> {
    let file = stage.bed.folder().join(name);
    fs::write(&file, format!("{HEAD}{lines}"))?;
    Ok(file)
}

fn config(file: &Path) -> String {
    format!("--config={}", file.display())
}

/// Everything that is pinned, by identity, and every frontend.
fn datapath(stage: &Stage) -> Result<impl PartialEq + std::fmt::Debug + use<>> {
    Ok((inspect::belongings(stage.node.pins())?, stage.frontends()?))
}

fn assert_serves(stage: &Stage, what: &str) -> Result<()> {
    for to in [at4(1), at6(1)] {
        let report = stage.ask(&Target::tcp(to), 3)?;
        assert_eq!(report.successes(), 3, "{what}: {:?}", report.errors);
    }
    Ok(())
}

/// Runs it on the node's places with these arguments as well: the code it ends with, and what it said last.
fn ends(stage: &Stage, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let (cgroup, pins) =
        (stage.node.cgroup().path().display().to_string(), stage.node.pins().display().to_string());
    let places = ["run", "--cgroup-root", &cgroup, "--bpffs-root", &pins, "--hostname-override", "node-a"];
    let output = stage.invoke(&[&places, arguments].concat())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), said))
}

#[test]
fn what_makes_no_sense_ends_with_two_and_touches_nothing() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    // Also while nobody holds the lock, so that it is not only the lock that keeps harm away.
    stage.kubeshunt_mut().kill9()?;
    let before = datapath(&stage)?;
    let missing = stage.bed.folder().join("missing");
    let kubeconfig = stage.bed.folder().join("kubeconfig");
    fs::write(&kubeconfig, "clusters: 5\n")?;
    let wrong_type = write(&stage, "wrong-type", "conntrack:\n  min: many\n")?;
    let malformed = write(&stage, "malformed", "mode: [\n")?;
    let wrong_value = write(&stage, "wrong-value", "iptables: {syncPeriod: 1s, minSyncPeriod: 2s}\n")?;
    let unknown = write(&stage, "unknown", "kubeshunt: {maxBackend: 5}\n")?;
    let wrong_kind = stage.bed.folder().join("wrong-kind");
    fs::write(&wrong_kind, "kind: Pod\napiVersion: v1\n")?;
    let unreadable =
        write(&stage, "unreadable", &format!("clientConnection: {{kubeconfig: {}}}\n", missing.display()))?;
    for (argument, words) in [
        (config(&wrong_type), &["wrong-type", "line 4", "conntrack.min"][..]),
        (config(&malformed), &["malformed", "line "]),
        (config(&wrong_value), &["wrong-value", "iptables.syncPeriod", "must be greater than or equal"]),
        (config(&unknown), &["unknown", "kubeshunt.maxBackend", "no such setting"]),
        (config(&wrong_kind), &["wrong-kind", "Pod of v1", "has to be kind: KubeProxyConfiguration"]),
        (config(&missing), &["missing", "No such file", "--config"]),
        (config(&unreadable), &["the kubeconfig", "missing", "No such file"]),
        (format!("--kubeconfig={}", kubeconfig.display()), &["the kubeconfig", "cannot be used"]),
        ("--feature-gates=Magic=true".to_owned(), &["featureGates.Magic", "no component of Kubernetes"]),
        ("--proxy-mode=userspace".to_owned(), &["mode", "userspace", "iptables"]),
        ("--oom-score-adj=5000".to_owned(), &["oomScoreAdj", "-1000 to 1000"]),
        ("--no-such-flag".to_owned(), &["--no-such-flag", "--help"]),
    ] {
        let (code, said) = ends(&stage, &[&argument])?;
        assert_eq!(code, Some(2), "{argument}: {said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in what {argument} leads to: {said}");
        }
    }
    assert_eq!(datapath(&stage)?, before);
    assert_serves(&stage, "after all these")
}

#[test]
fn an_address_that_is_taken_ends_it_only_if_it_is_told_so_and_then_with_four() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    stage.kubeshunt_mut().kill9()?;
    let before = stage.frontends()?;
    let taken = stage.node.netns().run(|| TcpListener::bind(METRICS)).context("cannot take the address")?;
    let folder = stage.folder.path().display().to_string();
    let (code, said) = ends(&stage, &["--manifests", &folder, "--bind-address-hard-fail"])?;
    assert_eq!(code, Some(4), "{said}");
    let last = said.lines().last().unwrap_or_default();
    for word in ["cannot serve metrics on 127.0.0.1:10249", "in use", "name another address"] {
        assert!(last.contains(word), "no {word:?} in {last}");
    }
    assert_eq!(stage.frontends()?, before);
    assert_serves(&stage, "after it ended")?;
    stage.kubeshunt_mut().restart()?;
    stage.wait_for_log(&["WARN", "cannot serve metrics on 127.0.0.1:10249", "trying again every 5s"])?;
    drop(taken);
    wait::until_true("metrics are served after all", PATIENCE, || {
        Ok(stage.kubeshunt().get(METRICS.port(), "/metrics").is_ok_and(|(code, _)| code == 200))
    })?;
    Ok(())
}

#[test]
fn a_file_is_obeyed_and_what_has_no_effect_is_said_once() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let lines = "mode: nftables\nmagic: 1\nnftables: {masqueradeAll: true}\nportRange: 1-2\n\
                 kubeshunt: {maxFrontends: 1234}\n";
    let file = write(&stage, "config", lines)?;
    stage.start_with(|setup| setup.arg(config(&file)).arg("--masquerade-all"))?;
    assert_eq!(stage.kubeshunt().get(METRICS.port(), "/proxyMode")?.1, "nftables");
    let configz = stage.kubeshunt().get(METRICS.port(), "/configz")?.1;
    for word in ["\"nodePortAddresses\":[\"primary\"]", "\"apiVersion\":\"kubeproxy.config.k8s.io/v1alpha1\""]
    {
        assert!(configz.contains(word), "no {word} in {configz}");
    }
    stage.wait_for_log(&["WARN", "unknown field \"magic\""])?;
    stage.wait_for_log(&["WARN", "--config takes the place of these flags", "--masquerade-all"])?;
    let log = fs::read_to_string(stage.kubeshunt().log())?;
    for word in ["nftables.masqueradeAll has no effect: ", "portRange has no effect: "] {
        assert_eq!(log.matches(word).count(), 1, "{word} in {log}");
    }
    Ok(())
}

#[test]
fn it_ends_with_one_when_its_file_says_something_else_that_makes_sense() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    stage.kubeshunt_mut().kill9()?;
    // As the kubelet mounts a ConfigMap: the file is a link into a folder that is itself one, which is exchanged.
    let mount = stage.bed.folder().join("config-map");
    let put = |version: &str, lines: &str| -> Result<()> {
        let folder = mount.join(version);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("config.conf"), format!("{HEAD}{lines}"))?;
        symlink(version, mount.join("..data_tmp"))?;
        Ok(fs::rename(mount.join("..data_tmp"), mount.join("..data"))?)
    };
    put("..1", "mode: iptables\n")?;
    symlink("..data/config.conf", mount.join("config.conf"))?;
    let argument = config(&mount.join("config.conf"));
    stage.start_with(|setup| setup.arg(argument))?;
    let before = datapath(&stage)?;
    put("..2", "# a comment\nmode: iptables\n")?;
    put("..3", "mode: magic\n")?;
    stage.wait_for_log(&["WARN", "cannot be used, so the old one stays in force", "mode", "magic"])?;
    put("..4", "conntrack: {min: many}\n")?;
    stage.wait_for_log(&["WARN", "cannot be used, so the old one stays in force", "conntrack.min"])?;
    assert_serves(&stage, "with a file that cannot be used")?;
    put("..5", "mode: ipvs\n")?;
    stage.wait_for_log(&["has changed; ending, so as to be started anew with it"])?;
    let status = stage.kubeshunt_mut().terminate()?;
    assert_eq!(status.code(), Some(1), "by itself: {}", stage.kubeshunt().log_tail());
    assert_eq!(datapath(&stage)?, before);
    assert_serves(&stage, "with nobody in charge")?;
    stage.kubeshunt_mut().restart()?;
    assert_eq!(stage.kubeshunt().get(METRICS.port(), "/proxyMode")?.1, "ipvs");
    assert_serves(&stage, "with the new file")
}

/// The same program under another name.
fn called_kube_proxy(stage: &Stage) -> Result<PathBuf> {
    let name = stage.bed.folder().join("kube-proxy");
    symlink(proxy::program()?, &name)?;
    Ok(name)
}

fn output(stage: &Stage, mut command: Command) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    process::spawn_in(stage.node.netns(), stage.bed.outside().cgroup(), command)?
        .wait_with_output()
        .context("cannot wait for a child")
}

#[test]
fn under_the_name_kube_proxy_it_takes_kube_proxys_command_line() -> Result<()> {
    let stage = Stage::new(0)?;
    let name = called_kube_proxy(&stage)?;
    let file = stage.bed.folder().join("written");
    let mut command = Command::new(&name);
    command.args(["--proxy_mode=ipvs", "--ipvs-scheduler", "lc", "--cluster-cidr=10.0.0.0/8", "-v=2"]);
    command.arg("--write-config-to").arg(&file);
    let written = output(&stage, command)?;
    assert!(written.status.success(), "{written:?}");
    let text = fs::read_to_string(&file)?;
    for line in
        ["mode: ipvs", "  scheduler: lc", "clusterCIDR: 10.0.0.0/8", "  verbosity: 2", "oomScoreAdj: -999"]
    {
        assert!(text.lines().any(|written| written == line), "no {line:?} in:\n{text}");
    }
    // What was written is read back as the same.
    let again = stage.bed.folder().join("again");
    let mut command = Command::new(&name);
    command.arg(config(&file)).arg("--write-config-to").arg(&again);
    assert!(output(&stage, command)?.status.success());
    assert_eq!(fs::read_to_string(&again)?, text);
    let mut command = Command::new(&name);
    command.arg("--version");
    let version = output(&stage, command)?;
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("kubeshunt "), "{version:?}");
    Ok(())
}

#[test]
fn cleanup_by_kube_proxys_flag_leaves_nothing() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    let (code, said) = ends(&stage, &["--cleanup"])?;
    assert_eq!(code, Some(3), "while somebody is at work: {said}");
    assert_serves(&stage, "after the refusal")?;
    stage.kubeshunt_mut().kill9()?;
    let (code, said) = ends(&stage, &["--cleanup"])?;
    assert_eq!(code, Some(0), "{said}");
    assert!(inspect::maps(stage.node.pins()).is_err(), "pins are left");
    Ok(())
}

#[test]
fn init_only_mounts_a_bpffs_sets_sysctls_and_ends() -> Result<()> {
    let stage = Stage::new(0)?;
    let folder = stage.bed.folder().join("own-bpf");
    fs::create_dir(&folder)?;
    let mut command = Command::new(proxy::program()?);
    command.args([
        "run",
        "--init-only",
        "--conntrack-tcp-timeout-close-wait=59m",
        "--conntrack-udp-timeout=31s",
    ]);
    command.arg("--cgroup-root").arg(stage.node.cgroup().path());
    command.arg("--bpffs-root").arg(folder.join("kubeshunt"));
    // With mounts of its own, so that what it mounts goes with it.
    // SAFETY: between fork and exec only two system calls are made, without allocation.
    unsafe {
        command.pre_exec(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            Ok(())
        });
    }
    let ended = output(&stage, command)?;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{said}\n{}", String::from_utf8_lossy(&ended.stdout));
    assert!(said.contains(&format!("mounted a bpffs at {}", folder.display())), "{said}");
    let sysctl = |name: &str| {
        let file = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
        stage.node.netns().run(|| fs::read_to_string(&file)).with_context(|| file.clone())
    };
    assert_eq!(sysctl("tcp_timeout_close_wait")?.trim(), "3540");
    assert_eq!(sysctl("udp_timeout")?.trim(), "31");
    assert_eq!(sysctl("tcp_timeout_established")?.trim(), "86400");
    assert!(fs::read_dir(&folder)?.next().is_none() && !folder.join("kubeshunt").exists());
    Ok(())
}
