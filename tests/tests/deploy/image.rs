//! The image: what is in it, and whether it is what its archive says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::kubelet::image::{Archive, Image, archive};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, elf};
use serde_json::Value;

/// In bytes.
const LARGEST: u64 = 25_000_000;

fn unpacked() -> Result<(Image, tempfile::TempDir)> {
    let image = Image::of_this_machine(&Archive::open(&archive()?)?)?;
    let folder = tempfile::tempdir()?;
    image.unpack(folder.path())?;
    Ok((image, folder))
}

/// All paths below a folder.
fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            paths.extend(walk(&entry.path())?);
        }
        paths.push(entry.path());
    }
    Ok(paths)
}

#[test]
fn every_digest_and_size_in_the_archive_is_right() -> Result<()> {
    // Reading verifies what is named; what nobody names would be there for nothing.
    let archive = Archive::open(&archive()?)?;
    let images = archive.images()?;
    ensure!(
        archive.size < LARGEST * images.len() as u64,
        "{} bytes for {} images",
        archive.size,
        images.len()
    );
    let mut named = BTreeSet::from(["index.json", "manifest.json", "oci-layout"].map(str::to_owned));
    let mut texts: Vec<String> = vec![archive.json("index.json")?.to_string()];
    while let Some(text) = texts.pop() {
        for name in archive.names().filter_map(|name| name.strip_prefix("blobs/sha256/")) {
            if text.contains(&format!("sha256:{name}")) && named.insert(format!("blobs/sha256/{name}")) {
                // A layer is no text, and names nothing.
                texts.extend(String::from_utf8(archive.file(&format!("blobs/sha256/{name}"))?.to_vec()).ok());
            }
        }
    }
    assert_eq!(named.iter().map(String::as_str).collect::<Vec<_>>(), archive.names().collect::<Vec<_>>());
    println!(
        "{} bytes, images for {:?}",
        archive.size,
        images.iter().map(|image| &image.architecture).collect::<Vec<_>>()
    );
    Ok(())
}

#[test]
fn the_archive_says_to_every_engine_how_the_image_is_called() -> Result<()> {
    let archive = Archive::open(&archive()?)?;
    let index = archive.json("index.json")?;
    let top = index["manifests"].as_array().context("no list")?;
    ensure!(top.len() == 1, "an archive of several names is loaded in part by some engines");
    let name =
        top[0]["annotations"]["io.containerd.image.name"].as_str().context("no name for containerd")?;
    let version =
        top[0]["annotations"]["org.opencontainers.image.ref.name"].as_str().context("no name for OCI")?;
    assert!(name.ends_with(&format!(":{version}")), "{name} and {version}");
    // What Docker goes by names the same content.
    let docker = archive.json("manifest.json")?;
    assert_eq!(docker[0]["RepoTags"], serde_json::json!([name]));
    for path in [&docker[0]["Config"], &docker[0]["Layers"][0]] {
        archive.file(path.as_str().context("no path")?)?;
    }
    Ok(())
}

#[test]
fn the_image_holds_one_static_program_and_nothing_else_that_runs() -> Result<()> {
    let (image, folder) = unpacked()?;
    let mut programs = Vec::new();
    for path in walk(folder.path())? {
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
            programs.push(path.strip_prefix(folder.path())?.display().to_string());
        }
    }
    assert_eq!(programs, ["usr/local/bin/kubeshunt"]);
    assert_eq!(fs::read_link(folder.path().join("usr/local/bin/kube-proxy"))?, Path::new("kubeshunt"));
    let program = fs::read(folder.path().join("usr/local/bin/kubeshunt"))?;
    let header = elf::FileHeader64::<Endianness>::parse(program.as_slice())?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, program.as_slice())?;
    assert!(segments.iter().all(|segment| segment.p_type(endian) != elf::PT_INTERP), "it has an interpreter");
    assert_eq!(image.config["Entrypoint"], serde_json::json!(["/usr/local/bin/kubeshunt"]));
    assert_eq!(image.created, "1970-01-01T00:00:00Z");
    Ok(())
}

#[test]
fn the_containerfile_gives_the_same_image() -> Result<()> {
    let (image, _folder) = unpacked()?;
    let text = fs::read_to_string(crate::manifests::folder().join("Containerfile"))?;
    // Lines that end in a backslash go on.
    let text = text.replace("\\\n", " ");
    let instructions: Vec<(&str, &str)> =
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' ')).collect();
    let one = |name: &str| instructions.iter().find(|(found, _)| *found == name).map(|(_, rest)| rest.trim());
    assert_eq!(one("FROM"), Some("scratch"));
    assert_eq!(one("ADD"), Some("${TARGETARCH}/layer.tar /"));
    let json = |name: &str| serde_json::from_str::<Value>(one(name).unwrap_or_default()).context("no JSON");
    assert_eq!(json("ENTRYPOINT")?, image.config["Entrypoint"]);
    assert_eq!(one("WORKDIR"), image.config["WorkingDir"].as_str());
    assert_eq!(one("ENV"), image.config["Env"][0].as_str());
    let mut labels = serde_json::Map::new();
    for label in instructions.iter().filter(|(name, _)| *name == "LABEL") {
        let (name, value) = label.1.split_once('=').context("a label without value")?;
        labels.insert(name.to_owned(), serde_json::from_str(value)?);
    }
    assert_eq!(Value::Object(labels), image.config["Labels"]);
    Ok(())
}
