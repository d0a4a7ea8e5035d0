//! Programs attached as filters of a clsact qdisc, for kernels without tcx.
//!
//! A filter of ours has a name, a priority and a handle of its own; only what has all three is ours. The qdisc
//! is made where it is missing and never removed: others may have put filters of their own there.

use std::{collections::BTreeSet, io};

use anyhow::{Context as _, Result};
use aya::programs::{
    Link as _, ProgramError, SchedClassifier,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
};
use futures::TryStreamExt as _;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};

use super::Direction;
use crate::host::devices::name_of;

/// "ks", and what no tool chooses by itself: those count up from 1.
const HANDLE: TcHandle = TcHandle::new(0x6b73, 1);

impl Direction {
    /// First on the way in, last on the way out: see [`super::tcx`].
    fn priority(self) -> u16 {
        match self {
            Self::Ingress => 1,
            Self::Egress => u16::MAX - 1,
        }
    }
}

/// What there is on devices.
#[derive(Debug, Default)]
pub(super) struct Present {
    /// Where a program of ours is attached.
    pub(super) attached: BTreeSet<(u32, Direction)>,
    /// Devices with an `ingress` qdisc, as the CNI project's bandwidth plugin gives them: beside that there is no clsact,
    /// and what is attached to its way out would run on the way in.
    pub(super) with_ingress: BTreeSet<u32>,
}

/// Looks at all devices of this network namespace.
pub(super) async fn present() -> Result<Present> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
    let pump = tokio::spawn(connection);
    let result = find(&handle).await;
    pump.abort();
    result
}

async fn find(handle: &rtnetlink::Handle) -> Result<Present> {
    let mut present = Present::default();
    let mut with_qdisc = BTreeSet::new();
    let mut qdiscs = handle.qdisc().get().execute();
    loop {
        match qdiscs.try_next().await {
            Ok(Some(message)) if is_kind(&message, "clsact") => drop(with_qdisc.insert(message.header.index)),
            Ok(Some(message)) if is_kind(&message, "ingress") => {
                present.with_ingress.insert(message.header.index.cast_unsigned());
            }
            Ok(Some(_)) => {}
            Ok(None) => break,
            // A kernel without qdiscs has no filters of ours.
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EOPNOTSUPP => break,
            Err(error) => return Err(error).context("cannot list qdiscs"),
        }
    }
    for index in with_qdisc {
        for way in Direction::ALL {
            let request = handle.traffic_filter(index).get();
            let request = match way {
                Direction::Ingress => request.ingress(),
                Direction::Egress => request.egress(),
            };
            let mut filters = request.execute();
            while let Some(message) = filters.try_next().await.context("cannot list filters")? {
                if is_ours(&message, way) {
                    present.attached.insert((index.cast_unsigned(), way));
                }
            }
        }
    }
    Ok(present)
}

fn is_kind(message: &TcMessage, kind: &str) -> bool {
    message.attributes.iter().any(|one| matches!(one, TcAttribute::Kind(own) if own == kind))
}

fn is_ours(message: &TcMessage, way: Direction) -> bool {
    let is_named = |option: &TcOption| matches!(option, TcOption::Bpf(TcFilterBpfOption::ProgName(name)) if name == way.program());
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    u32::from(message.header.handle) == u32::from(HANDLE)
        && message.header.info >> 16 == u32::from(way.priority())
        && options.flatten().any(is_named)
}

/// Replaces the program of our filter, or attaches it.
pub(super) fn attach(index: u32, way: Direction, program: &mut SchedClassifier) -> Result<()> {
    let name = name_of(index).context("the device is gone")?;
    match qdisc_add_clsact(&name) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        result => result.context("cannot add a clsact qdisc")?,
    }
    let replaced = program.attach_to_link(filter(&name, way)?);
    let link = match replaced {
        Err(error) if is_missing(&error) => {
            let options = NlOptions { priority: way.priority(), handle: HANDLE, classid: None };
            program.attach_with_options(&name, way.attach_type(), TcAttachOptions::Netlink(options))
        }
        other => other,
    };
    let link = link.with_context(|| format!("cannot attach {} as a filter", way.program()))?;
    // Dropped, it would detach; the filter is to outlive this process.
    std::mem::forget(program.take_link(link)?);
    Ok(())
}

/// Detaches the program, if it is attached.
pub(super) fn detach(index: u32, way: Direction) -> Result<()> {
    // A device takes its filters along.
    let Some(name) = name_of(index) else { return Ok(()) };
    match filter(&name, way)?.detach() {
        Err(error) if is_missing(&error) => Ok(()),
        result => result.with_context(|| format!("cannot detach {} from {name}", way.program())),
    }
}

/// Detaches our programs from all devices of this network namespace; says how many.
///
/// # Errors
/// When filters cannot be listed or removed.
pub async fn remove_all() -> Result<usize> {
    let present = present().await?.attached;
    // What translates goes before what undoes it.
    for (index, way) in present.iter().filter(|(_, way)| *way == Direction::Ingress) {
        detach(*index, *way)?;
    }
    for (index, way) in present.iter().filter(|(_, way)| *way == Direction::Egress) {
        detach(*index, *way)?;
    }
    Ok(present.len())
}

fn filter(name: &str, way: Direction) -> Result<SchedClassifierLink> {
    SchedClassifierLink::attached(name, way.attach_type(), way.priority(), HANDLE, None)
        .with_context(|| format!("no device {name}"))
}

/// Whether there is no such filter, device or qdisc.
fn is_missing(error: &ProgramError) -> bool {
    let code = match error {
        ProgramError::TcError(TcError::NetlinkError(error)) | ProgramError::NetlinkError(error) => {
            error.raw_os_error()
        }
        ProgramError::TcError(TcError::IoError(error)) => error.raw_os_error(),
        _ => None,
    };
    let kind = code.map(|code| io::Error::from_raw_os_error(code).kind());
    kind == Some(io::ErrorKind::NotFound) || code == Some(libc::ENODEV) || code == Some(libc::EINVAL)
}
