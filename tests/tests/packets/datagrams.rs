//! UDP clients that keep their port, and never pause for long enough to be forgotten.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result};
use kubeshunt_tests::cluster::everywhere;
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::stage::{at4, at6};
use kubeshunt_tests::vigil::{self, Nobody, Vigil};
use kubeshunt_tests::{Cluster, wait};

use crate::settings::{Setting, in_every_setting};
use crate::{PATIENCE, SOON_MS, doors, outside, serving};

in_every_setting!(
    a_client_that_never_pauses_leaves_an_endpoint_that_has_gone,
    a_client_that_never_pauses_is_never_silent_for_long,
);

/// Who answers a client that asks from that port.
fn answerer(cluster: &Cluster, to: SocketAddr, port: u16) -> Result<String> {
    let client = outside(cluster);
    let from = SocketAddr::new(client.ip(to.ip()), port);
    let target = Target { from: Some(from), ..Target::udp(to) }.timeout_ms(SOON_MS);
    let report = client.probe().ask(&target, 1, 1)?;
    let (name, _) = report.answered.first_key_value().with_context(|| format!("{:?}", report.errors))?;
    Ok(name.clone())
}

fn a_client_that_never_pauses_leaves_an_endpoint_that_has_gone(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[0, 1], |service| service)?;
    let doors: Vec<_> = doors(&cluster).into_iter().filter(|door| door.node == 0).zip(20_000..).collect();
    for gone in [0, 1] {
        let (gone, stays) = (format!("backend-{gone}"), 1 - gone);
        let mut held = Vec::new();
        // From some port each door leads to the one that will go.
        for (door, port) in &doors {
            let from = (0..64).map(|more| port + 100 * (more + 1));
            for port in from {
                if answerer(&cluster, door.to, port)? == gone {
                    held.push((door, port));
                    break;
                }
            }
        }
        assert_eq!(held.len(), doors.len(), "each endpoint is reached by each door");
        let changed = Instant::now();
        cluster.publish(&everywhere("web", 1), "web", &[stays])?;
        let stays = format!("backend-{stays}");
        for (door, port) in held {
            // An answer on its way when the flow goes is lost, as with conntrack.
            wait::until_true(&format!("{door:?} leads to {stays}"), PATIENCE, || {
                Ok(answerer(&cluster, door.to, port).is_ok_and(|name| name == stays))
            })?;
        }
        println!("led elsewhere after {:?}", changed.elapsed());
        cluster.publish(&everywhere("web", 1), "web", &[0, 1])?;
        // Each time from a port that has no flow yet: the others keep the endpoint they have.
        let mut fresh = 40_000..;
        wait::until_true("both are back", PATIENCE, || {
            let port = fresh.next().context("ports are many")?;
            Ok(answerer(&cluster, doors[0].0.to, port)? == gone)
        })?;
    }
    Ok(())
}

fn a_client_that_never_pauses_is_never_silent_for_long(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[0, 1], |service| service)?;
    let pod = cluster.bypassing_pod(0, "sandbox")?;
    let publish = |backends: &'static [usize]| {
        let cluster = &cluster;
        move || cluster.publish(&everywhere("web", 1), "web", backends)
    };
    let targets = [at4(1), at6(1)].map(Target::udp);
    let backends = cluster.backends.iter().map(|(pod, _)| pod);
    let mut vigil = Vigil::begin(pod.probe(), &targets, backends, &[0, 1])?;
    vigil.change("2 -> 1", &[0], publish(&[0]))?;
    vigil.change("1 -> 0", &[], publish(&[]))?;
    vigil.change("0 -> 1", &[1], publish(&[1]))?;
    vigil.change("deleted", &[], || cluster.folder.remove("web"))?;
    vigil.change("made again", &[0], publish(&[0]))?;
    let (reports, outcomes) = vigil.end(Nobody::LastStays)?;
    vigil::assert_in_time(&outcomes);
    assert!(reports.iter().all(|report| report.sockets == 1));
    Ok(())
}
