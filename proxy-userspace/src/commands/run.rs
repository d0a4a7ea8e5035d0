//! `kubeshunt run`: puts source, controller and servers together.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use proxy_common::layout::Counter;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tracing::{info, warn};

use super::{cleanup, configuration_file, prepare, source};
use crate::{
    configuration::document,
    controller::{self, Chosen, Controller, Hears, status::Status, sweep},
    datapath::{
        counters::Counters,
        flows::{FlowMaps, sweep::Judge},
        pins::Pins,
    },
    events::Event,
    heap, host, serve,
    settings::{LogFormat, Settings, Switch},
    source::{Outlet, kubernetes::requests::Requests},
    tables::checks::Checks,
    trace::{self, Trace},
};

/// Changes that may wait between the source and the controller; beyond, the source waits.
const QUEUE: usize = 8192;

/// For events that say why it ends.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Serves until SIGINT or SIGTERM. Maps and programs stay: connections go on.
///
/// # Errors
/// When the datapath cannot be set up, or the source gives up.
pub fn run(args: &Settings) -> Result<()> {
    let process = &args.own.kube_proxy.process;
    if let Some(file) = &process.write_config_to {
        return write_configuration(args, file);
    }
    if process.cleanup {
        return cleanup::pins(&args.own.place.bpffs_root);
    }
    logging(args)?;
    for remark in &args.remarks {
        warn!("{remark}");
    }
    if process.init_only {
        return prepare::only(args);
    }
    heap::in_one_piece();
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

async fn serve_until_stopped(args: &Settings) -> Result<()> {
    let own = &args.own;
    let node = args.node_name()?;
    prepare::bpffs_at_its_usual_place(&own.place.bpffs_root);
    let settings = args.datapath()?;
    let (node_ports, by_packets) = (args.node_ports()?, own.packets.by_packets()?);
    info!(
        version = env!("CARGO_PKG_VERSION"),
        node,
        cgroup = %settings.cgroup_root.display(),
        pins = %settings.bpffs_root.display(),
        "starting"
    );
    host::capabilities::announce();
    let requests = Requests::default();
    let pins = Pins::new(&settings.bpffs_root);
    let source = source::of(args, &node, &pins, &requests).await?;
    let status = Arc::new(Status::new(args.expectations(), &requests));
    let addresses = host::addresses::follow().await?;
    let devices = match own.packets.packet_path {
        Switch::On => Some(host::devices::follow(args.devices()?).await?),
        Switch::Off => None,
    };
    let judge = Judge { timeouts: args.timeouts(), ports: settings.packets.ports };
    let (serves, served) = std::sync::mpsc::channel();
    let (asks, checks) = watch::channel(Checks::new());
    let (leaves, left) = watch::channel(None);
    let (backs, backing) = std::sync::mpsc::channel();
    let with_tcp = own.sockets.reset_connections_to_removed_endpoints;
    let trace = match own.tracing.exporter(&node) {
        Some(settings) => Trace::new(trace::Exporter::new(&settings)?),
        None => Trace::default(),
    };
    let (recorder, writer) = source::reporting(args, &source, &node, &status);
    let hears = Hears {
        served: serves,
        backing: backs,
        backing_of_tcp: with_tcp,
        checks: asks,
        left: leaves,
        trace: trace.clone(),
        events: recorder.clone(),
    };
    let cgroup_root = settings.cgroup_root.clone();
    let chosen = Chosen { node_ports, by_packets, serves_external_ips: args.serves_external_ips() };
    let mut controller = Controller::new(settings, &node, Arc::clone(&status), hears, chosen)?;
    // Under the lock that the controller holds: a second instance changes nothing at all.
    if own.manifests.is_none() {
        prepare::node(&args.configuration);
    }
    let left = host::cgroups::follow(cgroup_root, left);
    let counters = controller.datapath().counters()?;
    let fates = controller.datapath().fates()?;
    status.metrics.services.begin(own.metrics.service_metrics, move |id| fates.of(id));
    let flows = FlowMaps::open(&pins)?;
    let is_handing_over = controller.datapath().is_handing_over();
    let sockets = controller.datapath().sockets(with_tcp);
    let (sender, changes) = mpsc::channel(QUEUE);
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    recorder.record(|| Some(Event::starting()));
    let result = tokio::select! {
        result = source.run(Outlet::new(sender, trace.clone())) => result.context("the source of Services ended"),
        result = controller.run(changes, addresses, devices, left) => result,
        result = serve::run(args.serving()?, Arc::clone(&status), recorder.clone()) => result,
        result = serve::balancers::run(checks, Arc::clone(&status), &node, recorder.clone()) => result,
        result = sweep::run(flows, is_handing_over, judge, Arc::clone(&status), served) => result,
        result = controller::sockets::run(sockets, Arc::clone(&status), backing) => result,
        result = host::leftovers::attend(own.leftovers.kube_proxy_leftovers, || status.health().is_serving) => result,
        result = configuration_file::until_it_changes(args) => result,
        () = follow(&counters, &status) => Ok(()),
        _ = interrupt.recv() => stopped("SIGINT"),
        _ = terminate.recv() => stopped("SIGTERM"),
    };
    trace.finish().await;
    drop(recorder);
    if let (Err(_), Some(writer)) = (&result, writer) {
        // What was recorded of the reason. Nobody else records any more.
        let _ = tokio::time::timeout(LAST_WORDS, writer).await;
    }
    result
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

fn write_configuration(args: &Settings, file: &Path) -> Result<()> {
    let text = document::write(&args.as_written())?;
    std::fs::write(file, text)
        .with_context(|| format!("cannot write the configuration to {}", file.display()))
}

fn logging(args: &Settings) -> Result<()> {
    let filter = args.log_filter();
    let filter = tracing_subscriber::EnvFilter::try_new(&filter)
        .with_context(|| format!("--log {filter:?} is no filter"))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let installed = match args.log_format() {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    installed.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
