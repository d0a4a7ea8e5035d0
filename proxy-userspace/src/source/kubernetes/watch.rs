//! One list and watch, for one kind, for ever.
//!
//! A state machine of two states: a list is needed; or everything up to a version is known and may be watched from
//! there. Each step ends in the next state or in a failure that says how to go on.

use std::fmt::Write as _;
use std::time::Duration;

use futures::{AsyncBufReadExt, AsyncReadExt};
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::Request;
use tokio::time::Instant;

use super::access::{Access, Cause, Failed, Next};
use super::backoff::Backoff;
use super::outage::Outage;
use super::page::{self, Event};
use crate::cluster::change::{Change, Kind};
use crate::source::{Closed, Outlet};

/// Objects per page: what Kubernetes' own clients ask for.
const PAGE_SIZE: u32 = 500;
/// No event is longer; the store behind the API limits objects to a fraction of it.
const MAX_LINE: u64 = 32 << 20;

/// What to watch.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) kind: Kind,
    pub(super) path: &'static str,
    pub(super) labels: Option<&'static str>,
    pub(super) fields: Option<String>,
    /// What follows if the server does not have this kind, or withholds it. `None` where nothing works without.
    pub(super) without: Option<&'static str>,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a page of a list, or the head of a watch.
    pub(super) answer: Duration,
    /// For how long the server is asked to keep a watch.
    pub(super) watch: Duration,
    /// How much longer than that is still no sign of a dead connection.
    pub(super) grace: Duration,
    /// Before the first new attempt.
    pub(super) first_wait: Duration,
    /// Before any later one.
    pub(super) longest_wait: Duration,
    /// Before a kind that one can do without is asked for again.
    pub(super) withheld: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(30),
            watch: Duration::from_secs(290),
            grace: Duration::from_secs(5),
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_secs(5),
            withheld: Duration::from_secs(60),
        }
    }
}

/// What is known.
#[derive(Debug)]
enum State {
    /// Nothing, or nothing to build on. Pages are not asked for when a list in pages took the server too long.
    Unlisted { in_pages: bool },
    /// Everything up to this version.
    Listed { version: String },
}

/// Why a step did not succeed.
#[derive(Debug)]
enum Failure {
    /// Nobody reads the changes.
    Closed,
    /// What we build on is no longer there: list again.
    Expired,
    /// Another server has been found wanting: ask the one that is in use now.
    Moved(String),
    /// Try again later.
    Lost(String),
    /// The server does not have this kind, or not for us: try again later.
    Withheld(String),
    /// The credentials were refused: renew them, then try again later.
    Unauthorized(String),
}

impl From<Closed> for Failure {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        match (&failed.cause, failed.next) {
            (cause, Next::AtOnce) => Self::Moved(chain(cause)),
            (Cause::Answer(kube::Error::Api(status)), _) => match status.code {
                410 => Self::Expired,
                401 => Self::Unauthorized(status.message.clone()),
                403 => Self::Withheld(format!("{} (are the RBAC rules in place?)", status.message)),
                404 => Self::Withheld(status.message.clone()),
                code => Self::Lost(format!("{code} {}", status.message)),
            },
            (cause, _) => Self::Lost(chain(cause)),
        }
    }
}

/// How long to wait after which failure. Apart from each other, because a server that says it has forgotten our
/// place is there, however long it was away before.
#[derive(Debug)]
struct Pauses {
    lost: Backoff,
    expired: Backoff,
}

impl Pauses {
    fn new(patience: Patience) -> Self {
        let backoff = Backoff::new(patience.first_wait, patience.longest_wait);
        Self { lost: backoff, expired: backoff }
    }

    /// It worked: begin anew the next time.
    fn reset(&mut self) {
        self.lost.reset();
        self.expired.reset();
    }
}

/// One kind's watch.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    subject: Subject,
    access: &'a Access,
    outage: &'a Outage,
    patience: Patience,
    changes: Outlet,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        subject: Subject,
        access: &'a Access,
        outage: &'a Outage,
        patience: Patience,
        changes: Outlet,
    ) -> Self {
        Self { subject, access, outage, patience, changes }
    }

    /// Runs until nobody reads the changes.
    pub(super) async fn run(self) {
        let mut pauses = Pauses::new(self.patience);
        let mut state = State::Unlisted { in_pages: true };
        let mut told = String::new();
        loop {
            let result = match &mut state {
                State::Unlisted { in_pages } => self.list(*in_pages).await.map(|version| {
                    state = State::Listed { version };
                }),
                State::Listed { version } => self.watch(version, &mut pauses).await,
            };
            let problem = match result {
                Ok(()) => continue,
                Err(Failure::Closed) => return,
                Err(Failure::Expired) => {
                    tracing::debug!(kind = %self.subject.kind, "the version is too old for the server; listing again");
                    // A list whose own pages expire is asked for whole.
                    state = State::Unlisted { in_pages: matches!(state, State::Listed { .. }) };
                    tokio::time::sleep(pauses.expired.wait()).await;
                    continue;
                }
                Err(Failure::Moved(problem)) => {
                    tracing::debug!(kind = %self.subject.kind, problem, "asking another API server");
                    continue;
                }
                Err(Failure::Unauthorized(problem)) => {
                    self.access.renew().await;
                    problem
                }
                Err(Failure::Withheld(problem)) => {
                    if let Some(instead) = self.subject.without {
                        // The server is there.
                        self.outage.end(self.subject.kind);
                        if problem != told {
                            tracing::warn!(kind = %self.subject.kind, problem, "not followed: {instead}");
                            told = problem;
                            let none = Change::Listed(self.subject.kind, Vec::new());
                            if self.changes.send(none).await.is_err() {
                                return;
                            }
                        }
                        state = State::Unlisted { in_pages: true };
                        tokio::time::sleep(self.patience.withheld).await;
                        continue;
                    }
                    problem
                }
                Err(Failure::Lost(problem)) => problem,
            };
            self.outage.begin(self.subject.kind, &problem);
            tokio::time::sleep(pauses.lost.wait()).await;
        }
    }

    /// Lists everything, sends it, and returns the version it is of.
    async fn list(&self, in_pages: bool) -> Result<String, Failure> {
        let mut objects = Vec::new();
        let mut params = ListParams {
            label_selector: self.subject.labels.map(str::to_owned),
            field_selector: self.subject.fields.clone(),
            limit: in_pages.then_some(PAGE_SIZE),
            ..ListParams::default()
        };
        loop {
            let request = Request::new(self.subject.path).list(&params).map_err(unaskable)?;
            let ask = |client: Client| async move { client.request_text(request).await };
            let text = self.access.ask(self.patience.answer, ask).await?;
            let page = page::page(self.subject.kind, &text)
                .map_err(|error| Failure::Lost(format!("the server's list is no list: {error}")))?;
            objects.extend(page.objects);
            params.continue_token = page.next;
            if params.continue_token.is_none() {
                self.outage.end(self.subject.kind);
                self.send(Change::Listed(self.subject.kind, objects)).await?;
                return Ok(page.version);
            }
        }
    }

    /// Watches until the server ends it in good order, and keeps the version up to date all the while.
    async fn watch(&self, version: &mut String, pauses: &mut Pauses) -> Result<(), Failure> {
        // Spread the reconnections of many nodes over time.
        let length = self.patience.watch.mul_f64(0.9 + fastrand::f64() / 10.0);
        let params = WatchParams {
            label_selector: self.subject.labels.map(str::to_owned),
            field_selector: self.subject.fields.clone(),
            timeout: Some(u32::try_from(length.as_secs()).unwrap_or(u32::MAX).max(1)),
            bookmarks: true,
            send_initial_events: false,
        };
        let request = Request::new(self.subject.path).watch(&params, version).map_err(unaskable)?;
        let ask = |client: Client| async move { client.request_stream(request).await };
        let begin = Instant::now();
        let mut stream = std::pin::pin!(self.access.ask(self.patience.answer, ask).await?);
        self.outage.end(self.subject.kind);

        // A server that is alive has ended the watch by then, or the connection is dead.
        let deadline = begin + length + self.patience.grace;
        let mut line = Vec::new();
        let mut events = 0u64;
        loop {
            line.clear();
            let mut limited = (&mut stream).take(MAX_LINE);
            let read = tokio::time::timeout_at(deadline, limited.read_until(b'\n', &mut line)).await;
            if begin.elapsed() >= Duration::from_secs(1) {
                pauses.reset(); // The server did serve us for a while.
            }
            let length = match read {
                Ok(Ok(length)) => length,
                Ok(Err(error)) => {
                    return Err(Failure::Lost(format!("the watch broke off: {}", chain(&error))));
                }
                Err(_) => {
                    return Err(Failure::Lost(
                        "the server neither ended the watch in time nor spoke".to_owned(),
                    ));
                }
            };
            if length == 0 {
                // The normal end. One that comes at once, again and again, must not become a busy loop.
                if events == 0 && begin.elapsed() < Duration::from_secs(1) {
                    tokio::time::sleep(pauses.lost.wait()).await;
                }
                return Ok(());
            }
            if line.last() != Some(&b'\n') {
                return Err(Failure::Lost("the watch broke off in the middle of an event".to_owned()));
            }
            events += 1;
            self.take(&line, version).await?;
            pauses.reset();
        }
    }

    async fn take(&self, line: &[u8], version: &mut String) -> Result<(), Failure> {
        let text = std::str::from_utf8(line).map_err(|error| error.to_string());
        let event =
            text.and_then(|text| page::event(self.subject.kind, text).map_err(|error| error.to_string()));
        match event {
            Ok(Event::Change(change, new_version)) => {
                self.send(change).await?;
                if let Some(new_version) = new_version {
                    *version = new_version;
                }
                Ok(())
            }
            Ok(Event::Bookmark(new_version)) => {
                *version = new_version;
                Ok(())
            }
            Ok(Event::Expired) => Err(Failure::Expired),
            Ok(Event::Failed(problem)) => Err(Failure::Lost(problem)),
            Ok(Event::Unknown(event)) => {
                tracing::debug!(kind = %self.subject.kind, event, "an event of a type not known here");
                Ok(())
            }
            Err(error) => {
                // Which object it was about is unknown, so only a new list makes sure nothing is missed.
                tracing::warn!(kind = %self.subject.kind, error, "a line of the watch is no event; listing again");
                Err(Failure::Expired)
            }
        }
    }

    async fn send(&self, change: Change) -> Result<(), Closed> {
        self.access.learn(&change);
        self.changes.send(change).await
    }
}

/// Of a request that cannot even be written, though all of it is ours.
fn unaskable(error: kube::core::request::Error) -> Failure {
    Failure::Lost(chain(&error))
}

/// An error and what caused it, in one line; the outermost alone often says nothing.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}
