//! What a datagram of an unconnected UDP socket gets.
//!
//! A socket keeps its backend for as long as the service has it, as it would under kube-proxy, where
//! conntrack pins the flow: DNS over one socket, or QUIC, would break otherwise. The usual datagram costs no
//! hash look-up: the socket's origin says what was chosen, and the revision and the service's `sets` word that
//! neither the frontends nor the service's endpoints have changed since.

use super::{Caller, Destination, Outcome, Tables, choice, frontend};
use crate::layout::{Backend, Fate, Origin, Range, Revision, Sender, SenderKey, Sets, origin_flag};

/// Decides a sendto() or sendmsg() that names its destination, and keeps the socket's origin. The second value says
/// whether that took more than a look at what the socket remembers: worth counting, and logging.
#[inline(always)]
pub fn datagram(tables: &impl Tables, caller: &impl Caller, destination: &Destination) -> (Outcome, bool) {
    // Words and not an Option: of `None` these would be without value, and old verifiers let nobody carry such about.
    let (known, is_known) = match caller.origin() {
        Some(origin) if origin.is_whole() => (origin, true),
        _ => (Origin::BLANK, false),
    };
    // Before the frontend is looked up: a change in between makes the choice look old, never a stale one new.
    let revision = tables.revision();
    if is_known
        && known.vip == destination.address
        && known.vip_port == destination.port
        && known.flags & origin_flag::CONNECTED == 0
        && Revision(known.stamp) == revision
        && revision.is_settled()
        && still_there(tables, &known)
    {
        return (Outcome::Translate(known.backend, known.backend_port), false);
    }
    if caller.is_connected_to(destination) {
        // connect() has decided. The kernel sends what a connected v4-mapped socket sends as if its peer had been named
        // (`udpv6_sendmsg`); led elsewhere, it would not hear the answer.
        return (Outcome::Pass, false);
    }
    let Some(frontend) = frontend::find(tables, caller, destination) else { return (Outcome::Pass, false) };
    if caller.is_left_to_packets() {
        return (Outcome::Pass, false);
    }

    // The backend it had, if the service still has it; else a choice that depends on the socket alone, so
    // that a socket which alternates between two services does not wander.
    let asked_before = is_known
        && known.vip == destination.address
        && known.vip_port == destination.port
        && known.service == frontend.service;
    let sticky = if asked_before { keep(tables, caller, &frontend, &known) } else { None };
    let chosen = match sticky {
        Some(chosen) => chosen,
        None => {
            let random = spread(caller.cookie(), frontend.service);
            match choice::choose(tables, caller, &frontend, random) {
                Ok(chosen) => {
                    tables.tally(frontend.service, Fate::Associated);
                    chosen
                }
                Err(refusal) => {
                    if let Some(fate) = refusal.fate() {
                        tables.tally(frontend.service, fate);
                    }
                    return (refusal, true);
                }
            }
        }
    };
    let mut origin = chosen.origin(destination, &frontend, revision.0);
    if is_known {
        let previous = &known;
        if previous.flags & origin_flag::CONNECTED != 0 && caller.is_connected() {
            // sendto() on a connected socket: its peer's name stays, and no answer from elsewhere arrives.
            return (Outcome::Translate(origin.backend, origin.backend_port), true);
        }
        origin.flags = previous.flags & origin_flag::MANY;
        if previous.backend != origin.backend || previous.backend_port != origin.backend_port {
            // Answers of the previous backend may still be on their way.
            origin.flags |= origin_flag::MANY;
            keep_name(tables, caller, previous);
            keep_name(tables, caller, &origin);
        }
    }
    if !caller.keep_origin(&origin.sealed()) {
        // Sent anyway, the answer would show an address the program never asked.
        return (Outcome::NoMemory, true);
    }
    (Outcome::Translate(origin.backend, origin.backend_port), true)
}

/// Records under which name the socket knows a backend, for when its origin tells of another.
#[inline(always)]
fn keep_name(tables: &impl Tables, caller: &impl Caller, origin: &Origin) {
    let key = SenderKey {
        socket: caller.cookie(),
        address: origin.backend,
        port: origin.backend_port,
        reserved: [0; 3],
    };
    let sender = Sender {
        vip: origin.vip,
        port: origin.vip_port,
        reserved: 0,
        #[cfg(feature = "later-layout")]
        later: [0; 4],
    };
    tables.keep_sender(&key, &sender);
}

/// Whether the service's snapshot is the one the backend was chosen from. The slot is compared as well: a
/// word may come back with other backends behind it.
#[inline(always)]
fn still_there(tables: &impl Tables, origin: &Origin) -> bool {
    let Some(sets) = tables.sets(origin.service) else { return false };
    if sets != Sets(origin.sets) {
        return false;
    }
    match tables.backend(origin.slot) {
        Some(backend) => backend.is_at(&origin.backend, origin.backend_port),
        None => false,
    }
}

/// The socket's backend in the service's current snapshot.
#[inline(always)]
fn keep(
    tables: &impl Tables,
    caller: &impl Caller,
    frontend: &crate::layout::Frontend,
    origin: &Origin,
) -> Option<choice::Chosen> {
    let sets = tables.sets(frontend.service)?;
    let range: Range = choice::applicable(frontend, sets, caller);
    let slot = choice::position(tables, range, &origin.backend, origin.backend_port)?;
    let backend: Backend = tables.backend(slot)?;
    Some(choice::Chosen { backend, slot, sets })
}

/// 32 well-mixed bits that depend on the socket and the service: the finaliser of MurmurHash3 on their sum.
/// Socket cookies count up, so they need the mixing.
#[inline(always)]
pub const fn spread(cookie: u64, service: u32) -> u32 {
    let mut bits = cookie ^ (service as u64) << 40;
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (bits >> 32) as u32
}
