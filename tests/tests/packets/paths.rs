//! Packets that are too large for their way, and packets in pieces.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use kubeshunt_tests::Sniffer;
use kubeshunt_tests::cluster::NODE_PORT;
use kubeshunt_tests::craft::{Flow, Injector, fragments};
use kubeshunt_tests::protocol::{EchoDatagrams, Method, Target, Transfer};
use kubeshunt_tests::sniffer::Frame;

use crate::settings::{Setting, in_every_setting};
use crate::watch::Watch;
use crate::{SOON_MS, doors, outside, serving};

in_every_setting!(
    a_narrow_link_on_the_way_stalls_no_transfer,
    large_datagrams_pass_in_fragments,
    large_datagrams_pass_a_narrow_link,
    fragments_pass_in_any_order,
);

fn a_narrow_link_on_the_way_stalls_no_transfer(setting: Setting) -> Result<()> {
    let cluster = serving(setting, &[1], |service| service)?;
    cluster.narrow(1300)?;
    let watch = Watch::over(&cluster)?;
    for door in doors(&cluster).into_iter().filter(|door| door.node == 0) {
        let target = Target::tcp(door.to).timeout_ms(3 * SOON_MS);
        let transfer = Transfer { target, bytes: 4 << 20, seed: 11, within_ms: 15_000 };
        assert!(outside(&cluster).probe().transfer(&transfer)?.is_intact(), "{}", door.name);
    }
    watch.assert_clean();
    Ok(())
}

/// How many rounds a way may take to tell both ends what is too large for it: a connected socket is told by
/// EMSGSIZE, others by silence.
const ROUNDS: u64 = 4;

/// Has datagrams echoed through every door of node-a.
fn datagrams_pass(setting: Setting, node: usize, mtu: Option<u32>) -> Result<()> {
    let cluster = serving(setting, &[node], |service| service)?;
    if let Some(mtu) = mtu {
        cluster.narrow(mtu)?;
    }
    let watch = Watch::over(&cluster)?;
    for door in doors(&cluster).into_iter().filter(|door| door.node == 0) {
        for method in [Method::UdpConnected, Method::UdpUnconnected { peek: false }] {
            let target = Target { method, ..Target::udp(door.to) }.timeout_ms(SOON_MS / 2);
            let round = |seed| {
                let plan = EchoDatagrams { target: target.clone(), sizes: vec![1400, 4000, 60_000], seed };
                outside(&cluster).probe().echo_datagrams(&plan)
            };
            let mut outcomes = round(0)?;
            for seed in 1..ROUNDS {
                if outcomes.iter().any(Result::is_err) {
                    outcomes = round(seed)?;
                }
            }
            let what = format!("{}, {method:?}, a backend on node {node}", door.name);
            assert!(outcomes.iter().all(|outcome| *outcome == Ok(door.to)), "{what}: {outcomes:?}");
        }
    }
    watch.assert_clean();
    Ok(())
}

fn large_datagrams_pass_in_fragments(setting: Setting) -> Result<()> {
    [0, 1].into_iter().try_for_each(|node| datagrams_pass(setting, node, None))
}

fn large_datagrams_pass_a_narrow_link(setting: Setting) -> Result<()> {
    datagrams_pass(setting, 1, Some(1300))
}

/// The first fragment alone has ports; the others may come before it.
fn fragments_pass_in_any_order(setting: Setting) -> Result<()> {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for node in [0, 1] {
        let cluster = serving(setting, &[node], |service| service)?;
        let (client, host) = (outside(&cluster), cluster.nodes[0].host());
        let injector = Injector::new(client, host)?;
        for (to, own) in [
            (host.at4(NODE_PORT), IpAddr::from(client.v4())),
            (host.at6(NODE_PORT), IpAddr::from(client.v6())),
        ] {
            let flow = Flow { from: SocketAddr::new(own, 20_000), to };
            let in_order = fragments(flow, &[b'x'; 5000], 1000, random.u16(..))?;
            let reversed: Vec<_> =
                fragments(flow, &[b'x'; 5000], 1000, random.u16(..))?.into_iter().rev().collect();
            let mut mixed = fragments(flow, &[b'x'; 5000], 1000, random.u16(..))?;
            random.shuffle(&mut mixed);
            for (order, pieces) in [("in order", in_order), ("reversed", reversed), ("mixed", mixed)] {
                let echo = move |frame: &Frame| {
                    let echoed = frame.packet().filter(|packet| packet.source == to.ip() && packet.fragment);
                    echoed.and_then(|packet| packet.ports()) == Some((to.port(), flow.from.port()))
                };
                let sniffer = Sniffer::start(client.netns(), "eth0", echo)?;
                pieces.iter().try_for_each(|piece| injector.send(piece))?;
                let what = format!("fragments {order} to {to} are echoed by a backend on node {node}");
                sniffer.wait_for(&what, Duration::from_millis(SOON_MS), |_| true)?;
            }
        }
    }
    Ok(())
}
