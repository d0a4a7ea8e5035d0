//! Where a packet goes out: its source is translated, and what a backend says about its flow is noted.

use super::{Desk, Flows, Node, Rewrite, Signals, Verdict, remove_own, state};
use crate::{
    address::{Address, Port},
    decision::{
        Destination, Tables,
        frontend::{self, OnTheWire},
    },
    layout::{Flow, Tuple, arrival_flag, flow_state, protocol},
};

/// Decides about a packet that leaves by a device, and notes what a backend's packet says about its flow.
#[inline(always)]
pub fn egress<F: Flows>(
    flows: &F,
    node: &impl Node,
    desk: &mut Desk,
    (tuple, signals): (&Tuple, Signals),
) -> Verdict {
    let is_reversed = tuple.order_into(&mut desk.key);
    let Some((flow, place)) = flows.flow(&desk.key) else { return Verdict::Pass };
    if !flow.belongs_to(&desk.key) {
        return Verdict::Pass;
    }
    desk.flow = flow;
    let from_client = desk.flow.client_is_source() != is_reversed;
    if !from_client {
        if signals.has(Signals::ANSWERS) && is_over(&desk.flow) && !desk.flow.is_masqueraded() {
            // It answers to a connection that no Service has to do with: the client has gone to the backend directly,
            // from the very port that it had used.
            remove_own(flows, desk);
            return Verdict::Pass;
        }
        state::note(flows, node, desk, place, (false, signals));
    } else if desk.flow.is_masqueraded() && desk.flow.state & flow_state::LEFT == 0 {
        leave(flows, desk, tuple, place);
    }
    match translated(&desk.flow, tuple, from_client) {
        Some(rewrite) => Verdict::Rewrite(rewrite),
        None => Verdict::Pass,
    }
}

/// Whether both sides had been there, and are done.
#[inline(always)]
const fn is_over(flow: &Flow) -> bool {
    const OVER: u32 = flow_state::ESTABLISHED | flow_state::CLOSING;
    flow.state & OVER == OVER
}

/// Says that from now on answers may come to the name under which the flow on the desk leaves.
#[inline(never)]
fn leave<F: Flows>(flows: &F, desk: &mut Desk, tuple: &Tuple, place: F::Place) {
    tuple.reverse_into(&mut desk.answer);
    desk.answer.destination = desk.flow.masquerade;
    if flows.use_arrival(&desk.answer, desk.flow.born) {
        flows.touch(place, desk.flow.born, desk.flow.seen, desk.flow.state | flow_state::LEFT);
    }
}

/// Notes that a datagram leaves, as it is, that looks as if a Service had sent it: netfilter masquerades under any port,
/// be it a NodePort. The answer is no question then, though it looks like one; of other protocols one can tell. What
/// leads to a flow stays: the Service has indeed sent it, and this is a second device on its way.
///
/// It goes as an arrival without a flow does.
#[inline(never)]
pub fn disown<F: Flows>(tables: &impl Tables, flows: &F, node: &impl Node, desk: &mut Desk, tuple: &Tuple) {
    let source = Destination { address: tuple.source, port: tuple.source_port, protocol: tuple.protocol };
    // The node's own addresses are what netfilter draws from; nobody else may send from them (martian sources).
    if tuple.protocol != protocol::UDP
        || tables.node_address(&tuple.source) == 0
        || !matches!(frontend::on_the_wire(tables, &source), OnTheWire::Served(_))
    {
        return;
    }
    tuple.reverse_into(&mut desk.answer);
    let now = node.now();
    let known = flows.arrival(&desk.answer);
    if let Some((known, _)) = known
        // Written once more now and then, so that it does not go while it is needed. Whatever else stands there stays.
        && (known.address != Address::ANY_V6 || now.wrapping_sub(known.born) < RENEWED)
    {
        return;
    }
    desk.arrival.address = Address::ANY_V6;
    desk.arrival.born = now;
    desk.arrival.port = Port::new(0);
    desk.arrival.source_port = Port::new(0);
    desk.arrival.flags = arrival_flag::REPLY;
    desk.arrival.noted = 0;
    desk.arrival.seal_for(&desk.answer);
    let _ = flows.put_arrival(&desk.answer, &desk.arrival, known.is_none());
}

/// Nanoseconds after which it is noted again that a datagram was not ours.
const RENEWED: u64 = 20_000_000_000;

/// What a packet with this tuple would become, without a note of it: for the headers that ICMP errors quote.
#[inline(always)]
pub fn leaving<F: Flows>(flows: &F, tuple: &Tuple) -> Option<Rewrite> {
    let (key, is_reversed) = tuple.ordered();
    let (flow, _) = flows.flow(&key)?;
    if !flow.belongs_to(&key) {
        return None;
    }
    translated(&flow, tuple, flow.client_is_source() != is_reversed)
}

#[inline(always)]
fn translated(flow: &Flow, tuple: &Tuple, from_client: bool) -> Option<Rewrite> {
    if !from_client {
        return Some(Rewrite {
            address: flow.vip,
            source_port: flow.vip_port,
            destination_port: flow.client_port,
        });
    }
    flow.is_masqueraded().then_some(Rewrite {
        address: flow.masquerade,
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
    })
}
