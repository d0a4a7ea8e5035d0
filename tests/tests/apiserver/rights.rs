//! The rights of `deploy/base/rbac.yaml`: enough, and none too many.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::apiserver::ApiServer;
use kubeshunt_tests::proxy::HEALTHZ;
use kubeshunt_tests::{Kubeshunt, Ready, wait};
use serde_json::{Value, json};

use crate::objects::{port, service};
use crate::server::{ACCOUNT, ACCOUNT_GROUPS, TOKEN, rbac, shared};
use crate::stage::{CONVERGE, NODE, Scenery, Stage};

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/kubeshunt";

/// Puts the role back for the tests that follow, also when this one fails.
pub(crate) struct Restore(Arc<ApiServer>);

impl Restore {
    /// From now on.
    pub(crate) fn new(api: &Arc<ApiServer>) -> Self {
        Self(Arc::clone(api))
    }

    /// Takes away what the role says of a resource, and waits until that is so.
    pub(crate) fn without(&self, resource: &str) -> Result<()> {
        let all = rights(&self.0.request("GET", ROLE, None)?.json()?["rules"]);
        let (spared, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|right| right.resource == resource);
        grant(&self.0, &rest)?;
        wait::until_true("the right is gone", CONVERGE, || {
            spared.iter().try_fold(true, |all, right| Ok(all && !is_allowed(&self.0, right)?))
        })
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        if let Err(error) = rbac().and_then(|text| self.0.apply(&text)) {
            eprintln!("the role is not restored: {error:#}");
        }
    }
}

fn is_allowed(api: &ApiServer, right: &Right) -> Result<bool> {
    let attributes = json!({"group": right.group, "resource": right.resource, "verb": right.verb});
    let spec = json!({"user": ACCOUNT, "groups": ACCOUNT_GROUPS, "resourceAttributes": attributes});
    let review =
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec});
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    Ok(api.request("POST", path, Some(&review))?.json()?["status"]["allowed"] == Value::Bool(true))
}

#[derive(Clone, Debug)]
struct Right {
    group: String,
    resource: String,
    verb: String,
}

impl Right {
    fn rule(&self) -> Value {
        let Self { group, resource, verb } = self;
        json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]})
    }
}

/// All that the rules give.
fn rights(rules: &Value) -> Vec<Right> {
    let list = |rule: &Value, field: &str| -> Vec<String> {
        let texts = rule[field].as_array().into_iter().flatten();
        texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let mut rights = Vec::new();
    for rule in rules.as_array().into_iter().flatten() {
        for group in list(rule, "apiGroups") {
            for resource in list(rule, "resources") {
                for verb in list(rule, "verbs") {
                    rights.push(Right { group: group.clone(), resource: resource.clone(), verb });
                }
            }
        }
    }
    rights
}

fn grant(api: &ApiServer, rights: &[Right]) -> Result<()> {
    let rules: Vec<_> = rights.iter().map(Right::rule).collect();
    api.request("PATCH", ROLE, Some(&json!({"rules": rules})))?.json().map(drop)
}

#[test]
fn the_role_is_enough() -> Result<()> {
    let stage = Stage::new()?;
    stage.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata":
        {"name": NODE, "labels": {"topology.kubernetes.io/zone": "here"}}}))?;
    stage.apply(&service("web", json!({"ports": [port("http", "TCP", 80)]})))?;
    stage.apply(&stage.slices("web", "http", &[&stage.pods[0]])[0])?;
    stage.settle("making web")?;
    stage.reaches((stage.cluster_ips("web")?[0], 80).into(), &[&stage.pods[0]])?;
    stage.kubectl(&["delete", "node", NODE])?;
    let log = stage.log()?;
    ensure!(!log.contains("forbidden"), "{log}");
    Ok(())
}

#[test]
fn nothing_of_the_role_can_be_spared() -> Result<()> {
    let api = shared()?;
    let _restore = Restore::new(&api);
    let scenery = Scenery::new(Arc::clone(&api))?;
    let kubeconfig = scenery.kubeconfig(TOKEN)?;
    let all = rights(&api.request("GET", ROLE, None)?.json()?["rules"]);
    ensure!(all.len() == 9, "{all:?}");
    let mut last = None;
    for (index, spared) in all.iter().enumerate() {
        drop(last.take());
        let rest: Vec<_> = all
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index)
            .map(|(_, right)| right.clone())
            .collect();
        grant(&api, &rest)?;
        wait::until_true("the right is gone", CONVERGE, || Ok(!is_allowed(&api, spared)?))?;
        wait::until_true("the others are there", CONVERGE, || {
            rest.iter().try_fold(true, |all, right| Ok(all && is_allowed(&api, right)?))
        })?;

        let setup = Scenery::setup(&kubeconfig);
        let complaint = format!("cannot {} resource \\\"{}\\\"", spared.verb, spared.resource);
        let seen = complaint.clone();
        let before = scenery.log_length();
        let complains = move |kubeshunt: &Kubeshunt| -> Result<bool> {
            let log = fs::read_to_string(kubeshunt.log()).context("cannot read the log")?;
            let log = log.get(before..).unwrap_or_default();
            Ok(log.contains(&seen) && log.contains("are the RBAC rules in place?"))
        };
        let kubeshunt = Kubeshunt::start(&scenery.node, setup.ready(Ready::When(Arc::new(complains))))
            .context(complaint)?;
        if spared.verb == "list" && spared.resource != "servicecidrs" {
            let (code, _) = wait::until("/readyz answers", CONVERGE, || {
                Ok(kubeshunt.get(HEALTHZ.port(), "/readyz").ok())
            })?;
            ensure!(code == 503, "ready without the right to {} {}", spared.verb, spared.resource);
        }
        println!("without {} {}: complains", spared.verb, spared.resource);
        last = Some(kubeshunt);
    }
    // Given back, the last one's right is used without a restart.
    grant(&api, &all)?;
    let kubeshunt = last.context("there were rights")?;
    wait::until_true("kubeshunt notices the right", Duration::from_secs(15), || {
        let log = fs::read_to_string(kubeshunt.log()).context("cannot read the log")?;
        Ok(log
            .lines()
            .rev()
            .take_while(|line| !line.contains("lost the API server"))
            .any(|line| line.contains("is back")))
    })?;
    Ok(())
}
