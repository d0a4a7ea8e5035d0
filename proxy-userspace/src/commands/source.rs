//! Where `kubeshunt run` hears of Services, a folder or an API server, and where it tells of them.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use tokio::task::JoinHandle;
use tracing::info;

use crate::{
    controller::status::Status,
    datapath::{contents, pins::Pins},
    events::{self, Recorder, writer::Reporter},
    settings::{Settings, Switch, api},
    source::{
        Source,
        kubernetes::{Access, AccessSettings, Kubernetes, requests::Requests},
        manifests::Manifests,
    },
};

/// The one that is asked for.
///
/// # Errors
/// When it cannot even begin.
pub(super) async fn of(args: &Settings, node: &str, pins: &Pins, requests: &Requests) -> Result<Source> {
    if let Some(folder) = &args.own.manifests {
        let source = Manifests::new(folder);
        source.check()?;
        return Ok(Source::Manifests(source));
    }
    let in_environment = api::of_environment(|name| std::env::var(name).ok());
    let access = AccessSettings {
        in_environment,
        last_known: in_environment.map(|address| last_known(address, pins)).unwrap_or_default(),
        ..args.access(requests.clone())
    };
    let access = Access::new(access).await.context("cannot set up access to the API server")?;
    let source = Kubernetes::new(Arc::new(access), node);
    Ok(Source::Kubernetes(source.following_pods(!args.own.packets.pods_by_packets.is_empty())))
}

/// The API servers that an earlier process found: its maps lead there what is sent to the cluster IP in the environment.
fn last_known(address: SocketAddr, pins: &Pins) -> Vec<SocketAddr> {
    let servers = contents::endpoints_of(pins, address).unwrap_or_default();
    if !servers.is_empty() {
        info!(%address, ?servers, "an earlier process knew where the API servers are");
    }
    servers
}

/// Who takes events, and the task that writes them; nobody where there is no API server.
pub(super) fn reporting(
    args: &Settings,
    source: &Source,
    node: &str,
    status: &Arc<Status>,
) -> (Recorder, Option<JoinHandle<()>>) {
    let (Source::Kubernetes(source), Switch::On) = (source, args.own.api.events) else {
        return (Recorder::none(), None);
    };
    let status = Arc::clone(status);
    let count: events::Count = Arc::new(move |outcome| status.metrics.tables.event(outcome.name()));
    let (recorder, recorded) = Recorder::new(Arc::clone(&count));
    let controller = api::reporting_controller(std::env::args_os().next().as_deref()).to_owned();
    let reporter = Reporter { controller, node: node.to_owned() };
    let writer = events::writer::run(recorded, source.access(), reporter, count);
    (recorder, Some(tokio::spawn(writer)))
}
