//! From a Node object to [`NodeInfo`].

use std::collections::BTreeSet;

use super::{Rejects, address};
use crate::cluster::api;
use crate::cluster::change::{Kind, ObjectRef};
use crate::cluster::model::{NodeInfo, Stay};
use crate::cluster::reject::Reject;

/// The only label a zone is taken from.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// With this taint, whatever its value and effect, the cluster autoscaler says that it is about to remove the node
/// (`pkg/proxy/healthcheck/proxy_health.go`).
const REMOVAL_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// Reads a Node. The name is taken over as it is.
#[must_use]
pub fn node(object: &api::Node) -> (NodeInfo, Vec<Reject>) {
    let mut rejects = Rejects::new(ObjectRef::new(Kind::Node, "", &object.metadata.name));
    let zone = object.metadata.labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty());
    let mut addresses = Vec::new();
    for kind in ["InternalIP", "ExternalIP"] {
        for (index, entry) in
            object.status.addresses.iter().enumerate().filter(|(_, entry)| entry.kind == kind)
        {
            let parsed =
                rejects.take(address::host(&entry.address), || format!("status.addresses[{index}].address"));
            addresses.extend(parsed.filter(|address| !addresses.contains(address)));
        }
    }
    let mut pod_cidrs = BTreeSet::new();
    for (index, text) in object.spec.pod_cidrs.iter().enumerate() {
        pod_cidrs.extend(rejects.take(address::range(text), || format!("spec.podCIDRs[{index}]")));
    }
    let is_leaving = object.metadata.deletion_timestamp.is_some()
        || object.spec.taints.iter().any(|taint| taint.key == REMOVAL_TAINT);
    let info = NodeInfo {
        name: object.metadata.name.as_str().into(),
        zone: zone.map(|zone| zone.as_str().into()),
        addresses,
        pod_cidrs,
        stay: if is_leaving { Stay::Leaves } else { Stay::Stays },
    };
    (info, rejects.list)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn internal_addresses_come_first() {
        let object: api::Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z1"}},
            "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"]},
            "status": {"addresses": [
                {"type": "ExternalIP", "address": "198.51.100.1"}, {"type": "Hostname", "address": "n"},
                {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "oops"},
                {"type": "InternalIP", "address": "fd00::1"}]}
        }))
        .expect("a Node");
        let (info, rejects) = node(&object);
        assert_eq!(info.zone.as_deref(), Some("z1"));
        let pods: Vec<String> = info.pod_cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(pods, ["10.244.1.0/24", "fd00:10:244:1::/64"]);
        let addresses: Vec<String> = info.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1", "fd00::1", "198.51.100.1"]);
        assert_eq!(
            rejects.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [r#"Node n: status.addresses[3].address: "oops" is not an IP address; it is left out"#]
        );
    }
    #[test]
    fn a_node_leaves_when_it_is_being_deleted_or_the_autoscaler_says_so() {
        let stay = |object: serde_json::Value| node(&serde_json::from_value(object).expect("a Node")).0.stay;
        let tainted =
            |key: &str| json!({"spec": {"taints": [{"key": "other"}, {"key": key, "effect": "NoSchedule"}]}});
        assert_eq!(stay(json!({})), Stay::Stays);
        assert_eq!(stay(tainted("node.kubernetes.io/unreachable")), Stay::Stays);
        assert_eq!(stay(tainted("ToBeDeletedByClusterAutoscaler")), Stay::Leaves);
        assert_eq!(stay(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})), Stay::Leaves);
    }
}
