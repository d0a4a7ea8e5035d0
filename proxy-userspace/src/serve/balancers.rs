//! Answers to load balancers that ask whether this node has endpoints of a Service (`spec.healthCheckNodePort`): one
//! server for each such Service and family, as kube-proxy has it (`pkg/proxy/healthcheck/service_health.go`). Whatever
//! the path and the method, 200 if there are any and this process is well, else 503.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::IntoResponse,
};
use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::AbortHandle,
    time::sleep,
};
use tracing::{info, warn};

use super::{AGAIN, connections, listen_with};
use crate::{
    cluster::model::{Family, ServiceName},
    controller::status::Status,
    events::{Event, Recorder},
    tables::checks::Checks,
};

const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Serves what is wanted, as it changes. A port that somebody else has is tried again and again.
///
/// # Errors
/// When nobody can want anything any more.
pub async fn run(
    mut wanted: watch::Receiver<Checks>,
    status: Arc<Status>,
    node: &str,
    events: Recorder,
) -> Result<()> {
    let (open, told) = (BTreeMap::new(), BTreeMap::new());
    let mut servers = Servers { open, told, status, node: node.to_owned(), events };
    loop {
        let checks = wanted.borrow_and_update().clone();
        let is_all_open = servers.bring_in_line(&checks);
        tokio::select! {
            changed = wanted.changed() => changed.context("nobody tells any more what to serve")?,
            () = sleep(AGAIN), if !is_all_open => {}
        }
    }
}

/// A port of one family.
type Place = (u16, Family);

struct Servers {
    open: BTreeMap<Place, Server>,
    /// What has been said about ports that cannot be had.
    told: BTreeMap<Place, String>,
    status: Arc<Status>,
    node: String,
    events: Recorder,
}

/// Ends when dropped.
struct Server {
    service: ServiceName,
    endpoints: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        // Connections that are still open learn that there is nothing any more.
        self.endpoints.store(0, Relaxed);
    }
}

impl Servers {
    /// Closes what nobody wants, opens what is wanted and tells the new numbers; `false` if a port cannot be had.
    fn bring_in_line(&mut self, checks: &Checks) -> bool {
        let wants = |service: &ServiceName, (port, family): &Place| {
            let check = checks.get(service)?;
            if check.port == *port { check.endpoints.get(family).copied() } else { None }
        };
        // Whoever has a port keeps it.
        self.open.retain(|place, server| match wants(&server.service, place) {
            Some(endpoints) => {
                server.endpoints.store(endpoints, Relaxed);
                true
            }
            None => false,
        });
        let mut told = BTreeMap::new();
        // Nobody can ask in a family that the node does not speak.
        let spoken = self.status.health().families;
        for (service, check) in checks {
            for (family, endpoints) in check.endpoints.iter().filter(|(family, _)| spoken.contains(family)) {
                let place = (check.port, *family);
                let error = match self.open.get(&place) {
                    Some(server) if server.service == *service => continue,
                    Some(server) => format!("{} has it", server.service),
                    None => match self.open(place, service, *endpoints) {
                        Ok(()) => continue,
                        Err(error) => format!("{error:#}"),
                    },
                };
                if self.told.get(&place) != Some(&error) {
                    warn!(
                        %service, port = check.port, %family,
                        "load balancers that ask for this Service's health get no answer: {error}; trying again every \
                         {AGAIN:?}"
                    );
                    // In kube-proxy's words.
                    self.events.record(|| {
                        let (node, port) = (&self.node, check.port);
                        let note = format!(
                            "node {node} failed to start healthcheck \"{service}\" on port {port}: {error}"
                        );
                        Some(Event::no_health_of_service(service, note))
                    });
                }
                told.insert(place, error);
            }
        }
        self.told = told;
        self.told.is_empty()
    }

    fn open(&mut self, place: Place, service: &ServiceName, endpoints: usize) -> Result<()> {
        let listener = listen(place)?;
        let endpoints = Arc::new(AtomicUsize::new(endpoints));
        let answers = Answers {
            service: service.clone(),
            endpoints: Arc::clone(&endpoints),
            status: Arc::clone(&self.status),
        };
        let router = Router::new().fallback(answer).with_state(Arc::new(answers));
        let (port, family) = place;
        info!(%service, port, %family, "answering load balancers");
        let task = tokio::spawn(async move { connections::serve(listener, router).await }).abort_handle();
        self.open.insert(place, Server { service: service.clone(), endpoints, task });
        Ok(())
    }
}

/// Each family has a socket of its own: a Service may have different numbers in both.
fn listen((port, family): Place) -> Result<TcpListener> {
    let (socket, address): (_, SocketAddr) = match family {
        Family::V4 => (TcpSocket::new_v4(), (Ipv4Addr::UNSPECIFIED, port).into()),
        Family::V6 => (TcpSocket::new_v6(), (Ipv6Addr::UNSPECIFIED, port).into()),
    };
    let socket = socket.context("cannot make a socket")?;
    if family == Family::V6 {
        setsockopt(&socket, Ipv6V6Only, &true).context("cannot keep IPv4 off an IPv6 socket")?;
    }
    listen_with(socket, address).with_context(|| format!("cannot listen at {address}"))
}

struct Answers {
    service: ServiceName,
    endpoints: Arc<AtomicUsize>,
    status: Arc<Status>,
}

/// As kube-proxy writes it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: Named<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Named<'a> {
    namespace: &'a str,
    name: &'a str,
}

async fn answer(State(answers): State<Arc<Answers>>) -> impl IntoResponse {
    let Answers { service, endpoints, status } = &*answers;
    let (endpoints, healthy) = (endpoints.load(Relaxed), status.health().is_healthy);
    let code = if endpoints > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (WEIGHT, endpoints.to_string()),
    ];
    let service = Named { namespace: &service.namespace, name: &service.name };
    let body = Body { service, local_endpoints: endpoints, service_proxy_healthy: healthy };
    let mut text = Vec::new();
    let written =
        body.serialize(&mut Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"\t")));
    debug_assert!(written.is_ok(), "memory takes anything");
    (code, headers, text)
}
