//! The sysctls of the kernel's connection tracking that kube-proxy sets (`pkg/proxy/conntrack/sysctls.go`).
//!
//! Services need none of them here. But conntrack goes on working for everybody else on the node, and a node that gets
//! us in place of kube-proxy should not change under them.

use std::{fs, io, path::Path};

use crate::configuration::{Duration, v1alpha1::Conntrack};

/// kube-proxy's bound for what is counted per CPU.
const MOST: i64 = 1 << 20;

const SYSCTLS: &str = "proc/sys/net/netfilter";
const HASH_SIZE: &str = "sys/module/nf_conntrack/parameters/hashsize";

/// A file of the kernel's, and the number that is to be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    file: String,
    wanted: i64,
    /// More will do as well.
    at_least: bool,
}

/// Sets what differs, below `root`, which is `/` outside of tests. Returns what could not be set, and why.
#[must_use]
pub fn set(root: &Path, conntrack: &Conntrack, cpus: i64) -> Vec<String> {
    let values = values(conntrack, cpus);
    values
        .iter()
        .filter_map(|value| value.set(root).err().map(|error| format!("{}: {error}", value.name())))
        .collect()
}

fn values(conntrack: &Conntrack, cpus: i64) -> Vec<Value> {
    let sysctl = |name: &str, wanted| Value { file: format!("{SYSCTLS}/{name}"), wanted, at_least: false };
    let mut values = Vec::new();
    if let Some(most) = most(conntrack, cpus) {
        values.push(sysctl("nf_conntrack_max", most));
        values.push(Value { file: HASH_SIZE.to_owned(), wanted: most / 4, at_least: true });
    }
    for (name, timeout) in [
        ("nf_conntrack_tcp_timeout_established", conntrack.tcp_established_timeout.unwrap_or_default()),
        ("nf_conntrack_tcp_timeout_close_wait", conntrack.tcp_close_wait_timeout.unwrap_or_default()),
        ("nf_conntrack_udp_timeout", conntrack.udp_timeout),
        ("nf_conntrack_udp_timeout_stream", conntrack.udp_stream_timeout),
    ] {
        if timeout > Duration::ZERO {
            values.push(sysctl(name, timeout.to_std().as_secs().try_into().unwrap_or(i64::MAX)));
        }
    }
    if conntrack.tcp_be_liberal {
        values.push(sysctl("nf_conntrack_tcp_be_liberal", 1));
    }
    values
}

/// How many entries there may be, unless that is to be left alone.
fn most(conntrack: &Conntrack, cpus: i64) -> Option<i64> {
    let per_cpu = conntrack.max_per_core.map(i64::from).filter(|per_cpu| *per_cpu > 0)?;
    let scaled = per_cpu.saturating_mul(cpus);
    let least = conntrack.min.map_or(0, i64::from);
    let most = if scaled > MOST { MOST } else { scaled.max(least) };
    Some(most).filter(|most| *most > 0)
}

impl Value {
    fn set(&self, root: &Path) -> io::Result<()> {
        let file = root.join(&self.file);
        let is: Option<i64> = fs::read_to_string(&file)?.trim().parse().ok();
        match is {
            Some(is) if is == self.wanted || (self.at_least && is > self.wanted) => Ok(()),
            _ => fs::write(&file, self.wanted.to_string()),
        }
    }

    fn name(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::KubeProxyConfiguration;

    fn conntrack() -> Conntrack {
        KubeProxyConfiguration::defaulted().conntrack
    }

    #[test]
    fn the_number_of_entries_is_kube_proxys() {
        let entries = |per_cpu: i32, least: i32, cpus| {
            most(&Conntrack { max_per_core: Some(per_cpu), min: Some(least), ..conntrack() }, cpus)
        };
        assert_eq!(most(&conntrack(), 2), Some(131_072));
        assert_eq!(most(&conntrack(), 8), Some(262_144));
        assert_eq!(entries(32_768, 131_072, 64), Some(1 << 20), "bounded");
        assert_eq!(entries(32_768, 2_000_000, 64), Some(1 << 20), "even if more is the least");
        assert_eq!(entries(1, 2_000_000, 4), Some(2_000_000), "unless few are counted per CPU");
        assert_eq!((entries(0, 5, 4), entries(1, 0, 0)), (None, None), "left alone");
    }

    #[test]
    fn what_differs_is_written_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let file = |path: &str| root.path().join(path);
        fs::create_dir_all(file(SYSCTLS)).unwrap();
        fs::create_dir_all(file(HASH_SIZE).parent().unwrap()).unwrap();
        let sysctl = |name: &str| file(&format!("{SYSCTLS}/{name}"));
        let names =
            ["max", "tcp_timeout_established", "tcp_timeout_close_wait", "tcp_be_liberal", "udp_timeout"];
        for name in names {
            fs::write(sysctl(&format!("nf_conntrack_{name}")), "7\n").unwrap();
        }
        fs::write(file(HASH_SIZE), "65536\n").unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let shown = || names.map(|name| read(&sysctl(&format!("nf_conntrack_{name}"))).trim().to_owned());
        assert_eq!(set(root.path(), &conntrack(), 4), Vec::<String>::new());
        assert_eq!(shown(), ["131072", "86400", "3600", "7", "7"]);
        assert_eq!(read(&file(HASH_SIZE)), "65536\n", "large enough");
        let more = Conntrack {
            max_per_core: Some(100_000),
            tcp_established_timeout: Some(Duration::ZERO),
            tcp_be_liberal: true,
            udp_timeout: Duration::from_secs(60),
            udp_stream_timeout: Duration::from_secs(180),
            ..conntrack()
        };
        let failed = set(root.path(), &more, 4);
        assert_eq!(shown(), ["400000", "86400", "3600", "1", "60"]);
        assert_eq!(read(&file(HASH_SIZE)), "100000");
        assert!(
            failed.len() == 1 && failed[0].starts_with("nf_conntrack_udp_timeout_stream: No such file"),
            "{failed:?}"
        );
    }
}
