//! What must not notice: large transfers and idle connections, while the program dies and comes back.

use std::thread;

use anyhow::Result;
use kubeshunt_tests::cluster::NODE_PORT;
use kubeshunt_tests::protocol::{Hold, Target, Transfer};

use crate::settings::{Setting, in_every_setting};
use crate::watch::Watch;
use crate::{SOON_MS, outside, serving};

in_every_setting!(
    a_gibibyte_each_way_arrives_as_it_was_sent,
    a_transfer_and_idle_connections_survive_a_kill_and_a_restart,
);

fn a_gibibyte_each_way_arrives_as_it_was_sent(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[1], |service| service)?;
    cluster.narrow(1300)?;
    // What is cut into segments only where it leaves a node is translated as one packet.
    cluster.offload(true)?;
    let to = cluster.nodes[0].host().at4(NODE_PORT);
    let target = Target::tcp(to).timeout_ms(5 * SOON_MS);
    let transfer = Transfer { target, bytes: 1 << 30, seed: 17, within_ms: 120_000 };
    let report = outside(&cluster).probe().transfer(&transfer)?;
    assert!(report.is_intact(), "{report:?}");
    println!("{setting:?}: {} ms", report.elapsed_ns / 1_000_000);
    Ok(())
}

fn a_transfer_and_idle_connections_survive_a_kill_and_a_restart(setting: Setting) -> Result<()> {
    let mut cluster = serving(setting, &[0, 1], |service| service)?;
    let watch = Watch::over(&cluster)?;
    let (at4, at6) = (cluster.nodes[0].host().at4(NODE_PORT), cluster.nodes[0].host().at6(NODE_PORT));
    let mover = outside(&cluster).another_probe("mover")?;
    let idle = outside(&cluster).another_probe("idle")?;
    let mut held = Vec::new();
    for to in [at4, at6] {
        let hold = Hold { to, from: Vec::new(), count: 200, at_once: 20, timeout_ms: SOON_MS };
        let (number, report) = idle.hold(&hold)?;
        assert_eq!((report.alive, report.errors.len()), (200, 0), "{to}: {report:?}");
        held.push(number);
    }
    let target = Target::tcp(at4).timeout_ms(5 * SOON_MS);
    // Some seconds of it.
    let transfer = Transfer { target, bytes: 512 << 20, seed: 19, within_ms: 60_000 };
    let report = thread::scope(|scope| {
        let moving = scope.spawn(|| mover.transfer(&transfer));
        for node in [0, 1] {
            cluster.kubeshunt(node)?.kill9()?;
        }
        for number in &held {
            let report = idle.exchange_held(*number)?;
            assert_eq!((report.alive, report.errors.len()), (200, 0), "while it is dead: {report:?}");
        }
        for node in [0, 1] {
            cluster.kubeshunt(node)?.restart()?;
        }
        assert!(!moving.is_finished(), "the transfer was over before the program was back: make it larger");
        moving.join().expect("the transfer does not panic")
    })?;
    assert!(report.is_intact(), "{report:?}");
    for number in held {
        let report = idle.exchange_held(number)?;
        assert_eq!((report.alive, report.errors.len()), (200, 0), "after the restart: {report:?}");
    }
    watch.assert_clean();
    Ok(())
}
