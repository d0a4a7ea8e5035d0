//! Five endpoints that stay, while five others come and go a hundred times a second.

use std::net::IpAddr;

use anyhow::Result;
use kubeshunt_tests::manifests::{EndpointSlice, Port, Service};
use kubeshunt_tests::protocol::{StreamSpec, Target};
use kubeshunt_tests::stage::{PORT, Stage, TARGET_PORT, at4, at6, vip4, vip6};
use kubeshunt_tests::{Probe, wait};

use super::churner::Churner;
use super::load::{self, STAY};

/// The share of changes that has to reach the maps as writes of its own. The rest may have come so close
/// together that one write covers them.
const TAKING_EFFECT: f64 = 0.8;

/// A node, whose folder holds the Service and, separately, its slice.
struct Scene {
    stage: Stage,
    slice: EndpointSlice,
    addresses: Vec<IpAddr>,
}

impl Scene {
    fn new(service: &Service, slice: EndpointSlice, like: IpAddr) -> Result<Self> {
        let mut stage = Stage::new(2 * STAY)?;
        let addresses: Vec<_> = stage.backends.iter().map(|backend| backend.ip(like)).collect();
        stage.folder.write("service", &[service])?;
        stage.folder.write("slice", &[&slice.clone().ready(addresses[..STAY].iter().copied())])?;
        stage.start()?;
        Ok(Self { stage, slice, addresses })
    }

    fn operations(&self) -> Result<f64> {
        self.stage.kubeshunt().metric("kubeshunt_sync_operations_total")
    }

    /// Has the probe connect `times` times while endpoints come and go, and judges. A second sample is taken
    /// when the shares of the first are off: chance takes one of five endpoints three sigma away once in a
    /// hundred samples, twice in a row once in ten thousand.
    fn check(&self, what: &str, probe: &Probe, target: Target, times: usize, pause_us: u64) -> Result<()> {
        let spec = StreamSpec { target, concurrency: 2, pause_us, keep_records: true };
        let mut off: Vec<Vec<u32>> = Vec::new();
        while off.len() < 2 {
            let seed = fastrand::u64(..);
            println!("{what}: seed {seed}");
            let before = self.operations()?;
            let (stay, others) = self.addresses.split_at(STAY);
            let churner = Churner::start(
                self.stage.folder.clone(),
                "slice",
                self.slice.clone(),
                stay.to_vec(),
                others.to_vec(),
                seed,
            );
            let records = load::run(probe, &spec, &churner, times)?;
            let history = churner.stop()?;
            // Two writes a change: the backends, and the word that publishes them.
            let effective = (self.operations()? - before) / 2.0;
            let changes = f64::from(u32::try_from(history.len())?);
            let judgement = load::judge(&records, &history)?;
            println!(
                "{what}: {} connections during {changes} changes, {:.1} a second, {effective} of them in writes of \
                 their own; {judgement}",
                records.len(),
                history.rate(),
            );
            assert!(history.rate() > 95.0, "the changes were too slow: {:.1} a second", history.rate());
            assert!(effective >= changes * TAKING_EFFECT, "{effective} writes for {changes} changes");
            assert!(effective <= changes, "{effective} writes for {changes} changes");
            assert!(
                judgement.others.iter().all(|count| *count > 0),
                "all others take part: {:?}",
                judgement.others
            );
            if judgement.deviation < 3.0 {
                return Ok(());
            }
            off.push(judgement.stayed);
            self.only_those_that_stay()?;
        }
        panic!("{what}: uneven twice in a row: {off:?}");
    }

    /// Back to the beginning.
    fn only_those_that_stay(&self) -> Result<()> {
        let stay = self.addresses[..STAY].iter().copied();
        self.stage.folder.write("slice", &[&self.slice.clone().ready(stay)])?;
        wait::until_true("the others are gone", kubeshunt_tests::stage::PATIENCE, || {
            let frontends = self.stage.frontends()?;
            Ok(frontends
                .iter()
                .all(|frontend| frontend["cluster"].as_array().is_some_and(|set| set.len() == STAY)))
        })
    }
}

#[test]
fn twenty_thousand_connections_during_churn() -> Result<()> {
    let service = Service::new("web").cluster_ip(vip4(1)).port(Port::tcp(PORT).target(TARGET_PORT));
    let scene = Scene::new(&service, EndpointSlice::v4("web").tcp(None, TARGET_PORT), vip4(1))?;
    let probe = scene.stage.client.probe();
    scene.check("TCP to a ClusterIP", probe, Target::tcp(at4(1)), 20_000, 300)
}

#[test]
fn five_thousand_datagram_exchanges_during_churn() -> Result<()> {
    let service = Service::new("web").cluster_ip(vip6(1)).port(Port::udp(PORT).target(TARGET_PORT));
    let scene = Scene::new(&service, EndpointSlice::v6("web").udp(None, TARGET_PORT), vip6(1))?;
    let probe = scene.stage.client.probe();
    scene.check("UDP to a ClusterIP", probe, Target::udp(at6(1)), 5_000, 1_000)
}

#[test]
fn five_thousand_connections_to_a_node_port_during_churn() -> Result<()> {
    const NODE_PORT: u16 = 30080;
    let port = Port::tcp(PORT).target(TARGET_PORT).node_port(NODE_PORT);
    let service = Service::new("web").cluster_ip(vip4(1)).port(port);
    let scene = Scene::new(&service, EndpointSlice::v4("web").tcp(None, TARGET_PORT), vip4(1))?;
    let host = scene.stage.node.host();
    scene.check("TCP to a NodePort", host.probe(), Target::tcp(host.at4(NODE_PORT)), 5_000, 1_000)
}
