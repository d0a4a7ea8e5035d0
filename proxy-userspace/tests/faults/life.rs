//! One schedule, from the beginning to well after its end.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use proxy_userspace::cluster::change::Change;
use proxy_userspace::source::kubernetes::{Access, AccessSettings, Kubernetes, Network};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::node::{NODE, Node};
use crate::schedule::{SECOND, Schedule};
use crate::server::{self, Server};
use crate::store::Store;
use crate::view;
use crate::weather::{Fault, Spell, Weather, lock};
use crate::wire;

/// Afterwards: longer than any watch, so that each has been begun anew.
const LATER: Duration = Duration::from_secs(700);

/// What was seen of a schedule.
pub(crate) struct Lived {
    /// From the end of the last fault until the maps said what the API says.
    pub(crate) took: Duration,
    pub(crate) acted: BTreeMap<&'static str, u32>,
}

/// What is done to the server.
#[derive(Clone, Copy, Debug)]
enum Action {
    Change,
    Fault(Fault),
    /// Of the token that is taken no more.
    NewToken,
    /// Watches look what is wrong now.
    Look,
}

pub(crate) fn live(seed: u64, schedule: &Schedule) -> Result<Lived, String> {
    // What the source throws dice for is part of the schedule.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let whole = async { Life::begin(seed, schedule).await.live(schedule).await };
    catch_unwind(AssertUnwindSafe(|| runtime.block_on(whole)))
        .unwrap_or_else(|_| Err("a panic; see above".to_owned()))
}

struct Life {
    begin: Instant,
    server: Arc<Server>,
    changes: mpsc::Receiver<Change>,
    node: Node,
    folder: tempfile::TempDir,
    rng: fastrand::Rng,
    are_in_order: bool,
    /// How many tokens there have been.
    tokens: u32,
    /// Since when the maps say what the API says.
    equal: Option<Instant>,
}

impl Life {
    async fn begin(seed: u64, schedule: &Schedule) -> Self {
        let begin = Instant::now();
        let mut rng = fastrand::Rng::with_seed(!seed);
        // Out of order, two Services would have an address at one time, and which of them is served is settled by age.
        let are_in_order = schedule.spells.iter().all(|spell| spell.fault != Fault::Late);
        let weather = Weather::new(begin, schedule.spells.clone(), rng.fork());
        let server = Server::new(Store::new(are_in_order), weather, "token-0");
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("token"), "token-0").expect("writable");
        let (dial, door) = wire::to(&server);
        let app = Router::new().fallback(server::answer).with_state(Arc::clone(&server));
        tokio::spawn(axum::serve(door, app).into_future());
        let settings = AccessSettings {
            kubeconfig: Some(kubeconfig(folder.path())),
            network: Network::Dialled(dial),
            ..AccessSettings::default()
        };
        let access = Access::new(settings).await.expect("usable settings");
        let (sender, changes) = mpsc::channel(64);
        tokio::spawn(Kubernetes::new(Arc::new(access), NODE).run(sender));
        Self { begin, server, changes, node: Node::new(), folder, rng, are_in_order, tokens: 0, equal: None }
    }

    async fn live(mut self, schedule: &Schedule) -> Result<Lived, String> {
        for (at, action) in actions(schedule) {
            self.until(self.begin + at).await?;
            self.act(action);
        }
        let end = self.begin + schedule.end();
        // Now, when nobody is told any more.
        let told = self.server.come_back().map(|at| at + SECOND);
        self.until(told.max(Some(self.begin + schedule.bound())).unwrap_or(end)).await?;
        let Some(equal) = self.equal else { return Err(self.difference("in time")) };
        // It stays so, and watches go on, whatever they have been through.
        self.until(end + LATER).await?;
        if self.equal.is_none() {
            return Err(self.difference("later"));
        }
        self.act(Action::Change);
        self.until(end + LATER + SECOND).await?;
        if self.equal.is_none() {
            return Err(self.difference("after one more change"));
        }
        // Unless the answer that named it may have been lost.
        let loses =
            |own: &Spell| matches!(own.fault, Fault::Resets | Fault::Silence | Fault::HalfOpen { .. });
        if !schedule.spells.iter().any(loses)
            && let Some(path) = &*lock(&self.server.impatient)
        {
            return Err(format!("{path} was asked for before the time that the server had named"));
        }
        Ok(Lived { took: equal.saturating_duration_since(end), acted: self.server.weather.all_that_acted() })
    }

    /// What the node does up to this time.
    async fn until(&mut self, time: Instant) -> Result<(), String> {
        loop {
            let change = tokio::select! {
                biased;
                change = self.changes.recv() => change.ok_or("the source has ended")?,
                () = sleep_until(time) => return Ok(()),
            };
            self.node.take_in(change)?;
            while let Ok(change) = self.changes.try_recv() {
                self.node.take_in(change)?;
            }
            self.node.settle();
            let at = self.begin.elapsed();
            let checked = self.node.check(&lock(&self.server.store).moments, self.are_in_order);
            checked.map_err(|problem| format!("after {at:?} the API has never said so: {problem}"))?;
            self.compare();
        }
    }

    /// Notes since when the maps say what the API says.
    fn compare(&mut self) {
        let is_equal = {
            let store = lock(&self.server.store);
            self.node.serves() && self.node.view() == view::expected(store.now(), store.now())
        };
        self.equal = self.equal.or_else(|| Some(Instant::now())).filter(|_| is_equal);
    }

    fn act(&mut self, action: Action) {
        let mut store = lock(&self.server.store);
        match action {
            Action::Change => store.change(&mut self.rng),
            Action::Fault(Fault::Compacted) => {
                store.compact();
                self.server.weather.acted(Fault::Compacted);
            }
            Action::Fault(Fault::Restored { by_the_book }) => {
                if store.restore(by_the_book, &mut self.rng) {
                    self.server.weather.acted(Fault::Restored { by_the_book });
                }
            }
            Action::Fault(Fault::Expired) => {
                self.tokens += 1;
                *lock(&self.server.token) = format!("token-{}", self.tokens);
            }
            Action::Fault(_) | Action::Look => {}
            Action::NewToken => {
                // As the kubelet does it.
                let (token, fresh) = (self.folder.path().join("token"), self.folder.path().join("fresh"));
                fs::write(&fresh, &*lock(&self.server.token)).expect("writable");
                fs::rename(fresh, token).expect("the same folder");
            }
        }
        drop(store);
        self.server.changed.send_replace(());
        self.compare();
    }

    fn difference(&self, when: &str) -> String {
        let store = lock(&self.server.store);
        let expected = view::expected(store.now(), store.now());
        format!("not equal {when}:\n  the API says {expected:?}\n  the maps say {:?}", self.node.view())
    }
}

/// All that is done, in the order of time.
fn actions(schedule: &Schedule) -> Vec<(Duration, Action)> {
    let mut actions: Vec<_> = schedule.changes.iter().map(|at| (*at, Action::Change)).collect();
    for spell in &schedule.spells {
        let end = if spell.fault == Fault::Expired { Action::NewToken } else { Action::Look };
        actions.extend([(spell.from, Action::Fault(spell.fault)), (spell.until, end)]);
    }
    actions.sort_by_key(|(at, _)| *at);
    actions
}

fn kubeconfig(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("kubeconfig");
    // Certificates of authorities are not looked for, so that they need not be read a thousand times.
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": "http://api", "insecure-skip-tls-verify": true}}],
        "users": [{"name": "u", "user": {"tokenFile": "token"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    });
    fs::write(&path, text.to_string()).expect("writable");
    path
}
