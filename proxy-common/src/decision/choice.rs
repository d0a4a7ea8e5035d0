//! Which backend: uniformly random within the endpoint set, unless the client has an affinity.
//!
//! kube-proxy: `statistic --mode random` and `numgen random`, no weights; ClientIP affinity per service port
//! and client, measured from the client's last new connection.

use super::{Client, Destination, Outcome, Tables, admission};
use crate::{
    address::{Address, Port},
    layout::{Affinity, AffinityKey, Backend, Frontend, Origin, Range, Sets, Traits, frontend_kind},
};

const NANOSECONDS: u64 = 1_000_000_000;

/// A backend and where it stood.
#[derive(Clone, Copy)]
pub struct Chosen {
    /// The endpoint.
    pub backend: Backend,
    /// Its slot.
    pub slot: u32,
    /// The snapshot it was chosen from.
    pub sets: Sets,
}

impl Chosen {
    /// What the socket that asked for `destination` has to remember of it, not sealed yet.
    #[inline(always)]
    pub const fn origin(&self, destination: &Destination, frontend: &Frontend, stamp: u64) -> Origin {
        Origin {
            stamp,
            sets: self.sets.0,
            vip: destination.address,
            backend: self.backend.address,
            vip_port: destination.port,
            backend_port: self.backend.port,
            service: frontend.service,
            slot: self.slot,
            flags: 0,
            seal: 0,
        }
    }
}

/// Chooses for a new flow. `random` decides unless affinity does.
#[inline(always)]
pub fn choose(
    tables: &impl Tables,
    client: &impl Client,
    frontend: &Frontend,
    random: u32,
) -> Result<Chosen, Outcome> {
    let traits = match tables.traits(frontend.service) {
        Some(traits) => traits,
        None => Traits::new(0),
    };
    admission::admit(tables, client, frontend, traits)?;
    let Some(sets) = tables.sets(frontend.service) else { return Err(Outcome::Refuse) };
    let range = applicable(frontend, sets, client);
    if range.len == 0 {
        return Err(if sets.any_endpoint() { Outcome::Unreachable } else { Outcome::Refuse });
    }
    let seconds = traits.affinity_seconds();
    let mut slot = range.start + scale(random, range.len);
    if seconds != 0 {
        let (identity, kind) = client.identity();
        let key = AffinityKey { client: identity, service: frontend.service, kind };
        let now = client.now();
        if let Some(row) = tables.affinity(&key)
            && now.saturating_sub(row.last_used) < u64::from(seconds) * NANOSECONDS
            && let Some(kept) = position(tables, range, &row.address, row.port)
        {
            slot = kept;
        }
        let Some(backend) = tables.backend(slot) else { return Err(Outcome::Refuse) };
        let row = Affinity {
            address: backend.address,
            port: backend.port,
            reserved: [0; 3],
            last_used: now,
            #[cfg(feature = "later-layout")]
            later: 0,
        };
        tables.keep_affinity(&key, &row);
        return Ok(Chosen { backend, slot, sets });
    }
    let Some(backend) = tables.backend(slot) else { return Err(Outcome::Refuse) };
    Ok(Chosen { backend, slot, sets })
}

/// The set that a client uses. internalTrafficPolicy Local is about the ClusterIP and has no exception;
/// externalTrafficPolicy Local is about all other frontends, and not for clients on this node: its pods and
/// processes use the Cluster set (kube-proxy's short circuit).
#[inline(always)]
pub fn applicable(frontend: &Frontend, sets: Sets, client: &impl Client) -> Range {
    let local = if frontend.kind == frontend_kind::CLUSTER_IP {
        sets.internal_local()
    } else {
        sets.external_local() && client.is_outside()
    };
    if local { sets.local() } else { sets.cluster() }
}

/// The slot within `range` of the endpoint at `address`:`port`, by binary search: sets are sorted by
/// [`Backend::rank`]. At most 16 steps, which is what 65,535 endpoints take.
///
/// Where to go on is computed, not branched to: before Linux 6.4 the verifier would follow both ways of every step.
#[inline(always)]
pub fn position(tables: &impl Tables, range: Range, address: &Address, port: Port) -> Option<u32> {
    let wanted = Backend::rank_of(address, port);
    let mut first = range.start;
    let mut len = range.len;
    for _ in 0..=u16::BITS {
        if len == 0 {
            return None;
        }
        let half = len >> 1;
        let backend = tables.backend(first + half)?;
        let (is_before, rest) = subtract(backend.rank(), wanted);
        if rest == 0 {
            return Some(first + half);
        }
        first += (half + 1) * is_before;
        // Of an even number, one less is behind the middle than before it.
        len = half - (is_before & !len & 1);
    }
    None
}

/// Takes rank `b` from `a`: 1 if something had to be borrowed, because `a` is less; and what is 0 only if they are equal.
#[inline(always)]
const fn subtract(a: [u64; 3], b: [u64; 3]) -> (u32, u64) {
    let (mut borrow, mut rest) = (0, 0);
    let mut digit = a.len();
    while digit > 0 {
        digit -= 1;
        let difference = a[digit].wrapping_sub(b[digit]).wrapping_sub(borrow);
        borrow = difference >> 63;
        rest |= difference;
    }
    #[expect(clippy::cast_possible_truncation, reason = "0 or 1")]
    let is_less = borrow as u32;
    (is_less, rest)
}

/// Maps 32 random bits to 0..len without division and without more bias than len / 2^32.
#[inline(always)]
pub const fn scale(random: u32, len: u32) -> u32 {
    ((random as u64 * len as u64) >> 32) as u32
}
