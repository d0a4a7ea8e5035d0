//! Kubernetes objects as text, and the folder that feeds them to the program under test.
//!
//! Invariant: builders write what they are told, also what is wrong; judging is the program's part.

mod endpoint_slice;
mod folder;
mod node;
mod service;

pub use endpoint_slice::{Endpoint, EndpointSlice};
pub use folder::Folder;
pub use node::Node;
pub use service::{Port, Service};

use std::fmt;

/// The fields of `metadata` that matter to a proxy.
#[derive(Clone, Debug)]
struct Metadata {
    name: String,
    namespace: Option<String>,
    labels: Vec<(String, String)>,
    annotations: Vec<(String, String)>,
}

impl Metadata {
    fn new(name: &str, namespace: Option<&str>) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
            labels: Vec::new(),
            annotations: Vec::new(),
        }
    }
}

impl fmt::Display for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "metadata:\n  name: {}", self.name)?;
        if let Some(namespace) = &self.namespace {
            writeln!(f, "  namespace: {namespace}")?;
        }
        for (field, pairs) in [("labels", &self.labels), ("annotations", &self.annotations)] {
            if !pairs.is_empty() {
                writeln!(f, "  {field}:")?;
            }
            for (key, value) in pairs {
                writeln!(f, "    {key}: {value:?}")?;
            }
        }
        Ok(())
    }
}

/// A list of quoted strings on one line.
fn flow<T: ToString>(items: &[T]) -> String {
    let quoted: Vec<_> = items.iter().map(|item| format!("{:?}", item.to_string())).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn a_service_with_everything() {
        let service = Service::new("web")
            .namespace("shop")
            .label("app", "web")
            .cluster_ip(Ipv4Addr::new(10, 96, 0, 10))
            .cluster_ip(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10))
            .port(Port::tcp(80).named("http").target(8080).node_port(30080))
            .port(Port::udp(53).named("dns"))
            .external_ip(Ipv4Addr::new(203, 0, 113, 7))
            .load_balancer(Ipv4Addr::new(198, 51, 100, 7))
            .source_range("192.168.0.0/24")
            .affinity(60)
            .external_local();
        let expected = r#"apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  labels:
    app: "web"
spec:
  type: LoadBalancer
  clusterIP: "10.96.0.10"
  clusterIPs: ["10.96.0.10", "fd00:96::10"]
  ipFamilies: ["IPv4", "IPv6"]
  ipFamilyPolicy: RequireDualStack
  externalIPs: ["203.0.113.7"]
  loadBalancerSourceRanges: ["192.168.0.0/24"]
  sessionAffinity: ClientIP
  sessionAffinityConfig:
    clientIP:
      timeoutSeconds: 60
  externalTrafficPolicy: Local
  ports:
  - port: 80
    targetPort: 8080
    protocol: TCP
    name: http
    nodePort: 30080
  - port: 53
    targetPort: 53
    protocol: UDP
    name: dns
status:
  loadBalancer:
    ingress:
    - ip: "198.51.100.7"
"#;
        assert_eq!(service.to_string(), expected);
    }

    #[test]
    fn slices_full_and_empty() {
        let slice =
            EndpointSlice::v4("web").tcp(Some("http"), 8080).ready([Ipv4Addr::new(10, 244, 1, 2)]).endpoint(
                Endpoint::ready(Ipv4Addr::new(10, 244, 2, 2)).terminating(true).on_node("b").for_zone("z"),
            );
        let expected = r#"apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-ipv4
  namespace: default
  labels:
    kubernetes.io/service-name: "web"
addressType: IPv4
ports:
- port: 8080
  protocol: TCP
  name: http
endpoints:
- addresses: ["10.244.1.2"]
  conditions: {ready: true, serving: true, terminating: false}
- addresses: ["10.244.2.2"]
  conditions: {ready: false, serving: true, terminating: true}
  nodeName: b
  hints:
    forZones:
    - name: z
"#;
        assert_eq!(slice.to_string(), expected);
        assert!(EndpointSlice::v6("web").to_string().ends_with("ports: []\nendpoints: []\n"));
    }
}
