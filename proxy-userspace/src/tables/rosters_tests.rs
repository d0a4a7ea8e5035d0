//! Who counts as standing behind a frontend.

use serde_json::{Value, json};

use super::*;
use crate::cluster::change::{Change, Kind, Object, ObjectRef};

fn web() -> ServiceName {
    ServiceName { namespace: "ns".into(), name: "web".into() }
}

fn slice(endpoints: &Value) -> Change {
    let slice = json!({
        "metadata": {"namespace": "ns", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
    });
    Change::Applied(Object::EndpointSlice(serde_json::from_value(slice).unwrap()))
}

/// Ready; not ready, but serving; terminating and serving; terminating and not; not ready, and nothing said of serving,
/// which means yes.
fn cluster() -> Cluster {
    let service = json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [
            {"name": "http", "port": 80},
            {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
        ], "type": "NodePort"},
    });
    let mut cluster = Cluster::new("n1");
    cluster.apply(Change::Applied(Object::Service(serde_json::from_value(service).unwrap())));
    cluster.apply(slice(&json!([
        {"addresses": ["10.1.0.1"]},
        {"addresses": ["10.1.0.2"], "conditions": {"ready": false, "serving": true}},
        {"addresses": ["10.1.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        {"addresses": ["10.1.0.4"], "conditions": {"ready": false, "serving": false, "terminating": true}},
        {"addresses": ["10.1.0.5"], "conditions": {"ready": false}},
    ])));
    cluster.take_dirty();
    cluster
}

fn shown(ends: &HashSet<End>) -> Vec<String> {
    let mut shown: Vec<_> = ends.iter().map(|(address, port)| format!("{address}:{port:?}")).collect();
    shown.sort();
    shown
}

/// Each stand: how many frontends of which protocol, and the endpoints.
fn stands(roster: &Roster) -> Vec<(usize, Option<u8>, Vec<String>)> {
    let stands = roster.stands.iter();
    let protocol = |stand: &Stand| stand.frontends.first().map(|key| key.protocol);
    stands.map(|stand| (stand.frontends.len(), protocol(stand), shown(&stand.endpoints))).collect()
}

#[test]
fn of_udp_all_that_answer_and_of_tcp_all_there_are() {
    let cluster = cluster();
    let answering = |port: u16| [1, 2, 3, 5].map(|last| format!("10.1.0.{last}:{port}")).to_vec();
    let udp = (2, Some(17), answering(5353));
    let roster = of_service(&cluster, &web(), |_, _| true, false);
    assert_eq!((stands(&roster), shown(&roster.answering)), (vec![udp.clone()], answering(5353)));
    let tcp = (1, Some(6), (1..=5).map(|last| format!("10.1.0.{last}:8080")).collect());
    assert_eq!(stands(&of_service(&cluster, &web(), |_, _| true, true)), [tcp, udp]);
    let held_by_another = |_: &ServicePort, key: &FrontendKey| key.port == Port::new(30_053);
    assert_eq!(
        stands(&of_service(&cluster, &web(), held_by_another, false)),
        [(1, Some(17), answering(5353))]
    );
}

#[test]
fn slices_of_a_service_that_is_gone_still_say_who_answers() {
    let mut cluster = cluster();
    cluster.apply(Change::Deleted(ObjectRef::new(Kind::Service, "ns", "web")));
    let look = |cluster: &mut Cluster| {
        assert_eq!(cluster.take_dirty().into_iter().collect::<Vec<_>>(), [web()], "it is looked at");
        let roster = of_service(cluster, &web(), |_, _| true, true);
        assert!(roster.stands.is_empty());
        (shown(&roster.answering).len(), everybody(cluster).len())
    };
    assert_eq!(look(&mut cluster), (4, 4));
    cluster.apply(slice(&json!([{"addresses": ["10.1.0.1"]}])));
    assert_eq!(look(&mut cluster), (1, 1));
    cluster.apply(Change::Deleted(ObjectRef::new(Kind::EndpointSlice, "ns", "web-1")));
    assert_eq!(look(&mut cluster), (0, 0));
    // Of one that never was, nobody can have been connected.
    cluster.apply(slice(&json!([{"addresses": ["10.1.0.1"]}])));
    assert!(cluster.take_dirty().is_empty());
    assert_eq!(everybody(&cluster).len(), 1);
}
