//! The other addresses of a Service, from a pod and from the node itself: NodePorts, external and
//! load-balancer addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use kubeshunt_tests::Station;
use kubeshunt_tests::cluster::{self, EXTERNAL, INGRESS, NODE_PORT};
use kubeshunt_tests::manifests::Port;
use kubeshunt_tests::protocol::{self, Target};
use kubeshunt_tests::stage::{PORT, Stage, at4, at6, bare};

use crate::{assert_reaches, assert_refused};

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A Service with every kind of frontend.
fn everywhere() -> Result<Stage> {
    let mut stage = Stage::new(1)?;
    stage.publish(&cluster::everywhere("web", 1), "web", &[0])?;
    stage.start()?;
    Ok(stage)
}

fn assert_all(client: &Station, addresses: [IpAddr; 2], port: u16) -> Result<()> {
    addresses.into_iter().try_for_each(|ip| assert_reaches(client, SocketAddr::new(ip, port), "backend-0"))
}

#[test]
fn host_processes_reach_cluster_ips() -> Result<()> {
    let stage = everywhere()?;
    [at4(1), at6(1)].into_iter().try_for_each(|to| assert_reaches(stage.node.host(), to, "backend-0"))
}

#[test]
fn pods_reach_node_ports_at_the_nodes_addresses() -> Result<()> {
    let stage = everywhere()?;
    let host = stage.node.host();
    assert_all(&stage.client, [host.v4().into(), host.v6().into()], NODE_PORT)
}

#[test]
fn host_processes_reach_node_ports_at_the_nodes_addresses() -> Result<()> {
    let stage = everywhere()?;
    let host = stage.node.host();
    assert_all(host, [host.v4().into(), host.v6().into()], NODE_PORT)
}

#[test]
fn node_ports_answer_at_an_address_the_node_gets_later() -> Result<()> {
    let stage = everywhere()?;
    let late: IpAddr = "192.168.0.99".parse()?;
    stage.node.host().add_address((late, 32))?;
    kubeshunt_tests::wait::until_true("the new address counts", kubeshunt_tests::stage::PATIENCE, || {
        let services = stage.services()?;
        let addresses = services["node_addresses"].as_array().cloned().unwrap_or_default();
        Ok(addresses.iter().any(|address| *address == late.to_string()))
    })?;
    assert_reaches(&stage.client, SocketAddr::new(late, NODE_PORT), "backend-0")
}

#[test]
fn host_processes_reach_node_ports_at_loopback() -> Result<()> {
    let stage = everywhere()?;
    assert_all(stage.node.host(), LOOPBACK, NODE_PORT)
}

#[test]
fn a_pods_loopback_is_its_own() -> Result<()> {
    let stage = everywhere()?;
    for ip in LOOPBACK {
        let there = SocketAddr::new(ip, NODE_PORT);
        for target in [Target::tcp(there), Target::udp_connected(there)] {
            let report = stage.ask(&target, 3)?;
            assert_eq!(report.errors.get("ECONNREFUSED"), Some(&3), "nobody is on its loopback: {report:?}");
        }
        // And who listens there is reached, NodePort or not.
        stage.client.probe().serve(protocol::Service::Tcp, there)?;
        stage.client.probe().serve(protocol::Service::Udp, there)?;
        assert_reaches(&stage.client, there, "client")?;
    }
    Ok(())
}

#[test]
fn node_ports_of_other_nodes_are_left_to_them() -> Result<()> {
    let stage = everywhere()?;
    let other = stage.bed.node("node-b")?;
    other.host().probe().serve(protocol::Service::Tcp, other.host().at4(NODE_PORT))?;
    let report = stage.ask(&Target::tcp(other.host().at4(NODE_PORT)), 3)?;
    assert_eq!(report.answered.get("node-b"), Some(&3), "{report:?}");
    Ok(())
}

#[test]
fn pods_reach_external_ips() -> Result<()> {
    assert_all(&everywhere()?.client, EXTERNAL, PORT)
}

#[test]
fn host_processes_reach_external_ips() -> Result<()> {
    assert_all(everywhere()?.node.host(), EXTERNAL, PORT)
}

#[test]
fn pods_reach_load_balancer_addresses() -> Result<()> {
    assert_all(&everywhere()?.client, INGRESS, PORT)
}

#[test]
fn host_processes_reach_load_balancer_addresses() -> Result<()> {
    assert_all(everywhere()?.node.host(), INGRESS, PORT)
}

#[test]
fn node_ports_without_endpoints_are_refused_from_pod_and_host() -> Result<()> {
    let mut stage = Stage::new(0)?;
    let service = bare("web", 1).port(Port::tcp(PORT).named("tcp").node_port(NODE_PORT));
    stage.publish(&service, "web", &[])?;
    stage.start()?;
    let host = stage.node.host();
    for client in [&stage.client, host] {
        // Nobody listens there, so that without us connect() would be refused all the same, but by the wire:
        // only a non-blocking connect tells the two apart.
        let report = client.probe().ask(&Target::tcp(host.at4(NODE_PORT)).nonblocking(), 3, 1)?;
        assert_refused(&report, "ECONNREFUSED", "connect", client.name());
    }
    Ok(())
}
