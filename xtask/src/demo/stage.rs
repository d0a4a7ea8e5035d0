//! The demo's cluster: one node with a client and three backends, a client outside, and kubeshunt.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use kubeshunt_tests::manifests::{self, Endpoint, EndpointSlice, Folder, Port, Service};
use kubeshunt_tests::protocol;
use kubeshunt_tests::{Kubeshunt, Node, Setup, Station, Testbed, process};

/// The addresses of service `web`.
pub(super) const WEB: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x10)),
];
/// The address of service `empty`, which has no endpoints.
pub(super) const EMPTY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 11));

/// Service ports, and the ports of the backends behind them.
pub(super) const HTTP: (u16, u16) = (80, 8080);
pub(super) const DNS: (u16, u16) = (53, 5353);
/// For measuring: a server that does as little as possible.
pub(super) const QUICK: (u16, u16) = (81, 8081);
pub(super) const NODE_PORT: u16 = 30080;

/// The cluster. Fields are dropped in order: processes before what they use.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) kubeshunt: Kubeshunt,
    pub(super) client: Station,
    pub(super) backends: Vec<Station>,
    pub(super) node: Node,
    pub(super) manifests: Folder,
    pub(super) bed: Testbed,
}

impl Stage {
    /// Builds the cluster from programs in `folder`, and starts kubeshunt.
    pub(super) fn set_up(folder: &Path) -> Result<Self> {
        process::prefer_programs_in(folder);
        let bed = Testbed::new()?;
        let node = bed.node("node-a")?;
        let client = node.pod("client")?;
        let backends =
            (1..=3).map(|number| node.pod(&format!("web-{number}"))).collect::<Result<Vec<_>>>()?;
        for backend in &backends {
            for ip in WEB.map(|family| backend.ip(family)) {
                let at = |port| SocketAddr::new(ip, port);
                backend.probe().serve(protocol::Service::Tcp, at(HTTP.1))?;
                backend.probe().serve(protocol::Service::Udp, at(DNS.1))?;
                backend.probe().serve(protocol::Service::TcpTurnaround { threads: 1 }, at(QUICK.1))?;
            }
        }
        let manifests = bed.manifests("demo")?;
        manifests.write("node", &[&manifests::Node::of(&node)])?;
        let (web, empty) = services();
        manifests.write("services", &[&web, &empty])?;
        write_endpoints(&manifests, &backends)?;
        let kubeshunt = Kubeshunt::start(&node, Setup::manifests(&manifests))?;
        Ok(Self { kubeshunt, client, backends, node, manifests, bed })
    }

    /// Makes these backends, and no others, the endpoints of `web`.
    pub(super) fn set_endpoints(&self, backends: &[Station]) -> Result<()> {
        write_endpoints(&self.manifests, backends)
    }
}

fn services() -> (Service, Service) {
    let web = WEB.into_iter().fold(Service::new("web"), Service::cluster_ip);
    let web = web
        .port(Port::tcp(HTTP.0).named("http").target(HTTP.1).node_port(NODE_PORT))
        .port(Port::udp(DNS.0).named("dns").target(DNS.1))
        .port(Port::tcp(QUICK.0).named("quick").target(QUICK.1));
    let empty = Service::new("empty").cluster_ip(EMPTY);
    (web, empty.port(Port::tcp(80).named("tcp")).port(Port::udp(80).named("udp")))
}

fn write_endpoints(manifests: &Folder, backends: &[Station]) -> Result<()> {
    let fill = |slice: EndpointSlice, ip: fn(&Station) -> IpAddr| {
        let slice = slice.tcp(Some("http"), HTTP.1).udp(Some("dns"), DNS.1).tcp(Some("quick"), QUICK.1);
        backends
            .iter()
            .fold(slice, |slice, backend| slice.endpoint(Endpoint::ready(ip(backend)).on_node("node-a")))
    };
    let v4 = fill(EndpointSlice::v4("web"), |backend| backend.v4().into());
    let v6 = fill(EndpointSlice::v6("web"), |backend| backend.v6().into());
    manifests.write("endpoints", &[&v4, &v6])
}
