//! What each version of the kernel is expected to have. The one place that knows versions: kubeshunt itself finds out by
//! trying, and this says whether it has found out right.

use std::fs;

use anyhow::{Context, Result};

/// What the programs can make use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// `bpf_set_retval` at the socket hooks (6.1): connections are refused there, and not on the wire only.
    pub(crate) refuses_at_sockets: bool,
    /// tcx (6.6): links instead of filters of a clsact qdisc.
    pub(crate) has_tcx: bool,
    /// `SO_NETNS_COOKIE` (5.14): the host's network namespace may be another than the initial one.
    pub(crate) tells_namespaces: bool,
}

/// That of the running kernel.
pub(crate) fn expected() -> Result<Expected> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    let version = version(&release).with_context(|| format!("no version of a kernel: {release}"))?;
    Ok(of(version))
}

fn of(version: (u32, u32)) -> Expected {
    Expected {
        refuses_at_sockets: version >= (6, 1),
        has_tcx: version >= (6, 6),
        tells_namespaces: version >= (5, 14),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.trim().split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[test]
fn releases_are_read() {
    assert_eq!(version("5.10.0-46-cloud-amd64\n"), Some((5, 10)));
    assert_eq!(version("7.2.13+deb14-cloud-amd64"), Some((7, 2)));
    assert_eq!(version("none"), None);
}
