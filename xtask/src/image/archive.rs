//! An image archive in OCI's layout (image-spec v1.1, image-layout.md), as bytes.
//!
//! One architecture is one manifest in `index.json`; several are an index of manifests, and `index.json` names that.
//! `manifest.json` is Docker's own list of what is inside, for engines that do not know the layout.

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::io::Write as _;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use oci_spec::image::{
    ConfigBuilder, Descriptor, DescriptorBuilder, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder, Sha256Digest,
};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::layer::{self, PROGRAM};
use super::platform::Arch;

/// The labels of an image, which `deploy/Containerfile` gives as well.
pub(super) const LABELS: [(&str, &str); 6] = [
    ("org.opencontainers.image.description", "Kubernetes Services by eBPF, in place of kube-proxy"),
    ("org.opencontainers.image.documentation", concat!(env!("CARGO_PKG_REPOSITORY"), "/tree/main/deploy")),
    ("org.opencontainers.image.licenses", env!("CARGO_PKG_LICENSE")),
    ("org.opencontainers.image.source", env!("CARGO_PKG_REPOSITORY")),
    ("org.opencontainers.image.title", "kubeshunt"),
    ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
];

/// When everything in an image was made, officially: seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timestamp(i64);

impl Timestamp {
    /// The beginning of 1970.
    pub(super) const EPOCH: Self = Self(0);

    /// What SOURCE_DATE_EPOCH says, <https://reproducible-builds.org/specs/source-date-epoch/>; else [`Self::EPOCH`].
    pub(super) fn of_source() -> Result<Self> {
        let Some(text) = env::var_os("SOURCE_DATE_EPOCH") else { return Ok(Self::EPOCH) };
        let seconds = text.to_str().and_then(|text| text.parse::<u32>().ok());
        let seconds =
            seconds.with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, no number of seconds"))?;
        Ok(Self(seconds.into()))
    }

    pub(super) const fn seconds(self) -> u64 {
        self.0.cast_unsigned()
    }

    /// In the form of RFC 3339.
    fn text(self) -> Result<String> {
        Ok(jiff::Timestamp::from_second(self.0).context("SOURCE_DATE_EPOCH")?.to_string())
    }
}

/// A finished archive.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) bytes: Vec<u8>,
    /// Of the image, or of the index of images: what a registry would know it by.
    pub(super) digest: String,
}

/// The image of one architecture.
#[derive(Debug)]
pub(super) struct Image {
    arch: Arch,
    manifest: Blob,
    config: Blob,
    layer: Blob,
}

/// Content that is known by its digest.
#[derive(Clone, Debug)]
struct Blob {
    bytes: Vec<u8>,
    kind: MediaType,
    digest: String,
}

impl Blob {
    fn new(kind: MediaType, bytes: Vec<u8>) -> Self {
        let digest = hex(&bytes);
        Self { bytes, kind, digest }
    }

    fn json(kind: MediaType, value: &impl Serialize) -> Result<Self> {
        // By way of a value, whose maps are sorted: those of the specification's types are hash maps.
        let value = serde_json::to_value(value).context("a description is no JSON")?;
        Ok(Self::new(kind, serde_json::to_vec(&value).context("a description is no JSON")?))
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn describe(&self) -> Result<DescriptorBuilder> {
        let digest: Sha256Digest = self.digest.parse().context("a digest")?;
        Ok(DescriptorBuilder::default()
            .media_type(self.kind.clone())
            .size(self.bytes.len() as u64)
            .digest(digest))
    }

    fn descriptor(&self) -> Result<Descriptor> {
        self.describe()?.build().context("a descriptor")
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Image {
    /// An image of one layer.
    pub(super) fn new(arch: Arch, layer: &[u8], created: Timestamp) -> Result<Self> {
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
        gzip.write_all(layer).context("cannot compress the layer")?;
        let compressed = gzip.finish().context("cannot compress the layer")?;

        let labels: HashMap<_, _> =
            LABELS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config = ConfigBuilder::default()
            .entrypoint(vec![format!("/{PROGRAM}")])
            .env(vec!["PATH=/usr/local/bin".to_owned()])
            .working_dir("/")
            .labels(labels)
            .build()?;
        let root = RootFsBuilder::default()
            .typ("layers")
            .diff_ids(vec![format!("sha256:{}", hex(layer))])
            .build()?;
        let config = ImageConfigurationBuilder::default()
            .created(created.text()?)
            .architecture(arch.to_string().as_str())
            .os(Os::Linux)
            .config(config)
            .rootfs(root)
            .history(Vec::new())
            .build()?;
        let config = Blob::json(MediaType::ImageConfig, &config)?;
        let layer = Blob::new(MediaType::ImageLayerGzip, compressed);
        let manifest = ImageManifestBuilder::default()
            .schema_version(2_u32)
            .media_type(MediaType::ImageManifest)
            .config(config.descriptor()?)
            .layers(vec![layer.descriptor()?])
            .build()?;
        Ok(Self { arch, manifest: Blob::json(MediaType::ImageManifest, &manifest)?, config, layer })
    }
}

/// The archive of these images, under this name.
pub(super) fn of(images: &[Image], tag: &str, created: Timestamp) -> Result<Archive> {
    let mut blobs: BTreeMap<String, &[u8]> = BTreeMap::new();
    let mut manifests = Vec::new();
    for Image { arch, manifest, config, layer } in images {
        for blob in [manifest, config, layer] {
            blobs.insert(blob.path(), &blob.bytes);
        }
        let platform =
            PlatformBuilder::default().architecture(arch.to_string().as_str()).os(Os::Linux).build()?;
        manifests.push(manifest.describe()?.platform(platform).build()?);
    }
    let index = |manifests: Vec<Descriptor>| {
        let index = ImageIndexBuilder::default().schema_version(2_u32).media_type(MediaType::ImageIndex);
        Blob::json(MediaType::ImageIndex, &index.manifests(manifests).build()?)
    };
    let nested = if manifests.len() > 1 { Some(index(manifests.clone())?) } else { None };
    let mut top = match &nested {
        Some(nested) => nested.descriptor()?,
        None => manifests.pop().context("an archive of no image")?,
    };
    // The first is what containerd goes by, the second what Podman and skopeo do.
    let (_, version) = tag.rsplit_once(':').context("the name of an image ends in :TAG")?;
    top.set_annotations(Some(HashMap::from([
        ("io.containerd.image.name".to_owned(), tag.to_owned()),
        ("org.opencontainers.image.ref.name".to_owned(), version.to_owned()),
    ])));
    let digest = top.digest().to_string();
    if let Some(nested) = &nested {
        blobs.insert(nested.path(), &nested.bytes);
    }
    // Docker has one image per name here; of several architectures, the first.
    let docker: Vec<_> = images
        .iter()
        .take(1)
        .map(
            |image| json!({"Config": image.config.path(), "Layers": [image.layer.path()], "RepoTags": [tag]}),
        )
        .collect();
    let docker = serde_json::to_vec(&docker)?;
    let index = index(vec![top])?;
    blobs.insert("index.json".to_owned(), &index.bytes);
    blobs.insert("manifest.json".to_owned(), &docker);
    blobs.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#);

    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in blobs {
        let mut header = layer::header(EntryType::Regular, 0o644, bytes.len(), created);
        tar.append_data(&mut header, &path, bytes).with_context(|| path.clone())?;
    }
    Ok(Archive { bytes: tar.into_inner().context("cannot end the archive")?, digest })
}

#[cfg(test)]
mod tests {
    use kubeshunt_tests::kubelet::image;

    use super::*;

    fn archive(arches: &[Arch], created: Timestamp) -> Vec<u8> {
        let image = |arch: &Arch| {
            let layer = layer::of(arch.to_string().as_bytes(), created).expect("a layer");
            Image::new(*arch, &layer, created).expect("an image")
        };
        let images: Vec<_> = arches.iter().map(image).collect();
        of(&images, "example/name:tag", created).expect("an archive").bytes
    }

    fn read(bytes: &[u8]) -> image::Archive {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        image::Archive::open(file.path()).expect("an archive")
    }

    #[test]
    fn the_same_content_makes_the_same_bytes() {
        let both = [Arch::Amd64, Arch::Arm64];
        assert_eq!(archive(&both, Timestamp::EPOCH), archive(&both, Timestamp::EPOCH));
        assert_ne!(
            archive(&both, Timestamp::EPOCH),
            archive(&both, Timestamp(1)),
            "its date is a part of it"
        );
    }

    #[test]
    fn several_architectures_are_one_name() {
        let archive = read(&archive(&[Arch::Amd64, Arch::Arm64], Timestamp::EPOCH));
        // Reading follows every descriptor, and compares every digest and size.
        let images = archive.images().expect("images");
        assert!(images.iter().map(|image| image.architecture.as_str()).eq(["amd64", "arm64"]));
        let index = archive.json("index.json").expect("an index");
        assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1));
        let annotations = &index["manifests"][0]["annotations"];
        assert_eq!(annotations["io.containerd.image.name"], "example/name:tag");
        assert_eq!(annotations["org.opencontainers.image.ref.name"], "tag");
    }

    #[test]
    fn a_date_is_written_as_the_specification_has_it() {
        let archive = read(&archive(&[Arch::Amd64], Timestamp(1_700_000_000)));
        assert_eq!(archive.images().expect("images")[0].created, "2023-11-14T22:13:20Z");
    }
}
