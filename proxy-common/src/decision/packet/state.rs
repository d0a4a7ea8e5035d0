//! What a packet says about its flow.

use super::{Desk, Flows, Node, Queue, Signals, enqueue};
use crate::layout::flow_state;

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

/// Notes that a packet of the flow on the desk passed; returns the state that it is in then.
///
/// Writes once a tick unless there is news: with a write for each packet, CPUs would fight over the line.
#[inline(always)]
pub fn note<F: Flows>(
    flows: &F,
    node: &impl Node,
    desk: &mut Desk,
    place: F::Place,
    (from_client, signals): (bool, Signals),
) -> u32 {
    let before = desk.flow.state;
    let state = next(before & flow_state::ALL, from_client, signals);
    let noted = state | (node.tick() as u32) << flow_state::TICK_SHIFT;
    if noted == before {
        return state;
    }
    flows.touch(place, desk.flow.born, node.now(), noted);
    if state & !before & flow_state::ESTABLISHED != 0 {
        flows.leave_place(Queue::Nascent, desk.flow.place, desk.flow.born);
    }
    if state & !before & flow_state::CLOSING != 0 {
        let turn = flows.turn(Queue::Closing);
        flows.note_place(place, turn);
        enqueue(flows, desk, Queue::Closing, turn);
    }
    state
}
