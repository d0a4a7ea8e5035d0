//! A packet's bytes, by way of the kernel's helpers: they reach what does not lie in the linear part, and make a
//! packet that others share ours before it is written to.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::generated::{
        bpf_clone_redirect, bpf_csum_diff, bpf_csum_update, bpf_l3_csum_replace, bpf_l4_csum_replace,
        bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use core::{mem::MaybeUninit, ptr};

use crate::kernel::opaque;

/// A packet.
#[derive(Clone, Copy)]
pub struct Skb(*mut __sk_buff);

/// Plain bytes: any pattern is a value.
///
/// # Safety
/// No padding, no niche.
pub unsafe trait Plain: Copy {}
// SAFETY: integers and arrays of such.
unsafe impl Plain for u8 {}
unsafe impl Plain for u16 {}
unsafe impl Plain for u32 {}
unsafe impl<const N: usize> Plain for [u8; N] {}
unsafe impl<const N: usize> Plain for [u16; N] {}
unsafe impl<const N: usize> Plain for [u32; N] {}

impl Skb {
    /// The packet of a run.
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self(ctx.skb.skb)
    }

    /// The context that helpers take.
    #[inline(always)]
    pub fn context(self) -> *mut core::ffi::c_void {
        self.0.cast()
    }

    /// Its length from the link-layer header on.
    #[inline(always)]
    pub fn len(self) -> u32 {
        // SAFETY: the kernel hands a valid context to every run.
        unsafe { ptr::read_volatile(&raw const (*self.0).len) }
    }

    /// Its EtherType, in network byte order.
    #[inline(always)]
    pub fn protocol(self) -> u16 {
        // SAFETY: as in `len`.
        unsafe { ptr::read_volatile(&raw const (*self.0).protocol) as u16 }
    }

    /// The device whose hook runs.
    #[inline(always)]
    pub fn device(self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { ptr::read_volatile(&raw const (*self.0).ifindex) }
    }

    /// What stands at `offset`, without a helper: `None` also where it does not lie in the linear part.
    #[inline(always)]
    pub fn direct<const N: usize>(self, offset: u32) -> Option<[u16; N]> {
        // SAFETY: as in `len`. The verifier knows both for pointers.
        let (start, end) = unsafe {
            let skb = self.0;
            (
                ptr::read_volatile(&raw const (*skb).data) as usize + offset as usize,
                ptr::read_volatile(&raw const (*skb).data_end) as usize,
            )
        };
        if start + N * 2 > end {
            return None;
        }
        let halves = start as *const u16;
        let mut value = [0; N];
        let mut index = 0;
        while index < N {
            // SAFETY: within the linear part. Headers begin at even addresses: the kernel reads them by words.
            value[index] = unsafe { ptr::read(halves.add(index)) };
            index += 1;
        }
        Some(value)
    }

    /// What stands at `offset`; `None` if the packet is shorter.
    #[inline(always)]
    pub fn load<T: Plain>(self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes the whole value, or zeroes it and fails.
        unsafe {
            let result =
                bpf_skb_load_bytes(self.context(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32);
            if result == 0 { Some(value.assume_init()) } else { None }
        }
    }

    /// Writes at `offset`.
    #[inline(always)]
    pub fn store<T: Plain>(self, offset: u32, value: &T) -> Option<()> {
        // SAFETY: the helper reads the value, and checks the offset.
        let result = unsafe {
            bpf_skb_store_bytes(self.0, offset, ptr::from_ref(value).cast(), size_of::<T>() as u32, 0)
        };
        done(result)
    }

    /// Copies the first `len` bytes of the packet, from its link-layer header on; `len` between 1 and the buffer's.
    #[inline(always)]
    pub fn copy_out<const N: usize>(self, bytes: *mut [u8; N], len: u32) -> Option<()> {
        let len = within::<N>(len)?;
        // SAFETY: the buffer is as long; the verifier checks pointer and length.
        done(unsafe { bpf_skb_load_bytes(self.context(), 0, bytes.cast(), len) })
    }

    /// Makes the packet one of exactly these bytes.
    #[inline(always)]
    pub fn copy_in<const N: usize>(self, bytes: *const [u8; N], len: u32) -> Option<()> {
        let len = within::<N>(len)?;
        self.resize(len)?;
        // SAFETY: as in `copy_out`. A checksum over the whole packet follows.
        done(unsafe { bpf_skb_store_bytes(self.0, 0, bytes.cast(), len, u64::from(BPF_F_RECOMPUTE_CSUM)) })
    }

    /// Has a copy of the packet come in once more by the device it came in by, after this one.
    #[inline(always)]
    pub fn come_again(self) -> Option<()> {
        // SAFETY: takes numbers.
        done(unsafe { bpf_clone_redirect(self.0, self.device(), u64::from(BPF_F_INGRESS)) })
    }

    /// Adapts an IPv4 header checksum at `offset` to a word that has changed.
    #[inline(always)]
    pub fn replace_in_header(self, offset: u32, from: u32, to: u32) -> Option<()> {
        // SAFETY: the helper checks the offset.
        done(unsafe { bpf_l3_csum_replace(self.0, offset, from.into(), to.into(), 4) })
    }

    /// Adapts a transport checksum at `offset`; `flags` hold the size of what has changed, 0 for a difference in
    /// `to`.
    #[inline(always)]
    pub fn replace_in_transport(self, offset: u32, from: u64, to: u64, flags: u64) -> Option<()> {
        // SAFETY: the helper checks the offset.
        done(unsafe { bpf_l4_csum_replace(self.0, offset, from, to, flags) })
    }

    /// Adds to the checksum that the device computed over the whole packet, if it did.
    #[inline(always)]
    pub fn add_to_complete(self, difference: u32) {
        // SAFETY: takes a number; fails where the device computed none.
        unsafe { bpf_csum_update(self.0, difference) };
    }

    /// Cuts the packet or lengthens it with zeroes.
    #[inline(always)]
    pub fn resize(self, len: u32) -> Option<()> {
        // SAFETY: takes numbers.
        done(unsafe { bpf_skb_change_tail(self.0, len, 0) })
    }

    /// Makes room between the link-layer header and the network header.
    #[inline(always)]
    pub fn make_room(self, len: i32) -> Option<()> {
        // SAFETY: takes numbers.
        done(unsafe { bpf_skb_adjust_room(self.0, len, BPF_ADJ_ROOM_MAC, 0) })
    }

    /// Sends the packet out by the device it came in by: what the program then has to return.
    #[inline(always)]
    pub fn send_back(self) -> i32 {
        // SAFETY: takes numbers.
        unsafe { bpf_redirect(self.device(), 0) as i32 }
    }
}

/// The sum of `from` taken off and that of `to` added to `seed`, as the Internet checksum counts (RFC 1624), folded
/// to 32 bits. Plain arithmetic: cheaper than the helper for it.
#[inline(always)]
pub fn difference<const N: usize>(from: &[u32; N], to: &[u32; N], seed: u32) -> u32 {
    let mut sum = u64::from(seed);
    let mut index = 0;
    while index < N {
        sum += u64::from(!from[index]) + u64::from(to[index]);
        index += 1;
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    (sum + (sum >> 32)) as u32
}

/// The sum of words added to `seed`, not folded.
#[inline(always)]
pub fn sum<const N: usize>(words: &[u32; N], seed: u32) -> u32 {
    // SAFETY: the array is of that length; the other one is empty.
    unsafe { bpf_csum_diff(ptr::null_mut(), 0, words.as_ptr().cast_mut(), (N * 4) as u32, seed) as u32 }
}

/// A sum as it stands in a header.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// `len` if it is between 1 and N, such that each verifier believes it: that it is not 0 means little to old ones.
#[inline(always)]
fn within<const N: usize>(len: u32) -> Option<u32> {
    let rest = opaque(u64::from(len).wrapping_sub(1));
    if rest < N as u64 { Some(rest as u32 + 1) } else { None }
}

#[inline(always)]
fn done(result: i64) -> Option<()> {
    if result == 0 { Some(()) } else { None }
}
