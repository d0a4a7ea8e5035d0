//! Which arrivals lead to a flow that is gone.
//!
//! A program writes the flow before the arrivals, and whoever removes a flow removes them first. An arrival without its
//! flow is what a process that was killed in between has left; or it leads nowhere on purpose, a note that what comes is
//! for netfilter ([`proxy_common::decision::packet::disown`]), which is renewed as long as it is needed.

use std::time::Duration;

use proxy_common::{
    address::Address,
    layout::{Arrival, Flow, Tuple},
};

/// Whatever is younger may be about to change under our eyes.
const SETTLED: Duration = Duration::from_secs(60);

/// How long netfilter remembers UDP that goes both ways: `nf_conntrack_udp_timeout_stream`.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// The key of the flow that an arrival leads to.
#[must_use]
pub fn key_of(tuple: &Tuple, arrival: &Arrival) -> Tuple {
    // Whichever way the packet goes, its destination address is what changes.
    let inside = Tuple {
        destination: arrival.address,
        source_port: arrival.source_port,
        destination_port: arrival.port,
        ..*tuple
    };
    inside.ordered().0
}

/// Whether it leads nowhere, given what is under [`key_of`].
#[must_use]
pub fn is_orphan(arrival: &Arrival, flow: Option<&Flow>, now_ns: u64) -> bool {
    let age = |born: u64| Duration::from_nanos(now_ns.saturating_sub(born));
    if arrival.address == Address::ANY_V6 {
        // A datagram may have been the last before it would have been renewed.
        return age(arrival.born) > FORGOTTEN + SETTLED;
    }
    let is_settled = |born: u64| age(born) > SETTLED;
    is_settled(arrival.born) && flow.is_none_or(|flow| flow.born != arrival.born && is_settled(flow.born))
}
