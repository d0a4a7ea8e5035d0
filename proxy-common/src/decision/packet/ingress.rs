//! Where a packet comes in: its destination is translated, and what a client says about its flow is noted.

use super::{Desk, Flows, Node, Queue, Rewrite, Signals, Verdict, enqueue, opening, remove_own, state};
use crate::{
    decision::{
        Destination, Tables,
        frontend::{self, OnTheWire},
    },
    layout::{Arrival, Counter, Tuple, arrival_flag, flow_state, protocol},
};

/// Decides about a packet that comes in by a device, and notes what a client's packet says about its flow.
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
    if let Some((arrival, entry)) = known(flows, tuple) {
        if !is_ours(&arrival) {
            return Verdict::Pass;
        }
        let tick = node.tick();
        if says_nothing(&arrival, tuple.protocol, signals, tick) {
            return Verdict::Rewrite(rewrite(&arrival));
        }
        match look(flows, node, desk, &arrival, &(tuple, signals)) {
            // Its other half is gone, or it is over: if anything, the packet begins another one.
            Found::Nothing => {}
            Found::Young => {
                if arrival.noted != 0 {
                    flows.stamp(entry, arrival.born, 0);
                }
                return Verdict::Rewrite(rewrite(&arrival));
            }
            Found::Settled => {
                flows.stamp(entry, arrival.born, tick);
                return Verdict::Rewrite(rewrite(&arrival));
            }
        }
    }
    if !signals.has(Signals::OPENS) {
        return Verdict::Pass;
    }
    desk.asked = *tuple;
    begin(tables, flows, node, desk);
    if matches!(desk.verdict, Verdict::Open(_)) {
        let place = desk.flow.place;
        enqueue(flows, desk, Queue::Nascent, place);
    }
    desk.verdict
}

/// Whether the flow need not be looked at: answers are noted where they leave; and of a client's packets in the
/// middle of an established flow one each tick will do.
#[inline(always)]
const fn says_nothing(arrival: &Arrival, protocol: u8, signals: Signals, tick: u16) -> bool {
    const NEWS: u32 = Signals::DONE | Signals::RESET;
    arrival.flags & arrival_flag::REPLY != 0
        || arrival.noted == tick
            && !signals.has(NEWS)
            && (!signals.has(Signals::OPENS) || protocol == protocol::UDP)
}

/// What was found of a client's flow.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Found {
    /// None that goes on.
    Nothing = 0,
    /// Each of its packets may say something about it.
    Young = 1,
    /// It is established.
    Settled = 2,
}

/// Looks at the flow that a client's packet belongs to, and notes that it passed. One that is over is removed when the
/// packet opens another: the client uses its port again.
#[inline(never)]
fn look<F: Flows>(
    flows: &F,
    node: &impl Node,
    desk: &mut Desk,
    arrival: &Arrival,
    packet: &(&Tuple, Signals),
) -> Found {
    let (tuple, signals) = *packet;
    desk.tuple.source = tuple.source;
    desk.tuple.destination = arrival.address;
    desk.tuple.source_port = arrival.source_port;
    desk.tuple.destination_port = arrival.port;
    desk.tuple.protocol = tuple.protocol;
    desk.tuple.order_into(&mut desk.key);
    let Some((flow, place)) = flows.flow(&desk.key) else { return Found::Nothing };
    if !flow.belongs_to(&desk.key) || flow.born != arrival.born {
        return Found::Nothing;
    }
    desk.flow = flow;
    if signals.has(Signals::OPENS) && desk.flow.state & flow_state::CLOSING != 0 {
        remove_own(flows, desk);
        return Found::Nothing;
    }
    let state = state::note(flows, node, desk, place, (true, signals));
    if state & (flow_state::ESTABLISHED | flow_state::CLOSING) == flow_state::ESTABLISHED {
        Found::Settled
    } else {
        Found::Young
    }
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
    known(flows, tuple).map(|(arrival, _)| arrival).filter(is_ours).map(|arrival| rewrite(&arrival))
}

#[inline(always)]
fn known<F: Flows>(flows: &F, tuple: &Tuple) -> Option<(Arrival, F::Entry)> {
    let (arrival, entry) = flows.arrival(tuple)?;
    if arrival.belongs_to(tuple) { Some((arrival, entry)) } else { None }
}

/// Whether the packet is of a flow of ours, and not an answer to a name that only netfilter has given. Where that
/// masquerades what the kernel forwards, as flannel has it, no packet ever leaves under a name of ours: netfilter comes
/// before us and draws a port of its own, perhaps the one that some flow of ours has drawn, or a NodePort. The answer is
/// for netfilter to translate.
#[inline(always)]
const fn is_ours(arrival: &Arrival) -> bool {
    arrival.flags & arrival_flag::REPLY == 0 || arrival.noted != 0
}

#[inline(always)]
const fn rewrite(arrival: &Arrival) -> Rewrite {
    Rewrite { address: arrival.address, source_port: arrival.source_port, destination_port: arrival.port }
}
