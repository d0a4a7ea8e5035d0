//! What the programs remember of clients: affinity, and what a socket asked for.

use super::{
    LATER, map_type,
    seal::{pair, weigh},
};
use crate::address::{Address, Port};

map_type! {
    /// Who keeps coming back to the same backend: a client and a service port, whichever of the service's
    /// frontends it came through.
    pub struct AffinityKey [24] {
        /// The client's address, or its network namespace's cookie in the last two words.
        client: Address,
        /// Index into [`crate::layout::map::SERVICES`].
        service: u32,
        /// One of [`client_kind`].
        kind: u32,
    }
}

/// Values of [`AffinityKey::kind`].
pub mod client_kind {
    /// An address, known on the packet path.
    pub const ADDRESS: u32 = 0;
    /// A network namespace, that is, a pod: at the socket its address is not known yet.
    pub const NAMESPACE: u32 = 1;
}

map_type! {
    /// The backend a client keeps.
    pub struct Affinity [32 + LATER] {
        /// The backend's address.
        address: Address,
        /// The backend's port.
        port: Port,
        /// Zero.
        reserved: [u16; 3],
        /// When the client last opened a connection, `CLOCK_MONOTONIC` nanoseconds.
        last_used: u64,
        /// Zero.
        #[cfg(feature = "later-layout")]
        later: u64,
    }
}

map_type! {
    /// What a socket asked for and what it got.
    pub struct Origin [72] {
        /// Of a socket that connected: its cookie, by which it is told from all other sockets. Of another one: the
        /// frontends' revision before the VIP was looked up.
        stamp: u64,
        /// The service's `sets` word when the backend was chosen.
        sets: u64,
        /// The address asked for.
        vip: Address,
        /// The backend's address.
        backend: Address,
        /// The port asked for.
        vip_port: Port,
        /// The backend's port.
        backend_port: Port,
        /// Index into [`crate::layout::map::SERVICES`].
        service: u32,
        /// The backend's slot when it was chosen.
        slot: u32,
        /// Bits of [`origin_flag`].
        flags: u32,
        /// [`Origin::sealed`]: proves that all of this was written together.
        seal: u64,
    }
}

impl Origin {
    /// That of a socket that has asked for nothing yet.
    pub const BLANK: Self = Self {
        stamp: 0,
        sets: 0,
        vip: Address::ANY_V6,
        backend: Address::ANY_V6,
        vip_port: Port::new(0),
        backend_port: Port::new(0),
        service: 0,
        slot: 0,
        flags: 0,
        seal: 0,
    };

    /// The same, sealed. Threads may send through one socket at the same time, and nothing locks its storage:
    /// a reader must be able to tell a mixture of two origins from either.
    #[inline(always)]
    #[must_use]
    pub const fn sealed(mut self) -> Self {
        self.seal = self.weight();
        self
    }

    /// Whether all of it was written together.
    #[inline(always)]
    pub const fn is_whole(&self) -> bool {
        self.seal == self.weight()
    }

    #[inline(always)]
    const fn weight(&self) -> u64 {
        let (vip_high, vip_low) = self.vip.rank();
        let (backend_high, backend_low) = self.backend.rank();
        weigh(0, self.sets)
            .wrapping_add(weigh(1, vip_high))
            .wrapping_add(weigh(2, vip_low))
            .wrapping_add(weigh(3, backend_high))
            .wrapping_add(weigh(4, backend_low))
            .wrapping_add(weigh(5, pair(self.vip_port.wire() as u32, self.backend_port.wire() as u32)))
            .wrapping_add(weigh(6, pair(self.service, self.slot)))
            .wrapping_add(weigh(7, self.flags as u64))
            .wrapping_add(weigh(8, self.stamp))
    }
}

/// Bits of [`Origin::flags`].
pub mod origin_flag {
    /// Set by connect(): the association is the socket's peer.
    pub const CONNECTED: u32 = 1;
    /// The socket has talked to more than one service: [`crate::layout::map::SENDERS`] has the others.
    pub const MANY: u32 = 2;
}

map_type! {
    /// A socket that sends to many services without connecting, and one backend it talked to.
    pub struct SenderKey [32] {
        /// The socket's cookie.
        socket: u64,
        /// The backend's address.
        address: Address,
        /// The backend's port.
        port: Port,
        /// Zero.
        reserved: [u16; 3],
    }
}

map_type! {
    /// The name under which that socket knows the backend.
    pub struct Sender [20 + LATER] {
        /// The VIP.
        vip: Address,
        /// The VIP's port.
        port: Port,
        /// Zero.
        reserved: u16,
        /// Zero.
        #[cfg(feature = "later-layout")]
        later: [u16; 4],
    }
}
