//! The HTTP client.
//!
//! No answer is taken for longer than it can honestly be: what a server, or somebody in its place, sends without end is given
//! up. A watch has no end, and is limited line by line by who reads it. Nothing is decompressed, and nobody is asked to
//! compress.

use std::time::Duration;

use http::{Request, Response, Uri};
use http_body_util::{Either, Limited};
use hyper::body::Incoming;
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

/// No list is asked for in pages of more. One that is asked for whole, because the server has lost its place, is of tens of
/// MiB in clusters of some thousand nodes.
const LONGEST_ANSWER: usize = 256 << 20;
/// What an error says.
const LONGEST_ERROR: usize = 1 << 20;

/// Like kube's own client, but with keep-alive on the connection and without retries, which the watch does better.
pub(super) fn client(config: Config, requests: &Requests, network: &Network) -> Result<Client, kube::Error> {
    let connector = config.rustls_https_connector_with_connector(match network {
        Network::Sockets => Connector::Sockets(sockets()),
        Network::Dialled(dial) => Connector::Dialled(dial.clone()),
    })?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .build::<_, Body>(connector);
    let transport = tower::service_fn(move |request: Request<Body>| {
        let is_endless = is_watch(request.uri());
        let answer = http.request(request);
        async move { answer.await.map(|answer| bounded(answer, is_endless)) }
    });
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

fn is_watch(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"))
}

/// An answer whose body ends.
fn bounded(answer: Response<Incoming>, is_endless: bool) -> Response<Either<Limited<Incoming>, Incoming>> {
    let limit = match (answer.status().is_success(), is_endless) {
        (true, true) => return answer.map(Either::Right),
        (true, false) => LONGEST_ANSWER,
        (false, _) => LONGEST_ERROR,
    };
    answer.map(|body| Either::Left(Limited::new(body, limit)))
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
