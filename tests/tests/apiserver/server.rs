//! The API server that tests share, and the identity that `deploy/base/rbac.yaml` makes.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::apiserver::{ADMIN_TOKEN, ApiServer, Binaries, Options, User};
use kubeshunt_tests::wait;
use serde_json::json;

/// Where all Services of these tests are.
pub(crate) const NAMESPACE: &str = "shop";

/// kubeshunt's token at the shared server.
pub(crate) const TOKEN: &str = "service-account-token";

/// The service account of `deploy/base/rbac.yaml`.
pub(crate) const ACCOUNT: &str = "system:serviceaccount:kube-system:kubeshunt";
pub(crate) const ACCOUNT_GROUPS: [&str; 3] =
    ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];

static SHARED: Mutex<Option<Arc<ApiServer>>> = Mutex::new(None);

/// The users of a server that knows kubeshunt by this token.
pub(crate) fn users(token: &str) -> Vec<User> {
    vec![User::new(ADMIN_TOKEN, "admin", &["system:masters"]), User::new(token, ACCOUNT, &ACCOUNT_GROUPS)]
}

/// The text of `deploy/base/rbac.yaml`.
pub(crate) fn rbac() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base/rbac.yaml");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// A server of one's own, with the roles in place.
pub(crate) fn start(token: &str) -> Result<ApiServer> {
    let binaries = Binaries::find_or_build(|progress| eprintln!("{progress}"))?;
    // It is also reached at the first address of the range for Services, and through the first node.
    let names = vec!["10.96.0.1".to_owned(), "192.168.0.11".to_owned()];
    let api = ApiServer::start_with(&binaries, Options { users: users(token), names, ..Options::default() })?;
    // The server makes its namespaces in the background.
    wait::until_true("kube-system exists", Duration::from_secs(60), || {
        Ok(api.request("GET", "/api/v1/namespaces/kube-system", None)?.status == 200)
    })?;
    api.apply(&rbac()?)?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    api.apply_all(&[namespace])?;
    Ok(api)
}

/// The shared server, without what an earlier test left in it.
pub(crate) fn shared() -> Result<Arc<ApiServer>> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let api = match &*shared {
        Some(api) => Arc::clone(api),
        None => {
            let api = Arc::new(start(TOKEN)?);
            // SAFETY: the handler only takes a value out of a static and drops it, on the thread that exits.
            ensure!(unsafe { libc::atexit(stop_shared) } == 0, "atexit takes no more handlers");
            Arc::clone(shared.insert(api))
        }
    };
    // A failed test may have left it dead.
    if api.request("GET", "/readyz", None).is_err() {
        api.restart()?;
    }
    for collection in ["/api/v1", "/apis/discovery.k8s.io/v1"] {
        let kind = if collection.ends_with("/api/v1") { "services" } else { "endpointslices" };
        let path = format!("{collection}/namespaces/{NAMESPACE}/{kind}");
        api.request("DELETE", &path, None)?.json()?;
    }
    Ok(api)
}

/// Statics are not dropped: this removes the server's files.
extern "C" fn stop_shared() {
    drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
}
