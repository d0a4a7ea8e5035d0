//! What a process holds, according to /proc.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// What it held at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) at: Duration,
    /// Memory of its own, in KiB: neither its program nor arrays of the kernel's that it has mapped.
    pub(crate) own_kib: u64,
    /// All memory that is mapped and there, in KiB.
    pub(crate) resident_kib: u64,
    /// What the maps it holds take in the kernel, in KiB.
    pub(crate) maps_kib: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, own_kib, resident_kib, maps_kib, descriptors, threads } = self;
        write!(
            f,
            "{:5.1} s: {own_kib} KiB of its own, {resident_kib} KiB resident, {maps_kib} KiB of maps, {descriptors} \
             descriptors, {threads} threads",
            at.as_secs_f64()
        )
    }
}

/// A process to look at.
#[derive(Debug)]
pub(crate) struct Gauge {
    folder: PathBuf,
}

impl Gauge {
    pub(crate) fn of(pid: u32) -> Self {
        Self { folder: format!("/proc/{pid}").into() }
    }

    pub(crate) fn read(&self, at: Duration) -> Result<Reading> {
        let rollup = self.text("smaps_rollup")?;
        let of = |field: &str| {
            let kib = rollup.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next());
            kib.and_then(|kib| kib.parse().ok()).with_context(|| format!("no {field} in smaps_rollup"))
        };
        Ok(Reading {
            at,
            own_kib: of("Anonymous:")?,
            resident_kib: of("Rss:")?,
            maps_kib: self.maps()? / 1024,
            descriptors: fs::read_dir(self.folder.join("fd"))?.count(),
            threads: fs::read_dir(self.folder.join("task"))?.count(),
        })
    }

    /// How often each of its threads has gone to sleep by itself so far.
    pub(crate) fn sleeps(&self) -> Result<HashMap<OsString, u64>> {
        let mut sleeps = HashMap::new();
        for thread in fs::read_dir(self.folder.join("task"))? {
            let thread = thread?;
            // It may have ended by now.
            let Ok(status) = fs::read_to_string(thread.path().join("status")) else { continue };
            let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let count = count.context("no voluntary_ctxt_switches")?.trim().parse()?;
            sleeps.insert(thread.file_name(), count);
        }
        Ok(sleeps)
    }

    /// Bytes of all maps it has descriptors of.
    fn maps(&self) -> Result<u64> {
        let mut sizes = HashMap::new();
        for descriptor in fs::read_dir(self.folder.join("fdinfo"))? {
            // It may be closed by now.
            let Ok(text) = fs::read_to_string(descriptor?.path()) else { continue };
            let of =
                |field: &str| text.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok());
            if let (Some(id), Some(bytes)) = (of("map_id:"), of("memlock:")) {
                sizes.insert(id, bytes);
            }
        }
        Ok(sizes.values().sum())
    }

    fn text(&self, name: &str) -> Result<String> {
        let file = self.folder.join(name);
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }
}
