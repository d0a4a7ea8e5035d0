//! Connections of clients that nobody has authenticated, no more of them than do no harm.
//!
//! Whoever holds connections open takes descriptors and memory that the rest of the process needs: to reach the API server,
//! to write maps. So each server has at most [`MOST`] at a time, and the oldest makes room for the newest: who asks at once
//! and reads the answer, as kubelets, load balancers and Prometheus do, is served whoever else is there. A client has
//! [`PATIENCE`] to send the head of a request, of [`HEAD`] bytes at most. Bodies of requests are never read.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::{self, ErrorKind},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, task::AbortHandle, time::sleep};

/// Connections of one server.
const MOST: usize = 64;

/// From when a request may begin until its head has come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a request's head; the least that hyper knows to limit.
const HEAD: usize = 8 << 10;

/// Before the next attempt, where no connection can be accepted: descriptors are short.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, router: Router) -> Infallible {
    serve_those_within(PATIENCE, listener, router).await
}

async fn serve_those_within(patience: Duration, listener: TcpListener, router: Router) -> Infallible {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(HEAD);
    let mut open = Open::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = TowerToHyperService::new(router.clone());
                let connection = http.serve_connection(TokioIo::new(stream), service);
                // Whatever ends it is the client's affair.
                open.push(tokio::spawn(async move { drop(connection.await) }).abort_handle());
            }
            Err(error) if is_the_clients(&error) => {}
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// It was gone before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}

/// Connections, the oldest first. They end with it.
#[derive(Default)]
struct Open(VecDeque<AbortHandle>);

impl Open {
    fn push(&mut self, connection: AbortHandle) {
        self.0.retain(|connection| !connection.is_finished());
        if self.0.len() >= MOST
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(connection);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use axum::routing::any;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        time::timeout,
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    async fn server() -> SocketAddr {
        server_with(SOON).await
    }

    async fn server_with(patience: Duration) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let router = Router::new().route("/", any(async || "here"));
        tokio::spawn(serve_those_within(patience, listener, router));
        address
    }

    async fn connect(to: SocketAddr) -> TcpStream {
        TcpStream::connect(to).await.expect("it listens")
    }

    /// Sends that, and reads to the end.
    async fn answer(mut stream: TcpStream, request: &[u8]) -> String {
        // The server may have said enough and closed by then.
        drop(stream.write_all(request).await);
        let mut text = Vec::new();
        drop(timeout(SOON, stream.read_to_end(&mut text)).await.expect("an end"));
        String::from_utf8(text).expect("text")
    }

    #[tokio::test]
    async fn who_asks_is_answered_however_many_hold_connections_and_these_do_not_add_up() {
        let to = server().await;
        let mut held = Vec::new();
        for _ in 0..3 * MOST {
            let mut stream = connect(to).await;
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a").await.expect("it listens");
            held.push(stream);
            if held.len() % MOST == 0 {
                let text =
                    answer(connect(to).await, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                        .await;
                assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("here"), "{text}");
            }
        }
        // All but the newest have been cut.
        for stream in held.drain(..2 * MOST) {
            assert_eq!(answer(stream, b"").await, "");
        }
        let newest = held.pop().expect("there are some");
        let text = answer(newest, b"\r\nconnection: close\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    }

    #[tokio::test]
    async fn a_request_without_end_is_refused() {
        let request = [&b"GET / HTTP/1.1\r\nhost: a\r\nx: "[..], &[b'x'; 4 * HEAD]].concat();
        let text = answer(connect(server().await).await, &request).await;
        assert!(text.starts_with("HTTP/1.1 431"), "{text}");
    }

    #[tokio::test]
    async fn the_body_of_a_request_is_not_read() {
        let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000000\r\n\r\n";
        let text = answer(connect(server().await).await, head.as_bytes()).await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    }

    #[tokio::test]
    async fn who_is_slow_to_ask_is_cut() {
        let to = server_with(Duration::from_millis(50)).await;
        assert_eq!(answer(connect(to).await, b"GET / HTTP/1.1\r\nhost").await, "");
        // Having asked once does not help.
        let text = answer(connect(to).await, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("here"), "{text}");
    }
}
