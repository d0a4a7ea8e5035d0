//! The loop's share in the socket hooks: whether they are still attached and do what they should, and how they are mended.
//!
//! Every few seconds: each link leads to our cgroup and our program; our programs are among those that run in some pods'
//! cgroups; and a connection of our own, to a cluster IP of each family, is led to one of its endpoints. The latter only
//! where this process itself is below the cgroup that is served, as it is in a DaemonSet.

use std::{
    fs::File,
    future::pending,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use proxy_common::layout::FrontendKey;
use tokio::time::sleep_until;
use tracing::{info, warn};

use super::{health::Hooks, status::Status};
use crate::{
    cluster::model::Family,
    datapath::{self, Datapath, selftest::Found},
    host::cgroups,
    plan::{Example, Planner},
};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(10);

/// How many pods' cgroups are looked at each time.
const PODS: usize = 4;

/// Looks at the hooks.
#[derive(Debug, Default)]
pub(super) struct HookWatch {
    /// When to look; `None` until programs are attached for the first time.
    next_look: Option<Instant>,
    /// Whether a connection of our own has been led: then the next one is to be led as well.
    has_been_led: bool,
}

impl HookWatch {
    /// Programs have been attached: from now on it is looked.
    pub(super) fn begin(&mut self) {
        self.next_look = Some(Instant::now());
    }

    /// Returns when it is to be looked.
    pub(super) async fn due(&self) {
        match self.next_look {
            Some(at) => sleep_until(at.into()).await,
            None => pending().await,
        }
    }

    /// Looks, mends what can be mended, and says so.
    pub(super) fn look(
        &mut self,
        datapath: &mut Datapath,
        settings: &datapath::Settings,
        planner: &Planner,
        status: &Status,
    ) {
        self.next_look = Some(Instant::now() + LOOK);
        if let Err(error) = mend(datapath, settings, status) {
            warn!("socket hooks cannot be attached again: {error:#}; trying again every {LOOK:?}");
        }
        let hooks = match self.verify(datapath, settings, planner, status) {
            Ok(()) => Hooks::Effective,
            Err(error) => Hooks::Failing(format!("{error:#}")),
        };
        let (was, reason) = (status.health().hooks, hooks.clone());
        if status.hooks(hooks) {
            match (was, reason) {
                (_, Hooks::Failing(reason)) => warn!(
                    "sockets are not led to Services as they should be: {reason}; looking again every {LOOK:?}"
                ),
                (Hooks::Failing(_), _) => info!("sockets are led to Services again"),
                _ => {}
            }
        }
    }

    fn verify(
        &mut self,
        datapath: &Datapath,
        settings: &datapath::Settings,
        planner: &Planner,
        status: &Status,
    ) -> Result<()> {
        let root = &settings.cgroup_root;
        let astray = datapath.hooks_astray(settings)?;
        ensure!(astray.is_empty(), "{} not attached to {}", astray.join(", "), root.display());
        expect_effective(datapath, root).with_context(|| format!("in the cgroup {}", root.display()))?;
        for pod in cgroups::some_pods(root, PODS) {
            let verdict = expect_effective(datapath, &pod);
            // A pod may have gone meanwhile, and its cgroup with it.
            if pod.exists() {
                verdict.with_context(|| format!("in the pod's cgroup {}", pod.display()))?;
            }
        }
        let is_to_be_led = self.has_been_led || cgroups::is_below(root) == Some(true);
        for family in status.health().families {
            let Some(Example { key, id, backends }) = planner.example(family == Family::V4) else { continue };
            match datapath.try_out(&key)? {
                Found::Led(origin) => {
                    self.has_been_led = true;
                    status.metrics.tried_out(id);
                    status.metrics.hooks.tested("led");
                    let slots = datapath.backends().iter().skip(backends.start as usize);
                    let mut endpoints = slots.take(backends.len as usize);
                    ensure!(
                        origin.service == id
                            && endpoints.any(|one| one.is_at(&origin.backend, origin.backend_port)),
                        "a connection to {} was led to {}, which is none of its endpoints",
                        shown(&key),
                        origin.backend
                    );
                }
                Found::Diverted(to) => {
                    status.metrics.tried_out(id);
                    status.metrics.hooks.tested("diverted");
                    bail!("a connection to {} ended at {to}: some other program interferes", shown(&key))
                }
                Found::Untouched => {
                    status.metrics.hooks.tested("untouched");
                    ensure!(!is_to_be_led, "a connection to {} was not led to an endpoint", shown(&key));
                }
            }
        }
        Ok(())
    }
}

/// Attaches again what is not attached as it should be.
fn mend(datapath: &mut Datapath, settings: &datapath::Settings, status: &Status) -> Result<()> {
    let astray = datapath.hooks_astray(settings)?;
    if astray.is_empty() {
        return Ok(());
    }
    status.metrics.drift.found("hook", astray.len());
    datapath.attach(settings)?;
    datapath.hold_links()?;
    status.metrics.drift.repaired("hook", astray.len());
    warn!(hooks = astray.join(","), "somebody had detached socket hooks; attached again");
    Ok(())
}

fn expect_effective(datapath: &Datapath, cgroup: &Path) -> Result<()> {
    let folder = File::open(cgroup).context("cannot open it")?;
    match datapath.ineffective_in(&folder)? {
        Some(hook) => bail!("our program for {hook} does not run"),
        None => Ok(()),
    }
}

fn shown(key: &FrontendKey) -> String {
    SocketAddr::new(key.address.to_ip(), key.port.number()).to_string()
}
