//! What the maps should hold, derived from the API in the plainest way, and what they do hold.
//!
//! Invariant: nothing here shares code or structure with kubeshunt. It reads lists, never changes, and knows
//! only the rules that the Kubernetes documentation states. Topology hints are not among them: no test here
//! sets any.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use kubeshunt_tests::Kubeshunt;
use kubeshunt_tests::apiserver::ApiServer;
use serde_json::Value;

/// By `FAMILY ADDRESS PORT/PROTOCOL`, the address being `node` for NodePorts.
pub(crate) type Table = BTreeMap<String, Row>;

/// What a frontend leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    kind: &'static str,
    internal_local: bool,
    affinity: u64,
    any: bool,
    /// `ADDRESS:PORT`, with a star when on this node.
    cluster: BTreeSet<String>,
    local: BTreeSet<String>,
}

/// A list without end of nothing for what is absent.
fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn family(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

fn canonical(address: &str) -> Result<String> {
    let parsed: IpAddr = address.parse().with_context(|| format!("{address:?} is no address"))?;
    Ok(parsed.to_string())
}

fn frontend(address: &str, port: u64, protocol: &str) -> Result<String> {
    Ok(format!("{} {} {port}/{protocol}", family(address), canonical(address)?))
}

/// What the API says, as seen from a node.
pub(crate) fn of_api(api: &ApiServer, node: &str) -> Result<Table> {
    let services = api.request("GET", "/api/v1/services", None)?.json()?;
    let slices = api.request("GET", "/apis/discovery.k8s.io/v1/endpointslices", None)?.json()?;
    // One address may be claimed twice: the kinds in this order, then the older, then the name.
    let mut claims: Vec<((usize, String, String), String, Row)> = Vec::new();
    for service in items(&services, "/items") {
        let ours = service.pointer("/metadata/labels/service.kubernetes.io~1service-proxy-name").is_none()
            && text(service, "/spec/type") != "ExternalName"
            && text(service, "/spec/clusterIP") != "None";
        if !ours {
            continue;
        }
        let name = format!("{}/{}", text(service, "/metadata/namespace"), text(service, "/metadata/name"));
        let created = text(service, "/metadata/creationTimestamp");
        for port in items(service, "/spec/ports") {
            for ip in items(service, "/spec/clusterIPs").iter().filter_map(Value::as_str) {
                let found = usable(items(&slices, "/items"), service, port, family(ip), node)?;
                for (rank, kind, key) in frontends(service, port, ip)? {
                    let row = Row { kind, ..found.clone() };
                    claims.push(((rank, created.to_owned(), name.clone()), key, row));
                }
            }
        }
    }
    claims.sort_by(|a, b| a.0.cmp(&b.0));
    let mut table = Table::new();
    for (_, key, row) in claims {
        table.entry(key).or_insert(row);
    }
    Ok(table)
}

/// Where a port answers in the family of one of its cluster IPs.
fn frontends(service: &Value, port: &Value, ip: &str) -> Result<Vec<(usize, &'static str, String)>> {
    let number = port["port"].as_u64().context("a port without a number")?;
    let protocol = text(port, "/protocol");
    let mut found = vec![(0, "ClusterIP", frontend(ip, number, protocol)?)];
    for ingress in items(service, "/status/loadBalancer/ingress") {
        let address = text(ingress, "/ip");
        if !address.is_empty() && text(ingress, "/ipMode") != "Proxy" && family(address) == family(ip) {
            found.push((1, "LoadBalancer", frontend(address, number, protocol)?));
        }
    }
    for address in items(service, "/spec/externalIPs").iter().filter_map(Value::as_str) {
        if family(address) == family(ip) {
            found.push((2, "ExternalIP", frontend(address, number, protocol)?));
        }
    }
    if let Some(node_port) = port["nodePort"].as_u64().filter(|number| *number != 0) {
        found.push((3, "NodePort", format!("{} node {node_port}/{protocol}", family(ip))));
    }
    Ok(found)
}

/// The endpoints of a port in a family.
fn usable(slices: &[Value], service: &Value, port: &Value, family: &str, node: &str) -> Result<Row> {
    // By address and port: on this node, ready, draining.
    let mut known: BTreeMap<String, (bool, bool, bool)> = BTreeMap::new();
    for slice in slices {
        let fits = text(slice, "/metadata/namespace") == text(service, "/metadata/namespace")
            && text(slice, "/metadata/labels/kubernetes.io~1service-name") == text(service, "/metadata/name")
            && slice.pointer("/metadata/labels/service.kubernetes.io~1headless").is_none()
            && text(slice, "/addressType") == family;
        let ports = items(slice, "/ports").iter().filter(|own| {
            text(own, "/name") == text(port, "/name") && text(own, "/protocol") == text(port, "/protocol")
        });
        for number in ports.filter(|_| fits).filter_map(|own| own["port"].as_u64()) {
            for endpoint in items(slice, "/endpoints") {
                let condition = |name: &str, absent| {
                    endpoint
                        .pointer(&format!("/conditions/{name}"))
                        .and_then(Value::as_bool)
                        .unwrap_or(absent)
                };
                let draining = condition("serving", true) && condition("terminating", false);
                let address = canonical(text(endpoint, "/addresses/0"))?;
                let local = text(endpoint, "/nodeName") == node;
                let value = (local, condition("ready", true), draining);
                known.entry(format!("{address}:{number}")).or_insert(value);
            }
        }
    }
    let set = |only_local: bool| -> BTreeSet<String> {
        let pick = |ready: bool| -> BTreeSet<String> {
            let chosen = known.iter().filter(|(_, (local, is_ready, draining))| {
                (*local || !only_local) && if ready { *is_ready } else { *draining }
            });
            chosen.map(|(key, (local, ..))| if *local { format!("{key}*") } else { key.clone() }).collect()
        };
        let ready = pick(true);
        if ready.is_empty() { pick(false) } else { ready }
    };
    let internal_local = text(service, "/spec/internalTrafficPolicy") == "Local";
    let external = port["nodePort"].as_u64().is_some_and(|number| number != 0)
        || !frontends_beyond_cluster(service).is_empty();
    let external_local = external && text(service, "/spec/externalTrafficPolicy") == "Local";
    let everywhere = set(false);
    let affinity = match text(service, "/spec/sessionAffinity") {
        "ClientIP" => service.pointer("/spec/sessionAffinityConfig/clientIP/timeoutSeconds"),
        _ => None,
    };
    Ok(Row {
        kind: "",
        internal_local,
        affinity: affinity.and_then(Value::as_u64).unwrap_or(0),
        any: !everywhere.is_empty(),
        cluster: if internal_local && !external { BTreeSet::new() } else { everywhere },
        local: if internal_local || external_local { set(true) } else { BTreeSet::new() },
    })
}

/// The external and load-balancer IPs that a Service can answer on.
fn frontends_beyond_cluster(service: &Value) -> Vec<&str> {
    let families: Vec<_> =
        items(service, "/spec/clusterIPs").iter().filter_map(Value::as_str).map(family).collect();
    let external = items(service, "/spec/externalIPs").iter().filter_map(Value::as_str);
    let ingress = items(service, "/status/loadBalancer/ingress").iter();
    let ingress = ingress.filter(|own| text(own, "/ipMode") != "Proxy").map(|own| text(own, "/ip"));
    external
        .chain(ingress)
        .filter(|address| !address.is_empty() && families.contains(&family(address)))
        .collect()
}

/// What the kernel's maps hold, and under which id.
pub(crate) fn of_maps(kubeshunt: &Kubeshunt) -> Result<(Table, BTreeMap<String, u64>)> {
    let output = kubeshunt.command(&["services", "-o", "json"])?;
    if !output.status.success() {
        bail!("kubeshunt services: {}", String::from_utf8_lossy(&output.stderr));
    }
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let (mut table, mut ids) = (Table::new(), BTreeMap::new());
    for entry in items(&document, "/frontends") {
        let number = entry["port"].as_u64().context("a frontend without a port")?;
        let address = entry["address"].as_str().unwrap_or("node");
        let key = format!("{} {address} {number}/{}", text(entry, "/family"), text(entry, "/protocol"));
        if entry["intact"] != Value::Bool(true) {
            bail!("{key} is not intact");
        }
        let kinds = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalIP"];
        let kind = kinds.into_iter().find(|kind| *kind == text(entry, "/kind"));
        let set = |name: &str| -> Result<BTreeSet<String>> {
            let backends = items(entry, name);
            let show = |own: &Value| {
                let star = if own["local"] == Value::Bool(true) { "*" } else { "" };
                format!("{}:{}{star}", text(own, "/address"), own["port"])
            };
            let set: BTreeSet<_> = backends.iter().map(show).collect();
            if set.len() != backends.len() {
                bail!("{key} has an endpoint twice");
            }
            Ok(set)
        };
        let row = Row {
            kind: kind.with_context(|| format!("{key} is of an unknown kind"))?,
            internal_local: text(entry, "/internal_traffic_policy") == "Local",
            affinity: entry["affinity_seconds"].as_u64().unwrap_or(0),
            any: entry["any_endpoint"] == Value::Bool(true),
            cluster: set("/cluster")?,
            local: set("/local")?,
        };
        ids.insert(key.clone(), entry["id"].as_u64().context("a frontend without an id")?);
        if table.insert(key.clone(), row).is_some() {
            bail!("{key} is there twice");
        }
    }
    Ok((table, ids))
}

/// What differs, a line each.
pub(crate) fn differences(expected: &Table, found: &Table) -> String {
    let keys: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let differing = keys.into_iter().filter(|key| expected.get(*key) != found.get(*key));
    let lines = differing.map(|key| {
        format!("{key}:\n  the API says {:?}\n  the maps say {:?}", expected.get(key), found.get(key))
    });
    lines.collect::<Vec<_>>().join("\n")
}
