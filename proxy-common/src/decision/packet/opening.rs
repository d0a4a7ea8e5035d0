//! A new flow: its backend and its names.

use super::{Flows, Node, Put, Queue, Rewrite, Verdict, enqueue, remove};
use crate::{
    address::{Address, Port},
    decision::{Outcome, Tables, choice},
    layout::{
        Arrival, Backend, Counter, Flow, Frontend, Tuple, arrival_flag, backend_flag, flow_flag, flow_state,
    },
};

/// How many source ports are tried. With nine of ten ports to a backend taken, one flow in thirty finds none.
pub const PROBES: u32 = 32;

/// Opens a flow from `tuple.source` through `frontend`, and says where its first packet goes.
#[inline(always)]
pub fn open<F: Flows>(
    tables: &impl Tables,
    flows: &F,
    node: &impl Node,
    tuple: &Tuple,
    frontend: &Frontend,
) -> Verdict {
    let backend = match choice::choose(tables, node, frontend, node.random()) {
        Ok(chosen) => chosen.backend,
        // There are endpoints, but none for this client: kube-proxy drops, so that a load balancer which
        // tries nodes sees no answer rather than a wrong one.
        Err(Outcome::Unreachable) => return Verdict::Drop(Counter::PacketNoLocalEndpoint),
        Err(_) => return Verdict::Refuse(Counter::PacketNoEndpoint),
    };
    let mut masquerade = Address::ANY_V6;
    if needs_masquerade(node, tuple, &backend) {
        match node.masquerade_address(&backend.address) {
            Some(own) => masquerade = own,
            None => return Verdict::Refuse(Counter::PacketNoRoute),
        }
    }
    let stays = tables.is_node_address(&backend.address);
    let now = node.now();
    let names = Names { frontend: frontend.service, asked: *tuple, backend, masquerade, stays, now };
    name(flows, node, &names)
}

/// Whether answers would find their way back past this node if the backend saw the client's address: a backend
/// elsewhere, asked from outside, would answer directly. And a pod that reaches itself must not see its own address as
/// the sender's.
#[inline(always)]
fn needs_masquerade(node: &impl Node, tuple: &Tuple, backend: &Backend) -> bool {
    backend.address == tuple.source || node.is_outside() && backend.flags & backend_flag::LOCAL == 0
}

/// Everything about a flow but its source port.
struct Names {
    frontend: u32,
    asked: Tuple,
    backend: Backend,
    masquerade: Address,
    stays: bool,
    now: u64,
}

/// Finds a source port under which no other flow is known, and writes the flow.
#[inline(always)]
fn name<F: Flows>(flows: &F, node: &impl Node, names: &Names) -> Verdict {
    let is_masqueraded = names.masquerade != Address::ANY_V6;
    let mut port = names.asked.source_port;
    let mut probe = 0;
    while probe < PROBES {
        // Its own port serves a client best, and is its to use as long as its address goes with it.
        if probe > 0 || is_masqueraded {
            match node.masquerade_port() {
                Some(drawn) => port = drawn,
                None => break,
            }
        }
        match take(flows, node, names, port) {
            Taking::Written => {
                return Verdict::Open(Rewrite {
                    address: names.backend.address,
                    source_port: port,
                    destination_port: names.backend.port,
                });
            }
            Taking::Full => return Verdict::Refuse(Counter::PacketFlowsFull),
            Taking::Other => {}
        }
        probe += 1;
    }
    Verdict::Refuse(Counter::PacketPortsExhausted)
}

enum Taking {
    Written,
    Full,
    Other,
}

/// Writes the flow with this source port: the flow itself first, then how answers arrive, then how the client's
/// packets do. Whoever sees a later one sees the earlier.
#[inline(always)]
fn take<F: Flows>(flows: &F, node: &impl Node, names: &Names, port: Port) -> Taking {
    let inside = Tuple {
        source: names.asked.source,
        destination: names.backend.address,
        source_port: port,
        destination_port: names.backend.port,
        protocol: names.asked.protocol,
        reserved: [0; 3],
    };
    let (key, is_reversed) = inside.ordered();
    let flow = Flow {
        vip: names.asked.destination,
        masquerade: names.masquerade,
        born: names.now,
        seen: names.now,
        vip_port: names.asked.destination_port,
        client_port: names.asked.source_port,
        service: names.frontend,
        state: 0,
        flags: if is_reversed { 0 } else { flow_flag::CLIENT_IS_SOURCE },
        seal: 0,
    }
    .sealed(&key);
    match flows.put_flow(&key, &flow) {
        Put::Done => {}
        Put::Full => return Taking::Full,
        Put::Taken => {
            let Some((old, _)) = flows.flow(&key) else { return Taking::Other };
            let is_same =
                old.vip == flow.vip && old.vip_port == flow.vip_port && old.client_port == flow.client_port;
            if !is_same && old.state & flow_state::CLOSING == 0 {
                return Taking::Other;
            }
            // What is left of an earlier connection gives way.
            remove(flows, &key, &old);
            if flows.put_flow(&key, &flow) != Put::Done {
                return Taking::Other;
            }
        }
    }
    if flow.is_masqueraded() {
        let answer = flow.answered(&key);
        let arrival = Arrival {
            address: names.asked.source,
            born: names.now,
            port,
            source_port: names.backend.port,
            flags: arrival_flag::REPLY,
            seal: 0,
        }
        .sealed(&answer);
        let put =
            if node.has_socket(&answer) { Put::Taken } else { flows.put_arrival(&answer, &arrival, true) };
        if put != Put::Done {
            flows.remove_flow(&key);
            return if put == Put::Full { Taking::Full } else { Taking::Other };
        }
    }
    flows.watch_backend(&names.backend.address);
    let arrival = Arrival {
        address: names.backend.address,
        born: names.now,
        port: names.backend.port,
        source_port: port,
        flags: if names.stays { arrival_flag::STAYS } else { 0 },
        seal: 0,
    }
    .sealed(&names.asked);
    if flows.put_arrival(&names.asked, &arrival, false) != Put::Done {
        remove(flows, &key, &flow);
        return Taking::Full;
    }
    enqueue(flows, Queue::Nascent, &key, names.now);
    Taking::Written
}
