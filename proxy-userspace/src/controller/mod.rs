//! The loop: changes in, map writes out.
//!
//! I/O at its ends, pure in between: a change goes through [`Cluster`], the tables of the Services it touched
//! are derived, the plan is made and carried out. Nothing is planned before Services and EndpointSlices have
//! been listed completely; until then whatever an earlier process left in the maps goes on serving.
//!
//! When a write fails, the maps hold a servable prefix of the plan; they are read back and everything is planned
//! anew, after a pause that grows.

mod announce;
mod audit;
mod devices;
pub mod health;
mod hooks;
pub mod metrics;
mod retry;
pub mod sockets;
pub mod status;
mod surroundings;
pub mod sweep;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result};
use proxy_common::address::Address;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tracing::{debug, error, info, warn};

use crate::{
    cluster::{Cluster, change::Change, model::ServiceName},
    datapath::{self, Datapath, kernel},
    events::Event,
    flows::backing::Stage,
    heap,
    host::{cgroups::Cgroups, devices::Devices},
    plan::{Extent, Plan, Planner, Problem},
    tables::{self, lacking::Lacking},
};
pub use announce::Hears;
use audit::Auditor;
use devices::DeviceWatch;
use hooks::HookWatch;
use metrics::kube_proxy::Synced;
use retry::Retry;
use status::Status;
pub use surroundings::Chosen;
use surroundings::Surroundings;

/// How many queued changes are taken in before the tables are derived: bounds the delay of the first one.
const BATCH: usize = 4096;

/// Everything the loop works on.
pub struct Controller {
    settings: datapath::Settings,
    datapath: Datapath,
    cluster: Cluster,
    planner: Planner,
    /// What the next plan speaks of: everything until that has been carried out once.
    extent: Extent,
    /// Whether the maps hold what the source says.
    synced: bool,
    /// Services that found no room, to be tried again when something is released.
    unplaced: BTreeSet<ServiceName>,
    /// Services of which the maps were found to say something else, to be planned anew.
    drifted: BTreeSet<ServiceName>,
    /// Problems already told, by Service.
    told: HashMap<ServiceName, Vec<Problem>>,
    attached: bool,
    status: Arc<Status>,
    hears: Hears,
    chosen: Chosen,
    surroundings: Surroundings,
    /// Service ports without an endpoint where their policy wants one.
    lacking: Lacking,
}

impl Controller {
    /// Opens the datapath and reads back what it holds.
    ///
    /// # Errors
    /// See [`Datapath::open`].
    pub fn new(
        settings: datapath::Settings,
        node_name: &str,
        status: Arc<Status>,
        hears: Hears,
        chosen: Chosen,
    ) -> Result<Self> {
        let datapath = Datapath::open(&settings)?;
        status.metrics.tables.remembers(datapath.memory()?);
        let observed = datapath.observe()?;
        if !observed.frontends.is_empty() {
            info!(frontends = observed.frontends.len(), "going on from the maps an earlier process left");
        }
        let planner = Planner::adopt(datapath.capacity(), observed);
        for (map, wanted, is) in [
            ("frontends", settings.capacity.frontends, datapath.capacity().frontends),
            ("services", settings.capacity.services, datapath.capacity().services),
            ("backends", settings.capacity.backends, datapath.capacity().backends),
        ] {
            if wanted != is {
                warn!(
                    map,
                    wanted,
                    is,
                    "the map keeps its size, which is larger; `kubeshunt cleanup` makes room for another"
                );
            }
        }
        Ok(Self {
            settings,
            datapath,
            cluster: if chosen.serves_external_ips {
                Cluster::new(node_name)
            } else {
                Cluster::new(node_name).without_external_ips()
            },
            planner,
            extent: Extent::Everything,
            synced: false,
            unplaced: BTreeSet::new(),
            drifted: BTreeSet::new(),
            told: HashMap::new(),
            attached: false,
            status,
            hears,
            chosen,
            surroundings: Surroundings::default(),
            lacking: Lacking::default(),
        })
    }

    /// The datapath, for who reads its counters or its log.
    pub fn datapath(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// Runs until the source ends. Without devices nothing is attached to any.
    ///
    /// # Errors
    /// When the programs cannot be attached, or the source is gone.
    pub async fn run(
        mut self,
        mut changes: mpsc::Receiver<Change>,
        mut addresses: watch::Receiver<BTreeSet<Address>>,
        devices: Option<watch::Receiver<Devices>>,
        mut left: watch::Receiver<Option<Cgroups>>,
    ) -> Result<()> {
        let mut devices = DeviceWatch::new(devices);
        let (mut hooks, mut auditor) = (HookWatch::default(), Auditor::default());
        let mut grace: Option<JoinHandle<Result<()>>> = None;
        let mut grace_epoch = 0;
        let (mut retry, mut retry_surroundings) = (Retry::default(), Retry::default());
        self.surroundings.own = addresses.borrow_and_update().clone();
        loop {
            self.surroundings.are_due |= self.cluster.take_surroundings_changed();
            self.status.node(self.cluster.node().stay);
            if self.surroundings.are_due && !retry_surroundings.is_waiting() {
                match self.settle_surroundings() {
                    Ok(()) => {
                        self.surroundings.are_due = false;
                        retry_surroundings.worked();
                    }
                    Err(failure) => {
                        self.status.metrics.tables.failed();
                        let pause = retry_surroundings.failed();
                        error!("{failure:#}; trying again in {pause:?}");
                    }
                }
            }
            if self.synced && !self.surroundings.are_due {
                auditor.settled(&self.status);
            }
            if grace.is_none()
                && let Some(epoch) = self.planner.awaits_grace()
            {
                grace_epoch = epoch;
                // Milliseconds of waiting in the kernel: not on this thread.
                grace = Some(tokio::task::spawn_blocking(kernel::grace_period));
            }
            let due = tokio::select! {
                // In this order: a released run of slots may be what the next change needs.
                biased;
                result = async { grace.as_mut().expect("guarded").await }, if grace.is_some() => {
                    grace = None;
                    result.context("the grace period's thread died")??;
                    self.planner.release(grace_epoch);
                    !self.unplaced.is_empty()
                }
                () = retry.due() => true,
                () = retry_surroundings.due() => false,
                changed = addresses.changed() => {
                    changed.context("the watch on this node's addresses ended")?;
                    self.surroundings.own = addresses.borrow_and_update().clone();
                    self.surroundings.are_due = true;
                    false
                }
                changed = left.changed() => {
                    changed.context("the watch on pods' cgroups ended")?;
                    self.surroundings.left.clone_from(&left.borrow_and_update());
                    self.surroundings.are_due = true;
                    false
                }
                due = devices.due() => {
                    due?;
                    self.restore_pins()?;
                    devices.bring_in_line(&mut self.datapath, &self.status).await;
                    false
                }
                () = hooks.due() => {
                    self.restore_pins()?;
                    hooks.look(&mut self.datapath, &self.settings, &self.planner, &self.status);
                    false
                }
                () = auditor.due() => self.audit(&mut auditor),
                change = changes.recv() => {
                    let Some(change) = change else { return Ok(()) };
                    self.take_in(change);
                    for _ in 1..BATCH {
                        let Ok(change) = changes.try_recv() else { break };
                        self.take_in(change);
                    }
                    true
                }
            };
            if !due || !self.cluster.is_complete() {
                continue;
            }
            match self.timed_sync() {
                Ok(()) => retry.worked(),
                Err(failure) => {
                    let pause = retry.failed();
                    error!("{failure:#}; reading the maps back and trying again in {pause:?}");
                    self.status.metrics.tables.failed();
                    // The new planner counts its plans anew, and knows nothing of slots in limbo: what is
                    // under way for the old one must not release anything, and readers must be gone first.
                    grace = None;
                    let readers_gone = tokio::task::spawn_blocking(kernel::grace_period);
                    readers_gone.await.context("the grace period's thread died")??;
                    self.planner = Planner::adopt(self.datapath.capacity(), self.datapath.observe()?);
                    self.extent = Extent::Everything;
                    self.synced = false;
                }
            }
            if !self.attached && self.synced {
                let attached = self.datapath.attach(&self.settings)?;
                info!(
                    created = attached.created,
                    replaced = attached.replaced,
                    cgroup = %self.settings.cgroup_root.display(),
                    "programs attached; serving"
                );
                devices.bring_in_line(&mut self.datapath, &self.status).await;
                if let Err(error) = self.datapath.let_go_of_older_maps() {
                    warn!("{error:#}; some connections of before may break");
                }
                self.datapath.hold_links()?;
                self.attached = true;
                hooks.begin();
                auditor.begin();
                self.status.serving();
            }
        }
    }

    fn take_in(&mut self, change: Change) {
        let is_list = matches!(change, Change::Listed(..));
        let taking = self.hears.trace.takes_in(&change);
        let rejects = self.cluster.apply(change);
        self.hears.trace.taken_in(taking);
        for reject in rejects {
            self.status.metrics.tables.rejected();
            warn!("{reject}");
            self.hears.events.record(|| Event::of_reject(&reject));
        }
        // Before, there is nothing to be done.
        if self.cluster.is_complete() {
            self.status.change_queued(&self.cluster);
        }
        if is_list {
            heap::give_back();
        }
    }

    /// Brings the maps in line with the cluster, and says how long it took.
    fn timed_sync(&mut self) -> Result<()> {
        let (started, is_full) = (Instant::now(), self.extent == Extent::Everything);
        let result = self.sync();
        self.status.sync_ended(&Synced { took: started.elapsed(), is_full, has_worked: result.is_ok() });
        result
    }

    /// Brings the maps in line with the cluster.
    fn sync(&mut self) -> Result<()> {
        let started = Instant::now();
        let mut course = self.hears.trace.sync();
        let mut names = self.cluster.take_dirty();
        names.append(&mut self.unplaced);
        names.append(&mut self.drifted);
        // What nobody mentions is removed only where nobody could have failed to mention it.
        let whole = self.cluster.is_whole();
        if self.extent == Extent::Everything && (whole || !self.synced) {
            names.extend(self.cluster.service_names().cloned());
        }
        let desired: Vec<_> = names
            .into_iter()
            .map(|name| {
                let tables = tables::of_service(&self.cluster, &name);
                (name, tables)
            })
            .collect();
        course.passed("tables");
        let is_same = desired.is_empty() && !self.planner.has_suspects();
        if is_same && self.extent == Extent::Changes && self.synced {
            self.status.synced(&self.planner, &mut self.cluster, 0, started.elapsed());
            self.hears.trace.synced(course, 0);
            return Ok(());
        }
        for (name, tables) in &desired {
            self.lacking.take_over(name, tables);
        }
        let names: Vec<ServiceName> = desired.iter().map(|(name, _)| name.clone()).collect();
        let extent = if whole { self.extent } else { Extent::Changes };
        let plan = self.planner.plan(self.datapath.backends(), desired, extent);
        course.passed("plan");
        let rosters = self.rosters(&names, &plan.operations);
        self.announce(&rosters, Stage::Coming);
        self.datapath.carry_out(&plan.operations)?;
        course.passed("write");
        self.announce(&rosters, self.made());
        self.tell_balancers(&names);
        self.status.planned(&self.planner, &names, &self.lacking);
        if self.extent == Extent::Everything {
            self.status.metrics.services.retain(&self.cluster);
        }
        if whole {
            self.extent = Extent::Changes;
        } else if !self.synced {
            warn!(
                "not all objects can be read: what an earlier process served and nobody mentions now stays"
            );
        }
        self.synced = true;
        let operations = plan.operations.len();
        self.tell(&names, plan);
        self.status.synced(&self.planner, &mut self.cluster, operations, started.elapsed());
        self.hears.trace.synced(course, operations);
        debug!(operations, elapsed = ?started.elapsed(), "maps written");
        Ok(())
    }

    /// Reports what a plan left undone, each thing once for as long as it lasts.
    fn tell(&mut self, planned: &[ServiceName], plan: Plan) {
        let mut now: HashMap<ServiceName, Vec<Problem>> = HashMap::new();
        for problem in plan.problems {
            now.entry(problem.port().service.clone()).or_default().push(problem);
        }
        // What is said of a Service that was planned is all there is to say; of another one it comes on top.
        let before: HashMap<&ServiceName, Vec<Problem>> =
            planned.iter().filter_map(|name| Some((name, self.told.remove(name)?))).collect();
        for (name, problems) in now {
            let told = self.told.entry(name).or_default();
            for problem in problems {
                let is_known =
                    before.get(&problem.port().service).is_some_and(|list| list.contains(&problem))
                        || told.contains(&problem);
                if !is_known {
                    self.status.metrics.tables.rejected();
                    warn!("{problem}");
                    self.hears.events.record(|| Some(Event::of_problem(&problem)));
                }
                told.push(problem);
            }
        }
        self.unplaced = plan.unplaced;
        self.status.without_room(self.unplaced.iter());
    }
}
