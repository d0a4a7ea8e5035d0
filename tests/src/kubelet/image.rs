//! A container image in an archive of OCI's layout, read without trusting what it says of itself.
//!
//! Invariant: whatever is handed out has the digest and the size under which something else in the archive names it.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Names the archive.
const VARIABLE: &str = "KUBESHUNT_IMAGE";

/// An archive, in memory.
#[derive(Debug)]
pub struct Archive {
    files: BTreeMap<String, Vec<u8>>,
    /// Of the file itself, in bytes.
    pub size: u64,
}

/// The image of one architecture.
#[derive(Debug)]
pub struct Image {
    /// `amd64` and so on.
    pub architecture: String,
    /// How it is to be run, and its labels: `config` in the specification of image configurations.
    pub config: Value,
    /// When it says that it was made.
    pub created: String,
    /// Its layers as tar archives, lowest first.
    pub layers: Vec<Vec<u8>>,
}

/// Where the archive lies: KUBESHUNT_IMAGE, else in `oci/` of the target folder the running program is in.
///
/// # Errors
/// When it has not been made.
pub fn archive() -> Result<PathBuf> {
    if let Some(path) = env::var_os(VARIABLE) {
        return Ok(path.into());
    }
    let current = env::current_exe().context("cannot tell where this program lies")?;
    let mut folders = current.ancestors().skip(2).take(3);
    folders
        .find_map(|folder| Some(folder.join("oci/kubeshunt.tar")).filter(|path| path.is_file()))
        .with_context(|| {
            format!("there is no image; run `cargo xtask image`, or let {VARIABLE} name an archive")
        })
}

/// The digest of these bytes, as descriptors have it.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Archive {
    /// Reads an archive.
    ///
    /// # Errors
    /// When it is none, or a blob is not what its name says.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let size = file.metadata()?.len();
        let mut files = BTreeMap::new();
        let mut tar = tar::Archive::new(BufReader::new(file));
        for entry in tar.entries().context("no tar archive")? {
            let mut entry = entry.context("a broken tar archive")?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path()?.display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
            if let Some(named) = name.strip_prefix("blobs/sha256/") {
                ensure!(digest(&bytes) == format!("sha256:{named}"), "{name} is something else");
            }
            ensure!(files.insert(name.clone(), bytes).is_none(), "{name} is there twice");
        }
        Ok(Self { files, size })
    }

    /// The names of all files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// A file by its name.
    ///
    /// # Errors
    /// When it is not there.
    pub fn file(&self, name: &str) -> Result<&[u8]> {
        self.files.get(name).map(Vec::as_slice).with_context(|| format!("no {name} in the archive"))
    }

    /// A file of JSON.
    ///
    /// # Errors
    /// When it is not there, or no JSON.
    pub fn json(&self, name: &str) -> Result<Value> {
        serde_json::from_slice(self.file(name)?).with_context(|| format!("{name} is no JSON"))
    }

    /// What a descriptor leads to.
    fn blob(&self, descriptor: &Value) -> Result<&[u8]> {
        let digest = descriptor["digest"].as_str().context("a descriptor without digest")?;
        let bytes = self.file(&format!("blobs/{}", digest.replace(':', "/")))?;
        let size = descriptor["size"].as_u64();
        ensure!(size == Some(bytes.len() as u64), "{digest} has {} bytes, not {size:?}", bytes.len());
        Ok(bytes)
    }

    /// All images in it.
    ///
    /// # Errors
    /// When something is missing, or contradicts something else.
    pub fn images(&self) -> Result<Vec<Image>> {
        ensure!(self.json("oci-layout")?["imageLayoutVersion"] == "1.0.0", "an unknown layout");
        let mut images = Vec::new();
        self.walk(&self.json("index.json")?, &mut images)?;
        Ok(images)
    }

    fn walk(&self, index: &Value, images: &mut Vec<Image>) -> Result<()> {
        for descriptor in index["manifests"].as_array().context("an index of nothing")? {
            let content: Value = serde_json::from_slice(self.blob(descriptor)?)?;
            ensure!(content["mediaType"] == descriptor["mediaType"], "a descriptor of another type");
            match descriptor["mediaType"].as_str() {
                Some("application/vnd.oci.image.index.v1+json") => self.walk(&content, images)?,
                Some("application/vnd.oci.image.manifest.v1+json") => images.push(self.image(&content)?),
                other => bail!("an index of {other:?}"),
            }
        }
        Ok(())
    }

    fn image(&self, manifest: &Value) -> Result<Image> {
        let config: Value = serde_json::from_slice(self.blob(&manifest["config"])?)?;
        let text =
            |field: &str| config[field].as_str().map(str::to_owned).with_context(|| format!("no {field}"));
        let wanted = config["rootfs"]["diff_ids"].as_array().context("no list of layers")?;
        let layers = manifest["layers"].as_array().context("no layers")?;
        ensure!(
            layers.len() == wanted.len(),
            "{} layers, and {} in the configuration",
            layers.len(),
            wanted.len()
        );
        let layers = layers.iter().zip(wanted).map(|(layer, wanted)| {
            let mut tar = Vec::new();
            flate2::read::GzDecoder::new(self.blob(layer)?)
                .read_to_end(&mut tar)
                .context("a layer is no gzip")?;
            ensure!(wanted.as_str() == Some(&digest(&tar)), "a layer is not what the configuration says");
            Ok(tar)
        });
        Ok(Image {
            architecture: text("architecture")?,
            created: text("created")?,
            layers: layers.collect::<Result<_>>()?,
            config: config["config"].clone(),
        })
    }
}

impl Image {
    /// The image in an archive for the machine this runs on.
    ///
    /// # Errors
    /// When there is none.
    pub fn of_this_machine(archive: &Archive) -> Result<Self> {
        let wanted = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let mut images = archive.images()?.into_iter();
        images.find(|image| image.architecture == wanted).with_context(|| format!("no image for {wanted}"))
    }

    /// Writes its file system into a new folder.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn unpack(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for layer in &self.layers {
            let mut tar = tar::Archive::new(layer.as_slice());
            tar.set_preserve_permissions(true);
            tar.unpack(folder).with_context(|| format!("cannot unpack into {}", folder.display()))?;
        }
        Ok(())
    }
}
