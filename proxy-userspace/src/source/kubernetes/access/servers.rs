//! Which of several API servers to ask. Pure: time is an argument.
//!
//! Candidates are the addresses that were given, in their order, and after them the endpoints of the Service
//! `default/kubernetes`. The one in use stays in use until it is gone: nobody connects to it, it does not answer, or for
//! five seconds it has answered nothing but errors of its own. Then the first that has not failed lately is next, or else
//! the one whose failure is the longest ago. Who changes servers on a whim asks one that lags behind.

use std::collections::HashMap;
use std::time::Duration;

use http::Uri;
use tokio::time::Instant;

/// For so long a server may answer nothing but errors before another one is asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// A failure that is longer ago says nothing about now.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// Who has failed within this time is not asked again without a pause. Longer than it takes to find that nobody answers at
/// any of a few addresses.
const PAUSE: Duration = FORGOTTEN;

/// How a server has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is not there: no connection, or no answer in time.
    Gone,
    /// It is there, and does not do its work.
    Unwell,
}

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// At once: another server is in use now.
    AtOnce,
    /// After a pause.
    AfterPause,
}

/// Another server than before answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Moved {
    /// Who answered before; nobody at the beginning.
    pub(super) from: Option<Uri>,
    pub(super) to: Uri,
    /// Who should have answered, and what is wrong with it; nothing if the best one answers.
    pub(super) instead_of: Option<(Uri, String)>,
}

/// The candidates, and what is known of them.
#[derive(Debug)]
pub(super) struct Servers {
    configured: Vec<Uri>,
    learned: Vec<Uri>,
    in_use: Uri,
    troubles: HashMap<Uri, Trouble>,
    /// Who answered last.
    answered: Option<Uri>,
}

#[derive(Debug)]
struct Trouble {
    /// Since when it has failed while in use.
    since: Option<Instant>,
    last: Instant,
    problem: String,
}

impl Servers {
    /// With the first one in use.
    pub(super) fn new(first: Uri, others: impl IntoIterator<Item = Uri>) -> Self {
        let mut configured = vec![first.clone()];
        configured.extend(others);
        Self { configured, learned: Vec::new(), in_use: first, troubles: HashMap::new(), answered: None }
    }

    /// Other addresses were given.
    pub(super) fn configure(&mut self, configured: Vec<Uri>) {
        if !configured.is_empty() && configured != self.configured {
            self.configured = configured;
            self.tidy();
        }
    }

    /// These addresses lead to the same servers, by TLS: who was told to do without has no means to trust them.
    pub(super) fn learn(&mut self, learned: Vec<Uri>) {
        let does_tls = self.configured[0].scheme_str() == Some("https");
        self.learned = if does_tls { learned } else { Vec::new() };
        self.tidy();
    }

    /// The one to ask now.
    pub(super) fn in_use(&self) -> &Uri {
        &self.in_use
    }

    /// Whether any has answered yet.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.is_some()
    }

    /// Those that go before the one in use, best first.
    pub(super) fn better(&self) -> Vec<Uri> {
        self.candidates().take_while(|server| **server != self.in_use).cloned().collect()
    }

    /// One that goes before the one in use answers again.
    pub(super) fn go_back(&mut self, server: &Uri) {
        if self.better().contains(server) {
            self.troubles.remove(server);
            self.in_use = server.clone();
        }
    }

    /// A server has failed.
    pub(super) fn failed(&mut self, server: &Uri, failure: Failure, problem: &str, now: Instant) -> Next {
        let is_in_use = *server == self.in_use;
        let trouble = self.troubles.entry(server.clone()).or_insert_with(|| Trouble {
            since: None,
            last: now,
            problem: String::new(),
        });
        trouble.last = now;
        problem.clone_into(&mut trouble.problem);
        let since = *trouble.since.get_or_insert(now);
        if is_in_use && (failure == Failure::Gone || now.duration_since(since) >= PATIENCE) {
            self.in_use = self.next(now);
            // It has failed before, perhaps, and is given another chance.
            if let Some(trouble) = self.troubles.get_mut(&self.in_use) {
                trouble.since = None;
            }
        }
        if *server != self.in_use && !self.has_failed_within(&self.in_use, PAUSE, now) {
            Next::AtOnce
        } else {
            Next::AfterPause
        }
    }

    /// A server has done its work. Says if it is another one than the last time.
    pub(super) fn worked(&mut self, server: &Uri) -> Option<Moved> {
        self.troubles.remove(server);
        // Not what somebody still gets from the one before.
        if *server != self.in_use || self.answered.as_ref() == Some(server) {
            return None;
        }
        let from = self.answered.replace(server.clone());
        let better = self.better();
        let failed = |server: &Uri| Some((server.clone(), self.troubles.get(server)?.problem.clone()));
        let instead_of = from.iter().chain(&better).find_map(failed);
        Some(Moved { from, to: server.clone(), instead_of })
    }

    /// Best first.
    fn candidates(&self) -> impl Iterator<Item = &Uri> {
        let is_given = |server: &Uri| self.configured.iter().any(|given| is_same(given, server));
        let learned = self.learned.iter().filter(move |server| !is_given(server));
        self.configured.iter().chain(learned)
    }

    fn next(&self, now: Instant) -> Uri {
        let others = self.candidates().filter(|server| **server != self.in_use);
        let lately = |server: &Uri| {
            let last = self.troubles.get(server)?.last;
            (now.duration_since(last) < FORGOTTEN).then_some(last)
        };
        // Of equals the first.
        others.min_by_key(|server| lately(server)).unwrap_or(&self.in_use).clone()
    }

    fn has_failed_within(&self, server: &Uri, time: Duration, now: Instant) -> bool {
        self.troubles.get(server).is_some_and(|trouble| now.duration_since(trouble.last) < time)
    }

    /// After the candidates have changed.
    fn tidy(&mut self) {
        let candidates: Vec<Uri> = self.candidates().cloned().collect();
        self.troubles.retain(|server, _| candidates.contains(server));
        if !candidates.contains(&self.in_use) {
            self.in_use.clone_from(&self.configured[0]);
        }
    }
}

/// Whether both lead to the same place.
fn is_same(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme() && one.authority() == other.authority()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(name: &str) -> Uri {
        format!("https://{name}:6443").parse().expect("a URI")
    }

    /// Servers, and a clock.
    struct World {
        servers: Servers,
        now: Instant,
    }

    impl World {
        fn new(names: &[&str]) -> Self {
            let servers = Servers::new(uri(names[0]), names[1..].iter().map(|name| uri(name)));
            Self { servers, now: Instant::now() }
        }

        fn passes(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        fn gone(&mut self, name: &str) -> Next {
            self.servers.failed(&uri(name), Failure::Gone, "refused", self.now)
        }

        fn unwell(&mut self, name: &str) -> Next {
            self.servers.failed(&uri(name), Failure::Unwell, "503", self.now)
        }

        fn uses(&self, name: &str) {
            assert_eq!(*self.servers.in_use(), uri(name));
        }
    }

    #[test]
    fn one_that_is_gone_is_left_at_once_and_once() {
        let mut world = World::new(&["a", "b", "c"]);
        assert_eq!(world.gone("a"), Next::AtOnce);
        world.uses("b");
        // Three more watches notice the same.
        for _ in 0..3 {
            assert_eq!(world.gone("a"), Next::AtOnce);
        }
        world.uses("b");
        assert_eq!(world.gone("b"), Next::AtOnce);
        world.uses("c");
        // All have been tried: now they are asked in turn, with pauses.
        assert_eq!(world.gone("c"), Next::AfterPause);
        world.uses("a");
        world.passes(3);
        assert_eq!(world.gone("a"), Next::AfterPause);
        world.uses("b");
        world.passes(31);
        assert_eq!(world.gone("b"), Next::AtOnce);
        world.uses("a");
    }

    #[test]
    fn errors_are_borne_for_a_while() {
        let mut world = World::new(&["a", "b"]);
        assert_eq!(world.unwell("a"), Next::AfterPause);
        world.passes(4);
        assert_eq!(world.unwell("a"), Next::AfterPause);
        world.servers.worked(&uri("a"));
        world.passes(4);
        assert_eq!(world.unwell("a"), Next::AfterPause, "it had worked in between");
        world.uses("a");
        world.passes(5);
        assert_eq!(world.unwell("a"), Next::AtOnce);
        world.uses("b");
    }

    #[test]
    fn the_only_one_stays_in_use() {
        let mut world = World::new(&["a"]);
        for _ in 0..3 {
            assert_eq!(world.gone("a"), Next::AfterPause);
            world.passes(10);
            world.uses("a");
        }
    }

    #[test]
    fn endpoints_of_the_service_come_last_and_once() {
        let mut world = World::new(&["a", "b"]);
        world.servers.learn(vec![uri("b"), uri("x")]);
        world.gone("a");
        world.gone("b");
        world.uses("x");
        world.servers.learn(vec![uri("y")]);
        world.uses("a");
    }

    #[test]
    fn a_change_is_told_once_and_with_its_reason() {
        let mut world = World::new(&["a", "b"]);
        let moved = world.servers.worked(&uri("a")).expect("the first answer");
        assert_eq!(moved, Moved { from: None, to: uri("a"), instead_of: None });
        assert_eq!(world.servers.worked(&uri("a")), None);
        world.gone("a");
        assert_eq!(world.servers.worked(&uri("a")), None, "a straggler");
        world.gone("a");
        let moved = world.servers.worked(&uri("b")).expect("another server");
        let instead_of = Some((uri("a"), "refused".to_owned()));
        assert_eq!(moved, Moved { from: Some(uri("a")), to: uri("b"), instead_of });
        assert_eq!(world.servers.better(), [uri("a")]);
        world.servers.go_back(&uri("a"));
        assert_eq!(world.servers.worked(&uri("b")), None, "a watch that has not ended yet");
        let moved = world.servers.worked(&uri("a")).expect("back again");
        assert_eq!(moved, Moved { from: Some(uri("b")), to: uri("a"), instead_of: None });
    }

    #[test]
    fn what_failed_long_ago_is_preferred_to_what_comes_after_it() {
        let mut world = World::new(&["a", "b", "c"]);
        world.gone("a");
        world.servers.worked(&uri("b"));
        world.passes(31);
        world.gone("b");
        world.uses("a");
        world.gone("a");
        world.uses("c");
    }

    #[test]
    fn other_addresses_take_effect() {
        let mut world = World::new(&["a", "b"]);
        world.gone("a");
        world.servers.configure(vec![uri("b"), uri("c")]);
        world.uses("b");
        world.servers.configure(vec![uri("d")]);
        world.uses("d");
    }
}
