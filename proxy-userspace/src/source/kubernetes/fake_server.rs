//! An API server of which a test writes every answer.
//!
//! It speaks just enough HTTP/1.1. Requests for the scripted path wait until the test takes them; for all other
//! paths lists are empty and watches silent.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

pub(super) const SERVICES: &str = "/api/v1/services";

/// The server.
pub(super) struct FakeServer {
    pub(super) url: String,
    asked: mpsc::UnboundedReceiver<Asked>,
    /// The paths of all other requests.
    visits: mpsc::UnboundedReceiver<String>,
    acceptor: AbortHandle,
}

/// A request that waits for its answer.
pub(super) struct Asked {
    pub(super) query: HashMap<String, String>,
    pub(super) authorization: Option<String>,
    pub(super) accept_encoding: Option<String>,
    stream: TcpStream,
}

impl FakeServer {
    /// With answers for Services by the test.
    pub(super) async fn start() -> Self {
        Self::scripted(SERVICES).await
    }

    /// With answers for this path by the test.
    pub(super) async fn scripted(by_test: &'static str) -> Self {
        Self::run(TcpListener::bind("127.0.0.1:0").await.expect("a port"), by_test)
    }

    /// At this URL, with answers for Services by the test.
    pub(super) async fn at(url: &str) -> Self {
        let address = url.strip_prefix("http://").expect("a URL of ours");
        Self::run(TcpListener::bind(address).await.expect("a free port"), SERVICES)
    }

    fn run(listener: TcpListener, by_test: &'static str) -> Self {
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (sender, asked) = mpsc::unbounded_channel();
        let (visitor, visits) = mpsc::unbounded_channel();
        let acceptor = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, visitor) = (sender.clone(), visitor.clone());
                tokio::spawn(async move {
                    if let Some((path, asked)) = read_request(stream).await {
                        if path == by_test {
                            drop(sender.send(asked));
                            return;
                        }
                        drop(visitor.send(path));
                        if asked.is_watch() {
                            let _open = asked.watch().await;
                            std::future::pending::<()>().await;
                        } else {
                            asked.list("1", None, &[]).await;
                        }
                    }
                });
            }
        });
        Self { url, asked, visits, acceptor: acceptor.abort_handle() }
    }

    /// Takes no new connections from now on.
    pub(super) fn stop(&self) {
        self.acceptor.abort();
    }

    /// Waits for a request for this other path.
    pub(super) async fn visited(&mut self, path: &str) {
        loop {
            let visit = tokio::time::timeout(Duration::from_secs(20), self.visits.recv()).await;
            if visit.expect("a request in time").expect("the server runs") == path {
                return;
            }
        }
    }

    /// The next request for the scripted path.
    pub(super) async fn next(&mut self) -> Asked {
        let asked = tokio::time::timeout(Duration::from_secs(20), self.asked.recv()).await;
        asked.expect("a request in time").expect("the server runs")
    }
}

async fn read_request(mut stream: TcpStream) -> Option<(String, Asked)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).expect("requests are text");
    let target = head.split(' ').nth(1)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(key, value)| (key.to_owned(), decode(value))).collect();
    let header = |name: &str| {
        head.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    let (authorization, accept_encoding) = (header("authorization: "), header("accept-encoding: "));
    Some((path.to_owned(), Asked { query, authorization, accept_encoding, stream }))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at(2);
        decoded.push(char::from(u8::from_str_radix(code, 16).expect("hexadecimal")));
        decoded.push_str(rest);
    }
    decoded
}

impl Asked {
    pub(super) fn is_watch(&self) -> bool {
        self.query.get("watch").is_some_and(|value| value == "true")
    }

    pub(super) fn get(&self, key: &str) -> &str {
        self.query.get(key).map(String::as_str).unwrap_or_default()
    }

    /// Answers with a page of a list.
    pub(super) async fn list(self, version: &str, next: Option<&str>, items: &[Value]) {
        let body = json!({"metadata": {"resourceVersion": version, "continue": next}, "items": items});
        self.answer("200 OK", &body).await;
    }

    /// Answers with an error.
    pub(super) async fn fail(self, code: u16, reason: &str) {
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
            "reason": reason, "message": "the test wants it so"});
        self.answer(&format!("{code} {reason}"), &body).await;
    }

    /// Answers with a status, and perhaps headers behind it.
    pub(super) async fn answer(mut self, status: &str, body: &Value) {
        let body = body.to_string();
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n");
        let text = format!("{head}connection: close\r\n\r\n{body}");
        drop(self.stream.write_all(text.as_bytes()).await);
    }

    /// Answers, and goes on for ever; how many bytes were taken until the client had enough.
    pub(super) async fn answer_without_end(mut self, status: &str) -> usize {
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await.expect("the client listens");
        let (text, mut taken) = (vec![b' '; 1 << 16], 0);
        while let Ok(written) = self.stream.write(&text).await {
            taken += written;
        }
        taken
    }

    /// Begins a watch.
    pub(super) async fn watch(mut self) -> Open {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        self.stream.write_all(head.as_bytes()).await.expect("the client listens");
        Open { stream: self.stream }
    }
}

/// A watch in progress. Dropping it cuts the connection.
pub(super) struct Open {
    stream: TcpStream,
}

impl Open {
    pub(super) async fn event(&mut self, kind: &str, object: Value) {
        self.raw(&format!("{}\n", json!({"type": kind, "object": object}))).await;
    }

    pub(super) async fn raw(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        self.stream.write_all(chunk.as_bytes()).await.expect("the client listens");
    }

    /// Ends the watch in good order.
    pub(super) async fn end(mut self) {
        self.stream.write_all(b"0\r\n\r\n").await.expect("the client listens");
    }
}
