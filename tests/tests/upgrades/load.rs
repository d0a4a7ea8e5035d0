//! Connections by every way, all the time, and others that were opened before and stay.

use std::net::SocketAddr;

use anyhow::Result;
use kubeshunt_tests::cluster::{NODE_PORT, everywhere};
use kubeshunt_tests::probe::{Probe, Stream};
use kubeshunt_tests::protocol::{Hold, StreamSpec, Target};
use kubeshunt_tests::stage::{at4, at6};
use kubeshunt_tests::{Cluster, Station, layout::Layout};

/// Connections that stay, by each way.
const HELD: u32 = 50;

/// A cluster of two nodes; the Service `web`, number 1, has an endpoint on each.
pub(crate) fn cluster() -> Result<Cluster> {
    let mut cluster = Cluster::new(Layout::Bridge)?;
    cluster.add_backend(0)?;
    cluster.add_backend(1)?;
    cluster.publish(&everywhere("web", 1), "web", &[0, 1])?;
    cluster.start()?;
    Ok(cluster)
}

/// Probes of one station: a probe does one thing at a time.
#[derive(Debug)]
struct Client {
    streams: Vec<Probe>,
    holder: Probe,
    to: Vec<SocketAddr>,
}

/// A pod on node-a, by the sockets; the client outside, by packets.
#[derive(Debug)]
pub(crate) struct Clients {
    clients: Vec<Client>,
    _pod: Station,
}

impl Clients {
    pub(crate) fn new(cluster: &Cluster) -> Result<Self> {
        let pod = cluster.nodes[0].pod("client")?;
        for station in [&pod, cluster.bed.outside()] {
            // Closed connections occupy their ports for a minute, and there are not that many ports.
            station.netns().sysctl("net/ipv4/tcp_max_tw_buckets", "1000")?;
        }
        let host = cluster.nodes[0].host();
        let ways = [
            (&pod, "pod", vec![at4(1), at6(1)]),
            (cluster.bed.outside(), "outside", vec![host.at4(NODE_PORT), host.at6(NODE_PORT)]),
        ];
        let client = |(station, name, to): (&Station, &str, Vec<SocketAddr>)| {
            let probe = |what: &str| station.another_probe(&format!("{name}-{what}"));
            let streams = (0..to.len() * 2).map(|number| probe(&format!("stream-{number}")));
            Ok(Client { streams: streams.collect::<Result<_>>()?, holder: probe("holder")?, to })
        };
        Ok(Self { clients: ways.into_iter().map(client).collect::<Result<_>>()?, _pod: pod })
    }

    /// Opens connections that stay.
    pub(crate) fn hold(&self) -> Result<Held<'_>> {
        let mut held = Vec::new();
        for client in &self.clients {
            for to in &client.to {
                let hold = Hold { to: *to, from: Vec::new(), count: HELD, at_once: 10, timeout_ms: 5_000 };
                let (number, report) = client.holder.hold(&hold)?;
                assert_eq!((report.alive, report.errors.len()), (HELD, 0), "{to}: {report:?}");
                held.push((&client.holder, *to, number));
            }
        }
        Ok(Held(held))
    }

    /// Connects all the time, over TCP and by datagrams.
    pub(crate) fn connect(&self) -> Result<Load<'_>> {
        let mut streams = Vec::new();
        for client in &self.clients {
            let targets = client.to.iter().flat_map(|to| [(Target::tcp(*to), 0), (Target::udp(*to), 2_000)]);
            for (probe, (target, pause_us)) in client.streams.iter().zip(targets) {
                // A handshake whose first packet is lost takes a second longer; that is not to be called a failure.
                let spec = StreamSpec {
                    target: target.timeout_ms(5_000),
                    concurrency: 1,
                    pause_us,
                    keep_records: false,
                };
                streams.push((format!("{:?}", spec.target), probe.stream(&spec)?));
            }
        }
        Ok(Load(streams))
    }
}

/// Connections that stay.
pub(crate) struct Held<'a>(Vec<(&'a Probe, SocketAddr, u64)>);

impl Held<'_> {
    /// Each of them exchanges a byte.
    pub(crate) fn check(&self, when: &str) -> Result<()> {
        for (probe, to, number) in &self.0 {
            let report = probe.exchange_held(*number)?;
            assert_eq!((report.alive, report.errors.len()), (HELD, 0), "{to}, {when}: {report:?}");
        }
        Ok(())
    }
}

/// Connections that come and go.
pub(crate) struct Load<'a>(Vec<(String, Stream<'a>)>);

impl Load<'_> {
    /// Ends it; says how many there were. None has failed.
    pub(crate) fn stop(self) -> Result<u64> {
        let mut total = 0;
        for (what, stream) in self.0 {
            let asked = stream.stop()?.asked;
            let some: Vec<_> = asked.failures.iter().take(5).collect();
            assert_eq!(asked.failed(), 0, "{what}: {some:?} ...");
            assert!(asked.successes() > 100, "{what} hardly ran: {}", asked.successes());
            println!("{what}: {} connections", asked.successes());
            total += asked.successes();
        }
        Ok(total)
    }
}
