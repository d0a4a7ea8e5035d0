//! A stage: one node with a client pod, backend pods that serve, a manifests folder, and kubeshunt.
//!
//! Invariant: nothing is started that a test has not asked for. A stage begins without kubeshunt, so that a
//! test says what kubeshunt finds when it starts.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::manifests::{EndpointSlice, Folder, Port, Service};
use crate::node::Node;
use crate::probe::protocol::{self, AskReport, Target};
use crate::proxy::{self, Kubeshunt, Setup};
use crate::station::Station;
use crate::testbed::Testbed;
use crate::{process, wait};

/// How long anything on a stage may take that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The port of the Services.
pub const PORT: u16 = 80;

/// The port on which backends serve, TCP and UDP, both families.
pub const TARGET_PORT: u16 = 8080;

/// The IPv4 address of the Service with that number.
#[must_use]
pub fn vip4(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 96, 0, number).into()
}

/// The IPv6 address of the Service with that number.
#[must_use]
pub fn vip6(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, number.into()).into()
}

/// [`PORT`] of the Service with that number, IPv4.
#[must_use]
pub fn at4(number: u8) -> SocketAddr {
    SocketAddr::new(vip4(number), PORT)
}

/// [`PORT`] of the Service with that number, IPv6.
#[must_use]
pub fn at6(number: u8) -> SocketAddr {
    SocketAddr::new(vip6(number), PORT)
}

/// A dual-stack Service with that number and no port.
#[must_use]
pub fn bare(name: &str, number: u8) -> Service {
    Service::new(name).cluster_ip(vip4(number)).cluster_ip(vip6(number))
}

/// A dual-stack Service with that number: [`PORT`] over TCP and UDP, for [`TARGET_PORT`].
#[must_use]
pub fn service(name: &str, number: u8) -> Service {
    bare(name, number)
        .port(Port::tcp(PORT).named("tcp").target(TARGET_PORT))
        .port(Port::udp(PORT).named("udp").target(TARGET_PORT))
}

/// One node and everything on it. Fields are dropped in order: the program first, the testbed last.
#[derive(Debug)]
pub struct Stage {
    kubeshunt: Option<Kubeshunt>,
    /// Where the manifests are.
    pub folder: Folder,
    /// A pod that asks.
    pub client: Station,
    /// Pods `backend-0` and so on that serve on [`TARGET_PORT`].
    pub backends: Vec<Station>,
    /// The node.
    pub node: Node,
    /// The testbed, for more nodes and clients outside.
    pub bed: Testbed,
}

impl Stage {
    /// A node, a client and so many backends, with an empty folder and without kubeshunt.
    ///
    /// # Errors
    /// When the testbed cannot be made.
    pub fn new(backends: usize) -> Result<Self> {
        let bed = Testbed::new()?;
        let node = bed.node("node-a")?;
        let client = node.pod("client")?;
        let folder = bed.manifests("a")?;
        let backends = (0..backends).map(|index| backend(&node, &format!("backend-{index}")));
        Ok(Self { kubeshunt: None, folder, client, backends: backends.collect::<Result<_>>()?, node, bed })
    }

    /// Starts kubeshunt on the folder and waits until it serves.
    ///
    /// # Errors
    /// See [`Kubeshunt::start`].
    pub fn start(&mut self) -> Result<()> {
        self.start_with(|setup| setup)
    }

    /// Starts kubeshunt with more arguments; one that was started before is gone then, with a kill at the latest.
    ///
    /// # Errors
    /// See [`Kubeshunt::start`].
    pub fn start_with(&mut self, more: impl FnOnce(Setup) -> Setup) -> Result<()> {
        self.kubeshunt = None;
        self.kubeshunt = Some(Kubeshunt::start(&self.node, more(Setup::manifests(&self.folder)))?);
        Ok(())
    }

    /// A stage with that Service, number 1, on all its backends, and kubeshunt started.
    ///
    /// # Errors
    /// See [`Stage::new`] and [`Kubeshunt::start`].
    pub fn serving(backends: usize) -> Result<Self> {
        let mut stage = Self::new(backends)?;
        let all: Vec<_> = (0..backends).collect();
        stage.publish(&service("web", 1), "web", &all)?;
        stage.start()?;
        Ok(stage)
    }

    /// The program.
    ///
    /// # Panics
    /// When it was never started.
    #[must_use]
    pub fn kubeshunt(&self) -> &Kubeshunt {
        self.kubeshunt.as_ref().expect("the test has started kubeshunt")
    }

    /// The program, to be killed and restarted.
    ///
    /// # Panics
    /// When it was never started.
    pub fn kubeshunt_mut(&mut self) -> &mut Kubeshunt {
        self.kubeshunt.as_mut().expect("the test has started kubeshunt")
    }

    /// Writes `NAME.yaml` with the Service of that name, and these backends as its endpoints.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&self, service: &Service, name: &str, backends: &[usize]) -> Result<()> {
        let [v4, v6] = self.slices(name, backends);
        self.folder.write(name, &[service, &v4, &v6])
    }

    /// Slices of that Service with these backends on this node, for the ports of [`service`].
    #[must_use]
    pub fn slices(&self, name: &str, backends: &[usize]) -> [EndpointSlice; 2] {
        let chosen = || backends.iter().map(|index| &self.backends[*index]);
        let ports = |slice: EndpointSlice| slice.tcp(Some("tcp"), TARGET_PORT).udp(Some("udp"), TARGET_PORT);
        [
            ports(EndpointSlice::v4(name)).ready(chosen().map(Station::v4)),
            ports(EndpointSlice::v6(name)).ready(chosen().map(Station::v6)),
        ]
    }

    /// What `kubeshunt services -o json` says.
    ///
    /// # Errors
    /// When the command fails, or its answer is no JSON.
    pub fn services(&self) -> Result<Value> {
        let output = self.kubeshunt().command(&["services", "-o", "json"])?;
        if !output.status.success() {
            bail!("kubeshunt services: {}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("`kubeshunt services -o json` is no JSON")
    }

    /// The frontends of that answer. The rest of it, the node's addresses, changes by itself while links come
    /// up.
    ///
    /// # Errors
    /// See [`Stage::services`].
    pub fn frontends(&self) -> Result<Vec<Value>> {
        let services = self.services()?;
        Ok(services["frontends"].as_array().context("no list of frontends")?.clone())
    }

    /// The entry of the frontend at that address, by protocol (`TCP`, `UDP`).
    ///
    /// # Errors
    /// See [`Stage::services`].
    pub fn frontend(&self, at: SocketAddr, protocol: &str) -> Result<Option<Value>> {
        let mut frontends = self.frontends()?.into_iter();
        let found = frontends.find(|frontend| {
            frontend["address"] == at.ip().to_string()
                && frontend["port"] == at.port()
                && frontend["protocol"] == protocol
        });
        Ok(found)
    }

    /// The endpoints of the Cluster set of a frontend; `None` when there is no such frontend.
    ///
    /// # Errors
    /// See [`Stage::services`].
    pub fn endpoints(&self, at: SocketAddr, protocol: &str) -> Result<Option<BTreeSet<IpAddr>>> {
        let Some(frontend) = self.frontend(at, protocol)? else { return Ok(None) };
        let endpoints = frontend["cluster"].as_array().context("no list of endpoints")?;
        let address = |endpoint: &Value| endpoint["address"].as_str()?.parse().ok();
        Ok(Some(endpoints.iter().filter_map(address).collect()))
    }

    /// Waits until a Service of [`service`] has exactly these backends, on all four of its frontends.
    ///
    /// # Errors
    /// When that does not come.
    pub fn wait_for_backends(&self, number: u8, backends: &[usize]) -> Result<()> {
        for (at, protocol) in
            [(at4(number), "TCP"), (at4(number), "UDP"), (at6(number), "TCP"), (at6(number), "UDP")]
        {
            let wanted = backends.iter().map(|index| self.backends[*index].ip(at.ip())).collect();
            let what = format!("{at}/{protocol} leads to {wanted:?}");
            wait::until_true(&what, PATIENCE, || Ok(self.endpoints(at, protocol)?.as_ref() == Some(&wanted)))
                .with_context(|| self.kubeshunt().log_tail())?;
        }
        Ok(())
    }

    /// Waits until the log has a line with all of these words.
    ///
    /// # Errors
    /// When that does not come; with the log's end.
    pub fn wait_for_log(&self, words: &[&str]) -> Result<String> {
        let what = format!("the log says {words:?} in one line");
        let look = || {
            let text = std::fs::read_to_string(self.kubeshunt().log())?;
            let mut lines = text.lines();
            Ok(lines.find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned))
        };
        wait::until(&what, PATIENCE, look).with_context(|| self.kubeshunt().log_tail())
    }

    /// Has the client ask.
    ///
    /// # Errors
    /// When its probe is gone.
    pub fn ask(&self, target: &Target, times: u32) -> Result<AskReport> {
        self.client.probe().ask(target, times, 1)
    }

    /// Runs the program under test with exactly these arguments on the node, and waits for its end.
    ///
    /// # Errors
    /// When it cannot be run, or does not end in time: then it is killed.
    pub fn invoke(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(proxy::program()?);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Outside of what it serves, as its own connections must be.
        let mut child = process::spawn_in(self.node.netns(), self.bed.outside().cgroup(), command)?;
        let ended = wait::until(&format!("kubeshunt {arguments:?} ends"), PATIENCE, || Ok(child.try_wait()?));
        if let Err(error) = ended {
            child.kill()?;
            let output = child.wait_with_output()?;
            return Err(error.context(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        child.wait_with_output().context("cannot wait for a child")
    }
}

/// A pod that serves on [`TARGET_PORT`].
///
/// # Errors
/// When it cannot be made.
pub fn backend(node: &Node, name: &str) -> Result<Station> {
    let pod = node.pod(name)?;
    serve(&pod, TARGET_PORT)?;
    Ok(pod)
}

/// Serves TCP and UDP of both families on that port.
///
/// # Errors
/// When the port is taken.
pub fn serve(station: &Station, port: u16) -> Result<()> {
    for address in [station.at4(port), station.at6(port)] {
        station.probe().serve(protocol::Service::Tcp, address)?;
        station.probe().serve(protocol::Service::Udp, address)?;
    }
    Ok(())
}
