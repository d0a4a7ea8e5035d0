//! The contract between kubeshunt's controller and its BPF programs, and the decision both run.
//!
//! No I/O, no allocation, no clock: this crate is compiled twice, for the kernel by `proxy-ebpf` and for
//! userspace by `proxy-userspace` (tests, `kubeshunt` commands). What proptest exercises here is, line by
//! line, what decides about connections there.
//!
//! - [`address`]: addresses and ports as they stand on the wire;
//! - [`checksum`]: checksum arithmetic;
//! - [`layout`]: keys and values of every map, their names and sizes, the ABI version;
//! - [`decision`]: which backend, which refusal, which name to show, over small map traits.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod address;
pub mod checksum;
pub mod layout;

pub mod decision;
