//! Where `kubeshunt run` hears of Services: a folder, or an API server.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use tracing::info;

use crate::{
    datapath::{contents, pins::Pins},
    settings::{Settings, api},
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
