//! Connected sockets whose backend is gone: woken, so that the application connects anew.
//!
//! On a thread of its own, which sleeps until a frontend has lost an endpoint. A look at all sockets of all network
//! namespaces of the node takes some milliseconds; however much changes, there are two in a second at most.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use proxy_common::layout::protocol;
use tracing::{debug, info, warn};

use super::status::Status;
use crate::{
    datapath::sockets::{Lack, Pass, Sockets, lacks},
    flows::backing::{Backing, News},
};

/// How long a look waits for more to be said: an endpoint that moves from one slice to another is back by then, and one
/// look serves for many.
const SETTLE: Duration = Duration::from_millis(100);

/// From one look to the next: two fit into the second within which whoever lost an endpoint is to know.
const EVERY: Duration = Duration::from_millis(400);

/// Looks until nobody can say any more who serves: `news` tells before and after each change. That ends the thread. Where
/// sockets cannot be looked at or woken it says so, and that is all.
///
/// # Errors
/// When the thread died.
pub async fn run(sockets: Result<Sockets>, status: Arc<Status>, news: Receiver<News>) -> Result<()> {
    match sockets.and_then(able) {
        Ok(sockets) => {
            let mut watch = Watch { sockets, status, news, backing: Backing::default() };
            let thread = tokio::task::spawn_blocking(move || while watch.next().is_some() {});
            thread.await.context("the thread that looks at sockets died")
        }
        Err(error) => {
            warn!("{error:#}; {UNTOLD}");
            drop(news);
            std::future::pending().await
        }
    }
}

/// What follows where sockets cannot be woken.
const UNTOLD: &str = "connected UDP sockets keep sending to endpoints that are gone";

/// Says what cannot be done; an error if that is everything.
fn able(sockets: Sockets) -> Result<Sockets> {
    for lack in lacks()? {
        match lack {
            Lack::Listing | Lack::Aborting => bail!("{lack}"),
            Lack::Entering => warn!("{lack}; {UNTOLD} where they belong to pods"),
            // Pods' are mounted.
            Lack::Seeing => info!("{lack}"),
        }
    }
    Ok(sockets)
}

struct Watch {
    sockets: Sockets,
    status: Arc<Status>,
    news: Receiver<News>,
    backing: Backing,
}

impl Watch {
    /// Waits until sockets are to be looked at, and looks until they are not; `None` when it is to end.
    fn next(&mut self) -> Option<()> {
        while !self.backing.is_waiting() {
            self.backing.hear(&self.news.recv().ok()?);
        }
        let mut rest = SETTLE;
        while self.backing.is_waiting() {
            self.listen(rest)?;
            let begun = Instant::now();
            self.look();
            let took = begun.elapsed();
            debug!(?took, "looked at what sockets remember");
            rest = EVERY.saturating_sub(took).max(took);
        }
        Some(())
    }

    /// Hears what is said for that long; `None` when there will be no more.
    fn listen(&mut self, time: Duration) -> Option<()> {
        let until = Instant::now() + time;
        loop {
            match self.news.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(news) => self.backing.hear(&news),
                Err(RecvTimeoutError::Timeout) => return Some(()),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn look(&mut self) {
        self.backing.begin();
        let (backing, news) = (&mut self.backing, &mut self.news);
        let pass = self.sockets.pass(move |protocol, origin| {
            // Whoever can have been chosen by the time the socket was listed has been spoken of by now.
            news.try_iter().for_each(|news| backing.hear(&news));
            backing.is_over(protocol, origin)
        });
        self.backing.end();
        self.tell(pass);
    }

    fn tell(&mut self, pass: Pass) {
        for (protocol, name) in [(protocol::UDP, "UDP"), (protocol::TCP, "TCP")] {
            let sockets = pass.aborted.get(&protocol).copied().unwrap_or_default();
            if sockets > 0 {
                self.status.metrics.tables.aborted(name, sockets);
                info!(sockets, "aborted connected {name} sockets whose endpoint is gone");
            }
        }
        if let Some(error) = pass.failure {
            warn!("looking for sockets whose endpoint is gone: {error:#}");
        }
    }
}
