//! From a Pod object to [`Pod`].

use super::Parsed;
use crate::cluster::api;
use crate::cluster::model::Pod;

/// How a user says that a pod's sockets are to be left alone: this annotation, with this value.
const PATH_ANNOTATION: (&str, &str) = ("kubeshunt.io/path", "packets");
/// The kubelet names a static pod's cgroup after this, not after the uid of the object that mirrors it
/// (`pkg/kubelet/types/pod_update.go`).
const STATIC_POD_ANNOTATION: &str = "kubernetes.io/config.hash";

/// Reads a Pod as seen from the node of that name. One that has ended has no processes, and one in the node's network
/// namespace no packets of its own: neither is for us.
#[must_use]
pub fn pod(object: &api::Pod, node_name: &str) -> Parsed<Pod> {
    let annotations = &object.metadata.annotations;
    let uid = annotations.get(STATIC_POD_ANNOTATION).unwrap_or(&object.metadata.uid);
    let is_here = object.spec.node_name.to_lowercase() == node_name && !uid.is_empty();
    let has_ended = matches!(object.status.phase.as_str(), "Succeeded" | "Failed");
    if !is_here || has_ended || object.spec.host_network {
        return Parsed::NotOurs;
    }
    Parsed::Value(Pod {
        uid: uid.as_str().into(),
        runtime_class: object.spec.runtime_class_name.as_deref().map(Into::into),
        is_for_packets: annotations.get(PATH_ANNOTATION.0).is_some_and(|path| path == PATH_ANNOTATION.1),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(annotations: &serde_json::Value, spec: &serde_json::Value) -> Parsed<Pod> {
        let metadata = json!({"namespace": "ns", "name": "p", "uid": "1-2", "annotations": annotations});
        pod(&serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a Pod"), "node-a")
    }

    #[test]
    fn a_pod_of_this_node() {
        let plain = read(&json!(null), &json!({"nodeName": "Node-A"}));
        let expected = Pod { uid: "1-2".into(), runtime_class: None, is_for_packets: false };
        assert_eq!(plain, Parsed::Value(expected.clone()));
        let annotations = json!({"kubeshunt.io/path": "packets", "kubernetes.io/config.hash": "abc"});
        let marked = read(&annotations, &json!({"nodeName": "node-a", "runtimeClassName": "gvisor"}));
        let expected = Pod { uid: "abc".into(), runtime_class: Some("gvisor".into()), is_for_packets: true };
        assert_eq!(marked, Parsed::Value(expected));
        let other = read(&json!({"kubeshunt.io/path": "sockets"}), &json!({"nodeName": "node-a"}));
        assert!(matches!(other, Parsed::Value(Pod { is_for_packets: false, .. })));
    }

    #[test]
    fn pods_of_other_nodes_and_of_none() {
        let host = json!({"nodeName": "node-a", "hostNetwork": true});
        for spec in [json!({"nodeName": "node-b"}), json!({}), json!(null), host] {
            assert_eq!(read(&json!({}), &spec), Parsed::NotOurs, "{spec}");
        }
    }

    #[test]
    fn pods_that_have_ended() {
        for (phase, is_ours) in
            [("Pending", true), ("Running", true), ("Succeeded", false), ("Failed", false)]
        {
            let object = json!({"metadata": {"name": "p", "uid": "1"}, "spec": {"nodeName": "node-a"},
                "status": {"phase": phase}});
            let parsed = pod(&serde_json::from_value(object).expect("a Pod"), "node-a");
            assert_eq!(parsed.value().is_some(), is_ours, "{phase}");
        }
    }
}
