//! Connections of which nothing matters but where they are led.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A connection to be begun.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Aim {
    /// The address that the socket is bound to, if any; it need not be on an interface.
    pub from: Option<IpAddr>,
    /// To whom.
    pub to: SocketAddr,
    /// TCP, or else UDP.
    pub tcp: bool,
    /// By an IPv6 socket, to an IPv4 address.
    pub mapped: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aimed {
    /// The kernel has this as the socket's peer.
    Led(SocketAddr),
    /// The system call failed with this error.
    Failed(String),
    /// It was connected, and is no more.
    Closed,
}
