//! Traffic to a Service that nobody touches: nothing that happens elsewhere may be seen in it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use kubeshunt_tests::probe::Stream;
use kubeshunt_tests::protocol::{StreamSpec, Target};
use kubeshunt_tests::{Station, wait};
use serde_json::json;

use crate::objects::{port, service};
use crate::stage::Stage;

/// Lines that a long-lived connection exchanges at each look.
const LINES: u32 = 20;

/// New connections all the while, and connections that stay.
pub(crate) struct Steady<'stage> {
    client: &'stage Station,
    streams: Vec<Stream<'stage>>,
    sessions: Vec<u64>,
}

/// Makes the dual-stack Service `steady`, which leads to the first two pods.
pub(crate) fn steady_service(stage: &Stage) -> Result<Vec<SocketAddr>> {
    let spec = json!({"ipFamilyPolicy": "RequireDualStack", "ports": [port("http", "TCP", 80)]});
    let slices = stage.slices("steady", "http", &[&stage.pods[0], &stage.pods[1]]);
    stage.api.apply_all(&[&[service("steady", spec)], &slices[..]].concat())?;
    stage.settle("making the steady Service")?;
    Ok(stage.cluster_ips("steady")?.into_iter().map(|ip| SocketAddr::new(ip, 80)).collect())
}

impl<'stage> Steady<'stage> {
    /// Begins, and waits until connections flow.
    pub(crate) fn begin(client: &'stage Station, to: &[SocketAddr]) -> Result<Self> {
        let mut this = Self { client, streams: Vec::new(), sessions: Vec::new() };
        for to in to {
            let target = Target::tcp(*to);
            for _ in 0..3 {
                this.sessions.push(client.probe().session(&target)?.session);
            }
            let spec = StreamSpec { target, concurrency: 2, pause_us: 4_000, keep_records: false };
            this.streams.push(client.probe().stream(&spec)?);
        }
        this.flow(50)?;
        Ok(this)
    }

    /// Waits for so many more connections of each stream, and uses the long-lived ones.
    pub(crate) fn flow(&self, more: u64) -> Result<()> {
        for stream in &self.streams {
            let asked = || -> Result<u64> {
                let report = stream.peek()?.asked;
                Ok(report.successes() + report.failed())
            };
            let until = asked()? + more;
            wait::until_true("connections flow", Duration::from_secs(30), || Ok(asked()? >= until))?;
        }
        for session in &self.sessions {
            let health = self.client.probe().exchange(*session, LINES)?;
            ensure!(health.broken.is_none(), "a long-lived connection broke: {health:?}");
        }
        Ok(())
    }

    /// Ends; nothing may have failed.
    pub(crate) fn finish(self, during: &str) -> Result<()> {
        self.flow(50)?;
        let mut count = 0;
        for stream in self.streams {
            let report = stream.stop()?;
            count += report.asked.successes();
            ensure!(
                report.errors.is_empty(),
                "during {during}: {:?} {:?}",
                report.errors,
                report.asked.failures
            );
        }
        for session in &self.sessions {
            self.client.probe().close_session(*session)?;
        }
        println!("{during}: {count} connections, 0 failures; {} sessions whole", self.sessions.len());
        Ok(())
    }
}
