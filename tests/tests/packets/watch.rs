//! Sniffers on every wire of a cluster, for things that must never be seen there.

use std::net::IpAddr;

use anyhow::Result;
use kubeshunt_tests::netns::NetNs;
use kubeshunt_tests::sniffer::Frame;
use kubeshunt_tests::{Cluster, Sniffer};

/// Watches the LAN at both nodes, and the links of all backends that there are when it begins.
#[derive(Debug)]
pub(crate) struct Watch {
    sniffers: Vec<(String, Sniffer)>,
}

impl Watch {
    pub(crate) fn over(cluster: &Cluster) -> Result<Self> {
        let stations = cluster.nodes.iter().map(|node| node.host());
        let stations = stations.chain(cluster.backends.iter().map(|(pod, _)| pod));
        let sniff = |(name, netns): (&str, &NetNs)| {
            let sniffer = Sniffer::start(netns, "eth0", |frame| !complaints(frame).is_empty())?;
            Ok((name.to_owned(), sniffer))
        };
        let sniffers = stations.map(|station| sniff((station.name(), station.netns())));
        Ok(Self { sniffers: sniffers.collect::<Result<_>>()? })
    }

    /// Wants that traffic has passed, every checksum was right and no cluster IP was seen.
    pub(crate) fn assert_clean(self) {
        let mut seen = 0;
        for (name, sniffer) in self.sniffers {
            let recording = sniffer.stop();
            seen += recording.seen;
            if let Some(frame) = recording.frames.first() {
                let count = recording.frames.len();
                panic!(
                    "{count} bad frames at {name}, the first: {:?}: {:?}",
                    complaints(frame),
                    frame.packet()
                );
            }
        }
        assert!(seen > 0, "nothing was watched");
    }
}

/// What is wrong with a frame that is on a wire.
fn complaints(frame: &Frame) -> Vec<String> {
    let mut complaints = frame.faults();
    if frame.packet().is_some_and(|packet| packet.mentions(&is_cluster_ip)) {
        complaints.push("a cluster IP outside of a node".to_owned());
    }
    complaints
}

/// Is it of the Service range?
pub(crate) fn is_cluster_ip(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..2] == [10, 96],
        IpAddr::V6(v6) => v6.segments()[..7] == [0xfd00, 0x96, 0, 0, 0, 0, 0],
    }
}
