//! Who gets which endpoints at which address of a Service, and whom the endpoints see: one table for each policy, as
//! kube-proxy's `TestInternalExternalMasquerade` and its neighbours have them (`pkg/proxy/nftables/proxier_test.go`).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread;

use anyhow::{Context, Result};
use kubeshunt_tests::cluster::{EXTERNAL, INGRESS, NODE_PORT, everywhere};
use kubeshunt_tests::manifests::{Endpoint, EndpointSlice, Service};
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::stage::{PORT, TARGET_PORT, at4, at6, vip4, vip6};
use kubeshunt_tests::{Cluster, Station};

use crate::answers::{ask, is_refused, reaches};
use crate::outside;
use crate::settings::{Setting, in_every_setting};

in_every_setting!(
    with_both_policies_cluster_everybody_gets_every_endpoint,
    with_external_policy_local_only_clients_elsewhere_are_kept_to_this_nodes_endpoints,
    with_external_policy_local_and_no_endpoint_here_only_clients_elsewhere_are_dropped,
    with_internal_policy_local_the_cluster_ip_alone_leads_to_this_nodes_endpoints,
    with_internal_policy_local_and_no_endpoint_here_the_cluster_ip_alone_drops,
    without_any_endpoint_everybody_is_refused_whatever_the_policies,
    draining_endpoints_elsewhere_are_used_and_make_dropping_of_refusing,
);

/// The addresses of a Service at the first node; the columns of every table.
const FRONTENDS: [&str; 4] = ["cluster IP", "node port", "load balancer", "external IP"];

/// What they meet, by its sign in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// `C`: every endpoint.
    Everywhere,
    /// `L`: the endpoints of this node.
    Here,
    /// `-`: dropped; at a socket, "no route to host".
    Dropped,
    /// `!`: refused.
    Refused,
    /// `.`: not asked here: the other node decides about its own processes, as the row `host` has it.
    NotAsked,
}

impl Fate {
    fn of(sign: &str) -> Self {
        match sign {
            "C" => Self::Everywhere,
            "L" => Self::Here,
            "-" => Self::Dropped,
            "!" => Self::Refused,
            "." => Self::NotAsked,
            _ => panic!("{sign:?}"),
        }
    }
}

/// Who asks; the rows of every table.
struct Client<'a> {
    name: &'static str,
    station: &'a Station,
    /// Its connections are led at the socket.
    by_socket: bool,
    /// The addresses under which endpoints of the first node see it, and those of the other.
    seen: [BTreeSet<IpAddr>; 2],
}

/// Where the endpoints are, and in which state.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Endpoints {
    None,
    HereAndElsewhere,
    Elsewhere,
    DrainingElsewhere,
}

/// The cluster of a table: `backend-0` on the first node and `backend-1` on the other, as far as there are any.
fn cluster(setting: Setting, endpoints: Endpoints, service: &Service) -> Result<Cluster> {
    let mut cluster = setting.cluster()?;
    for node in [0, 1] {
        cluster.add_backend(node)?;
    }
    for vip in [vip4(1), vip6(1)] {
        cluster.bed.route_outside((vip, if vip.is_ipv4() { 32 } else { 128 }), &cluster.nodes[0])?;
    }
    let slices = [EndpointSlice::v4("web"), EndpointSlice::v6("web")].map(|slice| {
        let is_v4 = slice.to_string().contains("addressType: IPv4");
        let endpoint = |index: usize| {
            let (pod, node) = &cluster.backends[index];
            let ip: IpAddr = if is_v4 { pod.v4().into() } else { pod.v6().into() };
            Endpoint::ready(ip).on_node(cluster.nodes[*node].name())
        };
        let slice = slice.tcp(Some("tcp"), TARGET_PORT).udp(Some("udp"), TARGET_PORT);
        match endpoints {
            Endpoints::None => slice,
            Endpoints::HereAndElsewhere => slice.endpoint(endpoint(0)).endpoint(endpoint(1)),
            Endpoints::Elsewhere => slice.endpoint(endpoint(1)),
            Endpoints::DrainingElsewhere => slice.endpoint(endpoint(1).terminating(true)),
        }
    });
    cluster.folder.write("web", &[service, &slices[0], &slices[1]])?;
    cluster.start()?;
    Ok(cluster)
}

/// Asks as each row says, and wants what it says; all clients at once.
fn play(setting: Setting, endpoints: Endpoints, service: &Service, table: &[(&str, &str)]) -> Result<()> {
    let cluster = cluster(setting, endpoints, service)?;
    let pod = cluster.nodes[0].pod("pod")?;
    let sandbox = cluster.bypassing_pod(0, "sandbox")?;
    let [node, other] = [cluster.addresses(0)?, cluster.addresses(1)?];
    let own = |station: &Station| BTreeSet::from([IpAddr::from(station.v4()), IpAddr::from(station.v6())]);
    let client = |name, station, by_socket, here: &BTreeSet<IpAddr>, elsewhere: &BTreeSet<IpAddr>| Client {
        name,
        station,
        by_socket,
        seen: [here.clone(), elsewhere.clone()],
    };
    let outside = outside(&cluster);
    let clients = [
        client("pod", &pod, true, &own(&pod), &own(&pod)),
        client("sandbox", &sandbox, false, &own(&sandbox), &own(&sandbox)),
        client("host", cluster.nodes[0].host(), true, &node, &node),
        client("other node", cluster.nodes[1].host(), false, &other, &node),
        client("outside", outside, false, &own(outside), &node),
    ];
    assert_eq!(
        table.iter().map(|row| row.0).collect::<Vec<_>>(),
        clients.each_ref().map(|client| client.name)
    );
    thread::scope(|scope| {
        let rows = clients.iter().zip(table).map(|(client, (_, signs))| {
            let cluster = &cluster;
            scope.spawn(move || row(cluster, endpoints, client, signs))
        });
        let rows: Vec<_> = rows.collect();
        rows.into_iter().try_for_each(|row| row.join().expect("a row does not panic"))
    })
}

fn row(cluster: &Cluster, endpoints: Endpoints, client: &Client<'_>, signs: &str) -> Result<()> {
    let host = cluster.nodes[0].host();
    let at = |ips: [IpAddr; 2], port| ips.map(|ip| SocketAddr::new(ip, port));
    let addresses =
        [[at4(1), at6(1)], [host.at4(NODE_PORT), host.at6(NODE_PORT)], at(INGRESS, PORT), at(EXTERNAL, PORT)];
    let signs: Vec<&str> = signs.split_whitespace().collect();
    assert_eq!(signs.len(), FRONTENDS.len());
    for ((frontend, both), sign) in FRONTENDS.iter().zip(addresses).zip(signs) {
        for to in both {
            let what = format!("{} to {frontend} {to}", client.name);
            meets(endpoints, client, to, Fate::of(sign), &what).with_context(|| what.clone())?;
        }
    }
    Ok(())
}

fn meets(endpoints: Endpoints, client: &Client<'_>, to: SocketAddr, fate: Fate, what: &str) -> Result<()> {
    let [here, elsewhere] = &client.seen;
    match fate {
        Fate::Everywhere if endpoints == Endpoints::HereAndElsewhere => reaches_both(client, to, what),
        Fate::Everywhere => reaches(client.station, to, &["backend-1"], elsewhere, what),
        Fate::Here => reaches(client.station, to, &["backend-0"], here, what),
        Fate::Refused => is_refused(client.station, to, what),
        Fate::Dropped => is_dropped(client, to, what),
        Fate::NotAsked => Ok(()),
    }
}

/// Wants both endpoints to answer, and each to see what it should.
fn reaches_both(client: &Client<'_>, to: SocketAddr, what: &str) -> Result<()> {
    let either = client.seen[0].union(&client.seen[1]).copied().collect();
    for report in ask(client.station, to, 30, what)? {
        assert_eq!(report.answered.keys().collect::<Vec<_>>(), ["backend-0", "backend-1"], "{what}");
        assert!(report.seen_as.is_subset(&either), "{what}: seen as {:?}, not {either:?}", report.seen_as);
        for seen in &client.seen {
            assert!(!report.seen_as.is_disjoint(seen), "{what}: seen as {:?} only", report.seen_as);
        }
    }
    Ok(())
}

/// By packet nobody answers; at a socket the call says at once that there is no way.
fn is_dropped(client: &Client<'_>, to: SocketAddr, what: &str) -> Result<()> {
    let error = if client.by_socket { "EHOSTUNREACH" } else { "TIMEOUT" };
    for target in [Target::tcp(to), Target::udp(to)] {
        let report = client.station.probe().ask(&target.timeout_ms(150), 1, 1)?;
        assert_eq!(report.errors.get(error), Some(&1), "{what}: {report:?}");
    }
    Ok(())
}

fn with_both_policies_cluster_everybody_gets_every_endpoint(setting: Setting) -> Result<()> {
    play(
        setting,
        Endpoints::HereAndElsewhere,
        &everywhere("web", 1),
        &[
            //             cluster IP, node port, load balancer, external IP
            ("pod", "C C C C"),
            ("sandbox", "C C C C"),
            ("host", "C C C C"),
            ("other node", ". C . ."),
            ("outside", "C C C C"),
        ],
    )
}

fn with_external_policy_local_only_clients_elsewhere_are_kept_to_this_nodes_endpoints(
    setting: Setting,
) -> Result<()> {
    play(
        setting,
        Endpoints::HereAndElsewhere,
        &everywhere("web", 1).external_local(),
        &[
            ("pod", "C C C C"),
            ("sandbox", "C C C C"),
            ("host", "C C C C"),
            ("other node", ". L . ."),
            ("outside", "C L L L"),
        ],
    )
}

fn with_external_policy_local_and_no_endpoint_here_only_clients_elsewhere_are_dropped(
    setting: Setting,
) -> Result<()> {
    play(
        setting,
        Endpoints::Elsewhere,
        &everywhere("web", 1).external_local(),
        &[
            ("pod", "C C C C"),
            ("sandbox", "C C C C"),
            ("host", "C C C C"),
            ("other node", ". - . ."),
            ("outside", "C - - -"),
        ],
    )
}

fn with_internal_policy_local_the_cluster_ip_alone_leads_to_this_nodes_endpoints(
    setting: Setting,
) -> Result<()> {
    play(
        setting,
        Endpoints::HereAndElsewhere,
        &everywhere("web", 1).internal_local(),
        &[
            ("pod", "L C C C"),
            ("sandbox", "L C C C"),
            ("host", "L C C C"),
            ("other node", ". C . ."),
            ("outside", "L C C C"),
        ],
    )
}

fn with_internal_policy_local_and_no_endpoint_here_the_cluster_ip_alone_drops(
    setting: Setting,
) -> Result<()> {
    play(
        setting,
        Endpoints::Elsewhere,
        &everywhere("web", 1).internal_local(),
        &[
            ("pod", "- C C C"),
            ("sandbox", "- C C C"),
            ("host", "- C C C"),
            ("other node", ". C . ."),
            ("outside", "- C C C"),
        ],
    )
}

fn without_any_endpoint_everybody_is_refused_whatever_the_policies(setting: Setting) -> Result<()> {
    play(
        setting,
        Endpoints::None,
        &everywhere("web", 1).internal_local().external_local(),
        &[
            ("pod", "! ! ! !"),
            ("sandbox", "! ! ! !"),
            ("host", "! ! ! !"),
            ("other node", ". ! . ."),
            ("outside", "! ! ! !"),
        ],
    )
}

fn draining_endpoints_elsewhere_are_used_and_make_dropping_of_refusing(setting: Setting) -> Result<()> {
    let service = everywhere("web", 1).internal_local().external_local();
    play(
        setting,
        Endpoints::DrainingElsewhere,
        &service,
        &[
            ("pod", "- C C C"),
            ("sandbox", "- C C C"),
            ("host", "- C C C"),
            ("other node", ". - . ."),
            ("outside", "- - - -"),
        ],
    )
}
