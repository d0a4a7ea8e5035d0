//! `services` and `check`: what they print, and how they end.

use anyhow::{Context, Result};
use kubeshunt_tests::manifests::Port;
use kubeshunt_tests::stage::{Stage, bare, service};
use serde_json::Value;

/// A stage whose table has rows of very different lengths.
fn varied() -> Result<Stage> {
    let mut stage = Stage::new(3)?;
    stage.publish(&service("web", 1).affinity(60), "web", &[0, 1, 2])?;
    stage.publish(&service("none", 2), "none", &[])?;
    let local = bare("local", 3).port(Port::tcp(443).node_port(30443)).internal_local();
    stage.publish(&local, "local", &[0])?;
    stage.start()?;
    Ok(stage)
}

#[test]
fn the_services_table_lines_up() -> Result<()> {
    let stage = varied()?;
    let output = stage.kubeshunt().command(&["services"])?;
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout)?;
    let mut lines = table.lines().take_while(|line| !line.is_empty());
    let header: Vec<char> = lines.next().context("no header")?.chars().collect();
    let starts: Vec<_> =
        (0..header.len()).filter(|at| header[*at] != ' ' && (*at == 0 || header[*at - 1] == ' ')).collect();
    assert_eq!(starts.len(), 8, "columns: {table}");
    let rows: Vec<Vec<char>> = lines.map(|line| line.chars().collect()).collect();
    assert_eq!(rows.len(), 4 + 4 + 4, "frontends of three Services: {table}");
    for row in rows {
        for start in &starts {
            let cell = row.get(*start).is_some_and(|first| *first != ' ');
            let gap = *start == 0 || row.get(*start - 1) == Some(&' ');
            let row: String = row.iter().collect();
            assert!(cell && gap, "no cell begins in column {start} of {row:?}:\n{table}");
        }
    }
    assert!(table.lines().all(|line| line.trim_end() == line), "blanks at the end of a line: {table:?}");
    for words in ["none: refused", "60s", "Local", "12 frontends; NodePorts answer on "] {
        assert!(table.contains(words), "no {words:?} in:\n{table}");
    }
    Ok(())
}

#[test]
fn services_as_json_say_everything() -> Result<()> {
    let stage = varied()?;
    let services = stage.services()?;
    let frontends = services["frontends"].as_array().context("a list")?;
    assert_eq!(frontends.len(), 12, "{services:#}");
    assert!(frontends.iter().all(|frontend| frontend["intact"] == true), "{services:#}");
    let web =
        frontends.iter().find(|frontend| frontend["address"] == "10.96.0.1" && frontend["protocol"] == "TCP");
    let web = web.context("no frontend of web")?;
    assert_eq!((&web["kind"], &web["port"]), (&Value::from("ClusterIP"), &Value::from(80)), "{web:#}");
    assert_eq!((&web["affinity_seconds"], &web["any_endpoint"]), (&Value::from(60), &Value::from(true)));
    assert_eq!(web["cluster"].as_array().map(Vec::len), Some(3), "{web:#}");
    let node_port =
        frontends.iter().find(|frontend| frontend["kind"] == "NodePort").context("no NodePort")?;
    assert_eq!((&node_port["address"], &node_port["port"]), (&Value::Null, &Value::from(30443)));
    let host = stage.node.host();
    for address in [host.v4().to_string(), host.v6().to_string()] {
        let known = services["node_addresses"].as_array().context("a list")?;
        assert!(known.iter().any(|known| *known == address), "no {address} in {known:?}");
    }
    Ok(())
}

#[test]
fn services_without_kubeshunt_say_what_to_do() -> Result<()> {
    let stage = Stage::new(0)?;
    let pins = stage.node.pins().display().to_string();
    let output = stage.invoke(&["services", "--bpffs-root", &pins])?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&pins) && said.contains("is kubeshunt running"), "{said}");
    Ok(())
}

/// Runs `check`: exit code and findings.
fn check(stage: &Stage, cgroup: &str, bpffs: &str) -> Result<(Option<i32>, Vec<Value>)> {
    let output = stage.invoke(&["check", "-o", "json", "--cgroup-root", cgroup, "--bpffs-root", bpffs])?;
    let findings: Value = serde_json::from_slice(&output.stdout).context("`check -o json` is no JSON")?;
    Ok((output.status.code(), findings.as_array().context("a list")?.clone()))
}

fn finding<'a>(findings: &'a [Value], subject: &str) -> &'a Value {
    let found = findings.iter().find(|finding| finding["subject"] == subject);
    found.unwrap_or_else(|| panic!("nothing about {subject}: {findings:#?}"))
}

#[test]
fn check_is_content_with_a_good_place() -> Result<()> {
    let mut stage = Stage::new(0)?;
    let (cgroup, pins) =
        (stage.node.cgroup().path().display().to_string(), stage.node.pins().display().to_string());
    let (code, findings) = check(&stage, &cgroup, &pins)?;
    assert_eq!(code, Some(0), "{findings:#?}");
    for subject in ["capabilities", "bpffs", "cgroup v2", "kernel", "packet path", "other programs"] {
        assert_eq!(finding(&findings, subject)["verdict"], "good");
    }
    assert!(finding(&findings, "kubeshunt")["detail"].to_string().contains("not attached"));
    stage.start()?;
    let (code, findings) = check(&stage, &cgroup, &pins)?;
    assert_eq!(code, Some(0), "{findings:#?}");
    assert!(finding(&findings, "kubeshunt")["detail"].to_string().contains("attached to all 8 hooks"));
    Ok(())
}

#[test]
fn check_names_other_programs_on_the_hooks() -> Result<()> {
    let stage = Stage::new(0)?;
    let _foreign = kubeshunt_tests::foreign::Foreign::attach(stage.node.cgroup())?;
    let cgroup = stage.node.cgroup().path().display().to_string();
    let (code, findings) = check(&stage, &cgroup, &stage.node.pins().display().to_string())?;
    assert_eq!(code, Some(0), "a limit, no failure: {findings:#?}");
    let others = finding(&findings, "other programs");
    assert_eq!((&others["verdict"], &others["detail"]), (&"limited".into(), &"foreign (connect4)".into()));
    Ok(())
}

#[test]
fn check_names_a_remedy_for_what_is_missing() -> Result<()> {
    let stage = Stage::new(0)?;
    let wrong = stage.bed.folder().display().to_string();
    let (code, findings) = check(&stage, &wrong, &wrong)?;
    assert_eq!(code, Some(1), "{findings:#?}");
    for (subject, remedy) in [("bpffs", "mount -t bpf"), ("cgroup v2", "cgroup v2 folder")] {
        let finding = finding(&findings, subject);
        assert_eq!(finding["verdict"], "bad", "{finding:#}");
        assert!(finding["remedy"].to_string().contains(remedy), "{finding:#}");
    }
    let output = stage.invoke(&["check", "--cgroup-root", &wrong, "--bpffs-root", &wrong])?;
    let table = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(1));
    assert!(table.lines().any(|line| line.trim_start().starts_with("→ mount -t bpf")), "{table}");
    Ok(())
}
