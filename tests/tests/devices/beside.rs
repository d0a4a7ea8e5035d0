//! Beside programs of others: in a predictable order, and they stay.

use anyhow::{Context, Result};
use kubeshunt_tests::attached::Way;
use kubeshunt_tests::foreign::{Foreign, Place};
use kubeshunt_tests::stage::{PATIENCE, Stage};
use kubeshunt_tests::{inspect, wait};

use crate::{NOTHING, programs};

#[test]
fn ours_come_first_on_the_way_in_and_last_on_the_way_out() -> Result<()> {
    let mut stage = Stage::new(1)?;
    let netns = stage.node.netns().clone();
    let there = Way::ALL.map(|way| Foreign::on_device(&netns, "eth0", way, Place::First));
    let there = there.into_iter().collect::<Result<Vec<_>>>()?;
    let ids = [there[0].id()?, there[1].id()?];
    stage.start()?;
    let [ingress, egress] = programs(&stage, "eth0")?;
    assert_eq!((ingress.len(), egress.len()), (2, 2));
    assert_eq!((ingress[1], egress[0]), (ids[0], ids[1]), "{ids:?} in {ingress:?} and {egress:?}");
    // Everybody runs: ours pass on what they do not translate.
    let before = [there[0].runs()?, there[1].runs()?];
    let to = stage.node.host().at4(8080);
    kubeshunt_tests::stage::serve(stage.node.host(), 8080)?;
    let report = stage.bed.outside().probe().ask(&kubeshunt_tests::protocol::Target::tcp(to), 1, 1)?;
    assert_eq!(report.successes(), 1, "{report:?}");
    assert!(there[0].runs()? > before[0] && there[1].runs()? > before[1]);

    // Whoever comes later is where they want to be, and a restart does not change that.
    let later = Foreign::on_device(&netns, "eth0", Way::Ingress, Place::First)?;
    let order = programs(&stage, "eth0")?[0].clone();
    assert_eq!(order, [later.id()?, ingress[0], ids[0]]);
    stage.kubeshunt_mut().kill9()?;
    stage.kubeshunt_mut().restart()?;
    let order = programs(&stage, "eth0")?[0].clone();
    assert_eq!((order[0], order[2]), (later.id()?, ids[0]));
    assert_ne!(order[1], ingress[0], "the new process brings its own");
    Ok(())
}

#[test]
fn cleanup_takes_ours_and_leaves_others() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    let foreign = Foreign::on_device(stage.node.netns(), "eth0", Way::Egress, Place::First)?;
    let things = inspect::belongings(stage.node.pins())?;
    stage.kubeshunt_mut().terminate()?;
    let output = stage.kubeshunt().command(&["cleanup"])?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(programs(&stage, "eth0")?, [vec![], vec![foreign.id()?]]);
    for port in crate::ports(&stage)? {
        assert_eq!(programs(&stage, &port)?, NOTHING, "{port}");
    }
    assert!(!stage.node.pins().exists());
    let mut left = things;
    wait::until_true("everything is freed", PATIENCE * 6, || {
        let mut still = std::collections::BTreeSet::new();
        for thing in &left {
            if thing.exists()? {
                still.insert(*thing);
            }
        }
        left = still;
        Ok(left.is_empty())
    })
    .with_context(|| format!("{left:?}"))
}
