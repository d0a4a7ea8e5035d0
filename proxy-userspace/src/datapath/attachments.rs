//! Who is attached to the hooks of a cgroup: for `kubeshunt check`.

use std::{collections::BTreeSet, fs::File, io, os::fd::AsFd as _};

use anyhow::{Context as _, Result};
use aya_obj::generated::bpf_attach_type;
use proxy_common::layout::program;

use super::{
    kernel::{self, Which},
    pins::Pins,
};

/// A program on one of our hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The hook.
    pub hook: &'static str,
    /// The program's id.
    pub program: u32,
    /// The program's name, or its id where the name may not be read.
    pub name: String,
}

/// The kernel's number of a hook.
fn attach_type(hook: &str) -> Option<bpf_attach_type> {
    use bpf_attach_type as on;
    Some(match hook {
        "connect4" => on::BPF_CGROUP_INET4_CONNECT,
        "connect6" => on::BPF_CGROUP_INET6_CONNECT,
        "sendmsg4" => on::BPF_CGROUP_UDP4_SENDMSG,
        "sendmsg6" => on::BPF_CGROUP_UDP6_SENDMSG,
        "recvmsg4" => on::BPF_CGROUP_UDP4_RECVMSG,
        "recvmsg6" => on::BPF_CGROUP_UDP6_RECVMSG,
        "getpeername4" => on::BPF_CGROUP_INET4_GETPEERNAME,
        "getpeername6" => on::BPF_CGROUP_INET6_GETPEERNAME,
        _ => return None,
    })
}

/// All programs attached to `cgroup` itself on the hooks that we use.
///
/// # Errors
/// When the kernel does not tell.
pub fn on(cgroup: &File) -> Result<Vec<Attachment>> {
    let mut found = Vec::new();
    for hook in program::ALL {
        let Some(attach_type) = attach_type(hook) else { continue };
        let programs = kernel::programs_on(cgroup.as_fd(), attach_type as u32, Which::Attached);
        for program in programs.context("asking for the programs of a cgroup")? {
            let name = kernel::program_name(program).unwrap_or_else(|| format!("program {program}"));
            found.push(Attachment { hook, program, name });
        }
    }
    Ok(found)
}

/// The ids of our own attached programs, by their pinned links.
#[must_use]
pub fn own(pins: &Pins) -> BTreeSet<u32> {
    program::ALL
        .iter()
        .filter_map(|hook| {
            let link = kernel::open_pin(&pins.link(hook)).ok()??;
            let info = kernel::cgroup_link(link.as_fd()).ok()?;
            (info.cgroup != 0).then_some(info.program)
        })
        .collect()
}

/// The programs that run for processes of `cgroup` on a hook of ours, whoever attached them and wherever.
///
/// # Errors
/// What the kernel says.
pub fn effective(cgroup: &File, hook: &str) -> io::Result<Vec<u32>> {
    let attach_type = attach_type(hook).ok_or(io::ErrorKind::NotFound)?;
    kernel::programs_on(cgroup.as_fd(), attach_type as u32, Which::Effective)
}
