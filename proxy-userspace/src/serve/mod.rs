//! The HTTP servers, which answer as kube-proxy's do.
//!
//! - [`health`]: `/healthz` and `/livez` for load balancers and the kubelet, `/readyz` for whoever waits for the start;
//! - [`metrics`]: `/metrics`, and what debugging tools ask for;
//! - [`exposition`]: metrics in the format that the client reads;
//! - [`balancers`]: answers to load balancers about single Services;
//! - [`connections`]: how many clients there may be at a time, and how slow.

pub mod balancers;
mod connections;
pub mod exposition;
pub mod health;
pub mod metrics;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use axum::Router;
use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use tokio::net::{TcpListener, TcpSocket};
use tracing::warn;

use crate::{
    controller::status::Status,
    events::{Event, Recorder},
};

/// How long to wait before an address in use is tried again, as kube-proxy does.
const AGAIN: Duration = Duration::from_secs(5);

/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// Where and what to serve.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where /healthz, /livez and /readyz are served; `None` for nowhere.
    pub health: Option<SocketAddr>,
    /// Where /metrics is served.
    pub metrics: SocketAddr,
    /// Whether an address that cannot be had ends the process; else it is tried again and again.
    pub hard_fail: bool,
    /// What /proxyMode answers: the mode of kube-proxy's whose rules and defaults are kept.
    pub mode: String,
    /// What /configz tells: a KubeProxyConfiguration.
    pub configz: serde_json::Value,
    /// What /flagz tells: names, without dashes, and values.
    pub flags: Vec<(String, String)>,
}

/// An address cannot be had, and that is to be fatal.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve {what} on {address}: {error}; name another address, or end who has this one")]
pub struct Taken {
    what: String,
    address: SocketAddr,
    #[source]
    error: io::Error,
}

/// Serves health and metrics.
///
/// # Errors
/// When a server cannot have its address and that is to be fatal.
pub async fn run(settings: Settings, status: Arc<Status>, events: Recorder) -> Result<()> {
    let Settings { health, metrics: at, hard_fail, .. } = settings;
    let on_health = health::router(Arc::clone(&status));
    let on_metrics = metrics::router(&settings, status);
    tokio::try_join!(
        async {
            match health {
                Some(address) => {
                    let served = serve(address, hard_fail, "health", on_health).await;
                    served.inspect_err(|error| {
                        events.record(|| Some(Event::no_health_server(format!("{error:#}"))));
                    })
                }
                None => Ok(()),
            }
        },
        async {
            let served = serve(at, hard_fail, "metrics", on_metrics).await;
            served.inspect_err(|error| {
                events.record(|| Some(Event::no_metrics_server(format!("{error:#}"))));
            })
        },
    )?;
    Ok(())
}

async fn serve(address: SocketAddr, hard_fail: bool, what: &str, router: Router) -> Result<()> {
    let listener = bind(address, hard_fail, what).await?;
    match connections::serve(listener, router).await {}
}

async fn bind(address: SocketAddr, hard_fail: bool, what: &str) -> Result<TcpListener> {
    let mut told = false;
    loop {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(error) if hard_fail => return Err(Taken { what: what.to_owned(), address, error }.into()),
            Err(error) => {
                if !told {
                    warn!("cannot serve {what} on {address}: {error}; trying again every {AGAIN:?}");
                    told = true;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Listens. 0.0.0.0 means all addresses of both families, as Go takes it (`favoriteAddrFamily` in `net/ipsock_posix.go`),
/// on a node that has both.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let both = || {
        let socket = TcpSocket::new_v6()?;
        setsockopt(&socket, Ipv6V6Only, &false)?;
        listen_with(socket, (Ipv6Addr::UNSPECIFIED, address.port()).into())
    };
    if address.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
        match both() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {}
            other => return other,
        }
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    listen_with(socket?, address)
}

fn listen_with(socket: TcpSocket, address: SocketAddr) -> io::Result<TcpListener> {
    // What is left of earlier connections is in nobody's way.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{controller::health::Expectations, source::kubernetes::requests::Requests};

    #[tokio::test]
    async fn an_address_that_must_be_had_and_is_not_ends_it_and_is_said_of_the_node() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken_at = taken.local_addr().expect("bound");
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        for (health, metrics, reason) in [
            (taken_at, free, "FailedToStartProxierHealthcheck"),
            (free, taken_at, "FailedToStartMetricServer"),
        ] {
            let settings = Settings {
                health: Some(health),
                metrics,
                hard_fail: true,
                mode: "iptables".to_owned(),
                configz: serde_json::Value::Null,
                flags: Vec::new(),
            };
            let status = Arc::new(Status::new(Expectations::default(), &Requests::default()));
            let (recorder, mut events) = Recorder::new(Arc::new(|_| ()));
            let error = run(settings, status, recorder).await.expect_err("somebody has the address");
            let event = events.recv().await.expect("an event");
            assert_eq!(event.reason, reason);
            assert_eq!(event.note, format!("{error:#}"));
            assert!(event.note.contains(&taken_at.to_string()), "{}", event.note);
        }
    }
}
