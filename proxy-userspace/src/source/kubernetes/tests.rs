//! The source against a server of which every answer is written here.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver};

use super::fake_server::{Asked, FakeServer};
use super::*;
use crate::cluster::change::{Change, Object};

/// These servers, best first.
fn at(servers: &[&FakeServer]) -> AccessSettings {
    let servers = servers.iter().map(|server| server.url.clone()).collect();
    AccessSettings { servers, ..AccessSettings::default() }
}

struct Running {
    server: FakeServer,
    changes: Receiver<Change>,
}

impl Running {
    async fn start() -> Self {
        let server = FakeServer::start().await;
        let access = at(&[&server]);
        Self::start_with(server, access, Patience::default()).await
    }

    async fn start_with(server: FakeServer, access: AccessSettings, patience: Patience) -> Self {
        let access = Access::new(access).await.expect("usable settings");
        let (sender, changes) = mpsc::channel(4);
        let source = Kubernetes { patience, ..Kubernetes::new(Arc::new(access), "node-a") };
        tokio::spawn(source.run(sender));
        Self { server, changes }
    }

    /// With the list answered and the watch begun.
    async fn watching(version: &str, items: &[Value]) -> (Self, Asked) {
        let mut running = Self::start().await;
        running.server.next().await.list(version, None, items).await;
        running.told().await;
        let asked = running.server.next().await;
        assert!(asked.is_watch());
        (running, asked)
    }

    /// The next request only wants to know how far the server is: so far.
    async fn confirms(&mut self, version: &str) {
        let asked = self.server.next().await;
        assert_eq!((asked.is_watch(), asked.get("limit")), (false, "1"));
        asked.list(version, Some("more"), &[]).await;
    }

    /// The next change about Services, in a few words.
    async fn told(&mut self) -> String {
        loop {
            let change = tokio::time::timeout(Duration::from_secs(20), self.changes.recv()).await;
            let change = change.expect("a change in time").expect("the source runs");
            let name = |object: &Object| match object {
                Object::Unreadable(reject) => format!("!{}", reject.object.name),
                object => object.reference().name.into(),
            };
            match &change {
                Change::Listed(Kind::Service, objects) => {
                    return format!("= {}", objects.iter().map(name).collect::<Vec<_>>().join(" "));
                }
                Change::Listed(..) => {}
                Change::Applied(object) => return format!("+ {}", name(object)),
                Change::Deleted(reference) => return format!("- {}", reference.name),
                Change::Whole(whole) => return format!("whole {whole}"),
                Change::Unreadable(reject) => return format!("! {} {}", reject.object.name, reject.field),
            }
        }
    }
}

fn service(name: &str, version: &str) -> Value {
    json!({"kind": "Service", "metadata": {"name": name, "namespace": "ns", "resourceVersion": version,
        "managedFields": [{"manager": "kubectl"}]}, "spec": {"clusterIP": "10.0.0.1"}})
}

#[tokio::test]
async fn a_list_in_pages_is_told_as_one() {
    let mut running = Running::start().await;
    let asked = running.server.next().await;
    assert_eq!(asked.get("limit"), "500");
    assert_eq!(asked.get("labelSelector"), "!service.kubernetes.io/service-proxy-name");
    assert_eq!(asked.get("fieldSelector"), "spec.clusterIP!=None");
    asked
        .list("5", Some("more"), &[service("a", "1"), json!({"metadata": {"name": "bad"}, "spec": 7})])
        .await;
    let asked = running.server.next().await;
    assert_eq!(asked.get("continue"), "more");
    asked.list("5", None, &[service("b", "2")]).await;
    assert_eq!(running.told().await, "= a !bad b");

    let asked = running.server.next().await;
    assert!(asked.is_watch());
    assert_eq!((asked.get("resourceVersion"), asked.get("allowWatchBookmarks")), ("5", "true"));
    assert_eq!(asked.get("labelSelector"), "!service.kubernetes.io/service-proxy-name");
}

#[tokio::test]
async fn a_kind_that_one_can_do_without_is_asked_for_again_and_holds_up_nobody() {
    let server = FakeServer::scripted("/apis/networking.k8s.io/v1/servicecidrs").await;
    let access = at(&[&server]);
    let patience = Patience { withheld: Duration::from_millis(20), ..Patience::default() };
    let mut running = Running::start_with(server, access, patience).await;
    let refused = running.server.next().await;
    assert_eq!(running.told().await, "= ", "Services are listed meanwhile");
    refused.fail(404, "NotFound").await;
    let mut ranges = async || loop {
        let change = tokio::time::timeout(Duration::from_secs(20), running.changes.recv()).await;
        let change = change.expect("a change in time").expect("the source runs");
        if let Change::Listed(Kind::ServiceCidr, objects) = change {
            return objects.iter().map(|object| String::from(object.reference().name)).collect::<Vec<_>>();
        }
    };
    assert!(ranges().await.is_empty(), "nobody waits for what is not to be had");
    running.server.next().await.fail(403, "Forbidden").await;
    let cidr = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12"]}});
    running.server.next().await.list("5", None, &[cidr]).await;
    // That it is forbidden now has been said as well.
    assert!(ranges().await.is_empty());
    assert_eq!(ranges().await, ["kubernetes"]);
}

#[tokio::test]
async fn an_expired_page_begins_the_list_anew_and_whole() {
    let mut running = Running::start().await;
    running.server.next().await.list("5", Some("more"), &[service("a", "1")]).await;
    running.server.next().await.fail(410, "Expired").await;
    let asked = running.server.next().await;
    assert_eq!((asked.get("limit"), asked.get("continue")), ("", ""));
    asked.list("6", None, &[service("b", "2")]).await;
    assert_eq!(running.told().await, "= b");
}

#[tokio::test]
async fn events_and_garbage_among_them() {
    let (mut running, asked) = Running::watching("5", &[]).await;
    let mut watch = asked.watch().await;
    watch.event("ADDED", service("a", "6")).await;
    assert_eq!(running.told().await, "+ a");
    watch
        .event("MODIFIED", json!({"metadata": {"name": "b", "resourceVersion": "7"}, "spec": {"ports": 7}}))
        .await;
    assert_eq!(running.told().await, "! b spec.ports");
    watch.event("ADDED", json!("what?")).await;
    assert_eq!(running.told().await, "!  ");
    watch.event("NOVELTY", service("c", "8")).await;
    watch.event("DELETED", service("a", "9")).await;
    assert_eq!(running.told().await, "- a");
    watch.end().await;
    // The end is no loss: on from the last version seen.
    let asked = running.server.next().await;
    assert_eq!((asked.is_watch(), asked.get("resourceVersion")), (true, "9"));
}

#[tokio::test]
async fn an_event_in_pieces() {
    let (mut running, asked) = Running::watching("5", &[]).await;
    let mut watch = asked.watch().await;
    let text = format!("{}\n", json!({"type": "ADDED", "object": service("a", "6")}));
    let (first, second) = text.split_at(40);
    watch.raw(first).await;
    watch.raw(second).await;
    assert_eq!(running.told().await, "+ a");
}

#[tokio::test]
async fn a_bookmark_moves_the_place_to_resume_from() {
    let (mut running, asked) = Running::watching("5", &[]).await;
    let mut watch = asked.watch().await;
    watch.event("BOOKMARK", json!({"kind": "Service", "metadata": {"resourceVersion": "77"}})).await;
    watch.end().await;
    assert_eq!(running.server.next().await.get("resourceVersion"), "77");
}

#[tokio::test]
async fn a_cut_connection_is_resumed() {
    let (mut running, asked) = Running::watching("5", &[]).await;
    let mut watch = asked.watch().await;
    watch.event("ADDED", service("a", "6")).await;
    assert_eq!(running.told().await, "+ a");
    watch.raw("{\"type\":\"ADDED\",\"obj").await;
    drop(watch);
    // Twice more without an answer at all.
    drop(running.server.next().await);
    drop(running.server.next().await);
    running.confirms("6").await;
    let asked = running.server.next().await;
    assert_eq!((asked.is_watch(), asked.get("resourceVersion")), (true, "6"));
    asked.watch().await.event("ADDED", service("b", "7")).await;
    assert_eq!(running.told().await, "+ b");
}

#[tokio::test]
async fn gone_means_list_again_and_nothing_before_that() {
    let (mut running, asked) = Running::watching("5", &[service("a", "1")]).await;
    asked.watch().await.event("ERROR", json!({"kind": "Status", "code": 410, "reason": "Expired"})).await;
    let asked = running.server.next().await;
    assert!(!asked.is_watch());
    asked.fail(503, "ServiceUnavailable").await;
    running.server.next().await.list("9", Some("more"), &[service("b", "2")]).await;
    running.server.next().await.list("9", None, &[service("c", "3")]).await;
    assert_eq!(running.told().await, "= b c");
    // The same when the watch is refused from the beginning.
    running.server.next().await.fail(410, "Gone").await;
    let asked = running.server.next().await;
    assert_eq!((asked.is_watch(), asked.get("limit")), (false, "500"));
}

#[tokio::test]
async fn gone_after_an_outage_does_not_wait_as_long_as_for_a_lost_server() {
    let server = FakeServer::start().await;
    let access = at(&[&server]);
    let patience = Patience { longest_wait: Duration::from_secs(600), ..Patience::default() };
    let mut running = Running::start_with(server, access, patience).await;
    running.server.next().await.list("5", None, &[]).await;
    // The next pause for a lost server would be one of 400 to 800 ms.
    for _ in 0..4 {
        drop(running.server.next().await);
    }
    running.confirms("5").await;
    running.server.next().await.fail(410, "Gone").await;
    let begin = tokio::time::Instant::now();
    assert!(!running.server.next().await.is_watch());
    assert!(begin.elapsed() < Duration::from_millis(350), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_server_that_has_lost_its_last_hours_is_listed() {
    let (mut running, asked) = Running::watching("500", &[service("a", "1")]).await;
    drop(asked.watch().await);
    running.confirms("77").await;
    let asked = running.server.next().await;
    assert_eq!((asked.is_watch(), asked.get("limit")), (false, "500"));
    asked.list("78", None, &[service("b", "2")]).await;
    assert_eq!(running.told().await, "= b");
    assert_eq!(running.server.next().await.get("resourceVersion"), "78");
}

#[tokio::test]
async fn what_comes_twice_is_passed_over_and_what_comes_late_leads_to_a_new_list() {
    let (mut running, asked) = Running::watching("5", &[]).await;
    let mut watch = asked.watch().await;
    watch.event("ADDED", service("a", "9")).await;
    watch.event("ADDED", service("again", "9")).await;
    watch.event("BOOKMARK", json!({"metadata": {"resourceVersion": "7"}})).await;
    watch.event("ADDED", service("b", "10")).await;
    assert_eq!((running.told().await.as_str(), running.told().await.as_str()), ("+ a", "+ b"));
    watch.event("MODIFIED", service("late", "8")).await;
    let asked = running.server.next().await;
    assert_eq!((asked.is_watch(), asked.get("limit")), (false, "500"));
    asked.list("12", None, &[service("c", "11")]).await;
    assert_eq!(running.told().await, "= c");
}

#[tokio::test]
async fn json_that_is_no_list_lets_nothing_go() {
    let mut running = Running::start().await;
    running.server.next().await.answer("200 OK", &json!({})).await;
    running.server.next().await.list("5", None, &[service("a", "1")]).await;
    assert_eq!(running.told().await, "= a");
}

#[tokio::test]
async fn who_is_busy_is_left_alone_for_as_long_as_it_wants() {
    let mut running = Running::start().await;
    let begin = tokio::time::Instant::now();
    running.server.next().await.answer("429 Too Many Requests\r\nretry-after: 2", &json!({})).await;
    running.server.next().await.list("5", None, &[]).await;
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(running.told().await, "= ");
}

#[tokio::test]
async fn a_line_that_is_no_event_leads_to_a_new_list() {
    let (mut running, asked) = Running::watching("5", &[]).await;
    asked.watch().await.raw("<html>proxy</html>\n").await;
    assert!(!running.server.next().await.is_watch());
}

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    let server = FakeServer::start().await;
    let access = at(&[&server]);
    let patience = Patience {
        answer: Duration::from_millis(200),
        watch: Duration::from_millis(100),
        grace: Duration::from_millis(100),
        ..Patience::default()
    };
    let mut running = Running::start_with(server, access, patience).await;
    let _never_answered = running.server.next().await;
    running.server.next().await.list("5", None, &[]).await;
    let _silent = running.server.next().await.watch().await;
    running.confirms("5").await;
    let asked = running.server.next().await;
    assert_eq!((asked.is_watch(), asked.get("resourceVersion")), (true, "5"));
}

fn kubeconfig(url: &str, token: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    })
    .to_string()
}

#[tokio::test]
async fn credentials_are_followed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("kubeconfig");
    let server = FakeServer::start().await;
    std::fs::write(&path, kubeconfig("http://192.0.2.1:1", "one")).expect("writable");
    let access = AccessSettings { kubeconfig: Some(path.clone()), ..at(&[&server]) };
    let url = server.url.clone();
    let mut running = Running::start_with(server, access, Patience::default()).await;

    let asked = running.server.next().await;
    assert_eq!(asked.authorization.as_deref(), Some("Bearer one"));
    std::fs::write(&path, kubeconfig(&url, "two")).expect("writable");
    asked.fail(401, "Unauthorized").await;
    let asked = running.server.next().await;
    assert_eq!(asked.authorization.as_deref(), Some("Bearer two"));
    // Half-written: the old ones serve on.
    std::fs::write(&path, "{").expect("writable");
    asked.list("5", None, &[]).await;
    let asked = running.server.next().await;
    assert_eq!(asked.authorization.as_deref(), Some("Bearer two"));
    std::fs::write(&path, kubeconfig(&url, "three")).expect("writable");
    asked.watch().await.end().await;
    assert_eq!(running.server.next().await.authorization.as_deref(), Some("Bearer three"));
}

#[tokio::test]
async fn a_token_file_may_end_in_a_newline_and_be_empty_for_a_moment() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, token) = (folder.path().join("kubeconfig"), folder.path().join("token"));
    let server = FakeServer::start().await;
    let mut document: Value = serde_json::from_str(&kubeconfig(&server.url, "")).expect("JSON");
    document["users"][0]["user"] = json!({"tokenFile": "token"});
    std::fs::write(&path, document.to_string()).expect("writable");
    std::fs::write(&token, "one\n").expect("writable");
    let access = AccessSettings { kubeconfig: Some(path), ..AccessSettings::default() };
    let mut running = Running::start_with(server, access, Patience::default()).await;

    let asked = running.server.next().await;
    assert_eq!(asked.authorization.as_deref(), Some("Bearer one"));
    std::fs::write(&token, "").expect("writable");
    asked.fail(401, "Unauthorized").await;
    let asked = running.server.next().await;
    assert_eq!(asked.authorization.as_deref(), Some("Bearer one"));
    std::fs::write(&token, " two\r\n").expect("writable");
    asked.fail(401, "Unauthorized").await;
    assert_eq!(running.server.next().await.authorization.as_deref(), Some("Bearer two"));
}

#[tokio::test]
async fn ends_when_nobody_listens() {
    let server = FakeServer::start().await;
    let access = at(&[&server]);
    let (sender, changes) = mpsc::channel(8);
    let access = Access::new(access).await.expect("usable settings");
    let source = tokio::spawn(Kubernetes::new(Arc::new(access), "n").run(sender));
    drop(changes);
    tokio::time::timeout(Duration::from_secs(10), source).await.expect("ends").expect("no panic");
}
