//! The layouts carry packets, and differ where they should.

use std::net::IpAddr;

use anyhow::Result;
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::{Layout, Node, Station, Testbed, netfilter};

use crate::{assert_reaches, serve};

/// Two nodes of a layout, each with a pod that serves.
fn two_nodes(layout: Layout) -> Result<(Testbed, [Node; 2], [Station; 2])> {
    let bed = Testbed::new()?;
    let nodes = [bed.node_with("node-a", layout)?, bed.node_with("node-b", layout)?];
    let pods = [nodes[0].pod("pod-a")?, nodes[1].pod("pod-b")?];
    pods.iter().try_for_each(serve)?;
    Ok((bed, nodes, pods))
}

fn pods_and_hosts_reach_pods(layout: Layout, rules: bool) -> Result<()> {
    let (_bed, nodes, pods) = two_nodes(layout)?;
    if rules {
        nodes.iter().try_for_each(Node::add_cni_rules)?;
    }
    let (near, strange) = (nodes[0].pod("near")?, nodes[0].bypassing_pod("strange")?);
    for client in [&near, &strange] {
        for pod in &pods {
            assert_reaches(client, pod.at4(8080), pod.name());
            assert_reaches(client, pod.at6(8080), pod.name());
        }
    }
    // With what source a host reaches pods is the layout's own business.
    for (pod, host) in pods.iter().flat_map(|pod| nodes.iter().map(move |node| (pod, node.host()))) {
        for to in [pod.at4(8080), pod.at6(8080)] {
            let report = host.probe().ask(&Target::tcp(to), 3, 1)?;
            assert_eq!(report.answered.get(pod.name()), Some(&3), "{} to {to}: {report:?}", host.name());
        }
    }
    Ok(())
}

#[test]
fn pods_on_links_of_their_own_are_reached() -> Result<()> {
    pods_and_hosts_reach_pods(Layout::PointToPoint, false)
}

#[test]
fn pods_in_an_overlay_are_reached() -> Result<()> {
    pods_and_hosts_reach_pods(Layout::Overlay, false)
}

#[test]
fn a_cnis_rules_let_pods_pass_in_every_layout() -> Result<()> {
    Layout::ALL.into_iter().try_for_each(|layout| pods_and_hosts_reach_pods(layout, true))
}

#[test]
fn a_cnis_rules_masquerade_what_leaves_the_cluster() -> Result<()> {
    for layout in Layout::ALL {
        let (bed, nodes, pods) = two_nodes(layout)?;
        nodes.iter().try_for_each(Node::add_cni_rules)?;
        assert_eq!(netfilter::look(nodes[0].netns())?.nftables, Some(2));
        serve(bed.outside())?;
        for to in [bed.outside().at4(8080), bed.outside().at6(8080)] {
            let report = pods[0].probe().ask(&Target::udp(to), 3, 1)?;
            let seen: Vec<IpAddr> = report.seen_as.iter().copied().collect();
            assert_eq!(seen, [nodes[0].host().ip(to.ip())], "{layout}, {to}: {report:?}");
        }
    }
    Ok(())
}

#[test]
fn a_cnis_rules_forward_for_pods_only() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let elsewhere = "203.0.113.7".parse()?;
    bed.route_outside((elsewhere, 32), &node)?;
    let beyond = bed.outsider("beyond")?;
    beyond.add_address((elsewhere, 32))?;
    node.netns().links(async |links| links.route((elsewhere, 32), beyond.v4().into()).await)?;
    serve_at(&beyond, elsewhere)?;
    let ask = || bed.outside().probe().ask(&Target::tcp((elsewhere, 8080).into()).timeout_ms(200), 1, 1);
    assert_eq!(ask()?.successes(), 1);
    node.add_cni_rules()?;
    assert_eq!(ask()?.errors.get("TIMEOUT"), Some(&1));
    Ok(())
}

fn serve_at(station: &Station, address: IpAddr) -> Result<()> {
    station.probe().serve(kubeshunt_tests::protocol::Service::Tcp, (address, 8080).into()).map(|_| ())
}

#[test]
fn only_routed_pods_are_known_on_the_lan() -> Result<()> {
    for layout in Layout::ALL {
        let (bed, _nodes, pods) = two_nodes(layout)?;
        for to in [pods[0].at4(8080), pods[0].at6(8080)] {
            let report = bed.outside().probe().ask(&Target::tcp(to).timeout_ms(300), 1, 1)?;
            assert_eq!(report.successes() == 1, layout != Layout::Overlay, "{layout}, {to}: {report:?}");
        }
    }
    Ok(())
}

#[test]
fn a_node_that_filters_the_reverse_path_still_forwards() -> Result<()> {
    for layout in Layout::ALL {
        let (_bed, nodes, pods) = two_nodes(layout)?;
        nodes.iter().try_for_each(Node::filter_reverse_path)?;
        assert_reaches(&pods[0], pods[1].at4(8080), "pod-b");
    }
    Ok(())
}

#[test]
fn processes_of_a_bypassing_pod_are_in_no_nodes_cgroup() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let pod = node.bypassing_pod("strange")?;
    assert!(!pod.cgroup().path().starts_with(node.cgroup().path()));
    assert!(pod.cgroup().processes()?.contains(&pod.probe().pid()));
    Ok(())
}
