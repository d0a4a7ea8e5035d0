//! A BPF program of somebody else's, on a node's connect hook or on a device: it counts, and lets everything pass.
//!
//! Invariant: made without any of kubeshunt's code, instruction by instruction.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use aya_obj::generated::{
    BPF_F_AFTER, BPF_F_BEFORE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_map_type, bpf_prog_info, bpf_prog_type,
};
use nix::net::if_::if_nametoindex;

use crate::attached::Way;
use crate::cgroup::Cgroup;
use crate::inspect::{attribute, bpf, info, owned};
use crate::netns::NetNs;

/// The program. Dropping it detaches it, unless its link is pinned.
#[derive(Debug)]
pub struct Foreign {
    counter: OwnedFd,
    program: OwnedFd,
    link: Option<OwnedFd>,
}

/// Where among the programs of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before all that are there.
    First,
    /// After all that are there.
    Last,
}

impl Foreign {
    /// Attaches it to connect() of IPv4 sockets, beside whatever else is attached there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(cgroup: &Cgroup) -> Result<Self> {
        let hook = bpf_attach_type::BPF_CGROUP_INET4_CONNECT as u32;
        // 1: let it pass.
        let mut this = Self::load(bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, hook, 1)?;
        let folder = File::open(cgroup.path())?;
        let mut attr = attribute();
        attr.link_create.__bindgen_anon_2.target_fd = folder.as_raw_fd().cast_unsigned();
        attr.link_create.attach_type = hook;
        this.link(attr)?;
        Ok(this)
    }

    /// Attaches it to connect() of IPv4 sockets so that nobody else can attach there (`BPF_PROG_ATTACH` without flags), until
    /// what is returned is dropped.
    ///
    /// # Errors
    /// When somebody else is attached there, or the kernel refuses.
    pub fn alone(cgroup: &Cgroup) -> Result<Alone> {
        let hook = bpf_attach_type::BPF_CGROUP_INET4_CONNECT as u32;
        let this = Self::load(bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, hook, 1)?;
        let alone = Alone { folder: File::open(cgroup.path())?, program: this.program };
        alone.bpf(bpf_cmd::BPF_PROG_ATTACH).context("cannot attach the foreign program alone")?;
        Ok(alone)
    }

    /// Attaches it to a device by tcx.
    ///
    /// # Errors
    /// When there is no such device, or the kernel refuses.
    pub fn on_device(netns: &NetNs, device: &str, way: Way, place: Place) -> Result<Self> {
        let mut this = Self::classifier()?;
        let mut attr = attribute();
        attr.link_create.attach_type = way.attach_type() as u32;
        attr.link_create.flags = match place {
            Place::First => BPF_F_BEFORE,
            Place::Last => BPF_F_AFTER,
        };
        netns.run(|| -> Result<()> {
            attr.link_create.__bindgen_anon_2.target_ifindex = if_nametoindex(device)?;
            this.link(attr)
        })?;
        Ok(this)
    }

    /// One for packets that is not attached.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn classifier() -> Result<Self> {
        // -1: TCX_NEXT, TC_ACT_UNSPEC: on to the next program.
        Self::load(bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS, 0, -1)
    }

    fn load(kind: bpf_prog_type, hook: u32, result: i32) -> Result<Self> {
        let mut attr = attribute();
        attr.__bindgen_anon_1.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        attr.__bindgen_anon_1.key_size = 4;
        attr.__bindgen_anon_1.value_size = 8;
        attr.__bindgen_anon_1.max_entries = 1;
        // SAFETY: no pointers are involved.
        let counter = owned(unsafe { bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr) }.context("cannot make a map")?);

        let program = count_and_return(&counter, result);
        let mut attr = attribute();
        attr.__bindgen_anon_3.prog_type = kind as u32;
        attr.__bindgen_anon_3.expected_attach_type = hook;
        attr.__bindgen_anon_3.insns = program.as_ptr() as u64;
        attr.__bindgen_anon_3.insn_cnt = u32::try_from(program.len())?;
        attr.__bindgen_anon_3.license = c"GPL".as_ptr() as u64;
        for (to, from) in attr_name(&mut attr).iter_mut().zip(b"foreign") {
            *to = from.cast_signed();
        }
        // SAFETY: instructions and licence live until the call returns.
        let loaded = unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) };
        let program = owned(loaded.context("cannot load the foreign program")?);
        Ok(Self { counter, program, link: None })
    }

    fn link(&mut self, mut attr: bpf_attr) -> Result<()> {
        attr.link_create.__bindgen_anon_1.prog_fd = self.program.as_raw_fd().cast_unsigned();
        // SAFETY: no pointers are involved.
        let link = unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr) };
        self.link = Some(owned(link.context("cannot attach the foreign program")?));
        Ok(())
    }

    /// The program's id.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn id(&self) -> Result<u32> {
        // SAFETY: a structure of integers, for which zero is a value.
        let mut about: bpf_prog_info = unsafe { std::mem::zeroed() };
        info(&self.program, &mut about)?;
        Ok(about.id)
    }

    /// Pins the program itself.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pin_program(&self, path: &Path) -> Result<()> {
        pin(&self.program, path)
    }

    /// Pins its link.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pin(&self, path: &Path) -> Result<()> {
        pin(self.link.as_ref().context("it is not attached by a link")?, path)
    }

    /// How often it has run.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn runs(&self) -> Result<u64> {
        let (key, mut value) = (0_u32, 0_u64);
        let mut attr = attribute();
        attr.__bindgen_anon_2.map_fd = self.counter.as_raw_fd().cast_unsigned();
        attr.__bindgen_anon_2.key = (&raw const key) as u64;
        attr.__bindgen_anon_2.__bindgen_anon_1.value = (&raw mut value) as u64;
        // SAFETY: key and value have the sizes that the map was made with.
        unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) }.context("cannot read the counter")?;
        Ok(value)
    }
}

/// A program that has a hook of a cgroup to itself.
#[derive(Debug)]
pub struct Alone {
    folder: File,
    program: OwnedFd,
}

impl Alone {
    fn bpf(&self, command: bpf_cmd) -> Result<()> {
        let mut attr = attribute();
        attr.__bindgen_anon_5.__bindgen_anon_1.target_fd = self.folder.as_raw_fd().cast_unsigned();
        attr.__bindgen_anon_5.attach_bpf_fd = self.program.as_raw_fd().cast_unsigned();
        attr.__bindgen_anon_5.attach_type = bpf_attach_type::BPF_CGROUP_INET4_CONNECT as u32;
        // SAFETY: no pointers are involved.
        unsafe { bpf(command, &mut attr) }?;
        Ok(())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Err(error) = self.bpf(bpf_cmd::BPF_PROG_DETACH) {
            eprintln!("{error:#}");
        }
    }
}

fn pin(what: &OwnedFd, path: &Path) -> Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = attribute();
    attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = what.as_raw_fd().cast_unsigned();
    // SAFETY: the path is a C string that lives until the call returns.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr) }
        .with_context(|| format!("cannot pin {}", path.display()))?;
    Ok(())
}

fn attr_name(attr: &mut bpf_attr) -> &mut [std::ffi::c_char; 16] {
    // SAFETY: this member is an array of characters, for which every byte is a value.
    unsafe { &mut attr.__bindgen_anon_3.prog_name }
}

/// `counter[0] += 1; return result`, as `include/uapi/linux/bpf.h` encodes it.
fn count_and_return(counter: &OwnedFd, result: i32) -> Vec<u64> {
    let instruction = |code: u8, to: u8, from: u8, offset: i16, value: i32| {
        let registers = from << 4 | to;
        u64::from(code)
            | u64::from(registers) << 8
            | u64::from(offset.cast_unsigned()) << 16
            | u64::from(value.cast_unsigned()) << 32
    };
    vec![
        instruction(0x62, 10, 0, -4, 0),                 // *(u32 *)(r10 - 4) = 0
        instruction(0xbf, 2, 10, 0, 0),                  // r2 = r10
        instruction(0x07, 2, 0, 0, -4),                  // r2 += -4
        instruction(0x18, 1, 1, 0, counter.as_raw_fd()), // r1 = the map
        instruction(0x00, 0, 0, 0, 0),                   //
        instruction(0x85, 0, 0, 0, 1),                   // call bpf_map_lookup_elem
        instruction(0x15, 0, 0, 2, 0),                   // if r0 == 0 skip two
        instruction(0xb7, 1, 0, 0, 1),                   // r1 = 1
        instruction(0xdb, 0, 1, 0, 0),                   // lock *(u64 *)r0 += r1
        instruction(0xb7, 0, 0, 0, result),              // r0 = result
        instruction(0x95, 0, 0, 0, 0),                   // exit
    ]
}
