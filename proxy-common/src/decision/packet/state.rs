//! What a packet says about its flow.

use super::{Desk, Flows, Queue, Signals, enqueue};
use crate::layout::flow_state;

/// How exact [`crate::layout::Flow::seen`] is, nanoseconds: writing it with each packet would make CPUs fight over the line.
const EXACTNESS: u64 = 1_000_000_000;

/// The state after a packet.
///
/// A flow counts as established when the client has sent something *after* an answer, and not its first packet
/// again: it is really there, whichever source a flood may forge. A reset that is followed by more packets was forged, or stale: the flow lives on.
#[inline(always)]
#[must_use]
pub const fn next(state: u32, from_client: bool, signals: Signals) -> u32 {
    let mut next = state;
    if signals.has(Signals::RESET) {
        return next | flow_state::RESET | flow_state::CLOSING;
    }
    if next & flow_state::RESET != 0 {
        next &= !(flow_state::RESET | flow_state::CLOSING);
    }
    if from_client {
        if next & flow_state::REPLIED != 0 && signals.has(Signals::CONFIRMS) {
            next |= flow_state::ESTABLISHED;
        }
        if signals.has(Signals::DONE) {
            next |= flow_state::CLIENT_DONE;
        }
    } else {
        next |= flow_state::REPLIED;
        if signals.has(Signals::DONE) {
            next |= flow_state::BACKEND_DONE;
        }
    }
    const BOTH: u32 = flow_state::CLIENT_DONE | flow_state::BACKEND_DONE;
    if next & BOTH == BOTH {
        next |= flow_state::CLOSING;
    }
    next
}

/// Notes that a packet of the flow on the desk passed.
#[inline(always)]
pub fn note<F: Flows>(
    flows: &F,
    desk: &mut Desk,
    now: u64,
    place: F::Place,
    (from_client, signals): (bool, Signals),
) {
    let (before, seen) = (desk.flow.state, desk.flow.seen);
    let state = next(before, from_client, signals);
    if state != before || now.wrapping_sub(seen) > EXACTNESS {
        flows.touch(place, now, state);
    }
    if state & !before & flow_state::CLOSING != 0 {
        enqueue(flows, desk, Queue::Closing);
    }
}
