//! The Helm chart: by default what kustomize makes of the base; and what its values change.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use kubeshunt_tests::tools;
use serde_json::{Value, json};

use crate::manifests::{accepted, folder, rendered};
use crate::scene::{objects, of_kind};
use crate::server::shared;

/// A release with these values.
fn template(values: &[&str]) -> Result<String> {
    let fixed = ["template", "kubeshunt", "chart", "--namespace=kube-system", "--kube-version=v1.36.0"];
    let sets: Vec<_> = values.iter().map(|value| format!("--set-json={value}")).collect();
    let arguments: Vec<_> = fixed.into_iter().chain(sets.iter().map(String::as_str)).collect();
    tools::run("helm", &arguments, &folder())
}

/// By kind and name.
fn sorted(yaml: &str) -> Result<BTreeMap<String, Value>> {
    let key = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
    Ok(objects(yaml)?.into_iter().map(|object| (key(&object), object)).collect())
}

/// The specification of the DaemonSet's Pods.
fn pods(yaml: &str) -> Result<Value> {
    Ok(of_kind(&objects(yaml)?, "DaemonSet")?["spec"]["template"]["spec"].clone())
}

#[test]
fn by_default_the_chart_is_what_kustomize_makes_of_the_base() -> Result<()> {
    let (chart, base) = (sorted(&template(&[])?)?, sorted(&rendered(&*shared()?, "base")?)?);
    assert!(chart.keys().eq(base.keys()), "{:?} and {:?}", chart.keys(), base.keys());
    for (key, object) in &base {
        assert_eq!(chart[key], *object, "{key}");
    }
    Ok(())
}

#[test]
fn the_api_server_accepts_the_chart_whatever_its_values() -> Result<()> {
    let api = shared()?;
    let sets: [&[&str]; 4] = [
        &[],
        &[r#"apiServer="https://10.0.0.1:6443""#, "wakeSockets=false", "healthzPort=10999"],
        &[
            r#"configuration={"mode": "nftables", "nodePortAddresses": ["primary"]}"#,
            r#"extraArgs=["--log=debug"]"#,
        ],
        &[
            r#"existingConfigMap="kube-proxy""#,
            r#"imagePullSecrets=[{"name": "registry"}]"#,
            r#"podAnnotations={"a": "b"}"#,
            r#"affinity={"nodeAffinity": {}}"#,
            "tolerations=[]",
            "resources={}",
            r#"updateStrategy={"type": "OnDelete", "rollingUpdate": null}"#,
        ],
    ];
    for values in sets {
        accepted(&api, &template(values)?).with_context(|| format!("{values:?}"))?;
    }
    Ok(())
}

#[test]
fn values_say_where_the_api_server_is_and_how_the_proxy_is_configured() -> Result<()> {
    let text = template(&[r#"apiServer="https://10.0.0.1:6443""#, r#"configuration={"mode": "nftables"}"#])?;
    for container in ["initContainers", "containers"] {
        let arguments = pods(&text)?[container][0]["args"].clone();
        let has = |word: &str| arguments.as_array().is_some_and(|words| words.contains(&json!(word)));
        assert!(has("--master=https://10.0.0.1:6443"), "{arguments}");
        assert!(has("--config=/var/lib/kube-proxy/config.conf"), "{arguments}");
    }
    let objects = objects(&text)?;
    let written =
        of_kind(&objects, "ConfigMap")?["data"]["config.conf"].as_str().context("no configuration")?;
    let wanted = json!({"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables"});
    assert_eq!(serde_saphyr::from_str::<Value>(written)?, wanted);
    Ok(())
}

#[test]
fn an_image_is_named_by_tag_or_by_digest() -> Result<()> {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let image =
        |values: &[&str]| Ok::<_, anyhow::Error>(pods(&template(values)?)?["containers"][0]["image"].take());
    assert_eq!(image(&[r#"image.repository="r.example/k""#, r#"image.tag="v9""#])?, "r.example/k:v9");
    let named = format!("image.digest={digest:?}");
    assert_eq!(image(&[&named])?, format!("localhost/kubeshunt@{digest}"));
    Ok(())
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() -> Result<()> {
    for (value, named) in [
        ("wakeSocket=true", "wakeSocket"),
        (r#"wakeSockets="yes""#, "wakeSockets"),
        (r#"apiServer="10.0.0.1""#, "apiServer"),
        ("healthzPort=0", "healthzPort"),
        (r#"image.digest="latest""#, "digest"),
    ] {
        let error = template(&[value]).expect_err(value);
        assert!(format!("{error:#}").contains(named), "{value}: {error:#}");
    }
    let both = template(&[r#"existingConfigMap="kube-proxy""#, r#"configuration={"mode": "ipvs"}"#]);
    assert!(both.is_err(), "two configurations at once");
    Ok(())
}

#[test]
fn helm_finds_nothing_to_complain_about() -> Result<()> {
    tools::run("helm", &["lint", "--strict", "--kube-version=v1.36.0", "chart"], &folder()).map(drop)
}

#[test]
fn the_chart_has_the_version_of_the_program() -> Result<()> {
    let chart: Value = serde_saphyr::from_str(&crate::manifests::text("chart/Chart.yaml")?)?;
    for field in ["version", "appVersion"] {
        assert_eq!(chart[field], env!("CARGO_PKG_VERSION"), "{field}");
    }
    Ok(())
}
