//! What a scenario file says.
//!
//! ```yaml
//! about: What this shows, in a sentence.
//! node: node-1              # the default
//! addresses: [192.0.2.11]   # the node's own, that answer NodePorts
//! steps:
//! - step: what happens
//!   services: [..]          # objects applied, without apiVersion and kind; in namespace default
//!   slices: [..]
//!   nodes: [..]
//!   objects: [..]           # any others, with apiVersion and kind
//!   delete: [Service default/web, EndpointSlice default/web-1]
//!   probe:                  # who gets this connection afterwards?
//!   - pod 10.244.1.7 tcp 10.96.0.10:80
//!   - host udp 192.0.2.11:30053
//!   - bound 192.0.2.11 tcp 10.96.0.10:80   # a process of the node that has chosen its address
//! ```
//!
//! An object with `repeat: 3` stands for three, with `{n}` replaced by 1, 2, 3, and `{high}` and `{low}` by its
//! bytes. Lists are applied in the order services, slices, nodes, objects; deletions come first.

use std::net::SocketAddr;

use proxy_common::{
    address::{Address, Port},
    decision::Destination,
    layout::protocol,
};
use proxy_userspace::{
    cluster::{
        change::{Change, Kind, ObjectRef},
        reject::Reject,
    },
    source::manifests,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) about: String,
    #[serde(default = "node")]
    pub(crate) node: String,
    #[serde(default)]
    pub(crate) addresses: Vec<std::net::IpAddr>,
    pub(crate) steps: Vec<Step>,
}

fn node() -> String {
    "node-1".to_owned()
}

/// A step of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) step: String,
    #[serde(default)]
    services: Vec<Value>,
    #[serde(default)]
    slices: Vec<Value>,
    #[serde(default)]
    nodes: Vec<Value>,
    #[serde(default)]
    objects: Vec<Value>,
    #[serde(default)]
    delete: Vec<String>,
    #[serde(default)]
    probe: Vec<String>,
}

/// Who asks for what.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// As it stands in the file.
    pub(crate) text: String,
    pub(crate) from_host: bool,
    /// The address that a process of the node has chosen for itself.
    pub(crate) bound: Option<Address>,
    /// Tells pods apart; 1 for the host.
    pub(crate) namespace: u64,
    pub(crate) destination: Destination,
}

/// Reads a file.
pub(crate) fn read(name: &str, text: &str) -> Scenario {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).unwrap_or_else(|error| panic!("{name}: {error}"))
}

impl Step {
    /// What the sources would say: read as manifests are.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let mut changes: Vec<Change> =
            self.delete.iter().map(|text| Change::Deleted(reference(text))).collect();
        for (version, kind, items) in [
            ("v1", "ServiceList", &self.services),
            ("discovery.k8s.io/v1", "EndpointSliceList", &self.slices),
            ("v1", "NodeList", &self.nodes),
            ("v1", "List", &self.objects),
        ] {
            let items: Vec<Value> = items.iter().flat_map(repeated).collect();
            let list = json!({"apiVersion": version, "kind": kind, "items": items});
            let (objects, rejects): (_, Vec<Reject>) = manifests::objects("step.json", &list.to_string());
            changes.extend(objects.into_iter().map(Change::Applied));
            changes.extend(rejects.into_iter().map(Change::Unreadable));
        }
        changes
    }

    /// The questions.
    pub(crate) fn probes(&self) -> Vec<Probe> {
        self.probe.iter().map(|text| probe(text)).collect()
    }
}

fn repeated(object: &Value) -> Vec<Value> {
    let mut object = object.clone();
    let Some(times) = object.as_object_mut().and_then(|fields| fields.remove("repeat")) else {
        return vec![object];
    };
    let template = object.to_string();
    let copy = |number: u64| {
        let text = template.replace("{n}", &number.to_string());
        let text = text.replace("{high}", &(number / 256).to_string());
        serde_json::from_str(&text.replace("{low}", &(number % 256).to_string())).expect("still JSON")
    };
    (1..=times.as_u64().expect("a number of times")).map(copy).collect()
}

/// `Service default/web`
fn reference(text: &str) -> ObjectRef {
    let (kind, name) = text.split_once(' ').unwrap_or_else(|| panic!("{text:?}"));
    let kind = match kind {
        "Service" => Kind::Service,
        "EndpointSlice" => Kind::EndpointSlice,
        "Node" => Kind::Node,
        _ => panic!("{text:?}"),
    };
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    ObjectRef::new(kind, namespace, name)
}

/// `pod 10.244.1.7 tcp 10.96.0.10:80`
fn probe(text: &str) -> Probe {
    let words: Vec<&str> = text.split_whitespace().collect();
    let parse = |text: &str| Address::from(text.parse::<std::net::IpAddr>().expect("an address"));
    let (bound, namespace, rest) = match *words {
        ["host", ref rest @ ..] => (None, HOST, rest),
        ["bound", address, ref rest @ ..] => (Some(parse(address)), HOST, rest),
        ["pod", address, ref rest @ ..] => (None, pod(parse(address)), rest),
        _ => panic!("{text:?}"),
    };
    let [protocol, destination] = *rest else { panic!("{text:?}") };
    let protocol = match protocol {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "sctp" => protocol::SCTP,
        _ => panic!("{text:?}"),
    };
    let to: SocketAddr = destination.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"));
    let destination = Destination { address: Address::from(to.ip()), port: Port::new(to.port()), protocol };
    Probe { text: text.to_owned(), from_host: namespace == HOST, bound, namespace, destination }
}

/// The number of the host's network namespace.
const HOST: u64 = 1;

/// A number for the pod's network namespace, from its address.
fn pod(address: Address) -> u64 {
    let (high, low) = address.rank();
    high ^ low
}
