//! What is attached to network devices: by tcx in the kernel's order, by filters, and by what kubeshunt has pinned.
//!
//! Invariant: looks only, with none of kubeshunt's code.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_link_info};
use nix::net::if_::if_nametoindex;

use crate::inspect::{attribute, bpf, info, open_pin};
use crate::netns::NetNs;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// In by the device.
    Ingress,
    /// Out by the device.
    Egress,
}

impl Way {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    pub(crate) fn attach_type(self) -> bpf_attach_type {
        match self {
            Self::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
            Self::Egress => bpf_attach_type::BPF_TCX_EGRESS,
        }
    }

    /// As pins and programs are called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Ids of the programs on a device's tcx hook, in the order in which they run.
///
/// # Errors
/// When there is no such device.
pub fn by_tcx(netns: &NetNs, device: &str, way: Way) -> Result<Vec<u32>> {
    netns.run(|| {
        let mut ids = [0_u32; 64];
        let mut attr = attribute();
        attr.query.__bindgen_anon_1.target_ifindex = if_nametoindex(device).context("no such device")?;
        attr.query.attach_type = way.attach_type() as u32;
        attr.query.prog_ids = ids.as_mut_ptr() as u64;
        attr.query.__bindgen_anon_2.prog_cnt = u32::try_from(ids.len())?;
        // SAFETY: `ids` is valid for writes of `prog_cnt` numbers until the call returns.
        match unsafe { bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) } {
            // SAFETY: the kernel has filled in the count, a plain number.
            Ok(_) => Ok(ids[..unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize].to_vec()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            // Without the hook (before 6.6) there is nothing on it either.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
            Err(error) => Err(error).context("cannot ask for the programs of a device"),
        }
    })
}

/// A pinned link to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLink {
    /// The link's id.
    pub link: u32,
    /// The program's id.
    pub program: u32,
    /// The device's index, 0 when it is gone.
    pub device: u32,
}

/// What kubeshunt has pinned for devices, by the names of the pins.
///
/// # Errors
/// When nothing is pinned there.
pub fn by_pins(bpffs_root: &Path) -> Result<BTreeMap<String, DeviceLink>> {
    let folder = bpffs_root.join("devices");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut links = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        // SAFETY: a structure of integers, for which zero is a value.
        let mut about: bpf_link_info = unsafe { std::mem::zeroed() };
        // The pin of a device that has just gone may be gone as well.
        let Ok(link) = open_pin(&path) else { continue };
        info(&link, &mut about)?;
        // SAFETY: the members of the union are integers.
        let device = unsafe { about.__bindgen_anon_1.tcx.ifindex };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        links.insert(name, DeviceLink { link: about.id, program: about.prog_id, device });
    }
    Ok(links)
}

/// A BPF filter of a clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The lowest runs first.
    pub priority: u32,
    /// Its name.
    pub name: String,
    /// The program's id.
    pub program: u32,
}

/// The BPF filters of a device, in the order in which they run.
///
/// # Errors
/// When there is no such device.
pub fn by_filters(netns: &NetNs, device: &str, way: Way) -> Result<Vec<Filter>> {
    netns.links(async |links| links.filters(device, way).await)
}
