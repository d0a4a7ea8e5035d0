//! kube-proxy's rules, written down once more and independently, next to the pipeline: random clusters through which
//! things happen, and random clients who must get the same from both.
//!
//! - [`oracle`]: the rules, on plain structs; what is meant to be different is in `oracle/differences.rs`;
//! - [`random`]: what there is, what happens and who asks;
//! - [`wire`], [`pipeline`]: the same objects as JSON, and from there to the maps;
//! - [`asking`]: all that the decision may answer;
//! - [`history`]: both side by side.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod asking;
mod history;
mod oracle;
mod pipeline;
mod random;
mod wire;

use std::cell::RefCell;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use history::{History, Tally};

const CASES: u64 = 100_000;
/// Histories between two looks at how many cases they had.
const BATCH: u32 = 64;

/// A seed that is told, and can be given.
fn seed() -> u64 {
    let given = std::env::var("KUBESHUNT_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| {
        u64::from(std::process::id()) ^ std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() << 20
    })
}

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: BATCH,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

#[test]
fn the_pipeline_decides_as_kube_proxys_rules_do() {
    let seed = seed();
    println!("KUBESHUNT_SEED={seed}");
    let tally = RefCell::new(Tally::new());
    let histories = random::any_history();
    for seed in seed.. {
        if asked(&tally.borrow()) >= CASES {
            break;
        }
        let lived = runner(seed).run(&histories, |steps| {
            let (mut history, mut own) = (History::new(), Tally::new());
            steps.iter().try_for_each(|step| history.step(step, &mut own))?;
            let mut all = tally.borrow_mut();
            own.into_iter().for_each(|(what, count)| *all.entry(what).or_default() += count);
            Ok::<(), TestCaseError>(())
        });
        match lived {
            Ok(()) => {}
            Err(TestError::Fail(reason, steps)) => {
                let steps: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
                panic!("KUBESHUNT_SEED={seed}: {reason}, after\n{}", steps.join("\n"));
            }
            Err(TestError::Abort(reason)) => panic!("KUBESHUNT_SEED={seed}: {reason}"),
        }
    }
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

/// How many questions.
fn asked(tally: &Tally) -> u64 {
    tally.iter().filter(|(what, _)| what.contains(':')).map(|(_, count)| count).sum()
}
