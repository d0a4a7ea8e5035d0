//! A server that means ill, or somebody in its place: what it says has no end, or no bottom.

use serde_json::json;

use super::fake_server::{FakeServer, SERVICES};
use super::*;
use crate::cluster::change::Change;

/// What may be on its way while the client has already had enough.
const UNDER_WAY: usize = 16 << 20;

/// Follows the server as long as it is held.
async fn follow(server: &FakeServer) -> tokio::sync::mpsc::Receiver<Change> {
    let settings = AccessSettings { servers: vec![server.url.clone()], ..AccessSettings::default() };
    let access = Access::new(settings).await.expect("usable settings");
    let (sender, changes) = tokio::sync::mpsc::channel(8);
    tokio::spawn(Kubernetes::new(Arc::new(access), "node-a").run(sender));
    changes
}

/// After whatever has happened, the next list is taken in.
async fn recovers(server: &mut FakeServer, changes: &mut tokio::sync::mpsc::Receiver<Change>) {
    let asked = server.next().await;
    assert!(!asked.is_watch());
    let service = json!({"metadata": {"name": "web", "namespace": "ns", "resourceVersion": "7"}});
    asked.list("7", None, &[service]).await;
    loop {
        match changes.recv().await.expect("the source runs") {
            Change::Listed(Kind::Service, objects) => return assert_eq!(objects.len(), 1),
            Change::Listed(..) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let mut server = FakeServer::start().await;
    let mut changes = follow(&server).await;
    for (status, limit) in [("503 Unwell", 1 << 20), ("200 OK", 256 << 20)] {
        let taken = server.next().await.answer_without_end(status).await;
        assert!(taken < limit + UNDER_WAY, "{status}: {taken} bytes");
    }
    recovers(&mut server, &mut changes).await;
}

#[tokio::test]
async fn an_event_without_end_is_given_up() {
    let mut server = FakeServer::start().await;
    let mut changes = follow(&server).await;
    recovers(&mut server, &mut changes).await;
    let asked = server.next().await;
    assert!(asked.is_watch());
    let taken = asked.answer_without_end("200 OK").await;
    assert!(taken < (32 << 20) + UNDER_WAY, "{taken} bytes");
    let asked = server.next().await;
    assert_eq!(asked.get("limit"), "1", "how far the server is");
    asked.list("7", None, &[]).await;
    let asked = server.next().await;
    assert_eq!(
        (asked.is_watch(), asked.get("resourceVersion")),
        (true, "7"),
        "nothing is forgotten for that"
    );
}

#[tokio::test]
async fn pages_without_end_are_given_up() {
    let mut server = FakeServer::start().await;
    let mut changes = follow(&server).await;
    for page in 0..2_000 {
        let asked = server.next().await;
        assert_eq!(asked.get("continue").is_empty(), page == 0, "page {page}");
        asked.list("5", Some("more"), &[]).await;
    }
    let begun_anew = server.next().await;
    assert_eq!(begun_anew.get("continue"), "");
    drop(begun_anew);
    recovers(&mut server, &mut changes).await;
}

#[tokio::test]
async fn nobody_is_asked_to_compress() {
    let mut server = FakeServer::scripted(SERVICES).await;
    let _changes = follow(&server).await;
    assert_eq!(server.next().await.accept_encoding, None);
}
