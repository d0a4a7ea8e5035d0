//! The capabilities that kubeshunt says it needs: enough, and none too many. The example in
//! `deploy/kubeshunt.service` grants exactly these.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::proxy;
use kubeshunt_tests::stage::{Stage, at4};

const NEEDED: [&str; 3] = ["bpf", "net_admin", "perfmon"];

/// A program that runs kubeshunt with these capabilities and no way to more.
fn confined(folder: &Path, capabilities: &[&str]) -> Result<PathBuf> {
    let mut set = "-all".to_owned();
    for capability in capabilities {
        set.push_str(",+");
        set.push_str(capability);
    }
    let program = proxy::program()?;
    let path = folder.join(format!("confined-{}", capabilities.join("-")));
    let script = format!(
        "#!/bin/sh\nexec setpriv --no-new-privs --inh-caps=-all --bounding-set={set} {} \"$@\"\n",
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

#[test]
fn what_is_pinned_is_for_its_owner_only() -> Result<()> {
    let stage = Stage::serving(1)?;
    let version = fs::read_dir(stage.node.pins())?.next().context("a folder for the version")??.path();
    for folder in [version.clone(), version.join("maps"), version.join("links"), version.join("devices")] {
        let mode = fs::metadata(&folder)?.permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder)? {
            let mode = entry?.metadata()?.permissions().mode();
            assert_eq!(mode & 0o077, 0, "in {}", folder.display());
        }
    }
    Ok(())
}
