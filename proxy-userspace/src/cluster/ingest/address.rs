//! Reading addresses as leniently as Kubernetes itself does.
//!
//! Objects stored long ago may hold `172.30.0.041`. Kubernetes reads that as decimal 41, so must we: the rest
//! of the cluster uses that address.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::cluster::reject::Problem;

/// Bits in front of the IPv4 address in an IPv4-mapped one.
const MAPPING: u8 = 96;

/// Parses any address: leading zeros are decimal, IPv4-mapped IPv6 is IPv4.
pub(crate) fn lenient(text: &str) -> Option<IpAddr> {
    let address = text.parse().ok().or_else(|| zero_padded(text))?;
    Some(address.to_canonical())
}

/// Parses the address of one host: leading zeros are decimal, IPv4-mapped IPv6 is IPv4.
pub(super) fn host(text: &str) -> Result<IpAddr, Problem> {
    let address = lenient(text).ok_or_else(|| Problem::InvalidAddress(text.to_owned()))?;
    // An unspecified frontend would match every address; a multicast or broadcast one names no single host.
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(Problem::UnusableAddress(address));
    }
    Ok(address)
}

/// Parses the address of a frontend. A loopback address is every pod's own, and the socket hooks would take it
/// away from all of them: kube-proxy's rules never see it there, so nobody can rely on it.
pub(super) fn frontend(text: &str) -> Result<IpAddr, Problem> {
    let address = host(text)?;
    if address.is_loopback() { Err(Problem::UnusableAddress(address)) } else { Ok(address) }
}

/// Parses a range of addresses; bits behind the prefix and spaces around it do not matter. One of IPv4-mapped addresses is
/// one of IPv4; one that holds these among others is none.
pub(crate) fn range(text: &str) -> Result<IpNet, Problem> {
    let parse = || {
        let (address, length) = text.trim().split_once('/')?;
        let address: IpAddr = address.parse().ok().or_else(|| zero_padded(address))?;
        let digits = Some(length).filter(|length| length.bytes().all(|byte| byte.is_ascii_digit()))?;
        let length: u8 = digits.parse().ok()?;
        match address.to_canonical() {
            v4 if v4 != address => Some(IpNet::new(v4, length.checked_sub(MAPPING)?).ok()?.trunc()),
            _ => Some(IpNet::new(address, length).ok()?.trunc()),
        }
    };
    parse().ok_or_else(|| Problem::InvalidRange(text.to_owned()))
}

/// `010.0.0.041` and `fd00::00041`, which the standard library refuses, the former because others read it as octal.
/// Kubernetes: `ParseIPSloppy` of `k8s.io/utils/net`.
fn zero_padded(text: &str) -> Option<IpAddr> {
    let Some((head, tail)) = text.rsplit_once(':') else { return zero_padded_v4(text).map(IpAddr::V4) };
    let unpadded = |group: &str| match group.trim_start_matches('0') {
        "" if !group.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    let head: Vec<String> = head.split(':').map(unpadded).collect();
    // The last 32 bits may be written as IPv4.
    let tail = zero_padded_v4(tail).map_or_else(|| unpadded(tail), |v4| v4.to_string());
    format!("{}:{tail}", head.join(":")).parse().ok().map(IpAddr::V6)
}

fn zero_padded_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let digits = parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *octet = digits.parse().ok()?;
    }
    parts.next().is_none().then_some(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubernetes_reads() {
        for (text, expected) in [
            ("10.0.0.1", "10.0.0.1"),
            ("172.30.0.041", "172.30.0.41"),
            ("010.000.0.09", "10.0.0.9"),
            ("fd00::1", "fd00::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("127.0.0.1", "127.0.0.1"),
            ("0000010.0.0.1", "10.0.0.1"),
            ("FD00::A", "fd00::a"),
            ("fd00:0:0:0:0:0:0:1", "fd00::1"),
            ("fd00:0096::0010", "fd00:96::10"),
            ("fd00::000000a", "fd00::a"),
            ("0fd00::00000", "fd00::"),
            ("::00001", "::1"),
            ("::ffff:a60:a", "10.96.0.10"),
            ("::ffff:010.0.0.041", "10.0.0.41"),
            ("64:ff9b::010.0.0.041", "64:ff9b::a00:29"),
        ] {
            assert_eq!(host(text), Ok(expected.parse().expect("an address")), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            " ",
            "10.0.0",
            "10.0.0.1.2",
            "10.0.0.256",
            "10..0.1",
            "10.0.0.+1",
            "0x10.0.0.1",
            "a",
            "fe80::1%eth0",
            "10.0.0.1 ",
            "10.0.0.1/32",
            "[fd00::1]",
            "fd00::10000",
            "fd00:::1",
            "fd00::1::1",
            "fd00",
            "::ffff:10.0.0.256",
            "::ffff:10.0.0.",
        ] {
            assert_eq!(host(text), Err(Problem::InvalidAddress(text.to_owned())), "{text}");
        }
        for text in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "000.0.0.0"] {
            assert!(matches!(host(text), Err(Problem::UnusableAddress(_))), "{text}");
        }
    }

    #[test]
    fn reads_ranges_as_kubernetes_does() {
        for (text, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            (" 10.1.2.3/8\t", "10.0.0.0/8"),
            ("172.030.0.0/16", "172.30.0.0/16"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00::1/64", "fd00::/64"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(range(text), Ok(expected.parse().expect("a range")), "{text}");
        }
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "fd00::/129",
            "10.0.0.0/8/8",
            "a/8",
            "::ffff:10.0.0.0/80",
        ] {
            assert_eq!(range(text), Err(Problem::InvalidRange(text.to_owned())), "{text}");
        }
    }

    /// As kube-proxy serves it: the API's own validation keeps it out of most fields.
    #[test]
    fn a_metadata_services_address_may_be_a_frontend() {
        for text in ["169.254.169.254", "fe80::1"] {
            assert!(frontend(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_frontend_takes_no_pods_loopback_away() {
        for text in ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(host(text).is_ok(), "{text}");
            assert!(matches!(frontend(text), Err(Problem::UnusableAddress(_))), "{text}");
        }
        assert!(frontend("10.0.0.1").is_ok());
    }
}
