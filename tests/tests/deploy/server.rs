//! The API server that tests share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use kubeshunt_tests::apiserver::{ApiServer, Binaries, Options};
use kubeshunt_tests::wait;

/// The names by which manifests call the server.
pub(crate) const NAMES: [&str; 2] = ["api.kubeshunt.test", "kind-control-plane"];

static SHARED: Mutex<Option<Arc<ApiServer>>> = Mutex::new(None);

/// The shared server.
pub(crate) fn shared() -> Result<Arc<ApiServer>> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(api) = &*shared {
        return Ok(Arc::clone(api));
    }
    let binaries = Binaries::find_or_build(|progress| eprintln!("{progress}"))?;
    let names = NAMES.map(str::to_owned).into();
    let api = Arc::new(ApiServer::start_with(&binaries, Options { names, ..Options::default() })?);
    // The server makes its namespaces in the background.
    wait::until_true("kube-system exists", Duration::from_secs(60), || {
        Ok(api.request("GET", "/api/v1/namespaces/kube-system", None)?.status == 200)
    })?;
    // SAFETY: the handler only takes a value out of a static and drops it, on the thread that exits.
    ensure!(unsafe { libc::atexit(stop_shared) } == 0, "atexit takes no more handlers");
    Ok(Arc::clone(shared.insert(api)))
}

/// Statics are not dropped: this removes the server's files.
extern "C" fn stop_shared() {
    drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
}
