//! A twin of the stand: the decision in memory, on the same tables, next to which every packet is run.
//!
//! The kernel goes first. Which source port it drew is what the twin's dice then show; from there on both know the same
//! flows under the same names, and [`Twin::compare`] can ask for exactly that.

mod judge;
mod reading;

use std::collections::BTreeMap;

use anyhow::Result;
use kubeshunt_tests::attached::Way;
use kubeshunt_tests::test_run::{Ran, Sum};
use proxy_common::address::{Address, Port};
use proxy_common::decision::frontend::is_cluster_ip;
use proxy_common::decision::packet::{Desk, Rewrite, Verdict, disown, egress, ingress};
use proxy_common::layout::{Arrival, Flow, PortRanges, Tuple, flow_state};
use proxy_userspace::cluster::model::Family;
use proxy_userspace::flows::orphan::key_of;
use proxy_userspace::host::devices::Side;
use proxy_userspace::plan::simulated::Maps;
use proxy_userspace::plan::simulated_flows::{Memory, Node, Passage, Room};

use self::reading::{Frame, ICMP, ICMPV6, Reading};
use super::stand::{FLOWS, Kind, PLACES, PORTS, Stand};
use super::world::{self, CAPACITY, Net};

pub(crate) struct Twin {
    maps: Maps,
    memory: Memory,
    node: Node,
    /// How often each thing has become of a packet.
    pub(crate) tale: BTreeMap<&'static str, u64>,
}

/// What should become of a packet.
enum Fate {
    Pass(&'static str),
    Rewrite(&'static str, Reading, Rewrite),
    /// An error: itself, what it quotes, and what an answer to that would become.
    Error(Reading, Reading, Rewrite),
    Drop,
    Refuse,
}

impl Twin {
    pub(crate) fn new() -> Self {
        let mut maps = Maps::new(CAPACITY);
        maps.carry_out(&world::operations());
        let flows = FLOWS as usize;
        let room = Room { flows, arrivals: 2 * flows, cpus: 1, places: PLACES as usize };
        let node = Node::new(1, world::node(Family::V4).into(), PortRanges(0));
        Self { maps, memory: Memory::new(room), node, tale: BTreeMap::new() }
    }

    /// Runs a packet by both, and compares.
    pub(crate) fn run(&mut self, stand: &Stand, kind: Kind, way: Way, frame: &[u8]) -> Result<Option<Ran>> {
        let reading = reading::frame(frame, kind.link.len());
        if let Frame::Ip(reading) = reading
            && reading.is_fragment
        {
            // Fragments have tests of their own.
            return Ok(None);
        }
        let ran = stand.run(kind, way, frame, Sum::Unknown)?;
        if let Frame::Ip(mut reading) = reading
            && reading::has_ports(&reading)
            && reading::transport(frame, &mut reading)
        {
            self.follow(stand, way, &reading.tuple)?;
        }
        let fate = self.fate(kind, way, frame, reading, &ran.packet);
        let name = match &fate {
            Fate::Pass(name) | Fate::Rewrite(name, ..) => name,
            Fate::Error(..) => "error",
            Fate::Drop => "dropped",
            Fate::Refuse => "refused",
        };
        *self.tale.entry(name).or_default() += 1;
        judge::judge(kind.link, way, (&fate, frame), &ran)?;
        Ok(Some(ran))
    }

    /// Has the twin's clock show what the kernel's did: the tick that the packet has left with its flow.
    fn follow(&self, stand: &Stand, way: Way, tuple: &Tuple) -> Result<()> {
        let key = match way {
            Way::Egress => Some(tuple.ordered().0),
            Way::Ingress => self.memory.arrivals.borrow().get(tuple).map(|arrival| key_of(tuple, arrival)),
        };
        let Some(flow) = key.map(|key| stand.flow(&key)).transpose()?.flatten() else { return Ok(()) };
        let tick = u16::try_from(flow.state >> flow_state::TICK_SHIFT)?;
        if tick != 0 {
            self.node.tick.set(Some(tick));
        }
        Ok(())
    }

    /// Both know the same flows, under the same names, in the same states.
    pub(crate) fn compare(&self, stand: &Stand) -> Result<()> {
        let flows = |flows: BTreeMap<Tuple, Flow>| -> BTreeMap<Tuple, Flow> {
            let plain = |flow| Flow { born: 0, seen: 0, place: 0, seal: 0, ..flow };
            flows.into_iter().map(|(key, flow)| (key, plain(flow))).collect()
        };
        let arrivals = |arrivals: BTreeMap<Tuple, Arrival>| -> BTreeMap<Tuple, Arrival> {
            let plain = |arrival| Arrival { born: 0, seal: 0, ..arrival };
            arrivals.into_iter().map(|(key, arrival)| (key, plain(arrival))).collect()
        };
        assert_eq!(flows(stand.flows()?), flows(self.memory.flows.borrow().clone()), "flows");
        assert_eq!(arrivals(stand.arrivals()?), arrivals(self.memory.arrivals.borrow().clone()), "arrivals");
        Ok(())
    }

    fn fate(&self, kind: Kind, way: Way, frame: &[u8], read: Frame, after: &[u8]) -> Fate {
        let mut reading = match read {
            Frame::Other => return Fate::Pass("other"),
            Frame::Malformed => return Fate::Pass("malformed"),
            Frame::Ip(reading) => reading,
        };
        let services =
            [Family::V4, Family::V6].map(|family| Address::from(world::ip(family, Net::Services, 0)));
        let octets = reading.tuple.destination.octets();
        let in_service_cidr = if reading.is_v6 {
            octets[..8] == services[1].octets()[..8]
        } else {
            octets[12..15] == services[0].octets()[12..15]
        };
        if way == Way::Egress && kind.side == Side::Outside && in_service_cidr {
            return Fate::Drop;
        }
        if reading.tuple.protocol == if reading.is_v6 { ICMPV6 } else { ICMP } {
            return self.icmp(way, frame, reading);
        }
        if !reading::has_ports(&reading) {
            return Fate::Pass("other");
        }
        if !reading::transport(frame, &mut reading) {
            return Fate::Pass("malformed");
        }
        let family = if reading.is_v6 { Family::V6 } else { Family::V4 };
        // The kernel has no route for a client that no packet can be from.
        let is_one_host = reading.tuple.source.octets()[0] != 0xff;
        self.node.masquerade.set(is_one_host.then(|| world::node(family).into()));
        let drawn = reading::word(after, reading.transport).unwrap_or(0);
        self.node.ports.set(if PORTS.contains(Port::new(drawn)) {
            PortRanges::new((drawn, 1), (0, 0))
        } else {
            PortRanges(0)
        });
        let client = reading.tuple.source;
        let passage = Passage { node: &self.node, client, is_outside: kind.side == Side::Outside };
        let (packet, desk) = ((&reading.tuple, reading.signals), &mut Desk::new());
        let verdict = match way {
            Way::Ingress => ingress(&self.maps, &self.memory, &passage, desk, packet),
            Way::Egress => {
                let verdict = egress(&self.memory, &passage, desk, packet);
                let is_seen = self.memory.watched.borrow().contains(&reading.tuple.source)
                    || self.memory.masqueraded.borrow().contains(&reading.tuple.destination);
                if verdict == Verdict::Pass && is_seen {
                    disown(&self.maps, &self.memory, &passage, desk, &reading.tuple);
                }
                verdict
            }
        };
        match verdict {
            Verdict::Pass => Fate::Pass("passed"),
            Verdict::Open(rewrite) => Fate::Rewrite("opened", reading, rewrite),
            Verdict::Rewrite(rewrite) => Fate::Rewrite("rewritten", reading, rewrite),
            Verdict::Drop(_) => Fate::Drop,
            Verdict::Refuse(_) => Fate::Refuse,
        }
    }

    fn icmp(&self, way: Way, frame: &[u8], error: Reading) -> Fate {
        let kind = frame[..error.end].get(error.transport).copied();
        if way == Way::Ingress && kind == Some(if error.is_v6 { 128 } else { 8 }) {
            let closed = is_cluster_ip(&self.maps, &error.tuple.destination);
            return if closed { Fate::Refuse } else { Fate::Pass("ping") };
        }
        let is_error =
            kind.is_some_and(
                |kind| if error.is_v6 { (1..=4).contains(&kind) } else { [3, 11, 12].contains(&kind) },
            );
        if !is_error {
            return Fate::Pass("icmp");
        }
        let Some(quoted) = reading::quoted(frame, error.transport + 8, error.end, error.is_v6) else {
            return Fate::Pass("icmp");
        };
        if quoted.tuple.source != error.tuple.destination {
            return Fate::Pass("forged");
        }
        let answer = quoted.tuple.reversed();
        let rewrite = match way {
            Way::Ingress => ingress::arriving(&self.memory, &answer),
            Way::Egress => egress::leaving(&self.memory, &answer),
        };
        rewrite.map_or(Fate::Pass("icmp"), |rewrite| Fate::Error(error, quoted, rewrite))
    }
}
