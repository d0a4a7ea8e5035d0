//! The node's sockets that were connected to a Service, in all its network namespaces, and how they are woken.
//!
//! Which sockets are ours, and what they were given, stands in their storage (`ORIGINS`). A program tells that of all
//! sockets of the node at once, with their cookies. Only where one of them is to be woken the network namespaces are
//! entered, one after the other, to find it there and have the kernel abort it.
//!
//! - [`diag`]: sockets of one namespace, listed and aborted;
//! - [`namespaces`]: which namespaces there are.

mod diag;
mod namespaces;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{Btf, Ebpf, maps::Map, programs::Iter};
use proxy_common::layout::{ORIGINS_PROGRAM, Origin, map, origin_flag, protocol};

use super::{kernel, object};
use diag::{Diag, FAMILIES};
use namespaces::Namespaces;

/// What this process may not do, or the kernel cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// Sockets are not listed.
    Listing,
    /// They are not aborted.
    Aborting,
    /// Other network namespaces cannot be entered.
    Entering,
    /// Processes hide theirs.
    Seeing,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listing => "the kernel does not list sockets: that takes CONFIG_INET_DIAG and CONFIG_INET_UDP_DIAG",
            Self::Aborting => "the kernel does not abort sockets: that takes CONFIG_INET_DIAG_DESTROY",
            Self::Entering => {
                "other network namespaces cannot be entered: that takes CAP_SYS_ADMIN (and under systemd \
                 RestrictNamespaces=net)"
            }
            Self::Seeing => {
                "some processes do not show their network namespace: that takes CAP_SYS_PTRACE, where it is not mounted \
                 either"
            }
        })
    }
}

/// What a pass has done.
#[derive(Debug, Default)]
pub struct Pass {
    /// How many sockets were aborted, by protocol.
    pub aborted: BTreeMap<u8, u64>,
    /// What went wrong, the first of it.
    pub failure: Option<anyhow::Error>,
}

impl Pass {
    fn note(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.failure.get_or_insert(error);
        }
    }
}

/// Sockets with an origin.
pub struct Sockets {
    /// Of the program that tells the origins.
    link: OwnedFd,
    protocols: &'static [u8],
}

impl Sockets {
    /// Of an object whose programs for sockets keep the origins.
    pub(super) fn of(object: &mut Ebpf, with_tcp: bool) -> Result<Self> {
        let Some(Map::SkStorage(origins)) = object.map(map::ORIGINS) else {
            bail!("the object has no origins")
        };
        let origins = origins.fd().as_fd().try_clone_to_owned().context("duplicating a descriptor")?;
        let program = object.program_mut(ORIGINS_PROGRAM).context("the object has no program for origins")?;
        let program: &mut Iter = program.try_into().context("the program for origins is of another type")?;
        let types =
            Btf::from_sys_fs().context("reading the kernel's types: that takes CONFIG_DEBUG_INFO_BTF")?;
        object::verified(ORIGINS_PROGRAM, program.load("bpf_sk_storage_map", &types))?;
        let link = kernel::walk_over(origins.as_fd(), program.fd()?.as_fd())?;
        let protocols: &[u8] = if with_tcp { &[protocol::UDP, protocol::TCP] } else { &[protocol::UDP] };
        Ok(Self { link, protocols })
    }

    /// Looks at the sockets of all network namespaces and aborts those that `is_over` names by their protocol and origin.
    /// It is asked once they have been listed.
    pub fn pass(&self, mut is_over: impl FnMut(u8, &Origin) -> bool + Send) -> Pass {
        let mut pass = Pass::default();
        match self.over(&mut is_over) {
            Ok(over) if over.is_empty() => {}
            Ok(over) => {
                let mut walk = Walk { protocols: self.protocols, over, is_over, pass: &mut pass };
                let walked = apart(|| walk.everywhere());
                pass.note(walked);
            }
            Err(error) => pass.note(Err(error)),
        }
        pass
    }

    /// Origins of connected sockets that are over for one of their protocols, by the socket's cookie.
    fn over(&self, is_over: &mut impl FnMut(u8, &Origin) -> bool) -> Result<HashMap<u64, Origin>> {
        let mut bytes = Vec::new();
        kernel::walk(self.link.as_fd())
            .and_then(|mut walk| Ok(walk.read_to_end(&mut bytes)?))
            .context("reading what sockets remember")?;
        let origins = bytes.chunks_exact(size_of::<Origin>()).map(|bytes| {
            // SAFETY: as many bytes as it has; any bytes are an origin (`map_type!`), and they need not be aligned.
            unsafe { bytes.as_ptr().cast::<Origin>().read_unaligned() }
        });
        let connected =
            origins.filter(|origin| origin.flags & origin_flag::CONNECTED != 0 && origin.is_whole());
        let over =
            connected.filter(|origin| self.protocols.iter().any(|protocol| is_over(*protocol, origin)));
        Ok(over.map(|origin| (origin.stamp, origin)).collect())
    }
}

/// What this process may not do, or the kernel cannot.
///
/// # Errors
/// When that cannot be found out.
pub fn lacks() -> Result<BTreeSet<Lack>> {
    apart(|| {
        let mut lacks = BTreeSet::new();
        let diag = Diag::open()?;
        if diag.list(protocol::UDP, FAMILIES[0]).is_err_and(|error| is_missing(&error)) {
            lacks.insert(Lack::Listing);
        } else if !diag.can_abort()? {
            lacks.insert(Lack::Aborting);
        }
        if namespaces::enter(Path::new(namespaces::OWN)).is_err() {
            lacks.insert(Lack::Entering);
        } else if Namespaces::find()?.has_hidden {
            lacks.insert(Lack::Seeing);
        }
        Ok(lacks)
    })
    .context("finding out whether sockets can be aborted")
}

/// The same, and whether the program loads; leaves nothing behind.
///
/// # Errors
/// When it does not, or that cannot be found out.
pub fn probe() -> Result<BTreeSet<Lack>> {
    let (constants, sizes) = object::tiny(None);
    Sockets::of(&mut object::open(&constants, &sizes, None)?, false)?;
    lacks()
}

/// Does work on a thread that ends with it: one that has entered a namespace would keep that alive.
fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("sockets".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(anyhow!("the thread died")))
    })
}

/// The kernel has no lists of this protocol (`inet_diag_lock_handler` in `net/ipv4/inet_diag.c`).
fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// A walk through all network namespaces.
struct Walk<'a, F> {
    protocols: &'static [u8],
    /// Who is looked for.
    over: HashMap<u64, Origin>,
    is_over: F,
    pass: &'a mut Pass,
}

impl<F: FnMut(u8, &Origin) -> bool> Walk<'_, F> {
    fn everywhere(&mut self) -> Result<()> {
        let others = Namespaces::find().context("looking for network namespaces")?.others;
        let here = self.here();
        self.pass.note(here.context("in this process' network namespace"));
        for path in others {
            if self.over.is_empty() {
                break;
            }
            // One that is gone by now has no sockets; that entering is not allowed has been said.
            if namespaces::enter(&path).is_ok() {
                let there = self.here();
                self.pass.note(there.with_context(|| format!("in the network namespace {}", path.display())));
            }
        }
        Ok(())
    }

    /// In the namespace this thread is in.
    fn here(&mut self) -> Result<()> {
        let diag = Diag::open()?;
        for protocol in self.protocols {
            for family in FAMILIES {
                // Of several sockets with the same addresses and ports (SO_REUSEPORT) the kernel finds one, and the next
                // when that has no peer any more.
                while self.round(&diag, *protocol, family)? {}
            }
        }
        Ok(())
    }

    /// Aborts who is found among the sockets of a protocol and family; whether it is worth while to look again.
    fn round(&mut self, diag: &Diag, protocol: u8, family: u8) -> Result<bool> {
        let (mut aborted, mut missed) = (0, false);
        for socket in diag.list(protocol, family).context("listing sockets")? {
            let Some(origin) = self.over.get(&socket.cookie) else { continue };
            // It may have connected anew, or to somebody else.
            if (origin.backend, origin.backend_port) != socket.peer || !(self.is_over)(protocol, origin) {
                continue;
            }
            match diag.abort(&socket.handle) {
                Ok(()) => {
                    self.over.remove(&socket.cookie);
                    aborted += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => missed = true,
                Err(error) => return Err(error).context("aborting a socket"),
            }
        }
        *self.pass.aborted.entry(protocol).or_default() += aborted;
        Ok(missed && aborted > 0)
    }
}
