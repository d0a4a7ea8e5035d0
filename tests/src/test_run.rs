//! A program for packets, run by hand: bytes in, bytes out (`BPF_PROG_TEST_RUN`).
//!
//! aya has that call for programs which it has loaded itself. Here it is for those which kubeshunt has loaded and
//! attached, found by their ids, and with a flag that aya does not know: [`Sum::Complete`].
//!
//! Invariant: nothing leaves the machine. A program may ask for a packet to be sent; that is a return code here.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use aya_obj::generated::bpf_cmd;

use crate::inspect::{attribute, bpf, program_by_id};

/// How much longer than it was a packet may become.
const GROWTH: usize = 256;
/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE` in `include/uapi/linux/bpf.h`.
const CHECKSUM_COMPLETE: u32 = 4;
/// Words of `struct __sk_buff` up to `ifindex`, which is the last of them. What is missing is zero.
const CONTEXT: usize = 11;

/// What the device is supposed to have found out about checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// Nothing.
    Unknown,
    /// The sum over all that follows the link-layer header. The kernel then fails the run with `EBADMSG` if that
    /// sum does not fit any more afterwards.
    Complete,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// What the program returned.
    pub code: i32,
    /// The packet as it is now.
    pub packet: Vec<u8>,
}

/// A loaded program.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// Finds it by its id.
    ///
    /// # Errors
    /// When there is none.
    pub fn by_id(id: u32) -> Result<Self> {
        Ok(Self(program_by_id(id)?))
    }

    /// Runs it on a packet of at least 14 bytes, which has come to a device of this thread's network namespace. The
    /// kernel takes the first 14 bytes for an Ethernet header, whatever the device.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn run(&self, packet: &[u8], device: u32, sum: Sum) -> io::Result<Ran> {
        let mut out = vec![0_u8; packet.len() + GROWTH];
        let mut context = [0_u32; CONTEXT];
        context[CONTEXT - 1] = device;
        let mut attr = attribute();
        attr.test.prog_fd = self.0.as_raw_fd().cast_unsigned();
        attr.test.data_in = packet.as_ptr() as u64;
        attr.test.data_size_in = size(packet.len())?;
        attr.test.data_out = out.as_mut_ptr() as u64;
        attr.test.data_size_out = size(out.len())?;
        attr.test.ctx_in = context.as_ptr() as u64;
        attr.test.ctx_size_in = size(size_of_val(&context))?;
        attr.test.repeat = 1;
        attr.test.flags = if sum == Sum::Complete { CHECKSUM_COMPLETE } else { 0 };
        // SAFETY: the packet and the context are valid for reads and `out` for writes of the sizes beside them, until
        // the call returns.
        unsafe { bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr) }?;
        // SAFETY: the kernel has filled in plain numbers.
        let (code, len) = unsafe { (attr.test.retval.cast_signed(), attr.test.data_size_out) };
        out.truncate(len as usize);
        Ok(Ran { code, packet: out })
    }

    /// Whether this kernel knows [`Sum::Complete`] (Linux 6.17 does).
    ///
    /// # Errors
    /// When it does not run the program at all.
    pub fn knows_sums(&self) -> Result<bool> {
        match self.run(&[0; 64], 0, Sum::Complete) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(error).context("BPF_PROG_TEST_RUN"),
        }
    }
}

fn size(len: usize) -> io::Result<u32> {
    u32::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}
