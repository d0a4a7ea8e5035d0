//! From an EndpointSlice object to [`Slice`].
//!
//! Tens of thousands of these stay in memory, so they are kept in a compact form: 32 bytes per endpoint, with
//! everything that repeats (hints, ports) shared.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Parsed, Rejects, address, port_number, protocol};
use crate::cluster::api;
use crate::cluster::change::{Kind, ObjectRef};
use crate::cluster::model::{Family, Protocol, ServiceName};
use crate::cluster::reject::{Problem, Reject};

/// Whoever sets this label, to any value, says the slice belongs to a headless Service.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Names the Service, in the slice's namespace.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// The Service it belongs to.
    pub service: ServiceName,
    /// What it contributes.
    pub backends: Backends,
    /// When that came about which made somebody write it, in nanoseconds since 1970, if it says so.
    pub triggered: Option<i64>,
}

/// The contents of a slice, in a form to keep.
#[derive(Clone, Debug, PartialEq)]
pub struct Backends {
    /// The family of all its addresses.
    pub family: Family,
    /// Ports each of the endpoints has.
    pub ports: Box<[SlicePort]>,
    /// Endpoints, in the order of the object.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct SlicePort {
    /// Name, may be empty.
    pub name: Box<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceEndpoint {
    /// Address.
    pub address: IpAddr,
    /// Runs on this node.
    pub local: bool,
    /// Wants traffic.
    pub ready: bool,
    /// Answers.
    pub serving: bool,
    /// Is going away.
    pub terminating: bool,
    /// Who should prefer it; the same allocation for endpoints with the same hints.
    pub hints: Option<Arc<Hints>>,
}

/// Topology hints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hints {
    /// Zones.
    pub zones: Arc<[Box<str>]>,
    /// Nodes.
    pub nodes: Arc<[Box<str>]>,
}

/// Reads an EndpointSlice as seen from the node of that name.
#[must_use]
pub fn slice(object: &api::EndpointSlice, node_name: &str) -> (Parsed<Slice>, Vec<Reject>) {
    let metadata = &object.metadata;
    let mut rejects = Rejects::new(ObjectRef::new(Kind::EndpointSlice, &metadata.namespace, &metadata.name));
    if metadata.labels.contains_key(HEADLESS_LABEL) {
        return (Parsed::NotOurs, Vec::new());
    }
    let family = match object.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        other => {
            rejects.push("addressType", Problem::UnsupportedAddressType(other.to_owned()));
            return (Parsed::NotOurs, rejects.list);
        }
    };
    let Some(service) = metadata.labels.get(SERVICE_LABEL).filter(|name| !name.is_empty()) else {
        rejects.push("metadata.labels", Problem::NoServiceLabel);
        return (Parsed::NotOurs, rejects.list);
    };

    let value = Slice {
        service: ServiceName { namespace: metadata.namespace.as_str().into(), name: service.as_str().into() },
        backends: Backends {
            family,
            ports: ports(&object.ports, &mut rejects),
            endpoints: endpoints(&object.endpoints, family, node_name, &mut rejects),
        },
        triggered: metadata.annotations.last_change_trigger_time.as_deref().and_then(nanoseconds),
    };
    (Parsed::Value(value), rejects.list)
}

/// A time in RFC 3339. One that is none is only missed by whoever looks at statistics.
fn nanoseconds(text: &str) -> Option<i64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}

fn ports(objects: &[api::EndpointPort], rejects: &mut Rejects) -> Box<[SlicePort]> {
    let mut found = Vec::with_capacity(objects.len());
    for (index, object) in objects.iter().enumerate() {
        let number = rejects.take(port_number(object.port), || format!("ports[{index}].port"));
        let protocol =
            rejects.take(protocol(object.protocol.as_deref()), || format!("ports[{index}].protocol"));
        let (Some(port), Some(protocol)) = (number, protocol) else { continue };
        // The API server turns an absent name into the empty one; a manifest has nobody to do that for it.
        let name = object.name.as_deref().unwrap_or_default().into();
        found.push(SlicePort { name, protocol, port });
    }
    found.into()
}

fn endpoints(
    objects: &[api::Endpoint],
    family: Family,
    node_name: &str,
    rejects: &mut Rejects,
) -> Box<[SliceEndpoint]> {
    let mut found = Vec::with_capacity(objects.len());
    for (index, object) in objects.iter().enumerate() {
        let field = || format!("endpoints[{index}].addresses[0]");
        let text = object.addresses.first().ok_or(Problem::NoAddress);
        let parsed = text.and_then(|text| address::host(text));
        let Some(address) = rejects.take(parsed, field) else { continue };
        if Family::of(address) != family {
            rejects.push(field(), Problem::WrongFamily { address, expected: family });
            continue;
        }
        let conditions = &object.conditions;
        found.push(SliceEndpoint {
            address,
            local: object.node_name.as_deref().is_some_and(|name| name == node_name),
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            hints: hints(&object.hints),
        });
    }
    found.into()
}

fn hints(object: &api::EndpointHints) -> Option<Arc<Hints>> {
    let names = |hints: &[api::Hint]| hints.iter().map(|hint| hint.name.as_str().into()).collect();
    let hints = Hints { zones: names(&object.for_zones), nodes: names(&object.for_nodes) };
    (hints != Hints::default()).then(|| Arc::new(hints))
}

#[cfg(test)]
#[path = "slice_tests.rs"]
mod tests;
