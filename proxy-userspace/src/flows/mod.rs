//! What the packet path remembers of flows, and sockets of connections, judged: pure.
//!
//! - [`age`]: which flows are over;
//! - [`census`]: how many there are of which kind, and how many ports they take;
//! - [`alarm`]: something that fills up, said once;
//! - [`orphan`]: which arrivals lead to a flow that is gone;
//! - [`stale`]: which flows lead to a backend that serves no more;
//! - [`backing`]: which connected sockets do;
//! - [`ports`]: from which ports masqueraded flows take theirs.

pub mod age;
pub mod alarm;
pub mod backing;
pub mod census;
pub mod orphan;
pub mod ports;
pub mod stale;

#[cfg(test)]
mod tests;
