//! Packets that no well-behaved socket sends: SCTP from a kernel that has none, what conntrack calls invalid, and
//! garbage.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use kubeshunt_tests::Sniffer;
use kubeshunt_tests::cluster::{NODE_PORT, everywhere};
use kubeshunt_tests::craft::{Flow, Injector, datagram, fragments, sctp_init, segment, syn};
use kubeshunt_tests::manifests::{Endpoint, EndpointSlice, Port};
use kubeshunt_tests::protocol::Target;
use kubeshunt_tests::sniffer::Frame;
use kubeshunt_tests::stage::TARGET_PORT;

use crate::settings::{Setting, in_every_setting};
use crate::watch::Watch;
use crate::{PATIENCE, SOON_MS, outside, serving};

in_every_setting!(
    an_sctp_packet_reaches_its_backend_with_a_right_checksum,
    a_segment_outside_of_the_window_is_translated_as_any_other,
    garbage_harms_nobody,
);

const SCTP_NODE_PORT: u16 = 30090;
const SCTP: u8 = 132;

fn an_sctp_packet_reaches_its_backend_with_a_right_checksum(setting: Setting) -> Result<()> {
    for node in [0, 1] {
        let mut cluster = setting.cluster()?;
        cluster.add_backend(node)?;
        let pod = &cluster.backends[0].0;
        let service = everywhere("web", 1)
            .port(Port::sctp(90).named("sctp").target(TARGET_PORT).node_port(SCTP_NODE_PORT));
        let slices = [
            EndpointSlice::v4("web").endpoint(Endpoint::ready(pod.v4()).on_node(cluster.nodes[node].name())),
            EndpointSlice::v6("web").endpoint(Endpoint::ready(pod.v6()).on_node(cluster.nodes[node].name())),
        ]
        .map(|slice| slice.sctp(Some("sctp"), TARGET_PORT));
        cluster.folder.write("web", &[&service, &slices[0], &slices[1]])?;
        cluster.start()?;
        let (client, host) = (outside(&cluster), cluster.nodes[0].host());
        let (injector, pod) = (Injector::new(client, host)?, &cluster.backends[0].0);
        for (from, to) in
            [(client.at4(999), host.at4(SCTP_NODE_PORT)), (client.at6(999), host.at6(SCTP_NODE_PORT))]
        {
            let arrived = |frame: &Frame| {
                frame.packet().is_some_and(|packet| packet.protocol.0 == SCTP) && !frame.outgoing
            };
            let sniffer = Sniffer::start(pod.netns(), "eth0", arrived)?;
            injector.send(&sctp_init(Flow { from, to }, 7)?)?;
            let what = format!("an INIT to {to} arrives at a backend on node {node}");
            let frame = sniffer.wait_for(&what, PATIENCE, |_| true)?;
            let packet = frame.packet().expect("it was one before");
            assert_eq!(
                (packet.destination, packet.ports().map(|(_, to)| to)),
                (pod.ip(to.ip()), Some(TARGET_PORT))
            );
            assert_eq!(frame.faults(), Vec::<String>::new(), "{what}");
        }
    }
    Ok(())
}

/// What conntrack calls invalid and does not translate: the client would then see an address that it has never asked,
/// and reset the connection (kubernetes/kubernetes#74839).
fn a_segment_outside_of_the_window_is_translated_as_any_other(setting: Setting) -> Result<()> {
    for node in [0, 1] {
        let cluster = serving(setting, &[node], |service| service)?;
        let (client, host, pod) = (outside(&cluster), cluster.nodes[0].host(), &cluster.backends[0].0);
        let injector = Injector::new(client, host)?;
        for (from, to) in
            [(client.at4(25_000), host.at4(NODE_PORT)), (client.at6(25_000), host.at6(NODE_PORT))]
        {
            let session =
                client.probe().session(&Target::tcp(to).sent_from(from).timeout_ms(SOON_MS))?.session;
            client.probe().exchange(session, 3)?;
            let arrived = |frame: &Frame| frame.bytes.ends_with(b"out of the window");
            let answered = move |frame: &Frame| {
                let packet = frame.packet().filter(|_| !frame.outgoing);
                packet.is_some_and(|packet| packet.ports().is_some_and(|(_, port)| port == from.port()))
            };
            let at_pod = Sniffer::start(pod.netns(), "eth0", arrived)?;
            let at_client = Sniffer::start(client.netns(), "eth0", answered)?;
            // Wherever the window is, one of these is far from it.
            for sequence in [0, 1 << 30, 2 << 30, 3 << 30] {
                injector.send(&segment(Flow { from, to }, sequence, b"out of the window")?)?;
            }
            let what = format!("a segment outside of the window from {from} to {to}, backend on node {node}");
            let frame = at_pod.wait_for(&what, PATIENCE, |_| true)?;
            let packet = frame.packet().expect("a packet");
            assert_eq!(
                (packet.destination, packet.ports().map(|ports| ports.1)),
                (pod.ip(to.ip()), Some(TARGET_PORT))
            );
            assert_eq!(frame.faults(), Vec::<String>::new(), "{what}");
            // The backend's kernel says which one it waits for.
            at_client.wait_for(&what, PATIENCE, |_| true)?;
            assert_eq!(client.probe().exchange(session, 3)?.broken, None, "{what}");
            for frame in at_client.stop().frames {
                let source =
                    frame.packet().map(|packet| (packet.source, packet.ports().map(|ports| ports.0)));
                assert_eq!(source, Some((to.ip(), Some(to.port()))), "{what}");
            }
            client.probe().close_session(session)?;
        }
    }
    Ok(())
}

/// Packets with bytes changed, cut off and made up, beside a connection that must not notice.
fn garbage_harms_nobody(setting: Setting) -> Result<()> {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let cluster = serving(setting, &[0, 1], |service| service)?;
    let (client, host) = (outside(&cluster), cluster.nodes[0].host());
    let (injector, watch) = (Injector::new(client, host)?, Watch::over(&cluster)?);
    let session = client.probe().session(&Target::tcp(host.at4(NODE_PORT)).timeout_ms(SOON_MS))?;
    // Garbage itself has wrong checksums, which nobody is to mend; what else is on the wires is watched before it.
    client.probe().exchange(session.session, 10)?;
    watch.assert_clean();
    for (to, own) in
        [(host.at4(NODE_PORT), IpAddr::from(client.v4())), (host.at6(NODE_PORT), IpAddr::from(client.v6()))]
    {
        let flow = Flow { from: SocketAddr::new(own, 999), to };
        let mut good = vec![syn(flow, 1)?, datagram(flow, b"hello")?, sctp_init(flow, 1)?];
        good.extend(fragments(flow, &[b'x'; 2000], 1000, 1)?);
        for _ in 0..2000 {
            let mut packet = random.choice(&good).expect("there are some").clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..packet.len());
                packet[at] = random.u8(..);
            }
            packet.truncate(random.usize(1..=packet.len()));
            injector.send(&packet)?;
        }
        let health = client.probe().exchange(session.session, 10)?;
        assert_eq!(health.broken, None, "beside garbage to {to}");
    }
    Ok(())
}
