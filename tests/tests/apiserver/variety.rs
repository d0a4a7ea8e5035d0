//! Fifty Services, hardly two alike.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::objects::{endpoint, port, service, slice};
use crate::server::NAMESPACE;
use crate::stage::{NODE, PORT, Stage};

const COUNT: usize = 50;
const FAMILIES: [&[&str]; 4] = [&["IPv4"], &["IPv6"], &["IPv4", "IPv6"], &["IPv6", "IPv4"]];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// What makes a Service special.
fn variant(number: usize) -> Value {
    match number % 10 {
        0 => json!({"type": "ExternalName", "externalName": "example.org"}),
        1 => json!({"clusterIP": "None"}),
        2 => json!({"type": "NodePort"}),
        3 => json!({"type": "NodePort", "externalTrafficPolicy": "Local"}),
        4 => json!({"type": "LoadBalancer"}),
        5 => json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Local"}),
        6 => json!({"externalIPs": [format!("203.0.113.{number}"), format!("fd00:203::{number}")]}),
        7 => json!({"internalTrafficPolicy": "Local"}),
        8 => json!({"sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60 + number}}}),
        _ => json!({}),
    }
}

/// One to three ports; a single one has no name, and the third has the number of the second.
fn ports(number: usize) -> impl Iterator<Item = (String, &'static str, usize)> {
    let count = 1 + number % 3;
    (0..count).map(move |index| {
        let name = if count == 1 { String::new() } else { format!("port-{index}") };
        (name, PROTOCOLS[(number + index) % 3], 1000 + 10 * number + index.min(1))
    })
}

/// Up to three endpoints on this node and one elsewhere, in all conditions.
fn endpoints(stage: &Stage, family: &str, number: usize, count: usize) -> Vec<Value> {
    let (v4, v6) = (Ipv4Addr::new(10, 244, 9, 9), Ipv6Addr::new(0xfd00, 0x10, 0x244, 9, 0, 0, 0, 9));
    let pick =
        |v4: Ipv4Addr, v6: Ipv6Addr| -> IpAddr { if family == "IPv4" { v4.into() } else { v6.into() } };
    let here = stage.pods.iter().take(count).map(|pod| endpoint(pick(pod.v4(), pod.v6()), NODE));
    let conditions = [
        json!({"ready": true}),
        json!({"ready": false, "serving": true, "terminating": true}),
        json!({"ready": false}),
        json!({}),
    ];
    let mut endpoints: Vec<_> = here.chain([endpoint(pick(v4, v6), "elsewhere")]).collect();
    for (index, endpoint) in endpoints.iter_mut().enumerate() {
        endpoint["conditions"] = conditions[(index + number / 4) % conditions.len()].clone();
    }
    endpoints
}

fn objects(stage: &Stage, number: usize, scaled: bool) -> Vec<Value> {
    let name = format!("service-{number}");
    let mut spec = variant(number);
    // Every kind meets every list of families.
    let families = FAMILIES[(number + number / 10) % FAMILIES.len()];
    if spec["type"] != "ExternalName" {
        spec["ipFamilies"] = json!(families);
        spec["ipFamilyPolicy"] = json!(if families.len() == 2 { "RequireDualStack" } else { "SingleStack" });
    }
    spec["ports"] = ports(number).map(|(name, protocol, own)| port(&name, protocol, own)).collect();
    let mut objects = vec![service(&name, spec)];
    // Also for a family that the Service may not have.
    for family in ["IPv4", "IPv6"] {
        let targets = ports(number).enumerate();
        let targets =
            targets.map(|(index, (name, protocol, _))| port(&name, protocol, usize::from(PORT) + index));

        let count = (number + usize::from(scaled)) % 4;
        objects.push(slice(&name, family, targets.collect(), endpoints(stage, family, number, count)));
    }
    objects
}

#[test]
fn fifty_services_of_every_kind() -> Result<()> {
    let stage = Stage::new()?;
    let all = |scaled| (0..COUNT).flat_map(|number| objects(&stage, number, scaled)).collect::<Vec<_>>();
    stage.api.apply_all(&all(false))?;
    let mut slowest = stage.settle("making fifty Services")?;

    for number in (0..COUNT).filter(|number| matches!(number % 10, 4 | 5)) {
        let ingress = [
            json!({"ip": format!("198.51.100.{number}")}),
            json!({"ip": format!("fd00:198::{number}"), "ipMode": "VIP"}),
            json!({"ip": format!("198.51.101.{number}"), "ipMode": "Proxy"}),
            json!({"hostname": "balancer.example.org"}),
        ];
        let path = format!("/api/v1/namespaces/{NAMESPACE}/services/service-{number}/status");
        let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        stage.api.request("PATCH", &path, Some(&status))?.json()?;
    }
    slowest = slowest.max(stage.settle("the load balancers' addresses")?);
    let count = stage.ids()?.len();
    ensure!(count > 100, "only {count} frontends");

    stage.api.apply_all(&all(true))?;
    slowest = slowest.max(stage.settle("changing all slices")?);
    stage.kubectl(&["delete", "services", "--all", "--wait=false"])?;
    slowest = slowest.max(stage.settle("deleting all Services")?);
    stage.api.apply_all(&all(false))?;
    slowest = slowest.max(stage.settle("making them again")?);
    println!("{count} frontends, slowest step {slowest:?}");
    ensure!(slowest < Duration::from_secs(5), "{slowest:?}");
    Ok(())
}

#[test]
fn every_address_of_a_service_leads_to_its_pods() -> Result<()> {
    let stage = Stage::new()?;
    let [red, green, _] = &stage.pods;
    let spec = json!({"type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack",
        "externalIPs": ["203.0.113.1", "fd00:203::1"], "ports": [port("http", "TCP", 80)]});
    stage.apply(&service("front", spec))?;
    stage.api.apply_all(&stage.slices("front", "http", &[red, green]))?;
    let status =
        json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}, {"ip": "fd00:198::1"}]}}});
    let path = format!("/api/v1/namespaces/{NAMESPACE}/services/front/status");
    stage.api.request("PATCH", &path, Some(&status))?.json()?;
    stage.settle("making front")?;
    let mut addresses = stage.cluster_ips("front")?;
    for ip in ["203.0.113.1", "fd00:203::1", "198.51.100.1", "fd00:198::1"] {
        addresses.push(ip.parse()?);
    }
    for ip in addresses {
        stage.reaches(SocketAddr::new(ip, 80), &[red, green])?;
    }
    let node_port = stage.service("front")?["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default();
    let node_port = u16::try_from(node_port)?;
    let host = stage.node.host();
    for to in [host.at4(node_port), host.at6(node_port)] {
        stage.reaches(to, &[red, green])?;
    }
    Ok(())
}
