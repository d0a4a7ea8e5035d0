//! `kubeshunt verify`: no difference where there is none, while everything changes, and each by name where there are some.

use std::fs;

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::inspect;
use kubeshunt_tests::pinned::PinnedMap;
use kubeshunt_tests::stage::{Stage, service};
use serde_json::Value;

/// Runs it with what `kubeshunt run` was told: its exit code, and what it says.
fn verify(stage: &Stage, more: &[&str]) -> Result<(Option<i32>, String)> {
    let path = |path: &std::path::Path| path.display().to_string();
    let (manifests, cgroup, pins) =
        (path(stage.folder.path()), path(stage.node.cgroup().path()), path(stage.node.pins()));
    let arguments = ["verify", "--manifests", &manifests, "--cgroup-root", &cgroup, "--bpffs-root", &pins];
    let named = ["--hostname-override", stage.node.name()];
    let output = stage.invoke(&[&arguments[..], &named, more].concat())?;
    let said = if output.status.code() == Some(1) { output.stderr } else { output.stdout };
    Ok((output.status.code(), String::from_utf8(said)?))
}

fn differences(stage: &Stage) -> Result<Vec<String>> {
    let (code, text) = verify(stage, &["-o", "json"])?;
    let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    ensure!(answer["same"] == (code == Some(0)) && (code == Some(0) || code == Some(5)), "{code:?} {text}");
    let rows = answer["differences"].as_array().context("a list")?;
    let cell = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    Ok(rows
        .iter()
        .map(|row| format!("{} {} {}", cell(row, "what"), cell(row, "object"), cell(row, "difference")))
        .collect())
}

#[test]
fn there_is_no_difference_while_it_serves_and_changes() -> Result<()> {
    let stage = Stage::serving(2)?;
    let (code, text) = verify(&stage, &[])?;
    assert!(code == Some(0) && text.starts_with("no differences: 6 frontends"), "{code:?} {text}");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let changes = scope.spawn(|| -> Result<()> {
            for round in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                stage.publish(&service("web", 1), "web", &[round % 2])?;
            }
            Ok(())
        });
        let found = differences(&stage);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        changes.join().map_err(|_| anyhow::anyhow!("the changes ended"))??;
        assert_eq!(found?, Vec::<String>::new());
        Ok(())
    })
}

#[test]
fn each_difference_is_named_and_the_dead_are_noticed() -> Result<()> {
    let mut stage = Stage::serving(2)?;
    stage.kubeshunt_mut().kill9()?;
    let found = differences(&stage)?;
    assert!(
        matches!(&found[..], [only] if only.starts_with("process ") && only.contains("no kubeshunt")),
        "{found:?}"
    );

    // Nobody sets right now what is harmed.
    let maps = inspect::maps(stage.node.pins())?;
    let frontends = PinnedMap::open(&maps.join("FRONTENDS"))?;
    let vip = frontends.keys()?.into_iter().find(|key| key[..16].ends_with(&[10, 96, 0, 1]) && key[18] == 6);
    frontends.remove(&vip.context("TCP of the IPv4 address")?)?;
    fs::remove_file(stage.node.pins().join("links/connect6"))?;
    fs::remove_file(maps.join("SENDERS"))?;
    let more = service("more", 2);
    stage.publish(&more, "more", &[0])?;
    let found = differences(&stage)?;
    for words in [
        "frontends default/web:tcp/TCP (IPv4) 10.96.0.1:80/TCP is missing",
        "frontends default/more:udp/UDP (IPv6) [fd00:96::2]:80/UDP is missing",
        "hook connect6 its link is not pinned",
        "pin SENDERS is not pinned",
    ] {
        assert!(found.iter().any(|row| row == words), "no {words:?} in {found:#?}");
    }
    assert!(!found.iter().any(|row| row.contains("web:udp")), "{found:#?}");
    let (code, table) = verify(&stage, &[])?;
    assert!(
        code == Some(5) && table.contains("WHAT") && table.contains("differences in 12 frontends"),
        "{table}"
    );
    Ok(())
}

#[test]
fn where_nothing_is_pinned_it_says_what_to_do() -> Result<()> {
    let stage = Stage::new(0)?;
    let (code, said) = verify(&stage, &[])?;
    assert!(code == Some(1) && said.contains("is kubeshunt running"), "{code:?} {said}");
    Ok(())
}
