//! `kubeshunt services`: the live maps, for people or machines.

use std::{fmt::Write as _, io::Write as _};

use anyhow::Result;
use proxy_common::layout::{Backend, backend_flag, frontend_kind, protocol, scope};
use serde::Serialize;

use super::{render, table};
use crate::{
    datapath::{
        contents::{self, Contents, Entry},
        pins::Pins,
    },
    plan::operation::show,
    settings::{Output, Services},
};

/// How many endpoints a row of the table names.
const SHOWN: usize = 4;

/// Prints what the maps hold.
///
/// # Errors
/// When nothing is pinned, or it cannot be read.
pub fn run(args: &Services) -> Result<()> {
    let mut contents = contents::read(&Pins::new(&args.bpffs_root))?;
    // They serve nothing: they say that everything else is refused there.
    contents.frontends.retain(|entry| entry.key.scope != scope::ADDRESS);
    let text = match args.output {
        Output::Table => as_table(&contents),
        Output::Json => serde_json::to_string_pretty(&Document::from(&contents))? + "\n",
    };
    // Whoever reads may stop reading (`| head`): that is no failure.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn as_table(contents: &Contents) -> String {
    let mut rows = table(&["FRONTEND", "KIND", "ID", "POLICY", "AFFINITY", "SOURCES", "ENDPOINTS", "WHERE"]);
    for entry in &contents.frontends {
        let local = entry.frontend.kind == frontend_kind::CLUSTER_IP && entry.sets.internal_local();
        let endpoints = if local { &entry.local } else { &entry.cluster };
        let affinity = match entry.traits.affinity_seconds() {
            0 => "-".to_owned(),
            seconds => format!("{seconds}s"),
        };
        rows.add_row([
            show(&entry.key),
            kind(entry).to_owned(),
            entry.frontend.service.to_string(),
            if local { "Local" } else { "Cluster" }.to_owned(),
            affinity,
            sources(entry),
            endpoints.len().to_string(),
            place(entry, endpoints),
        ]);
    }
    let mut text = render(&rows);
    let _ = write!(text, "\n\n{} frontends", contents.frontends.len());
    if !contents.node_addresses.is_empty() {
        let addresses: Vec<String> = contents.node_addresses.iter().map(ToString::to_string).collect();
        let _ = write!(text, "; NodePorts answer on {}", addresses.join(", "));
    }
    text + "\n"
}

fn sources(entry: &Entry) -> String {
    match entry.admitted.as_deref() {
        None => "any".to_owned(),
        Some([only]) => only.to_string(),
        Some(ranges) => format!("{} ranges", ranges.len()),
    }
}

fn place(entry: &Entry, endpoints: &[Backend]) -> String {
    if endpoints.is_empty() {
        return if entry.sets.any_endpoint() { "none here: unreachable" } else { "none: refused" }.to_owned();
    }
    let mut shown: Vec<String> = endpoints.iter().take(SHOWN).map(socket_address).collect();
    if endpoints.len() > SHOWN {
        shown.push(format!("and {} more", endpoints.len() - SHOWN));
    }
    shown.join(", ")
}

fn socket_address(backend: &Backend) -> String {
    std::net::SocketAddr::new(backend.address.to_ip(), backend.port.number()).to_string()
}

fn kind(entry: &Entry) -> &'static str {
    match entry.frontend.kind {
        frontend_kind::CLUSTER_IP => "ClusterIP",
        frontend_kind::NODE_PORT => "NodePort",
        frontend_kind::LOAD_BALANCER => "LoadBalancer",
        frontend_kind::EXTERNAL_IP => "ExternalIP",
        _ => "unknown",
    }
}

/// The JSON answer.
#[derive(Serialize)]
struct Document {
    frontends: Vec<FrontendDocument>,
    node_addresses: Vec<String>,
}

#[derive(Serialize)]
struct FrontendDocument {
    /// Absent for NodePorts, which answer on every address of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    family: &'static str,
    port: u16,
    protocol: String,
    kind: &'static str,
    /// Whether the key and value in the map belong together.
    intact: bool,
    id: u32,
    internal_traffic_policy: &'static str,
    affinity_seconds: u32,
    /// Absent where everybody is admitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_ranges: Option<Vec<String>>,
    any_endpoint: bool,
    cluster: Vec<BackendDocument>,
    local: Vec<BackendDocument>,
}

#[derive(Serialize)]
struct BackendDocument {
    address: String,
    port: u16,
    local: bool,
}

impl From<&Contents> for Document {
    fn from(contents: &Contents) -> Self {
        Self {
            frontends: contents.frontends.iter().map(FrontendDocument::from).collect(),
            node_addresses: contents.node_addresses.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<&Entry> for FrontendDocument {
    fn from(entry: &Entry) -> Self {
        let backends = |set: &[Backend]| set.iter().map(BackendDocument::from).collect();
        Self {
            address: (entry.key.scope == scope::VIP).then(|| entry.key.address.to_string()),
            family: if entry.key.address.is_v4() { "IPv4" } else { "IPv6" },
            port: entry.key.port.number(),
            protocol: match entry.key.protocol {
                protocol::TCP => "TCP".to_owned(),
                protocol::UDP => "UDP".to_owned(),
                protocol::SCTP => "SCTP".to_owned(),
                other => other.to_string(),
            },
            kind: kind(entry),
            intact: entry.frontend.belongs_to(&entry.key),
            id: entry.frontend.service,
            internal_traffic_policy: if entry.sets.internal_local() { "Local" } else { "Cluster" },
            affinity_seconds: entry.traits.affinity_seconds(),
            source_ranges: entry
                .admitted
                .as_ref()
                .map(|ranges| ranges.iter().map(ToString::to_string).collect()),
            any_endpoint: entry.sets.any_endpoint(),
            cluster: backends(&entry.cluster),
            local: backends(&entry.local),
        }
    }
}

impl From<&Backend> for BackendDocument {
    fn from(backend: &Backend) -> Self {
        Self {
            address: backend.address.to_string(),
            port: backend.port.number(),
            local: backend.flags & backend_flag::LOCAL != 0,
        }
    }
}
