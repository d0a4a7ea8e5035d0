//! A new flow: its backend and its names.

use super::{Desk, Flows, Node, Put, Queue, Rewrite, Verdict, remove_other};
use crate::{
    address::{Address, Port},
    decision::{Outcome, Tables, choice},
    layout::{Backend, Counter, Fate, Flow, Tuple, arrival_flag, backend_flag, flow_flag, flow_state},
};

/// How many source ports are tried. With nine of ten ports to a backend taken, one flow in thirty finds none.
pub const PROBES: u32 = 32;

/// Opens a flow for what was asked of the frontend on the desk, and says there where its first packet goes.
#[inline(always)]
pub fn open<F: Flows>(tables: &impl Tables, flows: &F, node: &impl Node, desk: &mut Desk) {
    if choose(tables, node, desk) {
        desk.flow.place = flows.turn(Queue::Nascent);
        name(flows, node, desk);
    }
    let fate = match desk.verdict {
        Verdict::Open(_) => Fate::Opened,
        Verdict::Refuse(Counter::PacketNoEndpoint) => Fate::Refused,
        Verdict::Drop(Counter::PacketNoLocalEndpoint) => Fate::NoLocalEndpoint,
        Verdict::Drop(Counter::PacketDenied) => Fate::Denied,
        _ => Fate::Failed,
    };
    tables.tally(desk.frontend.service, fate);
}

/// Chooses the backend, and whether it sees the client's address; `false` with the verdict where it ends here.
#[inline(never)]
fn choose(tables: &impl Tables, node: &impl Node, desk: &mut Desk) -> bool {
    match choice::choose(tables, node, &desk.frontend, node.random()) {
        Ok(chosen) => desk.backend = chosen.backend,
        // There are endpoints, but none for this client: kube-proxy drops, so that a load balancer which
        // tries nodes sees no answer rather than a wrong one.
        Err(Outcome::Unreachable) => {
            desk.verdict = Verdict::Drop(Counter::PacketNoLocalEndpoint);
            return false;
        }
        // As kube-proxy treats clients outside of loadBalancerSourceRanges.
        Err(Outcome::Denied) => {
            desk.verdict = Verdict::Drop(Counter::PacketDenied);
            return false;
        }
        Err(_) => {
            desk.verdict = Verdict::Refuse(Counter::PacketNoEndpoint);
            return false;
        }
    }
    desk.flow.masquerade = Address::ANY_V6;
    if needs_masquerade(node, &desk.asked, &desk.backend) {
        match node.masquerade_address(&desk.backend.address) {
            Some(own) => desk.flow.masquerade = own,
            // Perhaps a device that is not known yet, a moment after it came: the client will try again.
            None => {
                desk.verdict = Verdict::Drop(Counter::PacketNoRoute);
                return false;
            }
        }
    }
    let now = node.now();
    desk.flow.vip = desk.asked.destination;
    desk.flow.vip_port = desk.asked.destination_port;
    desk.flow.client_port = desk.asked.source_port;
    desk.flow.seen = now;
    desk.flow.reserved = 0;
    desk.flow.service = desk.frontend.service;
    desk.flow.state = 0;
    true
}

/// Whether answers would find their way back past this node if the backend saw the client's address: a backend
/// elsewhere, asked from outside, would answer directly. And a pod that reaches itself must not see its own address as
/// the sender's.
#[inline(always)]
fn needs_masquerade(node: &impl Node, asked: &Tuple, backend: &Backend) -> bool {
    backend.address == asked.source || node.is_by_outer_device() && backend.flags & backend_flag::LOCAL == 0
}

/// Finds a source port under which no other flow is known, and writes the flow.
#[inline(always)]
fn name<F: Flows>(flows: &F, node: &impl Node, desk: &mut Desk) {
    // Its own port serves a client best, and is its to use as long as its address goes with it.
    let mut port = desk.asked.source_port;
    if desk.flow.is_masqueraded() {
        match node.masquerade_port() {
            Some(drawn) => port = drawn,
            None => {
                desk.verdict = Verdict::Refuse(Counter::PacketPortsExhausted);
                return;
            }
        }
    }
    let mut taking = take(flows, node, desk, port);
    if matches!(taking, Taking::Other) {
        // Looking is cheaper than taking, for the verifier as well, which follows each turn of the loop.
        let drawn = free_port(flows, node, desk);
        if drawn != NO_PORT {
            #[expect(clippy::cast_possible_truncation, reason = "a port, unless it is NO_PORT")]
            let wire = drawn as u16;
            port = Port::from_wire(wire);
            taking = take(flows, node, desk, port);
        }
    }
    // Each by itself: what a variant does not have stays unwritten, and programs may not copy that.
    match taking {
        Taking::Written => {
            desk.verdict = Verdict::Open(Rewrite {
                address: desk.backend.address,
                source_port: port,
                destination_port: desk.backend.port,
            });
        }
        Taking::Full => desk.verdict = Verdict::Refuse(Counter::PacketFlowsFull),
        Taking::Other => desk.verdict = Verdict::Refuse(Counter::PacketPortsExhausted),
    }
}

/// What [`free_port`] says if there is none; other values are ports in network byte order.
const NO_PORT: u32 = u32::MAX;

/// Draws ports until one is free.
#[inline(never)]
fn free_port<F: Flows>(flows: &F, node: &impl Node, desk: &mut Desk) -> u32 {
    let mut probe = 1;
    while probe < PROBES {
        probe += 1;
        let Some(port) = node.masquerade_port() else { break };
        spell(desk, port);
        let is_closing = |flow: &Flow| flow.state & flow_state::CLOSING != 0;
        let is_taken = flows.flow(&desk.key).is_some_and(|(flow, _)| !is_closing(&flow));
        if is_taken || is_self(desk, port) {
            continue;
        }
        if desk.flow.is_masqueraded()
            && (flows.arrival(&desk.answer).is_some() || node.has_socket(&desk.answer))
        {
            continue;
        }
        return u32::from(port.wire());
    }
    NO_PORT
}

/// Whether both ends would be equal: nobody could tell the flow's packets from the answers.
#[inline(always)]
fn is_self(desk: &Desk, port: Port) -> bool {
    port == desk.backend.port && desk.asked.source == desk.backend.address
}

/// Writes the flow's names with this source port to the desk; whether its key is the middle name reversed.
#[inline(always)]
fn spell(desk: &mut Desk, port: Port) -> bool {
    desk.tuple.source = desk.asked.source;
    desk.tuple.destination = desk.backend.address;
    desk.tuple.source_port = port;
    desk.tuple.destination_port = desk.backend.port;
    desk.tuple.protocol = desk.asked.protocol;
    desk.tuple.reverse_into(&mut desk.answer);
    desk.answer.destination = desk.flow.masquerade;
    desk.tuple.order_into(&mut desk.key)
}

#[repr(u32)]
enum Taking {
    Written = 0,
    Full = 1,
    Other = 2,
}

/// Writes the flow with this source port: the flow itself first, then how answers arrive, then how the client's
/// packets do. Whoever sees a later one sees the earlier.
#[inline(never)]
fn take<F: Flows>(flows: &F, node: &impl Node, desk: &mut Desk, port: Port) -> Taking {
    if is_self(desk, port) {
        return Taking::Other;
    }
    let is_reversed = spell(desk, port);
    desk.flow.flags = if is_reversed { 0 } else { flow_flag::CLIENT_IS_SOURCE };
    desk.flow.born = desk.flow.seen;
    desk.flow.seal_for(&desk.key);
    match flows.put_flow(&desk.key, &desk.flow) {
        Put::Done => {}
        Put::Full => return Taking::Full,
        Put::Taken => {
            if !make_way(flows, desk) {
                return Taking::Other;
            }
        }
    }
    desk.arrival.noted = 0;
    if desk.flow.is_masqueraded() {
        desk.arrival.address = desk.asked.source;
        desk.arrival.born = desk.flow.born;
        desk.arrival.port = port;
        desk.arrival.source_port = desk.backend.port;
        desk.arrival.flags = arrival_flag::REPLY;
        desk.arrival.seal_for(&desk.answer);
        let put = if node.has_socket(&desk.answer) {
            Put::Taken
        } else {
            flows.put_arrival(&desk.answer, &desk.arrival, true)
        };
        if put != Put::Done {
            flows.remove_flow(&desk.key);
            return if put == Put::Full { Taking::Full } else { Taking::Other };
        }
    }
    flows.watch_backend(&desk.backend.address, desk.flow.is_masqueraded());
    desk.arrival.address = desk.backend.address;
    desk.arrival.born = desk.flow.born;
    desk.arrival.port = desk.backend.port;
    desk.arrival.source_port = port;
    desk.arrival.flags = 0;
    desk.arrival.seal_for(&desk.asked);
    if flows.put_arrival(&desk.asked, &desk.arrival, false) != Put::Done {
        if desk.flow.is_masqueraded() {
            flows.remove_arrival(&desk.answer);
        }
        flows.remove_flow(&desk.key);
        return Taking::Full;
    }
    Taking::Written
}

/// Makes way for the flow where there is one with its name already; `false` if a live one has it.
#[inline(always)]
fn make_way<F: Flows>(flows: &F, desk: &mut Desk) -> bool {
    let Some((old, _)) = flows.flow(&desk.key) else { return false };
    if !old.belongs_to(&desk.key) {
        return false;
    }
    desk.other = old;
    if desk.other.state & flow_state::CLOSING != 0 {
        // What is left of an earlier connection.
        desk.other_key = desk.key;
        remove_other(flows, desk);
        return flows.put_flow(&desk.key, &desk.flow) == Put::Done;
    }
    // Another CPU has opened it just now, for another packet of the client's.
    desk.flow.born = desk.other.born;
    is_same(&desk.other, &desk.flow)
}

/// Whether both lead the same client from the same frontend to the same backend, neither under a name drawn for it. The
/// flags tell the direction: two peers may each ask a service from the port at which they serve it.
#[inline(always)]
fn is_same(old: &Flow, new: &Flow) -> bool {
    old.vip == new.vip
        && old.vip_port == new.vip_port
        && old.client_port == new.client_port
        && old.flags == new.flags
        && !old.is_masqueraded()
        && !new.is_masqueraded()
}
