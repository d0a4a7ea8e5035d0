//! The programs for sockets: loading, attaching, replacing in place.
//!
//! Capabilities of the kernel are found out by loading, never by version: the programs are tried with
//! `bpf_set_retval` (6.1), and without it when the verifier refuses that.

use std::{
    fs::{self, File},
    os::fd::AsFd as _,
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::MapData,
    programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink},
};
use proxy_common::layout::{map, program};
use tracing::{debug, warn};

use super::{
    Settings, kernel, log,
    object::{self, Constants},
    pins::{Pins, cgroup_id},
};

/// Loaded programs, attached or about to be.
pub struct Programs {
    ebpf: Ebpf,
    pins: Pins,
    frontends_capacity: u32,
    /// By name, in the order of [`program::ALL`].
    ids: Vec<(&'static str, u32)>,
}

/// What attaching did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Hooks attached anew.
    pub created: usize,
    /// Hooks whose program was replaced in place.
    pub replaced: usize,
}

/// Loads and verifies the programs, with maps from `maps` where there are some; their links will be those of `links`.
pub(super) fn load(
    settings: &Settings,
    sizes: &[(&'static str, u32)],
    maps: &Pins,
    links: &Pins,
) -> Result<Programs> {
    let cookie = kernel::netns_cookie()?;
    let with = |can_set_errno: bool| load_with(settings, sizes, maps, cookie, can_set_errno);
    let mut ebpf = match with(true) {
        Ok(ebpf) => ebpf,
        Err(first) => {
            // If this fails as well it is not about that helper, and the simpler attempt says what it is about.
            let ebpf = with(false)?;
            debug!(%first, "the programs do not load with bpf_set_retval");
            warn!(
                "this kernel cannot refuse a connection from a socket hook (Linux 6.1 can): connections to Services \
                 without endpoints are left to time out"
            );
            ebpf
        }
    };
    if settings.log_decisions {
        log::pass_on(&mut ebpf)?;
    }
    let frontends_capacity = MapData::from_pin(maps.map(map::FRONTENDS))
        .and_then(|map| map.info())
        .context("asking about the frontends map")?
        .max_entries();
    let id = |name| -> Result<(&'static str, u32)> {
        let program = ebpf.program(name).with_context(|| format!("the object has no program {name}"))?;
        let info = program.info().with_context(|| format!("asking about the program {name}"))?;
        Ok((name, info.id()))
    };
    let ids = program::ALL.into_iter().map(id).collect::<Result<_>>()?;
    Ok(Programs { ebpf, pins: links.clone(), frontends_capacity, ids })
}

fn load_with(
    settings: &Settings,
    sizes: &[(&'static str, u32)],
    pins: &Pins,
    cookie: Option<u64>,
    can_set_errno: bool,
) -> Result<Ebpf> {
    let constants = Constants::new(cookie, can_set_errno, settings.log_decisions, settings.packets);
    verify(&constants, sizes, Some(pins))
}

/// What the kernel can do, found out by loading the programs into it.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// See [`CAN_SET_ERRNO`](proxy_common::layout::constant::CAN_SET_ERRNO).
    pub can_set_errno: bool,
    /// See [`HOST_NETNS_COOKIE`](proxy_common::layout::constant::HOST_NETNS_COOKIE).
    pub knows_namespace: bool,
}

/// Tries to load the programs, with small maps and without pins; leaves nothing behind.
///
/// # Errors
/// When they do not load at all.
pub fn probe() -> Result<Probe> {
    let cookie = kernel::netns_cookie()?;
    let (constants, sizes) = object::tiny(cookie);
    let with = |can_set_errno| verify(&constants.refusing(can_set_errno), &sizes, None);
    let can_set_errno = with(true).is_ok();
    if !can_set_errno {
        with(false)?;
    }
    Ok(Probe { can_set_errno, knows_namespace: cookie.is_some() })
}

/// Loads the object and has the kernel verify every program for sockets.
fn verify(constants: &Constants, sizes: &[(&'static str, u32)], pins: Option<&Pins>) -> Result<Ebpf> {
    let mut ebpf = object::open(constants, sizes, pins)?;
    for name in program::ALL {
        object::verified(name, program_mut(&mut ebpf, name)?.load())?;
    }
    Ok(ebpf)
}

fn program_mut<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut CgroupSockAddr> {
    ebpf.program_mut(name)
        .with_context(|| format!("the object has no program {name}"))?
        .try_into()
        .with_context(|| format!("the program {name} is of another type"))
}

impl Programs {
    pub(super) fn frontends_capacity(&self) -> u32 {
        self.frontends_capacity
    }

    /// The object, for its maps.
    pub(super) fn object(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The hooks whose link is not there, or leads elsewhere, or runs another program than ours.
    pub(super) fn astray(&self, cgroup: u64) -> Result<Vec<&'static str>> {
        let mut astray = Vec::new();
        for (name, own) in self.ids.iter().copied() {
            let is_attached = match kernel::open_pin(&self.pins.link(name))? {
                None => false,
                Some(link) => {
                    let link = kernel::cgroup_link(link.as_fd())
                        .with_context(|| format!("asking about the link of {name}"))?;
                    link.cgroup == cgroup && link.program == own
                }
            };
            if !is_attached {
                astray.push(name);
            }
        }
        Ok(astray)
    }

    /// The names and ids of what is loaded.
    pub(super) fn ids(&self) -> &[(&'static str, u32)] {
        &self.ids
    }

    pub(super) fn attach(&mut self, settings: &Settings) -> Result<Attached> {
        let cgroup = File::open(&settings.cgroup_root)
            .with_context(|| format!("cannot open {}", settings.cgroup_root.display()))?;
        let id = cgroup_id(&settings.cgroup_root)?;
        let mut attached = Attached::default();
        for name in program::ALL {
            let path = self.pins.link(name);
            let program = program_mut(&mut self.ebpf, name)?;
            if replace(&path, program, id)? {
                attached.replaced += 1;
                continue;
            }
            create(&path, program, &cgroup)
                .with_context(|| format!("cannot attach {name} to {}", settings.cgroup_root.display()))?;
            attached.created += 1;
        }
        Ok(attached)
    }
}

/// Puts the program into the pinned link; `false` if there is none for this cgroup, and then no pin either.
fn replace(path: &Path, program: &CgroupSockAddr, cgroup: u64) -> Result<bool> {
    let Some(link) = kernel::open_pin(path)? else { return Ok(false) };
    let info =
        kernel::cgroup_link(link.as_fd()).with_context(|| format!("asking about {}", path.display()))?;
    if info.cgroup == cgroup {
        match kernel::update_link(link.as_fd(), program.fd()?.as_fd()) {
            Ok(()) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot replace the program of {}", path.display()));
            }
        }
    }
    // Another cgroup, or one that is gone: this link serves nobody here.
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    Ok(false)
}

fn create(path: &Path, program: &mut CgroupSockAddr, cgroup: &File) -> Result<()> {
    // Single is 0 in a link's flags, which are always "multi": others' programs stay.
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    let link = FdLink::try_from(program.take_link(id)?)
        .context("the kernel has no links for cgroup programs (Linux 5.7 does)")?;
    link.pin(path).with_context(|| format!("cannot pin {}", path.display()))?;
    Ok(())
}
