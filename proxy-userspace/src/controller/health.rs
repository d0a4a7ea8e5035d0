//! Whether this process does its work: what kube-proxy means by it (`pkg/proxy/healthcheck/proxy_health.go`), and whether
//! the hooks are in force.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use crate::cluster::model::{Family, ServiceName, Stay};

/// What health is judged by.
#[derive(Clone, Debug)]
pub struct Expectations {
    /// How long a change may wait: twice kube-proxy's syncPeriod.
    pub patience: Duration,
    /// Whether there must be an object of this node. Not so where objects come from a folder.
    pub needs_node: bool,
    /// The families that this node speaks.
    pub families: Vec<Family>,
}

impl Default for Expectations {
    /// As kube-proxy has them by default.
    fn default() -> Self {
        Self { patience: Duration::from_secs(60), needs_node: true, families: vec![Family::V4, Family::V6] }
    }
}

/// Whether sockets are led to Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Hooks {
    /// Tables are not complete: nothing of this process is attached.
    #[default]
    NotYet,
    /// Everything is attached and does what it should.
    Effective,
    /// Not everything, and this is why.
    Failing(String),
}

/// The state of health at one moment.
#[derive(Clone, Debug)]
pub struct Health {
    /// No change has waited too long, the hooks are in force, and nobody has done what cannot be set right.
    pub is_healthy: bool,
    /// No change has waited too long.
    pub is_in_time: bool,
    /// This node stays, as far as is known: load balancers may send it something.
    pub is_node_eligible: bool,
    /// Tables are complete and programs attached.
    pub is_serving: bool,
    /// When the maps were last brought in line; the start, before that.
    pub last_updated: SystemTime,
    /// The hooks.
    pub hooks: Hooks,
    /// What somebody else has done and could not be set right, and why: `maps`, `pins`.
    pub faults: BTreeMap<&'static str, String>,
    /// Services that are not served as they should be because a map is full: how many, and the first few.
    pub without_room: (usize, Vec<ServiceName>),
    /// The families that this node speaks.
    pub families: Vec<Family>,
}

/// How many Services without room are named.
const NAMED: usize = 10;

/// What health is made of.
#[derive(Debug)]
pub(super) struct Vitals {
    expectations: Expectations,
    /// Since when a change has been waiting.
    waiting: Option<Instant>,
    last_updated: SystemTime,
    stay: Stay,
    hooks: Hooks,
    faults: BTreeMap<&'static str, String>,
    without_room: (usize, Vec<ServiceName>),
    is_serving: bool,
}

impl Vitals {
    pub(super) fn new(expectations: Expectations) -> Self {
        Self {
            expectations,
            waiting: None,
            last_updated: SystemTime::now(),
            stay: Stay::Unknown,
            hooks: Hooks::NotYet,
            faults: BTreeMap::new(),
            without_room: (0, Vec::new()),
            is_serving: false,
        }
    }

    /// Something is to be done, now.
    pub(super) fn queued(&mut self) {
        self.waiting.get_or_insert_with(Instant::now);
    }

    /// All of it is done, now.
    pub(super) fn updated(&mut self) {
        self.waiting = None;
        self.last_updated = SystemTime::now();
    }

    pub(super) fn node(&mut self, stay: Stay) {
        self.stay = stay;
    }

    pub(super) fn serving(&mut self) {
        self.is_serving = true;
    }

    /// Says whether that is news.
    pub(super) fn hooks(&mut self, hooks: Hooks) -> bool {
        let is_news = self.hooks != hooks;
        self.hooks = hooks;
        is_news
    }

    /// Something cannot be set right, or can again.
    pub(super) fn fault(&mut self, what: &'static str, reason: Option<String>) -> bool {
        let before = match &reason {
            Some(reason) => self.faults.insert(what, reason.clone()),
            None => self.faults.remove(what),
        };
        before != reason
    }

    pub(super) fn without_room<'a>(&mut self, services: impl ExactSizeIterator<Item = &'a ServiceName>) {
        self.without_room = (services.len(), services.take(NAMED).cloned().collect());
    }

    pub(super) fn families(&self) -> &[Family] {
        &self.expectations.families
    }

    pub(super) fn health(&self) -> Health {
        let Expectations { patience, needs_node, families } = &self.expectations;
        let is_in_time = self.waiting.is_none_or(|since| since.elapsed() < *patience);
        Health {
            is_healthy: is_in_time && !matches!(self.hooks, Hooks::Failing(_)) && self.faults.is_empty(),
            is_in_time,
            is_node_eligible: match self.stay {
                Stay::Stays => true,
                Stay::Leaves => false,
                Stay::Unknown => !needs_node,
            },
            is_serving: self.is_serving,
            last_updated: self.last_updated,
            hooks: self.hooks.clone(),
            faults: self.faults.clone(),
            without_room: self.without_room.clone(),
            families: families.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vitals(patience: Duration) -> Vitals {
        Vitals::new(Expectations { patience, ..Expectations::default() })
    }

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy_until_it_is_made() {
        let mut vitals = vitals(Duration::ZERO);
        assert!(vitals.health().is_healthy, "before the first change");
        vitals.queued();
        assert!(!vitals.health().is_healthy);
        vitals.updated();
        assert!(vitals.health().is_healthy);
        let mut patient = self::vitals(Duration::from_secs(3600));
        patient.queued();
        assert!(patient.health().is_healthy);
    }

    #[test]
    fn hooks_that_fail_are_unhealthy_though_nothing_waits() {
        let mut vitals = vitals(Duration::from_secs(60));
        assert!(vitals.hooks(Hooks::Failing("detached".to_owned())));
        assert!(!vitals.hooks(Hooks::Failing("detached".to_owned())), "no news");
        let health = vitals.health();
        assert_eq!((health.is_healthy, health.is_in_time), (false, true));
        assert!(vitals.hooks(Hooks::Effective));
        assert!(vitals.health().is_healthy);
    }

    #[test]
    fn what_cannot_be_set_right_is_unhealthy_until_it_is() {
        let mut vitals = vitals(Duration::from_secs(60));
        assert!(vitals.fault("pins", Some("no bpffs".to_owned())));
        assert!(!vitals.fault("pins", Some("no bpffs".to_owned())), "no news");
        let health = vitals.health();
        assert_eq!((health.is_healthy, health.is_in_time, health.faults.len()), (false, true, 1));
        assert!(vitals.fault("pins", None) && vitals.health().is_healthy);
    }

    #[test]
    fn a_node_that_nobody_knows_is_eligible_only_where_none_is_to_be_known() {
        let mut vitals = vitals(Duration::from_secs(60));
        assert!(!vitals.health().is_node_eligible);
        vitals.node(Stay::Stays);
        assert!(vitals.health().is_node_eligible);
        vitals.node(Stay::Leaves);
        let health = vitals.health();
        assert_eq!((health.is_node_eligible, health.is_healthy), (false, true));
        let without = Vitals::new(Expectations { needs_node: false, ..Expectations::default() });
        assert!(without.health().is_node_eligible);
    }
}
