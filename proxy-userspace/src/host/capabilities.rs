//! What the kernel lets this process do.

use anyhow::{Context as _, Result};
use tracing::warn;

/// What kubeshunt wants, by name and number (include/uapi/linux/capability.h), and what for.
const WANTED: [(&str, u32, &str); 3] = [
    ("CAP_BPF", 39, "maps and programs"),
    ("CAP_NET_ADMIN", 12, "programs on devices and cgroups, and waking sockets"),
    ("CAP_PERFMON", 38, "programs that read kernel memory"),
];
const CAP_SYS_ADMIN: u32 = 21;

/// Names what is missing, where CAP_SYS_ADMIN hides it: the kernel takes that one for most others, so that all seems
/// well until somebody takes it away as well. Without it, what is missing fails by itself, and says so.
pub fn announce() {
    let known = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap");
    let known = known.ok().and_then(|text| text.trim().parse().ok());
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    let Ok(effective) = effective(&status) else { return };
    for (name, purpose) in hidden(effective, known.unwrap_or(u32::MAX)) {
        warn!("{name} is not granted ({purpose}); going by CAP_SYS_ADMIN, which the kernel takes for it");
    }
}

/// The effective capabilities in the text of /proc/PID/status.
fn effective(status: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no CapEff")?;
    u64::from_str_radix(line.trim(), 16).context("CapEff is no number")
}

/// What is missing among what a kernel knows up to capability `known`, while CAP_SYS_ADMIN is there.
fn hidden(effective: u64, known: u32) -> impl Iterator<Item = (&'static str, &'static str)> {
    let has = move |number: u32| effective >> number & 1 == 1;
    let missing = move |number: u32| has(CAP_SYS_ADMIN) && number <= known && !has(number);
    WANTED
        .into_iter()
        .filter(move |(_, number, _)| missing(*number))
        .map(|(name, _, purpose)| (name, purpose))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(effective: u64, known: u32) -> Vec<&'static str> {
        hidden(effective, known).map(|(name, _)| name).collect()
    }

    #[test]
    fn only_what_sys_admin_hides_is_named() {
        let (bpf, net_admin, perfmon, sys_admin) = (1 << 39, 1 << 12, 1 << 38, 1 << 21);
        assert!(names(bpf | net_admin | perfmon | sys_admin, 40).is_empty());
        assert_eq!(names(net_admin | perfmon | sys_admin, 40), ["CAP_BPF"]);
        assert_eq!(names(sys_admin, 40), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        assert!(names(net_admin, 40).is_empty(), "without it what is missing fails by itself");
        // Linux 5.7 has neither CAP_PERFMON nor CAP_BPF.
        assert_eq!(names(sys_admin, 37), ["CAP_NET_ADMIN"]);
    }

    #[test]
    fn the_kernels_text_is_read() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000000c000001000\n";
        assert_eq!(effective(status).ok(), Some(0xc0_0000_1000));
        assert!(effective("Name:\tx\n").is_err());
    }
}
