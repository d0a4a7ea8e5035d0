//! Which flows are over.
//!
//! The times are nf_conntrack's, as far as it knows the state: `tcp_timeouts` in `nf_conntrack_proto_tcp.c`,
//! `udp_timeouts` in `nf_conntrack_proto_udp.c`, `sctp_timeouts` in `nf_conntrack_proto_sctp.c`. kube-proxy sets four
//! of them, and so can our user.

use std::time::Duration;

use proxy_common::layout::{Flow, flow_state, protocol};

/// Both sides are done, or one broke it off.
const CLOSING: Duration = Duration::from_secs(10);
/// TCP: the client has not confirmed the answer yet.
const TCP_NASCENT: Duration = Duration::from_secs(60);
/// SCTP: the same.
const SCTP_NASCENT: Duration = Duration::from_secs(30);
/// SCTP: both sides have spoken.
const SCTP_ESTABLISHED: Duration = Duration::from_secs(210);

/// How long a flow may be idle, where the user has a say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, established.
    pub tcp_established: Duration,
    /// TCP, established, one side of which is done.
    pub tcp_close_wait: Duration,
    /// UDP that goes one way only.
    pub udp: Duration,
    /// UDP that goes both ways.
    pub udp_stream: Duration,
}

impl Timeouts {
    /// kube-proxy's for TCP, nf_conntrack's for UDP.
    pub const DEFAULT: Self = Self {
        tcp_established: Duration::from_secs(24 * 3600),
        tcp_close_wait: Duration::from_secs(3600),
        udp: Duration::from_secs(30),
        udp_stream: Duration::from_secs(120),
    };

    /// How long a flow in this state may be idle.
    #[must_use]
    pub fn patience(&self, protocol: u8, state: u32) -> Duration {
        let has = |bit: u32| state & bit != 0;
        let established = has(flow_state::ESTABLISHED);
        if has(flow_state::CLOSING) {
            return CLOSING;
        }
        match (protocol, established) {
            (protocol::TCP, false) => TCP_NASCENT,
            (protocol::TCP, true) if has(flow_state::CLIENT_DONE) != has(flow_state::BACKEND_DONE) => {
                self.tcp_close_wait
            }
            (protocol::TCP, true) => self.tcp_established,
            (protocol::SCTP, false) => SCTP_NASCENT,
            (protocol::SCTP, true) => SCTP_ESTABLISHED,
            (_, false) => self.udp,
            (_, true) => self.udp_stream,
        }
    }
}

/// How long a flow has been idle. A packet may be seen after `now_ns` was read: it is not idle then.
#[must_use]
pub fn idle(flow: &Flow, now_ns: u64) -> Duration {
    Duration::from_nanos(now_ns.saturating_sub(flow.seen))
}

/// Whether a flow has been idle for too long.
#[must_use]
pub fn is_over(flow: &Flow, protocol: u8, now_ns: u64, timeouts: &Timeouts) -> bool {
    idle(flow, now_ns) > timeouts.patience(protocol, flow.state)
}
