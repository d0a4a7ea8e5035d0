//! The decision's traits on BPF maps and helpers.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_ANY, bpf_sock},
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie,
        bpf_ktime_get_ns,
    },
    maps::lpm_trie::Key,
    programs::SockAddrContext,
};
use core::{arch::asm, ptr};
use proxy_common::{
    address::{Address, Port},
    decision::{Caller, Client, ClientAddress, Destination, Tables},
    layout::{
        self, Affinity, AffinityKey, Backend, Counter, Fate, Frontend, FrontendKey, Origin, Revision, Sender,
        SenderKey, Sets, Source, Traits, client_kind,
    },
};

use crate::maps::{
    AFFINITY, BACKENDS, COUNTERS, FATES, FRONTENDS, LEFT_CGROUPS, LEFT_COUNT, NODE_ADDRESSES, ORIGINS,
    REVISION, SENDERS, SERVICES, SOURCES,
};

/// `TCP_ESTABLISHED`, which a connected UDP socket is in as well (`include/net/tcp_states.h`).
const ESTABLISHED: u32 = 1;

/// Constants that the loader fills in before the programs are verified. Volatile reads keep the compiler from
/// folding the placeholder in; the verifier knows the value and drops what it makes unreachable.
#[unsafe(no_mangle)]
static HOST_NETNS_COOKIE: u64 = 0;
#[unsafe(no_mangle)]
static CAN_SET_ERRNO: u8 = 0;
#[unsafe(no_mangle)]
static LOG_DECISIONS: u8 = 0;

/// Whether refusals may carry an errno (6.1); without, they are left to the wire.
#[inline(always)]
pub fn can_set_errno() -> bool {
    // SAFETY: a reference to a static is valid and aligned.
    unsafe { ptr::read_volatile(&CAN_SET_ERRNO) != 0 }
}

/// Whether decisions are logged.
#[inline(always)]
pub fn logs_decisions() -> bool {
    // SAFETY: a reference to a static is valid and aligned.
    unsafe { ptr::read_volatile(&LOG_DECISIONS) != 0 }
}

/// Counts an outcome on this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(cell) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the verifier checked the pointer; the cell is this CPU's own. A program that interrupts
        // this one on the same CPU may cost a count, which a counter can bear.
        unsafe { *cell += 1 };
    }
}

/// Counts one more for a service. All CPUs share the number: an addition that no other gets in the way of costs little next
/// to a connection, and one for each CPU would take some hundred megabytes on large machines. A function of its own, so
/// that the verifier follows one way from here.
#[inline(never)]
fn add_one(service: u32, fate: u32) {
    if let Some(fates) = FATES.get_ptr_mut(service)
        && let Some(count) = (fate < Fate::COUNT as u32).then_some(fate as usize)
    {
        // SAFETY: the verifier checked the pointer; the index is within the array, whose elements are aligned. The
        // addition is atomic, and nobody does anything else to them. `core` has none for this target.
        unsafe {
            let count = (&raw mut (*fates).counts).cast::<u64>().add(count);
            asm!("lock *(u64 *)({count} + 0) += {one}", count = in(reg) count, one = in(reg) 1u64);
        }
    }
}

/// The same number, of which the compiler does not know any more where it comes from: what is compared is then what is used,
/// and the verifier sees that it was.
#[inline(always)]
pub fn opaque(number: u64) -> u64 {
    let same;
    // SAFETY: copies a register. Without an instruction of its own it would leave a source line without any, which the
    // kernel refuses.
    unsafe {
        asm!("{same} = {number}", same = lateout(reg) same, number = in(reg) number, options(pure, nomem, nostack))
    };
    same
}

/// The maps.
pub struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        let value = FRONTENDS.get_ptr(key)?;
        // SAFETY: the verifier checked the pointer. The element may change while it is copied; the seal
        // tells (`Frontend::sealed`).
        Some(unsafe { ptr::read_volatile(value) })
    }

    #[inline(always)]
    fn revision(&self) -> Revision {
        match REVISION.get_ptr(0) {
            // SAFETY: the verifier checked the pointer; volatile and 8-byte aligned, so one load.
            Some(value) => Revision(unsafe { ptr::read_volatile(value) }),
            // There is an element 0; an odd revision would not be believed anyway.
            None => Revision(1),
        }
    }

    #[inline(always)]
    fn node_address(&self, address: &Address) -> u32 {
        match NODE_ADDRESSES.get_ptr(address) {
            // SAFETY: the verifier checked the pointer; one aligned load. What an element reused under our eyes says is
            // true of another address for one connection.
            Some(value) => unsafe { ptr::read_volatile(value) },
            None => 0,
        }
    }

    #[inline(always)]
    fn admits(&self, source: &Source) -> bool {
        SOURCES.get(&Key::new(Source::BITS, *source)).is_some()
    }

    #[inline(always)]
    fn sets(&self, service: u32) -> Option<Sets> {
        let value = SERVICES.get_ptr(service)?;
        // SAFETY: the verifier checked the pointer; volatile and 8-byte aligned, so one load.
        Some(Sets(unsafe { ptr::read_volatile(&raw const (*value).sets) }))
    }

    #[inline(always)]
    fn traits(&self, service: u32) -> Option<Traits> {
        let value = SERVICES.get_ptr(service)?;
        // SAFETY: as in `sets`.
        Some(Traits(unsafe { ptr::read_volatile(&raw const (*value).traits) }))
    }

    #[inline(always)]
    fn backend(&self, slot: u32) -> Option<Backend> {
        let value = BACKENDS.get_ptr(slot)?;
        // SAFETY: the verifier checked the pointer. A slot within a snapshot that was read in this run is
        // not written before an RCU grace period has passed, which waits for this program.
        Some(unsafe { ptr::read(value) })
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        let value = AFFINITY.get_ptr(key)?;
        // SAFETY: the verifier checked the pointer. What another CPU writes meanwhile is compared with the
        // live endpoint set before it is used.
        Some(unsafe { ptr::read(value) })
    }

    #[inline(always)]
    fn keep_affinity(&self, key: &AffinityKey, row: &Affinity) {
        let _ = AFFINITY.insert(key, row, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn sender(&self, key: &SenderKey) -> Option<Sender> {
        let value = SENDERS.get_ptr(key)?;
        // SAFETY: the verifier checked the pointer. An element evicted under our eyes shows a wrong name for
        // one datagram of a socket that talks to thousands of services; nothing is misdirected by it.
        Some(unsafe { ptr::read(value) })
    }

    #[inline(always)]
    fn keep_sender(&self, key: &SenderKey, sender: &Sender) {
        let _ = SENDERS.insert(key, sender, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn tally(&self, service: u32, fate: Fate) {
        add_one(service, fate as u32);
    }
}

/// The socket a hook runs for.
pub struct Socket<'a>(pub &'a SockAddrContext);

impl Socket<'_> {
    /// The cookie of the socket's network namespace: the pod. At the socket the client is known by it, because its
    /// address is not chosen yet.
    #[inline(always)]
    fn namespace(&self) -> u64 {
        // SAFETY: the context is the one this program was called with.
        unsafe { bpf_get_netns_cookie(self.0.as_ptr()) }
    }

    #[inline(always)]
    fn sk(&self) -> *mut bpf_sock {
        // SAFETY: the kernel hands a valid context to every run; `sk` is the only member of its union.
        unsafe { (*self.0.sock_addr).__bindgen_anon_1.sk }
    }

    /// The address that the socket is bound to, if it is.
    #[inline(always)]
    fn bound_address(&self) -> Option<Address> {
        const INET: u32 = 2;
        let sk = self.sk();
        if sk.is_null() {
            return None;
        }
        // SAFETY: checked for NULL; the verifier turns each read into one of the socket itself.
        unsafe {
            let v4 = ptr::read_volatile(&raw const (*sk).src_ip4);
            let v6 = [
                ptr::read_volatile(&raw const (*sk).src_ip6[0]),
                ptr::read_volatile(&raw const (*sk).src_ip6[1]),
                ptr::read_volatile(&raw const (*sk).src_ip6[2]),
                ptr::read_volatile(&raw const (*sk).src_ip6[3]),
            ];
            if ptr::read_volatile(&raw const (*sk).family) == INET {
                return if v4 == 0 { None } else { Some(Address::from_v4_word(v4)) };
            }
            let address = Address::from_v6_words(v6);
            if address == Address::ANY_V6 || address == Address::ANY_V4 { None } else { Some(address) }
        }
    }
}

impl Client for Socket<'_> {
    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: takes nothing, returns a number.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: takes nothing, returns a number.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn identity(&self) -> (Address, u32) {
        let cookie = self.namespace();
        let client = Address::from_v6_words([0, 0, (cookie >> 32) as u32, cookie as u32]);
        (client, client_kind::NAMESPACE)
    }

    #[inline(always)]
    fn is_outside(&self) -> bool {
        false
    }

    #[inline(always)]
    fn address(&self) -> ClientAddress {
        if !self.in_host_namespace() {
            return ClientAddress::Pod;
        }
        match self.bound_address() {
            Some(address) => ClientAddress::Known(address),
            None => ClientAddress::Node,
        }
    }
}

/// Whether the process that calls is in one of the cgroups that are left alone.
#[inline(never)]
fn is_in_left_cgroup() -> bool {
    // From the root of the hierarchy, wherever the controller sees it from.
    let mut level = 1;
    while level < layout::CGROUP_LEVELS {
        // SAFETY: takes a number, returns a number.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if id == 0 {
            // The process is not that deep.
            return false;
        }
        if LEFT_CGROUPS.get_ptr(&id).is_some() {
            return true;
        }
        level += 1;
    }
    false
}

impl Caller for Socket<'_> {
    #[inline(always)]
    fn is_left_to_packets(&self) -> bool {
        let Some(count) = LEFT_COUNT.get_ptr(0) else { return false };
        // SAFETY: the verifier checked the pointer; volatile and 8-byte aligned, so one load. Most nodes have none.
        let count = unsafe { ptr::read_volatile(count) };
        count != 0 && is_in_left_cgroup()
    }

    #[inline(always)]
    fn in_host_namespace(&self) -> bool {
        // SAFETY: a reference to a static is valid and aligned.
        let host = unsafe { ptr::read_volatile(&HOST_NETNS_COOKIE) };
        if host != 0 {
            return self.namespace() == host;
        }
        // SAFETY: NULL stands for the initial namespace.
        self.namespace() == unsafe { bpf_get_netns_cookie(ptr::null_mut()) }
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context is the one this program was called with.
        unsafe { bpf_get_socket_cookie(self.0.as_ptr()) }
    }

    #[inline(always)]
    fn is_connected(&self) -> bool {
        let sk = self.sk();
        // SAFETY: checked for NULL; the verifier turns the read into one of the socket itself.
        !sk.is_null() && unsafe { ptr::read_volatile(&raw const (*sk).state) } == ESTABLISHED
    }

    #[inline(always)]
    fn is_connected_to(&self, destination: &Destination) -> bool {
        let sk = self.sk();
        if sk.is_null() {
            return false;
        }
        // SAFETY: not NULL; the verifier turns the reads into those of the socket itself. Each is made whatever comes
        // out: it allows constant offsets only. The port is the low 16 bits in memory order, as `user_port`.
        let (state, v4, v6, port) = unsafe {
            (
                ptr::read_volatile(&raw const (*sk).state),
                ptr::read_volatile(&raw const (*sk).dst_ip4),
                [
                    ptr::read_volatile(&raw const (*sk).dst_ip6[0]),
                    ptr::read_volatile(&raw const (*sk).dst_ip6[1]),
                    ptr::read_volatile(&raw const (*sk).dst_ip6[2]),
                    ptr::read_volatile(&raw const (*sk).dst_ip6[3]),
                ],
                ptr::read_volatile((&raw const (*sk).dst_port).cast::<u32>()),
            )
        };
        let is_there = if destination.address.is_v4() {
            destination.address == Address::from_v4_word(v4)
        } else {
            destination.address == Address::from_v6_words(v6)
        };
        is_there && state == ESTABLISHED && Port::from_wire(port as u16) == destination.port
    }

    #[inline(always)]
    fn origin(&self) -> Option<Origin> {
        // SAFETY: the context is valid; the storage lives as long as the socket, whose call this is.
        let storage = unsafe { ORIGINS.get_ptr_mut(self.0) };
        if storage.is_null() {
            return None;
        }
        // SAFETY: not NULL. Another thread of the socket may write meanwhile; the seal tells.
        Some(unsafe { ptr::read_volatile(storage) })
    }

    #[inline(always)]
    fn keep_origin(&self, origin: &Origin) -> bool {
        // SAFETY: as in `origin`.
        let storage = unsafe { ORIGINS.get_or_insert_ptr_mut(self.0, None) };
        if storage.is_null() {
            return false;
        }
        // SAFETY: not NULL, and of this type.
        unsafe { ptr::write_volatile(storage, *origin) };
        true
    }

    #[inline(always)]
    fn forget_origin(&self) {
        // SAFETY: the socket is the context's own. "Not there" is the usual answer.
        let _ = unsafe { ORIGINS.delete(self.sk()) };
    }
}
