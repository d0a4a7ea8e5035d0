//! Whether what was done to a packet is what should be done, without computing a single checksum with our code: what is
//! not to change must not, and a checksum that was right must be right again.

use anyhow::{Result, ensure};
use kubeshunt_tests::attached::Way;
use kubeshunt_tests::sniffer;
use kubeshunt_tests::test_run::Ran;
use proxy_common::address::{Address, Port};
use proxy_common::decision::packet::Rewrite;
use proxy_common::layout::protocol;

use super::super::names::hex;
use super::super::packet::Link;
use super::super::stand::{DROP, PASS, REDIRECT};
use super::Fate;
use super::reading::Reading;

pub(super) fn judge(link: Link, way: Way, (fate, before): (&Fate, &[u8]), ran: &Ran) -> Result<()> {
    match fate {
        Fate::Pass(_) => expect(ran, (PASS, before))?,
        Fate::Drop => ensure!(ran.code == DROP, "{} instead of a drop", ran.code),
        // What cannot be answered is dropped.
        Fate::Refuse if ran.code == DROP => {}
        Fate::Refuse => {
            ensure!(ran.code == REDIRECT, "{} instead of a refusal", ran.code);
            let faults = faults(link, &ran.packet);
            ensure!(faults.is_empty(), "the answer {}: {faults:?}", hex(&ran.packet));
        }
        Fate::Rewrite(_, reading, new) => {
            let mut draft = Draft { frame: before.to_vec(), after: &ran.packet };
            draft.address(reading, way == Way::Egress, new.address);
            draft.port(reading.transport, new.source_port);
            draft.port(reading.transport + 2, new.destination_port);
            draft.checksum(reading);
            expect(ran, (PASS, &draft.frame))?;
            same_faults(link, before, &ran.packet)?;
        }
        Fate::Error(error, quoted, new) => {
            let Rewrite { address, source_port, destination_port } = *new;
            let mut draft = Draft { frame: before.to_vec(), after: &ran.packet };
            draft.address(error, way == Way::Egress, address);
            draft.take(error.transport + 2, 2);
            // The packet quoted goes the other way.
            draft.address(quoted, way == Way::Ingress, address);
            draft.port(quoted.transport, destination_port);
            draft.port(quoted.transport + 2, source_port);
            if quoted.tuple.protocol != protocol::SCTP
                && quoted.transport + checksum_at(quoted) + 2 <= error.end
            {
                draft.checksum(quoted);
            }
            expect(ran, (PASS, &draft.frame))?;
            same_faults(link, before, &ran.packet)?;
        }
    }
    Ok(())
}

fn expect(ran: &Ran, expected: (i32, &[u8])) -> Result<()> {
    ensure!(
        (ran.code, &ran.packet[..]) == expected,
        "{} with {}, not {} with {}",
        ran.code,
        hex(&ran.packet),
        expected.0,
        hex(expected.1)
    );
    Ok(())
}

/// Frames are right afterwards if they were before. A sum that was wrong may come to look right only where zero says
/// that there is none.
fn same_faults(link: Link, before: &[u8], after: &[u8]) -> Result<()> {
    let (before, after) = (faults(link, before), faults(link, after));
    ensure!(before.is_empty() == after.is_empty(), "faults before: {before:?}, after: {after:?}");
    Ok(())
}

fn faults(link: Link, frame: &[u8]) -> Vec<String> {
    let ethernet = if link == Link::Bare {
        let kind: [u8; 2] =
            if frame.first().is_some_and(|byte| byte >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
        [&[0; 12], &kind[..], frame].concat()
    } else {
        frame.to_vec()
    };
    sniffer::Packet::of_frame(&ethernet).map_or_else(Vec::new, |packet| packet.faults(true))
}

/// What a packet should become; checksums as they have become.
struct Draft<'a> {
    frame: Vec<u8>,
    after: &'a [u8],
}

impl Draft<'_> {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.frame.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    /// Takes over what stands there.
    fn take(&mut self, at: usize, len: usize) {
        let after = self.after;
        if let Some(bytes) = after.get(at..at + len) {
            self.write(at, bytes);
        }
    }

    /// Writes an address, and takes over the header checksum.
    fn address(&mut self, reading: &Reading, is_source: bool, address: Address) {
        if reading.is_v6 {
            self.write(reading.network + if is_source { 8 } else { 24 }, &address.octets());
        } else {
            self.write(reading.network + if is_source { 12 } else { 16 }, &address.octets()[12..]);
            self.take(reading.network + 10, 2);
        }
    }

    fn port(&mut self, at: usize, port: Port) {
        self.write(at, &port.number().to_be_bytes());
    }

    fn checksum(&mut self, reading: &Reading) {
        let len = if reading.tuple.protocol == protocol::SCTP { 4 } else { 2 };
        self.take(reading.transport + checksum_at(reading), len);
    }
}

fn checksum_at(reading: &Reading) -> usize {
    match reading.tuple.protocol {
        protocol::TCP => 16,
        protocol::UDP => 6,
        _ => 8,
    }
}
