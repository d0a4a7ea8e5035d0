//! A cluster: two nodes with a kubeshunt each, a client outside, and one folder of manifests.
//!
//! Invariant: as on a [`Stage`](crate::Stage), nothing is started that a test has not asked for.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;

use crate::attached::{self, Way};
use crate::layout::Layout;
use crate::manifests::{self, Endpoint, EndpointSlice, Folder, Port, Service};
use crate::node::Node;
use crate::proxy::{Kubeshunt, Setup};
use crate::stage::{PATIENCE, PORT, TARGET_PORT, backend, bare};
use crate::station::Station;
use crate::testbed::Testbed;
use crate::wait;

/// The NodePort of [`everywhere`].
pub const NODE_PORT: u16 = 30080;
/// Its external addresses.
pub const EXTERNAL: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7))];
/// Its load balancer's.
pub const INGRESS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7))];

/// A dual-stack Service with that number and every kind of frontend, TCP and UDP.
#[must_use]
pub fn everywhere(name: &str, number: u8) -> Service {
    let mut service = bare(name, number)
        .port(Port::tcp(PORT).named("tcp").target(TARGET_PORT).node_port(NODE_PORT))
        .port(Port::udp(PORT).named("udp").target(TARGET_PORT).node_port(NODE_PORT));
    for (external, ingress) in EXTERNAL.into_iter().zip(INGRESS) {
        service = service.external_ip(external).load_balancer(ingress);
    }
    service
}

/// Two nodes and everything on them. Fields are dropped in order: the programs first, the testbed last.
#[derive(Debug)]
pub struct Cluster {
    kubeshunts: Vec<Kubeshunt>,
    /// Where the manifests are, for both nodes.
    pub folder: Folder,
    /// Pods `backend-0` and so on that serve on [`TARGET_PORT`], and the number of the node of each.
    pub backends: Vec<(Station, usize)>,
    /// The nodes, `node-a` and `node-b`.
    pub nodes: [Node; 2],
    /// The testbed, for clients outside.
    pub bed: Testbed,
}

impl Cluster {
    /// Two nodes of that layout without pods. The client outside reaches external and load-balancer addresses
    /// through the first; nobody leaves checksums to a device.
    ///
    /// # Errors
    /// When the testbed cannot be made.
    pub fn new(layout: Layout) -> Result<Self> {
        let bed = Testbed::new()?;
        let nodes = [bed.node_with("node-a", layout)?, bed.node_with("node-b", layout)?];
        for address in EXTERNAL.into_iter().chain(INGRESS) {
            bed.route_outside((address, if address.is_ipv4() { 32 } else { 128 }), &nodes[0])?;
        }
        let folder = bed.manifests("cluster")?;
        let objects = [manifests::Node::of(&nodes[0]), manifests::Node::of(&nodes[1])];
        folder.write("nodes", &[&objects[0], &objects[1]])?;
        let cluster = Self { kubeshunts: Vec::new(), folder, backends: Vec::new(), nodes, bed };
        cluster.offload(false)?;
        Ok(cluster)
    }

    /// Adds a pod that serves, on the node with that number.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn add_backend(&mut self, node: usize) -> Result<()> {
        let pod = backend(&self.nodes[node], &format!("backend-{}", self.backends.len()))?;
        pod.offload(false)?;
        self.backends.push((pod, node));
        Ok(())
    }

    /// Has hosts, backends and the client outside leave checksums and segmentation to their devices, or not: with
    /// it, packets many times larger than any MTU pass the nodes.
    ///
    /// # Errors
    /// When a device cannot do without.
    pub fn offload(&self, on: bool) -> Result<()> {
        let hosts = self.nodes.iter().map(Node::host);
        let stations = hosts.chain(self.backends.iter().map(|(pod, _)| pod)).chain([self.bed.outside()]);
        stations.into_iter().try_for_each(|station| station.offload(on))
    }

    /// Adds a pod that no socket hook sees. Where kubeshunt runs it has found the pod's device when this returns, as
    /// it would long before a real pod's first program starts.
    ///
    /// # Errors
    /// When it cannot be made, or kubeshunt does not find it.
    pub fn bypassing_pod(&self, node: usize, name: &str) -> Result<Station> {
        let pod = self.nodes[node].bypassing_pod(name)?;
        self.await_programs(node, pod)
    }

    /// Adds a pod with a cgroup named as the kubelet names it after this uid.
    ///
    /// # Errors
    /// When it cannot be made, or kubeshunt does not find it.
    pub fn pod_with_uid(&self, node: usize, name: &str, uid: &str) -> Result<Station> {
        let pod = self.nodes[node].pod_with_uid(name, uid)?;
        self.await_programs(node, pod)
    }

    /// Waits until the pod's device has programs, if there is a kubeshunt to attach them.
    fn await_programs(&self, node: usize, pod: Station) -> Result<Station> {
        pod.offload(false)?;
        if let (Some(port), false) = (pod.port(), self.kubeshunts.is_empty()) {
            let is_attached =
                || Ok(!attached::by_tcx(self.nodes[node].netns(), port, Way::Ingress)?.is_empty());
            wait::until_true(&format!("{port} is attached"), PATIENCE, is_attached)?;
        }
        Ok(pod)
    }

    /// Writes `NAME.yaml` with the Service of that name, and these backends as its endpoints.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&self, service: &Service, name: &str, backends: &[usize]) -> Result<()> {
        let chosen: Vec<_> = backends.iter().map(|index| &self.backends[*index]).collect();
        let pods = chosen.iter().map(|(pod, node)| (pod.v4(), pod.v6(), self.nodes[*node].name()));
        let mut slices = [EndpointSlice::v4(name), EndpointSlice::v6(name)]
            .map(|slice| slice.tcp(Some("tcp"), TARGET_PORT).udp(Some("udp"), TARGET_PORT));
        for (v4, v6, node) in pods {
            let [four, six] = slices;
            slices = [
                four.endpoint(Endpoint::ready(v4).on_node(node)),
                six.endpoint(Endpoint::ready(v6).on_node(node)),
            ];
        }
        self.folder.write(name, &[service, &slices[0], &slices[1]])
    }

    /// Starts a kubeshunt on each node and waits until both serve.
    ///
    /// # Errors
    /// See [`Kubeshunt::start`].
    pub fn start(&mut self) -> Result<()> {
        self.start_with(|setup| setup)
    }

    /// Starts them with more arguments.
    ///
    /// # Errors
    /// See [`Kubeshunt::start`].
    pub fn start_with(&mut self, more: impl Fn(Setup) -> Setup) -> Result<()> {
        for node in &self.nodes {
            self.kubeshunts.push(Kubeshunt::start(node, more(Setup::manifests(&self.folder)))?);
        }
        Ok(())
    }

    /// The program on the node with that number, to be killed and restarted.
    ///
    /// # Errors
    /// When it was never started.
    pub fn kubeshunt(&mut self, node: usize) -> Result<&mut Kubeshunt> {
        self.kubeshunts.get_mut(node).context("the test has not started kubeshunt")
    }

    /// All addresses that a node has.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn addresses(&self, node: usize) -> Result<BTreeSet<IpAddr>> {
        self.nodes[node].netns().run(|| {
            let entries = getifaddrs().context("cannot list addresses")?;
            let addresses = entries.filter_map(|entry| {
                let address = entry.address?;
                let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
            });
            Ok(addresses.collect())
        })
    }

    /// Leaves only `mtu` bytes for a packet on its way from node to node, and that at a link that neither end of
    /// a connection is at.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn narrow(&self, mtu: u32) -> Result<()> {
        self.bed.narrow(&self.nodes[0], &self.nodes[1], mtu)
    }
}
