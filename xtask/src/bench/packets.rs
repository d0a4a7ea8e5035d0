//! Two pairs of nodes that differ in nothing but kubeshunt, and a client outside.
//!
//! Nobody is in the sight of socket hooks: what is measured are the programs for packets. Devices are as they come,
//! segmentation offload included.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::attached::{self, Way};
use kubeshunt_tests::manifests::{self, Endpoint, EndpointSlice, Folder, Port, Service};
use kubeshunt_tests::protocol::{self, Load};
use kubeshunt_tests::{Kubeshunt, Node, Probe, Setup, Station, Testbed};

use super::Subject;
use super::measure::{Beside, Case, Comparison};

/// The servers' ports: of the Services, and for direct access. With one for both, a direct connection could have the
/// very client's port of one through the NodePort that has just ended, and its answers be taken for that one's.
const SERVICE: u16 = 8081;
const DIRECT: u16 = 8082;
/// The NodePorts whose one endpoint is on the first node of a pair, and on the second.
const NODE_PORTS: [u16; 2] = [30080, 30081];

/// Everything that is measured. Fields are dropped in order.
pub(super) struct Stage {
    with: Pair,
    bare: Pair,
    bed: Testbed,
}

/// Two nodes; all that is measured passes the first.
struct Pair {
    client: Station,
    first: Member,
    second: Member,
}

/// A node with two servers: an endpoint of a Service, and one that no Service knows.
struct Member {
    kubeshunt: Option<Kubeshunt>,
    endpoint: Station,
    other: Station,
    node: Node,
}

impl Stage {
    pub(super) fn set_up() -> Result<Self> {
        let bar = super::spinner("two nodes with kubeshunt, and two without")?;
        let bed = Testbed::new()?;
        bed.outside().probe().pin(&[0])?;
        let mut with = Pair::set_up(&bed, ["with-1", "with-2"])?;
        with.start(&bed)?;
        let bare = Pair::set_up(&bed, ["bare-1", "bare-2"])?;
        ensure!(with.has_programs()? == Some(true), "not all devices of nodes with kubeshunt have programs");
        ensure!(bare.has_programs()? == Some(false), "devices of nodes without kubeshunt have programs");
        bar.finish_and_clear();
        Ok(Self { with, bare, bed })
    }

    pub(super) fn comparisons(&self, subject: Subject) -> Vec<Comparison<'_>> {
        if subject == Subject::Nodeport {
            return vec![self.node_ports()];
        }
        let connects = Load::Connects { reset: true };
        vec![
            self.pods(
                "Pod to pod, no Service: bytes of a TCP stream",
                Load::Throughput { chunk: 1 << 16 },
                Some(0.99),
            ),
            self.pods(
                "Pod to pod, no Service: requests, one byte each way",
                Load::RequestResponse { size: 1 },
                Some(0.99),
            ),
            self.pods("Pod to pod, no Service: connect, one byte each way, close", connects, None),
        ]
    }

    /// With a pod on the node of the NodePort, and with one on the other node.
    fn node_ports(&self) -> Comparison<'_> {
        let outside = |name, to, beside| Case { name, client: self.bed.outside().probe(), to, beside };
        let ([bare_near, bare_far], [near, far]) = (self.bare.endpoints(), self.with.endpoints());
        let [near_port, far_port] = NODE_PORTS.map(|port| self.with.first.node.host().at4(port));
        let beside = |base, budget| Some(Beside { base, budget });
        Comparison {
            title: "From outside: connect, one byte each way, close",
            load: Load::Connects { reset: true },
            cases: vec![
                outside("local pod, routed, bare node", bare_near, None),
                outside("local pod, routed", near, beside(0, None)),
                outside("local pod, NodePort", near_port, beside(0, Some(0.95))),
                outside("remote pod, routed, bare nodes", bare_far, None),
                outside("remote pod, routed", far, beside(3, None)),
                outside("remote pod, NodePort", far_port, beside(3, Some(0.95))),
            ],
        }
    }

    /// What goes through the first node's programs, on connections that stand, and from whom.
    pub(super) fn traffic(&self) -> [(&'static str, &Probe, SocketAddr); 3] {
        let Pair { client, first, second } = &self.with;
        let [near, far] = NODE_PORTS.map(|port| first.node.host().at4(port));
        let outside = self.bed.outside().probe();
        [
            ("no Service", client.probe(), second.other.at4(DIRECT)),
            ("NodePort, local pod", outside, near),
            ("NodePort, remote pod", outside, far),
        ]
    }

    /// The first node's programs: to and from the world, from and to pods.
    pub(super) fn programs(&self) -> Result<[(&'static str, u32); 4]> {
        let Member { node, other, .. } = &self.with.first;
        let program = |device, way| -> Result<u32> {
            let found = attached_to(node, device, way)?;
            found.first().copied().with_context(|| format!("no program on {device}"))
        };
        let port = other.port().context("a pod has a link")?;
        Ok([
            ("in from LAN", program("eth0", Way::Ingress)?),
            ("out to LAN", program("eth0", Way::Egress)?),
            ("in from pod", program(port, Way::Ingress)?),
            ("out to pod", program(port, Way::Egress)?),
        ])
    }

    /// From a pod to one of the same node, and to one of the other.
    fn pods<'a>(&'a self, title: &'static str, load: Load, budget: Option<f64>) -> Comparison<'a> {
        let case = |name, pair: &'a Pair, to: &Station, beside| Case {
            name,
            client: pair.client.probe(),
            to: to.at4(DIRECT),
            beside,
        };
        let Self { with, bare, .. } = self;
        let beside = |base| Some(Beside { base, budget });
        Comparison {
            title,
            load,
            cases: vec![
                case("one node, bare", bare, &bare.first.other, None),
                case("one node", with, &with.first.other, beside(0)),
                case("two nodes, bare", bare, &bare.second.other, None),
                case("two nodes", with, &with.second.other, beside(2)),
            ],
        }
    }
}

impl Pair {
    fn set_up(bed: &Testbed, names: [&str; 2]) -> Result<Self> {
        let [first, second] = names.map(|name| Member::set_up(bed, name));
        let (first, second) = (first?, second?);
        let client = first.node.bypassing_pod("client")?;
        client.probe().pin(&[0])?;
        // By the same way there and back as through the NodePort; nobody is told of a shorter one.
        for device in ["all", "eth0"] {
            first.node.netns().sysctl(&format!("net/ipv4/conf/{device}/send_redirects"), "0")?;
        }
        bed.route_outside((second.endpoint.v4().into(), 32), &first.node)?;
        let (outside, way) = (bed.outside().v4().into(), first.node.host().v4().into());
        second.node.netns().links(async |links| links.route((outside, 32), way).await)?;
        Ok(Self { client, first, second })
    }

    fn members(&self) -> [&Member; 2] {
        [&self.first, &self.second]
    }

    fn endpoints(&self) -> [SocketAddr; 2] {
        self.members().map(|member| member.endpoint.at4(DIRECT))
    }

    /// Publishes a Service for each endpoint, and starts kubeshunt on both nodes.
    fn start(&mut self, bed: &Testbed) -> Result<()> {
        let folder = bed.manifests("pair")?;
        for (member, node_port) in self.members().into_iter().zip(NODE_PORTS) {
            member.publish(&folder, node_port)?;
        }
        self.first.start(&folder)?;
        self.second.start(&folder)
    }

    /// Whether every device that traffic passes has programs both ways, or none any; neither is `None`.
    fn has_programs(&self) -> Result<Option<bool>> {
        let mut devices = vec![(&self.first.node, self.client.port())];
        for Member { endpoint, other, node, .. } in self.members() {
            devices.extend([Some("eth0"), endpoint.port(), other.port()].map(|device| (node, device)));
        }
        let mut found = Vec::new();
        for (node, device) in devices {
            let device = device.context("a pod has a link")?;
            for way in Way::ALL {
                found.push(!attached_to(node, device, way)?.is_empty());
            }
        }
        Ok(found.iter().all(|one| *one == found[0]).then_some(found[0]))
    }
}

/// Ids of the programs on a device, however they are attached.
fn attached_to(node: &Node, device: &str, way: Way) -> Result<Vec<u32>> {
    let mut programs = attached::by_tcx(node.netns(), device, way)?;
    let filters = attached::by_filters(node.netns(), device, way)?;
    programs.extend(filters.into_iter().map(|filter| filter.program));
    Ok(programs)
}

impl Member {
    fn set_up(bed: &Testbed, name: &str) -> Result<Self> {
        let node = bed.node(name)?;
        let server = |name| -> Result<Station> {
            let pod = node.pod(name)?;
            for port in [SERVICE, DIRECT] {
                pod.probe().serve(protocol::Service::TcpTurnaround { threads: 1 }, pod.at4(port))?;
            }
            pod.probe().pin(&[1])?;
            Ok(pod)
        };
        Ok(Self { kubeshunt: None, endpoint: server("endpoint")?, other: server("other")?, node })
    }

    fn publish(&self, folder: &Folder, node_port: u16) -> Result<()> {
        let name = self.node.name();
        let [.., low] = node_port.to_be_bytes();
        let service = Service::new(name)
            .cluster_ip(Ipv4Addr::new(10, 96, 0, low))
            .port(Port::tcp(80).named("tcp").target(SERVICE).node_port(node_port));
        let endpoint = Endpoint::ready(self.endpoint.v4()).on_node(name);
        let slice = EndpointSlice::v4(name).tcp(Some("tcp"), SERVICE).endpoint(endpoint);
        folder.write(name, &[&manifests::Node::of(&self.node), &service, &slice])
    }

    fn start(&mut self, folder: &Folder) -> Result<()> {
        self.kubeshunt = Some(Kubeshunt::start(&self.node, Setup::manifests(folder))?);
        Ok(())
    }
}
