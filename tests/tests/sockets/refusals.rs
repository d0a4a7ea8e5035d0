//! Services that have nobody to send to: refused at once, and by the right call.

use std::net::SocketAddr;

use anyhow::Result;
use kubeshunt_tests::manifests::{Endpoint, EndpointSlice, Port};
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::stage::{self, Stage, at4, at6};

use crate::{assert_answers, assert_refused};

/// A stage with a Service without endpoints.
fn deserted() -> Result<Stage> {
    let mut stage = Stage::new(0)?;
    stage.publish(&stage::service("web", 1), "web", &[])?;
    stage.start()?;
    Ok(stage)
}

/// Every way of naming the Service, blocking and not.
fn assert_refuses(stage: &Stage, target: impl Fn(SocketAddr) -> Target, call: &str) -> Result<()> {
    for target in [target(at4(1)), target(at6(1)), target(at4(1)).mapped()] {
        for target in [target.clone(), target.nonblocking()] {
            let report = stage.ask(&target, 5)?;
            assert_refused(&report, "ECONNREFUSED", call, &format!("{target:?}"));
        }
    }
    Ok(())
}

#[test]
fn without_endpoints_tcp_connect_is_refused_at_once() -> Result<()> {
    assert_refuses(&deserted()?, Target::tcp, "connect")
}

#[test]
fn without_endpoints_udp_connect_is_refused_at_once() -> Result<()> {
    assert_refuses(&deserted()?, Target::udp_connected, "connect")
}

#[test]
fn without_endpoints_sendto_is_refused_at_once() -> Result<()> {
    assert_refuses(&deserted()?, Target::udp, "sendto")
}

#[test]
fn unready_endpoints_are_none() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let slice = EndpointSlice::v4("web")
        .tcp(Some("tcp"), 8080)
        .endpoint(Endpoint::ready(stage.backends[0].v4()).unready());
    stage.folder.write("web", &[&stage::service("web", 1), &slice])?;
    stage.start()?;
    assert_refused(&stage.ask(&Target::tcp(at4(1)), 3)?, "ECONNREFUSED", "connect", "unready");
    Ok(())
}

#[test]
fn a_family_without_endpoints_is_refused_while_the_other_is_served() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let [v4, _] = stage.slices("web", &[0]);
    stage.folder.write("web", &[&stage::service("web", 1), &v4])?;
    stage.start()?;
    assert_answers(&stage.ask(&Target::tcp(at4(1)), 5)?, at4(1), "backend-0", 5, "IPv4");
    assert_refused(&stage.ask(&Target::tcp(at6(1)), 5)?, "ECONNREFUSED", "connect", "IPv6");
    Ok(())
}

/// A Service whose internalTrafficPolicy is Local, with its endpoint on another node.
fn local_elsewhere() -> Result<Stage> {
    let mut stage = Stage::new(1)?;
    let service = stage::service("web", 1)
        .port(Port::tcp(81).named("both").target(8080).node_port(30081))
        .internal_local();
    let ports =
        |slice: EndpointSlice| slice.tcp(Some("tcp"), 8080).udp(Some("udp"), 8080).tcp(Some("both"), 8080);
    let backend = &stage.backends[0];
    let v4 = ports(EndpointSlice::v4("web")).endpoint(Endpoint::ready(backend.v4()).on_node("node-b"));
    let v6 = ports(EndpointSlice::v6("web")).endpoint(Endpoint::ready(backend.v6()).on_node("node-b"));
    stage.folder.write("web", &[&service, &v4, &v6])?;
    stage.start()?;
    Ok(stage)
}

#[test]
fn internal_traffic_policy_local_with_endpoints_elsewhere_only_is_unreachable() -> Result<()> {
    let stage = local_elsewhere()?;
    for to in [at4(1), at6(1)] {
        for (target, call) in [
            (Target::tcp(to), "connect"),
            (Target::udp_connected(to), "connect"),
            (Target::udp(to), "sendto"),
        ] {
            for target in [target.clone(), target.nonblocking()] {
                let report = stage.ask(&target, 3)?;
                assert_refused(&report, "EHOSTUNREACH", call, &format!("{target:?}"));
            }
        }
    }
    Ok(())
}

#[test]
fn internal_traffic_policy_is_not_for_node_ports() -> Result<()> {
    let stage = local_elsewhere()?;
    let to = stage.node.host().at4(30081);
    assert_answers(&stage.ask(&Target::tcp(to), 5)?, to, "backend-0", 5, "the NodePort of the same Service");
    Ok(())
}

#[test]
fn internal_traffic_policy_local_keeps_to_this_nodes_endpoints() -> Result<()> {
    let mut stage = Stage::new(2)?;
    let slice = EndpointSlice::v4("web")
        .tcp(Some("tcp"), 8080)
        .endpoint(Endpoint::ready(stage.backends[0].v4()).on_node("node-a"))
        .endpoint(Endpoint::ready(stage.backends[1].v4()).on_node("node-b"));
    stage.folder.write("web", &[&stage::service("web", 1).internal_local(), &slice])?;
    stage.start()?;
    assert_answers(&stage.ask(&Target::tcp(at4(1)), 30)?, at4(1), "backend-0", 30, "the local endpoint");
    Ok(())
}
