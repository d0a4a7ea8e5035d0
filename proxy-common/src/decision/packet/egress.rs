//! Where a packet goes out: its source is translated.

use super::{Desk, Flows, Node, Rewrite, Signals, Verdict, state};
use crate::layout::{Flow, Tuple};

/// Decides about a packet that leaves by a device, and notes what it says about its flow.
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
    state::note(flows, desk, node.now(), place, (from_client, signals));
    match translated(&desk.flow, tuple, from_client) {
        Some(rewrite) => Verdict::Rewrite(rewrite),
        None => Verdict::Pass,
    }
}

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
