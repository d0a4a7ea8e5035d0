//! Reading the maps back a little at a time, for the auditor. Arrays are read from memory, hashes by few system calls.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aya::maps::lpm_trie::Key;
use proxy_common::layout::{
    Backend, Frontend, FrontendKey, Revision, Service, Source, map, node_address, scope,
};

use super::{Datapath, contents, flows::found, kernel, source};
use crate::{
    plan::{NodeAddresses, SourceRange},
    tables::ranges::Ranges,
};

impl Datapath {
    /// What the map holds for a frontend.
    ///
    /// # Errors
    /// When the map cannot be read; so below.
    pub fn frontend(&self, key: &FrontendKey) -> Result<Option<Frontend>> {
        found(self.frontends.get(key, 0)).context("reading the frontends map")
    }

    /// Some frontends from `cursor` on, and whether there are more.
    ///
    /// # Errors
    /// Also when somebody writes to the same bucket right now; the cursor then stays.
    pub fn frontends_from(
        &self,
        cursor: &mut kernel::Cursor,
        most: usize,
    ) -> Result<(Vec<(FrontendKey, Frontend)>, bool)> {
        kernel::read_hash(&self.frontends, cursor, most).context("walking over the frontends map")
    }

    /// The words and the slots.
    #[must_use]
    pub fn words(&self) -> (&[Service], &[Backend]) {
        (self.services.as_slice(), self.backends.as_slice())
    }

    /// The frontends' revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.revision.as_slice().first().copied().unwrap_or_default())
    }

    /// Whether all clients of a range are admitted, by this range or a wider one.
    ///
    /// # Errors
    /// See above.
    pub fn admits(&self, range: &SourceRange) -> Result<bool> {
        let held =
            found(self.sources.get(&source(range), 0)).context("reading the map of admitted clients")?;
        Ok(held.is_some())
    }

    /// The range behind `last` in the map of admitted clients, or the first one.
    ///
    /// # Errors
    /// See above.
    pub fn source_after(&self, last: Option<&SourceRange>) -> Result<Option<SourceRange>> {
        let last = last.map(source);
        let map = self.kept.map(&self.pins.map(map::SOURCES)).context("it was pinned when we began")?;
        let next: Option<Key<Source>> = kernel::next_key(map, last.as_ref())?;
        Ok(next.map(|key| contents::range(&key)))
    }

    /// Whether packets to a frontend's address are looked at.
    #[must_use]
    pub fn is_marked(&self, key: &FrontendKey) -> bool {
        key.scope == scope::NODE_PORT || self.vip_cells.is_marked(&key.address)
    }

    /// The node's own addresses that packets are not looked at for.
    #[must_use]
    pub fn unmarked_of(&self, addresses: &NodeAddresses) -> Vec<proxy_common::address::Address> {
        let own = addresses.iter().filter(|(_, is)| **is & node_address::OWN != 0);
        own.map(|(address, _)| *address).filter(|address| !self.vip_cells.is_marked(address)).collect()
    }

    /// The cgroups that are left alone, and how many the programs think they are.
    ///
    /// # Errors
    /// See above.
    pub fn left_alone(&self) -> Result<(BTreeSet<u64>, u64)> {
        let left =
            self.left_cgroups.keys().collect::<Result<_, _>>().context("reading the map of cgroups")?;
        Ok((left, self.left_count.as_slice().first().copied().unwrap_or_default()))
    }

    /// Where ClusterIPs are taken from, and which clients count as this node's pods.
    #[must_use]
    pub fn ranges(&self) -> [Option<Ranges>; 2] {
        [&self.service_cidrs, &self.pod_cidrs].map(|map| map.as_slice().try_into().ok())
    }
}
