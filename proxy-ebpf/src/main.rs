//! kubeshunt's socket hooks: one entry point per hook, which says where the kernel keeps the address; what
//! happens to it is decided in `proxy_common::decision`.
//!
//! Apache-2.0 or GPL-2.0-only, at your choice.
#![no_std]
#![no_main]
// One instruction that `core` does not offer for this target, see `kernel::add_one`.
#![feature(asm_experimental_arch)]

mod kernel;
mod maps;
mod origins;
mod packet;
mod verdict;

use aya_ebpf::{bindings::bpf_sock_addr, macros::cgroup_sock_addr, programs::SockAddrContext};
use core::ptr;
use proxy_common::{
    address::{Address, Port},
    decision::{self, Destination},
    layout::protocol,
};

use kernel::{Maps, Socket};
use verdict::{ALLOW, Hook};

/// Translates connect() of IPv4 sockets.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, V4)
}

/// Translates connect() of IPv6 sockets, v4-mapped destinations included.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, V6)
}

/// Translates datagrams of unconnected sockets. A v4-mapped destination of an IPv6 socket comes here too
/// (`udpv6_sendmsg` in `net/ipv6/udp.c` passes it on to `udp_sendmsg`).
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sendmsg(&ctx, V4)
}

/// Translates datagrams of unconnected IPv6 sockets.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sendmsg(&ctx, V6)
}

/// Shows the VIP to recvfrom() and recvmsg(), with or without MSG_PEEK.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    recvmsg(&ctx, V4)
}

/// As [`recvmsg4`]; an IPv6 socket sees IPv4 senders v4-mapped.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    recvmsg(&ctx, V6)
}

/// Shows the VIP to getpeername().
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    getpeername(&ctx, V4)
}

/// As [`getpeername4`], for IPv6 sockets.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    getpeername(&ctx, V6)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    let Some(destination) = destination(ctx, family) else { return ALLOW };
    let outcome = decision::connect(&Maps, &Socket(ctx), &destination);
    verdict::give(ctx, family, Hook::Connect, &destination, outcome, true)
}

#[inline(always)]
fn sendmsg(ctx: &SockAddrContext, family: Family) -> i32 {
    let Some(destination) = destination(ctx, family) else { return ALLOW };
    let (outcome, anew) = decision::datagram(&Maps, &Socket(ctx), &destination);
    verdict::give(ctx, family, Hook::Datagram, &destination, outcome, anew)
}

#[inline(always)]
fn recvmsg(ctx: &SockAddrContext, family: Family) -> i32 {
    let (address, port) = read(ctx, family);
    if let Some((vip, vip_port)) = decision::sender_name(&Maps, &Socket(ctx), &address, port) {
        write(ctx, family, &vip, vip_port);
    }
    ALLOW
}

#[inline(always)]
fn getpeername(ctx: &SockAddrContext, family: Family) -> i32 {
    let (address, port) = read(ctx, family);
    if let Some((vip, vip_port)) = decision::peer_name(&Socket(ctx), &address, port) {
        write(ctx, family, &vip, vip_port);
    }
    ALLOW
}

/// Which fields of the context hold the address.
#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}
use Family::{V4, V6};

/// The destination, if the socket speaks a protocol that Services have. `protocol` is asked, not `type`: an
/// SCTP socket is a stream too, and a ping socket a datagram one.
#[inline(always)]
fn destination(ctx: &SockAddrContext, family: Family) -> Option<Destination> {
    /// MPTCP is TCP with subflows; a Service of protocol TCP serves it.
    const MPTCP: u32 = 262;
    let protocol = match field(ctx, |c| unsafe { &raw const (*c).protocol }) {
        6 | MPTCP => protocol::TCP,
        17 => protocol::UDP,
        _ => return None,
    };
    let (address, port) = read(ctx, family);
    Some(Destination { address, port, protocol })
}

/// One 32-bit field of the context. Volatile, so that it is read as a whole and where it stands: the
/// verifier translates each access by its offset and width.
#[inline(always)]
fn field(ctx: &SockAddrContext, of: impl Fn(*const bpf_sock_addr) -> *const u32) -> u32 {
    // SAFETY: the kernel hands a valid context to every run, and `of` names one of its fields.
    unsafe { ptr::read_volatile(of(ctx.sock_addr)) }
}

#[inline(always)]
fn read(ctx: &SockAddrContext, family: Family) -> (Address, Port) {
    let address = match family {
        V4 => Address::from_v4_word(field(ctx, |c| unsafe { &raw const (*c).user_ip4 })),
        V6 => Address::from_v6_words([
            field(ctx, |c| unsafe { &raw const (*c).user_ip6[0] }),
            field(ctx, |c| unsafe { &raw const (*c).user_ip6[1] }),
            field(ctx, |c| unsafe { &raw const (*c).user_ip6[2] }),
            field(ctx, |c| unsafe { &raw const (*c).user_ip6[3] }),
        ]),
    };
    // The port is the low 16 bits in memory order, see `user_port` in `include/uapi/linux/bpf.h`.
    let port = field(ctx, |c| unsafe { &raw const (*c).user_port });
    (address, Port::from_wire(port as u16))
}

#[inline(always)]
fn write(ctx: &SockAddrContext, family: Family, address: &Address, port: Port) {
    let [a, b, c, d] = *address.words();
    let to = ctx.sock_addr;
    // SAFETY: the kernel hands a valid context to every run; the address family's own fields and the port
    // are the ones it lets these hooks write.
    unsafe {
        match family {
            V4 => ptr::write_volatile(&raw mut (*to).user_ip4, d),
            V6 => {
                ptr::write_volatile(&raw mut (*to).user_ip6[0], a);
                ptr::write_volatile(&raw mut (*to).user_ip6[1], b);
                ptr::write_volatile(&raw mut (*to).user_ip6[2], c);
                ptr::write_volatile(&raw mut (*to).user_ip6[3], d);
            }
        }
        ptr::write_volatile(&raw mut (*to).user_port, u32::from(port.wire()));
    }
}

/// Nothing here panics; the linker drops this, and the verifier would refuse the loop.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// What the kernel is told, of the two licences of this crate: the one its GPL-only helpers ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
