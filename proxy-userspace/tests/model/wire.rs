//! The same objects as the API has them.

use serde_json::{Value, json};

use super::oracle::objects::{
    AddressType, Endpoint, Name, Policy, Port, Protocol, Service, Slice, SlicePort, Type, World,
};

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::Cluster => "Cluster",
        Policy::Local => "Local",
    }
}

fn metadata(name: &Name, labels: Value) -> Value {
    json!({"name": name.name, "namespace": name.namespace, "labels": labels})
}

pub(crate) fn service(name: &Name, service: &Service) -> Value {
    let kind = match service.kind {
        Type::ClusterIp => "ClusterIP",
        Type::NodePort => "NodePort",
        Type::LoadBalancer => "LoadBalancer",
        Type::ExternalName => "ExternalName",
    };
    let labels =
        if service.is_foreign { json!({"service.kubernetes.io/service-proxy-name": ""}) } else { json!({}) };
    let mut metadata = metadata(name, labels);
    metadata["creationTimestamp"] = format!("2026-01-01T00:00:{:02}Z", service.created).into();
    let families: Vec<&str> = service.families.iter().map(|v4| if *v4 { "IPv4" } else { "IPv6" }).collect();
    let ports: Vec<Value> = service.ports.iter().map(port).collect();
    let mut spec = json!({
        "type": kind,
        "clusterIP": service.cluster_ip,
        "clusterIPs": service.cluster_ips,
        "ipFamilies": families,
        "ports": ports,
        "externalIPs": service.external_ips,
        "internalTrafficPolicy": service.internal.map(policy),
        "externalTrafficPolicy": service.external.map(policy),
        "sessionAffinity": "None",
        "loadBalancerSourceRanges": service.source_ranges,
    });
    if let Some(seconds) = service.affinity {
        spec["sessionAffinity"] = "ClientIP".into();
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
    }
    let ingress =
        service.ingress.iter().map(|own| json!({"ip": own.ip, "hostname": own.hostname, "ipMode": own.mode}));
    let ingress: Vec<Value> = ingress.collect();
    let status = json!({"loadBalancer": {"ingress": ingress}});
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec, "status": status})
}

fn port(port: &Port) -> Value {
    json!({
        "name": port.name,
        "protocol": protocol(port.protocol),
        "port": port.number,
        "nodePort": port.node_port,
    })
}

pub(crate) fn slice(name: &Name, slice: &Slice) -> Value {
    let mut labels = json!({});
    if let Some(service) = &slice.service {
        labels["kubernetes.io/service-name"] = service.as_str().into();
    }
    if slice.is_headless {
        labels["service.kubernetes.io/headless"] = "".into();
    }
    let ports = slice.ports.iter().map(
        |SlicePort { name, protocol: own, number }| json!({"name": name, "protocol": protocol(*own), "port": number}),
    );
    let family = match slice.address_type {
        AddressType::V4 => "IPv4",
        AddressType::V6 => "IPv6",
        AddressType::Fqdn => "FQDN",
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata(name, labels),
        "addressType": family,
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": slice.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let names = |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({"name": name})).collect() };
    json!({
        "addresses": endpoint.addresses,
        "conditions": {
            "ready": endpoint.ready,
            "serving": endpoint.serving,
            "terminating": endpoint.terminating,
        },
        "nodeName": endpoint.node,
        "hints": {"forZones": names(&endpoint.for_zones), "forNodes": names(&endpoint.for_nodes)},
    })
}

/// The node's own object.
pub(crate) fn node(world: &World) -> Value {
    let addresses: Vec<Value> =
        world.node_object.iter().map(|own| json!({"type": "InternalIP", "address": own})).collect();
    let labels = world.zone.map_or(json!({}), |zone| json!({"topology.kubernetes.io/zone": zone}));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": world.node, "labels": labels},
        "status": {"addresses": addresses},
    })
}
