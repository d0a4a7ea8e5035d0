//! What a running kubeshunt does about what kube-proxy has left: names it, or removes it when the time has come.

use std::{future, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::{Leftover, find, remove, running};
use crate::settings::Treatment;

/// Between two looks whether the time has come: whether Services are served, and kube-proxy is gone.
const PAUSE: Duration = Duration::from_secs(5);

/// Attends to leftovers as the user wishes; never returns. `is_serving` says whether Services are served here without
/// kube-proxy: tables complete, programs attached.
///
/// # Errors
/// Never because of leftovers: those harm nobody who is served here.
pub async fn attend(treatment: Treatment, is_serving: impl Fn() -> bool) -> Result<()> {
    match treatment {
        Treatment::Ignore => {}
        Treatment::Report => match look().await {
            Ok((found, None)) if !found.is_empty() => warn!(
                "kube-proxy is gone and has left {}; `kubeshunt cleanup --kube-proxy` removes it",
                listed(&found)
            ),
            Ok((_, Some(sign))) => info!("a kube-proxy is at work beside this: {sign}"),
            Ok(_) => {}
            Err(error) => warn!("{error:#}"),
        },
        Treatment::Remove => {
            if let Err(error) = remove_once(is_serving).await {
                warn!("{error:#}; what kube-proxy has left stays");
            }
        }
    }
    future::pending().await
}

/// Removes them when nobody needs them any more. Only once: what comes back has an owner.
async fn remove_once(is_serving: impl Fn() -> bool) -> Result<()> {
    let mut told = false;
    loop {
        if is_serving() {
            match look().await? {
                (found, None) if found.is_empty() => return Ok(()),
                (found, None) => {
                    let list = listed(&found);
                    spawn_blocking(move || remove(&found)).await.context("a thread died")??;
                    info!("removed what kube-proxy has left: {list}");
                    return Ok(());
                }
                (_, Some(sign)) if !told => {
                    info!(
                        "a kube-proxy is at work beside this: {sign}; its rules are removed when it is gone"
                    );
                    told = true;
                }
                (_, Some(_)) => {}
            }
        }
        sleep(PAUSE).await;
    }
}

async fn look() -> Result<(Vec<Leftover>, Option<running::Sign>)> {
    spawn_blocking(|| Ok((find()?, running::sign()))).await.context("a thread died")?
}

fn listed(leftovers: &[Leftover]) -> String {
    leftovers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}
