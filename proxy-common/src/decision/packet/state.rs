//! What a packet says about its flow.

use super::{Flows, Queue, Signals, enqueue};
use crate::layout::{Flow, Tuple, flow_state};

/// How exact [`Flow::seen`] is, nanoseconds: writing it with each packet would make CPUs fight over the line.
const EXACTNESS: u64 = 1_000_000_000;

/// The state after a packet.
///
/// A flow counts as established when the client has sent something *after* an answer: it is really there, whichever
/// source a flood may forge. A reset that is followed by more packets was forged, or stale: the flow lives on.
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
        if next & flow_state::REPLIED != 0 {
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

/// Notes that a packet of the flow passed.
#[inline(always)]
pub fn note<F: Flows>(
    flows: &F,
    now: u64,
    found: (&Tuple, &Flow, F::Place),
    from_client: bool,
    signals: Signals,
) {
    let (key, flow, place) = found;
    let state = next(flow.state, from_client, signals);
    if state != flow.state || now.wrapping_sub(flow.seen) > EXACTNESS {
        flows.touch(place, now, state);
    }
    if state & !flow.state & flow_state::CLOSING != 0 {
        enqueue(flows, Queue::Closing, key, flow.born);
    }
}
