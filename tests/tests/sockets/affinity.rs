//! ClientIP affinity: a pod keeps its backend, for as long as its connections keep coming.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kubeshunt_tests::Station;
use kubeshunt_tests::cluster::{EXTERNAL, INGRESS};
use kubeshunt_tests::manifests::Port;
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::stage::{self, PATIENCE, PORT, Stage, TARGET_PORT, at4, at6};
use kubeshunt_tests::wait;

use crate::METHODS;

const LONG: u32 = 3600;

fn sticky(backends: usize, seconds: u32) -> Result<Stage> {
    let mut stage = Stage::new(backends)?;
    let all: Vec<_> = (0..backends).collect();
    stage.publish(&stage::service("web", 1).affinity(seconds), "web", &all)?;
    stage.start()?;
    Ok(stage)
}

/// The one server that answers so many questions.
#[track_caller]
fn only(client: &Station, target: &Target, times: u32) -> String {
    let report = client.probe().ask(target, times, 1).expect("the probe works");
    assert_eq!(report.failed(), 0, "{} to {}: {:?}", client.name(), target.to, report.errors);
    let mut servers: Vec<_> = report.answered.into_keys().collect();
    assert_eq!(servers.len(), 1, "{} to {} wandered: {servers:?}", client.name(), target.to);
    servers.remove(0)
}

#[test]
fn a_pod_keeps_its_backend() -> Result<()> {
    let stage = sticky(4, LONG)?;
    for (name, method) in METHODS {
        for to in [at4(1), at6(1)] {
            let report = stage.ask(&Target { method, ..Target::tcp(to) }, 40)?;
            assert_eq!(report.answered.len(), 1, "{name} to {to} wandered: {:?}", report.answered);
            assert_eq!(report.failed(), 0, "{name} to {to}: {:?}", report.errors);
        }
    }
    Ok(())
}

#[test]
fn pods_keep_backends_of_their_own() -> Result<()> {
    let stage = sticky(4, LONG)?;
    let target = Target::tcp(at4(1));
    let mine = only(&stage.client, &target, 10);
    // Each differs from the first with probability 3/4: that none of ten does is one in a million.
    let mut differs = false;
    for index in 0..10 {
        let other = stage.node.pod(&format!("other-{index}"))?;
        differs |= only(&other, &target, 10) != mine;
        assert_eq!(only(&stage.client, &target, 5), mine, "another pod has moved the first one");
        if differs {
            return Ok(());
        }
    }
    bail!("ten other pods all got {mine}, too")
}

#[test]
fn all_processes_of_the_node_are_one_client() -> Result<()> {
    let stage = sticky(4, LONG)?;
    let (host, target) = (stage.node.host(), Target::tcp(at4(1)));
    let first = only(host, &target, 10);
    // That ten others all agree by chance is one in a million.
    for index in 0..10 {
        let report = host.another_probe(&format!("process-{index}"))?.ask(&target, 3, 1)?;
        assert_eq!(report.answered.keys().collect::<Vec<_>>(), [&first]);
    }
    Ok(())
}

#[test]
fn frontends_of_one_service_port_share_affinity() -> Result<()> {
    let mut stage = Stage::new(4)?;
    let service = stage::service("web", 1)
        .port(Port::tcp(81).named("other").target(TARGET_PORT).node_port(30081))
        .external_ip(EXTERNAL[0])
        .load_balancer(INGRESS[0])
        .affinity(LONG);
    let slice = |name: &str, stage: &Stage| {
        kubeshunt_tests::manifests::EndpointSlice::v4("web")
            .named(name)
            .tcp(Some("other"), TARGET_PORT)
            .ready(stage.backends.iter().map(Station::v4))
    };
    stage.folder.write("web", &[&service, &slice("one", &stage)])?;
    stage.start()?;
    // Eight pods: that all agree by chance over four frontends is one in 2^48.
    for index in 0..8 {
        let pod = stage.node.pod(&format!("pod-{index}"))?;
        let there = [
            SocketAddr::new(stage::vip4(1), 81),
            stage.node.host().at4(30081),
            SocketAddr::new(EXTERNAL[0], 81),
            SocketAddr::new(INGRESS[0], 81),
        ];
        let servers: Vec<_> = there.iter().map(|to| only(&pod, &Target::tcp(*to), 3)).collect();
        assert!(servers.iter().all(|server| *server == servers[0]), "{there:?} went to {servers:?}");
    }
    Ok(())
}

#[test]
fn different_ports_of_a_service_do_not_share_affinity() -> Result<()> {
    let mut stage = Stage::new(4)?;
    let service = stage::bare("web", 1)
        .port(Port::tcp(PORT).named("one").target(TARGET_PORT))
        .port(Port::tcp(81).named("two").target(TARGET_PORT))
        .affinity(LONG);
    let slice = kubeshunt_tests::manifests::EndpointSlice::v4("web")
        .tcp(Some("one"), TARGET_PORT)
        .tcp(Some("two"), TARGET_PORT)
        .ready(stage.backends.iter().map(Station::v4));
    stage.folder.write("web", &[&service, &slice])?;
    stage.start()?;
    // Shared, all pods would find both ports at one backend; by chance ten do once in a million.
    let mut seen = Vec::new();
    for index in 0..10 {
        let pod = stage.node.pod(&format!("pod-{index}"))?;
        let two = SocketAddr::new(stage::vip4(1), 81);
        let pair = (only(&pod, &Target::tcp(at4(1)), 3), only(&pod, &Target::tcp(two), 3));
        if pair.0 != pair.1 {
            return Ok(());
        }
        seen.push(pair);
    }
    bail!("ten pods found the same backend on both ports: {seen:?}")
}

#[test]
fn affinity_lasts_while_new_connections_keep_coming() -> Result<()> {
    let stage = sticky(4, 1)?;
    let target = Target::tcp(at4(1));
    let first = only(&stage.client, &target, 1);
    let begun = Instant::now();
    // Three times the timeout, without a pause that long.
    wait::until_true("three timeouts have passed", PATIENCE, || {
        assert_eq!(only(&stage.client, &target, 1), first, "after {:?}", begun.elapsed());
        Ok(begun.elapsed() > Duration::from_secs(3))
    })
}

#[test]
fn affinity_expires_after_the_last_new_connection_whatever_older_ones_do() -> Result<()> {
    let stage = sticky(4, 1)?;
    let target = Target::tcp(at4(1));
    let session = stage.client.probe().session(&target)?;
    let first = session.answer.by;
    // Each round moves with probability 3/4: that twelve do not is one in 16 million.
    for _ in 0..12 {
        let last = Instant::now();
        wait::until_true("the timeout has passed", PATIENCE, || {
            let health = stage.client.probe().exchange(session.session, 1)?;
            assert_eq!(health.broken, None, "the old connection stands");
            Ok(last.elapsed() > Duration::from_millis(1020))
        })?;
        if only(&stage.client, &target, 1) != first {
            return Ok(());
        }
    }
    bail!("still {first} after twelve timeouts without a new connection")
}

#[test]
fn a_client_moves_when_its_backend_goes_and_does_not_flap_back() -> Result<()> {
    let stage = sticky(3, LONG)?;
    let target = Target::tcp(at4(1));
    let service = || stage::service("web", 1).affinity(LONG);
    let first = only(&stage.client, &target, 10);
    let gone: usize = first.trim_start_matches("backend-").parse()?;
    let rest: Vec<_> = (0..3).filter(|index| *index != gone).collect();
    stage.publish(&service(), "web", &rest)?;
    stage.wait_for_backends(1, &rest)?;
    let second = only(&stage.client, &target, 20);
    assert_ne!(second, first, "its backend is gone");
    stage.publish(&service(), "web", &[0, 1, 2])?;
    stage.wait_for_backends(1, &[0, 1, 2])?;
    assert_eq!(only(&stage.client, &target, 20), second, "the first backend is back, the client stays");
    Ok(())
}

#[test]
fn a_client_keeps_its_backend_while_the_set_changes_around_it() -> Result<()> {
    let stage = sticky(4, LONG)?;
    let target = Target::tcp(at4(1));
    let first = only(&stage.client, &target, 5);
    let own: usize = first.trim_start_matches("backend-").parse()?;
    let others: Vec<_> = (0..4).filter(|index| *index != own).collect();
    for set in [vec![own, others[0]], vec![own], vec![own, others[1], others[2]], vec![0, 1, 2, 3]] {
        stage.publish(&stage::service("web", 1).affinity(LONG), "web", &set)?;
        stage.wait_for_backends(1, &set)?;
        assert_eq!(only(&stage.client, &target, 10), first, "with {set:?}");
    }
    Ok(())
}

#[test]
fn affinity_turned_on_and_off_takes_effect_for_new_connections() -> Result<()> {
    let stage = Stage::serving(4)?;
    let target = Target::tcp(at4(1));
    for (seconds, wanted) in [(Some(LONG), 1), (None, 4)] {
        let service = stage::service("web", 1);
        let service = seconds.map_or(service.clone(), |seconds| service.affinity(seconds));
        stage.publish(&service, "web", &[0, 1, 2, 3])?;
        wait::until_true("affinity is as the Service says", PATIENCE, || {
            let frontend = stage.frontend(at4(1), "TCP")?;
            Ok(frontend.is_some_and(|frontend| frontend["affinity_seconds"] == seconds.unwrap_or(0)))
        })?;
        let report = stage.ask(&target, 100)?;
        assert_eq!(report.answered.len(), wanted, "affinity {seconds:?}: {:?}", report.answered);
    }
    Ok(())
}
