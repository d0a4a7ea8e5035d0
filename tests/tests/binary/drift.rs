//! Somebody else writes to the maps, removes pins, or takes the whole folder away: it is noticed, named and set right,
//! or reported; connections that are served go on where that is possible.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::pinned::PinnedMap;
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::proxy::HEALTHZ;
use kubeshunt_tests::stage::{Stage, at4, at6};
use kubeshunt_tests::{bpffs, inspect, wait};
use nix::fcntl::{Flock, FlockArg};
use proxy_userspace::datapath::kernel;
use serde_json::Value;

/// For what is looked at every ten seconds.
const LONG: Duration = Duration::from_secs(60);

fn map(stage: &Stage, name: &str) -> Result<PinnedMap> {
    PinnedMap::open(&inspect::maps(stage.node.pins())?.join(name))
}

/// Asks by TCP and UDP, both families.
fn is_led(stage: &Stage) -> Result<bool> {
    for target in [Target::tcp(at4(1)), Target::udp(at4(1)), Target::tcp(at6(1)), Target::udp(at6(1))] {
        if stage.ask(&target, 1)?.successes() != 1 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn metric(stage: &Stage, name: &str, what: &str) -> Result<f64> {
    let name = format!("kubeshunt_drift_{name}_total{{what=\"{what}\"}}");
    Ok(stage.kubeshunt().metric(&name).unwrap_or_default())
}

/// Waits until so many differences in a map were found and set right, and until it is said which.
fn wait_for_repair(stage: &Stage, what: &str, count: f64, words: &[&str]) -> Result<()> {
    wait::until_true(&format!("{what} are set right"), LONG, || {
        Ok(metric(stage, "found", what)? >= count && metric(stage, "repaired", what)? >= count)
    })
    .with_context(|| stage.kubeshunt().log_tail())?;
    stage.wait_for_log(&[&["WARN", "somebody"], words].concat()).map(drop)
}

fn health(stage: &Stage) -> Result<(u16, Value)> {
    let (code, text) = stage.kubeshunt().get(HEALTHZ.port(), "/healthz")?;
    Ok((code, serde_json::from_str(&text).with_context(|| text.clone())?))
}

#[test]
fn flushed_frontends_are_there_again_under_their_ids() -> Result<()> {
    let stage = Stage::serving(2)?;
    let frontends = map(&stage, "FRONTENDS")?;
    let before = frontends.entries()?;
    ensure!(before.len() == 6, "four frontends and two addresses");
    for key in before.keys() {
        frontends.remove(key)?;
    }
    wait_for_repair(&stage, "frontends", 6.0, &["default/web:tcp/TCP (IPv4): 10.96.0.1:80/TCP is missing"])?;
    assert_eq!(frontends.entries()?, before);
    assert!(is_led(&stage)?);
    assert_eq!(health(&stage)?.0, 200);
    Ok(())
}

#[test]
fn words_slots_and_foreign_frontends_are_set_right() -> Result<()> {
    let stage = Stage::serving(2)?;
    let (frontends, services, backends) =
        (map(&stage, "FRONTENDS")?, map(&stage, "SERVICES")?, map(&stage, "BACKENDS")?);
    let before = frontends.entries()?;
    let (key, value) = before.first_key_value().context("some frontend")?;
    let id: [u8; 4] = value[..4].try_into()?;

    // A frontend that nobody wants, which leads where another one does.
    let mut foreign = key.clone();
    foreign[16] ^= 1;
    frontends.update(&foreign, value)?;
    wait_for_repair(&stage, "frontends", 1.0, &["is there and is nobody's"])?;
    assert_eq!(frontends.entries()?, before);

    let words = services.lookup(&id)?.context("words")?;
    services.update(&id, &[0; 16])?;
    wait_for_repair(&stage, "services", 1.0, &["default/web", "any endpoint is no in place of yes"])?;
    assert_eq!(services.lookup(&id)?, Some(words.clone()));
    assert!(is_led(&stage)?);

    // Slots lie where the word says: 24 bytes each, an address first.
    let start = u32::from_ne_bytes(words[..4].try_into()?) & ((1 << 29) - 1);
    let mut slot = backends.element_at(start)?;
    slot[15] = 99;
    backends.update(&start.to_ne_bytes(), &slot)?;
    wait_for_repair(&stage, "backends", 1.0, &["default/web", "lacks", "in vain"])?;
    stage.wait_for_backends(1, &[0, 1])?;
    assert!(is_led(&stage)?);
    Ok(())
}

#[test]
fn small_maps_are_set_right() -> Result<()> {
    let stage = Stage::serving(1)?;
    let addresses = map(&stage, "NODE_ADDRESSES")?;
    let before = addresses.entries()?;
    for key in before.keys() {
        addresses.remove(key)?;
    }
    wait_for_repair(&stage, "node_addresses", 1.0, &["node_addresses", "is missing"])?;
    assert_eq!(addresses.entries()?, before);

    let revision = map(&stage, "REVISION")?;
    revision.update(&[0; 4], &7_u64.to_ne_bytes())?;
    wait_for_repair(&stage, "revision", 1.0, &["the revision of the frontends"])?;
    let now = u64::from_ne_bytes(revision.element_at(0)?[..].try_into()?);
    assert!(now > 7 && now % 2 == 0, "{now}");

    let count = map(&stage, "LEFT_COUNT")?;
    count.update(&[0; 4], &3_u64.to_ne_bytes())?;
    wait_for_repair(&stage, "left_cgroups", 1.0, &["left_cgroups"])?;
    assert_eq!(count.element_at(0)?, [0; 8]);

    let ranges = map(&stage, "SERVICE_CIDRS")?;
    let right = ranges.element_at(7)?;
    ranges.update(&7_u32.to_ne_bytes(), &vec![1; right.len()])?;
    wait_for_repair(&stage, "service_cidrs", 1.0, &["service_cidrs"])?;
    assert_eq!(ranges.element_at(7)?, right);
    assert!(is_led(&stage)?);
    Ok(())
}

/// The ids of everything that is pinned, by path.
fn pinned(stage: &Stage) -> Result<BTreeMap<PathBuf, u32>> {
    let mut pins = BTreeMap::new();
    let root = stage.node.pins();
    for folder in inspect::maps(root).into_iter().chain(["links", "devices"].map(|kind| root.join(kind))) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry?.path();
            if let Some(object) = kernel::open_pin(&path)? {
                pins.insert(path, kernel::object_id(object.as_fd())?);
            }
        }
    }
    Ok(pins)
}

/// Waits until everything is pinned as it was; nobody has noticed.
fn wait_for_pins(stage: &Stage, before: &BTreeMap<PathBuf, u32>) -> Result<()> {
    assert!(is_led(stage)?, "programs stay attached while their pins are gone");
    wait::until_true("everything is pinned again", LONG, || Ok(pinned(stage)? == *before))
        .with_context(|| stage.kubeshunt().log_tail())?;
    stage.wait_for_log(&["WARN", "somebody had removed pins"])?;
    assert!(is_led(stage)? && metric(stage, "repaired", "pin")? > 0.5);
    Ok(())
}

/// Kills it: what is pinned must be what serves, before and after the next start.
fn is_still_led_after_a_restart(stage: &mut Stage) -> Result<()> {
    stage.kubeshunt_mut().kill9()?;
    ensure!(is_led(stage)?, "dead");
    stage.kubeshunt_mut().restart()?;
    ensure!(is_led(stage)?, "alive again");
    Ok(())
}

#[test]
fn pins_that_somebody_has_removed_are_made_anew() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    let before = pinned(&stage)?;
    ensure!(before.len() > 25 + 8 + 4, "{before:?}");
    for path in before.keys() {
        fs::remove_file(path)?;
    }
    wait_for_pins(&stage, &before)?;
    is_still_led_after_a_restart(&mut stage)
}

#[test]
fn a_folder_that_somebody_has_removed_is_made_anew_and_locked() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    let before = pinned(&stage)?;
    fs::remove_dir_all(stage.node.pins())?;
    wait_for_pins(&stage, &before)?;
    let (cgroup, pins) =
        (stage.node.cgroup().path().display().to_string(), stage.node.pins().display().to_string());
    let manifests = stage.folder.path().display().to_string();
    let second = ["run", "--manifests", &manifests, "--cgroup-root", &cgroup, "--bpffs-root", &pins];
    let output = stage.invoke(&second)?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    is_still_led_after_a_restart(&mut stage)
}

#[test]
fn a_bpffs_that_is_mounted_anew_gets_everything() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    let before = pinned(&stage)?;
    let mount = stage.bed.estate().bpffs.clone();
    bpffs::unmount(&mount)?;
    let body = wait::until("health falls", LONG, || {
        let (code, body) = health(&stage)?;
        Ok((code == 503).then_some(body))
    })?;
    let reason = body["faults"]["pins"].as_str().unwrap_or_default();
    assert!(reason.contains("not on a bpffs") && reason.contains("outlive"), "{body}");
    assert!(is_led(&stage)?, "what is attached goes on");
    bpffs::mount_fresh(&mount)?;
    wait_for_pins(&stage, &before)?;
    wait::until_true("health is good", LONG, || Ok(health(&stage)?.0 == 200))?;
    is_still_led_after_a_restart(&mut stage)
}

/// A folder that another process has made its own.
fn take_over(root: &Path) -> Result<Option<Flock<File>>> {
    // We may be faster than whoever removes it; then he tries again.
    let _ = fs::remove_dir_all(root);
    if fs::create_dir(root).is_err() {
        return Ok(None);
    }
    Ok(Flock::lock(File::open(root)?, FlockArg::LockExclusiveNonblock).ok())
}

#[test]
fn whoever_finds_another_one_in_his_folder_ends() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    let _taken = wait::until("the folder is taken over", LONG, || take_over(stage.node.pins()))?;
    let status = stage.kubeshunt_mut().wait(LONG)?;
    assert_eq!(status.code(), Some(3), "{}", stage.kubeshunt().log_tail());
    stage.wait_for_log(&["another kubeshunt works on"]).map(drop)
}
