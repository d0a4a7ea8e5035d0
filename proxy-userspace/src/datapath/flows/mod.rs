//! The maps of flows, in which the programs for packets write and we tidy up.
//!
//! - [`settings`]: their sizes, and what the programs are told;
//! - [`sweep`]: passes that remove what is over.

pub mod settings;
pub mod sweep;

use std::io;

use anyhow::{Context as _, Result};
use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, Map, MapData, MapError},
};
use nix::time::{ClockId, clock_gettime};
use proxy_common::{
    address::{Address, Port},
    layout::{Arrival, Flow, Tuple, arrival_flag, map},
};

use super::{
    kernel::{self, Cursor, NOT_OVER_ANOTHER},
    pins::Pins,
};

/// Handles of our own on the pinned maps: any number of processes and threads may have some.
pub struct FlowMaps {
    flows: HashMap<MapData, Tuple, Flow>,
    arrivals: HashMap<MapData, Tuple, Arrival>,
}

impl FlowMaps {
    /// Opens the pins.
    ///
    /// # Errors
    /// When there are none.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self { flows: open(pins, map::FLOWS)?, arrivals: open(pins, map::ARRIVALS)? })
    }

    /// How many flows fit.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn capacity(&self) -> Result<u32> {
        Ok(self.flows.map().info().context("asking about the map of flows")?.max_entries())
    }

    /// All flows. Those that come and go meanwhile may be among them, or not.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn all(&self) -> Result<Vec<(Tuple, Flow)>> {
        let (mut all, mut cursor) = (Vec::new(), Cursor::default());
        loop {
            match kernel::read_hash(&self.flows, &mut cursor, sweep::STEP) {
                Ok((some, more)) => {
                    all.extend(some);
                    if !more {
                        return Ok(all);
                    }
                }
                // Whoever has the bucket has it for less than a microsecond.
                Err(error) if is_busy(&error) => {}
                Err(error) => return Err(error).context("reading the map of flows"),
            }
        }
    }

    fn flow(&self, key: &Tuple) -> io::Result<Option<Flow>> {
        found(self.flows.get(key, 0))
    }

    /// Notes that what arrives with this tuple is for netfilter, so that no flow takes the name; or that it still is. Whoever
    /// has the name already keeps it.
    ///
    /// # Errors
    /// When the map is full, or the kernel refuses.
    pub fn leave_to_netfilter(&mut self, tuple: &Tuple, now_ns: u64) -> io::Result<()> {
        let flags = match found(self.arrivals.get(tuple, 0))? {
            None => NOT_OVER_ANOTHER,
            Some(known) if known.address == Address::ANY_V6 => 0,
            Some(_) => return Ok(()),
        };
        let note = Arrival {
            address: Address::ANY_V6,
            born: now_ns,
            port: Port::new(0),
            source_port: Port::new(0),
            flags: arrival_flag::REPLY,
            noted: 0,
            seal: 0,
        };
        match self.arrivals.insert(tuple, note.sealed(tuple), flags) {
            Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(())
            }
            Err(MapError::SyscallError(error)) => Err(error.io_error),
            other => other.map_err(io::Error::other),
        }
    }

    /// Deletes a flow and the arrivals that lead to it: in the order, and for the reasons, of
    /// [`proxy_common::decision::packet::remove`].
    fn remove(&mut self, key: &Tuple, flow: &Flow) -> io::Result<()> {
        self.remove_arrival(&flow.asked(key), flow.born)?;
        if flow.is_masqueraded() {
            self.remove_arrival(&flow.answered(key), flow.born)?;
        }
        found(self.flows.remove(key)).map(drop)
    }

    /// Deletes an arrival if it is the one that was written at that time.
    fn remove_arrival(&mut self, tuple: &Tuple, born: u64) -> io::Result<bool> {
        match found(self.arrivals.get(tuple, 0))? {
            Some(arrival) if arrival.born == born => Ok(found(self.arrivals.remove(tuple))?.is_some()),
            _ => Ok(false),
        }
    }
}

fn open<V: Pod>(pins: &Pins, name: &str) -> Result<HashMap<MapData, Tuple, V>> {
    let path = pins.map(name);
    let data = MapData::from_pin(&path).with_context(|| {
        format!("cannot open {}: is kubeshunt running, with this --bpffs-root?", path.display())
    })?;
    HashMap::try_from(Map::HashMap(data)).with_context(|| format!("{} is of another type", path.display()))
}

/// What is not there is no failure.
pub(super) fn found<T>(result: Result<T, MapError>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(MapError::SyscallError(error)) => Err(error.io_error),
        Err(other) => Err(io::Error::other(other)),
    }
}

/// Whether somebody has the bucket in hand right now. Kernels before 6.15 say so where they would have to wait.
#[must_use]
pub fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

/// The clock that the programs read: `CLOCK_MONOTONIC`, nanoseconds.
///
/// # Errors
/// When there is none.
pub fn now() -> io::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let parts = (u64::try_from(time.tv_sec()), u64::try_from(time.tv_nsec()));
    let (Ok(seconds), Ok(nanoseconds)) = parts else {
        return Err(io::Error::other("the monotonic clock stands before its beginning"));
    };
    Ok(seconds * 1_000_000_000 + nanoseconds)
}
