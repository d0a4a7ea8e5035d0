//! What must not notice: connections that are there, and those that are being made.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use kubeshunt_tests::cluster::everywhere;
use kubeshunt_tests::pinned::PinnedMap;
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::stage::{Stage, at4, service};
use kubeshunt_tests::{Cluster, Kubeshunt, Layout, Setup, inspect};

use crate::load::{Clients, cluster};
use crate::{Builds, seed};

const KILLS: u32 = 50;
const UPGRADES: u32 = 5;

/// The longest time from a start to the kill that follows.
const ALIVE_MS: u64 = 600;

/// Kills it at a random moment, of its start, of its writes or of its rest, and has it started again.
fn kill(cluster: &mut Cluster, random: &mut fastrand::Rng) -> Result<()> {
    let node = random.usize(..2);
    // Something is to be written: the endpoints change, and back.
    let both = [vec![0], vec![1], vec![0, 1]];
    cluster.publish(&service("other", 2), "other", &both[random.usize(..3)])?;
    // The moment is what is random here; nothing is waited for.
    sleep(Duration::from_millis(random.u64(..ALIVE_MS)));
    cluster.kubeshunt(node)?.kill9()?;
    cluster.kubeshunt(node)?.restart_at_once()
}

fn is_in_charge(cluster: &mut Cluster) -> Result<()> {
    (0..2).try_for_each(|node| cluster.kubeshunt(node)?.wait_until_ready())
}

#[test]
fn fifty_kills_five_upgrades_and_five_downgrades_break_no_connection_and_fail_none() -> Result<()> {
    let (builds, mut random) = (Builds::new()?, fastrand::Rng::with_seed(seed()));
    let mut cluster = cluster()?;
    let clients = Clients::new(&cluster)?;
    let held = clients.hold()?;
    let load = clients.connect()?;
    let begin = Instant::now();
    for turn in 0..UPGRADES * 2 {
        for _ in 0..KILLS / (UPGRADES * 2) {
            kill(&mut cluster, &mut random)?;
        }
        held.check(&format!("after kills, turn {turn}"))?;
        let (what, build) =
            if turn % 2 == 0 { ("upgrade", &builds.later) } else { ("downgrade", &builds.now) };
        is_in_charge(&mut cluster)?;
        for node in 0..2 {
            cluster.kubeshunt(node)?.kill9()?;
            cluster.kubeshunt(node)?.restart_as(build)?;
            let generations = inspect::generations(cluster.nodes[node].pins())?;
            assert_eq!(generations.len(), 1, "after {what} {turn} of node {node}: {generations:?}");
        }
        held.check(&format!("after {what} {turn}"))?;
    }
    let passed = begin.elapsed();
    let connections = load.stop()?;
    held.check("at the end")?;
    println!(
        "{connections} connections in {passed:.1?}, {:.0} a second: none failed, none broke",
        connections as f64 / passed.as_secs_f64()
    );
    Ok(())
}

/// A map of flows is another one then. Connections that are there stay; only those that are being opened in the very
/// moment may have to be opened again, so none is opened here.
#[test]
fn connections_survive_when_flows_get_more_room() -> Result<()> {
    let mut cluster = Cluster::new(Layout::Bridge)?;
    cluster.add_backend(0)?;
    cluster.add_backend(1)?;
    cluster.publish(&everywhere("web", 1), "web", &[0, 1])?;
    let start = |flows: &str| {
        let setup = Setup::manifests(&cluster.folder)
            .arg("--conntrack-max-per-core")
            .arg("1000")
            .arg("--conntrack-min")
            .arg(flows);
        Kubeshunt::start(&cluster.nodes[0], setup)
    };
    drop(start("100000")?);
    let clients = Clients::new(&cluster)?;
    let held = clients.hold()?;
    for flows in ["200000", "300000", "400000"] {
        // Its end leaves everything in place.
        let before = PinnedMap::open(&inspect::maps(cluster.nodes[0].pins())?.join("FLOWS"))?.capacity();
        let _next = start(flows)?;
        let pins = cluster.nodes[0].pins();
        let after = PinnedMap::open(&inspect::maps(pins)?.join("FLOWS"))?.capacity();
        assert!(after > before, "{before} flows fitted, now {after}");
        assert_eq!(inspect::generations(pins)?.len(), 1);
        held.check(&format!("with room for {flows} flows"))?;
    }
    Ok(())
}

#[test]
fn ids_and_affinity_survive_an_upgrade_and_a_downgrade() -> Result<()> {
    let builds = Builds::new()?;
    let mut stage = Stage::new(4)?;
    stage.publish(&service("sticky", 1).affinity(3_600), "sticky", &[0, 1, 2, 3])?;
    stage.publish(&service("web", 2), "web", &[0, 1])?;
    stage.start()?;
    let first = stage.ask(&Target::tcp(at4(1)), 5)?.answered;
    assert_eq!(first.len(), 1, "{first:?}");
    let frontends = stage.frontends()?;
    for build in [&builds.later, &builds.now, &builds.later, &builds.now] {
        stage.kubeshunt_mut().kill9()?;
        stage.kubeshunt_mut().restart_as(build)?;
        assert_eq!(stage.ask(&Target::tcp(at4(1)), 5)?.answered, first, "{}", build.display());
        assert_eq!(stage.frontends()?, frontends, "{}: ids and all", build.display());
    }
    // What the second build has never seen is made anew for it: one map, in place of the shorter one.
    stage.wait_for_log(&["making a new map", "SENDERS"]).map(drop)
}
