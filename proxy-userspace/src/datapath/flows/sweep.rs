//! Passes that remove what is over, a step at a time: who calls has the pace, and the clock.

use std::io;

use proxy_common::layout::{PortRanges, Tuple};

use super::{FlowMaps, is_busy};
use crate::{
    datapath::kernel::{Cursor, read_hash},
    flows::{
        age::{Timeouts, is_over},
        census::Census,
        orphan::{is_orphan, key_of},
        stale::Served,
    },
};

/// How many entries a step looks at.
pub const STEP: usize = 512;

/// What flows are judged by.
#[derive(Clone, Copy, Debug)]
pub struct Judge {
    /// How long they may be idle.
    pub timeouts: Timeouts,
    /// From which ports masqueraded ones take theirs.
    pub ports: PortRanges,
}

/// A pass over all flows, as far as it has come.
#[derive(Debug, Default)]
pub struct FlowSweep {
    cursor: Cursor,
    /// Those that stay.
    pub census: Census,
    /// Those that were removed.
    pub removed: u32,
}

enum Fate {
    Stays,
    Removed,
    /// Somebody else has removed it.
    Gone,
}

impl FlowSweep {
    /// Takes a step; `false` after the last.
    ///
    /// # Errors
    /// When the kernel refuses. The step can be tried again if [`super::FlowMaps`] was only busy: nothing was counted.
    pub fn step(&mut self, maps: &mut FlowMaps, judge: &Judge, now_ns: u64) -> io::Result<bool> {
        let (entries, more) = read_hash(&maps.flows, &mut self.cursor, STEP)?;
        for (key, flow) in entries {
            let fate = if is_over(&flow, key.protocol, now_ns, &judge.timeouts) {
                remove(maps, &key, judge, now_ns)?
            } else {
                Fate::Stays
            };
            match fate {
                Fate::Stays => self.census.count(&key, &flow, judge.ports),
                Fate::Removed => self.removed += 1,
                Fate::Gone => {}
            }
        }
        Ok(more)
    }
}

/// Removes a flow that was over, if it still is: a packet may have come since, or another flow with the same tuple.
fn remove(maps: &mut FlowMaps, key: &Tuple, judge: &Judge, now_ns: u64) -> io::Result<Fate> {
    let removed = maps.flow(key).and_then(|flow| match flow {
        None => Ok(Fate::Gone),
        Some(flow) if is_over(&flow, key.protocol, now_ns, &judge.timeouts) => {
            maps.remove(key, &flow).map(|()| Fate::Removed)
        }
        Some(_) => Ok(Fate::Stays),
    });
    match removed {
        // The next pass finds it again.
        Err(error) if is_busy(&error) => Ok(Fate::Stays),
        other => other,
    }
}

/// A pass over all flows that looks for those to backends that serve no more, as far as it has come.
#[derive(Debug, Default)]
pub struct StaleSweep {
    cursor: Cursor,
    /// How many were removed, IPv4's and IPv6's.
    pub removed: [u32; 2],
    /// Whether one could not be removed just then: another pass finds it.
    pub has_missed: bool,
}

impl StaleSweep {
    /// Takes a step; `false` after the last.
    ///
    /// # Errors
    /// As [`FlowSweep::step`].
    pub fn step(&mut self, maps: &mut FlowMaps, served: &Served) -> io::Result<bool> {
        let (entries, more) = read_hash(&maps.flows, &mut self.cursor, STEP)?;
        for (key, flow) in entries {
            if served.leaves(&key, &flow) {
                match maps.remove(&key, &flow) {
                    Ok(()) => self.removed[usize::from(!flow.vip.is_v4())] += 1,
                    Err(error) if is_busy(&error) => self.has_missed = true,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(more)
    }
}

/// A pass over all arrivals, as far as it has come.
#[derive(Debug, Default)]
pub struct OrphanSweep {
    cursor: Cursor,
    /// How many led nowhere.
    pub removed: u32,
}

impl OrphanSweep {
    /// Takes a step; `false` after the last.
    ///
    /// # Errors
    /// As [`FlowSweep::step`].
    pub fn step(&mut self, maps: &mut FlowMaps, now_ns: u64) -> io::Result<bool> {
        let (entries, more) = read_hash(&maps.arrivals, &mut self.cursor, STEP)?;
        for (tuple, arrival) in entries {
            let removed = maps.flow(&key_of(&tuple, &arrival)).and_then(|flow| {
                Ok(is_orphan(&arrival, flow.as_ref(), now_ns) && maps.remove_arrival(&tuple, arrival.born)?)
            });
            match removed {
                Ok(removed) => self.removed += u32::from(removed),
                Err(error) if is_busy(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(more)
    }
}
