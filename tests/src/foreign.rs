//! A BPF program of somebody else's on a node's connect hook: it counts, and lets everything pass.
//!
//! Invariant: made without any of kubeshunt's code, instruction by instruction.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_map_type, bpf_prog_type};

use crate::cgroup::Cgroup;
use crate::inspect::{attribute, bpf, owned};

/// The attached program. Dropping it detaches it, unless its link is pinned.
#[derive(Debug)]
pub struct Foreign {
    counter: OwnedFd,
    link: OwnedFd,
}

impl Foreign {
    /// Attaches it to connect() of IPv4 sockets, beside whatever else is attached there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(cgroup: &Cgroup) -> Result<Self> {
        let mut attr = attribute();
        attr.__bindgen_anon_1.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        attr.__bindgen_anon_1.key_size = 4;
        attr.__bindgen_anon_1.value_size = 8;
        attr.__bindgen_anon_1.max_entries = 1;
        // SAFETY: no pointers are involved.
        let counter = owned(unsafe { bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr) }.context("cannot make a map")?);

        let program = count_and_pass(&counter);
        let mut attr = attribute();
        attr.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32;
        attr.__bindgen_anon_3.expected_attach_type = bpf_attach_type::BPF_CGROUP_INET4_CONNECT as u32;
        attr.__bindgen_anon_3.insns = program.as_ptr() as u64;
        attr.__bindgen_anon_3.insn_cnt = u32::try_from(program.len())?;
        attr.__bindgen_anon_3.license = c"GPL".as_ptr() as u64;
        for (to, from) in attr_name(&mut attr).iter_mut().zip(b"foreign") {
            *to = from.cast_signed();
        }
        // SAFETY: instructions and licence live until the call returns.
        let loaded = unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) };
        let loaded = owned(loaded.context("cannot load the foreign program")?);

        let folder = File::open(cgroup.path())?;
        let mut attr = attribute();
        attr.link_create.__bindgen_anon_1.prog_fd = loaded.as_raw_fd().cast_unsigned();
        attr.link_create.__bindgen_anon_2.target_fd = folder.as_raw_fd().cast_unsigned();
        attr.link_create.attach_type = bpf_attach_type::BPF_CGROUP_INET4_CONNECT as u32;
        // SAFETY: no pointers are involved.
        let link = unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr) };
        Ok(Self { counter, link: owned(link.context("cannot attach the foreign program")?) })
    }

    /// Pins its link.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn pin(&self, path: &Path) -> Result<()> {
        let name = CString::new(path.as_os_str().as_bytes())?;
        let mut attr = attribute();
        attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
        attr.__bindgen_anon_4.bpf_fd = self.link.as_raw_fd().cast_unsigned();
        // SAFETY: the path is a C string that lives until the call returns.
        unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr) }
            .with_context(|| format!("cannot pin {}", path.display()))?;
        Ok(())
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

fn attr_name(attr: &mut aya_obj::generated::bpf_attr) -> &mut [std::ffi::c_char; 16] {
    // SAFETY: this member is an array of characters, for which every byte is a value.
    unsafe { &mut attr.__bindgen_anon_3.prog_name }
}

/// `counter[0] += 1; return 1`, as `include/uapi/linux/bpf.h` encodes it.
fn count_and_pass(counter: &OwnedFd) -> Vec<u64> {
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
        instruction(0xb7, 0, 0, 0, 1),                   // r0 = 1
        instruction(0x95, 0, 0, 0, 0),                   // exit
    ]
}
