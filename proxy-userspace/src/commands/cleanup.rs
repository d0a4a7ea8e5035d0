//! `kubeshunt cleanup`: detaches the programs and removes the pins; or removes what kube-proxy has left. Connections
//! that sockets have made go on: they were translated when they began.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{render, table};
use crate::{
    datapath::{devices, pins::Pins},
    host::leftovers::{self, Leftover, running},
    settings::{Cleanup, Output, Removal},
};

/// Removes everything below the bpffs root, and our filters from the devices of this network namespace; or instead what
/// kube-proxy has left in it.
///
/// # Errors
/// When a kubeshunt, or a kube-proxy, is at work there, or something cannot be removed.
pub fn run(args: &Cleanup) -> Result<()> {
    if args.leftovers.kube_proxy {
        return kube_proxy(args.leftovers);
    }
    pins(&args.bpffs_root)
}

/// Removes everything below the bpffs root, and our filters from the devices of this network namespace.
///
/// # Errors
/// When a kubeshunt is at work there, or something cannot be removed.
pub fn pins(bpffs_root: &Path) -> Result<()> {
    let pins = Pins::new(bpffs_root);
    let exists = pins.root().exists();
    let _lock = if exists { Some(pins.lock()?) } else { None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let filters = runtime.context("cannot start the runtime")?.block_on(devices::remove_filters())?;
    if filters > 0 {
        println!("detached and removed: {filters} filters from devices");
    }
    if leftovers::remove_keeper()? {
        println!("removed: the chains that have kept kube-proxy's connections alive");
    }
    if exists {
        let removed = pins.remove()?;
        println!("detached and removed: {removed} pins below {}", pins.root().display());
    } else if filters == 0 {
        println!("nothing to clean up: {} does not exist", pins.root().display());
    }
    Ok(())
}

/// Removes what kube-proxy has left in this network namespace, and prints what that was.
///
/// # Errors
/// When a kube-proxy is at work there, or may be, unless forced; when the kernel refuses.
pub fn kube_proxy(args: Removal) -> Result<()> {
    if let Some(sign) = running::sign()
        && !args.force
    {
        bail!(
            "a kube-proxy is at work here: {sign}; nothing was removed, for it would bring everything back. Stop it \
             first (kubectl -n kube-system delete daemonset kube-proxy), or add --force"
        );
    }
    if !args.force && !running::can_tell() {
        bail!(
            "whether a kube-proxy is at work cannot be seen from this container, whose kubeshunt has the port where it \
             would answer; nothing was removed. Once you have seen that none runs on this node, add --force"
        );
    }
    let found = leftovers::find()?;
    leftovers::remove(&found)?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&found)?),
        Output::Table if found.is_empty() => {
            println!("nothing to clean up: kube-proxy has left nothing here")
        }
        Output::Table => println!("{}", as_table(&found)),
    }
    Ok(())
}

fn as_table(removed: &[Leftover]) -> String {
    let mut rows = table(&["REMOVED", "WHERE", "WHICH"]);
    for leftover in removed {
        rows.add_row([leftover.kind().to_owned(), leftover.place(), leftover.summary()]);
    }
    render(&rows)
}
