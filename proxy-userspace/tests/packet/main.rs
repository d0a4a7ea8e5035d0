//! The decision about packets, on the maps in memory: what the kernel runs, line by line, without a kernel.
//!
//! - [`network`]: a node in a small network, through which packets are carried;
//! - [`names`]: who sees whom under which name;
//! - [`policies`]: which endpoints a client gets, and whether they see its address;
//! - [`life`]: how flows begin and end, and what a full map does;
//! - [`floods`]: random operations and floods, after which everything still holds;
//! - [`races`]: two CPUs at work on one flow;
//! - [`quotes`]: the headers that ICMP errors quote;
//! - [`states`]: what a packet says about its flow.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up has failed")]

mod floods;
mod life;
mod names;
mod network;
mod policies;
mod quotes;
mod races;
mod states;
