//! Does a namespace have tables in the kernel's packet filters? And what a CNI puts there. Over netlink, so
//! that no tool needs to be installed to find nothing.

pub(crate) mod rules;
mod wire;

use std::fs;
use std::io::{self, Read};

use anyhow::{Context, Result, bail};

use crate::netns::NetNs;

const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// How many tables there are; `None` where the kernel does not have that filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Of nftables, iptables-nft's among them.
    pub nftables: Option<usize>,
    /// Of the old iptables, both families.
    pub iptables: Option<usize>,
}

/// Looks into a namespace.
///
/// # Errors
/// When the kernel does not tell.
pub fn look(netns: &NetNs) -> Result<Tables> {
    netns.run(|| Ok(Tables { nftables: nftables()?, iptables: iptables()? }))
}

/// The old iptables list their tables in /proc, per namespace of the reading thread.
fn iptables() -> Result<Option<usize>> {
    let mut total = None;
    for file in ["ip_tables_names", "ip6_tables_names"] {
        match fs::read_to_string(format!("/proc/thread-self/net/{file}")) {
            Ok(text) => *total.get_or_insert(0) += text.lines().count(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {file}")),
        }
    }
    Ok(total)
}

/// Lists nftables' tables (iptables-nft's among them) over netlink: NFT_MSG_GETTABLE, as a dump.
fn nftables() -> Result<Option<usize>> {
    const NFT_MSG_GETTABLE: u16 = 1;
    const NLM_F_REQUEST_DUMP: u16 = 0x301;
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;

    let mut request = Vec::with_capacity(20);
    request.extend_from_slice(&20_u32.to_ne_bytes());
    request.extend_from_slice(&(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE).to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    // Sequence number and port, then nfgenmsg: all families, version 0, no resource.
    request.extend_from_slice(&[0; 12]);

    let mut socket = wire::open()?;
    socket.send(&request).context("cannot ask nftables")?;
    let mut tables = 0;
    loop {
        let mut buffer = vec![0; 1 << 16];
        let length = socket.read(&mut buffer).context("cannot read nftables' answer")?;
        let mut rest = &buffer[..length];
        while let (Some(size), Some(kind)) = (rest.first_chunk::<4>(), rest.get(4..6)) {
            let size = usize::try_from(u32::from_ne_bytes(*size)).context("a message's length")?;
            let body = rest.get(16..size).context("nftables' answer is cut off")?;
            match u16::from_ne_bytes([kind[0], kind[1]]) {
                NLMSG_DONE => return Ok(Some(tables)),
                NLMSG_ERROR => {
                    let code = body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                    // What a kernel without nf_tables says.
                    if [-libc::EINVAL, -libc::EOPNOTSUPP, -libc::EPROTONOSUPPORT].contains(&code) {
                        return Ok(None);
                    }
                    bail!("nftables answers with an error: {}", io::Error::from_raw_os_error(-code));
                }
                _ => tables += 1,
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Makes a table in nftables, in a namespace: so that a test can show that [`look`] would find one.
///
/// # Errors
/// When the kernel refuses.
pub fn add_table(netns: &NetNs, name: &str) -> Result<()> {
    const NFT_MSG_NEWTABLE: u16 = 0;
    const NFPROTO_INET: u8 = 1;

    let mut batch = wire::Batch::new();
    batch.make(NFT_MSG_NEWTABLE, NFPROTO_INET, &[wire::text(1, name)]);
    netns.run(|| batch.commit())
}
