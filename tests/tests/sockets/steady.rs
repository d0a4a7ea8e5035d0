//! Clients that never pause, while the endpoints of their Service change.

use anyhow::Result;
use kubeshunt_tests::protocol::{Target, TrickleReport};
use kubeshunt_tests::stage::{self, Stage, at4, at6};
use kubeshunt_tests::vigil::{self, Nobody, Vigil};

/// Two endpoints, one, none, one again; the Service deleted, and made again.
fn through_all_changes(targets: &[Target]) -> Result<Vec<TrickleReport>> {
    let stage = Stage::serving(2)?;
    let publish = |backends: &'static [usize]| {
        let stage = &stage;
        move || stage.publish(&stage::service("web", 1), "web", backends)
    };
    let mut vigil = Vigil::begin(stage.client.probe(), targets, &stage.backends, &[0, 1])?;
    vigil.change("2 -> 1", &[0], publish(&[0]))?;
    vigil.change("1 -> 0", &[], publish(&[]))?;
    vigil.change("0 -> 1", &[1], publish(&[1]))?;
    vigil.change("deleted", &[], || stage.folder.remove("web"))?;
    vigil.change("made again", &[0], publish(&[0]))?;
    let (reports, outcomes) = vigil.end(Nobody::Silence)?;
    vigil::assert_in_time(&outcomes);
    Ok(reports)
}

#[test]
fn connected_sockets_are_never_silent_for_long_nor_left_with_an_endpoint_that_is_gone() -> Result<()> {
    let v4 = Target::udp_connected(at4(1));
    let reports = through_all_changes(&[v4.clone(), Target::udp_connected(at6(1)), v4.mapped()])?;
    for report in reports {
        // Connected to who went first, or second, or not at all.
        let woken = report.errors.iter().filter(|failure| failure.error == "ECONNABORTED").count();
        assert!((2..=3).contains(&woken), "{woken} times: {:?}", report.errors);
    }
    Ok(())
}

#[test]
fn unconnected_sockets_are_never_silent_for_long_nor_ever_closed() -> Result<()> {
    let v4 = Target::udp(at4(1));
    let reports = through_all_changes(&[v4.clone(), Target::udp(at6(1)), v4.mapped()])?;
    for report in reports {
        assert_eq!(report.sockets, 1, "it keeps its one socket");
        let other = report.errors.iter().find(|failure| failure.error != "ECONNREFUSED");
        assert_eq!(other, None, "only refusals, while nobody serves");
    }
    Ok(())
}
