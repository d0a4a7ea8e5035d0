//! What a running program tells: health, metrics, log.

use anyhow::{Context, Result};
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::proxy::{HEALTHZ, METRICS};
use kubeshunt_tests::stage::{PATIENCE, Stage, at4, at6, service};
use kubeshunt_tests::wait;
use serde_json::Value;

#[test]
fn health_answers() -> Result<()> {
    let stage = Stage::serving(1)?;
    for path in ["/healthz", "/livez", "/readyz"] {
        let (code, body) = stage.kubeshunt().get(HEALTHZ.port(), path)?;
        assert_eq!(code, 200, "{path}: {body}");
        let body: Value = serde_json::from_str(&body).with_context(|| format!("{path}: {body}"))?;
        assert_eq!((&body["healthy"], &body["serving"]), (&true.into(), &true.into()), "{path}: {body}");
        for time in ["lastUpdated", "currentTime"] {
            assert!(body[time].as_str().is_some_and(|time| time.ends_with('Z')), "{path}: {body}");
        }
    }
    assert_eq!(stage.kubeshunt().get(HEALTHZ.port(), "/nothing")?.0, 404);
    Ok(())
}

#[test]
fn metrics_answer_in_openmetrics_format() -> Result<()> {
    let stage = Stage::serving(2)?;
    let (code, text) = stage.kubeshunt().get(METRICS.port(), "/metrics")?;
    assert_eq!(code, 200);
    assert!(text.ends_with("# EOF\n"), "{text}");
    for (name, value) in [
        ("kubeshunt_services", 1.0),
        ("kubeshunt_endpoints", 4.0),
        ("kubeshunt_map_entries{map=\"frontends\"}", 6.0),
        ("kubeshunt_map_entries{map=\"services\"}", 4.0),
        ("kubeshunt_map_entries{map=\"backends\"}", 8.0),
        ("kubeshunt_sync_failures_total", 0.0),
        ("kubeshunt_rejects_total", 0.0),
        ("kubeshunt_devices{side=\"outside\"}", 1.0),
        ("kubeshunt_devices{side=\"pod\"}", 3.0),
    ] {
        let is = stage.kubeshunt().metric(name)?;
        assert!((is - value).abs() < 1e-9, "{name} is {is}, not {value}:\n{text}");
    }
    Ok(())
}

/// How often the programs have decided so.
fn decisions(stage: &Stage, outcome: &str) -> Result<f64> {
    stage.kubeshunt().metric(&format!("kubeshunt_decisions_total{{outcome=\"{outcome}\"}}"))
}

#[test]
fn decisions_are_counted() -> Result<()> {
    let mut stage = Stage::new(1)?;
    stage.publish(&service("web", 1), "web", &[0])?;
    stage.publish(&service("none", 2), "none", &[])?;
    stage.start()?;
    stage.ask(&Target::tcp(at4(1)), 7)?;
    stage.ask(&Target::udp(at6(1)), 5)?;
    stage.ask(&Target::tcp(at4(2)), 3)?;
    stage.ask(&Target::tcp(stage.backends[0].at4(8080)), 9)?;
    for (outcome, wanted) in
        [("connected", 7.0), ("associated", 5.0), ("refused", 3.0), ("unreachable", 0.0), ("no_memory", 0.0)]
    {
        wait::until_true(&format!("{outcome} is {wanted}"), PATIENCE, || {
            Ok((decisions(&stage, outcome)? - wanted).abs() < 0.5)
        })
        .with_context(|| format!("{outcome} is {:?}", decisions(&stage, outcome)))?;
    }
    Ok(())
}

#[test]
fn rejects_are_counted() -> Result<()> {
    let stage = Stage::serving(1)?;
    stage.folder.write_text("bad", "kind: [")?;
    wait::until_true("the reject counts", PATIENCE, || {
        Ok(stage.kubeshunt().metric("kubeshunt_rejects_total")? > 0.5)
    })
}

#[test]
fn the_json_log_is_json_line_by_line() -> Result<()> {
    let mut stage = Stage::new(1)?;
    stage.publish(&service("web", 1), "web", &[0])?;
    stage.folder.write_text("bad", "kind: [")?;
    stage.start_with(|setup| setup.arg("--log-format").arg("json"))?;
    stage.kubeshunt_mut().terminate()?;
    let log = std::fs::read_to_string(stage.kubeshunt().log())?;
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect::<Result<_>>()?;
    for (level, words) in [("INFO", "starting"), ("WARN", "bad.yaml"), ("INFO", "programs attached")] {
        let found = lines.iter().find(|line| {
            line["level"] == level && line["message"].as_str().is_some_and(|message| message.contains(words))
        });
        let found = found.with_context(|| format!("no {level} with {words:?} in {log}"))?;
        assert!(found["timestamp"].is_string(), "{found}");
    }
    Ok(())
}

#[test]
fn decisions_are_logged_when_asked_for() -> Result<()> {
    let mut stage = Stage::new(1)?;
    stage.publish(&service("web", 1), "web", &[0])?;
    stage.publish(&service("none", 2), "none", &[])?;
    stage.start_with(|setup| setup.arg("--log-decisions"))?;
    stage.ask(&Target::tcp(at4(1)), 1)?;
    stage.ask(&Target::udp(at6(1)), 1)?;
    stage.ask(&Target::tcp(at4(2)), 1)?;
    let backend = &stage.backends[0];
    stage.wait_for_log(&["protocol 6", "10.96.0.1]:80 -> [", &format!("{}]:8080", backend.v4())])?;
    stage.wait_for_log(&["protocol 17", "[fd00:96::1]:80 -> [", &format!("{}]:8080", backend.v6())])?;
    stage.wait_for_log(&["protocol 6", "10.96.0.2]:80 refused, errno 111"]).map(drop)
}

#[test]
fn decisions_are_not_logged_otherwise() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    stage.ask(&Target::tcp(at4(1)), 3)?;
    stage.kubeshunt_mut().terminate()?;
    let log = std::fs::read_to_string(stage.kubeshunt().log())?;
    assert!(!log.contains("protocol 6"), "{log}");
    Ok(())
}
