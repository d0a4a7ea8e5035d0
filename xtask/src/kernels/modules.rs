//! Modules of a kernel: what those that are needed need themselves, in the order in which they are loaded.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _};

/// What the harness's networks and kubeshunt take.
const NEEDED: [&str; 14] = [
    "veth",
    "bridge",
    "dummy",
    "vxlan",
    "sch_ingress",
    "cls_bpf",
    "inet_diag",
    "udp_diag",
    "tcp_diag",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_tables",
    "sctp",
    "af_packet",
];

/// A module: its name, and the file's bytes, not compressed.
pub(super) type Module = (String, Vec<u8>);

/// Those that are needed, each behind those that it needs.
pub(super) fn in_order(folder: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find(&folder.join("kernel"), &mut files)?;
    let built_in = folder.join("modules.builtin");
    let built_in = match fs::read_to_string(&built_in) {
        Ok(list) => list.lines().map(|line| name(Path::new(line))).collect(),
        // Debian ships none with 7.x: what is no module is taken for built in, and if it is not, tests will say so.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let is_no_module = |module: &&&str| !files.contains_key(**module);
            NEEDED.iter().filter(is_no_module).map(|module| (*module).to_owned()).collect()
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", built_in.display())),
    };
    let mut order = Order { files, built_in, ready: Vec::new() };
    NEEDED.iter().try_for_each(|module| order.add(module))?;
    Ok(order.ready)
}

struct Order {
    files: BTreeMap<String, PathBuf>,
    built_in: Vec<String>,
    ready: Vec<Module>,
}

impl Order {
    fn add(&mut self, module: &str) -> Result<()> {
        let is_there = self.ready.iter().any(|(name, _)| name == module);
        if is_there || self.built_in.iter().any(|name| name == module) {
            return Ok(());
        }
        let path = self.files.get(module).with_context(|| format!("the kernel has no module {module}"))?;
        let bytes = read(path).with_context(|| format!("cannot read {}", path.display()))?;
        for needed in needs(&bytes).with_context(|| path.display().to_string())? {
            self.add(&needed)?;
        }
        self.ready.push((module.to_owned(), bytes));
        Ok(())
    }
}

fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else {
            files.insert(name(&path), path);
        }
    }
    Ok(())
}

/// A module's name, from that of its file: without what comes after the first dot, and with underscores.
fn name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    lzma_rs::xz_decompress(&mut Cursor::new(bytes), &mut plain)
        .map_err(|error| anyhow::anyhow!("it cannot be decompressed: {error:?}"))?;
    Ok(plain)
}

/// What a module says that it needs, in its section `.modinfo`.
fn needs(module: &[u8]) -> Result<Vec<String>> {
    let file = ElfFile64::<object::Endianness>::parse(module).context("it is no ELF file")?;
    let info = file.section_by_name(".modinfo").context("it says nothing about itself")?.data()?;
    let depends = info.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="));
    let depends = String::from_utf8_lossy(depends.unwrap_or_default()).into_owned();
    Ok(depends.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}
