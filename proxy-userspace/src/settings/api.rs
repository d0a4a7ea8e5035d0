//! What the user said about the API server.

use std::{
    ffi::OsStr,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use clap::Args;

use super::Switch;

/// The API server.
#[derive(Args, Debug, Clone)]
pub struct Api {
    /// Addresses of API servers, separated by commas, in place of the kubeconfig's, after that of --master. The first that
    /// can be reached is followed; once those before it are back, they are. After them come the endpoints of the Service
    /// default/kubernetes. Certificates have to be good for the name or address in the URL
    #[arg(long, value_name = "URL", value_delimiter = ',', conflicts_with = "manifests")]
    pub api_servers: Vec<String>,
    /// Write Kubernetes events, about this node (a start) and about Services of which something is not served
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub events: Switch,
}

impl Api {
    /// The addresses that were given, best first.
    #[must_use]
    pub fn servers(&self, master: Option<&str>) -> Vec<String> {
        let mut servers: Vec<String> = master.into_iter().map(str::to_owned).collect();
        for server in self.api_servers.iter().map(|server| server.trim()).filter(|server| !server.is_empty())
        {
            if !servers.iter().any(|known| known == server) {
                servers.push(server.to_owned());
            }
        }
        servers
    }
}

/// What this binary was called as, in whose name it reports: `kube-proxy` if it stands in for that one.
#[must_use]
pub fn reporting_controller(called_as: Option<&OsStr>) -> &'static str {
    let name = called_as.and_then(|path| Path::new(path).file_name());
    if name.is_some_and(|name| name == "kube-proxy") { "kube-proxy" } else { "kubeshunt" }
}

/// Where the kubelet says that the API server is: as a rule the cluster IP of `default/kubernetes`. `variable` reads the
/// environment.
#[must_use]
pub fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Option<SocketAddr> {
    let host: IpAddr = variable("KUBERNETES_SERVICE_HOST")?.trim().parse().ok()?;
    let port = variable("KUBERNETES_SERVICE_PORT")?.trim().parse().ok()?;
    Some(SocketAddr::new(host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_master_goes_first_and_nobody_twice() {
        let api_servers = ["b", " a ", "", "c", "b"].map(str::to_owned).to_vec();
        let api = Api { api_servers, events: Switch::On };
        assert_eq!(api.servers(Some("a")), ["a", "b", "c"]);
        assert_eq!(api.servers(None), ["b", "a", "c"]);
    }

    #[test]
    fn who_stands_in_for_kube_proxy_reports_as_kube_proxy() {
        let of = |name: &str| reporting_controller(Some(OsStr::new(name)));
        assert_eq!(of("/usr/local/bin/kube-proxy"), "kube-proxy");
        assert_eq!((of("kubeshunt"), reporting_controller(None)), ("kubeshunt", "kubeshunt"));
    }

    #[test]
    fn the_environment_names_an_address_or_nothing() {
        let of = |host: &str, port: &str| {
            let (host, port) = (host.to_owned(), port.to_owned());
            of_environment(move |name| match name {
                "KUBERNETES_SERVICE_HOST" => Some(host.clone()),
                "KUBERNETES_SERVICE_PORT" => Some(port.clone()),
                _ => None,
            })
        };
        assert_eq!(of("10.96.0.1", "443"), Some(([10, 96, 0, 1], 443).into()));
        assert_eq!(of("fd00::1", "443").map(|to| to.to_string()).as_deref(), Some("[fd00::1]:443"));
        assert_eq!((of("api.example", "443"), of("10.96.0.1", "https")), (None, None));
    }
}
