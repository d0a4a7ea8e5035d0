//! kube-proxy's configuration: `KubeProxyConfiguration` of `kubeproxy.config.k8s.io/v1alpha1`, the only version there is.
//!
//! Pure. What is said of kube-proxy here was read in its release 1.36: `staging/src/k8s.io/kube-proxy/config/v1alpha1`
//! (types), `pkg/proxy/apis/config` (defaults, conversion, validation) and `cmd/kube-proxy/app/options.go`.
//!
//! - [`v1alpha1`]: the type, field by field;
//! - [`document`]: its YAML, read as leniently as kube-proxy does, and written as it does;
//! - [`defaults`]: what is not said;
//! - [`validation`]: what cannot be meant;
//! - [`gates`]: Kubernetes' feature gates;
//! - [`fields`]: every field, its flag, and whether it has an effect here.

pub mod defaults;
pub mod document;
pub mod duration;
pub mod fields;
pub mod gates;
pub mod v1alpha1;
pub mod validation;

#[cfg(test)]
mod tests;

pub use duration::Duration;
pub use v1alpha1::KubeProxyConfiguration;

/// How kube-proxy would do its work. Here it chooses defaults, and is what /proxyMode says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The default.
    Iptables,
    /// Deprecated since Kubernetes 1.35.
    Ipvs,
    /// The newest.
    Nftables,
}

/// The periods of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods {
    /// Between attempts.
    pub sync: Duration,
    /// Between changes, at least.
    pub min_sync: Duration,
}

impl KubeProxyConfiguration {
    /// The mode; one that there is not counts as none, for [`validation`] refuses it.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match self.mode.as_str() {
            "ipvs" => Mode::Ipvs,
            "nftables" => Mode::Nftables,
            _ => Mode::Iptables,
        }
    }

    /// The periods in the stanza of the mode.
    #[must_use]
    pub fn periods(&self) -> Periods {
        let (sync, min_sync) = match self.mode() {
            Mode::Iptables => (self.iptables.sync_period, self.iptables.min_sync_period),
            Mode::Ipvs => (self.ipvs.sync_period, self.ipvs.min_sync_period),
            Mode::Nftables => (self.nftables.sync_period, self.nftables.min_sync_period),
        };
        Periods { sync, min_sync }
    }

    /// Sets the periods of the mode.
    pub fn set_periods(&mut self, Periods { sync, min_sync }: Periods) {
        let stanza = match self.mode() {
            Mode::Iptables => (&mut self.iptables.sync_period, &mut self.iptables.min_sync_period),
            Mode::Ipvs => (&mut self.ipvs.sync_period, &mut self.ipvs.min_sync_period),
            Mode::Nftables => (&mut self.nftables.sync_period, &mut self.nftables.min_sync_period),
        };
        (*stanza.0, *stanza.1) = (sync, min_sync);
    }

    /// `masqueradeAll` of the mode; the one of iptables counts for ipvs, too.
    pub fn masquerade_all_mut(&mut self) -> &mut bool {
        match self.mode() {
            Mode::Nftables => &mut self.nftables.masquerade_all,
            Mode::Iptables | Mode::Ipvs => &mut self.iptables.masquerade_all,
        }
    }

    /// Forgets what the stanzas of other modes say of the settings that each mode has, as kube-proxy does when it writes
    /// its configuration.
    pub fn forget_other_modes(&mut self) {
        let periods = self.periods();
        let masquerade_all = *self.masquerade_all_mut();
        let none = Duration::ZERO;
        (self.iptables.sync_period, self.iptables.min_sync_period) = (none, none);
        (self.ipvs.sync_period, self.ipvs.min_sync_period) = (none, none);
        (self.nftables.sync_period, self.nftables.min_sync_period) = (none, none);
        (self.iptables.masquerade_all, self.nftables.masquerade_all) = (false, false);
        self.set_periods(periods);
        *self.masquerade_all_mut() = masquerade_all;
    }
}
