//! Access to the API server: address, certificates, credentials, and how they are renewed.
//!
//! Before every request (each page of a list, each start of a watch, so at least every five minutes) the files the
//! client was made of are read again: the kubeconfig, the certificates, keys and tokens it names, or the service
//! account's token and certificate. If any of them has other contents than before, a new client is made. When the
//! server answers 401 a new client is made in any case, which also runs credential plugins (`exec`) again. A file
//! that cannot be used at that moment leaves the old client in place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::Mutex;
use tower::ServiceBuilder;

use super::requests::Requests;

const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A dead peer is noticed after this long without a sign of life...
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
/// ...and this many probes...
const KEEPALIVE_PROBES: u32 = 3;
/// ...at this distance.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
/// For a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How to find the API server.
#[derive(Clone, Debug, Default)]
pub struct AccessSettings {
    /// The kubeconfig file; without one, the service account of the pod this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The server's URL, over the one in the kubeconfig or the pod's environment. A kube-proxy replacement in a pod
    /// needs it: the address in the pod's environment is a cluster IP, which nobody serves before we do.
    pub master: Option<String>,
    /// Where requests are counted.
    pub requests: Requests,
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
    Master {
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

/// A client that follows its credentials.
#[derive(Debug)]
pub(super) struct Access {
    settings: AccessSettings,
    current: Mutex<Current>,
}

struct Current {
    client: Client,
    made_of: Fingerprint,
    complained: bool,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the client nor the contents of the files belong into a log.
        f.debug_struct("Current").field("files", &self.made_of.keys()).finish_non_exhaustive()
    }
}

/// The contents of all files that matter; `None` for one that cannot be read.
type Fingerprint = BTreeMap<PathBuf, Option<Vec<u8>>>;

impl Access {
    pub(super) async fn new(settings: AccessSettings) -> Result<Self, AccessError> {
        // Before the client, so that a file replaced in between leads to a new one.
        let made_of = fingerprint(&settings);
        let client = client(&settings).await?;
        Ok(Self { settings, current: Mutex::new(Current { client, made_of, complained: false }) })
    }

    /// The client to use now.
    pub(super) async fn client(&self) -> Client {
        let mut current = self.current.lock().await;
        let made_of = fingerprint(&self.settings);
        if made_of != current.made_of {
            self.renew_from(&mut current, made_of).await;
        }
        current.client.clone()
    }

    /// The server did not accept the credentials.
    pub(super) async fn renew(&self) {
        let mut current = self.current.lock().await;
        let made_of = fingerprint(&self.settings);
        self.renew_from(&mut current, made_of).await;
    }

    async fn renew_from(&self, current: &mut Current, made_of: Fingerprint) {
        match client(&self.settings).await {
            Ok(client) => *current = Current { client, made_of, complained: false },
            // Perhaps half-written. The fingerprint stays the old one, so the next request tries again.
            Err(error) if !current.complained => {
                tracing::warn!(%error, "changed credentials cannot be used; keeping the old ones and trying again");
                current.complained = true;
            }
            Err(_) => {}
        }
    }
}

async fn client(settings: &AccessSettings) -> Result<Client, AccessError> {
    let mut config = config(settings).await?;
    read_token(&mut config)?;
    build(config, &settings.requests).map_err(|error| AccessError::Client(Box::new(error)))
}

async fn config(settings: &AccessSettings) -> Result<Config, AccessError> {
    let master = settings.master.as_deref().map(master_url).transpose()?;
    let mut config = match (&settings.kubeconfig, &master) {
        (Some(path), _) => {
            let failed = |source| AccessError::Kubeconfig { path: path.clone(), source: Box::new(source) };
            let mut kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
            if let Some(master) = &master {
                // Before the file is interpreted, so that one without any server is fine as well.
                let clusters = kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut());
                clusters.for_each(|cluster| cluster.server = Some(master.to_string()));
            }
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        (None, Some(master)) if !Path::new(SERVICE_ACCOUNT).join("token").exists() => {
            Config::new(master.clone())
        }
        // The name in it is replaced below; unlike the other constructor it asks for no environment variables.
        (None, Some(_)) => Config::incluster_dns().map_err(AccessError::InCluster)?,
        (None, None) => Config::incluster_env().map_err(AccessError::InCluster)?,
    };
    if let Some(master) = master {
        config.cluster_url = master;
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

fn master_url(url: &str) -> Result<http::Uri, AccessError> {
    let wrong = |reason: String| AccessError::Master { url: url.to_owned(), reason };
    let parsed: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
    match parsed.scheme_str() {
        Some("http" | "https") if parsed.host().is_some() => Ok(parsed),
        _ => Err(wrong("it must begin with https:// (or http://) and name a host".to_owned())),
    }
}

/// Like kube's own client, but with keep-alive on the connection and without retries, which the watch does better.
fn build(config: Config, requests: &Requests) -> Result<Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE_AFTER));
    tcp.set_keepalive_interval(Some(KEEPALIVE_EVERY));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    let connector = config.rustls_https_connector_with_connector(tcp)?;
    let transport =
        hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .layer(requests)
        .service(transport);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

/// Reads all files a client depends on. They are few and small.
fn fingerprint(settings: &AccessSettings) -> Fingerprint {
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
            assert!(master_url(url).is_ok(), "{url}");
        }
        for url in ["", "10.0.0.1:6443", "api.example", "ftp://x", "https://", "not a url"] {
            let error = master_url(url).expect_err(url);
            assert!(error.to_string().contains("is not the URL of an API server"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let settings = AccessSettings {
            kubeconfig: Some("/nonexistent/kubeconfig".into()),
            master: None,
            ..AccessSettings::default()
        };
        let error = Access::new(settings).await.expect_err("not there");
        assert!(
            error.to_string().starts_with("the kubeconfig /nonexistent/kubeconfig cannot be used"),
            "{error}"
        );
    }
    #[tokio::test]
    async fn tls_needs_no_preparation() {
        let settings = AccessSettings {
            kubeconfig: None,
            master: Some("https://192.0.2.1:6443".to_owned()),
            ..AccessSettings::default()
        };
        Access::new(settings).await.expect("a client, though nobody is there");
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
        let settings = AccessSettings { kubeconfig: Some(path), master: None, ..AccessSettings::default() };
        let before = fingerprint(&settings);
        assert_eq!(before.len(), 5, "{:?}", before.keys());
        std::fs::write(folder.path().join("a.key"), "new").expect("writable");
        assert_ne!(fingerprint(&settings), before);
    }
}
