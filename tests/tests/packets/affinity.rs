//! ClientIP affinity of clients outside, whose address is what they are known by.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use kubeshunt_tests::cluster::everywhere;
use kubeshunt_tests::protocol::{Method, Target};
use kubeshunt_tests::{Cluster, Station};

use crate::settings::{Setting, in_every_setting};
use crate::{Door, METHODS, SOON_MS, doors, outside, serving};

in_every_setting!(a_client_outside_keeps_its_backend_through_every_door_and_a_restart);

const LONG: u32 = 3600;

/// The one backend that answers at this door.
fn only(client: &Station, door: &Door, method: Method, times: u32) -> Result<String> {
    let report =
        client.probe().ask(&Target { method, ..Target::tcp(door.to) }.timeout_ms(SOON_MS), times, 1)?;
    assert_eq!(report.failed(), 0, "{door:?}: {:?}", report.errors);
    assert_eq!(report.answered.len(), 1, "{} wandered at {door:?}: {:?}", client.name(), report.answered);
    report.answered.into_keys().next().context("nobody answered")
}

/// The doors of the first node: each node remembers its clients by itself.
fn doors_here(cluster: &Cluster) -> Vec<Door> {
    doors(cluster).into_iter().filter(|door| door.node == 0).collect()
}

fn a_client_outside_keeps_its_backend_through_every_door_and_a_restart(setting: Setting) -> Result<()> {
    let mut cluster = serving(setting, &[0, 0, 1, 1], |service| service.affinity(LONG))?;
    let doors = doors_here(&cluster);
    let is_of = |v4: bool| move |door: &&Door| door.to.is_ipv4() == v4;
    let mut kept = Vec::new();
    for (name, method) in METHODS {
        for v4 in [true, false] {
            let first = doors.iter().find(is_of(v4)).context("a door")?;
            let backend = only(outside(&cluster), first, method, 1)?;
            for door in doors.iter().filter(is_of(v4)) {
                assert_eq!(only(outside(&cluster), door, method, 8)?, backend, "{name}, {door:?}");
            }
            kept.push((method, v4, backend));
        }
    }
    cluster.kubeshunt(0)?.kill9()?;
    cluster.kubeshunt(0)?.restart()?;
    for (method, v4, backend) in kept {
        for door in doors.iter().filter(is_of(v4)) {
            assert_eq!(only(outside(&cluster), door, method, 3)?, backend, "after a restart, {door:?}");
        }
    }
    Ok(())
}

/// Each client outside is one of its own; without affinity each of them meets all backends.
#[test]
fn clients_outside_keep_backends_of_their_own_while_affinity_is_on() -> Result<()> {
    let cluster = serving(Setting::Bridge, &[0, 0, 1, 1], |service| service.affinity(LONG))?;
    let door = doors_here(&cluster)[0];
    // That twelve clients agree by chance is one in four million.
    let mut seen = BTreeSet::new();
    for index in 0..12 {
        let client = cluster.bed.outsider(&format!("outside-{index}"))?;
        seen.insert(only(&client, &door, Method::Tcp, 5)?);
    }
    assert!(seen.len() > 1, "all clients got {seen:?}");
    cluster.publish(&everywhere("web", 1), "web", &[0, 1, 2, 3])?;
    let meets_all = || -> Result<bool> {
        let report = outside(&cluster).probe().ask(&Target::tcp(door.to).timeout_ms(SOON_MS), 60, 1)?;
        Ok(report.answered.len() == 4)
    };
    kubeshunt_tests::wait::until_true("without affinity all backends answer", crate::PATIENCE, meets_all)
}
