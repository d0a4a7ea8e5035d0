//! Plain HTTP requests to the server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustls::pki_types::ServerName;
use serde_json::Value;

use super::settings::ADMIN_TOKEN;
use super::{ApiServer, tail};

pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// The body; of a watch, one JSON object a line.
    pub body: String,
}

impl Response {
    /// The body as JSON, if the status is a good one.
    pub fn json(&self) -> Result<Value> {
        ensure!((200..300).contains(&self.status), "HTTP {}: {}", self.status, self.body.trim());
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", tail(&self.body)))
    }
}

impl ApiServer {
    /// Makes or changes many objects, as a server-side apply: many times faster than kubectl, which
    /// throttles itself. Knows kinds whose plural is in -s: Services, EndpointSlices, Nodes, Pods and so on.
    pub fn apply_all(&self, objects: &[Value]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                let path = object_path(object)?;
                let query = "fieldManager=kubeshunt-tests&force=true";
                let answer = self.send("PATCH", &format!("{path}?{query}"), "apply-patch+yaml", Some(object));
                answer.and_then(|answer| answer.json()).with_context(|| format!("cannot apply {path}"))?;
            }
            anyhow::Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
        })
    }

    /// One HTTP request as the admin. A PATCH is a JSON merge patch; a watch has to end by itself
    /// (`timeoutSeconds=`).
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Response> {
        self.send(method, path, if method == "PATCH" { "merge-patch+json" } else { "json" }, body)
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> Result<Response> {
        let addr = self.addr();
        let name = ServerName::from(addr.ip());
        let tls = rustls::ClientConnection::new(Arc::clone(&self.tls), name)?;
        let stream = rustls::StreamOwned::new(tls, self.connect(addr)?);
        let headers = format!("Authorization: Bearer {ADMIN_TOKEN}\r\nContent-Type: application/{kind}\r\n");
        exchange(stream, method, path, &headers, body).with_context(|| format!("{method} {path}"))
    }

    pub(super) fn connect(&self, addr: SocketAddr) -> Result<TcpStream> {
        let stream = self.keeper.run(move || TcpStream::connect_timeout(&addr, CONNECT_LIMIT))??;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

fn object_path(object: &Value) -> Result<String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let version = text("/apiVersion").context("an object without apiVersion")?;
    let kind = text("/kind").context("an object without kind")?;
    let name = text("/metadata/name").context("an object without metadata.name")?;
    let root = if version.contains('/') { "/apis" } else { "/api" };
    let plural = format!("{}s", kind.to_lowercase());
    let cluster_wide = ["Namespace", "Node", "ServiceCIDR"].contains(&kind) || kind.starts_with("Cluster");
    Ok(match text("/metadata/namespace").unwrap_or("default") {
        _ if cluster_wide => format!("{root}/{version}/{plural}/{name}"),
        namespace => format!("{root}/{version}/namespaces/{namespace}/{plural}/{name}"),
    })
}

/// One request and its answer. In HTTP/1.0, where an answer simply ends with its connection.
pub(super) fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &str,
    body: Option<&Value>,
) -> Result<Response> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: kubernetes\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer ends in its header")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Response { status: status.context("the answer has no status")?, body: body.into() })
}
