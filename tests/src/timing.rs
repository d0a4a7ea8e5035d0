//! How long BPF programs take, as the kernel counts it while somebody wants to know.
//!
//! Invariant: counting, which costs every program of the machine two readings of the clock per run, ends with its
//! [`Timing`].

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use aya_obj::generated::{bpf_cmd, bpf_prog_info, bpf_stats_type};

use crate::inspect::{attribute, bpf, info, owned, program_by_id};

/// Has the kernel count until it is dropped.
#[derive(Debug)]
pub struct Timing {
    _counting: OwnedFd,
}

/// What a program has done while it was counted, since it was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runs {
    /// How often it ran.
    pub count: u64,
    /// How long that took.
    pub nanoseconds: u64,
}

impl Timing {
    /// Begins to count.
    ///
    /// # Errors
    /// When not root.
    pub fn start() -> Result<Self> {
        let mut attr = attribute();
        attr.enable_stats.type_ = bpf_stats_type::BPF_STATS_RUN_TIME as u32;
        // SAFETY: no pointers are involved.
        let fd = unsafe { bpf(bpf_cmd::BPF_ENABLE_STATS, &mut attr) };
        Ok(Self { _counting: owned(fd.context("the kernel does not count runs of programs")?) })
    }

    /// What the program with that id has done.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(&self, program: u32) -> Result<Runs> {
        // SAFETY: a structure of integers, for which zero is a value.
        let mut about: bpf_prog_info = unsafe { std::mem::zeroed() };
        info(&program_by_id(program)?, &mut about)?;
        Ok(Runs { count: about.run_cnt, nanoseconds: about.run_time_ns })
    }
}
