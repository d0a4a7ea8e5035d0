//! Random trouble between a real server and kubeshunt while things change: afterwards the maps say what the API says, and
//! connections have not noticed. What may go wrong in memory, and exact bounds, are in `proxy-userspace/tests/faults`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kubeshunt_tests::apiserver::Trouble;
use serde_json::json;

use crate::objects::{port, service};
use crate::server::{TOKEN, shared};
use crate::stage::{Scenery, Stage};
use crate::steady::{Steady, steady_service};

/// How often each kind of trouble comes, in random order.
const ROUNDS: usize = 3;

fn seed() -> u64 {
    let given = std::env::var("KUBESHUNT_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..))
}

/// One change of many.
fn change(stage: &Stage, rng: &mut fastrand::Rng) -> Result<()> {
    let name = format!("passing-{}", rng.u8(..4));
    if rng.u8(..4) == 0 {
        return stage.delete(&name);
    }
    let [red, green, blue] = &stage.pods;
    let pods = [vec![red], vec![green, blue], vec![blue], vec![]];
    let web = service(&name, json!({"ports": [port("http", "TCP", 80)]}));
    let slices = stage.slices(&name, "http", &pods[rng.usize(..pods.len())]);
    stage.api.apply_all(&[web, slices[0].clone()])
}

#[test]
fn trouble_of_every_kind_while_things_change() -> Result<()> {
    let seed = seed();
    println!("KUBESHUNT_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let scenery = Scenery::new(shared()?)?;
    let proxy = scenery.node.netns().run(|| scenery.api.faulty_proxy(seed))?;
    let setup = Scenery::setup(&scenery.api.kubeconfig(&proxy.url(), TOKEN)?);
    let stage = scenery.run(setup)?;
    let to = steady_service(&stage)?;
    let steady = Steady::begin(&stage.client, &to)?;

    let mut troubles = Trouble::ALL.repeat(ROUNDS);
    rng.shuffle(&mut troubles);
    let mut changes = 0;
    for trouble in troubles {
        proxy.make(trouble);
        let until = Instant::now() + Duration::from_millis(rng.u64(200..2_500));
        while Instant::now() < until {
            change(&stage, &mut rng)?;
            changes += 1;
        }
        if rng.bool() {
            proxy.make(Trouble::Nothing);
            change(&stage, &mut rng)?;
        }
    }
    proxy.make(Trouble::Nothing);
    let made = proxy.made();
    stage.settle(&format!("{made:?} during {changes} changes, KUBESHUNT_SEED={seed}"))?;
    for trouble in Trouble::ALL {
        ensure!(made.contains_key(&trouble), "{trouble:?} did no harm: {made:?}, KUBESHUNT_SEED={seed}");
    }
    change(&stage, &mut rng)?;
    stage.settle("one more change")?;
    steady.finish("trouble of every kind")
}
