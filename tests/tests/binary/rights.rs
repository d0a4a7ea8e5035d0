//! The capabilities that kubeshunt says it needs: enough, and none too many. The example in
//! `deploy/kubeshunt.service` grants these, and one that it can do without.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::probe::Socket;
use kubeshunt_tests::protocol::{KeptSocket, Method, Target};
use kubeshunt_tests::stage::{self, Stage, at4};
use kubeshunt_tests::{Station, proxy};

const NEEDED: [&str; 3] = ["bpf", "net_admin", "perfmon"];

/// A program that runs kubeshunt with these capabilities and no way to more.
fn confined(folder: &Path, capabilities: &[&str]) -> Result<PathBuf> {
    confined_after(folder, capabilities, "")
}

/// The same, when these commands have been run in a mount namespace of its own.
fn confined_after(folder: &Path, capabilities: &[&str], commands: &str) -> Result<PathBuf> {
    let mut set = "-all".to_owned();
    for capability in capabilities {
        set.push_str(",+");
        set.push_str(capability);
    }
    let program = proxy::program()?;
    let path = folder.join(format!("confined-{}", capabilities.join("-")));
    let script = format!(
        "#!/bin/sh\n\
         [ -z \"$OWN_MOUNTS\" ] && OWN_MOUNTS=yes exec unshare --mount \"$0\" \"$@\"\n\
         {commands}\n\
         exec setpriv --no-new-privs --inh-caps=-all --bounding-set={set} {} \"$@\"\n",
        program.display()
    );
    fs::write(&path, script).context("cannot write a script")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("cannot make it executable")?;
    Ok(path)
}

#[test]
fn the_capabilities_it_asks_for_are_enough() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    let confined = confined(stage.bed.folder(), &NEEDED)?;
    let kubeshunt = stage.kubeshunt_mut();
    kubeshunt.terminate()?;
    // Both ways: taking over what is there, and starting from nothing.
    kubeshunt.restart_as(&confined)?;
    kubeshunt.terminate()?;
    ensure!(kubeshunt.command(&["cleanup"])?.status.success());
    kubeshunt.restart()?;
    let status = fs::read_to_string(format!("/proc/{}/status", kubeshunt.pid().context("it runs")?))?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
    assert_eq!(effective, Some("000000c000001000"), "bits 39, 38 and 12 are the three and no other");
    assert_eq!(stage.ask(&Target::tcp(at4(1)), 5)?.successes(), 5);
    Ok(())
}

#[test]
fn none_of_them_can_be_spared_and_the_message_names_it() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    let folder = stage.bed.folder().to_owned();
    let kubeshunt = stage.kubeshunt_mut();
    kubeshunt.terminate()?;
    ensure!(kubeshunt.command(&["cleanup"])?.status.success());
    for spared in NEEDED {
        let others: Vec<_> = NEEDED.into_iter().filter(|other| *other != spared).collect();
        let error = kubeshunt.restart_as(&confined(&folder, &others)?).err();
        let said = error.map(|error| format!("{error:#}")).unwrap_or_default();
        let name = format!("CAP_{}", spared.to_uppercase());
        assert!(said.contains("it ended at once"), "runs without {name}: {said}");
        let log = fs::read_to_string(kubeshunt.log())?;
        assert!(log.contains("needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"), "without {name}: {log}");
        let check = kubeshunt.command(&["check"])?;
        let table = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(table.contains(&format!("{name} missing")), "without {name}: {table}");
    }
    Ok(())
}

/// A socket of that place, connected by the Service to the one backend there is.
fn connected(station: &Station) -> Result<Socket<'_>> {
    let spec = KeptSocket { method: Method::UdpConnected, v6: false, timeout_ms: 2_000 };
    let socket = station.probe().socket(spec)?;
    let answer = socket.ask(&[at4(1)])?.remove(0).result;
    answer.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    Ok(socket)
}

fn ends_with(socket: &Socket<'_>, error: &str) -> Result<()> {
    let failure = socket.wait()?.expect_err("nobody sends anything");
    assert_eq!(failure.error, error);
    Ok(())
}

#[test]
fn without_cap_sys_admin_it_says_so_and_wakes_the_sockets_of_its_own_network_namespace() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    let confined = confined(stage.bed.folder(), &NEEDED)?;
    stage.kubeshunt_mut().terminate()?;
    stage.kubeshunt_mut().restart_as(&confined)?;
    let said = stage.wait_for_log(&["WARN", "CAP_SYS_ADMIN"])?;
    assert!(said.contains("connected UDP sockets keep sending"), "{said}");
    let (own, pods) = (connected(stage.node.host())?, connected(&stage.client)?);
    stage.publish(&stage::service("web", 1), "web", &[])?;
    ends_with(&own, "ECONNABORTED")?;
    ends_with(&pods, "TIMEOUT")?;
    let log = fs::read_to_string(stage.kubeshunt().log())?;
    assert_eq!(log.matches("CAP_SYS_ADMIN").count(), 1, "{log}");
    let check = stage.kubeshunt().command(&["check"])?;
    let table = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success() && table.contains("CAP_SYS_ADMIN"), "{table}");
    Ok(())
}

#[test]
fn with_cap_sys_admin_it_wakes_the_sockets_of_namespaces_that_are_mounted() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    // As container runtimes do it; here where nobody else sees it.
    let mounted = stage.bed.folder().join("netns");
    let commands =
        format!(": > {0}; mount --bind /proc/{1}/ns/net {0}", mounted.display(), stage.client.probe().pid());
    let with: Vec<_> = NEEDED.into_iter().chain(["sys_admin"]).collect();
    let confined = confined_after(stage.bed.folder(), &with, &commands)?;
    stage.kubeshunt_mut().terminate()?;
    stage.kubeshunt_mut().restart_as(&confined)?;
    let pods = connected(&stage.client)?;
    stage.publish(&stage::service("web", 1), "web", &[])?;
    ends_with(&pods, "ECONNABORTED")?;
    let log = fs::read_to_string(stage.kubeshunt().log())?;
    assert!(!log.contains("CAP_SYS_ADMIN"), "{log}");
    Ok(())
}

#[test]
fn what_is_pinned_is_for_its_owner_only() -> Result<()> {
    let stage = Stage::serving(1)?;
    let root = stage.node.pins();
    for folder in [kubeshunt_tests::inspect::maps(root)?, root.join("links"), root.join("devices")] {
        let mode = fs::metadata(&folder)?.permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder)? {
            let mode = entry?.metadata()?.permissions().mode();
            assert_eq!(mode & 0o077, 0, "in {}", folder.display());
        }
    }
    Ok(())
}
