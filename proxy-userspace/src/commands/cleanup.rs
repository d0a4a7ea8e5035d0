//! `kubeshunt cleanup`: detaches the programs and removes the pins. Connections that exist go on: they were
//! translated when they began.

use anyhow::{Context as _, Result};

use crate::{
    datapath::{devices, pins::Pins},
    settings::Cleanup,
};

/// Removes everything below the bpffs root, and our filters from the devices of this network namespace.
///
/// # Errors
/// When a kubeshunt is at work there, or something cannot be removed.
pub fn run(args: &Cleanup) -> Result<()> {
    let pins = Pins::new(&args.bpffs_root);
    let exists = pins.root().exists();
    let _lock = if exists { Some(pins.lock()?) } else { None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let filters = runtime.context("cannot start the runtime")?.block_on(devices::remove_filters())?;
    if filters > 0 {
        println!("detached and removed: {filters} filters from devices");
    }
    if exists {
        let removed = pins.remove()?;
        println!("detached and removed: {removed} pins below {}", pins.root().display());
    } else if filters == 0 {
        println!("nothing to clean up: {} does not exist", pins.root().display());
    }
    Ok(())
}
