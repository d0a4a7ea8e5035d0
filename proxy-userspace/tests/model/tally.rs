//! What has been asked and answered, in words, and how often.

use std::collections::BTreeMap;

use super::oracle::{self, Answer, Probe, Ruling, Who};

/// By words.
pub(crate) type Tally = BTreeMap<String, u64>;

/// How many questions.
pub(crate) fn asked(tally: &Tally) -> u64 {
    tally.iter().filter(|(what, _)| what.contains(':')).map(|(_, count)| count).sum()
}

/// Adds those of a history that went well.
pub(crate) fn add(tally: &mut Tally, own: Tally) {
    for (what, count) in own {
        *tally.entry(what).or_default() += count;
    }
}

/// Counts it.
pub(crate) fn count(tally: &mut Tally, probe: &Probe, ruling: &Ruling) {
    let who = match probe.who {
        Who::PodSocket(_) => "a pod's socket",
        Who::HostSocket(_) => "a socket of the node",
        Who::PodPacket(_) => "a pod's packet",
        Who::OutsidePacket(_) => "a packet from outside",
    };
    let to = match &ruling.claim {
        None => "no frontend".to_owned(),
        Some(claim) => format!("{:?}", claim.kind),
    };
    let answer = match &ruling.answer {
        Answer::NotAService => "passes",
        Answer::Refused => "refused",
        Answer::Dropped => "dropped",
        Answer::To(set) if set.values().any(|own| *own == oracle::Source::Masqueraded) => {
            "served, masqueraded"
        }
        Answer::To(_) => "served",
    };
    let mut add = |what: String| *tally.entry(what).or_default() += 1;
    add(format!("{who}, {to}: {answer}"));
    if ruling.answer != ruling.to_anyone {
        add("bound by affinity".to_owned());
    }
}
