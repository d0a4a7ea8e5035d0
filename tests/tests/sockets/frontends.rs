//! The other addresses of a Service, from a pod and from the node itself: NodePorts, external and
//! load-balancer addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use kubeshunt_tests::Station;
use kubeshunt_tests::cluster::{self, EXTERNAL, INGRESS, NODE_PORT};
use kubeshunt_tests::manifests::{Node, Port};
use kubeshunt_tests::protocol::{self, Target};
use kubeshunt_tests::stage::{PATIENCE, PORT, Stage, at4, at6, bare};
use kubeshunt_tests::wait;

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

/// The same, with NodePorts where the words say.
fn node_ports_on(words: &str) -> Result<Stage> {
    let mut stage = Stage::new(1)?;
    stage.publish(&cluster::everywhere("web", 1), "web", &[0])?;
    stage.folder.write("node", &[&Node::of(&stage.node)])?;
    stage.start_with(|setup| setup.arg(format!("--nodeport-addresses={words}")))?;
    Ok(stage)
}

/// Waits until NodePorts answer on exactly these of the host's addresses.
fn await_node_ports(stage: &Stage, wanted: &[IpAddr]) -> Result<()> {
    let wanted: BTreeSet<String> = wanted.iter().map(ToString::to_string).collect();
    wait::until_true("NodePorts answer where they should", PATIENCE, || {
        let services = stage.services()?;
        let addresses = services["node_addresses"].as_array().into_iter().flatten();
        Ok(addresses.filter_map(|it| it.as_str().map(str::to_owned)).collect::<BTreeSet<_>>() == wanted)
    })
}

/// Where the list says no, the number belongs to whoever listens there.
#[test]
fn node_ports_answer_in_the_ranges_that_are_chosen_and_leave_the_number_to_others_elsewhere() -> Result<()> {
    let late: IpAddr = "192.168.0.99".parse()?;
    let host = |stage: &Stage| stage.node.host().v4();
    let stage = node_ports_on("192.168.0.96/28,fd00:dead::/64")?;
    await_node_ports(&stage, &[])?;
    for there in [IpAddr::from(host(&stage)), LOOPBACK[0], LOOPBACK[1]] {
        let there = SocketAddr::new(there, NODE_PORT);
        stage.node.host().probe().serve(protocol::Service::Tcp, there)?;
        stage.node.host().probe().serve(protocol::Service::Udp, there)?;
        assert_reaches(stage.node.host(), there, stage.node.name())?;
    }
    assert_reaches(&stage.client, SocketAddr::new(host(&stage).into(), NODE_PORT), stage.node.name())?;
    stage.node.host().add_address((late, 32))?;
    await_node_ports(&stage, &[late])?;
    assert_reaches(&stage.client, SocketAddr::new(late, NODE_PORT), "backend-0")?;
    assert_reaches(stage.node.host(), SocketAddr::new(late, NODE_PORT), "backend-0")
}

#[test]
fn primary_node_ports_follow_the_node_object() -> Result<()> {
    let late: IpAddr = "192.168.0.99".parse()?;
    let stage = node_ports_on("primary")?;
    let host = stage.node.host();
    host.add_address((late, 32))?;
    await_node_ports(&stage, &[host.v4().into(), host.v6().into()])?;
    assert_all(&stage.client, [host.v4().into(), host.v6().into()], NODE_PORT)?;
    let other = Node::new("node-a").address(late).address(host.v6());
    stage.folder.write("node", &[&other])?;
    await_node_ports(&stage, &[late, host.v6().into()])?;
    assert_all(&stage.client, [late, host.v6().into()], NODE_PORT)
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

/// A hostPort of a CNI, say, at 127.0.0.1, or a server of the node's own.
#[test]
fn loopback_ports_that_no_service_has_are_left_to_who_listens_there() -> Result<()> {
    let stage = everywhere()?;
    let host = stage.node.host();
    for ip in LOOPBACK {
        let there = SocketAddr::new(ip, NODE_PORT + 1);
        host.probe().serve(protocol::Service::Tcp, there)?;
        host.probe().serve(protocol::Service::Udp, there)?;
        assert_reaches(host, there, "node-a")?;
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
