//! What the user said about flows: how many are remembered, for how long, and under which ports. Names and meanings are
//! kube-proxy's where it has them.

use std::{fs, ops::RangeInclusive, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use ipnet::IpNet;
use jiff::SignedDuration;
use nix::unistd::{SysconfVar, sysconf};
use proxy_common::layout::{DEFAULT_FLOWS, DEFAULT_QUEUE_LENGTH, Prefix, RANGES};
use tracing::warn;

use crate::{
    datapath::flows::settings::{PacketSettings, Pods},
    flows::{age::Timeouts, ports::Choice},
    tables::ranges::{self, Ranges},
};

/// The kernel makes no hash larger than 2^28 entries; a flow has up to two arrivals.
const MOST: i64 = 1 << 26;

const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Flows that the packet path remembers.
#[derive(Args, Debug, Clone)]
pub struct Flows {
    /// How many flows to have room for, per CPU; 0 means 262144 in all, whatever --conntrack-min says. Takes effect when
    /// the map is created
    #[arg(long, value_name = "N", default_value_t = 32_768, value_parser = clap::value_parser!(u32).range(..=MOST))]
    pub conntrack_max_per_core: u32,
    /// How many flows to have room for at least, however few CPUs there are
    #[arg(long, value_name = "N", default_value_t = 131_072, value_parser = clap::value_parser!(u32).range(..=MOST))]
    pub conntrack_min: u32,
    /// How long a TCP connection may be idle, as in 24h0m0s; 0 means 24h
    #[arg(long, value_name = "DURATION", default_value = "24h0m0s", value_parser = duration)]
    pub conntrack_tcp_timeout_established: Duration,
    /// How long a TCP connection may be idle when one side has closed it; 0 means 1h
    #[arg(long, value_name = "DURATION", default_value = "1h0m0s", value_parser = duration)]
    pub conntrack_tcp_timeout_close_wait: Duration,
    /// How long a UDP flow may be idle when it went one way only; 0 means 30s
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub conntrack_udp_timeout: Duration,
    /// How long a UDP flow may be idle when it went both ways; 0 means 2m
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub conntrack_udp_timeout_stream: Duration,
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
    /// How long flows may be idle.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        let or = |chosen: Duration, default| if chosen.is_zero() { default } else { chosen };
        Timeouts {
            tcp_established: or(self.conntrack_tcp_timeout_established, Timeouts::DEFAULT.tcp_established),
            tcp_close_wait: or(self.conntrack_tcp_timeout_close_wait, Timeouts::DEFAULT.tcp_close_wait),
            udp: or(self.conntrack_udp_timeout, Timeouts::DEFAULT.udp),
            udp_stream: or(self.conntrack_udp_timeout_stream, Timeouts::DEFAULT.udp_stream),
        }
    }

    /// What the packet path is to be, on this machine.
    ///
    /// # Errors
    /// When the machine does not tell its CPUs or its sockets' ports.
    pub fn packets(&self) -> Result<PacketSettings> {
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
            flows: self.capacity(u32::try_from(online)?),
            cpus: u32::try_from(possible)?,
            queue_length: DEFAULT_QUEUE_LENGTH,
            ports,
            service_cidrs: self.service_cidr.unwrap_or(ranges::NONE),
            pods: Pods::ByDevice,
        })
    }

    fn capacity(&self, cpus: u32) -> u32 {
        if self.conntrack_max_per_core == 0 {
            return DEFAULT_FLOWS;
        }
        let wanted = self.conntrack_max_per_core.saturating_mul(cpus).max(self.conntrack_min);
        wanted.min(u32::try_from(MOST).unwrap_or(u32::MAX))
    }
}

/// A duration as Go writes it.
fn duration(text: &str) -> Result<Duration, String> {
    // What Go takes without a unit.
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let signed: SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    Duration::try_from(signed).map_err(|_| "time does not run backwards".to_owned())
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
    use clap::Parser as _;
    use proxy_common::address::Address;

    use super::*;
    use crate::settings::{Command, CommandLine};

    fn flows(args: &[&str]) -> Result<Flows, String> {
        let line = ["kubeshunt", "run"].iter().chain(args);
        match CommandLine::try_parse_from(line).map_err(|error| error.to_string())?.command {
            Command::Run(run) => Ok(run.flows),
            _ => unreachable!("the line above says run"),
        }
    }

    #[test]
    fn nothing_said_is_kube_proxys_default() {
        let flows = flows(&[]).unwrap();
        assert_eq!(flows.timeouts(), Timeouts::DEFAULT);
        assert_eq!([1, 4, 8].map(|cpus| flows.capacity(cpus)), [131_072, 131_072, 262_144]);
        let packets = flows.packets().unwrap();
        assert!(packets.cpus >= 1 && !packets.ports.is_empty());
        assert_eq!(packets.service_cidrs, [Prefix::NONE; 8]);
    }

    #[test]
    fn durations_are_gos() {
        for (text, seconds) in [
            ("24h0m0s", 86_400.0),
            ("1h30m", 5_400.0),
            ("1.5h", 5_400.0),
            ("300ms", 0.3),
            ("0", 0.0),
            ("0s", 0.0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "5", "-5s", "5x", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
        let flows = flows(&[
            "--conntrack-tcp-timeout-established=2h",
            "--conntrack-tcp-timeout-close-wait=0",
            "--conntrack-udp-timeout=1m",
        ])
        .unwrap();
        let chosen = Timeouts {
            tcp_established: Duration::from_secs(7200),
            udp: Duration::from_secs(60),
            ..Timeouts::DEFAULT
        };
        assert_eq!(flows.timeouts(), chosen);
    }

    #[test]
    fn capacity_has_bounds() {
        let capacity = |args: &[&str], cpus| flows(args).map(|flows| flows.capacity(cpus));
        assert_eq!(capacity(&["--conntrack-max-per-core=0", "--conntrack-min=5"], 4), Ok(DEFAULT_FLOWS));
        assert_eq!(capacity(&["--conntrack-max-per-core=1000", "--conntrack-min=0"], 4), Ok(4000));
        assert_eq!(capacity(&["--conntrack-max-per-core=67108864"], 64), Ok(1 << 26));
        assert!(capacity(&["--conntrack-min=67108865"], 1).is_err());
    }

    #[test]
    fn service_cidrs_of_both_families() {
        let flows = flows(&["--service-cidr", "10.96.7.9/12, fd00:10:96::/112"]).unwrap();
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
