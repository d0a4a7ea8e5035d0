//! `kubeshunt cleanup`: detaches the programs and removes the pins. Connections that exist go on: they were
//! translated when they began.

use anyhow::Result;

use crate::{datapath::pins::Pins, settings::Cleanup};

/// Removes everything below the bpffs root.
///
/// # Errors
/// When a kubeshunt is at work there, or something cannot be removed.
pub fn run(args: &Cleanup) -> Result<()> {
    let pins = Pins::new(&args.bpffs_root);
    if !pins.root().exists() {
        println!("nothing to clean up: {} does not exist", pins.root().display());
        return Ok(());
    }
    let _lock = pins.lock()?;
    let removed = pins.remove()?;
    println!("detached and removed: {removed} pins below {}", pins.root().display());
    Ok(())
}
