//! From an outcome to what the kernel is told: one exhaustive match.

use aya_ebpf::{helpers::generated::bpf_set_retval, programs::SockAddrContext};
use aya_log_ebpf::info;
use proxy_common::{
    decision::{Destination, Outcome},
    layout::Counter,
};

use crate::{Family, kernel, write};

/// The system call goes on.
pub const ALLOW: i32 = 1;
/// The system call fails: with the errno set before, else with EPERM.
const DENY: i32 = 0;

// include/uapi/asm-generic/errno-base.h and errno.h
const ENOMEM: i32 = 12;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// Which call is decided.
#[derive(Clone, Copy)]
pub enum Hook {
    /// connect()
    Connect,
    /// sendto() or sendmsg() with a destination
    Datagram,
}

/// Carries `outcome` out. `anew`: it is worth counting and logging, not the hundredth datagram of a flow.
#[inline(always)]
pub fn give(
    ctx: &SockAddrContext,
    family: Family,
    hook: Hook,
    destination: &Destination,
    outcome: Outcome,
    anew: bool,
) -> i32 {
    match outcome {
        Outcome::Pass => ALLOW,
        Outcome::Translate(address, port) => {
            if anew {
                kernel::count(match hook {
                    Hook::Connect => Counter::Connected,
                    Hook::Datagram => Counter::Associated,
                });
                log(ctx, destination, Some((address.octets(), port.number())), 0);
            }
            write(ctx, family, &address, port);
            ALLOW
        }
        Outcome::Refuse => deny(ctx, destination, Counter::Refused, ECONNREFUSED),
        Outcome::Unreachable | Outcome::Denied => deny(ctx, destination, Counter::Unreachable, EHOSTUNREACH),
        Outcome::NoMemory => deny(ctx, destination, Counter::NoMemory, ENOMEM),
    }
}

/// Where the errno cannot be set, EPERM would be the answer, which tells a program that it may not rather
/// than that nobody is there: the address is left alone instead, and the wire answers.
#[inline(always)]
fn deny(ctx: &SockAddrContext, destination: &Destination, counter: Counter, errno: i32) -> i32 {
    kernel::count(counter);
    log(ctx, destination, None, errno);
    if !kernel::can_set_errno() {
        return ALLOW;
    }
    // SAFETY: takes a number. It must lie within [-MAX_ERRNO, 0], which the constants above do.
    unsafe { bpf_set_retval(-errno) };
    DENY
}

#[inline(always)]
fn log(ctx: &SockAddrContext, destination: &Destination, backend: Option<([u8; 16], u16)>, errno: i32) {
    if !kernel::logs_decisions() {
        return;
    }
    let (asked, port) = (core::net::Ipv6Addr::from(destination.address.octets()), destination.port.number());
    match backend {
        Some((octets, backend_port)) => info!(
            ctx,
            "protocol {} [{:i}]:{} -> [{:i}]:{}",
            destination.protocol,
            asked,
            port,
            core::net::Ipv6Addr::from(octets),
            backend_port
        ),
        None => {
            info!(ctx, "protocol {} [{:i}]:{} refused, errno {}", destination.protocol, asked, port, errno)
        }
    }
}
