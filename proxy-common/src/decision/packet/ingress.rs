//! Where a packet comes in: its destination is translated.

use super::{Desk, Flows, Node, Queue, Rewrite, Signals, Verdict, enqueue, opening, remove_other, state};
use crate::{
    decision::{
        Destination, Tables,
        frontend::{self, OnTheWire},
    },
    layout::{Arrival, Counter, Tuple, arrival_flag, flow_state},
};

/// Decides about a packet that comes in by a device.
///
/// A packet in the middle of a flow that we do not know passes: it may belong to a connection that kube-proxy's
/// conntrack still translates, from before we were here.
#[inline(always)]
pub fn ingress<F: Flows>(
    tables: &impl Tables,
    flows: &F,
    node: &impl Node,
    desk: &mut Desk,
    (tuple, signals): (&Tuple, Signals),
) -> Verdict {
    if let Some(arrival) = known(flows, tuple)
        // Else it is over, or its other half is gone: it begins anew.
        && (!needs_flow(&arrival, tuple, signals)
            || is_going_on(flows, node, desk, &arrival, &(tuple, signals)))
    {
        return Verdict::Rewrite(rewrite(&arrival));
    }
    if !signals.has(Signals::OPENS) {
        return Verdict::Pass;
    }
    desk.asked = *tuple;
    begin(tables, flows, node, desk);
    if matches!(desk.verdict, Verdict::Open(_)) {
        enqueue(flows, desk, Queue::Nascent);
    }
    desk.verdict
}

/// Whether the flow that a client's packet belongs to is there. One that is over is removed when the packet opens
/// another: the client uses its port again.
#[inline(never)]
fn is_going_on<F: Flows>(
    flows: &F,
    node: &impl Node,
    desk: &mut Desk,
    arrival: &Arrival,
    packet: &(&Tuple, Signals),
) -> bool {
    let (tuple, signals) = *packet;
    desk.tuple.source = tuple.source;
    desk.tuple.destination = arrival.address;
    desk.tuple.source_port = arrival.source_port;
    desk.tuple.destination_port = arrival.port;
    desk.tuple.protocol = tuple.protocol;
    desk.tuple.order_into(&mut desk.key);
    let Some((flow, place)) = flows.flow(&desk.key) else { return false };
    if !flow.belongs_to(&desk.key) || flow.born != arrival.born {
        return false;
    }
    desk.flow = flow;
    if signals.has(Signals::OPENS) && desk.flow.state & flow_state::CLOSING != 0 {
        desk.other = desk.flow;
        desk.other_key = desk.key;
        remove_other(flows, desk);
        return false;
    }
    if arrival.flags & arrival_flag::STAYS != 0 {
        state::note(flows, desk, node.now(), place, (true, signals));
    }
    true
}

/// Opens a flow for what was asked, if a Service has it.
#[inline(never)]
fn begin<F: Flows>(tables: &impl Tables, flows: &F, node: &impl Node, desk: &mut Desk) {
    let destination = Destination {
        address: desk.asked.destination,
        port: desk.asked.destination_port,
        protocol: desk.asked.protocol,
    };
    match frontend::on_the_wire(tables, &destination) {
        OnTheWire::Served(frontend) => {
            desk.frontend = frontend;
            opening::open(tables, flows, node, desk);
        }
        // As kube-proxy has it in nftables mode.
        OnTheWire::ClosedPort => desk.verdict = Verdict::Refuse(Counter::PacketClosedPort),
        OnTheWire::Foreign => desk.verdict = Verdict::Pass,
    }
}

/// What a packet with this tuple would become, without any effect: for the headers that ICMP errors quote.
#[inline(always)]
pub fn arriving<F: Flows>(flows: &F, tuple: &Tuple) -> Option<Rewrite> {
    known(flows, tuple).map(|arrival| rewrite(&arrival))
}

#[inline(always)]
fn known<F: Flows>(flows: &F, tuple: &Tuple) -> Option<Arrival> {
    let arrival = flows.arrival(tuple)?;
    if arrival.belongs_to(tuple) { Some(arrival) } else { None }
}

#[inline(always)]
const fn rewrite(arrival: &Arrival) -> Rewrite {
    Rewrite { address: arrival.address, source_port: arrival.source_port, destination_port: arrival.port }
}

/// Whether the flow itself must be looked at: when the packet could begin another one (for UDP, which any packet
/// could, the arrival is enough), and when it will not pass a device on its way out.
#[inline(always)]
const fn needs_flow(arrival: &Arrival, tuple: &Tuple, signals: Signals) -> bool {
    arrival.flags & arrival_flag::REPLY == 0
        && (arrival.flags & arrival_flag::STAYS != 0
            || signals.has(Signals::OPENS) && tuple.protocol != crate::layout::protocol::UDP)
}
