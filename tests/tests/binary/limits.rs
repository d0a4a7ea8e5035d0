//! Maps that are full: what is served stays, and who finds no room is named everywhere where somebody may look.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::craft::{Flow, Injector, fragments};
use kubeshunt_tests::manifests::Port;
use kubeshunt_tests::pinned::PinnedMap;
use kubeshunt_tests::protocol::{EchoDatagrams, KeptSocket, Method, Target};
use kubeshunt_tests::proxy::HEALTHZ;
use kubeshunt_tests::stage::{PATIENCE, Stage, TARGET_PORT, at4, bare, service};
use kubeshunt_tests::{inspect, wait};
use serde_json::Value;

fn map(stage: &Stage, name: &str) -> Result<PinnedMap> {
    PinnedMap::open(&inspect::maps(stage.node.pins())?.join(name))
}

/// Adds twice as many rows as fit, of nobody's.
fn flood(map: &PinnedMap, key: usize, value: usize) -> Result<()> {
    for number in 0..2 * map.capacity() {
        let mut row = vec![0xee; key];
        row[..4].copy_from_slice(&number.to_ne_bytes());
        map.update(&row, &vec![0; value])?;
    }
    Ok(())
}

/// What /readyz says: its code, and who finds no room.
fn readiness(stage: &Stage) -> Result<(u16, Value)> {
    let (code, text) = stage.kubeshunt().get(HEALTHZ.port(), "/readyz")?;
    let body: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    Ok((code, body["withoutRoom"].clone()))
}

/// Has a newcomer that finds no room, in a map that is `full` with these arguments and one Service; then that one goes.
fn newcomer(arguments: &[&str], full: &str) -> Result<()> {
    let mut stage = Stage::new(2)?;
    stage.publish(&service("web", 1), "web", &[0, 1])?;
    stage.start_with(|setup| arguments.iter().fold(setup, |setup, argument| setup.arg(*argument)))?;
    let without = || stage.kubeshunt().metric("kubeshunt_services_without_room");
    ensure!(stage.ask(&Target::tcp(at4(1)), 4)?.successes() == 4 && without()? < 0.5);
    stage.publish(&service("more", 2), "more", &[0, 1])?;
    stage.wait_for_log(&["WARN", "default/more", full])?;
    wait::until_true("it is counted", PATIENCE, || Ok(without()? > 0.5))?;
    let (code, said) = readiness(&stage)?;
    assert_eq!((code, &said["services"]), (200, &serde_json::json!(["default/more"])), "{said}");
    assert_eq!(stage.ask(&Target::tcp(at4(1)), 20)?.successes(), 20, "who was there first goes on");
    stage.folder.remove("web")?;
    stage.wait_for_backends(2, &[0, 1])?;
    wait::until_true("nobody is without room", PATIENCE, || {
        Ok(without()? < 0.5 && readiness(&stage)? == (200, Value::Null))
    })?;
    assert_eq!(stage.ask(&Target::tcp(at4(2)), 4)?.successes(), 4);
    Ok(())
}

#[test]
fn a_frontend_that_finds_no_room_is_named() -> Result<()> {
    newcomer(&["--max-frontends=6"], "the frontends map is full (6 entries); raise --max-frontends")
}

#[test]
fn a_service_that_finds_no_room_is_named() -> Result<()> {
    newcomer(&["--max-services=4"], "the services map is full (4 entries); raise --max-services")
}

#[test]
fn endpoints_that_find_no_room_are_named() -> Result<()> {
    newcomer(&["--max-backends=12"], "the backends map has no such run free (12 entries)")
}

#[test]
fn many_clients_with_affinity_cost_others_no_connection() -> Result<()> {
    let mut stage = Stage::new(3)?;
    stage.publish(&service("web", 1).affinity(3600), "web", &[0, 1, 2])?;
    stage.start_with(|setup| setup.arg("--max-affinities=2048"))?;
    let affinity = map(&stage, "AFFINITY")?;
    ensure!(affinity.capacity() == 2048, "{}", affinity.capacity());
    assert!((stage.kubeshunt().metric("kubeshunt_map_capacity{map=\"affinity\"}")? - 2048.0).abs() < 0.5);
    for _ in 0..4 {
        flood(&affinity, 24, 32)?;
        for target in [Target::tcp(at4(1)), Target::udp(at4(1))] {
            let report = stage.ask(&target, 20)?;
            assert_eq!(report.failed(), 0, "{:?}", report.errors);
            assert_eq!(report.answered.len(), 1, "a client that goes on coming keeps its backend");
        }
    }
    Ok(())
}

#[test]
fn many_senders_cost_others_the_name_of_an_answer_and_nothing_else() -> Result<()> {
    let mut stage = Stage::new(2)?;
    stage.publish(&service("one", 1), "one", &[0])?;
    stage.publish(&service("two", 2), "two", &[1])?;
    stage.start_with(|setup| setup.arg("--max-senders=1024"))?;
    let senders = map(&stage, "SENDERS")?;
    ensure!(senders.capacity() == 1024, "{}", senders.capacity());
    let open = |method| stage.client.probe().socket(KeptSocket { method, v6: false, timeout_ms: 2000 });
    let unconnected = Method::UdpUnconnected { peek: false };
    let (single, several) = (open(unconnected)?, open(unconnected)?);
    let ask = |socket: &kubeshunt_tests::probe::Socket<'_>, to: SocketAddr| -> Result<_> {
        let answer = socket.ask(&[to])?.remove(0).result;
        answer.map_err(|failure| anyhow::anyhow!("asking {to}: {failure:?}"))
    };
    for _ in 0..4 {
        ensure!(ask(&single, at4(1))?.sender == at4(1));
        ensure!(ask(&several, at4(1))?.sender == at4(1));
        ensure!(ask(&several, at4(2))?.sender == at4(2));
        flood(&senders, 32, 20)?;
        // Its state is in the socket.
        ensure!(ask(&single, at4(1))?.sender == at4(1), "a socket that talks to one endpoint");
        // It is written down anew with what it sends.
        ensure!(ask(&several, at4(1))?.sender == at4(1), "a socket that talks to several");
        let report = stage.ask(&Target::udp(at4(1)), 10)?;
        ensure!(report.failed() == 0, "connected: {:?}", report.errors);
    }
    Ok(())
}

#[test]
fn fragments_whose_first_never_comes_stop_no_datagram_that_comes_in_order() -> Result<()> {
    const NODE_PORT: u16 = 30_080;
    let mut stage = Stage::new(1)?;
    let web = bare("web", 1).port(Port::udp(80).named("udp").target(TARGET_PORT).node_port(NODE_PORT));
    stage.publish(&web, "web", &[0])?;
    stage.start()?;
    let (client, host) = (stage.bed.outside(), stage.node.host());
    let injector = Injector::new(client, host)?;
    let to = host.at4(NODE_PORT);
    let fragmented = map(&stage, "FRAGMENTS")?;
    let room = fragmented.capacity();
    let echoed = |seed| -> Result<bool> {
        let target = Target { method: Method::UdpConnected, ..Target::udp(to) }.timeout_ms(2000);
        let plan = EchoDatagrams { target, sizes: vec![4000, 20_000], seed };
        Ok(client.probe().echo_datagrams(&plan)?.iter().all(Result::is_ok))
    };
    wait::until_true("datagrams in pieces are echoed", PATIENCE, || echoed(1))?;
    for number in 0..room + room / 4 {
        // 100.64.0.0/10 is nobody's in a testbed.
        let from = SocketAddr::new(Ipv4Addr::from(0x6440_0000 | (number >> 14)).into(), 4000);
        let number = u16::try_from(number & 0x3fff)?;
        let pieces = fragments(Flow { from, to }, &[b'x'; 1600], 800, number)?;
        injector.send(pieces.last().context("a second piece")?)?;
        if number % 2048 == 0 {
            ensure!(echoed(2)?, "after {number} fragments");
        }
    }
    ensure!(fragmented.keys()?.len() > room as usize / 2, "the flood has filled the map");
    ensure!(echoed(3)?, "after all of them");
    Ok(())
}
