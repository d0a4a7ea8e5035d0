//! The life of one Service, as a user of kubectl leads it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use kubeshunt_tests::protocol::Service;
use serde_json::json;

use crate::objects::{endpoint, port, service, slice};
use crate::stage::{NODE, Stage};

/// The name that `kubectl create service --tcp=80:8080` gives to the port.
const PORT_NAME: &str = "80-8080";

#[test]
fn a_service_is_created_scaled_edited_deleted_and_made_again() -> Result<()> {
    let stage = Stage::new()?;
    let [red, green, blue] = &stage.pods;

    stage.kubectl(&["create", "service", "clusterip", "web", "--tcp=80:8080"])?;
    stage.settle("create service")?;
    let ip: IpAddr = *stage.cluster_ips("web")?.first().context("no cluster IP")?;
    let web = SocketAddr::new(ip, 80);
    stage.fails(web, "ECONNREFUSED")?;

    for (after, pods) in [
        ("the first endpoint", &[red][..]),
        ("scaling up", &[red, green, blue]),
        ("scaling down", &[blue]),
        ("moving", &[green, red]),
    ] {
        let [v4, _] = stage.slices("web", PORT_NAME, pods);
        stage.apply(&v4)?;
        stage.settle(after)?;
        stage.reaches(web, pods)?;
    }
    let [none, _] = stage.slices("web", PORT_NAME, &[]);
    stage.apply(&none)?;
    stage.settle("scaling to zero")?;
    stage.fails(web, "ECONNREFUSED")?;

    // Another target port; the slice is what a controller would make of it.
    blue.probe().serve(Service::Tcp, blue.at4(8081))?;
    let ports = json!([{"port": 80, "name": PORT_NAME, "targetPort": 8081}]);
    stage.patch("web", &json!({"spec": {"ports": ports}}))?;
    let ports = json!([{"name": PORT_NAME, "protocol": "TCP", "port": 8081}]);
    stage.apply(&slice("web", "IPv4", ports, vec![endpoint(blue.v4(), NODE)]))?;
    stage.settle("another target port")?;
    stage.reaches(web, &[blue])?;

    // Another port.
    stage.patch("web", &json!({"spec": {"ports": [{"port": 81, "name": PORT_NAME, "targetPort": 8081}]}}))?;
    stage.settle("another port")?;
    stage.reaches(SocketAddr::new(ip, 81), &[blue])?;
    // The address is still active: what no Service serves there is refused.
    stage.fails(web, "ECONNREFUSED")?;

    stage.kubectl(&["delete", "service", "web"])?;
    stage.settle("delete")?;
    stage.fails(SocketAddr::new(ip, 81), "TIMEOUT")?;

    // The same address for the same name, while its slice has stayed; then for another name.
    let spec = json!({"clusterIP": ip.to_string(), "ports": [port(PORT_NAME, "TCP", 80)]});
    stage.apply(&service("web", spec.clone()))?;
    stage.settle("the same name under the same address")?;
    stage.reaches(web, &[blue])?;
    stage.apply(&stage.slices("shop", PORT_NAME, &[green])[0])?;
    stage.kubectl(&["delete", "service", "web"])?;
    stage.apply(&service("shop", spec))?;
    stage.settle("another name under the same address")?;
    stage.reaches(web, &[green])?;
    Ok(())
}
