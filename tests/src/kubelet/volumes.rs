//! A Pod's volumes, as folders and files of this machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Kubelet, fields};

/// Where every container finds the credentials of its service account.
pub(super) const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where volumes are, by name. The credentials are one more, by the path above.
pub(super) type Volumes = BTreeMap<String, PathBuf>;

/// Makes all volumes of a Pod, below that folder where they are no files of the node.
pub(super) fn prepare(kubelet: &Kubelet, pod: &Value, folder: &Path) -> Result<Volumes> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let namespace = pod["metadata"]["namespace"].as_str().context("a Pod without namespace")?;
    let mut volumes = Volumes::new();
    for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        let name = volume["name"].as_str().context("a volume without name")?;
        fields(volume, "volume", &["name", "hostPath", "configMap"])?;
        let place = if volume["hostPath"].is_object() {
            host_path(kubelet, &volume["hostPath"])
        } else {
            config_map(kubelet, namespace, &volume["configMap"], &folder.join(name))
        };
        volumes.insert(name.to_owned(), place.with_context(|| format!("volume {name}"))?);
    }
    if pod["spec"]["automountServiceAccountToken"] != Value::Bool(false)
        && let Some(account) = pod["spec"]["serviceAccountName"].as_str()
    {
        let place = credentials(kubelet, namespace, account, &folder.join("service-account"))?;
        volumes.insert(SERVICE_ACCOUNT.to_owned(), place);
    }
    Ok(volumes)
}

fn host_path(kubelet: &Kubelet, source: &Value) -> Result<PathBuf> {
    fields(source, "hostPath", &["path", "type"])?;
    let path = source["path"].as_str().context("no path")?;
    let place = kubelet.place(path);
    match source["type"].as_str() {
        // Every node has what a Pod mounts without saying what it is.
        None | Some("" | "DirectoryOrCreate") => fs::create_dir_all(&place)?,
        Some("FileOrCreate") => {
            fs::create_dir_all(place.parent().context("a file has a folder")?)?;
            File::options().create(true).append(true).open(&place)?;
        }
        Some("Directory") => ensure!(place.is_dir(), "the node has no folder {path}"),
        Some("File") => ensure!(place.is_file(), "the node has no file {path}"),
        Some(other) => bail!("a hostPath of type {other}"),
    }
    Ok(place)
}

fn config_map(kubelet: &Kubelet, namespace: &str, source: &Value, folder: &Path) -> Result<PathBuf> {
    fields(source, "configMap", &["name", "defaultMode"])?;
    let name = source["name"].as_str().context("no name")?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
    let object = kubelet.api.request("GET", &path, None)?.json()?;
    fs::create_dir(folder)?;
    for (key, text) in object["data"].as_object().into_iter().flatten() {
        fs::write(folder.join(key), text.as_str().with_context(|| format!("{key} is no text"))?)?;
    }
    Ok(folder.to_owned())
}

/// A token that the API server makes for the account, as it does for kubelets.
fn credentials(kubelet: &Kubelet, namespace: &str, account: &str, folder: &Path) -> Result<PathBuf> {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let ask = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3607}});
    let answer = kubelet.api.request("POST", &path, Some(&ask))?.json()?;
    fs::create_dir(folder)?;
    fs::write(folder.join("token"), answer["status"]["token"].as_str().context("no token")?)?;
    fs::write(folder.join("namespace"), namespace)?;
    fs::copy(kubelet.api.ca(), folder.join("ca.crt")).context("cannot copy the authority's certificate")?;
    Ok(folder.to_owned())
}
