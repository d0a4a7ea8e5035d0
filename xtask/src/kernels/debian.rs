//! Debian's kernels: which, and how they are fetched without touching the machine's own lists of packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use crate::{facts, progress};

/// A line of kernels, of which the newest is taken.
#[derive(Debug)]
pub(super) struct Line {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// How its packages' versions begin.
    prefix: &'static str,
    /// The lowest version it may have.
    pub(super) version: (u32, u32),
    /// What is emulated. Of 16 bytes exchanged at once kernels under emulation now and then get a mixture, and die of it in
    /// their allocator; but from 6.19 or so on memory for what sockets remember comes by that way only
    /// (`kmalloc_nolock` in `mm/slub.c`). Five levels of page tables nobody needs here.
    cpu: &'static str,
}

const OLDER: &str = "max,la57=off,cx16=off";

/// From the oldest that is promised to the newest there is.
pub(super) const LINES: [Line; 4] = [
    Line { name: "5.10", prefix: "5.10.", version: (5, 10), cpu: OLDER },
    Line { name: "6.1", prefix: "6.1.", version: (6, 1), cpu: OLDER },
    Line { name: "6.12", prefix: "6.12.", version: (6, 12), cpu: OLDER },
    Line { name: "7.x", prefix: "7.", version: (7, 0), cpu: "max,la57=off" },
];

/// Where they are: the archive's label, and the suite.
const SUITES: [(&str, &str); 5] = [
    ("Debian", "bullseye"),
    ("Debian-Security", "bullseye-security"),
    ("Debian", "bookworm"),
    ("Debian", "bookworm-backports"),
    ("Debian", "sid"),
];

/// Where the archives are if this machine does not say: Debian's own names for them.
const DEFAULTS: [(&str, &str); 2] = [
    ("Debian", "http://deb.debian.org/debian"),
    ("Debian-Security", "http://deb.debian.org/debian-security"),
];

/// The part of a package's name behind the version: small kernels, for virtual machines.
const FLAVOUR: &str = "-cloud-amd64";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Lists older than this are fetched anew.
const FRESH: Duration = Duration::from_hours(24);

/// A kernel that has been fetched.
#[derive(Debug)]
pub(super) struct Kernel {
    /// As `uname -r` has it.
    pub(super) release: String,
    /// What is booted.
    pub(super) image: PathBuf,
    /// The folder of its modules.
    pub(super) modules: PathBuf,
    /// The processor that is emulated for it.
    pub(super) cpu: &'static str,
}

/// The archive, by way of an apt whose state is ours.
#[derive(Debug)]
pub(super) struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// Fetches the lists, unless they are fresh.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        ensure!(
            ["apt-get", "apt-cache", "dpkg"].iter().all(|program| facts::which(program).is_some()),
            "the kernels are packages of Debian's: this takes apt-get, apt-cache and dpkg"
        );
        let archive = Self { folder: folder.to_owned() };
        let apt = archive.state();
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = apt.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        write(&apt.join("status"), "")?;
        let (sources, stamp) = (sources(), apt.join("fetched"));
        let list = apt.join("sources.list");
        let age = fs::metadata(&stamp).and_then(|stamp| stamp.modified()).ok();
        let age = age.and_then(|then| SystemTime::now().duration_since(then).ok());
        let is_same = fs::read_to_string(&list).is_ok_and(|text| text == sources);
        if !is_same || age.is_none_or(|age| age > FRESH) {
            write(&list, &sources)?;
            progress::quietly("fetch lists of kernels", archive.apt("apt-get").arg("update"))
                .context("the kernels cannot be fetched without Debian's lists of packages")?;
            write(&stamp, "")?;
        }
        Ok(archive)
    }

    fn state(&self) -> PathBuf {
        self.folder.join("apt")
    }

    /// A program of apt's that knows only our sources, and writes only below our folder.
    fn apt(&self, program: &str) -> Command {
        let state = self.state();
        let mut command = Command::new(program);
        for (option, value) in [
            ("Dir::Etc::sourcelist", state.join("sources.list").display().to_string()),
            ("Dir::Etc::sourceparts", "-".to_owned()),
            ("Dir::State", state.display().to_string()),
            ("Dir::State::lists", state.join("lists").display().to_string()),
            ("Dir::State::status", state.join("status").display().to_string()),
            ("Dir::Cache", state.join("cache").display().to_string()),
            // For kernels of other architectures than the machine's own there is no use.
            ("APT::Architectures", "amd64".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            // Its own user may not be allowed to enter cargo's folder.
            ("APT::Sandbox::User", "root".to_owned()),
            // What is not signed is not fetched, and a list that is not there is an error.
            ("APT::Update::Error-Mode", "any".to_owned()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Fetches and unpacks the newest kernel of a line, unless it is there.
    pub(super) fn fetch(&self, line: &Line) -> Result<Kernel> {
        let names = self.names()?;
        let release = |name: &str| {
            let rest = name.strip_prefix("linux-image-").or_else(|| name.strip_prefix("linux-binary-"))?;
            Some(rest.to_owned()).filter(|rest| rest.starts_with(line.prefix) && rest.ends_with(FLAVOUR))
        };
        let releases = names.iter().filter_map(|name| release(name));
        let newest = releases.max_by_key(|release| numbers(release));
        let release = newest.with_context(|| format!("Debian has no kernel {} any more", line.name))?;
        let place = self.folder.join(&release);
        if !place.is_dir() {
            let split = format!("linux-binary-{release}");
            let packages = if names.contains(&split) {
                vec![split, format!("linux-modules-{release}")]
            } else {
                vec![format!("linux-image-{release}")]
            };
            self.unpack(&packages, &place)?;
        }
        // Two layouts: /boot and /lib up to Debian 13, all below /usr/lib/modules after it.
        let one_of = |paths: [String; 2]| {
            let found = paths.iter().map(|path| place.join(path)).find(|path| path.exists());
            found.with_context(|| format!("the kernel in {} has no {}", place.display(), paths.join(" nor ")))
        };
        Ok(Kernel {
            image: one_of([format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")])?,
            modules: one_of([format!("lib/modules/{release}"), format!("usr/lib/modules/{release}")])?,
            release,
            cpu: line.cpu,
        })
    }

    /// The names of all packages with a kernel.
    fn names(&self) -> Result<Vec<String>> {
        let output = self
            .apt("apt-cache")
            .args(["search", "--names-only", &format!("^linux-(image|binary)-[0-9].*{FLAVOUR}$")])
            .output()
            .context("cannot run apt-cache")?;
        ensure!(output.status.success(), "apt-cache: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
    }

    fn unpack(&self, packages: &[String], place: &Path) -> Result<()> {
        let scratch = tempfile::tempdir_in(&self.folder).context("cannot make a temporary folder")?;
        let mut download = self.apt("apt-get");
        download.arg("download").args(packages).current_dir(scratch.path());
        progress::quietly(&format!("fetch {}", packages.join(" ")), &mut download)?;
        let root = scratch.path().join("root");
        let files = fs::read_dir(scratch.path()).context("cannot list what was fetched")?;
        let mut count = 0;
        for file in files
            .flatten()
            .map(|file| file.path())
            .filter(|file| file.extension().is_some_and(|e| e == "deb"))
        {
            let status = Command::new("dpkg").arg("-x").arg(&file).arg(&root).status();
            let status = status.context("cannot run dpkg")?;
            ensure!(status.success(), "dpkg cannot unpack {}", file.display());
            count += 1;
        }
        if count != packages.len() {
            bail!("of {} packages {count} were fetched", packages.len());
        }
        // Only what is complete gets the name by which it is found.
        fs::rename(&root, place).with_context(|| format!("cannot make {}", place.display()))
    }
}

/// Our list of sources, from where this machine has its own packages.
fn sources() -> String {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(LABEL)|$(REPO_URI)", "Created-By: Packages", "Origin: Debian"])
        .output();
    let known = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let of = |label: &str| {
        let own = known.lines().filter_map(|line| line.split_once('|')).find(|(own, _)| *own == label);
        let default = DEFAULTS.iter().copied().find(|(own, _)| *own == label);
        own.or(default).map(|(_, uri)| uri.trim_end_matches('/').to_owned()).unwrap_or_default()
    };
    let signed = if Path::new(KEYRING).is_file() { format!("[signed-by={KEYRING}] ") } else { String::new() };
    SUITES.iter().map(|(label, suite)| format!("deb {signed}{} {suite} main\n", of(label))).collect()
}

/// The numbers in a release: in their order releases are.
fn numbers(release: &str) -> Vec<u64> {
    let release = release.strip_suffix(FLAVOUR).unwrap_or(release);
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn the_newest_release_has_the_highest_numbers() {
        for (older, newer) in [
            ("5.10.0-9-cloud-amd64", "5.10.0-46-cloud-amd64"),
            ("6.1.0-0.deb11.52-cloud-amd64", "6.1.0-50-cloud-amd64"),
            ("6.12.90+deb12-cloud-amd64", "6.12.90+deb12.1-cloud-amd64"),
            ("7.2.9+deb14-cloud-amd64", "7.2.13+deb14-cloud-amd64"),
        ] {
            assert!(numbers(older) < numbers(newer), "{older} {newer}");
        }
    }
}
