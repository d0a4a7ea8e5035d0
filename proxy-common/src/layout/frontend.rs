//! What a client asks for, and which service that leads to.

use super::{
    map_type,
    seal::{pair, weigh},
};
use crate::address::{Address, Port};

map_type! {
    /// What a client asks for.
    pub struct FrontendKey [20] {
        /// The VIP; for NodePorts the wildcard of the family.
        address: Address,
        /// The VIP's port.
        port: Port,
        /// IP protocol number.
        protocol: u8,
        /// One of [`scope`].
        scope: u8,
    }
}

/// Values of [`FrontendKey::scope`].
pub mod scope {
    /// The address is the one asked for: ClusterIP, external IP, load-balancer IP.
    pub const VIP: u8 = 0;
    /// The address is a wildcard: whichever address of the node was asked for.
    pub const NODE_PORT: u8 = 1;
    /// Port and protocol are 0: the address is a ClusterIP of a Service, whatever is asked of it.
    pub const ADDRESS: u8 = 2;
}

map_type! {
    /// What a frontend leads to.
    pub struct Frontend [12] {
        /// Index into [`crate::layout::map::SERVICES`].
        service: u32,
        /// One of [`frontend_kind`].
        kind: u32,
        /// [`Frontend::sealed`]: proves to a reader that key and value belong together.
        seal: u32,
    }
}

/// Values of [`Frontend::kind`]: which field of the Service it comes from. Their order is the order in which
/// Services that claim the same frontend are served.
pub mod frontend_kind {
    /// `spec.clusterIPs`.
    pub const CLUSTER_IP: u32 = 1;
    /// `spec.ports[].nodePort`.
    pub const NODE_PORT: u32 = 2;
    /// `status.loadBalancer.ingress[].ip`.
    pub const LOAD_BALANCER: u32 = 3;
    /// `spec.externalIPs`. Last, because whoever may create a Service may write any address here
    /// (CVE-2020-8554): it must not take a ClusterIP over.
    pub const EXTERNAL_IP: u32 = 4;
}

impl Frontend {
    /// A frontend sealed for `key`.
    ///
    /// The kernel may reuse a hash element the moment it is deleted, under the eyes of a program that was
    /// preempted between its look-up and its read (`kernel/bpf/hashtab.c`, preallocated or `bpf_mem_alloc`).
    /// The seal covers key and value, so such a reader notices that it holds somebody else's value, whole
    /// or in parts, and looks up again.
    pub const fn sealed(key: &FrontendKey, service: u32, kind: u32) -> Self {
        Self { service, kind, seal: seal(key, service, kind) }
    }

    /// Whether this value was written for `key`.
    #[inline(always)]
    pub const fn belongs_to(&self, key: &FrontendKey) -> bool {
        self.seal == seal(key, self.service, self.kind)
    }
}

#[inline(always)]
const fn seal(key: &FrontendKey, service: u32, kind: u32) -> u32 {
    let [a, b, c, d] = *key.address.words();
    let rest = (key.port.wire() as u32) << 16 | (key.protocol as u32) << 8 | key.scope as u32;
    let sum = weigh(0, pair(a, b))
        .wrapping_add(weigh(1, pair(c, d)))
        .wrapping_add(weigh(2, pair(rest, kind)))
        .wrapping_add(weigh(3, service as u64));
    (sum >> 32) as u32
}

/// Which state of the frontends map is in force: a count of its changes.
///
/// A socket that remembers what a frontend led to trusts that for as long as the revision is the one it saw
/// before it looked the frontend up. While frontends are being rewritten the revision is odd, and nobody trusts
/// what he remembers; a controller that dies in the middle leaves it so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Revision(pub u64);

impl Revision {
    /// Whether what was looked up under this revision may be used again.
    #[inline(always)]
    pub const fn is_settled(self) -> bool {
        self.0 & 1 == 0
    }

    /// The next one: odd after even, even after odd.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}
