//! Connections in memory, and what becomes of their bytes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use futures::FutureExt as _;
use proxy_userspace::source::kubernetes::{Dial, Stream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::schedule::TCP_NOTICES;
use crate::server::Server;
use crate::weather::Fault;

/// What one side may send before the other has read it.
const WINDOW: usize = 64 << 10;

/// Where connections come in.
pub(crate) struct Door(mpsc::UnboundedReceiver<DuplexStream>);

impl Listener for Door {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.recv().await {
            Some(stream) => (stream, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A way to the server, whatever is in between, and its door.
pub(crate) fn to(server: &Arc<Server>) -> (Dial, Door) {
    let (sender, door) = mpsc::unbounded_channel();
    let server = Arc::clone(server);
    let dial: Dial = Arc::new(move |_| {
        if server.weather.is(Fault::Refused, None) {
            return async { Err(io::ErrorKind::ConnectionRefused.into()) }.boxed();
        }
        let (near, client) = tokio::io::duplex(WINDOW);
        let (far, end) = tokio::io::duplex(WINDOW);
        drop(sender.send(end));
        tokio::spawn(carry(Arc::clone(&server), client, far));
        async { Ok(Box::new(near) as Box<dyn Stream>) }.boxed()
    });
    (dial, Door(door))
}

/// Carries bytes both ways until one side has enough, or something happens to the connection.
async fn carry(server: Arc<Server>, client: DuplexStream, far: DuplexStream) {
    let (mut from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(far);
    let harm = async {
        loop {
            let Some((at, fault)) = server.weather.next_harm() else { return std::future::pending().await };
            sleep_until(at.max(Instant::now())).await;
            match fault {
                Fault::Resets if server.weather.dice(fastrand::Rng::bool) => {
                    sleep(Duration::from_millis(1)).await; // The next one, not this one again.
                }
                fault => return fault,
            }
        }
    };
    let harm = tokio::select! {
        () = pass(&server, from_server, to_client, true) => return,
        () = pass(&server, &mut from_client, to_server, false) => return,
        harm = harm => harm,
    };
    server.weather.acted(harm);
    match harm {
        Fault::HalfOpen { is_noticed: true } => sleep(TCP_NOTICES).await,
        // Until the client has given it up.
        Fault::HalfOpen { is_noticed: false } => {
            drop(tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await);
        }
        _ => {}
    }
}

async fn pass(
    server: &Server,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    is_answer: bool,
) {
    let weather = &server.weather;
    let mut buffer = vec![0; WINDOW];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        let slow = |fault| match fault {
            Fault::Slow(most) => Some(most),
            _ => None,
        };
        if let Some((most, end)) = weather.now(None, slow) {
            weather.acted(Fault::Slow(most));
            sleep_until((Instant::now() + most.mul_f64(weather.dice(fastrand::Rng::f64))).min(end)).await;
        }
        while let Some(((), end)) = weather.now(None, |fault| (fault == Fault::Silence).then_some(())) {
            weather.acted(Fault::Silence);
            sleep_until(end).await;
        }
        let is_cut = is_answer && weather.is(Fault::Resets, None) && weather.dice(fastrand::Rng::bool);
        let until = if is_cut { weather.dice(|rng| rng.usize(..length)) } else { length };
        if to.write_all(&buffer[..until]).await.is_err() || is_cut {
            return;
        }
    }
}
