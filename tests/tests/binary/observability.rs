//! What a running program tells: health, metrics, log.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::proxy::{HEALTHZ, METRICS};
use kubeshunt_tests::stage::{PATIENCE, Stage, at4, at6, service};
use kubeshunt_tests::wait;
use serde_json::Value;

#[test]
fn health_answers_as_kube_proxys_does() -> Result<()> {
    let stage = Stage::serving(1)?;
    // A wildcard of both families, though it is written as IPv4's.
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let at = SocketAddr::new(ip, HEALTHZ.port());
        for path in ["/healthz", "/livez", "/readyz"] {
            let (head, text) = stage.kubeshunt().http(at, "GET", path)?;
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{path}: {head}");
            for header in ["content-type: application/json", "x-content-type-options: nosniff"] {
                assert!(head.lines().any(|line| line == header), "{header} in {head}");
            }
            let body: Value = serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))?;
            assert_eq!((&body["healthy"], &body["serving"]), (&true.into(), &true.into()), "{path}: {text}");
            assert_eq!(body["lastUpdated"], body["currentTime"], "{path}: {text}");
            let eligible = if path == "/healthz" { Value::Bool(true) } else { Value::Null };
            assert_eq!(body["nodeEligible"], eligible, "{path}: {text}");
            for family in ["IPv4", "IPv6"] {
                let status = &body["status"][family];
                assert_eq!(status["healthy"], true, "{path}: {text}");
                assert!(status["lastUpdated"].as_str().is_some_and(|time| time.ends_with('Z')), "{text}");
            }
        }
    }
    assert_eq!(stage.kubeshunt().get(HEALTHZ.port(), "/nothing")?.0, 404);
    for (path, is) in [("healthz", 2.0), ("livez", 2.0)] {
        let name = format!("kubeproxy_proxy_{path}_total{{code=\"200\"}}");
        assert!((stage.kubeshunt().metric(&name)? - is).abs() < 0.5, "{name}");
    }
    Ok(())
}

/// This stage's node, with more in its `metadata` and `spec`.
fn node(stage: &Stage, metadata: &str, spec: &str) -> Result<()> {
    let text = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {}{metadata}}}\nspec: {{{spec}}}\n",
        stage.node.name()
    );
    stage.folder.write_text("node", &text)
}

#[test]
fn a_node_that_leaves_is_not_eligible_and_lives_on() -> Result<()> {
    let stage = Stage::serving(1)?;
    let codes = || -> Result<(u16, u16)> {
        let get = |path| stage.kubeshunt().get(HEALTHZ.port(), path);
        Ok((get("/healthz")?.0, get("/livez")?.0))
    };
    let wait_for = |wanted| wait::until_true(&format!("{wanted:?}"), PATIENCE, || Ok(codes()? == wanted));
    node(&stage, "", "taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]")?;
    wait_for((503, 200))?;
    let (_, body) = stage.kubeshunt().get(HEALTHZ.port(), "/healthz")?;
    let body: Value = serde_json::from_str(&body)?;
    assert_eq!((&body["nodeEligible"], &body["healthy"]), (&false.into(), &true.into()), "{body}");
    node(&stage, "", "taints: [{key: other, effect: NoSchedule}]")?;
    wait_for((200, 200))?;
    node(&stage, ", deletionTimestamp: \"2026-01-01T00:00:00Z\"", "")?;
    wait_for((503, 200))?;
    node(&stage, "", "")?;
    wait_for((200, 200))?;
    // What was known of it last is still true when its object is gone.
    stage.folder.remove("node")?;
    stage.publish(&service("more", 9), "more", &[0])?;
    stage.wait_for_backends(9, &[0])?;
    wait_for((200, 200))
}

#[test]
fn metrics_answer_in_the_format_that_is_asked_for() -> Result<()> {
    let stage = Stage::serving(2)?;
    let get = |accept: &str| stage.kubeshunt().http_with(METRICS, "GET", "/metrics", accept);
    let (head, text) = get("*/*")?;
    let plain = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(head.starts_with("HTTP/1.1 200") && head.lines().any(|line| line == plain), "{head}");
    assert!(text.contains("# TYPE kubeshunt_sync_operations_total counter\n"), "{text}");
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    let (head, text) = get("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")?;
    let open = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.lines().any(|line| line == open), "{head}");
    assert!(
        text.contains("# TYPE kubeshunt_sync_operations counter\n") && text.ends_with("# EOF\n"),
        "{text}"
    );
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
        ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", 0.0),
        ("kubeproxy_sync_proxy_rules_service_changes_total", 1.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_total", 2.0),
        (
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"internal\",ip_family=\"IPv4\"}",
            0.0,
        ),
    ] {
        let is = stage.kubeshunt().metric(name)?;
        assert!((is - value).abs() < 1e-9, "{name} is {is}, not {value}:\n{text}");
    }
    for family in ["IPv4", "IPv6"] {
        let of = |name: &str| stage.kubeshunt().metric(&format!("{name}{{ip_family=\"{family}\"}}"));
        assert!(of("kubeproxy_sync_proxy_rules_duration_seconds_count")? > 0.5);
        assert!(of("kubeproxy_sync_full_proxy_rules_duration_seconds_count")? > 0.5);
        assert!(
            of("kubeproxy_sync_proxy_rules_last_timestamp_seconds")?
                >= of("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds")?
        );
    }
    Ok(())
}

#[test]
fn what_is_served_is_documented() -> Result<()> {
    let mut stage = Stage::new(1)?;
    stage.publish(&service("web", 1), "web", &[0])?;
    stage.start_with(|setup| setup.among_pods())?;
    stage.ask(&Target::tcp(at4(1)), 1)?;
    stage.kubeshunt().get(HEALTHZ.port(), "/healthz")?;
    wait::until_true("the hooks have been looked at", PATIENCE, || {
        Ok(stage.kubeshunt().metric("kubeshunt_hooks_effective")? > 0.5)
    })?;
    let (_, text) = stage.kubeshunt().get(METRICS.port(), "/metrics")?;
    let page = include_str!("../../../docs/metrics.md");
    let served: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    assert!(served.len() > 30, "{text}");
    for (name, kind) in served {
        assert!(
            page.contains(&format!("| `{name}` | {kind} |")),
            "{name}, a {kind}, is not in docs/metrics.md"
        );
    }
    Ok(())
}

#[test]
fn debugging_tools_find_what_kube_proxy_has() -> Result<()> {
    let stage = Stage::serving(1)?;
    let get = |method: &str, path: &str| stage.kubeshunt().http(METRICS, method, path);
    let plain = "content-type: text/plain; charset=utf-8";
    for (path, wanted) in [("/healthz", "ok"), ("/healthz/ping", "ok"), ("/proxyMode", "iptables")] {
        let (head, body) = get("GET", path)?;
        assert!(head.starts_with("HTTP/1.1 200") && head.lines().any(|line| line == plain), "{path}: {head}");
        assert_eq!(body, wanted, "{path}");
    }
    let config: Value = serde_json::from_str(&get("GET", "/configz")?.1)?;
    let config = &config["kubeproxy.config.k8s.io"];
    assert_eq!(config["kind"], "KubeProxyConfiguration", "{config}");
    assert_eq!(config["apiVersion"], "kubeproxy.config.k8s.io/v1alpha1", "{config}");
    assert!(get("GET", "/flagz")?.1.contains(&format!("\nhostname-override={}\n", stage.node.name())));
    assert!(get("GET", "/statusz")?.1.contains("Started: "));
    let pings = "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"healthz\"} 1\n";
    let (_, slis) = get("GET", "/metrics/slis")?;
    assert!(slis.contains(pings), "{slis}");
    assert_eq!(get("DELETE", "/metrics/slis")?.1, "metrics reset\n");
    assert_eq!(get("GET", "/metrics/slis")?.1, "");
    assert!(get("GET", "/nothing")?.0.starts_with("HTTP/1.1 404"));
    Ok(())
}

/// What was counted for a Service.
fn counted(stage: &Stage, service: &str, outcome: &str) -> Result<u64> {
    let (_, text) = stage.kubeshunt().get(METRICS.port(), "/metrics")?;
    let name = format!(
        "kubeshunt_service_decisions_total{{namespace=\"default\",service=\"{service}\",outcome=\"{outcome}\"}} "
    );
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    Ok(value.map(str::parse).transpose()?.unwrap_or_default())
}

#[test]
fn connections_are_counted_service_by_service() -> Result<()> {
    let mut stage = Stage::new(1)?;
    stage.publish(&service("web", 1), "web", &[0])?;
    stage.publish(&service("none", 2), "none", &[])?;
    stage.start()?;
    stage.ask(&Target::tcp(at4(1)), 7)?;
    stage.ask(&Target::tcp(at6(1)), 2)?;
    stage.ask(&Target::udp(at6(1)), 5)?;
    stage.ask(&Target::tcp(at4(2)), 3)?;
    for (service, outcome, wanted) in [
        ("web", "connected", 9),
        ("web", "associated", 5),
        ("web", "refused", 0),
        ("none", "refused", 3),
        ("none", "connected", 0),
    ] {
        assert_eq!(counted(&stage, service, outcome)?, wanted, "{service} {outcome}");
    }
    // A Service of another name that gets the ids of one that is gone begins anew.
    stage.folder.remove("web")?;
    wait::until_true("it is gone", PATIENCE, || Ok(stage.frontend(at4(1), "TCP")?.is_none()))?;
    assert_eq!(counted(&stage, "web", "connected")?, 0);
    for round in 3..7 {
        let name = format!("next-{round}");
        stage.publish(&service(&name, round), &name, &[0])?;
        stage.wait_for_backends(round, &[0])?;
        assert_eq!(counted(&stage, &name, "connected")?, 0);
        stage.ask(&Target::tcp(at4(round)), u32::from(round))?;
        assert_eq!(counted(&stage, &name, "connected")?, u64::from(round));
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
