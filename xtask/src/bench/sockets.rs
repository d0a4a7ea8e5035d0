//! Two nodes with a client and a backend each: one with ten Services, one with thousands.
//!
//! "Direct" goes to the backend's own address from a process that no hook sees; "hooks only" does so from a process
//! that the hooks see and leave alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use kubeshunt_tests::cgroup::Cgroup;
use kubeshunt_tests::manifests::{EndpointSlice, Port, Service};
use kubeshunt_tests::protocol::{self, Load};
use kubeshunt_tests::{Kubeshunt, Node, Probe, Setup, Station, Testbed};

use super::Subject;
use super::measure::{Beside, Case, Comparison};

/// The Service that is measured.
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
const PORT: u16 = 80;
/// The backend's ports.
const TCP: u16 = 8081;
const UDP: u16 = 5353;
/// Services of the small node.
const FEW: u32 = 10;

/// Everything that is measured. Fields are dropped in order.
pub(super) struct Stage {
    few: Side,
    many: Side,
    _bed: Testbed,
}

/// A node with kubeshunt, a client that the hooks see, and one that they do not.
struct Side {
    _kubeshunt: Kubeshunt,
    hooked: Station,
    direct: Probe,
    backend: Station,
    _cgroup: Cgroup,
    _node: Node,
}

impl Stage {
    pub(super) fn set_up(services: u32) -> Result<Self> {
        let bar = super::spinner(format!("a node with {FEW} Services"))?;
        let bed = Testbed::new()?;
        let few = Side::set_up(&bed, "few", FEW)?;
        bar.set_message(format!("a node with {services} Services"));
        let many = Side::set_up(&bed, "many", services)?;
        bar.finish_and_clear();
        Ok(Self { few, many, _bed: bed })
    }

    pub(super) fn comparisons(&self, subject: Subject) -> Vec<Comparison<'_>> {
        vec![if subject == Subject::Udp {
            Comparison {
                title: "UDP datagrams: one each way, from an unconnected socket",
                load: Load::Datagrams { size: 64, connected: false },
                cases: self.cases(UDP, 0.95),
            }
        } else {
            Comparison {
                title: "TCP connections: connect, one byte each way, close",
                load: Load::Connects { reset: true },
                cases: self.cases(TCP, 0.97),
            }
        }]
    }

    fn cases<'a>(&'a self, port: u16, budget: f64) -> Vec<Case<'a>> {
        let Self { few, many, .. } = self;
        let vip = SocketAddr::new(VIP, PORT);
        let direct = |name, side: &'a Side| Case {
            name,
            client: &side.direct,
            to: side.backend.at4(port),
            beside: None,
        };
        let hooked = |name, side: &'a Side, to, base| {
            let beside = Some(Beside { base, budget: Some(budget) });
            Case { name, client: side.hooked.probe(), to, beside }
        };
        vec![
            direct("direct", few),
            hooked("direct, hooks only", few, few.backend.at4(port), 0),
            hooked("ClusterIP, few Services", few, vip, 0),
            direct("direct, second node", many),
            hooked("ClusterIP, many Services", many, vip, 3),
        ]
    }
}

impl Side {
    fn set_up(bed: &Testbed, name: &str, services: u32) -> Result<Self> {
        let node = bed.node(name)?;
        let hooked = node.pod("client")?;
        let backend = node.pod("backend")?;
        // The same place on the net, but out of the hooks' sight.
        let cgroup = Cgroup::create(bed.estate().cgroup.join(format!("direct-{name}")))?;
        let direct = Probe::start("direct", hooked.netns(), &cgroup)?;
        backend.probe().serve(protocol::Service::TcpTurnaround { threads: 1 }, backend.at4(TCP))?;
        backend.probe().serve(protocol::Service::Udp, backend.at4(UDP))?;
        // A processor for clients, one for servers.
        hooked.probe().pin(&[0])?;
        direct.pin(&[0])?;
        backend.probe().pin(&[1])?;

        let manifests = bed.manifests(name)?;
        let (service, slice) = measured(&backend);
        manifests.write("measured", &[&service, &slice])?;
        manifests.write_text("others", &others(services.saturating_sub(1)))?;
        let setup = Setup::manifests(&manifests).within(Duration::from_secs(120));
        let kubeshunt = Kubeshunt::start(&node, setup).context("kubeshunt does not start")?;
        Ok(Self { _kubeshunt: kubeshunt, hooked, direct, backend, _cgroup: cgroup, _node: node })
    }
}

/// The Service under the clients' eyes, and its one endpoint.
fn measured(backend: &Station) -> (Service, EndpointSlice) {
    let service = Service::new("measured")
        .cluster_ip(VIP)
        .port(Port::tcp(PORT).named("tcp").target(TCP))
        .port(Port::udp(PORT).named("udp").target(UDP));
    let slice = EndpointSlice::v4("measured").tcp(Some("tcp"), TCP).udp(Some("udp"), UDP);
    (service, slice.ready([backend.v4()]))
}

/// Services that are only there, with three endpoints each.
fn others(count: u32) -> String {
    let mut text = String::new();
    for number in 0..count {
        let [_, _, high, low] = number.to_be_bytes();
        let name = format!("other-{number}");
        let service = Service::new(&name).cluster_ip(Ipv4Addr::new(10, 97, high, low)).port(Port::tcp(PORT));
        let endpoints = (1..=3).map(|n| Ipv4Addr::new(10, 200 + n, high, low));
        let slice = EndpointSlice::v4(&name).tcp(None, 8080).ready(endpoints);
        text.push_str(&format!("---\n{service}\n---\n{slice}\n"));
    }
    text
}
