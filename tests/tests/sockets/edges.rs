//! Services at the edges of what the API admits, in the kernel's maps and through real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use kubeshunt_tests::manifests::{EndpointSlice, Port};
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::stage::{Stage, TARGET_PORT, at4, bare, service, vip4, vip6};
use kubeshunt_tests::wait;

use crate::assert_reaches;

/// For what is a thousand times as large as usual.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn the_first_and_the_last_port_are_reached_at_the_cluster_ip_and_as_node_ports() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let ports = [("tcp", Port::tcp as fn(u16) -> Port), ("udp", Port::udp)];
    let mut edges = bare("web", 1);
    for (name, new) in ports {
        for (index, (number, node_port)) in [(1, 65_535), (65_535, 1)].into_iter().enumerate() {
            let port = new(number).named(&format!("{name}-{index}")).target(TARGET_PORT);
            edges = edges.port(port.node_port(node_port));
        }
    }
    let backend = &stage.backends[0];
    let slices =
        [EndpointSlice::v4("web").ready([backend.v4()]), EndpointSlice::v6("web").ready([backend.v6()])];
    let [v4, v6] = slices.map(|slice| {
        let slice = slice.tcp(Some("tcp-0"), TARGET_PORT).tcp(Some("tcp-1"), TARGET_PORT);
        slice.udp(Some("udp-0"), TARGET_PORT).udp(Some("udp-1"), TARGET_PORT)
    });
    stage.folder.write("web", &[&edges, &v4, &v6])?;
    stage.start()?;
    let host = stage.node.host();
    for ip in [vip4(1), vip6(1), host.v4().into(), host.v6().into()] {
        for port in [1, 65_535] {
            assert_reaches(&stage.client, SocketAddr::new(ip, port), "backend-0")?;
        }
    }
    Ok(())
}

#[test]
fn each_of_a_thousand_ports_is_reached() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let mut wide = bare("wide", 1);
    let mut slice = EndpointSlice::v4("wide").ready([stage.backends[0].v4()]);
    for number in 1..=1000 {
        let name = format!("p{number}");
        wide = wide.port(Port::tcp(number).named(&name).target(TARGET_PORT));
        slice = slice.tcp(Some(&name), TARGET_PORT);
    }
    stage.folder.write("wide", &[&wide, &slice])?;
    stage.start()?;
    for number in 1..=1000 {
        let report = stage.ask(&Target::tcp(SocketAddr::new(vip4(1), number)), 1)?;
        assert_eq!(report.successes(), 1, "port {number}: {:?}", report.errors);
    }
    Ok(())
}

#[test]
fn five_thousand_endpoints_in_sixty_slices_are_served_and_forgotten() -> Result<()> {
    let stage = Stage::serving(1)?;
    let mut text = service("many", 2).to_string();
    for number in 0..60_u16 {
        let from = number * 84;
        let addresses = (from..(from + 84).min(5000)).map(|index| {
            let [high, low] = index.to_be_bytes();
            std::net::Ipv4Addr::new(10, 200, high, low)
        });
        let slice = EndpointSlice::v4("many").named(&format!("many-{number}")).tcp(Some("tcp"), TARGET_PORT);
        text.push_str(&format!("---\n{}", slice.ready(addresses)));
    }
    stage.folder.write_text("many", &text)?;
    wait::until_true("all 5000 endpoints are there", PATIENCE, || {
        Ok(stage.endpoints(at4(2), "TCP")?.is_some_and(|endpoints| endpoints.len() == 5000))
    })?;
    stage.publish(&service("many", 2), "many", &[0])?;
    stage.wait_for_backends(2, &[0])?;
    assert_reaches(&stage.client, at4(2), "backend-0")
}
