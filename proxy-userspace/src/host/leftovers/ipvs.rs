//! The mode ipvs: a device that has all addresses of Services, and the kernel's table of virtual servers.

use std::{ffi::CString, io};

use netlink_packet_core::{DecodeError, Emitable, ParseableParametrized};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};

use crate::netlink::Netlink;

/// kube-proxy's device (`defaultDummyDevice` in `pkg/proxy/ipvs/proxier.go`). Its addresses are the node's own as long as
/// it exists: nothing sent to a ClusterIP would ever leave the node.
pub(super) const DEVICE: &str = "kube-ipvs0";

/// Is there such a device in the network namespace of this thread?
pub(super) fn is_there() -> bool {
    let name = CString::new(DEVICE).expect("no zero in it");
    // SAFETY: the name ends with a zero and outlives the call, which only reads it.
    unsafe { libc::if_nametoindex(name.as_ptr()) != 0 }
}

/// Removes the device and, as kube-proxy's own clean-up does, every virtual server of this network namespace,
/// those of others too. IPVS' connections go with them.
pub(super) fn remove() -> io::Result<()> {
    flush()?;
    let mut device = LinkMessage::default();
    device.attributes.push(LinkAttribute::IfName(DEVICE.to_owned()));
    Netlink::open(NETLINK_ROUTE)?.ask(RouteNetlinkMessage::DelLink(device))
}

/// Removes virtual servers. A kernel without IPVS has none.
fn flush() -> io::Result<()> {
    let netlink = Netlink::open(NETLINK_GENERIC)?;
    let mut id = None;
    let question = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(Flush::family_name().to_owned())],
    });
    let answered = netlink.query(question, |answer: GenlMessage<GenlCtrl>| {
        id = answer.payload.nlas.iter().find_map(|part| match part {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
    });
    match answered {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        answered => answered?,
    }
    let Some(id) = id else { return Ok(()) };
    let mut command = GenlMessage::from_payload(Flush);
    command.set_resolved_family_id(id);
    netlink.ask(command)
}

/// `IPVS_CMD_FLUSH` of `include/uapi/linux/ip_vs.h`: no attribute, no answer.
#[derive(Clone, Debug)]
struct Flush;

impl GenlFamily for Flush {
    fn family_name() -> &'static str {
        "IPVS"
    }

    fn command(&self) -> u8 {
        17
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Flush {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _buffer: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for Flush {
    fn parse_with_param(_buffer: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};

    use super::*;

    #[test]
    fn virtual_servers_are_flushed_with_what_ip_vs_h_says() {
        let mut command = GenlMessage::from_payload(Flush);
        command.set_resolved_family_id(0x1c);
        let mut message =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(command));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        // Length and type; no flags, sequence or port; then genlmsghdr: the command, its version, padding.
        assert_eq!(bytes[..6], [20, 0, 0, 0, 0x1c, 0]);
        assert_eq!(bytes[16..], [17, 1, 0, 0]);
    }
}
