//! `image`: a container image without a container engine, the same bytes whoever makes it.
//!
//! One static binary, one layer, nothing else. An archive in OCI's image layout that `ctr images import`,
//! `podman load` and `docker load` take; and beside it what `deploy/Containerfile` makes the same image of.
//!
//! Invariant: the archive is a function of the source, the compilers and SOURCE_DATE_EPOCH. No clock, no path of this
//! machine, no order of a folder gets into it.

mod archive;
mod binary;
mod layer;
mod platform;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::archive::{Archive, Image};
pub(crate) use self::platform::Arch;
use crate::{setup, workspace};

/// What an image may weigh: the archive of one architecture, in bytes.
const LARGEST: usize = 25_000_000;

/// The name of the image before its tag. Nobody serves it from a registry: it is loaded into a node's store, or
/// pushed to a registry of one's own under another name.
const NAME: &str = "localhost/kubeshunt";

/// What is made.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// For these architectures; more than one makes one archive of several images
    #[arg(long, value_name = "ARCH", num_args = 1.., value_delimiter = ',', default_values_t = [Arch::of_this_machine()])]
    arch: Vec<Arch>,
    /// Where the archive goes [default: oci/kubeshunt.tar in cargo's target folder]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The name under which the archive's image is loaded
    #[arg(long, value_name = "NAME:TAG", default_value_t = tag())]
    tag: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { arch: vec![Arch::of_this_machine()], output: None, tag: tag() }
    }
}

fn tag() -> String {
    format!("{NAME}:{}", env!("CARGO_PKG_VERSION"))
}

/// Where the archive goes if nobody says otherwise.
pub(crate) fn default_output() -> Result<PathBuf> {
    Ok(workspace::target()?.join("oci/kubeshunt.tar"))
}

/// Builds the program for each architecture, and writes the archive.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run()?;
    let folder = workspace::target()?.join("oci");
    let created = archive::Timestamp::of_source()?;
    let mut images = Vec::new();
    // Sorted, so that the order of the arguments does not matter.
    for arch in options.arch.iter().copied().collect::<BTreeSet<_>>() {
        let program = binary::build(arch)?;
        let layer = layer::of(&program, created)?;
        // For deploy/Containerfile.
        let folder = folder.join(arch.to_string());
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        write(&folder.join("layer.tar"), &layer)?;
        images.push(Image::new(arch, &layer, created)?);
    }
    let path = match &options.output {
        Some(path) => path.clone(),
        None => default_output()?,
    };
    let count = images.len();
    let Archive { bytes, digest } = archive::of(&images, &options.tag, created)?;
    ensure!(
        bytes.len() <= LARGEST * count,
        "the archive has {} bytes for {count} architectures, and {LARGEST} each are allowed",
        bytes.len()
    );
    write(&path, &bytes)?;
    println!("  {}", path.display());
    println!("  {} ({:.1} MB), {digest}", options.tag, bytes.len() as f64 / 1e6);
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
