//! nftables' messages: netlink's header, nfgenmsg, attributes in attributes.

use std::io::{self, Read};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use super::NFNL_SUBSYS_NFTABLES;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// An attribute.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("attributes here are short");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute that is a text.
pub(super) fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// An attribute that is a number.
pub(super) fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// An attribute of attributes.
pub(super) fn nest(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    const NLA_F_NESTED: u16 = 0x8000;
    attribute(kind | NLA_F_NESTED, &parts.concat())
}

/// Changes that are carried out all together or not at all.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut batch = Self { bytes: Vec::new() };
        batch.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, &[]);
        batch
    }

    /// Adds a change; `kind` is one of `NFT_MSG_NEW…`, and what it makes comes after what is there.
    pub(super) fn make(&mut self, kind: u16, family: u8, attributes: &[Vec<u8>]) {
        let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK;
        self.message(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, family, 0, &attributes.concat());
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) {
        let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.bytes.extend_from_slice(attributes);
    }

    /// Has the kernel carry it out, in the namespace of this thread.
    pub(super) fn commit(mut self) -> Result<()> {
        self.message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, &[]);
        let mut socket = open()?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).context("cannot limit a socket's patience")?;
        socket.send(&self.bytes).context("cannot send to nftables")?;
        let mut buffer = vec![0; 4096];
        let length = socket.read(&mut buffer).context("cannot read nftables' answer")?;
        // After a failure there are errors only, so the first answer speaks for all.
        let answer = buffer[..length].get(16..20).and_then(|bytes| bytes.first_chunk::<4>());
        match answer.map(|code| i32::from_ne_bytes(*code)) {
            Some(0) => Ok(()),
            Some(code) => bail!("nftables refuses a change: {}", io::Error::from_raw_os_error(-code)),
            None => bail!("nftables' answer is cut off"),
        }
    }
}

/// Netlink to the packet filter.
pub(super) fn open() -> Result<Socket> {
    const NETLINK_NETFILTER: i32 = 12;
    Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))
        .context("cannot open netlink to the packet filter")
}
