//! Under which name a socket sees its peer: the one it asked for, never the backend's.

use super::{Caller, Tables};
use crate::{
    address::{Address, Port},
    layout::{SenderKey, origin_flag},
};

/// The name getpeername() shows for the connected peer `address`:`port`; `None` leaves it as it is.
#[inline(always)]
pub fn peer_name(caller: &impl Caller, address: &Address, port: Port) -> Option<(Address, Port)> {
    let origin = caller.origin()?;
    let ours = origin.is_whole()
        && origin.flags & origin_flag::CONNECTED != 0
        && origin.backend == *address
        && origin.backend_port == port;
    if ours { Some((origin.vip, origin.vip_port)) } else { None }
}

/// The name recvfrom() shows for a datagram from `address`:`port`; `None` leaves it as it is.
#[inline(always)]
pub fn sender_name(
    tables: &impl Tables,
    caller: &impl Caller,
    address: &Address,
    port: Port,
) -> Option<(Address, Port)> {
    let origin = caller.origin()?;
    if origin.is_whole() {
        if origin.backend == *address && origin.backend_port == port {
            return Some((origin.vip, origin.vip_port));
        }
        if origin.flags & origin_flag::MANY == 0 {
            return None;
        }
    }
    let key = SenderKey { socket: caller.cookie(), address: *address, port, reserved: [0; 3] };
    let sender = tables.sender(&key)?;
    Some((sender.vip, sender.port))
}
