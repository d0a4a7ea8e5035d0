//! The programs' log.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;

/// How often it is fetched.
const PACE: Duration = Duration::from_millis(50);

/// Passes an object's log records on, by way of the `log` crate that aya-log writes to.
///
/// # Errors
/// When the object has no log.
pub(super) fn pass_on(ebpf: &mut Ebpf) -> Result<()> {
    let mut logger = aya_log::EbpfLogger::init(ebpf).context("cannot read the programs' log")?;
    tokio::spawn(async move {
        loop {
            logger.flush();
            tokio::time::sleep(PACE).await;
        }
    });
    Ok(())
}
