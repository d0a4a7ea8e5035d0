//! Properties: the state is a function of the objects last seen, and changes of it are always announced.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::tests::{service, slice};
use super::*;

/// Everything a reader can see of one Service.
type View = (Service, Vec<Vec<Endpoint>>);

fn view(cluster: &Cluster) -> BTreeMap<ServiceName, View> {
    let one = |name: &ServiceName| {
        let service = cluster.service(name).expect("named, so it exists").clone();
        let endpoints = service.ports.iter().map(|port| cluster.endpoints(name, port, Family::V4)).collect();
        (name.clone(), (service, endpoints))
    };
    cluster.service_names().map(one).collect()
}

fn any_service() -> impl Strategy<Value = Object> {
    (
        0..3u8,
        prop_oneof![3 => (1..4u8).prop_map(|last| format!("10.0.0.{last}")), 1 => Just("None".to_owned())],
    )
        .prop_map(|(name, ip)| {
            service(&format!("svc-{name}"), json!({"clusterIP": ip, "ports": [{"name": "http", "port": 80}]}))
        })
}

fn any_slice() -> impl Strategy<Value = Object> {
    let endpoint = (1..5u8, any::<bool>(), 0..3u8).prop_map(|(address, terminating, zone)| {
        json!({
            "addresses": [format!("10.1.0.{address}")], "conditions": {"terminating": terminating},
            "hints": {"forZones": [{"name": format!("z{zone}")}]}
        })
    });
    (0..4u8, 0..4u8, prop::collection::vec(endpoint, 0..4)).prop_map(|(name, owner, endpoints)| {
        // Owner 3 has no Service, and no label that would name one either.
        let owner = if owner == 3 { String::new() } else { format!("svc-{owner}") };
        slice(&format!("slice-{name}"), &owner, json!(endpoints))
    })
}

fn any_change() -> impl Strategy<Value = Change> {
    let object = prop_oneof![any_service(), any_slice()];
    (object, prop::bool::weighted(0.25)).prop_map(|(object, delete)| {
        if delete { Change::Deleted(object.reference()) } else { Change::Applied(object) }
    })
}

/// What exists after those changes, kept in the most simple-minded way.
fn final_objects(changes: &[Change]) -> BTreeMap<ObjectRef, Object> {
    let mut objects = BTreeMap::new();
    for change in changes {
        match change {
            Change::Applied(object) => drop(objects.insert(object.reference(), object.clone())),
            Change::Deleted(reference) => drop(objects.remove(reference)),
            Change::Listed(..) | Change::Unreadable(_) | Change::Whole(_) => unreachable!("not generated"),
        }
    }
    objects
}

fn lists(objects: &BTreeMap<ObjectRef, Object>) -> [Change; 2] {
    [Kind::EndpointSlice, Kind::Service].map(|kind| {
        let of_kind = objects.values().filter(|object| object.reference().kind == kind);
        Change::Listed(kind, of_kind.cloned().collect())
    })
}

fn cluster_after<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Cluster {
    let mut cluster = Cluster::new("n");
    changes.into_iter().for_each(|change| drop(cluster.apply(change.clone())));
    cluster
}

proptest! {
    #[test]
    fn the_way_does_not_matter(
        changes in prop::collection::vec(any_change(), 0..30),
        other_past in prop::collection::vec(any_change(), 0..30),
        keys in prop::collection::vec(any::<u32>(), 12),
    ) {
        let objects = final_objects(&changes);
        let expected = cluster_after(&changes);

        let mut shuffled: Vec<_> = objects.values().zip(keys).collect();
        shuffled.sort_by_key(|(_, key)| *key);
        let shuffled: Vec<_> = shuffled.into_iter().map(|(object, _)| Change::Applied(object.clone())).collect();
        let relisted: Vec<_> = other_past.into_iter().chain(lists(&objects)).collect();
        for other in [cluster_after(&shuffled), cluster_after(&lists(&objects)), cluster_after(&relisted)] {
            prop_assert_eq!(view(&other), view(&expected));
            prop_assert_eq!(other.counts(), expected.counts());
            prop_assert_eq!(other.entries.len(), expected.entries.len(), "something was left behind");
            prop_assert_eq!(&other.filed_under, &expected.filed_under);
        }
    }

    #[test]
    fn every_visible_change_is_announced(changes in prop::collection::vec(any_change(), 0..30)) {
        let mut cluster = Cluster::new("n");
        for change in changes {
            let before = view(&cluster);
            cluster.apply(change.clone());
            let after = view(&cluster);
            let dirty = cluster.take_dirty();
            let names: BTreeSet<_> = before.keys().chain(after.keys()).cloned().collect();
            for name in names {
                if before.get(&name) != after.get(&name) {
                    prop_assert!(dirty.contains(&name), "{} changed silently by {:?}", name, change);
                }
            }
            cluster.apply(change);
            prop_assert!(cluster.take_dirty().is_empty(), "the same again is no change");
        }
    }
}
