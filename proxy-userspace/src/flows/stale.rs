//! Which flows lead to a backend that serves no more.

use proxy_common::{
    address::{Address, Port},
    layout::{Flow, Tuple, flow_state, protocol},
};

/// Who serves a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// Nobody, or it is no frontend: kube-proxy leaves such flows alone.
    Nobody,
    /// The backend in question, maybe among others.
    This,
    /// Only others.
    Others,
}

/// Whether a flow is to be deleted, so that the client's next datagram chooses among those who serve.
///
/// Only UDP's are: a client that sends more often than a flow may be idle would never choose again, while TCP and SCTP
/// notice that nobody answers. `serving` is asked for an address, a port, and the backend.
pub fn is_stale(
    key: &Tuple,
    flow: &Flow,
    serving: impl FnOnce((Address, Port), (Address, Port)) -> Serving,
) -> bool {
    if key.protocol != protocol::UDP || flow.state & flow_state::CLOSING != 0 {
        return false;
    }
    let inside = flow.inside(key);
    let (asked, backend) = ((flow.vip, flow.vip_port), (inside.destination, inside.destination_port));
    serving(asked, backend) == Serving::Others
}
