//! Random histories from a seed that is told, and can be given.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::random::Step;

/// Histories from one seed, before the next number is taken.
const BATCH: u32 = 64;

fn seed() -> u64 {
    let given = std::env::var("KUBESHUNT_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        u64::from(std::process::id()) ^ now << 20
    })
}

/// Has histories lived through until enough has been seen. One that fails is shrunk, and told.
pub(crate) fn until(
    histories: impl Strategy<Value = Vec<Step>>,
    is_enough: impl Fn() -> bool,
    live: impl Fn(Vec<Step>) -> Result<(), TestCaseError>,
) {
    let first = seed();
    println!("KUBESHUNT_SEED={first}");
    for seed in first.. {
        if is_enough() {
            break;
        }
        match runner(seed).run(&histories, |steps| if is_enough() { Ok(()) } else { live(steps) }) {
            Ok(()) => {}
            Err(TestError::Fail(reason, steps)) => {
                let steps: Vec<String> = steps.iter().map(|step| format!("  {step:?}")).collect();
                panic!("KUBESHUNT_SEED={seed}: {reason}, after\n{}", steps.join("\n"));
            }
            Err(TestError::Abort(reason)) => panic!("KUBESHUNT_SEED={seed}: {reason}"),
        }
    }
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
