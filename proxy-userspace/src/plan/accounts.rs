//! Whose connections the programs have counted.
//!
//! The programs count by id, from the creation of the map on, and ids pass from one Service to another. So each id has an
//! account: how far it had been counted when it was last looked at, and for whom what is counted from there on.
//!
//! Invariants: no Service inherits what was counted for another; a number never goes back as long as its Service exists;
//! there are no more Services with numbers of their own than were asked for.

use std::collections::{BTreeMap, HashMap};

use proxy_common::layout::Fate;

use crate::cluster::model::ServiceName;

/// How many have met each [`Fate`].
pub type Tally = [u64; Fate::COUNT];

/// Numbers by Service.
#[derive(Debug, Default)]
pub struct Accounts {
    by_id: HashMap<u32, Account>,
    ids: HashMap<ServiceName, Vec<u32>>,
    totals: BTreeMap<ServiceName, Tally>,
    others: Tally,
    most: usize,
}

#[derive(Debug)]
struct Account {
    service: ServiceName,
    /// What was counted under the id when it was last looked at.
    seen: Tally,
}

impl Accounts {
    /// For that many Services with numbers of their own; what is counted for the rest is put together.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, ..Self::default() }
    }

    /// From now on a Service has exactly these ids. `counted` says what has been counted under an id by now.
    pub fn assign(&mut self, service: &ServiceName, ids: &[u32], counted: impl Fn(u32) -> Tally) {
        if self.most == 0 || self.ids.get(service).is_some_and(|before| before == ids) {
            return;
        }
        for id in self.ids.remove(service).unwrap_or_default() {
            if !ids.contains(&id) {
                self.close(id, service, &counted);
            }
        }
        for id in ids {
            let has_it = self.by_id.get(id).is_some_and(|account| account.service == *service);
            if !has_it {
                self.settle_one(*id, &counted);
                self.by_id.insert(*id, Account { service: service.clone(), seen: counted(*id) });
            }
        }
        if ids.is_empty() {
            self.totals.remove(service);
        } else {
            self.ids.insert(service.clone(), ids.to_vec());
        }
    }

    /// Forgets Services that are gone.
    pub fn retain(&mut self, exists: impl Fn(&ServiceName) -> bool, counted: impl Fn(u32) -> Tally) {
        let gone: Vec<ServiceName> = self.ids.keys().filter(|service| !exists(service)).cloned().collect();
        for service in gone {
            self.assign(&service, &[], &counted);
        }
    }

    /// Takes in what has been counted.
    pub fn settle(&mut self, counted: impl Fn(u32) -> Tally) {
        let ids: Vec<u32> = self.by_id.keys().copied().collect();
        for id in ids {
            self.settle_one(id, &counted);
        }
    }

    /// Does not count one that was nobody's but ours, and has just been counted.
    pub fn forgive(&mut self, id: u32, fate: Fate) {
        if let Some(account) = self.by_id.get_mut(&id) {
            account.seen[fate as usize] += 1;
        }
    }

    /// The numbers of Services that have any.
    pub fn totals(&self) -> impl Iterator<Item = (&ServiceName, &Tally)> {
        self.totals.iter()
    }

    /// What was counted for Services without numbers of their own.
    #[must_use]
    pub fn others(&self) -> &Tally {
        &self.others
    }

    fn close(&mut self, id: u32, service: &ServiceName, counted: &impl Fn(u32) -> Tally) {
        if self.by_id.get(&id).is_some_and(|account| account.service == *service) {
            self.settle_one(id, counted);
            self.by_id.remove(&id);
        }
    }

    fn settle_one(&mut self, id: u32, counted: &impl Fn(u32) -> Tally) {
        let Some(account) = self.by_id.get_mut(&id) else { return };
        let now = counted(id);
        if now == account.seen {
            return;
        }
        // A map made anew counts from zero.
        let more: Tally = std::array::from_fn(|fate| now[fate].saturating_sub(account.seen[fate]));
        account.seen = now;
        let total = if self.totals.contains_key(&account.service) || self.totals.len() < self.most {
            self.totals.entry(account.service.clone()).or_default()
        } else {
            &mut self.others
        };
        total.iter_mut().zip(more).for_each(|(total, more)| *total += more);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn name(name: &str) -> ServiceName {
        ServiceName { namespace: "default".into(), name: name.into() }
    }

    /// The map, and connections to it.
    #[derive(Default)]
    struct Map(RefCell<HashMap<u32, Tally>>);

    impl Map {
        fn connect(&self, id: u32, times: u64) {
            self.0.borrow_mut().entry(id).or_default()[Fate::Connected as usize] += times;
        }

        fn counted(&self) -> impl Fn(u32) -> Tally {
            |id| self.0.borrow().get(&id).copied().unwrap_or_default()
        }
    }

    fn connected(accounts: &Accounts, service: &str) -> Option<u64> {
        let found = accounts.totals().find(|(own, _)| **own == name(service));
        found.map(|(_, tally)| tally[Fate::Connected as usize])
    }

    #[test]
    fn what_was_counted_before_belongs_to_nobody() {
        let (map, mut accounts) = (Map::default(), Accounts::new(9));
        map.connect(1, 100);
        accounts.assign(&name("web"), &[1, 2], map.counted());
        accounts.settle(map.counted());
        assert_eq!(connected(&accounts, "web"), None);
        map.connect(1, 3);
        map.connect(2, 4);
        accounts.settle(map.counted());
        accounts.settle(map.counted());
        assert_eq!(connected(&accounts, "web"), Some(7));
    }

    #[test]
    fn nobody_inherits_an_ids_count() {
        let (map, mut accounts) = (Map::default(), Accounts::new(9));
        accounts.assign(&name("old"), &[1], map.counted());
        map.connect(1, 5);
        accounts.assign(&name("old"), &[], map.counted());
        // Somebody had looked the frontend up before it was removed.
        map.connect(1, 1);
        accounts.assign(&name("new"), &[1], map.counted());
        map.connect(1, 2);
        accounts.settle(map.counted());
        assert_eq!((connected(&accounts, "old"), connected(&accounts, "new")), (None, Some(2)));
    }

    #[test]
    fn an_id_that_changes_hands_at_once_takes_nothing_along() {
        let (map, mut accounts) = (Map::default(), Accounts::new(9));
        accounts.assign(&name("a"), &[1], map.counted());
        accounts.assign(&name("b"), &[2], map.counted());
        map.connect(1, 5);
        accounts.assign(&name("b"), &[1], map.counted());
        accounts.assign(&name("a"), &[2], map.counted());
        map.connect(1, 1);
        map.connect(2, 7);
        accounts.settle(map.counted());
        assert_eq!((connected(&accounts, "a"), connected(&accounts, "b")), (Some(12), Some(1)));
    }

    #[test]
    fn a_port_that_goes_leaves_its_count_with_the_service() {
        let (map, mut accounts) = (Map::default(), Accounts::new(9));
        accounts.assign(&name("web"), &[1, 2], map.counted());
        map.connect(2, 5);
        accounts.assign(&name("web"), &[1], map.counted());
        map.connect(2, 100);
        accounts.settle(map.counted());
        assert_eq!(connected(&accounts, "web"), Some(5));
        accounts.retain(|_| false, map.counted());
        assert_eq!(connected(&accounts, "web"), None);
    }

    #[test]
    fn too_many_services_are_put_together_and_the_sum_never_goes_back() {
        let (map, mut accounts) = (Map::default(), Accounts::new(2));
        let names: Vec<ServiceName> = (0..5).map(|number| name(&format!("s{number}"))).collect();
        for (id, service) in (0..).zip(&names) {
            accounts.assign(service, &[id], map.counted());
        }
        let others = |accounts: &Accounts| accounts.others()[Fate::Connected as usize];
        let mut before = 0;
        for round in 1..4 {
            (0..5).for_each(|id| map.connect(id, 1));
            accounts.settle(map.counted());
            assert_eq!(accounts.totals().count(), 2);
            assert!(others(&accounts) > before);
            before = others(&accounts);
            assert_eq!(before, 3 * round);
        }
        let gone = accounts.totals().next().map(|(service, _)| service.clone()).expect("two");
        accounts.assign(&gone, &[], map.counted());
        (0..5).for_each(|id| map.connect(id, 1));
        accounts.settle(map.counted());
        assert_eq!(accounts.totals().count(), 2, "another has its place");
        assert!(others(&accounts) > before);
    }

    #[test]
    fn our_own_connections_do_not_count() {
        let (map, mut accounts) = (Map::default(), Accounts::new(2));
        accounts.assign(&name("web"), &[1], map.counted());
        for _ in 0..3 {
            map.connect(1, 1);
            accounts.forgive(1, Fate::Connected);
        }
        accounts.settle(map.counted());
        assert_eq!(connected(&accounts, "web"), None);
    }

    #[test]
    fn nothing_is_kept_where_nothing_is_asked_for() {
        let (map, mut accounts) = (Map::default(), Accounts::new(0));
        accounts.assign(&name("web"), &[1], map.counted());
        map.connect(1, 1);
        accounts.settle(map.counted());
        assert_eq!((accounts.totals().count(), accounts.others()), (0, &Tally::default()));
    }
}
