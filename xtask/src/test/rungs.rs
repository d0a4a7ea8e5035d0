//! The rungs, from the least powerful one that can fail upwards. The one table of them.

/// One rung.
#[derive(Debug)]
pub(super) struct Rung {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// What it runs.
    pub(super) how: How,
    /// Does it make namespaces, cgroups, mounts, or load BPF programs?
    pub(super) root: bool,
    /// Does it need a real kube-apiserver?
    pub(super) apiserver: bool,
    /// Does it need the image, and a runtime for containers?
    pub(super) image: bool,
    /// Does it need a real kube-proxy, and the tools of the packet filters that this calls?
    pub(super) kube_proxy: bool,
    /// Does it need a second build, of another layout?
    pub(super) later: bool,
    /// What can only fail here.
    pub(super) why: &'static str,
}

/// How a rung is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// The checks of the source itself.
    Tidy,
    /// `cargo test` with these arguments.
    Cargo(&'static [&'static str]),
    /// In machines with other kernels. Minutes, and some 150 MB from the network the first time: only when asked for by name.
    Kernels,
    /// A test target of the tests crate, with the built program.
    Target {
        /// Its name: a file below tests/tests.
        name: &'static str,
        /// One test at a time, because they measure or count what is in the machine.
        alone: bool,
    },
}

const fn target(name: &'static str, alone: bool, why: &'static str) -> Rung {
    Rung {
        name,
        how: How::Target { name, alone },
        root: true,
        apiserver: false,
        image: false,
        kube_proxy: false,
        later: false,
        why,
    }
}

pub(super) const RUNGS: &[Rung] = &[
    Rung {
        name: "tidy",
        how: How::Tidy,
        root: false,
        apiserver: false,
        image: false,
        kube_proxy: false,
        later: false,
        why: "format, lints, and that pure stages stay pure",
    },
    Rung {
        name: "unit",
        how: How::Cargo(&["-p", "proxy-common", "-p", "proxy-userspace", "-p", "xtask"]),
        root: false,
        apiserver: false,
        image: false,
        kube_proxy: false,
        later: false,
        why: "tables, golden scenarios, properties: the whole logic, without a kernel",
    },
    target("harness", false, "the testbed tells the truth and leaves nothing"),
    target(
        "kernel",
        true,
        "what the running kernel has is used, what it lacks is said, and a small cluster works",
    ),
    target("maps", false, "the kernel's maps behave as the in-memory ones"),
    target(
        "programs",
        false,
        "the programs for packets, byte by byte, next to etherparse and the decision in memory",
    ),
    target("sockets", false, "real sockets through every hook, both families"),
    target("devices", false, "programs for packets on every device they belong on, and on no other"),
    target("packets", true, "packets that no socket hook has seen, in every layout, checksums and all"),
    target("churn", true, "changes under load: no connection fails or strays"),
    target(
        "soak",
        true,
        "five thousand Services that never rest: memory, descriptors and threads stay as they are",
    ),
    target("manifests", false, "a folder of manifests, with half-written and bad files"),
    target("binary", true, "the program's life: start, kill, restart, upgrade"),
    Rung {
        later: true,
        ..target("upgrades", true, "killed, upgraded, downgraded, also to another layout: nobody notices")
    },
    target("cleanup", true, "everything of ours goes, and nothing else"),
    Rung {
        name: "apiserver",
        how: How::Target { name: "apiserver", alone: true },
        root: true,
        apiserver: true,
        image: false,
        kube_proxy: false,
        later: false,
        why: "a real kube-apiserver: watches, resumption, RBAC",
    },
    Rung {
        name: "deploy",
        how: How::Target { name: "deploy", alone: true },
        root: true,
        apiserver: true,
        image: true,
        kube_proxy: false,
        later: false,
        why: "the image and the manifests as they are shipped, rights and all",
    },
    Rung {
        name: "moving",
        how: How::Target { name: "moving", alone: true },
        root: true,
        apiserver: true,
        image: false,
        kube_proxy: true,
        later: false,
        why: "a real kube-proxy: beside it, in its place, and back; what it leaves behind",
    },
    Rung {
        name: "kernels",
        how: How::Kernels,
        root: false,
        apiserver: false,
        image: false,
        kube_proxy: false,
        later: false,
        why: "what a kernel can make fail, in Debian's kernels from 5.10 on; only when named",
    },
];
