//! Building what is run.

use anyhow::Result;

use crate::{progress, workspace};

/// Builds the program, its BPF programs inside, and the probes.
pub(crate) fn release() -> Result<()> {
    progress::quietly(
        "build kubeshunt and the probes",
        workspace::cargo().args(["build", "--release", "-p", "proxy-userspace", "-p", "kubeshunt-tests"]),
    )
}
