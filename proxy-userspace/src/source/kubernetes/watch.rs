//! One list and watch, for one kind, for ever.
//!
//! A state machine of three states: a list is needed; everything up to a version is known and may be watched from
//! there; or it is known, and whether the server still knows it has to be asked first. Each step ends in the next state
//! or in a failure that says how to go on.

use std::cmp::Ordering;
use std::time::Duration;

use futures::{AsyncBufReadExt, AsyncReadExt};
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::Request;
use tokio::time::Instant;

use super::access::Access;
use super::failure::{Failure, chain, unaskable};
use super::outage::Outage;
use super::page::{self, Event, Page};
use super::patience::{Patience, Pauses};
use super::version;
use crate::cluster::change::{Change, Kind};
use crate::source::{Closed, Outlet};

/// Objects per page: what Kubernetes' own clients ask for.
const PAGE_SIZE: u32 = 500;
/// No event is longer; the store behind the API limits objects to a fraction of it.
const MAX_LINE: u64 = 32 << 20;
/// No list is longer, in bytes of its pages, nor has more pages: a server that always knows another one is given up.
const MAX_LIST: usize = 1 << 30;
const MAX_PAGES: usize = 2_000;

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

/// What is known.
#[derive(Debug)]
enum State {
    /// Nothing, or nothing to build on. Pages are not asked for when a list in pages took the server too long.
    Unlisted { in_pages: bool },
    /// Everything up to this version.
    Listed { version: String },
    /// The same. But who said so was lost, or silent: it may be another one now, or another history.
    Doubted { version: String },
}

impl State {
    /// After a failure.
    fn doubted(self) -> Self {
        match self {
            Self::Listed { version } => Self::Doubted { version },
            other => other,
        }
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
    /// When the last list was begun.
    listed: Option<Instant>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        subject: Subject,
        access: &'a Access,
        outage: &'a Outage,
        patience: Patience,
        changes: Outlet,
    ) -> Self {
        Self { subject, access, outage, patience, changes, listed: None }
    }

    /// Runs until nobody reads the changes.
    pub(super) async fn run(mut self) {
        let mut pauses = Pauses::new(self.patience);
        let mut state = State::Unlisted { in_pages: true };
        let mut told = String::new();
        loop {
            let result = match &mut state {
                State::Unlisted { in_pages } => {
                    self.listed = Some(Instant::now());
                    self.list(*in_pages).await.map(|version| State::Listed { version })
                }
                State::Doubted { version } => {
                    self.confirm(version).await.map(|()| State::Listed { version: std::mem::take(version) })
                }
                State::Listed { version } => self.watch(version, &mut pauses).await.map(|has_spoken| {
                    let version = std::mem::take(version);
                    if has_spoken { State::Listed { version } } else { State::Doubted { version } }
                }),
            };
            let problem = match result {
                Ok(next) => {
                    state = next;
                    continue;
                }
                Err(Failure::Closed) => return,
                Err(Failure::Expired(problem)) => {
                    tracing::debug!(kind = %self.subject.kind, "{problem}; listing again");
                    // A list whose own pages expire is asked for whole.
                    state = State::Unlisted { in_pages: !matches!(state, State::Unlisted { .. }) };
                    // One list after another, and not one too many: the pause counts from the last one.
                    if let Some(listed) = self.listed {
                        tokio::time::sleep_until(listed + pauses.expired.wait()).await;
                    }
                    continue;
                }
                Err(Failure::Moved(problem)) => {
                    tracing::debug!(kind = %self.subject.kind, problem, "asking another API server");
                    state = state.doubted();
                    continue;
                }
                Err(Failure::Busy(pause, problem)) => {
                    self.outage.begin(self.subject.kind, &problem);
                    state = state.doubted();
                    // Not all nodes at the same moment.
                    let jitter = self.patience.longest_wait.mul_f64(fastrand::f64() / 2.0);
                    tokio::time::sleep(pause + jitter).await;
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
            state = state.doubted();
            tokio::time::sleep(pauses.lost.wait()).await;
        }
    }

    /// Lists everything, sends it, and returns the version it is of.
    async fn list(&self, in_pages: bool) -> Result<String, Failure> {
        let (mut objects, mut length) = (Vec::new(), 0);
        let mut params = self.list_params(in_pages.then_some(PAGE_SIZE));
        for _ in 0..MAX_PAGES {
            let page = self.page(&params, &mut length).await?;
            objects.extend(page.objects);
            params.continue_token = page.next;
            if params.continue_token.is_none() {
                self.outage.end(self.subject.kind);
                self.send(Change::Listed(self.subject.kind, objects)).await?;
                return Ok(page.version);
            }
        }
        Err(Failure::Lost(format!("the server's list has more than {MAX_PAGES} pages")))
    }

    /// Makes sure that the server has come as far as this version. One that has lost its last hours, and was given an
    /// older store instead, would take our word for it and say nothing before it gets there again.
    async fn confirm(&self, version: &str) -> Result<(), Failure> {
        let page = self.page(&self.list_params(Some(1)), &mut 0).await?;
        self.outage.end(self.subject.kind);
        match version::order(&page.version, version) {
            Some(Ordering::Less) => Err(Failure::Expired(format!(
                "the server is at version {}, behind {version}, of which it has told us",
                page.version
            ))),
            _ => Ok(()),
        }
    }

    fn list_params(&self, limit: Option<u32>) -> ListParams {
        ListParams {
            label_selector: self.subject.labels.map(str::to_owned),
            field_selector: self.subject.fields.clone(),
            limit,
            ..ListParams::default()
        }
    }

    /// Asks for one, and adds to the length of those before it.
    async fn page(&self, params: &ListParams, length: &mut usize) -> Result<Page, Failure> {
        let request = Request::new(self.subject.path).list(params).map_err(unaskable)?;
        let ask = |client: Client| async move { client.request_text(request).await };
        let text = self.access.ask(self.patience.answer, ask).await?;
        *length += text.len();
        if *length > MAX_LIST {
            return Err(Failure::Lost(format!("the server's list is longer than {} MiB", MAX_LIST >> 20)));
        }
        page::page(self.subject.kind, &text)
            .map_err(|error| Failure::Lost(format!("the server's list is no list: {error}")))
    }

    /// Watches until the server ends it in good order, and keeps the version up to date all the while. Says whether
    /// anything was said.
    async fn watch(&self, version: &mut String, pauses: &mut Pauses) -> Result<bool, Failure> {
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
                return Ok(events > 0);
            }
            if line.len() as u64 == MAX_LINE && line.last() != Some(&b'\n') {
                return Err(Failure::Lost(format!(
                    "an event of the watch is longer than {} MiB",
                    MAX_LINE >> 20
                )));
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
                match new_version.as_ref().and_then(|new| version::order(new, version)) {
                    Some(Ordering::Equal) => {
                        tracing::debug!(kind = %self.subject.kind, version, "an event came twice");
                        return Ok(());
                    }
                    // Perhaps a repetition, perhaps of an object about which nothing newer was said.
                    Some(Ordering::Less) => {
                        return Err(Failure::Expired("an event came after a later one".to_owned()));
                    }
                    _ => {}
                }
                self.send(change).await?;
                if let Some(new_version) = new_version {
                    *version = new_version;
                }
                Ok(())
            }
            Ok(Event::Bookmark(new_version)) => {
                if version::order(&new_version, version) != Some(Ordering::Less) {
                    *version = new_version;
                }
                Ok(())
            }
            Ok(Event::Expired) => Err(Failure::Expired("the version is too old for the server".to_owned())),
            Ok(Event::Failed(problem)) => Err(Failure::Lost(problem)),
            Ok(Event::Unknown(event)) => {
                tracing::debug!(kind = %self.subject.kind, event, "an event of a type not known here");
                Ok(())
            }
            Err(error) => {
                // Which object it was about is unknown, so only a new list makes sure nothing is missed.
                tracing::warn!(kind = %self.subject.kind, error, "a line of the watch is no event; listing again");
                Err(Failure::Expired("a line of the watch is no event".to_owned()))
            }
        }
    }

    async fn send(&self, change: Change) -> Result<(), Closed> {
        self.access.learn(&change);
        self.changes.send(change).await
    }
}
