//! The first process of a virtual machine that `cargo xtask kernels` boots: makes it a machine, runs what is to be run, says
//! how it ended, and switches it off.
//!
//! The initramfs holds `/guest/modules`, a kernel module per line in the order in which they are loaded, and
//! `/guest/commands`, a command with its arguments per line. What is said to the host stands in lines of their own that
//! begin with [`MARK`].

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use kubeshunt_tests::netns::NetNs;
use nix::mount::{MsFlags, mount};

/// Begins what the host reads.
const MARK: &str = "kubeshunt-guest:";

/// What is mounted, where.
const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
];

fn main() {
    let result = make_machine().and_then(|()| run_all());
    match result {
        Ok(()) => println!("\n{MARK} end"),
        Err(error) => println!("\n{MARK} broken {}", format!("{error:#}").replace('\n', " ")),
    }
    // The first process may not end; without this the kernel would panic, which the host takes for an end as well.
    // SAFETY: a plain system call; nothing on this machine outlives it anyway.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_POWER_OFF) };
}

fn make_machine() -> Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place).with_context(|| format!("cannot make {place}"))?;
        let nothing = None::<&str>;
        mount(Some(kind), place, Some(kind), MsFlags::empty(), nothing)
            .with_context(|| format!("cannot mount {kind} on {place}"))?;
    }
    let modules = fs::read_to_string("/guest/modules").context("cannot read the list of modules")?;
    modules.lines().try_for_each(load)?;
    NetNs::own()?.links(async |links| links.up("lo").await).context("cannot set lo up")
}

fn load(module: &str) -> Result<()> {
    let path = Path::new("/guest").join(module);
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let nothing = CString::default();
    // SAFETY: a descriptor and a C string that live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), nothing.as_ptr(), 0) };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        return Err(error).with_context(|| format!("cannot load the module {module}"));
    }
    Ok(())
}

fn run_all() -> Result<()> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    println!("\n{MARK} release {}", release.trim());
    let commands = fs::read_to_string("/guest/commands").context("cannot read the list of commands")?;
    for command in commands.lines() {
        println!("\n{MARK} begin {command}");
        let mut words = command.split(' ');
        let program = words.next().context("an empty command")?;
        let status = Command::new(program)
            .args(words)
            .env("KUBESHUNT_BIN", "/bin/kubeshunt")
            .env("KUBESHUNT_PROBE", "/bin/kubeshunt-probe")
            .env("KUBESHUNT_TEST_PATIENCE", "20")
            .env("RUST_BACKTRACE", "0")
            .env("PATH", "/bin")
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("cannot run {program}"))?;
        println!("\n{MARK} done {}", if status.success() { "well" } else { "badly" });
    }
    Ok(())
}
