//! Hooks that somebody has taken away, or that do not do what they should: mended where that is possible, and told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::attached::{self, Way};
use kubeshunt_tests::foreign::Foreign;
use kubeshunt_tests::pinned::PinnedMap;
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::proxy::{HEALTHZ, METRICS};
use kubeshunt_tests::stage::{PATIENCE, Stage, at4, at6, service, vip4, vip6};
use kubeshunt_tests::{Sniffer, inspect, wait};
use proxy_common::layout::program;
use proxy_userspace::datapath::kernel;
use serde_json::Value;

/// For what is looked at every ten seconds, or every thirty.
const LONG: Duration = Duration::from_secs(60);

fn link(stage: &Stage, hook: &str) -> Result<PathBuf> {
    Ok(stage.node.pins().join("links").join(hook))
}

fn is_attached(stage: &Stage, hook: &str) -> Result<bool> {
    let path = link(stage, hook)?;
    Ok(path.exists() && inspect::link(&path)?.cgroup != 0)
}

/// Detaches a pinned link, and leaves it pinned.
fn detach(pin: &Path) -> Result<()> {
    let link = kernel::open_pin(pin)?.context("it is pinned")?;
    Ok(kernel::detach_link(std::os::fd::AsFd::as_fd(&link))?)
}

fn metric(stage: &Stage, name: &str) -> Result<f64> {
    let (_, text) = stage.kubeshunt().get(METRICS.port(), "/metrics")?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.map(str::parse).transpose()?.unwrap_or_default())
}

fn is_led(stage: &Stage) -> Result<bool> {
    Ok(stage.ask(&Target::tcp(at4(1)), 1)?.successes() == 1)
}

/// The code of /healthz, and what it says of the hooks; /livez says the same, and stays at 200.
fn health(stage: &Stage) -> Result<(u16, Value)> {
    let (alive, said) = stage.kubeshunt().get(HEALTHZ.port(), "/livez")?;
    ensure!(alive == 200, "{said}");
    let (code, text) = stage.kubeshunt().get(HEALTHZ.port(), "/healthz")?;
    let body: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    Ok((code, body["hooks"].clone()))
}

fn wait_for_health(stage: &Stage, code: u16) -> Result<Value> {
    wait::until(&format!("health is {code}"), LONG, || {
        let (is, hooks) = health(stage)?;
        Ok((is == code && hooks.is_object()).then_some(hooks))
    })
    .with_context(|| stage.kubeshunt().log_tail())
}

#[test]
fn hooks_that_somebody_has_detached_are_attached_again() -> Result<()> {
    let stage = Stage::serving(1)?;
    assert!(is_led(&stage)?);
    for hook in program::ALL {
        detach(&link(&stage, hook)?)?;
    }
    wait::until_true("all are attached again", LONG, || {
        program::ALL
            .iter()
            .map(|hook| is_attached(&stage, hook))
            .collect::<Result<Vec<_>>>()
            .map(|all| !all.contains(&false))
    })
    .with_context(|| stage.kubeshunt().log_tail())?;
    assert!(is_led(&stage)?);
    assert_eq!(stage.ask(&Target::udp(at6(1)), 3)?.successes(), 3);
    wait::until_true("it is told", PATIENCE, || {
        Ok((metric(&stage, "kubeshunt_drift_repaired_total{what=\"hook\"}")? - 8.0).abs() < 0.5)
    })?;
    stage.wait_for_log(&["WARN", "attached again", "sendmsg6", "connect4"])?;
    assert_eq!(wait_for_health(&stage, 200)?["effective"], true);
    Ok(())
}

#[test]
fn health_falls_while_a_hook_cannot_be_attached_again() -> Result<()> {
    let stage = Stage::serving(1)?;
    // Somebody who wants the hook for himself comes at once. We may be faster; then he tries again.
    let alone = wait::until("the hook is taken", LONG, || {
        let path = link(&stage, "connect4")?;
        if path.exists() {
            detach(&path)?;
        }
        Ok(Foreign::alone(stage.node.cgroup()).ok())
    })?;
    let hooks = wait_for_health(&stage, 503)?;
    assert_eq!(hooks["effective"], false, "{hooks}");
    assert!(hooks["reason"].as_str().is_some_and(|reason| reason.contains("connect4")), "{hooks}");
    assert!(metric(&stage, "kubeshunt_hooks_effective")? < 0.5);
    assert_eq!(stage.kubeshunt().get(HEALTHZ.port(), "/healthz")?.0, 503);
    stage.wait_for_log(&["WARN", "not led to Services", "connect4"])?;
    drop(alone);
    wait_for_health(&stage, 200)?;
    assert!(is_led(&stage)? && metric(&stage, "kubeshunt_hooks_effective")? > 0.5);
    stage.wait_for_log(&["INFO", "led to Services again"]).map(drop)
}

#[test]
fn connections_of_our_own_try_the_hooks_and_nobody_notices() -> Result<()> {
    let mut stage = Stage::new(1)?;
    stage.publish(&service("web", 1), "web", &[0])?;
    let backend = &stage.backends[0];
    let ours = [vip4(1), vip6(1), backend.v4().into(), backend.v6().into()];
    let is_ours = move |frame: &kubeshunt_tests::sniffer::Frame| {
        frame
            .packet()
            .is_some_and(|packet| packet.mentions(&|ip| ours.contains(&ip)) && packet.ports().is_some())
    };
    let sniffers = [
        Sniffer::start(backend.netns(), "eth0", is_ours)?,
        Sniffer::start(stage.node.host().netns(), "lo", is_ours)?,
    ];
    stage.start_with(|setup| setup.among_pods())?;
    wait::until_true("both families have been tried twice", LONG, || {
        Ok(metric(&stage, "kubeshunt_selftests_total{result=\"led\"}")? > 3.5)
    })
    .with_context(|| stage.kubeshunt().log_tail())?;
    assert_eq!(wait_for_health(&stage, 200)?["effective"], true);
    for counted in [
        "kubeshunt_decisions_total{outcome=\"connected\"}",
        "kubeshunt_service_decisions_total{namespace=\"default\",service=\"web\",outcome=\"connected\"}",
    ] {
        assert!(metric(&stage, counted)? < 0.5, "{counted}");
    }
    for sniffer in sniffers {
        let frames = sniffer.stop().frames;
        assert!(frames.is_empty(), "{frames:?}");
    }
    Ok(())
}

#[test]
fn health_falls_while_connections_are_not_led() -> Result<()> {
    let mut stage = Stage::new(1)?;
    stage.publish(&service("web", 1), "web", &[0])?;
    stage.start_with(|setup| setup.among_pods())?;
    wait_for_health(&stage, 200)?;
    let maps = inspect::maps(stage.node.pins())?;
    let frontends = PinnedMap::open(&maps.join("FRONTENDS"))?;
    let before = frontends.entries()?;
    // It is set right again and again; somebody is more persistent.
    let hooks = wait::until("health falls", LONG, || {
        for (key, value) in &before {
            frontends.update(key, &vec![0; value.len()])?;
        }
        let (code, hooks) = health(&stage)?;
        Ok((code == 503 && hooks["effective"] == false).then_some(hooks))
    })?;
    let reason = hooks["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("10.96.0.1:80 was not led"), "{hooks}");
    wait_for_health(&stage, 200)?;
    assert_eq!(frontends.entries()?, before);
    Ok(())
}

#[test]
fn devices_whose_programs_somebody_has_detached_get_them_again() -> Result<()> {
    let stage = Stage::serving(1)?;
    let links = attached::by_pins(stage.node.pins())?;
    let folder = stage.node.pins().join("devices");
    let (name, _) = links.iter().find(|(name, _)| name.ends_with(Way::Ingress.name())).context("one")?;
    let before = &links[name];
    detach(&folder.join(name))?;
    wait::until_true("it is attached again", LONG, || {
        let links = attached::by_pins(stage.node.pins())?;
        Ok(links.get(name).is_some_and(|link| link.device == before.device))
    })?;
    wait::until_true("it is told", PATIENCE, || {
        Ok((metric(&stage, "kubeshunt_drift_repaired_total{what=\"device\"}")? - 1.0).abs() < 0.5)
    })
}
