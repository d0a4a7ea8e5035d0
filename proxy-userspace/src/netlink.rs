//! Questions to the kernel over netlink that end with an answer, for the protocols that rtnetlink does not speak.

use std::{io, os::fd::AsFd as _};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt::SndBufForce};

/// A connection to one protocol's kernel side, in the network namespace that the thread was in when it was opened.
pub(crate) struct Netlink(Socket);

impl Netlink {
    /// `protocol` is one of [`netlink_sys::protocols`].
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Hands over everything that a list holds. A list that changed while it was read ends with
    /// [`io::ErrorKind::Interrupted`].
    pub(crate) fn dump<M: NetlinkSerializable + NetlinkDeserializable>(
        &self,
        what: M,
        take: impl FnMut(M),
    ) -> io::Result<()> {
        self.0.send(&bytes(what, NLM_F_REQUEST | NLM_F_DUMP, 0), 0)?;
        self.answers(take)
    }

    /// Has the kernel do something, and waits until it has.
    pub(crate) fn ask<M: NetlinkSerializable + NetlinkDeserializable>(&self, what: M) -> io::Result<()> {
        self.query(what, |_| {})
    }

    /// The same, with an answer before the acknowledgement.
    pub(crate) fn query<M: NetlinkSerializable + NetlinkDeserializable>(
        &self,
        what: M,
        take: impl FnMut(M),
    ) -> io::Result<()> {
        self.0.send(&bytes(what, NLM_F_REQUEST | NLM_F_ACK, 0), 0)?;
        self.answers(take)
    }

    /// Sends several messages at once, each with its flags, between two that say where they begin and end. The last of
    /// the former is acknowledged, and whichever fails: the first answer speaks for all.
    pub(crate) fn transact<M: NetlinkSerializable + NetlinkDeserializable>(
        &self,
        begin: M,
        what: Vec<(u16, M)>,
        end: M,
    ) -> io::Result<()> {
        let last = what.len();
        let mut all = bytes(begin, NLM_F_REQUEST, 0);
        for (number, (flags, message)) in (1..).zip(what) {
            let wants_answer = if number == last { NLM_F_ACK } else { 0 };
            all.extend(bytes(message, NLM_F_REQUEST | flags | wants_answer, number));
        }
        all.extend(bytes(end, NLM_F_REQUEST, last + 1));
        // One call takes all or nothing, so all must fit; the usual limit is some 200 KB.
        setsockopt(&self.0.as_fd(), SndBufForce, &(2 * all.len()))?;
        self.0.send(&all, 0)?;
        self.answers(|_: M| {})
    }

    /// Hands over answers until the last one.
    fn answers<M: NetlinkDeserializable>(&self, mut take: impl FnMut(M)) -> io::Result<()> {
        let mut is_torn = false;
        loop {
            let (bytes, _) = self.0.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
                is_torn |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => take(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Done(done) if done.code != 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.abs()));
                    }
                    NetlinkPayload::Done(_) if is_torn => return Err(io::ErrorKind::Interrupted.into()),
                    // The former acknowledges.
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(()),
                    _ => {}
                }
                let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn bytes<M: NetlinkSerializable>(payload: M, flags: u16, number: usize) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = u32::try_from(number).unwrap_or(u32::MAX);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(payload));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
