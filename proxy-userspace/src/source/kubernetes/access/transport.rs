//! The HTTP client.

use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use tower::ServiceBuilder;

use super::super::requests::Requests;
use super::busy;
use super::network::{Connector, Network};

/// A dead peer is noticed after this long without a sign of life...
const KEEPALIVE_AFTER: Duration = Duration::from_secs(5);
/// ...and this many probes...
const KEEPALIVE_PROBES: u32 = 3;
/// ...at this distance.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
/// One that has not acknowledged what we have sent for so long is dead as well: keep-alive is silent meanwhile.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// A connection without a request may have died like one that was just given up. A new one costs less than to find out.
const IDLE: Duration = Duration::from_secs(5);
/// For a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Like kube's own client, but with keep-alive on the connection and without retries, which the watch does better.
pub(super) fn client(config: Config, requests: &Requests, network: &Network) -> Result<Client, kube::Error> {
    let connector = config.rustls_https_connector_with_connector(match network {
        Network::Sockets => Connector::Sockets(sockets()),
        Network::Dialled(dial) => Connector::Dialled(dial.clone()),
    })?;
    let transport = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .and_then(busy::heed)
        .map_err(tower::BoxError::from)
        .layer(requests)
        .service(transport);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

fn sockets() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE_AFTER));
    tcp.set_keepalive_interval(Some(KEEPALIVE_EVERY));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    tcp
}

/// Whether no connection came about: nobody listens, nobody is there, or who is there has not the right certificate.
pub(super) fn is_no_connection(error: &kube::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect()) {
            return true;
        }
        cause = error.source();
    }
    false
}
