//! `kubeshunt run`: puts source, controller and servers together.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use proxy_common::layout::Counter;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tracing::{info, warn};

use crate::{
    controller::{self, Chosen, Controller, Hears, status::Status, sweep},
    datapath::{
        counters::Counters,
        flows::{FlowMaps, sweep::Judge},
        pins::Pins,
    },
    host, serve,
    settings::{self, LogFormat, Run, Switch},
    source::{
        kubernetes::{AccessSettings, Kubernetes, requests::Requests},
        manifests::Manifests,
    },
    tables::checks::Checks,
};

/// Changes that may wait between the source and the controller; beyond, the source waits.
const QUEUE: usize = 8192;

/// Serves until SIGINT or SIGTERM. Maps and programs stay: connections go on.
///
/// # Errors
/// When the datapath cannot be set up, or the source gives up.
pub fn run(args: &Run) -> Result<()> {
    logging(args)?;
    // Under whatever name it was started: nobody is to take it for a kube-proxy.
    nix::sys::prctl::set_name(c"kubeshunt").context("cannot name this process")?;
    // One thread is enough for the control path; blocking calls get their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve_until_stopped(args));
    // A thread may be waiting in the kernel; nobody waits for it.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn serve_until_stopped(args: &Run) -> Result<()> {
    let node = args.node_name()?;
    let settings = args.datapath()?;
    let (node_ports, by_packets) = (args.node_ports()?, args.packets.by_packets()?);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        node,
        cgroup = %settings.cgroup_root.display(),
        pins = %settings.bpffs_root.display(),
        "starting"
    );
    host::capabilities::announce();
    if let Some(folder) = &args.manifests {
        Manifests::new(folder).check()?;
    }
    let requests = Requests::default();
    let status = Arc::new(Status::new(args.expectations(), &requests));
    let addresses = host::addresses::follow().await?;
    let devices = match args.packets.packet_path {
        Switch::On => Some(host::devices::follow(args.packets.choice()).await?),
        Switch::Off => None,
    };
    let pins = Pins::new(&settings.bpffs_root);
    let judge = Judge { timeouts: args.flows.timeouts(), ports: settings.packets.ports };
    let (serves, served) = std::sync::mpsc::channel();
    let (asks, checks) = watch::channel(Checks::new());
    let (leaves, left) = watch::channel(None);
    let (backs, backing) = std::sync::mpsc::channel();
    let with_tcp = args.sockets.reset_connections_to_removed_endpoints;
    let hears =
        Hears { served: serves, backing: backs, backing_of_tcp: with_tcp, checks: asks, left: leaves };
    let cgroup_root = settings.cgroup_root.clone();
    let chosen = Chosen { node_ports, by_packets, serves_external_ips: args.serves_external_ips() };
    let mut controller = Controller::new(settings, &node, Arc::clone(&status), hears, chosen)?;
    let left = host::cgroups::follow(cgroup_root, left);
    let counters = controller.datapath().counters()?;
    let fates = controller.datapath().fates()?;
    status.metrics.services.begin(args.metrics.service_metrics, move |id| fates.of(id));
    let flows = FlowMaps::open(&pins)?;
    let sockets = controller.datapath().sockets(with_tcp);
    let (sender, changes) = mpsc::channel(QUEUE);
    let source = async {
        match &args.manifests {
            Some(folder) => Manifests::new(folder).run(sender).await,
            None => {
                let access = AccessSettings {
                    kubeconfig: args.kubeconfig.clone(),
                    master: args.master.clone(),
                    requests,
                };
                let source = Kubernetes::new(access, &node);
                source.following_pods(!args.packets.pods_by_packets.is_empty()).run(sender).await
            }
        }
    };
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    tokio::select! {
        result = source => result.context("the source of Services ended"),
        result = controller.run(changes, addresses, devices, left) => result,
        result = serve::run(serving(args), Arc::clone(&status)) => result,
        result = serve::balancers::run(checks, Arc::clone(&status)) => result,
        result = sweep::run(flows, judge, Arc::clone(&status), served) => result,
        result = controller::sockets::run(sockets, Arc::clone(&status), backing) => result,
        result = host::leftovers::attend(args.leftovers.kube_proxy_leftovers, || status.health().is_serving) => result,
        () = follow(&counters, &status) => Ok(()),
        _ = interrupt.recv() => stopped("SIGINT"),
        _ = terminate.recv() => stopped("SIGTERM"),
    }
}

/// What the HTTP servers tell, with kube-proxy's defaults.
fn serving(args: &Run) -> serve::Settings {
    let mode = "iptables".to_owned();
    let configz = serde_json::json!({
        "kind": "KubeProxyConfiguration",
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "healthzBindAddress": args.healthz_bind_address.to_string(),
        "metricsBindAddress": args.metrics_bind_address.to_string(),
        "mode": mode,
    });
    serve::Settings {
        health: Some(args.healthz_bind_address),
        metrics: args.metrics_bind_address,
        hard_fail: false,
        mode,
        configz,
        flags: settings::flags(std::env::args_os()),
    }
}

fn stopped(by: &str) -> Result<()> {
    info!(by, "stopping; programs stay attached and connections go on (`kubeshunt cleanup` removes them)");
    Ok(())
}

/// Copies the programs' counters to the metrics once a second.
async fn follow(counters: &Counters, status: &Status) {
    let mut told = false;
    loop {
        for counter in Counter::ALL {
            match counters.total(counter) {
                Ok(total) => status.metrics.tables.decided(counter, total),
                Err(error) if !told => {
                    warn!("{error:#}");
                    told = true;
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn logging(args: &Run) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log)
        .with_context(|| format!("--log {:?} is no filter", args.log))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let installed = match args.log_format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
