//! A real kube-apiserver with its etcd, for tests that want the API itself and not a mock of it.
//!
//! [`Binaries`] finds or builds the programs pinned by `apiserver/go.mod`, [`ApiServer`] runs them, and a
//! [`CuttingProxy`] stands between the server and a client to break their connection at will; a [`FaultyProxy`] breaks
//! what they say to each other.
//!
//! No controller runs. Nothing makes EndpointSlices out of Pods, a test writes them by hand, and the
//! server's own `default/kubernetes` Service has none.

mod binaries;
pub(crate) mod cache;
mod credentials;
mod cutting_proxy;
mod daemon;
mod faulty_proxy;
mod kubectl;
mod port;
mod request;
mod server;
mod settings;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use binaries::Binaries;
pub use cutting_proxy::CuttingProxy;
pub use faulty_proxy::{FaultyProxy, Trouble};
pub use request::Response;
pub use server::ApiServer;
pub use settings::{ADMIN_TOKEN, KUBESHUNT_TOKEN, Options, User};

/// The last lines of a text.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A panic of one test says nothing about what these locks guard.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
