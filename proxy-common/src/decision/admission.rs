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
    if !traits.is_restricted() || frontend.kind != frontend_kind::LOAD_BALANCER {
        return Ok(());
    }
    let is_admitted = match client.address() {
        ClientAddress::Known(address) => tables.admits(&Source { service: frontend.service, address }),
        // Whichever the kernel chooses: also the VIP itself, where the node has that.
        ClientAddress::Node => traits.is_node_admitted(),
        // His packets will tell: those that no socket hook has translated are judged by where they come from.
        ClientAddress::Pod => return Err(Outcome::Pass),
    };
    if is_admitted { Ok(()) } else { Err(Outcome::Denied) }
}
