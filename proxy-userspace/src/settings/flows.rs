//! What the user said about flows: how many are remembered, for how long (kube-proxy's `conntrack`), and under which
//! ports.

use std::{fs, ops::RangeInclusive};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use ipnet::IpNet;
use nix::unistd::{SysconfVar, sysconf};
use proxy_common::layout::{DEFAULT_FLOWS, DEFAULT_QUEUE_LENGTH, Prefix, RANGES};
use tracing::warn;

use crate::{
    configuration::{self, v1alpha1::Conntrack},
    datapath::flows::settings::{PacketSettings, Pods},
    flows::{age::Timeouts, ports::Choice},
    tables::ranges::{self, Ranges},
};

/// The kernel makes no hash larger than 2^28 entries; a flow has up to two arrivals.
const MOST: u32 = 1 << 26;

const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Flows that the packet path remembers.
#[derive(Args, Debug, Clone)]
pub struct Flows {
    /// Where ClusterIPs are taken from: up to 8 prefixes separated by commas, as in 10.96.0.0/12,fd00:10:96::/112.
    /// Packets to addresses in there that no Service has then do not leave the node. ServiceCIDR objects add to it
    #[arg(long, value_name = "CIDRS", value_parser = cidrs)]
    pub service_cidr: Option<Ranges>,
    /// Source ports for clients whose address the backend must not see: FIRST-LAST[,FIRST-LAST] within 1-65535, or auto,
    /// the two largest ranges that NodePorts and the sysctl net.ipv4.ip_local_port_range leave above 1023
    #[arg(long, value_name = "PORTS", default_value = "auto")]
    pub masquerade_ports: Choice,
}

impl Flows {
    /// What the packet path is to be, on this machine.
    ///
    /// # Errors
    /// When the machine does not tell its CPUs or its sockets' ports.
    pub fn packets(&self, conntrack: &Conntrack) -> Result<PacketSettings> {
        let online = sysconf(SysconfVar::_NPROCESSORS_ONLN)?.context("the machine does not tell its CPUs")?;
        let possible = aya::util::nr_cpus()
            .map_err(|(file, error)| anyhow!(error).context(format!("cannot read {file}")))?;
        let text = fs::read_to_string(LOCAL_PORTS).with_context(|| format!("cannot read {LOCAL_PORTS}"))?;
        let local = local_ports(&text).with_context(|| format!("{LOCAL_PORTS} says {text:?}"))?;
        let (ports, remark) = self.masquerade_ports.resolve(&local);
        if let Some(remark) = remark {
            warn!("{remark}");
        }
        Ok(PacketSettings {
            flows: capacity(conntrack, u32::try_from(online)?),
            cpus: u32::try_from(possible)?,
            queue_length: DEFAULT_QUEUE_LENGTH,
            ports,
            service_cidrs: self.service_cidr.unwrap_or(ranges::NONE),
            pods: Pods::ByDevice,
        })
    }
}

/// How long flows may be idle.
#[must_use]
pub(super) fn timeouts(conntrack: &Conntrack) -> Timeouts {
    let or = |chosen: configuration::Duration, default| {
        if chosen.is_zero() { default } else { chosen.to_std() }
    };
    Timeouts {
        tcp_established: or(
            conntrack.tcp_established_timeout.unwrap_or_default(),
            Timeouts::DEFAULT.tcp_established,
        ),
        tcp_close_wait: or(
            conntrack.tcp_close_wait_timeout.unwrap_or_default(),
            Timeouts::DEFAULT.tcp_close_wait,
        ),
        udp: or(conntrack.udp_timeout, Timeouts::DEFAULT.udp),
        udp_stream: or(conntrack.udp_stream_timeout, Timeouts::DEFAULT.udp_stream),
    }
}

/// How many flows to have room for.
fn capacity(conntrack: &Conntrack, cpus: u32) -> u32 {
    let number = |entries: Option<i32>| entries.and_then(|entries| u32::try_from(entries).ok()).unwrap_or(0);
    let (per_cpu, least) = (number(conntrack.max_per_core), number(conntrack.min));
    match per_cpu {
        0 => DEFAULT_FLOWS,
        _ => per_cpu.saturating_mul(cpus).max(least).min(MOST),
    }
}

pub(super) fn cidrs(text: &str) -> Result<Ranges, String> {
    let mut places = ranges::NONE;
    let mut free = places.iter_mut();
    for part in text.split(',') {
        let net: IpNet =
            part.trim().parse().map_err(|_| format!("{part:?} is no prefix; write it as in 10.96.0.0/12"))?;
        if net.prefix_len() == 0 {
            return Err(format!("{part} holds every address there is"));
        }
        *free.next().ok_or_else(|| format!("more than {RANGES} prefixes"))? =
            Prefix::new(net.addr(), net.prefix_len());
    }
    Ok(places)
}

/// The two numbers of the sysctl.
fn local_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proxy_common::address::Address;

    use super::*;
    use crate::settings::tests::settings;

    fn conntrack(args: &[&str]) -> Conntrack {
        settings(args).unwrap().configuration.conntrack
    }

    #[test]
    fn nothing_said_is_kube_proxys_default() {
        let conntrack = conntrack(&[]);
        assert_eq!(timeouts(&conntrack), Timeouts::DEFAULT);
        assert_eq!([1, 4, 8].map(|cpus| capacity(&conntrack, cpus)), [131_072, 131_072, 262_144]);
        let packets = settings(&[]).unwrap().own.flows.packets(&conntrack).unwrap();
        assert!(packets.cpus >= 1 && !packets.ports.is_empty());
        assert_eq!(packets.service_cidrs, [Prefix::NONE; 8]);
    }

    #[test]
    fn timeouts_of_nothing_are_the_defaults() {
        let chosen = Timeouts {
            tcp_established: Duration::from_secs(7200),
            udp: Duration::from_secs(60),
            ..Timeouts::DEFAULT
        };
        let conntrack = conntrack(&[
            "--conntrack-tcp-timeout-established=2h",
            "--conntrack-tcp-timeout-close-wait=0",
            "--conntrack-udp-timeout=1m",
        ]);
        assert_eq!(timeouts(&conntrack), chosen);
        assert!(settings(&["--conntrack-udp-timeout=5"]).is_err());
        assert!(settings(&["--conntrack-udp-timeout=-5s"]).is_err());
    }

    #[test]
    fn capacity_has_bounds() {
        let capacity = |args: &[&str], cpus| capacity(&conntrack(args), cpus);
        assert_eq!(capacity(&["--conntrack-max-per-core=0", "--conntrack-min=5"], 4), DEFAULT_FLOWS);
        assert_eq!(capacity(&["--conntrack-max-per-core=1000", "--conntrack-min=0"], 4), 4000);
        assert_eq!(capacity(&["--conntrack-max-per-core=67108864"], 64), 1 << 26);
        assert_eq!(capacity(&["--conntrack-min=67108865"], 1), 1 << 26);
        assert!(settings(&["--conntrack-min=-1"]).is_err());
    }

    #[test]
    fn service_cidrs_of_both_families() {
        let flows = settings(&["--service-cidr", "10.96.7.9/12, fd00:10:96::/112"]).unwrap().own.flows;
        let [v4, v6, rest @ ..] = flows.service_cidr.unwrap();
        let address = |text: &str| Address::from(text.parse::<std::net::IpAddr>().unwrap());
        assert!(v4.contains(&address("10.111.255.255")) && !v4.contains(&address("10.112.0.0")));
        assert!(v6.contains(&address("fd00:10:96::ffff")) && !v6.contains(&address("fd00:10:97::")));
        assert_eq!(rest, [Prefix::NONE; 6]);
        let nine = ["10.0.0.0/24"; 9].join(",");
        for bad in ["", "10.96.0.0", "10.96.0.0/33", "0.0.0.0/0", "::/0", nine.as_str()] {
            assert!(super::cidrs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_sysctl_is_two_numbers() {
        assert_eq!(local_ports("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(local_ports("32768"), None);
    }
}
