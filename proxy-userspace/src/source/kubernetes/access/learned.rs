//! The API servers as the API itself names them: the endpoints of the Service `default/kubernetes`. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::cluster::api::EndpointSlice;
use crate::cluster::change::{Change, Kind, Object, ObjectRef};

const NAMESPACE: &str = "default";
const SERVICE: &str = "kubernetes";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// No control plane has more servers; whatever else is written there does not make us try for ever.
const LIMIT: usize = 16;

/// What the slices say.
#[derive(Debug, Default)]
pub(super) struct Learned {
    slices: BTreeMap<Box<str>, Vec<SocketAddr>>,
}

impl Learned {
    /// Takes a change in; whether it may have changed the addresses. Costs a comparison for a slice of another Service.
    pub(super) fn take_in(&mut self, change: &Change) -> bool {
        match change {
            Change::Listed(Kind::EndpointSlice, objects) => {
                let mut slices = BTreeMap::new();
                for object in objects {
                    match object {
                        Object::EndpointSlice(slice) if is_ours(slice) => {
                            slices.insert(slice.metadata.name.as_str().into(), addresses(slice));
                        }
                        // What cannot be read now is not gone.
                        Object::Unreadable(reject) => {
                            slices.extend(self.slices.remove_entry(&reject.object.name));
                        }
                        _ => {}
                    }
                }
                self.slices = slices;
                true
            }
            Change::Applied(Object::EndpointSlice(slice)) if is_ours(slice) => {
                self.slices.insert(slice.metadata.name.as_str().into(), addresses(slice));
                true
            }
            Change::Applied(Object::EndpointSlice(slice)) if slice.metadata.namespace == NAMESPACE => {
                self.slices.remove(slice.metadata.name.as_str()).is_some()
            }
            Change::Deleted(ObjectRef { kind: Kind::EndpointSlice, namespace, name })
                if **namespace == *NAMESPACE =>
            {
                self.slices.remove(name).is_some()
            }
            _ => false,
        }
    }

    /// Where the servers are.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self.slices.values().flatten().copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(LIMIT);
        addresses
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.namespace == NAMESPACE
        && slice.metadata.labels.get(SERVICE_LABEL).is_some_and(|service| service == SERVICE)
}

fn addresses(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let is_tcp = |protocol: &Option<String>| protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let mut ports = slice.ports.iter().filter(|port| is_tcp(&port.protocol));
    let Some(port) = ports.next().and_then(|port| u16::try_from(port.port?).ok()) else { return Vec::new() };
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready.unwrap_or(true));
    let addresses = ready.filter_map(|endpoint| endpoint.addresses.first()?.parse::<IpAddr>().ok());
    addresses.map(|address| SocketAddr::new(address, port)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, service: &str, addresses: &[&str]) -> Object {
        let endpoint = |address: &&str| json!({"addresses": [address], "conditions": {"ready": *address != "192.0.2.9"}});
        let slice = json!({
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {SERVICE_LABEL: service}},
            "addressType": "IPv4", "ports": [{"name": "https", "protocol": "TCP", "port": 6443}],
            "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        });
        Object::EndpointSlice(serde_json::from_value(slice).expect("a slice"))
    }

    fn known(learned: &Learned) -> Vec<String> {
        learned.addresses().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn endpoints_that_are_ready_are_servers() {
        let mut learned = Learned::default();
        let all = vec![
            slice("kubernetes", SERVICE, &["192.0.2.1", "192.0.2.9", "nonsense"]),
            slice("web-1", "web", &["10.0.0.1"]),
        ];
        assert!(learned.take_in(&Change::Listed(Kind::EndpointSlice, all)));
        assert_eq!(known(&learned), ["192.0.2.1:6443"]);
        assert!(learned.take_in(&Change::Applied(slice("kubernetes-6", SERVICE, &["2001:db8::1"]))));
        assert_eq!(known(&learned), ["192.0.2.1:6443", "[2001:db8::1]:6443"]);
        assert!(!learned.take_in(&Change::Applied(slice("web-1", "web", &["10.0.0.2"]))));
        let gone = ObjectRef::new(Kind::EndpointSlice, NAMESPACE, "kubernetes");
        assert!(learned.take_in(&Change::Deleted(gone)));
        assert_eq!(known(&learned), ["[2001:db8::1]:6443"]);
        assert!(
            learned.take_in(&Change::Applied(slice("kubernetes-6", "web", &["10.0.0.3"]))),
            "another owner"
        );
        assert!(known(&learned).is_empty());
    }

    #[test]
    fn there_is_an_end_to_them() {
        let many: Vec<String> = (1..=200).map(|last| format!("192.0.2.{last}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut learned = Learned::default();
        learned.take_in(&Change::Applied(slice("kubernetes", SERVICE, &many)));
        assert_eq!(learned.addresses().len(), LIMIT);
    }
}
