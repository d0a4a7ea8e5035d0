//! Several servers, of which some are away.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;

use super::access::Patience as Probing;
use super::fake_server::FakeServer;
use super::*;
use crate::cluster::change::{Change, Object};

/// A node whose API servers may go away.
struct Running {
    changes: tokio::sync::mpsc::Receiver<Change>,
}

impl Running {
    async fn start(urls: &[&str], last_known: &[std::net::SocketAddr]) -> Self {
        let servers = urls.iter().map(|url| (*url).to_owned()).collect();
        let settings =
            AccessSettings { servers, last_known: last_known.to_vec(), ..AccessSettings::default() };
        let probing = Probing { probe: Duration::from_millis(30), ..Probing::default() };
        let access = Access::with(settings, probing).await.expect("usable settings");
        let (sender, changes) = tokio::sync::mpsc::channel(64);
        tokio::spawn(Kubernetes::new(Arc::new(access), "node-a").run(sender));
        Self { changes }
    }

    /// The names of the Services listed next.
    async fn listed(&mut self) -> Vec<String> {
        loop {
            let change = tokio::time::timeout(Duration::from_secs(20), self.changes.recv()).await;
            if let Change::Listed(Kind::Service, objects) =
                change.expect("a list in time").expect("the source runs")
            {
                return objects.iter().map(|object: &Object| object.reference().name.into()).collect();
            }
        }
    }
}

fn service(name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "ns", "resourceVersion": "1"}, "spec": {"clusterIP": "10.0.0.1"}})
}

/// An address at which nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    format!("http://{}", listener.local_addr().expect("bound"))
}

#[tokio::test]
async fn the_next_one_is_asked_when_nobody_is_at_the_first() {
    let mut second = FakeServer::start().await;
    let mut running = Running::start(&[&nobody().await, &second.url], &[]).await;
    second.next().await.list("5", None, &[service("a")]).await;
    assert_eq!(running.listed().await, ["a"]);
}

#[tokio::test]
async fn a_watch_goes_on_at_another_server_where_it_was() {
    let (mut first, mut second) = (FakeServer::start().await, FakeServer::start().await);
    let mut running = Running::start(&[&first.url, &second.url], &[]).await;
    first.next().await.list("5", None, &[service("a")]).await;
    assert_eq!(running.listed().await, ["a"]);
    let asked = first.next().await;
    first.stop();
    // Whoever holds a connection does not notice before it ends.
    drop(asked.watch().await);
    let asked = second.next().await;
    assert_eq!(asked.get("limit"), "1", "whether it has come as far is asked first");
    asked.list("5", None, &[]).await;
    let asked = second.next().await;
    assert_eq!((asked.is_watch(), asked.get("resourceVersion")), (true, "5"));
}

#[tokio::test]
async fn one_that_answers_nothing_but_errors_is_left_after_a_while() {
    let (mut first, mut second) = (FakeServer::start().await, FakeServer::start().await);
    let mut running = Running::start(&[&first.url, &second.url], &[]).await;
    let mut failures = 0;
    let asked = loop {
        tokio::select! {
            asked = first.next() => {
                asked.fail(503, "ServiceUnavailable").await;
                failures += 1;
            }
            asked = second.next() => break asked,
        }
    };
    asked.list("5", None, &[service("a")]).await;
    assert!(failures > 2, "{failures}");
    assert_eq!(running.listed().await, ["a"]);
}

#[tokio::test]
async fn the_best_one_is_used_again_once_it_is_back_and_a_watch_has_ended() {
    let mut second = FakeServer::start().await;
    let place = nobody().await;
    let mut running = Running::start(&[&place, &second.url], &[]).await;
    second.next().await.list("5", None, &[]).await;
    assert!(running.listed().await.is_empty());
    let watch = second.next().await.watch().await;
    let mut first = FakeServer::at(&place).await;
    // Asked for its health two times, of which this server knows nothing but an empty list.
    for _ in 0..2 {
        first.visited("/readyz").await;
    }
    let mut ended = Some(watch);
    let asked = loop {
        if let Some(mut watch) = ended.take() {
            watch.event("BOOKMARK", json!({"metadata": {"resourceVersion": "5"}})).await;
            watch.end().await;
        }
        tokio::select! {
            // Perhaps it had not taken the second answer in yet.
            asked = second.next() => ended = Some(asked.watch().await),
            asked = first.next() => break asked,
        }
    };
    assert_eq!((asked.is_watch(), asked.get("resourceVersion")), (true, "5"));
}
