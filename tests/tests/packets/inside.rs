//! Pods that no socket hook sees: their packets carry the addresses of Services.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use kubeshunt_tests::cluster::{INGRESS, NODE_PORT, everywhere};
use kubeshunt_tests::manifests::{Endpoint, EndpointSlice};
use kubeshunt_tests::protocol::{OneSocket, Target};
use kubeshunt_tests::stage::{PORT, TARGET_PORT, at4, at6, serve, vip4, vip6};
use kubeshunt_tests::{Cluster, Sniffer, Station};

use crate::answers::{ask, is_refused};
use crate::settings::{Setting, in_every_setting};
use crate::watch::{Watch, is_cluster_ip};
use crate::{SOON_MS, serving};

in_every_setting!(
    a_pod_reaches_a_backend_on_its_own_node,
    a_pod_reaches_a_backend_on_another_node,
    a_pod_reaches_itself,
    a_pod_reaches_the_node_port_of_its_own_node,
    a_port_that_no_service_has_is_refused,
    an_address_that_no_service_has_leaves_no_node,
    one_client_port_serves_three_connections_to_one_backend,
);

/// Asks for the Service's cluster IPs from a bypassing pod on node-a.
fn a_pod_reaches_a_backend_on(setting: Setting, node: usize) -> Result<()> {
    let cluster = serving(setting, &[node], |service| service)?;
    let (pod, watch) = (cluster.bypassing_pod(0, "strange")?, Watch::over(&cluster)?);
    for to in [at4(1), at6(1)] {
        for report in ask(&pod, to, 20, &to.to_string())? {
            assert_eq!(report.answered.get("backend-0"), Some(&20), "{to}");
        }
    }
    if node == 1 {
        watch.assert_clean();
    }
    Ok(())
}

fn a_pod_reaches_a_backend_on_its_own_node(setting: Setting) -> Result<()> {
    a_pod_reaches_a_backend_on(setting, 0)
}

fn a_pod_reaches_a_backend_on_another_node(setting: Setting) -> Result<()> {
    a_pod_reaches_a_backend_on(setting, 1)
}

fn a_pod_reaches_itself(setting: Setting) -> Result<()> {
    let mut cluster = setting.cluster()?;
    let pod = cluster.bypassing_pod(0, "strange")?;
    serve(&pod, TARGET_PORT)?;
    let [v4, v6] = [EndpointSlice::v4("web"), EndpointSlice::v6("web")]
        .map(|slice| slice.tcp(Some("tcp"), TARGET_PORT).udp(Some("udp"), TARGET_PORT));
    let v4 = v4.endpoint(Endpoint::ready(pod.v4()).on_node("node-a"));
    let v6 = v6.endpoint(Endpoint::ready(pod.v6()).on_node("node-a"));
    cluster.folder.write("web", &[&everywhere("web", 1), &v4, &v6])?;
    cluster.start()?;
    for to in [at4(1), at6(1)] {
        for report in ask(&pod, to, 5, &to.to_string())? {
            assert_eq!(report.answered.get("strange"), Some(&5), "{to}");
        }
    }
    Ok(())
}

fn a_pod_reaches_the_node_port_of_its_own_node(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[1], |service| service)?;
    let (pod, watch) = (cluster.bypassing_pod(0, "strange")?, Watch::over(&cluster)?);
    let host = cluster.nodes[0].host();
    for to in [host.at4(NODE_PORT), host.at6(NODE_PORT)] {
        ask(&pod, to, 20, &to.to_string())?;
    }
    watch.assert_clean();
    Ok(())
}

/// The Service range of IPv4, as the program is told of it.
const RANGE: &str = "10.96.0.0/16";
/// That of IPv6, as it finds it.
const SERVICE_CIDR: &str = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\n\
                            spec: {cidrs: [\"fd00:96::/112\"]}\n";

/// A cluster that knows the Service range, with a bypassing pod.
fn with_range(setting: Setting) -> Result<(Cluster, Station)> {
    let mut cluster = setting.cluster()?;
    cluster.add_backend(0)?;
    cluster.publish(&everywhere("web", 1), "web", &[0])?;
    cluster.folder.write_text("ranges", SERVICE_CIDR)?;
    cluster.start_with(|setup| setup.arg("--service-cidr").arg(RANGE))?;
    let pod = cluster.bypassing_pod(0, "strange")?;
    Ok((cluster, pod))
}

fn a_port_that_no_service_has_is_refused(setting: Setting) -> Result<()> {
    let (_cluster, pod) = with_range(setting)?;
    for vip in [vip4(1), vip6(1)] {
        is_refused(&pod, SocketAddr::new(vip, 4711), "a port of the cluster IP")?;
    }
    Ok(())
}

fn an_address_that_no_service_has_leaves_no_node(setting: Setting) -> Result<()> {
    let (cluster, pod) = with_range(setting)?;
    let leaked = |frame: &kubeshunt_tests::sniffer::Frame| {
        frame.packet().is_some_and(|packet| packet.mentions(&is_cluster_ip))
    };
    let lan = Sniffer::start(cluster.nodes[0].netns(), "eth0", leaked)?;
    for vip in [vip4(77), vip6(77)] {
        for target in [Target::tcp(SocketAddr::new(vip, PORT)), Target::udp(SocketAddr::new(vip, PORT))] {
            assert_eq!(pod.probe().ask(&target.timeout_ms(200), 1, 1)?.successes(), 0);
        }
    }
    let leaks = lan.stop().frames;
    assert!(leaks.is_empty(), "{} packets left, the first: {:?}", leaks.len(), leaks[0].packet());
    Ok(())
}

fn one_client_port_serves_three_connections_to_one_backend(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[0], |service| service)?;
    let pod = cluster.bypassing_pod(0, "strange")?;
    let host = cluster.nodes[0].host();
    for (names, own) in [
        ([at4(1), host.at4(NODE_PORT), (INGRESS[0], PORT).into()], pod.v4().into()),
        ([at6(1), host.at6(NODE_PORT), (INGRESS[1], PORT).into()], IpAddr::from(pod.v6())),
    ] {
        let from = SocketAddr::new(own, 20_000);
        let open =
            |to: &SocketAddr| pod.probe().session(&Target::tcp(*to).sent_from(from).timeout_ms(SOON_MS));
        let sessions = names.iter().map(open).collect::<Result<Vec<_>>>()?;
        for _ in 0..5 {
            for session in &sessions {
                let health = pod.probe().exchange(session.session, 10)?;
                assert_eq!(health.broken, None, "{}", session.answer.sender);
            }
        }
        sessions.iter().try_for_each(|session| pod.probe().close_session(session.session))?;
        let to = [names, names].concat();
        let plan = OneSocket { to, reconnect: false, mapped: false, timeout_ms: SOON_MS };
        for exchange in pod.probe().one_socket(plan)? {
            let answer =
                exchange.result.map_err(|failure| anyhow::anyhow!("{}: {failure:?}", exchange.to))?;
            assert_eq!(answer.sender, exchange.to, "one UDP socket");
        }
    }
    Ok(())
}
