//! One watch, from the server's side.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::server::{Server, status};
use crate::store::Kind;
use crate::weather::{Fault, lock};

const BOOKMARKS: Duration = Duration::from_secs(60);
/// For so long an event may be overtaken.
const LATE: Duration = Duration::from_millis(50);

pub(crate) struct Watching {
    server: Arc<Server>,
    kind: Option<Kind>,
    position: u64,
    ends: Instant,
    bookmark: Instant,
    /// How many times the store had been restored.
    restored: u32,
    changed: watch::Receiver<()>,
    /// What is on its way to the client.
    queue: VecDeque<io::Result<String>>,
    /// What others overtake, and until when.
    held: Option<(String, Instant)>,
    /// What has been said, for those who say it again.
    said: Vec<String>,
    is_over: bool,
}

impl Watching {
    pub(crate) fn new(
        server: &Arc<Server>,
        kind: Option<Kind>,
        position: u64,
        length: Duration,
        is_forgotten: bool,
    ) -> Self {
        let mut this = Self {
            server: Arc::clone(server),
            kind,
            position,
            ends: Instant::now() + length,
            bookmark: Instant::now() + BOOKMARKS,
            restored: lock(&server.store).restored,
            changed: server.changed.subscribe(),
            queue: VecDeque::new(),
            held: None,
            said: Vec::new(),
            is_over: false,
        };
        if is_forgotten {
            this.gone();
        }
        this
    }

    pub(crate) fn into_stream(self) -> impl Stream<Item = io::Result<String>> + Send {
        futures::stream::unfold(self, |mut this| async move { Some((this.next().await?, this)) })
    }

    async fn next(&mut self) -> Option<io::Result<String>> {
        loop {
            if let Some(line) = self.queue.pop_front() {
                return Some(line);
            }
            if self.is_over {
                return None;
            }
            self.changed.borrow_and_update();
            self.look();
            if self.queue.is_empty() && !self.is_over {
                let held = self.held.as_ref().map_or(self.ends, |(_, until)| *until);
                tokio::select! {
                    _ = self.changed.changed() => {}
                    () = tokio::time::sleep_until(self.ends.min(self.bookmark).min(held)) => {}
                }
            }
        }
    }

    /// Puts into the queue what there is to be said now.
    fn look(&mut self) {
        let server = Arc::clone(&self.server);
        let (store, weather) = (lock(&server.store), &server.weather);
        if store.restored != self.restored {
            // The server went with its store, and all its connections.
            return self.cut();
        }
        let events: Vec<_> = match self.kind {
            Some(kind) => store.since(kind, self.position).cloned().collect(),
            None => Vec::new(),
        };
        for event in events {
            self.position = event.revision;
            self.say(event.line);
            if self.is_over {
                return;
            }
        }
        let now = Instant::now();
        if self.held.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.release();
        }
        if weather.is(Fault::Gone, self.kind) {
            return self.gone();
        }
        if now >= self.ends || weather.is(Fault::Hasty, self.kind) {
            self.release();
            self.is_over = true;
        } else if now >= self.bookmark {
            self.bookmark = now + BOOKMARKS;
            if store.now().revision > self.position {
                self.release();
                self.position = store.now().revision;
                let metadata = json!({"resourceVersion": self.position.to_string()});
                let line = json!({"type": "BOOKMARK", "object": {"metadata": metadata}});
                self.queue.push_back(Ok(format!("{line}\n")));
            }
        }
    }

    /// Says an event, as well as it can be said now.
    fn say(&mut self, line: String) {
        let (server, kind) = (Arc::clone(&self.server), self.kind);
        let weather = &server.weather;
        let dice = |most: usize| weather.dice(|rng| rng.usize(..most));
        if weather.is(Fault::Torn, kind) && dice(2) == 0 {
            let part = line[..1 + dice(line.len() - 1)].to_owned();
            if dice(2) == 0 {
                self.queue.push_back(Ok(part));
                return self.cut();
            }
            // A line that is none, and then the next one.
            self.queue.push_back(Ok(part + "\n"));
            return;
        }
        if weather.is(Fault::Nonsense, kind) {
            self.queue.push_back(Ok(["<html>a proxy</html>\n", "{}\n", "\n"][dice(3)].to_owned()));
        }
        if self.held.is_none() && weather.is(Fault::Late, kind) && dice(2) == 0 {
            self.held = Some((line, Instant::now() + LATE));
            return;
        }
        if weather.is(Fault::Twice, kind) {
            self.said.push(line.clone());
            let again = self.said[dice(self.said.len())].clone();
            self.queue.push_back(Ok(line));
            self.queue.push_back(Ok(again));
        } else {
            self.queue.push_back(Ok(line));
        }
        self.release();
    }

    /// What was overtaken comes.
    fn release(&mut self) {
        self.queue.extend(self.held.take().map(|(line, _)| Ok(line)));
    }

    fn gone(&mut self) {
        self.release();
        let line = json!({"type": "ERROR", "object": status(410, "too old resource version")});
        self.queue.push_back(Ok(format!("{line}\n")));
        self.is_over = true;
    }

    fn cut(&mut self) {
        self.queue.push_back(Err(io::ErrorKind::ConnectionReset.into()));
        self.is_over = true;
    }
}
