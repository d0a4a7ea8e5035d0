//! `kubeshunt check`: what this machine offers; a verdict and, where needed, a remedy per line.

use std::{fs::File, path::Path};

use anyhow::Result;
use comfy_table::{Cell, Color};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use proxy_common::layout::program;
use serde::Serialize;

use super::{render, table};
use crate::{
    datapath::{
        attachments, devices, kernel,
        pins::{Pins, cgroup_id},
        programs, sockets,
    },
    host::leftovers::{self, running},
    settings::{Check, Output, Place},
};

/// How it stands with one requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    /// Works, with less.
    Limited,
    /// Does not work.
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    subject: &'static str,
    verdict: Verdict,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn good(subject: &'static str, detail: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Good, detail: detail.into(), remedy: None }
    }

    fn but(
        subject: &'static str,
        verdict: Verdict,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { subject, verdict, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

/// Prints the findings; `false` when something does not work.
///
/// # Errors
/// When the answer cannot be written.
pub fn run(args: &Check) -> Result<bool> {
    let findings = findings(&args.place);
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
        Output::Table => println!("{}", as_table(&findings)),
    }
    Ok(findings.iter().all(|finding| finding.verdict != Verdict::Bad))
}

fn as_table(findings: &[Finding]) -> String {
    let mut rows = table(&["", "SUBJECT", "FOUND"]);
    for finding in findings {
        let (mark, colour) = match finding.verdict {
            Verdict::Good => ("ok", Color::Green),
            Verdict::Limited => ("limited", Color::Yellow),
            Verdict::Bad => ("missing", Color::Red),
        };
        rows.add_row([Cell::new(mark).fg(colour), Cell::new(finding.subject), Cell::new(&finding.detail)]);
        if let Some(remedy) = &finding.remedy {
            rows.add_row([Cell::new(""), Cell::new(""), Cell::new(format!("→ {remedy}"))]);
        }
    }
    render(&rows)
}

fn findings(place: &Place) -> Vec<Finding> {
    let mut findings = vec![rights(), bpffs(&place.bpffs_root)];
    let cgroup = place.cgroup_root();
    match &cgroup {
        Ok(folder) => match cgroup_id(folder) {
            Ok(_) => findings.push(Finding::good("cgroup v2", folder.display().to_string())),
            Err(error) => {
                findings.push(Finding::but(
                    "cgroup v2",
                    Verdict::Bad,
                    error.to_string(),
                    "name a cgroup v2 folder",
                ));
            }
        },
        Err(error) => findings.push(Finding::but(
            "cgroup v2",
            Verdict::Bad,
            error.to_string(),
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
        )),
    }
    findings.extend(socket_hooks());
    findings.push(packets());
    findings.push(removed_endpoints());
    if let Ok(folder) = cgroup {
        findings.extend(hooks(&folder, &place.bpffs_root));
    }
    findings.push(kube_proxy());
    findings
}

/// Capability numbers of `include/uapi/linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

fn rights() -> Finding {
    const SUBJECT: &str = "capabilities";
    let effective = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    });
    let Some(effective) = effective else {
        return Finding::but(SUBJECT, Verdict::Limited, "/proc/self/status cannot be read", "mount /proc");
    };
    let has = |capability: u32| effective & 1 << capability != 0;
    let missing: Vec<&str> = [
        (has(CAP_BPF) || has(CAP_SYS_ADMIN), "CAP_BPF"),
        (has(CAP_NET_ADMIN) || has(CAP_SYS_ADMIN), "CAP_NET_ADMIN"),
        (has(CAP_PERFMON) || has(CAP_SYS_ADMIN), "CAP_PERFMON"),
    ]
    .into_iter()
    .filter_map(|(has, name)| (!has).then_some(name))
    .collect();
    if missing.is_empty() {
        return Finding::good(SUBJECT, "enough to load and attach programs");
    }
    Finding::but(
        SUBJECT,
        Verdict::Bad,
        format!("{} missing", missing.join(" and ")),
        "run as root, or grant them",
    )
}

fn bpffs(root: &Path) -> Finding {
    const SUBJECT: &str = "bpffs";
    let folder = if root.exists() { root } else { root.parent().unwrap_or(root) };
    if statfs(folder).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC) {
        return Finding::good(SUBJECT, root.display().to_string());
    }
    Finding::but(
        SUBJECT,
        Verdict::Bad,
        format!("{} is on none", root.display()),
        "mount -t bpf bpf /sys/fs/bpf",
    )
}

/// Tries by loading, which is the only way to know.
fn socket_hooks() -> Vec<Finding> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match programs::probe() {
        Ok(probe) => {
            let mut findings = vec![Finding::good("kernel", format!("{release}: all programs load"))];
            findings.push(if probe.can_set_errno {
                Finding::good("refusal", "ECONNREFUSED from connect() and sendto()")
            } else {
                Finding::but(
                    "refusal",
                    Verdict::Limited,
                    "connections to Services without endpoints time out",
                    "Linux 6.1 or later refuses them at once",
                )
            });
            findings.push(if probe.knows_namespace {
                Finding::good(
                    "localhost NodePorts",
                    "the host's network namespace is told from pods' by its cookie",
                )
            } else {
                Finding::but(
                    "localhost NodePorts",
                    Verdict::Limited,
                    "only the initial network namespace counts as the host's",
                    "Linux 5.14 or later tells them apart",
                )
            });
            findings
        }
        Err(error) => vec![Finding::but(
            "kernel",
            Verdict::Bad,
            format!("{release}: {error:#}"),
            "Linux 5.10 or later with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_DEBUG_INFO_BTF",
        )],
    }
}

/// The packet path: its programs, and how they are attached to devices.
fn packets() -> Finding {
    const SUBJECT: &str = "packet path";
    match devices::probe().and_then(|()| Ok(kernel::has_tcx()?)) {
        Ok(true) => Finding::good(SUBJECT, "programs load, and attach to devices by tcx"),
        Ok(false) => Finding::but(
            SUBJECT,
            Verdict::Limited,
            "programs load, and attach to devices by filters of a clsact qdisc",
            "Linux 6.6 or later has tcx, whose links nobody removes by accident",
        ),
        Err(error) => Finding::but(
            SUBJECT,
            Verdict::Limited,
            format!("{error:#}"),
            "CONFIG_NET_CLS_ACT; `kubeshunt run --packet-path=off` does without",
        ),
    }
}

/// Whether connected UDP sockets are told that their endpoint is gone.
fn removed_endpoints() -> Finding {
    const SUBJECT: &str = "removed endpoints";
    match sockets::probe() {
        Ok(lacks) if lacks.is_empty() => {
            Finding::good(SUBJECT, "connected UDP sockets are woken, in all network namespaces")
        }
        Ok(lacks) => {
            let lacks: Vec<_> = lacks.iter().map(ToString::to_string).collect();
            Finding::but(
                SUBJECT,
                Verdict::Limited,
                "some connected UDP sockets keep sending to endpoints that are gone",
                lacks.join("; "),
            )
        }
        Err(error) => Finding::but(
            SUBJECT,
            Verdict::Limited,
            "connected UDP sockets keep sending to endpoints that are gone",
            format!("{error:#}"),
        ),
    }
}

/// Who else is attached where we attach, and whether we are.
fn hooks(cgroup: &Path, bpffs_root: &Path) -> Vec<Finding> {
    let Ok(folder) = File::open(cgroup) else { return Vec::new() };
    let pins = Pins::new(bpffs_root);
    let own = attachments::own(&pins);
    let mut findings = vec![if own.len() == program::ALL.len() {
        Finding::good("kubeshunt", format!("attached to all {} hooks", own.len()))
    } else if own.is_empty() {
        Finding::good("kubeshunt", "not attached; `kubeshunt run` attaches it")
    } else {
        Finding::but(
            "kubeshunt",
            Verdict::Limited,
            format!("attached to {} of {} hooks", own.len(), program::ALL.len()),
            "start `kubeshunt run`, which attaches the rest",
        )
    }];
    match attachments::on(&folder) {
        Ok(all) => {
            let others: Vec<String> = all
                .into_iter()
                .filter(|found| !own.contains(&found.program))
                .map(|found| format!("{} ({})", found.name, found.hook))
                .collect();
            findings.push(if others.is_empty() {
                Finding::good("other programs", "none on these hooks")
            } else {
                Finding::but(
                    "other programs",
                    Verdict::Limited,
                    others.join(", "),
                    "they run beside kubeshunt; make sure that they do not translate Services too",
                )
            });
        }
        Err(error) => findings.push(Finding::but(
            "other programs",
            Verdict::Limited,
            format!("cannot be listed: {error:#}"),
            "needs CAP_NET_ADMIN, and CAP_SYS_ADMIN for names",
        )),
    }
    findings
}

/// kube-proxy, at work or gone: both serve Services beside ours.
fn kube_proxy() -> Finding {
    const SUBJECT: &str = "kube-proxy";
    let found = match leftovers::find() {
        Ok(found) => found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "),
        Err(error) => {
            return Finding::but(SUBJECT, Verdict::Limited, format!("{error:#}"), "run as root");
        }
    };
    match running::sign() {
        Some(sign) => Finding::but(
            SUBJECT,
            Verdict::Limited,
            format!("at work: {sign}{}{found}", if found.is_empty() { "" } else { " | " }),
            "once kubeshunt serves here, kube-proxy can go; see docs/migrate.md",
        ),
        None if found.is_empty() => Finding::good(SUBJECT, "none at work, and none has left anything"),
        None => Finding::but(
            SUBJECT,
            Verdict::Limited,
            format!("none at work, but one has left: {found}"),
            "`kubeshunt cleanup --kube-proxy` removes it",
        ),
    }
}
