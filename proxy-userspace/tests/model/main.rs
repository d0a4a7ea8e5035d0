//! kube-proxy's rules, written down once more and independently, next to the pipeline: random clusters through which
//! things happen, and random clients who must get the same from both.
//!
//! - [`oracle`]: the rules, on plain structs; what is meant to be different is in `oracle/differences.rs`;
//! - [`random`]: what there is, what happens and who asks;
//! - [`seeds`], [`tally`]: how they begin, and what has been asked;
//! - [`wire`], [`pipeline`]: the same objects as JSON, and from there to the maps;
//! - [`asking`]: all that the decision may answer;
//! - [`life`], [`history`]: what happens, to both side by side.

mod asking;
mod history;
#[expect(dead_code, reason = "what is written counts where maps are the kernel's")]
mod life;
mod oracle;
mod pipeline;
mod random;
mod seeds;
mod tally;
mod wire;

use std::cell::RefCell;

use history::History;
use tally::{Tally, asked};

const CASES: u64 = 100_000;

#[test]
fn the_pipeline_decides_as_kube_proxys_rules_do() {
    let tally = RefCell::new(Tally::new());
    seeds::until(
        random::any_history(),
        || asked(&tally.borrow()) >= CASES,
        |steps| {
            let (mut history, mut own) = (History::new(), Tally::new());
            steps.iter().try_for_each(|step| history.step(step, &mut own))?;
            history.end()?;
            tally::add(&mut tally.borrow_mut(), own);
            Ok(())
        },
    );
    let tally = tally.into_inner();
    for (what, count) in &tally {
        println!("{count:>7} {what}");
    }
    for (what, least) in expected() {
        assert!(tally.get(&what).is_some_and(|count| *count >= least), "{what}: {:?}", tally.get(&what));
    }
}

/// What must have been asked, and how often at least: all that the rules tell apart.
fn expected() -> Vec<(String, u64)> {
    let mut expected =
        vec![("bound by affinity".to_owned(), 500), ("by an unconnected socket".to_owned(), 2000)];
    let sockets = ["a pod's socket", "a socket of the node"];
    let packets = ["a pod's packet", "a packet from outside"];
    let frontends = ["ClusterIp", "Balancer", "External", "NodePort"];
    for who in sockets.iter().chain(&packets) {
        for to in frontends {
            expected.extend([(format!("{who}, {to}: served"), 100), (format!("{who}, {to}: refused"), 100)]);
        }
        expected.push((format!("{who}, ClusterIp: dropped"), 50));
        expected.push((format!("{who}, no frontend: passes"), 500));
    }
    for who in packets {
        expected.extend(frontends.map(|to| (format!("{who}, {to}: served, masqueraded"), 100)));
        expected.push((format!("{who}, no frontend: refused"), 100));
    }
    expected.extend(frontends.map(|to| (format!("{}, {to}: dropped", packets[1]), 20)));
    // Restricted, and left to the packet path.
    expected.extend([packets[0], sockets[1]].map(|who| (format!("{who}, Balancer: dropped"), 50)));
    expected.push((format!("{}, Balancer: passes", sockets[0]), 50));
    expected
}
