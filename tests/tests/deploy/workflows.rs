//! The workflows in `.github`, which only run there: what can be judged here.

use std::path::Path;

use anyhow::Result;
use kubeshunt_tests::tools;
use serde_json::Value;

use crate::manifests::text;

#[test]
fn the_workflows_are_well_formed() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Other programs that it would call are not there everywhere.
    let workflows = ["ci", "dependencies", "kind"].map(|name| format!(".github/workflows/{name}.yml"));
    let arguments = ["-shellcheck=", "-pyflakes="].into_iter().chain(workflows.iter().map(String::as_str));
    let arguments: Vec<&str> = arguments.collect();
    tools::run("actionlint", &arguments, &root).map(drop)
}

#[test]
fn kinds_cluster_has_no_kube_proxy_and_the_name_that_the_overlay_asks_for() -> Result<()> {
    let cluster: Value = serde_saphyr::from_str(&text("overlays/kind/cluster.yaml")?)?;
    assert_eq!(cluster["networking"]["kubeProxyMode"], "none");
    // A node is called after its cluster, which is `kind` unless it has a name.
    assert!(cluster["name"].is_null());
    assert!(text("overlays/kind/kustomization.yaml")?.contains("https://kind-control-plane:6443"));
    Ok(())
}
