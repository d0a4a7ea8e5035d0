//! Credentials that are replaced while kubeshunt runs.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kubeshunt_tests::wait;
use serde_json::{Value, json};

use crate::objects::{port, service};
use crate::server::{start, users};
use crate::stage::Scenery;
use crate::steady::{Steady, steady_service};

/// As those do it who rotate credentials: a new file takes the old one's name.
fn replace(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, text)?;
    fs::rename(&fresh, path).with_context(|| format!("cannot replace {}", path.display()))
}

#[test]
fn tokens_and_kubeconfigs_are_replaced() -> Result<()> {
    // Whom the server knows changes here: not for other tests.
    let api = Arc::new(start("first")?);
    let scenery = Scenery::new(Arc::clone(&api))?;
    let folder = scenery.bed.folder().to_owned();
    let token = folder.join("token");
    fs::write(&token, "first")?;
    let kubeconfig = scenery.kubeconfig("in the file")?;
    let mut document: Value = serde_json::from_str(&fs::read_to_string(&kubeconfig)?)?;
    document["users"][0]["user"] = json!({"tokenFile": token});
    replace(&kubeconfig, &document.to_string())?;
    let setup = Scenery::setup(&kubeconfig);
    let stage = scenery.run(setup)?;
    let to = steady_service(&stage)?;
    let steady = Steady::begin(&stage.client, &to)?;
    let pid = stage.kubeshunt.pid();
    let web = |name: &str| service(name, json!({"ports": [port("http", "TCP", 80)]}));

    // In time: the new token is there before the old one is revoked.
    replace(&token, "second\n")?;
    api.replace_users(&users("second"))?;
    api.restart()?;
    stage.api.apply_all(&[web("after-second")])?;
    stage.settle("a token replaced in time")?;

    // Late: for a while kubeshunt has none that the server takes.
    api.replace_users(&users("third"))?;
    api.restart()?;
    let refused = || Ok(stage.log()?.contains("Unauthorized"));
    wait::until_true("the old token is refused", Duration::from_secs(20), refused)?;
    stage.api.apply_all(&[web("after-third")])?;
    steady.flow(100)?;
    replace(&token, "third")?;
    stage.settle("a token replaced late")?;

    // Half written, then another server address and the token in the file itself.
    let proxy = stage.node.netns().run(|| api.proxy([127, 0, 0, 1].into()))?;
    document["clusters"][0]["cluster"]["server"] = json!(proxy.url());
    document["users"][0]["user"] = json!({"token": "third"});
    let text = document.to_string();
    fs::write(&kubeconfig, &text[..text.len() / 2])?;
    stage.proxy.cut();
    let complained = || Ok(stage.log()?.contains("keeping the old ones"));
    wait::until_true("half a kubeconfig is noticed", Duration::from_secs(20), complained)?;
    stage.api.apply_all(&[web("after-half")])?;
    stage.settle("half a kubeconfig")?;
    replace(&kubeconfig, &text)?;
    stage.proxy.refuse(true)?;
    stage.proxy.cut();
    wait::until_true("the new address is used", Duration::from_secs(20), || Ok(proxy.connections() > 0))?;
    stage.api.apply_all(&[web("after-move")])?;
    stage.settle("another kubeconfig")?;
    ensure!(stage.kubeshunt.pid() == pid, "it was restarted");
    steady.finish("three changes of credentials")
}
