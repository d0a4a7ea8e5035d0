//! What a running kubeshunt does about what kube-proxy has left: names it, or removes it when the time has come.

use std::{future, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::{Leftover, find, remove, running};
use crate::settings::Treatment;

/// Between two looks whether the time has come: whether Services are served, and kube-proxy is gone.
const PAUSE: Duration = Duration::from_secs(5);

/// And after the kernel has refused.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(60);

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
        Treatment::Remove => remove_in_time(is_serving).await,
    }
    future::pending().await
}

/// Removes them when nobody needs them any more. Only once: what comes back has an owner.
async fn remove_in_time(is_serving: impl Fn() -> bool) {
    let (mut has_seen_it, mut has_warned) = (false, false);
    loop {
        let mut pause = PAUSE;
        if is_serving() {
            match remove_once(&mut has_seen_it).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    pause = PAUSE_AFTER_ERROR;
                    if !has_warned {
                        warn!("{error:#}; what kube-proxy has left stays, trying again every {pause:?}");
                    }
                    has_warned = true;
                }
            }
        }
        sleep(pause).await;
    }
}

/// Removes them if kube-proxy is gone; says whether nothing remains to be done.
async fn remove_once(has_seen_it: &mut bool) -> Result<bool> {
    let (found, sign) = look().await?;
    if let Some(sign) = sign {
        if !*has_seen_it {
            info!("a kube-proxy is at work beside this: {sign}; its rules are removed when it is gone");
        }
        *has_seen_it = true;
        return Ok(false);
    }
    let (ipvs, found): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|leftover| matches!(leftover, Leftover::Ipvs));
    if !ipvs.is_empty() {
        warn!(
            "kube-proxy has left {}, which stays: without it connections break that IPVS has made, and virtual servers of \
             others go as well; `kubeshunt cleanup --kube-proxy` removes it",
            listed(&ipvs)
        );
    }
    if found.is_empty() {
        return Ok(true);
    }
    let list = listed(&found);
    // One that was seen and has left its port to us is gone.
    if !*has_seen_it && !spawn_blocking(running::can_tell).await.context("a thread died")? {
        warn!(
            "kube-proxy has left {list}; whether it still runs cannot be seen from this container, so that stays: \
             `kubeshunt cleanup --kube-proxy --force` removes it"
        );
        return Ok(true);
    }
    spawn_blocking(move || remove(&found)).await.context("a thread died")??;
    info!("removed what kube-proxy has left: {list}");
    Ok(true)
}

async fn look() -> Result<(Vec<Leftover>, Option<running::Sign>)> {
    spawn_blocking(|| Ok((find()?, running::sign()))).await.context("a thread died")?
}

fn listed(leftovers: &[Leftover]) -> String {
    leftovers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}
