//! From changes to the maps, as the controller's loop has it; and whether the API has ever said what they say.

use proxy_userspace::cluster::Cluster;
use proxy_userspace::cluster::change::Change;
use proxy_userspace::cluster::model::ServiceName;
use proxy_userspace::plan::simulated::Maps;
use proxy_userspace::plan::{Capacity, Extent, Planner};
use proxy_userspace::tables;

use crate::store::Moment;
use crate::versions::Versions;
use crate::view::{self, View};

/// Its name.
pub(crate) const NODE: &str = "node-a";

const CAPACITY: Capacity = Capacity { frontends: 64, services: 32, backends: 256 };

pub(crate) struct Node {
    cluster: Cluster,
    planner: Planner,
    maps: Maps,
    extent: Extent,
    /// The moments whose Services and whose slices the maps have had last.
    seen: (usize, usize),
    versions: Versions,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self {
            cluster: Cluster::new(NODE),
            planner: Planner::new(CAPACITY),
            maps: Maps::new(CAPACITY),
            extent: Extent::Everything,
            seen: (0, 0),
            versions: Versions::default(),
        }
    }

    pub(crate) fn take_in(&mut self, change: Change) -> Result<(), String> {
        let rejects = self.cluster.apply(change);
        if rejects.is_empty() { Ok(()) } else { Err(format!("{rejects:?}")) }
    }

    /// Brings the maps in line, once there is enough to go by.
    pub(crate) fn settle(&mut self) {
        if !self.cluster.is_complete() {
            return;
        }
        let mut names = self.cluster.take_dirty();
        if self.extent == Extent::Everything {
            names.extend(self.cluster.service_names().cloned());
        }
        let of = |name: ServiceName| {
            let tables = tables::of_service(&self.cluster, &name);
            (name, tables)
        };
        let desired = names.into_iter().map(of).collect();
        let plan = self.planner.plan(&self.maps.backends, desired, self.extent);
        self.extent = Extent::Changes;
        assert!(plan.unplaced.is_empty() && plan.problems.is_empty(), "{:?}", plan.problems);
        self.maps.carry_out(&plan.operations);
        self.planner.release(plan.epoch);
    }

    /// Whether the maps have been written.
    pub(crate) fn serves(&self) -> bool {
        self.extent == Extent::Changes
    }

    pub(crate) fn view(&self) -> View {
        view::of_maps(&self.maps)
    }

    /// Each kind is as it was at one moment of the API, and that is none before the last one seen. Where events come out
    /// of order this is so of each object.
    pub(crate) fn check(&mut self, moments: &[Moment], are_in_order: bool) -> Result<(), String> {
        if !self.serves() {
            return Ok(());
        }
        let view = self.view();
        if !are_in_order {
            return self.versions.check(moments, &view);
        }
        let (services, slices) = self.seen;
        let Some(services) = (services..moments.len()).find(|at| view::has_services(&view, &moments[*at]))
        else {
            return Err(format!("since {services} there were no such Services: {view:?}"));
        };
        let is_so = |at: &usize| view::expected(&moments[services], &moments[*at]) == view;
        let Some(slices) = (slices..moments.len()).find(is_so) else {
            return Err(format!("since {slices} there were no such slices: {view:?}"));
        };
        self.seen = (services, slices);
        Ok(())
    }
}
