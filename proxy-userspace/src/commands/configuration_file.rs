//! The configuration file, watched. kube-proxy ends when somebody writes to it, so as to be started anew; we end when it
//! says something else, and that makes sense. Mounted ConfigMaps, which change by the exchange of a link, count, too.

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{sync::mpsc, time::timeout};
use tracing::warn;

use crate::settings::Settings;

/// Without any notice: there may be links that nobody watches.
const AT_LEAST: Duration = Duration::from_secs(10);
/// For who is writing to get done.
const SETTLE: Duration = Duration::from_millis(200);

/// Waits until the file says something else that makes sense; for ever, if there is no file.
///
/// # Errors
/// Always: the process is to end.
pub(super) async fn until_it_changes(settings: &Settings) -> Result<()> {
    let Some(file) = settings.file() else { return std::future::pending().await };
    let (notices, mut noticed) = mpsc::channel(1);
    let _watcher = watch(file, notices);
    let shown = file.display();
    let (mut seen, mut complained) = (None, String::new());
    loop {
        // No notice is no news, and neither is a watch that could not be set up.
        if let Ok(Some(())) = timeout(AT_LEAST, noticed.recv()).await {
            tokio::time::sleep(SETTLE).await;
            while noticed.try_recv().is_ok() {}
        } else if noticed.is_closed() {
            tokio::time::sleep(AT_LEAST).await;
        }
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string());
        if seen.as_ref() == Some(&text) {
            continue;
        }
        let wrong = match &text {
            Err(error) => error.clone(),
            Ok(text) => match settings.differ_with(text) {
                Ok(true) => bail!(
                    "the configuration file {shown} has changed; ending, so as to be started anew with it. Services go \
                     on being served meanwhile"
                ),
                Ok(false) => String::new(),
                Err(mistake) => mistake.to_string(),
            },
        };
        if !wrong.is_empty() && wrong != complained {
            warn!(
                "the configuration file {shown} has changed and cannot be used, so the old one stays in force: {wrong}"
            );
        }
        complained = wrong;
        seen = Some(text);
    }
}

/// Watches the file's folder: what takes its place is another file.
fn watch(file: &Path, notices: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let notice = move |event: notify::Result<notify::Event>| {
        // Reading, which we do ourselves, is no news.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // One that waits says enough.
            let _ = notices.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(notice).and_then(|mut watcher| {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    let complain = |error: &notify::Error| {
        warn!("cannot watch {}: {error}; looking every {AT_LEAST:?}", folder.display())
    };
    watcher.inspect_err(complain).ok()
}
