//! The packet decision's traits on BPF maps and helpers.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, bpf_fib_lookup as FibLookup, bpf_sock, bpf_sock_tuple},
    helpers::generated::{
        bpf_fib_lookup, bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_ns,
        bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release,
    },
};
use core::{mem, ptr};
use proxy_common::{
    address::{Address, Port},
    decision::{
        Client, ClientAddress, choice,
        packet::{Flows, Node, Put, Queue},
    },
    layout::{Arrival, Flow, PortRanges, Queued, Tuple, client_kind, protocol},
};

use super::{
    Work,
    filter::{self, Within},
    rewrite::End,
    skb::Skb,
};
use crate::maps::{ARRIVALS, CLOSING, DEVICES, FLOWS, NASCENT, ROUTE, TURNS, WORK};

#[unsafe(no_mangle)]
static POD_SIDE: u8 = 0;
#[unsafe(no_mangle)]
static MASQUERADE_PORTS: u64 = 0;
#[unsafe(no_mangle)]
static QUEUE_LENGTH: u32 = 0;

const EEXIST: i32 = -17;

/// Whether this node's pods are behind the device.
#[inline(always)]
pub fn is_pod_side() -> bool {
    // SAFETY: a reference to a static is valid and aligned.
    unsafe { ptr::read_volatile(&POD_SIDE) != 0 }
}

/// This CPU's place for what a run writes down.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    let work = WORK.get_ptr_mut(0)?;
    // SAFETY: the verifier checked the pointer. TC programs do not interrupt each other on one CPU, and a run asks
    // for it once. What an earlier run left there is a `Work` as well, and so is zero, which is there at first.
    Some(unsafe { &mut *work })
}

/// The maps.
pub struct FlowMaps;

impl Flows for FlowMaps {
    type Place = *mut Flow;
    type Entry = *mut Arrival;

    #[inline(always)]
    fn arrival(&self, tuple: &Tuple) -> Option<(Arrival, Self::Entry)> {
        let entry = ARRIVALS.get_ptr_mut(tuple)?;
        // SAFETY: the verifier checked the pointer. The element may be reused while it is copied; the seal tells.
        Some((
            unsafe {
                mem::transmute::<[u64; size_of::<Arrival>() / 8], Arrival>(words(entry.cast_const().cast()))
            },
            entry,
        ))
    }

    #[inline(always)]
    fn stamp(&self, entry: Self::Entry, born: u64, tick: u16) {
        // SAFETY: the verifier checked the pointer. The element may have become another arrival's; one that does so
        // between these two lines is looked at a tick too late, or answered to a packet too late.
        unsafe {
            if ptr::read_volatile(&raw const (*entry).born) == born {
                ptr::write_volatile(&raw mut (*entry).noted, tick);
            }
        }
    }

    #[inline(always)]
    fn put_arrival(&self, tuple: &Tuple, arrival: &Arrival, only_new: bool) -> Put {
        put(ARRIVALS.insert(tuple, arrival, u64::from(if only_new { BPF_NOEXIST } else { BPF_ANY })))
    }

    #[inline(always)]
    fn use_arrival(&self, tuple: &Tuple, born: u64) -> bool {
        let Some(arrival) = ARRIVALS.get_ptr_mut(tuple) else { return false };
        // SAFETY: the verifier checked the pointer. If the element becomes another flow's before this is written, that
        // one's is in use too soon, as it would be in a moment.
        unsafe {
            if ptr::read_volatile(&raw const (*arrival).born) != born {
                return false;
            }
            ptr::write_volatile(&raw mut (*arrival).noted, 1);
        }
        true
    }

    #[inline(always)]
    fn remove_arrival(&self, tuple: &Tuple) {
        let _ = ARRIVALS.remove(tuple);
    }

    #[inline(always)]
    fn flow(&self, key: &Tuple) -> Option<(Flow, Self::Place)> {
        let place = FLOWS.get_ptr_mut(key)?;
        // SAFETY: as in `arrival`.
        Some((
            unsafe { mem::transmute::<[u64; size_of::<Flow>() / 8], Flow>(words(place.cast_const().cast())) },
            place,
        ))
    }

    #[inline(always)]
    fn put_flow(&self, key: &Tuple, flow: &Flow) -> Put {
        put(FLOWS.insert(key, flow, u64::from(BPF_NOEXIST)))
    }

    #[inline(always)]
    fn remove_flow(&self, key: &Tuple) {
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn touch(&self, place: Self::Place, born: u64, seen: u64, state: u32) {
        // SAFETY: as in `stamp`: what another flow would inherit is what was true of this one a moment ago.
        unsafe {
            if ptr::read_volatile(&raw const (*place).born) == born {
                ptr::write_volatile(&raw mut (*place).seen, seen);
                ptr::write_volatile(&raw mut (*place).state, state);
            }
        }
    }

    #[inline(always)]
    fn note_place(&self, flow: Self::Place, place: u32) {
        // SAFETY: as in `touch`; a place that is not its own is none that a flow could give up.
        unsafe { ptr::write_volatile(&raw mut (*flow).place, place) };
    }

    #[inline(always)]
    fn watch_backend(&self, backend: &Address, is_masqueraded: bool) {
        filter::mark_backend(backend, End::Source);
        if is_masqueraded {
            filter::mark_backend(backend, End::Destination);
        }
    }

    #[inline(always)]
    fn turn(&self, queue: Queue) -> u32 {
        let Some(turns) = TURNS.get_ptr_mut(queue as u32) else { return 0 };
        // SAFETY: the verifier checked the pointer; the cell is this CPU's own, and TC programs do not interrupt
        // each other on one CPU. `QUEUE_LENGTH` is a static. The helper takes nothing and returns a number.
        unsafe {
            let turn = *turns;
            *turns = turn.wrapping_add(1);
            let length = ptr::read_volatile(&QUEUE_LENGTH);
            // A power of two.
            bpf_get_smp_processor_id() * length + (turn & (length.wrapping_sub(1)))
        }
    }

    #[inline(always)]
    fn take_place(&self, queue: Queue, place: u32, entry: &Queued) -> Option<Queued> {
        let place = match queue {
            Queue::Nascent => NASCENT.get_ptr_mut(place)?,
            Queue::Closing => CLOSING.get_ptr_mut(place)?,
        };
        // SAFETY: the verifier checked the pointer; the place is this CPU's own. Others only free it.
        unsafe {
            let previous = ptr::read(place);
            ptr::write(place, *entry);
            Some(previous)
        }
    }

    #[inline(always)]
    fn leave_place(&self, queue: Queue, place: u32, born: u64) {
        let place = match queue {
            Queue::Nascent => NASCENT.get_ptr_mut(place),
            Queue::Closing => CLOSING.get_ptr_mut(place),
        };
        let Some(place) = place else { return };
        // SAFETY: the verifier checked the pointer. The CPU whose place it is may give it to another flow in between:
        // that one keeps its room until it is too old, and no longer.
        unsafe {
            let has = &raw mut (*place).born;
            if ptr::read_volatile(has) == born {
                ptr::write_volatile(has, 0);
            }
        }
    }
}

/// Reads a value word by word, each of them once: what was checked is what is used, whoever writes meanwhile.
///
/// # Safety
/// `from` is valid for reads of that many words.
#[inline(always)]
unsafe fn words<const N: usize>(from: *const u64) -> [u64; N] {
    let mut words = [0; N];
    let mut index = 0;
    while index < N {
        // SAFETY: within bounds, by the caller's promise.
        words[index] = unsafe { ptr::read_volatile(from.add(index)) };
        index += 1;
    }
    words
}

#[inline(always)]
const fn put(result: Result<(), i32>) -> Put {
    match result {
        Ok(()) => Put::Done,
        Err(EEXIST) => Put::Taken,
        // E2BIG; ENOMEM and EBUSY are to a new flow the same.
        Err(_) => Put::Full,
    }
}

/// This node, as a packet of a client meets it.
pub struct Here<'a> {
    /// The packet.
    pub skb: Skb,
    /// Its source address.
    pub client: &'a Address,
}

impl Client for Here<'_> {
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
        (*self.client, client_kind::ADDRESS)
    }

    #[inline(always)]
    fn is_outside(&self) -> bool {
        match filter::is_in_pod_cidr(self.client) {
            Within::Yes => false,
            Within::No => true,
            Within::NoRanges => !is_pod_side(),
        }
    }

    #[inline(always)]
    fn address(&self) -> ClientAddress {
        ClientAddress::Known(*self.client)
    }
}

impl Node for Here<'_> {
    #[inline(always)]
    fn is_by_outer_device(&self) -> bool {
        !is_pod_side()
    }

    #[inline(always)]
    fn tick(&self) -> u16 {
        // SAFETY: takes nothing, returns a number; the verifier makes it a load (`do_misc_fixups` in
        // `kernel/bpf/verifier.c`). A jiffy is 1 to 10 ms long, so this is 0.25 to 2.5 s.
        let tick = unsafe { bpf_jiffies64() >> 8 } as u16;
        if tick == 0 { 1 } else { tick }
    }

    #[inline(always)]
    fn masquerade_address(&self, backend: &Address) -> Option<Address> {
        let index = route(self.skb, self.client, backend);
        let device = DEVICES.get_ptr(index)?;
        // SAFETY: the verifier checked the pointer.
        let address = unsafe { if backend.is_v4() { (*device).v4 } else { (*device).v6 } };
        if address == Address::ANY_V6 { None } else { Some(address) }
    }

    #[inline(always)]
    fn masquerade_port(&self) -> Option<Port> {
        // SAFETY: a reference to a static is valid and aligned.
        let ranges = PortRanges(unsafe { ptr::read_volatile(&MASQUERADE_PORTS) });
        if ranges.len() == 0 { None } else { Some(ranges.port(choice::scale(self.random(), ranges.len()))) }
    }

    #[inline(always)]
    fn has_socket(&self, answer: &Tuple) -> bool {
        is_connected(self.skb, answer)
    }
}

/// The device by which the kernel would send a packet from `client` to `backend`; 0 for none.
#[inline(never)]
fn route(skb: Skb, client: &Address, backend: &Address) -> u32 {
    const INET: u8 = 2;
    const INET6: u8 = 10;
    /// No neighbour entry yet, and larger than the device's MTU: both know the device.
    const NO_NEIGHBOUR: i64 = 7;
    const TOO_LARGE: i64 = 8;
    // On the stack there is no room for it.
    let Some(lookup) = ROUTE.get_ptr_mut(0) else { return 0 };
    const WORDS: usize = size_of::<FibLookup>() / size_of::<u64>();
    // SAFETY: the verifier checked the pointer; the place is this CPU's own and aligned as all values of maps are, to 8
    // bytes. Integers and unions of such, for which zero is a value. Word by word, for the reason that is given below.
    let lookup = unsafe {
        let mut word = 0;
        while word < WORDS {
            ptr::write_volatile(lookup.cast::<u64>().add(word), 0);
            word += 1;
        }
        &mut *lookup
    };
    lookup.ifindex = skb.device();
    let is_v4 = backend.is_v4();
    if is_v4 {
        lookup.family = INET;
        lookup.__bindgen_anon_3.ipv4_src = client.words()[3];
        lookup.__bindgen_anon_4.ipv4_dst = backend.words()[3];
    } else {
        lookup.family = INET6;
        lookup.__bindgen_anon_3.ipv6_src = *client.words();
        lookup.__bindgen_anon_4.ipv6_dst = *backend.words();
    }
    // SAFETY: the structure is of that size.
    let result = unsafe { bpf_fib_lookup(skb.context(), &raw mut *lookup, size_of::<FibLookup>() as i32, 0) };
    if matches!(result, 0 | NO_NEIGHBOUR | TOO_LARGE) { lookup.ifindex } else { 0 }
}

/// Whether a socket of this network namespace is connected such that it would get the packet.
#[inline(never)]
fn is_connected(skb: Skb, answer: &Tuple) -> bool {
    const CURRENT_NETNS: u64 = u64::MAX;
    const ESTABLISHED_OR_CLOSING: core::ops::RangeInclusive<u32> = 1..=9;
    // On the stack there is no room for it; nobody needs this place at the same time.
    const _: () = assert!(size_of::<bpf_sock_tuple>() <= size_of::<FibLookup>());
    let Some(place) = ROUTE.get_ptr_mut(0) else { return false };
    let tuple = place.cast::<bpf_sock_tuple>();
    // SAFETY: the verifier checked the pointer; the place is this CPU's own, large enough, and aligned to 8 bytes. Both are
    // members of the union that the tuple consists of.
    let size = unsafe {
        let ends = &raw mut (*tuple).__bindgen_anon_1;
        if answer.source.is_v4() {
            let v4 = &raw mut (*ends).ipv4;
            (*v4).saddr = answer.source.words()[3];
            (*v4).daddr = answer.destination.words()[3];
            (*v4).sport = answer.source_port.wire();
            (*v4).dport = answer.destination_port.wire();
            12
        } else {
            let v6 = &raw mut (*ends).ipv6;
            (*v6).saddr = *answer.source.words();
            (*v6).daddr = *answer.destination.words();
            (*v6).sport = answer.source_port.wire();
            (*v6).dport = answer.destination_port.wire();
            36
        }
    };
    // SAFETY: the tuple is at least of that size.
    let socket: *mut bpf_sock = unsafe {
        match answer.protocol {
            protocol::TCP => bpf_sk_lookup_tcp(skb.context(), tuple, size, CURRENT_NETNS, 0),
            protocol::UDP => bpf_sk_lookup_udp(skb.context(), tuple, size, CURRENT_NETNS, 0),
            _ => return false,
        }
    };
    if socket.is_null() {
        return false;
    }
    // A listener, or a UDP socket that is not connected, has no such peer.
    // SAFETY: not NULL, and held until it is released.
    unsafe {
        let state = ptr::read_volatile(&raw const (*socket).state);
        bpf_sk_release(socket.cast());
        ESTABLISHED_OR_CLOSING.contains(&state) && state != 7
    }
}
