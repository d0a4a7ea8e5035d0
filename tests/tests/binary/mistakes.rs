//! Wrong invocations: an exit code, a message that says what is wrong and what to do, and no harm.

use anyhow::Result;
use kubeshunt_tests::inspect;
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::stage::{Stage, at4};

/// Runs it with these places instead of the right ones; wants failure with that code, and all of the words in one line.
fn fails(stage: &Stage, code: i32, places: &[(&str, &str)], words: &[&str]) -> Result<()> {
    let (folder, cgroup) = (stage.folder.path().display().to_string(), stage.node.cgroup().path().display());
    let (cgroup, pins) = (cgroup.to_string(), stage.node.pins().display().to_string());
    let mut arguments = vec!["run", "--hostname-override", "node-a"];
    arguments.extend(["--metrics-bind-address", "127.0.0.1:20249"]);
    arguments.extend(["--healthz-bind-address", "127.0.0.1:20256"]);
    for (flag, right) in [("--manifests", &*folder), ("--cgroup-root", &*cgroup), ("--bpffs-root", &*pins)] {
        let wrong = places.iter().find(|(place, _)| *place == flag);
        arguments.extend([flag, wrong.map_or(right, |(_, wrong)| wrong)]);
    }
    let output = stage.invoke(&arguments)?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("kubeshunt: "), "the reason comes last: {said}");
    for word in words {
        assert!(last.contains(word), "no {word:?} in: {last}");
    }
    Ok(())
}

#[test]
fn a_second_instance_on_the_same_pins_is_refused_and_does_no_harm() -> Result<()> {
    let stage = Stage::serving(1)?;
    let before = (inspect::belongings(stage.node.pins())?, stage.frontends()?);
    let pins = stage.node.pins().display().to_string();
    fails(&stage, 3, &[], &["another kubeshunt works on", &pins, "--bpffs-root"])?;
    assert_eq!((inspect::belongings(stage.node.pins())?, stage.frontends()?), before);
    assert_eq!(stage.ask(&Target::tcp(at4(1)), 5)?.successes(), 5);
    Ok(())
}

#[test]
fn a_cgroup_root_that_is_no_cgroup_is_refused() -> Result<()> {
    let stage = Stage::new(0)?;
    for wrong in [stage.bed.folder().display().to_string(), "/nonexistent".to_owned()] {
        fails(&stage, 1, &[("--cgroup-root", &wrong)], &[&wrong, "no cgroup v2 folder", "--cgroup-root"])?;
    }
    // Noticed before anything is pinned, so that a second try with another folder starts from nothing.
    assert!(inspect::maps(stage.node.pins()).is_err(), "pins are left");
    Ok(())
}

#[test]
fn a_bpffs_root_that_is_on_no_bpffs_is_refused() -> Result<()> {
    let stage = Stage::new(0)?;
    for wrong in [stage.bed.folder().join("pins").display().to_string(), "/nonexistent/pins".to_owned()] {
        let words = [&*wrong, "is not on a bpffs", "mount -t bpf", "--bpffs-root"];
        fails(&stage, 1, &[("--bpffs-root", &wrong)], &words)?;
    }
    Ok(())
}

#[test]
fn a_missing_manifests_folder_is_refused() -> Result<()> {
    let stage = Stage::new(0)?;
    let words = ["cannot read the manifests folder /nonexistent", "No such file", "create it"];
    fails(&stage, 1, &[("--manifests", "/nonexistent")], &words)
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_two() -> Result<()> {
    let stage = Stage::new(0)?;
    for arguments in [&["run", "--no-such-flag"][..], &["serve"], &["run", "--max-backends", "none"]] {
        let output = stage.invoke(arguments)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
    Ok(())
}
