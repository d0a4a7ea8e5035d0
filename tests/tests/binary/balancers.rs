//! What load balancers are told that ask for a Service's health.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use kubeshunt_tests::manifests::{Endpoint, EndpointSlice, Service};
use kubeshunt_tests::protocol;
use kubeshunt_tests::stage::{PATIENCE, Stage, TARGET_PORT, service};
use kubeshunt_tests::wait;

const PORT: u16 = 32_000;
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

fn balanced(port: u16) -> Service {
    service("web", 1)
        .load_balancer(Ipv4Addr::new(203, 0, 113, 80))
        .external_local()
        .spec("healthCheckNodePort", &port.to_string())
}

/// Writes the Service with these backends, which run on the stage's node.
fn publish(stage: &Stage, service: &Service, backends: &[usize]) -> Result<()> {
    let slices = [EndpointSlice::v4("web"), EndpointSlice::v6("web")]
        .map(|slice| slice.tcp(Some("tcp"), TARGET_PORT).udp(Some("udp"), TARGET_PORT));
    let own = |ip: IpAddr| Endpoint::ready(ip).on_node(stage.node.name());
    let [v4, v6] = backends.iter().fold(slices, |[v4, v6], index| {
        let backend = &stage.backends[*index];
        [v4.endpoint(own(backend.v4().into())), v6.endpoint(own(backend.v6().into()))]
    });
    stage.folder.write("web", &[service, &v4, &v6])
}

/// The first line, and the number of endpoints in the header.
fn ask(stage: &Stage, ip: IpAddr, port: u16) -> Result<(String, String)> {
    let (head, _) = stage.kubeshunt().http(SocketAddr::new(ip, port), "GET", "/healthz")?;
    let mut lines = head.lines();
    let first = lines.next().context("a first line")?.to_owned();
    let weight = lines.find_map(|line| line.strip_prefix("x-load-balancing-endpoint-weight: "));
    Ok((first, weight.context("the weight")?.to_owned()))
}

/// Waits until both families answer so; `None` for nobody there.
fn wait_for(stage: &Stage, port: u16, code: Option<&str>, weight: &str) -> Result<()> {
    wait::until_true(&format!("{port} answers {code:?} and {weight}"), PATIENCE, || {
        Ok(LOOPBACK.iter().all(|ip| match (ask(stage, *ip, port), code) {
            (Ok((first, own)), Some(code)) => first.contains(code) && own == weight,
            (Err(_), None) => true,
            _ => false,
        }))
    })
    .with_context(|| stage.kubeshunt().log_tail())
}

#[test]
fn load_balancers_learn_whether_the_node_has_endpoints() -> Result<()> {
    let stage = Stage::serving(2)?;
    publish(&stage, &balanced(PORT), &[0, 1])?;
    wait_for(&stage, PORT, Some("200 OK"), "2")?;
    // Any path and any method; the body is kube-proxy's to the byte.
    let (head, body) = stage.kubeshunt().http(SocketAddr::new(LOOPBACK[0], PORT), "DELETE", "/any?where")?;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    for header in ["content-type: application/json", "x-content-type-options: nosniff"] {
        assert!(head.lines().any(|line| line == header), "{header} in {head}");
    }
    let expected = "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\
                    \"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
    assert_eq!(body, expected);
    // Not only at loopback.
    let own = stage.node.host().v4().into();
    assert!(ask(&stage, own, PORT)?.0.contains("200 OK"));

    publish(&stage, &balanced(PORT), &[0])?;
    wait_for(&stage, PORT, Some("200 OK"), "1")?;
    publish(&stage, &balanced(PORT), &[])?;
    wait_for(&stage, PORT, Some("503 Service Unavailable"), "0")?;
    publish(&stage, &balanced(PORT + 1), &[0])?;
    wait_for(&stage, PORT + 1, Some("200 OK"), "1")?;
    wait_for(&stage, PORT, None, "")?;
    // One whose policy is Cluster has nothing to say.
    publish(&stage, &service("web", 1).load_balancer(Ipv4Addr::new(203, 0, 113, 80)), &[0])?;
    wait_for(&stage, PORT + 1, None, "")
}

#[test]
fn a_port_that_somebody_has_is_tried_again_and_harms_nobody_else() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let host = stage.node.host();
    let taken = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT);
    let serving = host.probe().serve(protocol::Service::Tcp, taken)?;
    publish(&stage, &balanced(PORT), &[0])?;
    stage.start()?;
    stage.wait_for_log(&["get no answer", "default/web", "port=32000", "IPv4", "trying again"])?;
    let v6 = wait::until("IPv6 is free", PATIENCE, || Ok(ask(&stage, LOOPBACK[1], PORT).ok()))?;
    assert!(v6.0.contains("200 OK"), "{v6:?}");
    stage.node.host().probe().stop_serving(serving, true)?;
    wait_for(&stage, PORT, Some("200 OK"), "1")
}
