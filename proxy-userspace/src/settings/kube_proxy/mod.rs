//! kube-proxy's command line: every flag of its release 1.36 on Linux, under its name.
//!
//! - [`Process`]: flags that count whether there is a configuration file or not;
//! - [`Obeyed`], [`Accepted`]: flags that a configuration file takes the place of, all of them.

mod accepted;
mod obeyed;
mod process;

pub use accepted::Accepted;
use clap::Args;
pub use obeyed::Obeyed;
pub use process::Process;

use crate::configuration::KubeProxyConfiguration;

/// Heading of [`Process`].
pub const PROCESS: &str = "kube-proxy's, also with --config";
/// Heading of [`Obeyed`].
pub const OBEYED: &str = "kube-proxy's settings, which --config replaces";
/// Heading of [`Accepted`].
pub const ACCEPTED: &str = "kube-proxy's settings that change nothing here (what is set says so in the log)";

/// The whole command line of kube-proxy.
#[derive(Args, Debug, Clone, Default)]
pub struct KubeProxy {
    /// What counts in any case.
    #[command(flatten)]
    pub process: Process,
    /// What a configuration file replaces, and means something here.
    #[command(flatten)]
    pub obeyed: Obeyed,
    /// What a configuration file replaces, and means nothing here.
    #[command(flatten)]
    pub accepted: Accepted,
}

impl KubeProxy {
    /// The configuration that the command line makes without a file.
    #[must_use]
    pub fn configuration(&self) -> KubeProxyConfiguration {
        let mut configuration = KubeProxyConfiguration::defaulted();
        self.obeyed.apply(&mut configuration);
        self.accepted.apply(&mut configuration);
        configuration
    }
}

/// Sets a field, if the command line says so.
fn set<T: Clone>(field: &mut T, said: Option<&T>) {
    if let Some(said) = said {
        field.clone_from(said);
    }
}

/// Sets a field that has a default of its own, if the command line says so.
fn set_some<T: Copy>(field: &mut Option<T>, said: Option<T>) {
    if said.is_some() {
        *field = said;
    }
}
