//! Anonymous network namespaces.
//!
//! Invariant: a namespace has no name and no mount. File descriptors and the processes inside keep
//! it alive, nothing else, so the kernel frees it whatever happens to the harness.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns, unshare};

use crate::link;

/// A network namespace, kept alive by a descriptor. Clones are the same namespace.
#[derive(Clone, Debug)]
pub struct NetNs {
    fd: Arc<OwnedFd>,
}

impl NetNs {
    /// A new namespace with `lo` up, duplicate address detection off (it would delay every IPv6 address by a
    /// second, on links where nobody else can have it), and ICMP errors not limited to one a second per
    /// destination (tests ask more often).
    ///
    /// # Errors
    /// When not root, or the kernel refuses.
    pub fn new() -> Result<Self> {
        // Of all threads only this one changes its namespace, and it ends right afterwards.
        let made = thread::spawn(|| -> Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("cannot make a network namespace: unshare(CLONE_NEWNET); run as root")?;
            let file =
                File::open("/proc/thread-self/ns/net").context("cannot open /proc/thread-self/ns/net")?;
            Ok(file.into())
        });
        let fd = made.join().expect("the namespace thread does not panic")?;
        let netns = Self { fd: Arc::new(fd) };
        netns.run(|| -> Result<()> {
            for scope in ["all", "default"] {
                write_sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            }
            write_sysctl("net/ipv4/icmp_ratelimit", "0")?;
            write_sysctl("net/ipv6/icmp/ratelimit", "0")
        })?;
        netns.links(async |links| links.up("lo").await)?;
        Ok(netns)
    }

    /// The namespace this thread is in.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn own() -> Result<Self> {
        let path = "/proc/thread-self/ns/net";
        let file = File::open(path).with_context(|| format!("cannot open {path}"))?;
        Ok(Self { fd: Arc::new(file.into()) })
    }

    /// Runs `work` on a thread that has entered this namespace. Sockets made there belong to it for
    /// good, whichever thread uses them later.
    ///
    /// # Panics
    /// When `work` panics, or the namespace cannot be entered although its descriptor is open.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.fd.as_fd(), CloneFlags::CLONE_NEWNET)
                    .expect("entering a network namespace by descriptor only needs root");
                work()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs `work` with a netlink connection of this namespace.
    ///
    /// # Errors
    /// When netlink cannot be opened, or `work` fails.
    pub fn links<T: Send>(&self, work: impl AsyncFnOnce(link::Links) -> Result<T> + Send) -> Result<T> {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
                let pump = tokio::spawn(connection);
                let result = work(link::Links::new(handle)).await;
                pump.abort();
                result
            })
        })
    }

    /// Sets a value under /proc/sys, such as `net/ipv4/ip_forward`, in this namespace.
    ///
    /// # Errors
    /// When the file is missing or refuses the value.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.run(|| write_sysctl(path, value))
    }

    /// The inode of the namespace, as `ls -i /proc/PID/ns/net` shows it.
    ///
    /// # Errors
    /// When the descriptor cannot be examined.
    pub fn inode(&self) -> Result<u64> {
        Ok(nix::sys::stat::fstat(self.fd.as_fd()).context("fstat of a network namespace")?.st_ino)
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// /proc/sys/net shows the namespace of the calling thread, not of the process.
fn write_sysctl(path: &str, value: &str) -> Result<()> {
    let file = format!("/proc/sys/{path}");
    fs::write(&file, value).with_context(|| format!("cannot write {value:?} to {file}"))
}
