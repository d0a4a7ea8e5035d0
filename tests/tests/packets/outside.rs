//! Clients outside: which backends they reach, what these see of them, and who answers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use kubeshunt_tests::cluster::{EXTERNAL, NODE_PORT, everywhere};
use kubeshunt_tests::manifests::{Node, Service};
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::stage::{PORT, TARGET_PORT};
use kubeshunt_tests::wait;

use crate::answers::{ask, is_met_with_silence, reaches};
use crate::settings::{Setting, in_every_setting};
use crate::watch::Watch;
use crate::{SOON_MS, doors, outside, serving};

in_every_setting!(
    local_backends_see_the_clients_own_address,
    remote_backends_see_an_address_of_the_node_that_was_asked,
    all_backends_are_reached_wherever_they_are,
    policy_local_reaches_local_backends_only_and_keeps_the_clients_address,
    policy_local_is_silent_on_a_node_without_backends,
    clients_from_pods_addresses_reach_all_backends_under_policy_local,
    connections_that_are_used_count_as_established,
    an_answer_to_the_node_is_no_question_though_its_port_is_a_node_port,
);

fn own(address: IpAddr) -> BTreeSet<IpAddr> {
    BTreeSet::from([address])
}

fn local_backends_see_the_clients_own_address(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[0], |service| service)?;
    let (watch, client) = (Watch::over(&cluster)?, outside(&cluster));
    for door in doors(&cluster).into_iter().filter(|door| door.node == 0) {
        reaches(client, door.to, &["backend-0"], &own(client.ip(door.to.ip())), door.name)?;
    }
    watch.assert_clean();
    Ok(())
}

fn remote_backends_see_an_address_of_the_node_that_was_asked(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[1], |service| service)?;
    let (watch, client, node) = (Watch::over(&cluster)?, outside(&cluster), cluster.addresses(0)?);
    for door in doors(&cluster).into_iter().filter(|door| door.node == 0) {
        reaches(client, door.to, &["backend-0"], &node, door.name)?;
    }
    watch.assert_clean();
    Ok(())
}

fn all_backends_are_reached_wherever_they_are(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[0, 1, 1], |service| service)?;
    let (watch, client) = (Watch::over(&cluster)?, outside(&cluster));
    for door in doors(&cluster) {
        let mut seen = cluster.addresses(door.node)?;
        seen.insert(client.ip(door.to.ip()));
        reaches(client, door.to, &["backend-0", "backend-1", "backend-2"], &seen, door.name)?;
    }
    watch.assert_clean();
    Ok(())
}

fn policy_local_reaches_local_backends_only_and_keeps_the_clients_address(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[0, 1], Service::external_local)?;
    let (watch, client) = (Watch::over(&cluster)?, outside(&cluster));
    for door in doors(&cluster) {
        let local = ["backend-0", "backend-1"][door.node];
        reaches(client, door.to, &[local], &own(client.ip(door.to.ip())), door.name)?;
    }
    watch.assert_clean();
    Ok(())
}

fn policy_local_is_silent_on_a_node_without_backends(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[1], Service::external_local)?;
    for door in doors(&cluster) {
        if door.node == 0 {
            is_met_with_silence(outside(&cluster), door.to, door.name)?;
        } else {
            let own = own(outside(&cluster).ip(door.to.ip()));
            reaches(outside(&cluster), door.to, &["backend-0"], &own, door.name)?;
        }
    }
    Ok(())
}

/// Detection by address, as kube-proxy's `detectLocalMode: ClusterCIDR` has it, and by the Node object.
fn clients_from_pods_addresses_reach_all_backends_under_policy_local(setting: Setting) -> Result<()> {
    for by_node in [false, true] {
        let mut cluster = setting.cluster()?;
        [0, 1].into_iter().try_for_each(|node| cluster.add_backend(node))?;
        cluster.publish(&everywhere("web", 1).external_local(), "web", &[0, 1])?;
        let client = outside(&cluster);
        let ranges = [format!("{}/32", client.v4()), format!("{}/128", client.v6())];
        if by_node {
            let node = ranges.iter().fold(Node::new("node-a"), |node, range| node.pod_subnet(range));
            cluster.folder.write("node", &[&node])?;
            cluster.start_with(|setup| setup.arg("--detect-local-mode=NodeCIDR"))?;
        } else {
            let ranges = format!("--cluster-cidr={}", ranges.join(","));
            cluster.start_with(|setup| setup.arg("--detect-local-mode=ClusterCIDR").arg(&ranges))?;
        }
        let client = outside(&cluster);
        for door in doors(&cluster).into_iter().filter(|door| door.node == 0) {
            let mut seen = cluster.addresses(door.node)?;
            seen.insert(client.ip(door.to.ip()));
            reaches(client, door.to, &["backend-0", "backend-1"], &seen, door.name)?;
        }
    }
    Ok(())
}

/// Others end after a minute, and make room for new ones.
fn connections_that_are_used_count_as_established(setting: Setting) -> Result<()> {
    let mut cluster = serving(setting, &[1], |service| service)?;
    let door = cluster.nodes[0].host().at4(NODE_PORT);
    let client = outside(&cluster).another_probe("holder")?;
    let session = client.session(&Target::tcp(door).timeout_ms(SOON_MS))?.session;
    client.exchange(session, 3)?;
    let kubeshunt = cluster.kubeshunt(0)?;
    let established = || kubeshunt.metric("kubeshunt_flows{protocol=\"TCP\",state=\"established\"}");
    // A pass over all flows comes every ten seconds.
    let within = Duration::from_secs(25);
    wait::until_true("it is established", within, || Ok(established().is_ok_and(|count| count > 0.5)))
}

/// What netfilter does with a datagram when it draws that port, done on purpose.
fn an_answer_to_the_node_is_no_question_though_its_port_is_a_node_port(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[1], |service| service)?;
    let (backend, host) = (&cluster.backends[0].0, cluster.nodes[0].host());
    for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
        let door = SocketAddr::new(host.ip(any), NODE_PORT);
        ask(outside(&cluster), door, 1, "a flow, so that the backend is known")?;
        let from = Some(SocketAddr::new(any, NODE_PORT));
        let target = Target::udp(SocketAddr::new(backend.ip(any), TARGET_PORT)).timeout_ms(SOON_MS);
        let report = host.probe().ask(&Target { from, ..target }, 3, 1)?;
        assert_eq!(report.failed(), 0, "{any}: {:?}", report.errors);
        ask(outside(&cluster), door, 1, "questions are questions still")?;
    }
    Ok(())
}

/// Of the ports that netfilter draws for a thousand flows, some eight are those that we drew for others.
#[test]
fn whatever_ports_netfilter_draws_each_answer_reaches_its_client() -> Result<()> {
    let cluster = serving(Setting::Overlay, &[1], |service| service)?;
    for address in EXTERNAL {
        let target = Target::udp(SocketAddr::new(address, PORT)).timeout_ms(SOON_MS);
        let report = outside(&cluster).probe().ask(&target, 1000, 1)?;
        assert_eq!(report.failed(), 0, "{address}: {:?}", report.errors);
    }
    Ok(())
}
