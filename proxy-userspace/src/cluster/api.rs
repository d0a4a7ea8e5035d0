//! Kubernetes objects as they look on the wire, reduced to the fields we use.
//!
//! Input: JSON (or YAML turned into JSON values). Output: plain structs, nothing interpreted yet;
//! [`super::ingest`] does that.
//!
//! Invariants: every field may be absent or `null`, as the API allows; unknown fields (`managedFields`,
//! annotations, conditions of no interest) are skipped while reading and never held in memory. Numbers are
//! `i64` although the API says `int32`: an absurd port number is then a reject of that one port with the
//! number in the message, and not a decoding error that would take the whole object away.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Reads `null` as the type's default, which Go clients write for empty lists and maps.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Declares one structure of the API: all fields optional, camelCase on the wire.
macro_rules! wire {
    ($($(#[$meta:meta])* struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $($(#[$field_meta])* #[serde(default, deserialize_with = "nullable")] pub $field: $type,)*
        }
    )*};
}

wire! {
    /// `metadata` of any object.
    struct Metadata {
        /// Name, unique within kind and namespace.
        name: String,
        /// Namespace; empty for Nodes and for manifests that leave it out.
        namespace: String,
        /// Labels.
        labels: BTreeMap<String, String>,
        /// The object's position in the API server's history.
        resource_version: String,
        /// RFC 3339 time of creation.
        creation_timestamp: Option<String>,
        /// RFC 3339 time at which somebody asked for its deletion.
        deletion_timestamp: Option<String>,
        /// Unique over time, unlike the name.
        uid: String,
        /// Annotations that we read.
        annotations: Annotations,
    }

    /// `metadata.annotations`, those of them that we read.
    struct Annotations {
        /// RFC 3339 time of the change that made somebody write an EndpointSlice.
        #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
        last_change_trigger_time: Option<String>,
    }

    /// `v1/Service`.
    struct Service {
        /// Identity and labels.
        metadata: Metadata,
        /// What is asked for.
        spec: ServiceSpec,
        /// What the load balancer controller reported.
        status: ServiceStatus,
    }

    /// `spec` of a Service.
    struct ServiceSpec {
        /// `ClusterIP` (also when absent), `NodePort`, `LoadBalancer` or `ExternalName`.
        #[serde(rename = "type")] kind: Option<String>,
        /// The primary cluster IP, `None` for headless Services.
        #[serde(rename = "clusterIP")] cluster_ip: Option<String>,
        /// Cluster IPs of a dual-stack Service, the primary first.
        #[serde(rename = "clusterIPs")] cluster_ips: Vec<String>,
        /// The family of each of `cluster_ips`, by position.
        ip_families: Vec<String>,
        /// Ports served.
        ports: Vec<ServicePort>,
        /// Further addresses routed to the nodes by somebody else.
        #[serde(rename = "externalIPs")] external_ips: Vec<String>,
        /// `Cluster` (also when absent) or `Local`, for traffic to the cluster IPs.
        internal_traffic_policy: Option<String>,
        /// `Cluster` (also when absent) or `Local`, for traffic to all other frontends.
        external_traffic_policy: Option<String>,
        /// `None` (also when absent) or `ClientIP`.
        session_affinity: Option<String>,
        /// Parameters of the affinity.
        session_affinity_config: SessionAffinityConfig,
        /// CIDRs that may reach the load balancer IPs; all when empty.
        load_balancer_source_ranges: Vec<String>,
        /// Port of the health check asked by external load balancers.
        health_check_node_port: Option<i64>,
    }

    /// One port of a Service.
    struct ServicePort {
        /// Name; may be empty when it is the only port.
        name: Option<String>,
        /// `TCP` (also when absent), `UDP` or `SCTP`.
        protocol: Option<String>,
        /// The port of the frontends.
        port: Option<i64>,
        /// The port on every node; absent or 0 for none.
        node_port: Option<i64>,
    }

    /// `spec.sessionAffinityConfig`.
    struct SessionAffinityConfig {
        /// Parameters of `ClientIP` affinity.
        #[serde(rename = "clientIP")] client_ip: ClientIpConfig,
    }

    /// `spec.sessionAffinityConfig.clientIP`.
    struct ClientIpConfig {
        /// Seconds since the client's last new connection.
        timeout_seconds: Option<i64>,
    }

    /// `status` of a Service.
    struct ServiceStatus {
        /// The load balancer's part.
        load_balancer: LoadBalancerStatus,
    }

    /// `status.loadBalancer`.
    struct LoadBalancerStatus {
        /// Where the load balancer takes traffic.
        ingress: Vec<LoadBalancerIngress>,
    }

    /// One entry of `status.loadBalancer.ingress`.
    struct LoadBalancerIngress {
        /// An address, or nothing when only a host name is known.
        ip: Option<String>,
        /// A host name; nothing a node could match.
        hostname: Option<String>,
        /// `VIP` (also when absent): packets arrive with this destination. `Proxy`: they do not.
        ip_mode: Option<String>,
    }

    /// `discovery.k8s.io/v1/EndpointSlice`.
    struct EndpointSlice {
        /// Identity and labels; a label names the Service.
        metadata: Metadata,
        /// `IPv4`, `IPv6` or `FQDN`.
        address_type: String,
        /// Backends.
        endpoints: Vec<Endpoint>,
        /// Ports every one of the endpoints has.
        ports: Vec<EndpointPort>,
    }

    /// One endpoint of a slice.
    struct Endpoint {
        /// Addresses; only the first has a meaning.
        addresses: Vec<String>,
        /// State.
        conditions: EndpointConditions,
        /// The node it runs on.
        node_name: Option<String>,
        /// Who should prefer it.
        hints: EndpointHints,
    }

    /// State of an endpoint, three-valued.
    struct EndpointConditions {
        /// Absent means ready.
        ready: Option<bool>,
        /// Absent means serving.
        serving: Option<bool>,
        /// Absent means not terminating.
        terminating: Option<bool>,
    }

    /// Topology hints of an endpoint.
    struct EndpointHints {
        /// Zones that should use it.
        for_zones: Vec<Hint>,
        /// Nodes that should use it.
        for_nodes: Vec<Hint>,
    }

    /// One hinted zone or node.
    struct Hint {
        /// Its name.
        name: String,
    }

    /// One port of a slice.
    struct EndpointPort {
        /// Matched with the Service port's name.
        name: Option<String>,
        /// `TCP` when absent.
        protocol: Option<String>,
        /// Where the endpoints listen.
        port: Option<i64>,
    }

    /// `v1/Node`.
    struct Node {
        /// Identity and labels; a label names the zone.
        metadata: Metadata,
        /// What is asked for.
        spec: NodeSpec,
        /// What the kubelet reported.
        status: NodeStatus,
    }

    /// `spec` of a Node.
    struct NodeSpec {
        /// Pod address ranges of this node.
        #[serde(rename = "podCIDRs")] pod_cidrs: Vec<String>,
        /// Whom the node does not want.
        taints: Vec<Taint>,
    }

    /// One entry of `spec.taints`.
    struct Taint {
        /// What it is about.
        key: String,
    }

    /// `status` of a Node.
    struct NodeStatus {
        /// Addresses and names.
        addresses: Vec<NodeAddress>,
    }

    /// `v1/Pod`.
    struct Pod {
        /// Identity and annotations.
        metadata: PodMetadata,
        /// What is asked for.
        spec: PodSpec,
        /// What the kubelet reported.
        status: PodStatus,
    }

    /// `status` of a Pod.
    struct PodStatus {
        /// `Succeeded` and `Failed` are the ends of it.
        phase: String,
    }

    /// `metadata` of a Pod.
    struct PodMetadata {
        /// Name.
        name: String,
        /// Namespace.
        namespace: String,
        /// Unique over time.
        uid: String,
        /// Annotations: some are for us.
        annotations: BTreeMap<String, String>,
    }

    /// `spec` of a Pod.
    struct PodSpec {
        /// Where it runs.
        node_name: String,
        /// How it runs.
        runtime_class_name: Option<String>,
        /// In the node's own network namespace.
        host_network: bool,
    }

    /// `networking.k8s.io/v1 ServiceCIDR`.
    struct ServiceCidr {
        /// Identity.
        metadata: Metadata,
        /// What is asked for.
        spec: ServiceCidrSpec,
    }

    /// `spec` of a ServiceCIDR.
    struct ServiceCidrSpec {
        /// Ranges that cluster IPs are taken from, at most one per family.
        cidrs: Vec<String>,
    }

    /// One address of a Node.
    struct NodeAddress {
        /// `InternalIP`, `ExternalIP`, or a kind of name.
        #[serde(rename = "type")] kind: String,
        /// The address.
        address: String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absent_are_the_same() {
        let with_nulls: EndpointSlice = serde_json::from_str(
            r#"{"metadata":{"name":"a","labels":null},"addressType":"IPv4","ports":null,
                "endpoints":[{"addresses":["10.0.0.1"],"conditions":null,"nodeName":null,"hints":null}]}"#,
        )
        .expect("nulls are legal");
        let without: EndpointSlice = serde_json::from_str(
            r#"{"metadata":{"name":"a"},"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"]}]}"#,
        )
        .expect("absent fields are legal");
        assert_eq!(with_nulls, without);
    }

    #[test]
    fn acronyms_keep_their_capitals() {
        let service: Service = serde_json::from_str(
            r#"{"spec":{"clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1"],"externalIPs":["1.2.3.4"],"type":"NodePort",
                "sessionAffinityConfig":{"clientIP":{"timeoutSeconds":5}},"ipFamilies":["IPv4"]},
                "status":{"loadBalancer":{"ingress":[{"ip":"5.6.7.8","ipMode":"VIP"}]}}}"#,
        )
        .expect("a Service");
        assert_eq!(service.spec.cluster_ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(service.spec.cluster_ips, ["10.0.0.1"]);
        assert_eq!(service.spec.external_ips, ["1.2.3.4"]);
        assert_eq!(service.spec.session_affinity_config.client_ip.timeout_seconds, Some(5));
        assert_eq!(service.status.load_balancer.ingress[0].ip_mode.as_deref(), Some("VIP"));
    }
}
