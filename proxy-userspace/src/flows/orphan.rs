//! Which arrivals lead to a flow that is gone.
//!
//! A program writes the flow before the arrivals, and whoever removes a flow removes them first. An arrival without its
//! flow is what a process that was killed in between has left.

use std::time::Duration;

use proxy_common::layout::{Arrival, Flow, Tuple};

/// Whatever is younger may be about to change under our eyes.
const SETTLED: Duration = Duration::from_secs(60);

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
    let is_settled = |born: u64| Duration::from_nanos(now_ns.saturating_sub(born)) > SETTLED;
    is_settled(arrival.born) && flow.is_none_or(|flow| flow.born != arrival.born && is_settled(flow.born))
}
