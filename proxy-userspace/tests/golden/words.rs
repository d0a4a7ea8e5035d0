//! Tables, operations and answers in words.

use std::{collections::BTreeSet, net::SocketAddr};

use proxy_common::{
    address::{Address, Port},
    layout::{Backend, Range, backend_flag, frontend_kind},
};
use proxy_userspace::{
    plan::{Operation, operation::show},
    tables::PortTable,
};

/// How many endpoints are named; of more, only the first and last.
const NAMED: usize = 8;

/// A service port's table, one line per thing worth saying.
pub(crate) fn table(table: &PortTable) -> Vec<String> {
    let mut lines = vec![table.name.to_string()];
    for (key, kind) in &table.frontends {
        lines.push(format!("  {} {}", kind_name(*kind), show(key)));
    }
    lines.push(format!("  cluster {}", set(&table.cluster)));
    if table.internal_local || !table.local.is_empty() {
        lines.push(format!("  local {}", set(&table.local)));
    }
    if table.internal_local {
        lines.push("  internalTrafficPolicy Local".to_owned());
    }
    if table.external_local {
        lines.push("  externalTrafficPolicy Local".to_owned());
    }
    if !table.any_endpoint {
        lines.push("  no endpoint anywhere".to_owned());
    }
    if table.affinity_seconds > 0 {
        lines.push(format!("  affinity {} s", table.affinity_seconds));
    }
    if let Some(admission) = &table.admission {
        let ranges: Vec<String> =
            admission.ranges.iter().map(|(address, length)| format!("{address}/{length}")).collect();
        let node = if admission.is_node { ", the node" } else { "" };
        lines.push(format!("  load balancer admits {}{node}", ranges.join(" ")));
    }
    if table.left_out > 0 {
        lines.push(format!("  {} endpoints left out", table.left_out));
    }
    lines
}

/// One operation.
pub(crate) fn operation(operation: &Operation) -> String {
    match operation {
        Operation::SetRevision { revision } if revision.is_settled() => {
            "frontends have changed: remembered choices count again".to_owned()
        }
        Operation::SetRevision { .. } => "frontends change: no remembered choice counts".to_owned(),
        Operation::RemoveFrontend { key } => format!("remove {}", show(key)),
        Operation::WriteBackends { start, backends } => {
            let len = u32::try_from(backends.len()).expect("few");
            // As they lie there, not sorted for people.
            let named = some(backends.iter().map(backend).collect());
            format!("write slots {}: {named}", slots(Range { start: *start, len }))
        }
        Operation::SetTraits { service, traits } => {
            let mut text = match traits.affinity_seconds() {
                0 => format!("service {service}: no affinity"),
                seconds => format!("service {service}: affinity {seconds} s"),
            };
            match (traits.is_restricted(), traits.is_node_admitted()) {
                (false, _) => {}
                (true, false) => text += ", load balancer restricted",
                (true, true) => text += ", load balancer restricted, the node admitted",
            }
            text
        }
        Operation::SetSets { service, sets } => {
            let mut text = format!("service {service}: cluster {}", slots(sets.cluster()));
            if sets.local().len > 0 || sets.internal_local() {
                text += &format!(", local {}", slots(sets.local()));
            }
            if sets.internal_local() {
                text += ", internalTrafficPolicy Local";
            }
            if sets.external_local() {
                text += ", externalTrafficPolicy Local";
            }
            if !sets.any_endpoint() {
                text += ", no endpoint anywhere";
            }
            text
        }
        Operation::PutFrontend { key, frontend } => {
            format!("put {} as {} of service {}", show(key), kind_name(frontend.kind), frontend.service)
        }
        Operation::PutSource { range } => format!("service {}: admit {range}", range.service),
        Operation::RemoveSource { range } => format!("service {}: admit {range} no more", range.service),
        Operation::PutNodeAddress { address, .. } => format!("put node address {address}"),
        Operation::RemoveNodeAddress { address } => format!("remove node address {address}"),
    }
}

/// What a caller may be led to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    /// Exactly these, each with its turn.
    Backends(BTreeSet<SocketAddr>),
    Refused,
    Unreachable,
    KeptOut,
    NotAService,
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Backends(backends) => {
                let one_of = if backends.len() > 1 { "one of " } else { "" };
                write!(f, "{one_of}{}", some(backends.iter().map(ToString::to_string).collect()))
            }
            Self::Refused => f.write_str("refused"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::KeptOut => f.write_str("kept out"),
            Self::NotAService => f.write_str("not a service"),
        }
    }
}

/// Address and port as the standard library has them.
pub(crate) fn socket(address: Address, port: Port) -> SocketAddr {
    SocketAddr::new(address.to_ip(), port.number())
}

fn kind_name(kind: u32) -> &'static str {
    match kind {
        frontend_kind::CLUSTER_IP => "ClusterIP",
        frontend_kind::NODE_PORT => "NodePort",
        frontend_kind::LOAD_BALANCER => "LoadBalancer",
        frontend_kind::EXTERNAL_IP => "ExternalIP",
        _ => "unknown",
    }
}

/// A set, sorted for people; a star marks this node's endpoints.
fn set(backends: &[Backend]) -> String {
    let mut sorted = backends.to_vec();
    sorted.sort_by_key(|backend| socket(backend.address, backend.port));
    some(sorted.iter().map(backend).collect())
}

fn backend(backend: &Backend) -> String {
    let star = if backend.flags & backend_flag::LOCAL != 0 { "*" } else { "" };
    format!("{}{star}", socket(backend.address, backend.port))
}

fn some(names: Vec<String>) -> String {
    match names.as_slice() {
        [] => "none".to_owned(),
        [first, .., last] if names.len() > NAMED => format!("{first} .. {last} ({} endpoints)", names.len()),
        _ => names.join(" "),
    }
}

fn slots(range: Range) -> String {
    if range.len == 0 { "none".to_owned() } else { format!("{}..{}", range.start, range.start + range.len) }
}
