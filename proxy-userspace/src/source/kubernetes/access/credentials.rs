//! Who we are, and to whom: the kubeconfig or the service account, and the files they name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use http::Uri;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::super::requests::Requests;
use super::network::Network;

const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How to find the API server.
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    /// The kubeconfig file; without one, the service account of the pod this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The servers' URLs, best first, over the one in the kubeconfig or the pod's environment. A kube-proxy
    /// replacement in a pod needs one: the address in the pod's environment is a cluster IP, which nobody serves before
    /// we do.
    pub servers: Vec<String>,
    /// The address that the kubelet has put into the environment: as a rule the cluster IP of `default/kubernetes`.
    pub in_environment: Option<SocketAddr>,
    /// Where an earlier process found API servers: tried when none of the others answers.
    pub last_known: Vec<SocketAddr>,
    /// Where requests are counted.
    pub requests: Requests,
    /// How connections are made.
    pub network: Network,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The kubeconfig is missing or wrong.
    #[error("the kubeconfig {path} cannot be used: {source}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<kube::config::KubeconfigError>,
    },
    /// There is no service account.
    #[error(
        "neither a kubeconfig was given nor is this a pod with a service account ({0}); give --kubeconfig"
    )]
    InCluster(#[source] kube::config::InClusterError),
    /// The URL is none.
    #[error("{url:?} is not the URL of an API server: {reason}")]
    Server {
        /// What was given.
        url: String,
        /// Why it is wrong.
        reason: String,
    },
    /// The token file cannot be used.
    #[error("the token file {path} cannot be used: {reason}")]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Certificates or credentials cannot be used.
    #[error("no client can be made of the certificates and credentials: {0}")]
    Client(#[source] Box<kube::Error>),
}

/// The contents of all files that matter; `None` for one that cannot be read.
pub(super) type Fingerprint = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// All that clients have in common, for the best of the servers; and the servers, at least one.
pub(super) async fn read(settings: &AccessSettings) -> Result<(Config, Vec<Uri>), AccessError> {
    let servers = settings.servers.iter().map(|url| server_url(url)).collect::<Result<Vec<_>, _>>()?;
    let mut config = config(settings, servers.first()).await?;
    read_token(&mut config)?;
    let servers = if servers.is_empty() { vec![config.cluster_url.clone()] } else { servers };
    Ok((config, servers))
}

async fn config(settings: &AccessSettings, server: Option<&Uri>) -> Result<Config, AccessError> {
    let mut config = match (&settings.kubeconfig, server) {
        (Some(path), _) => {
            let failed = |source| AccessError::Kubeconfig { path: path.clone(), source: Box::new(source) };
            let mut kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
            if let Some(server) = server {
                // Before the file is interpreted, so that one without any server is fine as well.
                let clusters = kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut());
                clusters.for_each(|cluster| cluster.server = Some(server.to_string()));
            }
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        (None, Some(server)) if !Path::new(SERVICE_ACCOUNT).join("token").exists() => {
            Config::new(server.clone())
        }
        // The name in it is replaced below; unlike the other constructor it asks for no environment variables.
        (None, Some(_)) => Config::incluster_dns().map_err(AccessError::InCluster)?,
        (None, None) => Config::incluster_env().map_err(AccessError::InCluster)?,
    };
    if let Some(server) = server {
        config.cluster_url = server.clone();
    }
    Ok(config)
}

/// Puts the contents of the token file in its place. As in Kubernetes' own clients, white space around the token
/// does not belong to it (whoever writes one by `echo` adds a newline), and the file goes before a token beside it.
fn read_token(config: &mut Config) -> Result<(), AccessError> {
    let auth = &mut config.auth_info;
    let Some(path) = auth.token_file.take() else { return Ok(()) };
    let text = std::fs::read_to_string(&path).map_err(|error| error.to_string());
    match text.as_deref().map(str::trim) {
        Ok(token) if !token.is_empty() => auth.token = Some(token.to_owned().into()),
        _ if auth.token.is_some() => {}
        Ok(_) => return Err(AccessError::Token { path: path.into(), reason: "it is empty".to_owned() }),
        Err(reason) => return Err(AccessError::Token { path: path.into(), reason: reason.to_owned() }),
    }
    Ok(())
}

/// Whether an address can be that of an API server.
///
/// # Errors
/// Why not.
pub fn check_server(url: &str) -> Result<(), AccessError> {
    server_url(url).map(drop)
}

/// Whether a kubeconfig can be read.
///
/// # Errors
/// Why not.
pub fn check_kubeconfig(path: &Path) -> Result<(), AccessError> {
    let failed = |source| AccessError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    Kubeconfig::read_from(path).map(drop).map_err(failed)
}

fn server_url(url: &str) -> Result<Uri, AccessError> {
    let wrong = |reason: String| AccessError::Server { url: url.to_owned(), reason };
    let parsed: Uri = url.parse().map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
    match parsed.scheme_str() {
        Some("http" | "https") if parsed.host().is_some() => Ok(parsed),
        _ => Err(wrong("it must begin with https:// (or http://) and name a host".to_owned())),
    }
}

/// Reads all files a client depends on. They are few and small.
pub(super) fn fingerprint(settings: &AccessSettings) -> Fingerprint {
    let mut files = Vec::new();
    if let Some(path) = &settings.kubeconfig {
        files.push(path.clone());
        if let Ok(kubeconfig) = Kubeconfig::read_from(path) {
            files.extend(named_files(&kubeconfig));
        }
    } else {
        files.extend(["token", "ca.crt"].map(|name| Path::new(SERVICE_ACCOUNT).join(name)));
    }
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).ok())).collect()
}

fn named_files(kubeconfig: &Kubeconfig) -> Vec<PathBuf> {
    let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let users = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let of_clusters = clusters.filter_map(|cluster| cluster.certificate_authority.clone());
    let of_users = users.flat_map(|user| {
        [user.client_certificate.clone(), user.client_key.clone(), user.token_file.clone()]
            .into_iter()
            .flatten()
    });
    of_clusters.chain(of_users).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for url in ["https://10.0.0.1:6443", "http://[fd00::1]:8080", "https://api.example/k8s"] {
            assert!(server_url(url).is_ok(), "{url}");
        }
        for url in ["", "10.0.0.1:6443", "api.example", "ftp://x", "https://", "not a url"] {
            let error = server_url(url).expect_err(url);
            assert!(error.to_string().contains("is not the URL of an API server"), "{error}");
        }
    }

    #[test]
    fn files_named_in_a_kubeconfig_count() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("kubeconfig");
        let text = serde_json::json!({
            "clusters": [{"name": "k", "cluster": {"server": "https://x", "certificate-authority": "ca.crt"}}],
            "users": [{"name": "u", "user": {"client-certificate": "a.crt", "client-key": "a.key", "tokenFile": "/t"}}],
        });
        std::fs::write(&path, text.to_string()).expect("writable");
        let settings = AccessSettings { kubeconfig: Some(path), ..AccessSettings::default() };
        let before = fingerprint(&settings);
        assert_eq!(before.len(), 5, "{:?}", before.keys());
        std::fs::write(folder.path().join("a.key"), "new").expect("writable");
        assert_ne!(fingerprint(&settings), before);
    }
}
