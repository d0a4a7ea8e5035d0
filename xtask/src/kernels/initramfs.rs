//! The file system a machine boots with: an archive in the kernel's "newc" format
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::debian::Kernel;
use super::guest::Programs;
use super::modules;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const TEXT: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;

/// Writes one with everything that is run in `kernel`.
pub(super) fn write(path: &Path, kernel: &Kernel, programs: &Programs, version: (u32, u32)) -> Result<()> {
    let modules =
        modules::in_order(&kernel.modules).with_context(|| format!("modules of {}", kernel.release))?;
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut archive = Archive { to: BufWriter::new(file), length: 0, files: 0 };
    let mut fill = || -> Result<()> {
        for folder in ["bin", "dev", "guest", "proc", "run", "sys", "tmp"] {
            archive.add(folder, FOLDER, (0, 0), &[])?;
        }
        // The kernel opens it before anything is mounted: without it the first process says nothing.
        archive.add("dev/console", CONSOLE, (5, 1), &[])?;
        for (name, bytes) in programs.files()? {
            archive.add(&name, PROGRAM, (0, 0), &bytes)?;
        }
        let mut list = String::new();
        for (name, bytes) in &modules {
            archive.add(&format!("guest/{name}.ko"), TEXT, (0, 0), bytes)?;
            list.push_str(&format!("{name}.ko\n"));
        }
        archive.add("guest/modules", TEXT, (0, 0), list.as_bytes())?;
        archive.add("guest/commands", TEXT, (0, 0), programs.commands(version).as_bytes())?;
        archive.add("TRAILER!!!", 0, (0, 0), &[])?;
        archive.to.flush()?;
        Ok(())
    };
    fill().with_context(|| format!("cannot write {}", path.display()))
}

struct Archive<W> {
    to: W,
    length: usize,
    files: u32,
}

impl<W: Write> Archive<W> {
    /// Adds a file, folder or device.
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> Result<()> {
        self.files += 1;
        let size = u32::try_from(bytes.len()).context("a file is too large")?;
        let name_size = u32::try_from(name.len() + 1)?;
        let links = 1 + u32::from(mode == FOLDER);
        // Inode, mode, owner, group, links, time, size, device of the file, device it is, length of the name, check.
        let fields = [self.files, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let mut header = "070701".to_owned();
        fields.iter().for_each(|field| header.push_str(&format!("{field:08x}")));
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(bytes)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.length += bytes.len();
        Ok(self.to.write_all(bytes)?)
    }

    /// Names and contents end at multiples of four bytes.
    fn pad(&mut self) -> Result<()> {
        let missing = self.length.next_multiple_of(4) - self.length;
        self.put(&[0; 3][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, TEXT};

    #[test]
    fn a_file_has_a_header_of_110_bytes_and_ends_are_aligned() {
        let mut archive = Archive { to: Vec::new(), length: 0, files: 0 };
        archive.add("ab", TEXT, (0, 0), b"12345").expect("a vector takes everything");
        let bytes = archive.to;
        assert_eq!(&bytes[..14], b"07070100000001");
        assert_eq!(&bytes[54..62], b"00000005", "the size");
        assert_eq!(&bytes[94..102], b"00000003", "the length of the name");
        assert_eq!(&bytes[110..], b"ab\0\0\0\x0012345\0\0\0".as_slice());
    }
}
