//! Two nodes with a client and a backend each: one with ten Services, one with thousands.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use kubeshunt_tests::cgroup::Cgroup;
use kubeshunt_tests::manifests::{EndpointSlice, Port, Service};
use kubeshunt_tests::{Kubeshunt, Node, Probe, Setup, Station, Testbed, process, protocol};

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

/// Something to measure.
pub(super) struct Case<'a> {
    pub(super) name: &'static str,
    pub(super) client: &'a Probe,
    pub(super) to: SocketAddr,
    /// The case it is compared with.
    pub(super) beside: Option<usize>,
}

impl Stage {
    /// Builds it from the programs in `folder`.
    pub(super) fn set_up(folder: &Path, services: u32) -> Result<Self> {
        process::prefer_programs_in(folder);
        let bar = ProgressBar::new_spinner();
        bar.set_style(ProgressStyle::with_template("  {spinner} {msg} {elapsed:.dim}")?);
        bar.enable_steady_tick(Duration::from_millis(100));
        let bed = Testbed::new()?;
        bar.set_message(format!("a node with {FEW} Services"));
        let few = Side::set_up(&bed, "few", FEW)?;
        bar.set_message(format!("a node with {services} Services"));
        let many = Side::set_up(&bed, "many", services)?;
        bar.finish_and_clear();
        Ok(Self { few, many, _bed: bed })
    }

    /// The cases, in TCP or UDP.
    pub(super) fn cases(&self, udp: bool) -> Vec<Case<'_>> {
        let port = if udp { UDP } else { TCP };
        let vip = SocketAddr::new(VIP, PORT);
        vec![
            Case { name: "direct", client: &self.few.direct, to: self.few.backend.at4(port), beside: None },
            Case {
                name: "direct, hooks only",
                client: self.few.hooked.probe(),
                to: self.few.backend.at4(port),
                beside: Some(0),
            },
            Case {
                name: "ClusterIP, few Services",
                client: self.few.hooked.probe(),
                to: vip,
                beside: Some(0),
            },
            Case {
                name: "direct, second node",
                client: &self.many.direct,
                to: self.many.backend.at4(port),
                beside: None,
            },
            Case {
                name: "ClusterIP, many Services",
                client: self.many.hooked.probe(),
                to: vip,
                beside: Some(3),
            },
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
