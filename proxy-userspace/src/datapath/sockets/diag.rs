//! Sockets of one network namespace, by netlink (`sock_diag(7)`): listed, and aborted.

use std::io;

use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, SockDiagDestroy, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use proxy_common::{
    address::{Address, Port},
    layout::protocol,
};

use crate::netlink::Netlink;

/// Both families. A v4-mapped socket is one of the second.
pub(super) const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];

/// Names a socket of a namespace.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    protocol: u8,
    family: u8,
    id: SocketId,
}

/// A connected socket.
#[derive(Debug)]
pub(super) struct Found {
    /// Its name.
    pub(super) handle: Handle,
    /// What no other socket of the machine has (`__sock_gen_cookie` in `net/core/sock_diag.c`; 5.10).
    pub(super) cookie: u64,
    /// Whom it is connected to.
    pub(super) peer: (Address, Port),
}

/// The network namespace that the thread was in when this was opened.
pub(super) struct Diag(Netlink);

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_SOCK_DIAG).map(Self)
    }

    /// All sockets of a protocol and family that are connected, or about to be.
    pub(super) fn list(&self, protocol: u8, family: u8) -> io::Result<Vec<Found>> {
        let mut states = StateFlags::ESTABLISHED;
        if protocol == protocol::TCP {
            states |= StateFlags::SYN_SENT | StateFlags::CLOSE_WAIT;
        }
        let anybody = Handle { protocol, family, id: SocketId::new_v4() };
        let list = SockDiagMessage::InetRequest(InetRequest { states, ..request(&anybody) });
        let mut found = Vec::new();
        self.0.dump(list, |answer: SockDiagMessage| {
            if let SockDiagMessage::InetResponse(response) = answer {
                let id = response.header.socket_id;
                let cookie = u64::from_ne_bytes(id.cookie);
                let peer = (Address::from(id.destination_address), Port::new(id.destination_port));
                found.push(Found { handle: Handle { protocol, family, id }, cookie, peer });
            }
        })?;
        Ok(found)
    }

    /// Has the kernel abort a socket: whoever waits on it is woken with ECONNABORTED, and it is connected to nobody. What
    /// is gone or has another peer by now is not found.
    pub(super) fn abort(&self, socket: &Handle) -> io::Result<()> {
        let destroy = SockDiagDestroy::new(SockDiagMessage::InetRequest(request(socket)));
        self.0.ask(destroy)
    }

    /// Whether sockets can be aborted at all: asked about one that cannot exist.
    pub(super) fn can_abort(&self) -> io::Result<bool> {
        let nobody = Handle { protocol: protocol::UDP, family: AF_INET, id: SocketId::new_v4() };
        match self.abort(&nobody) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            other => other.map(|()| true),
        }
    }
}

fn request(socket: &Handle) -> InetRequest {
    InetRequest {
        family: socket.family,
        protocol: socket.protocol,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::empty(),
        socket_id: socket.id.clone(),
    }
}
