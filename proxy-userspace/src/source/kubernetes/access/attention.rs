//! What goes on beside the requests: better servers are looked for, and what may be wrong is said.

use std::collections::HashMap;

use http::Uri;

use super::Access;

/// How many times in a row a better server has to answer before it is used again.
const ANSWERS: u32 = 2;

impl Access {
    /// Sees to what no request sees to; never ends.
    pub(in crate::source::kubernetes) async fn attend(&self) {
        futures::future::join(self.explain(), self.look_ahead()).await;
    }

    /// Says what may be wrong when no server has been found for a while.
    async fn explain(&self) {
        tokio::time::sleep(self.patience.first_answer).await;
        let server = match &*self.servers() {
            servers if servers.has_answered() => return,
            servers => servers.in_use().clone(),
        };
        let host = server.host().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        if host.is_some() && host == self.settings.in_environment.map(|address| address.ip()) {
            tracing::warn!(
                %server,
                "no API server answers at the address in KUBERNETES_SERVICE_HOST, still trying; if this is the cluster IP \
                 of the Service default/kubernetes, nobody serves it on this node before kubeshunt does, unless \
                 kube-proxy is still here: name a server that can be reached directly with \
                 --api-servers=https://HOST:6443 (or --master, or a --kubeconfig that does)"
            );
        }
    }

    /// Goes back to a better server than the one in use once it answers again.
    async fn look_ahead(&self) {
        let mut answers: HashMap<Uri, u32> = HashMap::new();
        loop {
            // Spread the questions of many nodes over time.
            tokio::time::sleep(self.patience.probe.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
            let better = self.servers().better();
            answers.retain(|server, _| better.contains(server));
            for server in better {
                let count = answers.entry(server.clone()).or_default();
                *count = if self.is_well(&server).await { *count + 1 } else { 0 };
                if *count >= ANSWERS {
                    self.servers().go_back(&server);
                    break;
                }
            }
        }
    }

    /// Whether a server says that it is ready. One that keeps that from us is there at least; one that does not know us is
    /// of no use.
    async fn is_well(&self, server: &Uri) -> bool {
        let Ok(client) = self.client_of(server).await else { return false };
        let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return false };
        match tokio::time::timeout(self.patience.answer, client.request_text(request)).await {
            Ok(Ok(_)) => true,
            Ok(Err(kube::Error::Api(status))) => matches!(status.code, 403 | 404),
            _ => false,
        }
    }
}
