//! What a device would leave to its hardware. A veth leaves it undone: frames reach the other end without
//! checksums and larger than the MTU, unless told otherwise.

use std::ffi::c_void;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

use super::Links;

const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// ETHTOOL_STXCSUM and ETHTOOL_STSO: checksums and segmentation of what is sent. Without the first, the kernel
/// takes the second away by itself; it is said all the same.
const SENDING: [u32; 2] = [0x17, 0x1f];

#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

impl Links {
    /// Has a link leave checksums and segmentation of what it sends to the device, or not.
    ///
    /// # Errors
    /// When there is no such link, or it cannot do without.
    pub fn offload(&self, name: &str, on: bool) -> Result<()> {
        // Any socket of the namespace will do.
        let socket = UdpSocket::bind("0.0.0.0:0").context("cannot open a socket")?;
        for command in SENDING {
            let mut value = Value { command, data: on.into() };
            // SAFETY: all zeros is a valid ifreq.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            anyhow::ensure!(name.len() < request.ifr_name.len(), "{name} is no name of a link");
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = libc::c_char::from_ne_bytes([from]);
            }
            request.ifr_ifru.ifru_data = (&raw mut value).cast::<c_void>().cast();
            // SAFETY: the request and the value it points to are valid until the call returns.
            let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
            if result != 0 {
                return Err(io::Error::last_os_error())
                    .with_context(|| format!("cannot change the offloads of {name}"));
            }
        }
        Ok(())
    }
}
