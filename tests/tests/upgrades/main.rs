//! From one build to another and back, and killed in between: nobody notices.
//!
//! The other build has other programs, and longer values in two maps: its feature `later-layout`.

mod load;
mod traffic;
mod writes;

use std::path::PathBuf;

use anyhow::Result;
use kubeshunt_tests::{process, proxy};

/// The two builds.
#[derive(Debug)]
struct Builds {
    now: PathBuf,
    later: PathBuf,
}

impl Builds {
    fn new() -> Result<Self> {
        let later = process::find_program(
            "later/kubeshunt",
            "KUBESHUNT_LATER_BIN",
            "proxy-userspace --features later-layout",
        )?;
        Ok(Self { now: proxy::program()?, later })
    }
}

/// A seed, which is told, or that of `KUBESHUNT_SEED`.
fn seed() -> u64 {
    let given = std::env::var("KUBESHUNT_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("KUBESHUNT_SEED={seed}");
    seed
}
