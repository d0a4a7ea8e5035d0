//! May this client come in by a load-balancer address? `spec.loadBalancerSourceRanges`.
//!
//! kube-proxy matches the packet's source, before any masquerade, for pods and the node as for everybody else, and drops
//! what is in no range: before it looks for endpoints (`pkg/proxy/nftables/proxier.go`, the chain of the firewall). Other
//! frontends of the Service are open to all.

use super::{Client, ClientAddress, Outcome, Tables};
use crate::layout::{Frontend, Source, Traits, frontend_kind};

/// Lets the client in, or says what becomes of it.
#[inline(always)]
pub fn admit(
    tables: &impl Tables,
    client: &impl Client,
    frontend: &Frontend,
    traits: Traits,
) -> Result<(), Outcome> {
    match judge(tables, client, frontend, traits) {
        Judgement::Admitted => Ok(()),
        Judgement::KeptOut => Err(Outcome::Denied),
        Judgement::LeftToPackets => Err(Outcome::Pass),
    }
}

#[repr(u32)]
enum Judgement {
    Admitted = 0,
    KeptOut = 1,
    LeftToPackets = 2,
}

/// A function of its own, so that the verifier follows one way from here and not one for each way to get there.
#[inline(never)]
fn judge(tables: &impl Tables, client: &impl Client, frontend: &Frontend, traits: Traits) -> Judgement {
    if !traits.is_restricted() || frontend.kind != frontend_kind::LOAD_BALANCER {
        return Judgement::Admitted;
    }
    let is_admitted = match client.address() {
        ClientAddress::Known(address) => tables.admits(&Source { service: frontend.service, address }),
        // Whichever the kernel chooses: also the VIP itself, where the node has that.
        ClientAddress::Node => traits.is_node_admitted(),
        // His packets will tell: those that no socket hook has translated are judged by where they come from.
        ClientAddress::Pod => return Judgement::LeftToPackets,
    };
    if is_admitted { Judgement::Admitted } else { Judgement::KeptOut }
}
