//! Access to the API servers: which one, certificates, credentials, and how they are renewed.
//!
//! Before every request (each page of a list, each start of a watch, so at least every five minutes) the files the
//! client was made of are read again: the kubeconfig, the certificates, keys and tokens it names, or the service
//! account's token and certificate. If any of them has other contents than before, a new client is made. When the
//! server answers 401 a new client is made in any case, which also runs credential plugins (`exec`) again. A file
//! that cannot be used at that moment leaves the old client in place.
//!
//! There may be several servers: see `servers` for which one is asked. Each is spoken to with the same credentials, and
//! its certificate has to be good for the name or address in its URL. A server further ahead than the one in use is asked
//! for its health twice a minute; when it has answered two times in a row, the next requests go to it. What is under way
//! elsewhere is left to its end.

mod attention;
mod busy;
mod credentials;
mod learned;
mod network;
mod servers;
mod transport;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Uri;
use kube::{Client, Config};
use tokio::time::Instant;

use self::busy::Busy;
pub use self::credentials::{AccessError, AccessSettings, check_kubeconfig, check_server};
use self::credentials::{Fingerprint, fingerprint};
use self::learned::Learned;
pub use self::network::{Dial, Network, Stream};
pub(crate) use self::servers::Next;
use self::servers::{Failure, Moved, Servers};
use crate::cluster::change::Change;

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Between two questions for the health of a better server.
    pub(super) probe: Duration,
    /// For the answer to that.
    pub(super) answer: Duration,
    /// Before it is said that no server has been found at all.
    pub(super) first_answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            probe: Duration::from_secs(30),
            answer: Duration::from_secs(5),
            first_answer: Duration::from_secs(10),
        }
    }
}

/// Clients that follow their credentials, and the servers.
#[derive(Debug)]
pub struct Access {
    settings: AccessSettings,
    patience: Patience,
    current: tokio::sync::Mutex<Current>,
    servers: Mutex<Servers>,
    learned: Mutex<Learned>,
}

struct Current {
    config: Config,
    /// Those made of it so far.
    clients: HashMap<Uri, Client>,
    made_of: Fingerprint,
    complained: bool,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the clients nor the contents of the files belong into a log.
        f.debug_struct("Current").field("files", &self.made_of.keys()).finish_non_exhaustive()
    }
}

/// A request to which there is no good answer.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Why.
    pub(crate) cause: Cause,
    /// When to try again.
    pub(crate) next: Next,
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    /// None at all.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    /// The server says no, or it could not be asked.
    #[error(transparent)]
    Answer(#[from] kube::Error),
    /// The credentials cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl Cause {
    /// When the server wants to be asked again, if it says so.
    pub(crate) fn asks_for_pause(&self) -> Option<Duration> {
        match self {
            Self::Answer(error) => Some(Busy::of(error)?.after),
            _ => None,
        }
    }

    /// What it says of the server; nothing if that is as it should be.
    fn failure(&self) -> Option<Failure> {
        match self {
            Self::Late(_) => Some(Failure::Gone),
            Self::Answer(kube::Error::Api(status)) => {
                (status.code >= 500 || status.code == 401).then_some(Failure::Unwell)
            }
            Self::Answer(error) if transport::is_no_connection(error) => Some(Failure::Gone),
            Self::Answer(error) if Busy::of(error).is_some_and(|busy| busy.status.is_client_error()) => None,
            Self::Answer(_) => Some(Failure::Unwell),
            Self::Access(_) => None,
        }
    }
}

impl Access {
    /// Reads the credentials; asks nobody yet.
    ///
    /// # Errors
    /// When no client can be made of the settings.
    pub async fn new(settings: AccessSettings) -> Result<Self, AccessError> {
        Self::with(settings, Patience::default()).await
    }

    pub(super) async fn with(settings: AccessSettings, patience: Patience) -> Result<Self, AccessError> {
        // Before the client, so that a file replaced in between leads to a new one.
        let made_of = fingerprint(&settings);
        let (current, configured) = Current::new(&settings, made_of).await?;
        let mut configured = configured.into_iter();
        let first = configured.next().unwrap_or_else(|| current.config.cluster_url.clone());
        let mut servers = Servers::new(first, configured);
        servers.learn(urls(&settings.last_known));
        Ok(Self {
            settings,
            patience,
            current: tokio::sync::Mutex::new(current),
            servers: Mutex::new(servers),
            learned: Mutex::default(),
        })
    }

    /// Sends a request to the server in use, and notes how that one does. `limit` is for all that `ask` waits
    /// for: of a list its text, of a watch its beginning.
    ///
    /// # Errors
    /// Whatever is not an answer of success; see [`Failed::next`] for when to try again.
    pub(crate) async fn ask<T, F>(&self, limit: Duration, ask: impl FnOnce(Client) -> F) -> Result<T, Failed>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let (server, client) = self.client().await;
        let answer = match client {
            Ok(client) => match tokio::time::timeout(limit, ask(client)).await {
                Ok(answer) => answer.map_err(Cause::from),
                Err(_) => Err(Cause::Late(limit)),
            },
            Err(error) => Err(error.into()),
        };
        let cause = match answer {
            Ok(answer) => {
                self.worked(&server);
                return Ok(answer);
            }
            Err(cause) => cause,
        };
        let next = match cause.failure() {
            Some(failure) => {
                self.servers().failed(&server, failure, &super::failure::chain(&cause), Instant::now())
            }
            None => {
                if matches!(cause, Cause::Answer(_)) {
                    self.worked(&server);
                }
                Next::AfterPause
            }
        };
        Err(Failed { cause, next })
    }

    /// The same for what is of less weight than following Services: whether the server is left does not depend on it. A
    /// webhook that is asked about events may be slow where nothing else is.
    ///
    /// # Errors
    /// Whatever is not an answer of success.
    pub(crate) async fn ask_in_passing<T, F>(
        &self,
        limit: Duration,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<T, Cause>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let (_, client) = self.client().await;
        match tokio::time::timeout(limit, ask(client?)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Cause::Late(limit)),
        }
    }

    /// The server did not accept the credentials.
    pub(super) async fn renew(&self) {
        let mut current = self.current.lock().await;
        let made_of = fingerprint(&self.settings);
        self.renew_from(&mut current, made_of).await;
    }

    /// A change of the endpoints of `default/kubernetes` is one of the servers.
    pub(super) fn learn(&self, change: &Change) {
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        if learned.take_in(change) {
            self.servers().learn(urls(&learned.addresses()));
        }
    }

    fn worked(&self, server: &Uri) {
        let Some(Moved { from, to, instead_of }) = self.servers().worked(server) else { return };
        match (from, instead_of) {
            (_, Some((other, problem))) => {
                tracing::warn!(server = %to, %other, problem, "the other API server cannot be used; following this one");
            }
            (Some(other), None) => tracing::info!(server = %to, %other, "following another API server again"),
            (None, None) => tracing::info!(server = %to, "following the API server"),
        }
    }

    /// The server in use, and a client for it.
    async fn client(&self) -> (Uri, Result<Client, AccessError>) {
        let server = self.servers().in_use().clone();
        let client = self.client_of(&server).await;
        (server, client)
    }

    async fn client_of(&self, server: &Uri) -> Result<Client, AccessError> {
        let mut current = self.current.lock().await;
        let made_of = fingerprint(&self.settings);
        if made_of != current.made_of {
            self.renew_from(&mut current, made_of).await;
        }
        current.client(server, &self.settings)
    }

    async fn renew_from(&self, current: &mut Current, made_of: Fingerprint) {
        match Current::new(&self.settings, made_of).await {
            Ok((new, configured)) => {
                *current = new;
                self.servers().configure(configured);
            }
            // Perhaps half-written. The fingerprint stays the old one, so the next request tries again.
            Err(error) if !current.complained => {
                tracing::warn!(%error, "changed credentials cannot be used; keeping the old ones and trying again");
                current.complained = true;
            }
            Err(_) => {}
        }
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        // Each of its methods leaves it whole, or panics before it changes anything.
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    /// With a client for the best server, so that what is wrong with the credentials shows.
    async fn new(settings: &AccessSettings, made_of: Fingerprint) -> Result<(Self, Vec<Uri>), AccessError> {
        let (config, servers) = credentials::read(settings).await?;
        let mut current = Self { config, clients: HashMap::new(), made_of, complained: false };
        let first = current.config.cluster_url.clone();
        current.client(&first, settings)?;
        Ok((current, servers))
    }

    fn client(&mut self, server: &Uri, settings: &AccessSettings) -> Result<Client, AccessError> {
        if let Some(client) = self.clients.get(server) {
            return Ok(client.clone());
        }
        let mut config = self.config.clone();
        config.cluster_url = server.clone();
        let client = transport::client(config, &settings.requests, &settings.network)
            .map_err(|error| AccessError::Client(Box::new(error)))?;
        self.clients.insert(server.clone(), client.clone());
        Ok(client)
    }
}

/// API servers speak TLS.
fn urls(addresses: &[SocketAddr]) -> Vec<Uri> {
    addresses.iter().filter_map(|address| format!("https://{address}").parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let settings = AccessSettings {
            kubeconfig: Some("/nonexistent/kubeconfig".into()),
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
            servers: vec!["https://192.0.2.1:6443".to_owned()],
            ..AccessSettings::default()
        };
        Access::new(settings).await.expect("a client, though nobody is there");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_named() {
        let servers = ["https://192.0.2.1:6443", "192.0.2.2"].map(str::to_owned).to_vec();
        let settings = AccessSettings { servers, ..AccessSettings::default() };
        let error = Access::new(settings).await.expect_err("no scheme");
        assert!(error.to_string().contains("\"192.0.2.2\" is not the URL of an API server"), "{error}");
    }
}
