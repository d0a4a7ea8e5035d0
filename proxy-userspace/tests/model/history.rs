//! A history, lived through by the rules and by the maps in memory side by side.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prop_assert_eq;
use proptest::test_runner::TestCaseError;
use proxy_userspace::plan::simulated::Socket;

use super::asking;
use super::life::Life;
use super::oracle::frontends::PortId;
use super::oracle::objects::Protocol;
use super::oracle::{self, Answer, Probe, Ruling, Who, differences};
use super::pipeline::CAPACITY;
use super::random::{Ask, Step};
use super::tally::{Tally, count};

pub(crate) struct History {
    life: Life,
    asked: u32,
    sockets: BTreeMap<(Who, SocketAddr), Kept>,
}

/// An unconnected socket that only ever sends to one address.
struct Kept {
    socket: Socket,
    /// Where its datagrams go, as the rules have it.
    to: Option<(PortId, SocketAddr)>,
}

impl History {
    pub(crate) fn new() -> Self {
        Self { life: Life::new(CAPACITY), asked: 0, sockets: BTreeMap::new() }
    }

    /// Takes a step; whoever asks must get the same answer from both.
    pub(crate) fn step(&mut self, step: &Step, tally: &mut Tally) -> Result<(), TestCaseError> {
        if matches!(step, Step::Ask(_) | Step::Restart) {
            let lost = self.life.settle().lost;
            for kept in self.sockets.values_mut() {
                kept.to.take_if(|(port, _)| lost.contains(port));
            }
        }
        let Step::Ask(ask) = step else {
            self.life.change(step);
            return Ok(());
        };
        match self.life.question(ask) {
            Some((probe, ruling)) => self.ask(ask, &probe, &ruling, tally),
            None => Ok(()),
        }
    }

    /// When everything is gone, the maps are as they were.
    pub(crate) fn end(mut self) -> Result<(), TestCaseError> {
        self.life.end();
        let maps = &self.life.pipeline.maps;
        prop_assert_eq!(maps.frontends.len(), 0, "frontends are left");
        prop_assert_eq!(maps.sources.len(), 0, "source ranges are left");
        Ok(())
    }

    fn ask(
        &mut self,
        ask: &Ask,
        probe: &Probe,
        ruling: &Ruling,
        tally: &mut Tally,
    ) -> Result<(), TestCaseError> {
        let maps = &self.life.pipeline.maps;
        let is_unconnected = ask.is_unconnected && probe.protocol == Protocol::Udp && probe.who.is_socket();
        let possible = asking::possible(maps, probe, is_unconnected);
        if !self.life.is_inherited(ruling, &possible) {
            prop_assert_eq!(&possible, &ruling.answer, "the pipeline (left), the rules (right): {:?}", probe);
        }
        count(tally, probe, ruling);
        self.asked += 1;
        if is_unconnected {
            *tally.entry("by an unconnected socket".to_owned()).or_default() += 1;
            return self.send(probe, ruling);
        }
        let answer = asking::once(maps, probe, self.asked.wrapping_mul(0x85eb_ca6b));
        self.remember(probe, ruling, &answer)
    }

    /// What was chosen is what the next one is measured against.
    fn remember(&mut self, probe: &Probe, ruling: &Ruling, answer: &Answer) -> Result<(), TestCaseError> {
        let (Answer::To(chosen), Answer::To(set)) = (answer, &ruling.answer) else { return Ok(()) };
        let (endpoint, source) = chosen.first_key_value().expect("an endpoint");
        prop_assert_eq!(set.get(endpoint), Some(source), "{} is none of {:?}", endpoint, ruling.answer);
        self.life.note(probe, ruling, *endpoint);
        Ok(())
    }

    /// A datagram of a socket that may have sent before.
    fn send(&mut self, probe: &Probe, ruling: &Ruling) -> Result<(), TestCaseError> {
        let cookie = 1_000 + u64::try_from(self.sockets.len()).expect("few");
        let kept = self
            .sockets
            .entry((probe.who, probe.to))
            .or_insert_with(|| Kept { socket: asking::socket(probe, cookie), to: None });
        kept.socket.now.set(probe.now);
        let answer = asking::datagram(&self.life.pipeline.maps, &kept.socket, probe);
        let claim = ruling.claim.as_ref().map(|claim| claim.port.clone());
        let before = kept.to.take().filter(|(port, _)| Some(port) == claim.as_ref());
        if let Some((port, endpoint)) =
            before.filter(|(_, own)| differences::keeps_endpoint(*own, &ruling.to_anyone))
        {
            let stays = Answer::To([(endpoint, oracle::Source::Kept)].into());
            prop_assert_eq!(&answer, &stays, "a socket leaves its endpoint: {:?}", probe);
            kept.to = Some((port, endpoint));
            return Ok(());
        }
        if let (Some(port), Answer::To(chosen)) = (claim, &answer) {
            kept.to = chosen.first_key_value().map(|(endpoint, _)| (port, *endpoint));
        }
        self.remember(probe, ruling, &answer)
    }
}
