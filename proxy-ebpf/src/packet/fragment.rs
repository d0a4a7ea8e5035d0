//! Fragments. Only the first has ports, so what becomes of it is written down for the others. Those that come before
//! it where packets come in are put by, and come again when it has come.
//!
//! Where packets leave they are in order: the kernel has made them itself, or they have passed the other hook.

use aya_ebpf::{bindings::BPF_ANY, helpers::generated::bpf_ktime_get_ns};
use core::ptr;
use proxy_common::{
    address::Address,
    layout::{Counter, FragmentKey, Fragments, PUT_BY, PUT_BY_LEN, fragments_fate as fate},
};

use super::{
    DROP, PASS, Step, Work,
    rewrite::{self, End},
    skb::Skb,
};
use crate::{
    kernel::count,
    maps::{FIRST, FRAGMENTS, PUT_BY as PLACES},
};

/// For how long what was written down is believed: as long as Linux waits for fragments (`net.ipv4.ipfrag_time`).
const PATIENCE: u64 = 30_000_000_000;

/// How many fragments of one datagram are put by: of the longest one with 1,280 bytes each there are 54.
const MOST: u32 = 64;

/// Decides about a fragment that is not the first.
#[inline(never)]
pub fn later(skb: Skb, work: &mut Work, end: End) -> i32 {
    let Work { view, fragment_key, .. } = work;
    name(fragment_key, view, end);
    let known = FRAGMENTS.get_ptr_mut(&*fragment_key);
    if let Some(known) = known {
        // SAFETY: the verifier checked the pointer. An element evicted under our eyes costs a datagram.
        let what = unsafe { ptr::read(known) };
        if now().wrapping_sub(what.seen) < PATIENCE {
            return match what.fate {
                fate::PASS => PASS,
                fate::REWRITE => translate(skb, work, end, &what.address),
                fate::UNKNOWN if end == End::Destination => {
                    let put = put_by(skb, fragment_key, what.waiting);
                    if put == DROP && what.waiting < MOST {
                        // SAFETY: as above.
                        unsafe { ptr::write_volatile(&raw mut (*known).waiting, what.waiting + 1) };
                    }
                    put
                }
                _ => DROP,
            };
        }
    }
    if end == End::Source {
        return PASS;
    }
    let waiting = Fragments { address: Address::ANY_V6, seen: now(), fate: fate::UNKNOWN, waiting: 1 };
    if FRAGMENTS.insert(&*fragment_key, waiting, u64::from(BPF_ANY)).is_err() {
        count(Counter::PacketFragmentLost);
        return DROP;
    }
    put_by(skb, fragment_key, 0)
}

/// Writes down what becomes of a first fragment, and has those come again that were put by; `false` if that was the
/// end of the packet.
#[inline(never)]
pub fn first(skb: Skb, work: &mut Work, end: End, step: Step) -> bool {
    let Work { view, fragment_key, rewrite, .. } = work;
    name(fragment_key, view, end);
    let mut waiting = 0;
    if let Some(known) = FRAGMENTS.get_ptr(&*fragment_key) {
        // SAFETY: the verifier checked the pointer.
        let what = unsafe { ptr::read(known) };
        if what.fate == fate::UNKNOWN {
            waiting = what.waiting;
        }
    }
    let (fate, address) = match step {
        Step::Pass => (fate::PASS, Address::ANY_V6),
        Step::Rewrite => (fate::REWRITE, rewrite.address),
        Step::Drop | Step::Refuse => (fate::DROP, Address::ANY_V6),
    };
    let known = Fragments { address, seen: now(), fate, waiting: 0 };
    let _ = FRAGMENTS.insert(&*fragment_key, known, u64::from(BPF_ANY));
    waiting == 0 || fate == fate::DROP || replay(skb, fragment_key, waiting)
}

#[inline(always)]
fn name(key: &mut FragmentKey, view: &super::View, end: End) {
    key.source = view.tuple.source;
    key.destination = view.tuple.destination;
    key.id = view.id;
    key.protocol = view.tuple.protocol;
    key.hook = if end == End::Source { 1 } else { 0 };
    key.reserved = 0;
}

#[inline(always)]
fn translate(skb: Skb, work: &Work, end: End, new: &Address) -> i32 {
    let old = rewrite::old_address(&work.view, end);
    if rewrite::address(skb, &work.view, end, old, new, None).is_some() {
        PASS
    } else {
        count(Counter::PacketFailed);
        DROP
    }
}

/// Where the fragment of that number is put by.
#[inline(always)]
fn place(key: &FragmentKey, index: u32) -> u32 {
    let [_, _, _, c] = *key.source.words();
    (c.wrapping_mul(0x9e37_79b9) ^ key.id.wrapping_mul(0x85eb_ca6b)).wrapping_add(index) & (PUT_BY - 1)
}

/// Puts a packet by: for now it is gone.
#[inline(never)]
fn put_by(skb: Skb, key: &FragmentKey, index: u32) -> i32 {
    let len = skb.len();
    let kept = (|| {
        if index >= MOST {
            return None;
        }
        let put = PLACES.get_ptr_mut(place(key, index))?;
        // SAFETY: the verifier checked the pointer. Two CPUs may use one place; who comes for a fragment looks whose
        // it is, and a mixture fails its checksum.
        unsafe {
            (*put).len = 0;
            skb.copy_out::<{ PUT_BY_LEN as usize }>(&raw mut (*put).bytes, len)?;
            (*put).key = *key;
            (*put).index = index;
            (*put).len = len;
        }
        Some(())
    })();
    if kept.is_none() {
        count(Counter::PacketFragmentLost);
    }
    DROP
}

/// Has the fragments that were put by come again, each as a copy of this packet with their bytes.
#[inline(never)]
fn replay(skb: Skb, key: &FragmentKey, waiting: u32) -> bool {
    let Some(own) = FIRST.get_ptr_mut(0) else { return true };
    let len = skb.len();
    if skb.copy_out(own, len).is_none() {
        count(Counter::PacketFragmentLost);
        return true;
    }
    let mut index = 0;
    while index < MOST {
        if index >= waiting {
            break;
        }
        if come_again(skb, key, index).is_none() {
            count(Counter::PacketFragmentLost);
        }
        index += 1;
    }
    let is_itself_again = skb.copy_in(own, len).is_some();
    if !is_itself_again {
        count(Counter::PacketFailed);
    }
    is_itself_again
}

#[inline(never)]
fn come_again(skb: Skb, key: &FragmentKey, index: u32) -> Option<()> {
    let put = PLACES.get_ptr_mut(place(key, index))?;
    // SAFETY: as in `put_by`.
    unsafe {
        if (*put).key != *key || (*put).index != index {
            return None;
        }
        skb.copy_in::<{ PUT_BY_LEN as usize }>(&raw const (*put).bytes, (*put).len)?;
        (*put).len = 0;
    }
    skb.come_again()
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: takes nothing, returns a number.
    unsafe { bpf_ktime_get_ns() }
}
