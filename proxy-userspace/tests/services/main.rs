//! Services as a node serves them, from the objects to the maps: what the size and the history of an object may not
//! change.
//!
//! - [`node`]: a node's pipeline without I/O, and what its maps say;
//! - [`transitions`]: from every kind of Service to every other one;
//! - [`sizes`]: a thousand ports, thousands of endpoints.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod node;
mod sizes;
mod transitions;
