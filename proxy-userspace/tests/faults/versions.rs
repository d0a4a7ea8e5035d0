//! Which version of each object the maps have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::store::{Moment, SERVICES, SLICES};
use crate::view::{self, View};

/// By object the moment whose version of it the maps have had last.
#[derive(Default)]
pub(crate) struct Versions {
    services: BTreeMap<u8, usize>,
    slices: BTreeMap<u8, usize>,
}

impl Versions {
    /// Each object is as it was at one moment, and that is none before the last one seen of it.
    pub(crate) fn check(&mut self, moments: &[Moment], view: &View) -> Result<(), String> {
        let served: BTreeSet<u32> = view.values().map(|(stamp, _)| *stamp).collect();
        let is_served = |stamp: u16| served.contains(&stamp.into());
        let endpoints: BTreeSet<u16> =
            view.values().flat_map(|(_, backends)| backends).map(|at| stamp(at.ip())).collect();
        let mut found = Moment::default();
        for id in 0..SERVICES {
            let version = |moment: &Moment| moment.services.get(&id).cloned();
            let is_any = moments.iter().filter_map(version).any(|own| is_served(own.stamp));
            let is_so = |moment: &Moment| version(moment).map_or(!is_any, |own| is_served(own.stamp));
            let at = forward(&mut self.services, id, moments, is_so)
                .ok_or_else(|| format!("service-{id}: {view:?}"))?;
            found.services.extend(version(&moments[at]).map(|own| (id, own)));
        }
        for id in 0..SLICES {
            let version = |moment: &Moment| moment.slices.get(&id).cloned();
            let is_any = moments.iter().filter_map(version).any(|own| endpoints.contains(&own.stamp));
            // One whose Service is not there cannot be seen.
            let is_so = |moment: &Moment| match version(moment) {
                Some(own) if is_any => endpoints.contains(&own.stamp),
                Some(own) => !found.services.contains_key(&own.of),
                None => !is_any,
            };
            let at = forward(&mut self.slices, id, moments, is_so)
                .ok_or_else(|| format!("slice-{id}: {view:?}"))?;
            found.slices.extend(version(&moments[at]).map(|own| (id, own)));
        }
        if view::expected(&found, &found) == *view {
            Ok(())
        } else {
            Err(format!("of these objects the maps should say something else: {view:?}"))
        }
    }
}

/// The first moment not before the last one at which something is so.
fn forward(
    seen: &mut BTreeMap<u8, usize>,
    id: u8,
    moments: &[Moment],
    is_so: impl Fn(&Moment) -> bool,
) -> Option<usize> {
    let last = seen.entry(id).or_default();
    *last = (*last..moments.len()).find(|at| is_so(&moments[*at]))?;
    Some(*last)
}

/// What a slice's addresses end in.
fn stamp(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(address) => u16::from_be_bytes([address.octets()[2], address.octets()[3]]),
        IpAddr::V6(_) => 0,
    }
}
