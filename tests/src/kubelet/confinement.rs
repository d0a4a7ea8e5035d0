//! What a container's `securityContext` comes to: capabilities, system calls, what of /proc it sees.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::fields;

/// The default profile of container engines as a table; see `seccomp.json`, which is moby/profiles v0.2.3's
/// `seccomp/default.json` (Apache-2.0), less its blanks. containerd has the same in code
/// (contrib/seccomp/seccomp_default.go): in both, bpf() is for who has CAP_BPF or CAP_SYS_ADMIN.
const SECCOMP: &str = include_str!("seccomp.json");

/// What a container has unless something else is said (containerd, oci/spec.go, `defaultUnixCaps`).
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability, by number.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Hidden from who is not privileged (containerd, oci/spec.go).
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
];

/// Not to be written by who is not privileged (the same).
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a container may do.
#[derive(Debug)]
pub(super) struct Confinement {
    pub(super) privileged: bool,
    pub(super) read_only_root: bool,
    pub(super) no_new_privileges: bool,
    /// As runtimes name them.
    pub(super) capabilities: BTreeSet<String>,
    /// `None`: any system call.
    pub(super) seccomp: Option<Value>,
}

impl Confinement {
    /// Of a container's `securityContext`; an absent one gives the defaults of container engines.
    pub(super) fn of(context: &Value) -> Result<Self> {
        fields(
            context,
            "securityContext",
            &[
                "privileged",
                "allowPrivilegeEscalation",
                "readOnlyRootFilesystem",
                "capabilities",
                "seccompProfile",
                // This machine has neither.
                "appArmorProfile",
                "seLinuxOptions",
            ],
        )?;
        let is = |field: &str| context[field] == Value::Bool(true);
        let privileged = is("privileged");
        let capabilities = if privileged { possible()? } else { granted(&context["capabilities"])? };
        let seccomp = match context["seccompProfile"]["type"].as_str() {
            // The kubelet's `seccompDefault` is off unless somebody turns it on.
            _ if privileged => None,
            None | Some("Unconfined") => None,
            Some("RuntimeDefault") => Some(filter(&capabilities)?),
            Some(other) => bail!("a seccompProfile of type {other}"),
        };
        Ok(Self {
            privileged,
            read_only_root: is("readOnlyRootFilesystem"),
            no_new_privileges: context["allowPrivilegeEscalation"] == Value::Bool(false),
            capabilities,
            seccomp,
        })
    }

    pub(super) const fn masked(&self) -> &'static [&'static str] {
        if self.privileged { &[] } else { &MASKED }
    }

    pub(super) const fn read_only(&self) -> &'static [&'static str] {
        if self.privileged { &[] } else { &READ_ONLY }
    }
}

/// All that we have ourselves: nobody can give more, and privileged containers get no less (containerd,
/// `WithAllCurrentCapabilities`).
fn possible() -> Result<BTreeSet<String>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let set = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).context("no CapBnd")?;
    let set = u64::from_str_radix(set, 16).context("CapBnd is no number")?;
    Ok(ALL
        .iter()
        .enumerate()
        .filter(|(number, _)| set >> number & 1 == 1)
        .map(|(_, name)| named(name))
        .collect())
}

fn named(capability: &str) -> String {
    format!("CAP_{capability}")
}

fn granted(capabilities: &Value) -> Result<BTreeSet<String>> {
    let list = |field: &str| -> Vec<&str> {
        capabilities[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let (added, dropped) = (list("add"), list("drop"));
    for capability in added.iter().chain(&dropped).filter(|capability| **capability != "ALL") {
        ensure!(ALL.contains(capability), "{capability} is no capability");
    }
    let base = DEFAULT.iter().filter(|capability| !dropped.contains(&"ALL") && !dropped.contains(capability));
    let all = ALL.iter().filter(|_| added.contains(&"ALL"));
    Ok(base
        .chain(all)
        .chain(&added)
        .map(|capability| named(capability))
        .filter(|name| name != "CAP_ALL")
        .collect())
}

/// The default profile for who has these capabilities, in the form of the runtime specification.
fn filter(capabilities: &BTreeSet<String>) -> Result<Value> {
    let profile: Value = serde_json::from_str(SECCOMP).context("seccomp.json")?;
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let any = |list: &Value, holds: &dyn Fn(&str) -> bool| {
        list.as_array().is_some_and(|list| list.iter().filter_map(Value::as_str).any(holds))
    };
    let rules = profile["syscalls"].as_array().context("no rules")?.iter().filter(|rule| {
        let (only, but) = (&rule["includes"], &rule["excludes"]);
        let owned = |list: &Value| any(list, &|name| capabilities.contains(name));
        let here = |list: &Value| any(list, &|name| name == arch);
        (only["caps"].is_null() || owned(&only["caps"]))
            && (only["arches"].is_null() || here(&only["arches"]))
            && !owned(&but["caps"])
            && !here(&but["arches"])
    });
    let rules: Vec<_> = rules
        .map(|rule| {
            let mut rule = rule.clone();
            if let Some(rule) = rule.as_object_mut() {
                rule.retain(|field, _| ["names", "action", "errnoRet", "args"].contains(&field.as_str()));
            }
            rule
        })
        .collect();
    Ok(json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [if arch == "arm64" { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" }],
        "syscalls": rules,
    }))
}
