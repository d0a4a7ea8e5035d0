//! Where a packet comes in: its destination is translated.

use super::{Flows, Node, Rewrite, Signals, Verdict, opening, remove, state};
use crate::{
    decision::{Destination, Tables, frontend},
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
    tuple: &Tuple,
    signals: Signals,
) -> Verdict {
    if let Some(arrival) = known(flows, tuple) {
        let rewrite = rewrite(&arrival);
        if !needs_flow(&arrival, tuple, signals) {
            return Verdict::Rewrite(rewrite);
        }
        let (key, _) = inside(&arrival, tuple).ordered();
        if let Some((flow, place)) = flows.flow(&key)
            && flow.belongs_to(&key)
            && flow.born == arrival.born
        {
            if !signals.has(Signals::OPENS) || flow.state & flow_state::CLOSING == 0 {
                if arrival.flags & arrival_flag::STAYS != 0 {
                    state::note(flows, node.now(), (&key, &flow, place), true, signals);
                }
                return Verdict::Rewrite(rewrite);
            }
            // The client uses the port of a connection that is over for another one.
            remove(flows, &key, &flow);
        }
        // Else its other half is gone: it begins anew.
    }
    if !signals.has(Signals::OPENS) {
        return Verdict::Pass;
    }
    let destination =
        Destination { address: tuple.destination, port: tuple.destination_port, protocol: tuple.protocol };
    if let Some(frontend) = frontend::on_the_wire(tables, &destination) {
        return opening::open(tables, flows, node, tuple, &frontend);
    }
    unserved(tables, tuple)
}

/// A packet for no frontend. kube-proxy in nftables mode refuses what is asked of a ClusterIP and no Service has, of
/// whatever protocol.
#[inline(always)]
pub fn unserved(tables: &impl Tables, tuple: &Tuple) -> Verdict {
    if frontend::is_cluster_ip(tables, &tuple.destination) {
        Verdict::Refuse(Counter::PacketClosedPort)
    } else {
        Verdict::Pass
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

/// The tuple that a client's packet has inside the node.
#[inline(always)]
const fn inside(arrival: &Arrival, tuple: &Tuple) -> Tuple {
    Tuple {
        source: tuple.source,
        destination: arrival.address,
        source_port: arrival.source_port,
        destination_port: arrival.port,
        protocol: tuple.protocol,
        reserved: [0; 3],
    }
}
