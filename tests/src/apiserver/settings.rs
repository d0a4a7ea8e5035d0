//! How a server is set up, and whom it knows.

use std::net::{IpAddr, Ipv4Addr};

/// Bearer token of a user in `system:masters`, who may do everything.
pub const ADMIN_TOKEN: &str = "admin-token";

/// Bearer token of the user `kubeshunt` in the group `kubeshunt`, who may do nothing until a role is bound.
pub const KUBESHUNT_TOKEN: &str = "kubeshunt-token";

/// A user that the server knows by a bearer token.
#[derive(Clone, Debug)]
pub struct User {
    /// What the client presents.
    pub token: String,
    /// The name that role bindings use. It may be a service account's,
    /// `system:serviceaccount:NAMESPACE:NAME`, to try the roles of a manifest as they are.
    pub name: String,
    /// The groups that role bindings use.
    pub groups: Vec<String>,
}

impl User {
    /// A user with these groups.
    pub fn new(token: &str, name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|&group| group.into()).collect();
        Self { token: token.into(), name: name.into(), groups }
    }
}

/// How an [`ApiServer`] is set up. The default suits most tests.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen. Default: 127.0.0.1 of the network namespace that the starting thread is in.
    pub listen: IpAddr,
    /// Further names or addresses for the serving certificate, beside `listen` and the loopback's.
    pub names: Vec<String>,
    /// Addresses for Services, primary family first. Default: 10.96.0.0/16 and fd00:10:96::/108.
    pub service_cidrs: String,
    /// Default: those of [`ADMIN_TOKEN`] (which the methods here need) and [`KUBESHUNT_TOKEN`].
    pub users: Vec<User>,
    /// Further arguments of kube-apiserver.
    pub args: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: Ipv4Addr::LOCALHOST.into(),
            names: Vec::new(),
            service_cidrs: "10.96.0.0/16,fd00:10:96::/108".into(),
            users: vec![
                User::new(ADMIN_TOKEN, "admin", &["system:masters"]),
                User::new(KUBESHUNT_TOKEN, "kubeshunt", &["kubeshunt"]),
            ],
            args: Vec::new(),
        }
    }
}
