//! Does a namespace have tables in the kernel's packet filters? Asked of the kernel itself, so that
//! no tool needs to be installed to find nothing.

use std::fs;
use std::io::{self, Read};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

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

    let mut socket = netlink()?;
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
    const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
    const NFNL_MSG_BATCH_END: u16 = 0x11;
    const NFT_MSG_NEWTABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
    const NFTA_TABLE_NAME: u16 = 1;
    const NLM_F_REQUEST: u16 = 1;
    const NLM_F_ACK: u16 = 4;
    const NLM_F_CREATE: u16 = 0x400;
    const NFPROTO_INET: u8 = 1;

    /// A message: netlink's header, nfgenmsg, attributes.
    fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
        let mut message = length.to_ne_bytes().to_vec();
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(&[family, 0]);
        message.extend_from_slice(&resource.to_be_bytes());
        message.extend_from_slice(attributes);
        message
    }

    let length = u16::try_from(4 + name.len() + 1).context("a table's name")?;
    let mut attribute = length.to_ne_bytes().to_vec();
    attribute.extend_from_slice(&NFTA_TABLE_NAME.to_ne_bytes());
    attribute.extend_from_slice(name.as_bytes());
    attribute.resize((attribute.len() + 1).next_multiple_of(4), 0);
    let mut batch = message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, &[]);
    let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK;
    batch.extend(message(NFT_MSG_NEWTABLE, flags, NFPROTO_INET, 0, &attribute));
    batch.extend(message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, 0, NFNL_SUBSYS_NFTABLES, &[]));

    let answer = netns.run(|| -> Result<Vec<u8>> {
        let mut socket = netlink()?;
        socket.send(&batch).context("cannot send to nftables")?;
        let mut buffer = vec![0; 4096];
        let length = socket.read(&mut buffer).context("cannot read nftables' answer")?;
        buffer.truncate(length);
        Ok(buffer)
    })?;
    let code =
        answer.get(16..20).and_then(|bytes| bytes.first_chunk::<4>()).map(|code| i32::from_ne_bytes(*code));
    match code {
        Some(0) => Ok(()),
        Some(code) => bail!("nftables refuses a table: {}", io::Error::from_raw_os_error(-code)),
        None => bail!("nftables' answer is cut off"),
    }
}

fn netlink() -> Result<Socket> {
    const NETLINK_NETFILTER: i32 = 12;
    Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))
        .context("cannot open netlink to the packet filter")
}
