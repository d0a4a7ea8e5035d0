//! Services and EndpointSlices as JSON, the way the API has them.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::server::NAMESPACE;

/// A Service in the tests' namespace.
pub(crate) fn service(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    })
}

/// A port of a Service or of a slice.
pub(crate) fn port(name: &str, protocol: &str, port: usize) -> Value {
    json!({"name": name, "protocol": protocol, "port": port})
}

/// An EndpointSlice, named after its Service and its family.
pub(crate) fn slice(service: &str, family: &str, ports: Value, endpoints: Vec<Value>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}", family.to_lowercase()),
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "ports": ports,
        "endpoints": endpoints,
    })
}

/// A ready endpoint on a node.
pub(crate) fn endpoint(address: impl Into<IpAddr>, node: &str) -> Value {
    json!({"addresses": [address.into().to_string()], "nodeName": node, "conditions": {"ready": true}})
}
