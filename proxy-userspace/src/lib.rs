//! kubeshunt's controller, in the order in which data flows through it.
//!
//! ```text
//! source ──► cluster ──► policy, tables ──► plan ──► datapath
//!  [I/O]      [pure]          [pure]       [pure]     [I/O]
//! ```
//!
//! Pure folders are compiled and tested without root, runtime, kernel or clock; `cargo xtask test --rung tidy`
//! rejects imports that would change that.

pub mod settings;

pub mod configuration;

pub mod source;

pub mod audit;
pub mod cluster;
pub mod flows;
pub mod plan;
pub mod policy;
pub mod tables;

pub mod datapath;

mod bucket;
pub mod controller;
pub mod events;
mod heap;
pub mod host;
mod netlink;
pub mod serve;
pub mod trace;

pub mod commands;
