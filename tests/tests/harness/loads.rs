//! Probes move, hold and echo large amounts.

use anyhow::Result;
use kubeshunt_tests::protocol::{EchoDatagrams, Hold, Method, OneSocket, Target, Transfer};
use kubeshunt_tests::{Cluster, Layout, Testbed};

use crate::serve;

#[test]
fn transfers_tell_digests_of_both_ends_and_directions() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let (client, server) = (node.pod("client")?, node.pod("server")?);
    serve(&server)?;
    for to in [server.at4(8080), server.at6(8080)] {
        for bytes in [0, 1, 10_000_001] {
            let transfer = Transfer { target: Target::tcp(to), bytes, seed: 5, within_ms: 20_000 };
            let report = client.probe().transfer(&transfer)?;
            assert_eq!(report.is_intact(), bytes > 0, "{bytes} bytes: {report:?}");
        }
    }
    Ok(())
}

#[test]
fn a_transfer_that_stalls_ends_in_time() -> Result<()> {
    let bed = Testbed::new()?;
    let server = bed.outsider("server")?;
    server.probe().serve(kubeshunt_tests::protocol::Service::TcpSilent, server.at4(8080))?;
    let target = Target::tcp(server.at4(8080)).timeout_ms(300);
    let transfer = Transfer { target, bytes: 1000, seed: 1, within_ms: 1000 };
    let error = bed.outside().probe().transfer(&transfer).expect_err("nothing comes back");
    assert!(format!("{error:#}").contains("TIMEOUT"), "{error:#}");
    Ok(())
}

#[test]
fn datagrams_of_every_size_are_echoed_intact() -> Result<()> {
    for layout in Layout::ALL {
        let bed = Testbed::new()?;
        let (a, b) = (bed.node_with("node-a", layout)?, bed.node_with("node-b", layout)?);
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        serve(&server)?;
        for to in [server.at4(8080), server.at6(8080)] {
            for method in [Method::UdpConnected, Method::UdpUnconnected { peek: false }] {
                let target = Target { method, ..Target::udp(to) };
                let plan = EchoDatagrams { target, sizes: vec![1, 1400, 4000, 60_000], seed: 3 };
                for echo in client.probe().echo_datagrams(&plan)? {
                    assert_eq!(echo, Ok(to), "{layout}, {method:?}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn thousands_of_connections_are_held_from_several_addresses() -> Result<()> {
    let bed = Testbed::new()?;
    let server = bed.outsider("server")?;
    serve(&server)?;
    let more = "192.168.0.220".parse()?;
    bed.outside().add_address((more, 32))?;
    let from = vec![bed.outside().v4().into(), more];
    let hold = Hold { to: server.at4(8080), from, count: 4000, at_once: 100, timeout_ms: 2000 };
    let probe = bed.outside().probe();
    let (held, report) = probe.hold(&hold)?;
    assert_eq!((report.alive, report.errors.len()), (4000, 0), "{report:?}");
    let report = probe.exchange_held(held)?;
    assert_eq!((report.alive, report.errors.len()), (4000, 0), "{report:?}");
    server.probe().kill();
    assert_eq!(probe.exchange_held(held)?.alive, 0);
    probe.close_held(held)
}

#[test]
fn one_port_serves_several_connections() -> Result<()> {
    let bed = Testbed::new()?;
    let servers = [bed.outsider("one")?, bed.outsider("two")?];
    servers.iter().try_for_each(serve)?;
    let client = bed.outside();
    let from = client.at4(20_000);
    let targets = servers.iter().map(|server| Target::tcp(server.at4(8080)).sent_from(from));
    let sessions = targets.map(|target| client.probe().session(&target)).collect::<Result<Vec<_>>>()?;
    for session in &sessions {
        assert_eq!((session.local, session.answer.seen_as), (from, from));
        assert_eq!(client.probe().exchange(session.session, 3)?.exchanged, 3);
    }
    let to = servers.iter().map(|server| server.at4(8080)).collect();
    let plan = OneSocket { to, reconnect: false, mapped: false, timeout_ms: 1000 };
    assert!(client.probe().one_socket(plan)?.iter().all(|exchange| exchange.result.is_ok()));
    Ok(())
}

#[test]
fn a_narrow_link_is_on_every_way_between_nodes_and_stalls_nobody() -> Result<()> {
    for layout in Layout::ALL {
        let mut cluster = Cluster::new(layout)?;
        cluster.add_backend(1)?;
        let client = cluster.bypassing_pod(0, "client")?;
        cluster.narrow(1300)?;
        let backend = &cluster.backends[0].0;
        let too_large = kubeshunt_tests::Sniffer::start(client.netns(), "eth0", |frame| {
            frame.packet().is_some_and(|packet| packet.quoted().is_some())
        })?;
        for to in [backend.at4(8080), backend.at6(8080)] {
            let transfer = Transfer { target: Target::tcp(to), bytes: 1 << 20, seed: 7, within_ms: 10_000 };
            assert!(client.probe().transfer(&transfer)?.is_intact(), "{layout}");
            let echo = EchoDatagrams { target: Target::udp(to), sizes: vec![4000, 60_000], seed: 3 };
            // The first is lost for the MTU to be learnt.
            client.probe().echo_datagrams(&echo)?;
            assert!(
                client.probe().echo_datagrams(&echo)?.iter().all(|echo| *echo == Ok(to)),
                "{layout}, {to}"
            );
        }
        let errors = too_large.stop().frames;
        assert!(errors.len() >= 2, "{layout}: nobody said that a packet was too large");
    }
    Ok(())
}
