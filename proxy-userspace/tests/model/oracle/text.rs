//! Addresses and ranges as people write them (util/utils.go: parsed "sloppily", what does not parse is skipped).

use std::net::{IpAddr, Ipv4Addr};

/// An address. Leading zeros are decimal; an IPv4 address in IPv6 clothes is an IPv4 address.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<IpAddr>().ok().map(|own| own.to_canonical());
    }
    let octets: Vec<u8> = text.split('.').map(octet).collect::<Option<_>>()?;
    let octets: [u8; 4] = octets.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn octet(text: &str) -> Option<u8> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// Those of a family.
pub(crate) fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>, is_v4: bool) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|text| address(text)).filter(|own| own.is_ipv4() == is_v4).collect()
}

/// A CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    base: IpAddr,
    pub(crate) length: u32,
}

impl Range {
    /// Compares bit by bit.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| -> Vec<bool> {
            let octets = match address {
                IpAddr::V4(own) => own.octets().to_vec(),
                IpAddr::V6(own) => own.octets().to_vec(),
            };
            octets.into_iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
        };
        let (base, own) = (bits(self.base), bits(address));
        base.len() == own.len() && base[..self.length as usize] == own[..self.length as usize]
    }
}

/// Those of a family, with or without blanks around them.
pub(crate) fn ranges(texts: &[String], is_v4: bool) -> Vec<Range> {
    let range = |text: &String| {
        let (base, length) = text.trim().split_once('/')?;
        let (base, length) = (address(base)?, length.parse().ok()?);
        let longest = if base.is_ipv4() { 32 } else { 128 };
        (length <= longest).then_some(Range { base, length })
    };
    texts.iter().filter_map(range).filter(|range| range.base.is_ipv4() == is_v4).collect()
}
