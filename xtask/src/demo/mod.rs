//! demo
use anyhow::Result;
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    keep: bool,
}
pub(crate) fn run(_: &Options) -> Result<bool> {
    Ok(true)
}
