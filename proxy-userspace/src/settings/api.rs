//! What the user said about the API server.

use std::net::{IpAddr, SocketAddr};

use clap::Args;

/// The API server.
#[derive(Args, Debug, Clone)]
pub struct Api {
    /// Addresses of API servers, separated by commas, in place of the kubeconfig's, after that of --master. The first that
    /// can be reached is followed; once those before it are back, they are. After them come the endpoints of the Service
    /// default/kubernetes. Certificates have to be good for the name or address in the URL
    #[arg(long, value_name = "URL", value_delimiter = ',', conflicts_with = "manifests")]
    pub api_servers: Vec<String>,
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
        let api = Api { api_servers: ["b", " a ", "", "c", "b"].map(str::to_owned).to_vec() };
        assert_eq!(api.servers(Some("a")), ["a", "b", "c"]);
        assert_eq!(api.servers(None), ["b", "a", "c"]);
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
