//! The manifests in `deploy/`: what kustomize makes of them, and whether the API server takes it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::apiserver::ApiServer;
use serde_json::{Value, json};

use crate::scene::{objects, of_kind};
use crate::server::shared;

/// Everything that kustomize makes something of.
const RENDERED: [&str; 4] = ["base", "overlays/kubeadm", "overlays/kind", "overlays/k3s"];

/// The image, as all manifests name it.
const IMAGE: &str = concat!("localhost/kubeshunt:", env!("CARGO_PKG_VERSION"));

/// The folder of manifests.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// A file in it.
pub(crate) fn text(name: &str) -> Result<String> {
    fs::read_to_string(folder().join(name)).with_context(|| format!("cannot read deploy/{name}"))
}

/// What `kubectl kustomize` makes of a folder in it.
pub(crate) fn rendered(api: &ApiServer, name: &str) -> Result<String> {
    let folder = folder().join(name);
    api.kubectl(&["kustomize", &folder.display().to_string()], None)
}

/// Has the API server judge YAML as if it were applied: every field known, every value allowed.
pub(crate) fn accepted(api: &ApiServer, yaml: &str) -> Result<String> {
    // As somebody whose word counts, for tests before this one may have applied the same as somebody else.
    let judged = ["apply", "--server-side", "--force-conflicts", "--field-manager=judge", "--dry-run=server"];
    let judged = [&judged[..], &["--validate=strict", "-f", "-"]].concat();
    api.kubectl(&judged, Some(yaml))
}

/// The specification of the Pods of the first DaemonSet.
fn pods(objects: &[Value]) -> Result<Value> {
    Ok(of_kind(objects, "DaemonSet")?["spec"]["template"]["spec"].clone())
}

#[test]
fn the_api_server_accepts_what_kustomize_makes() -> Result<()> {
    let api = shared()?;
    for name in RENDERED {
        let yaml = rendered(&api, name)?;
        let said = accepted(&api, &yaml).with_context(|| name.to_owned())?;
        assert_eq!(said.lines().count(), objects(&yaml)?.len(), "{name}: {said}");
    }
    Ok(())
}

#[test]
fn a_field_that_is_misspelt_is_not_accepted() -> Result<()> {
    let api = shared()?;
    let yaml = rendered(&api, "base")?;
    for (right, wrong) in
        [("readOnlyRootFilesystem", "readOnlyRootFileSystem"), ("type: spc_t", "typ: spc_t")]
    {
        ensure!(yaml.contains(right), "{right} is not in the base");
        let error = accepted(&api, &yaml.replace(right, wrong)).expect_err("misspelt");
        let word = wrong.split(':').next().unwrap_or_default();
        assert!(format!("{error:#}").contains(word), "{error:#}");
    }
    Ok(())
}

#[test]
fn the_static_pod_is_accepted_and_differs_from_the_daemon_set_only_in_its_credentials() -> Result<()> {
    let api = shared()?;
    let yaml = text("static-pod.yaml")?;
    accepted(&api, &yaml)?;
    let mut pod = objects(&yaml)?.remove(0);
    let base = objects(&rendered(&api, "base")?)?;
    let template = &of_kind(&base, "DaemonSet")?["spec"]["template"];
    for field in ["labels", "annotations"] {
        assert_eq!(pod["metadata"][field], template["metadata"][field]);
    }
    let mut wanted = template["spec"].clone();
    wanted.as_object_mut().context("a specification")?.remove("serviceAccountName");
    for containers in ["initContainers", "containers"] {
        let container = &mut pod["spec"][containers][0];
        for (list, own) in [
            ("args", json!("--kubeconfig=/etc/kubernetes/kubeshunt.conf")),
            (
                "volumeMounts",
                json!({"name": "kubeconfig", "mountPath": "/etc/kubernetes/kubeshunt.conf", "readOnly": true}),
            ),
        ] {
            assert_eq!(container[list].as_array_mut().and_then(Vec::pop), Some(own), "{containers}: {list}");
        }
    }
    pod["spec"]["volumes"].as_array_mut().and_then(Vec::pop).context("a volume")?;
    assert_eq!(pod["spec"], wanted);
    Ok(())
}

#[test]
fn every_manifest_names_the_image_that_is_made() -> Result<()> {
    let api = shared()?;
    let mut all = vec![objects(&text("static-pod.yaml")?)?.remove(0)["spec"].clone()];
    for name in RENDERED {
        all.push(pods(&objects(&rendered(&api, name)?)?)?);
    }
    for spec in all {
        for containers in ["initContainers", "containers"] {
            assert_eq!(spec[containers][0]["image"], IMAGE);
        }
    }
    Ok(())
}

#[test]
fn without_sys_admin_the_other_capabilities_stay() -> Result<()> {
    let api = shared()?;
    let copy = tempfile::tempdir()?;
    for name in ["base", "components/without-sys-admin"] {
        fs::create_dir_all(copy.path().join(name))?;
        for file in fs::read_dir(folder().join(name))? {
            let file = file?;
            fs::copy(file.path(), copy.path().join(name).join(file.file_name()))?;
        }
    }
    let overlay = copy.path().join("overlay");
    fs::create_dir(&overlay)?;
    fs::write(
        overlay.join("kustomization.yaml"),
        "resources: [../base]\ncomponents: [../components/without-sys-admin]\n",
    )?;
    let yaml = api.kubectl(&["kustomize", &overlay.display().to_string()], None)?;
    let spec = pods(&objects(&yaml)?)?;
    let added = &spec["containers"][0]["securityContext"]["capabilities"]["add"];
    assert_eq!(*added, json!(["BPF", "NET_ADMIN", "PERFMON"]));
    Ok(())
}
