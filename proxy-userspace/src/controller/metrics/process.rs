//! This process and this build, under the names that every Kubernetes component has.

use procfs::{
    WithCurrentSystemInfo as _,
    process::{LimitValue, Process},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

/// The release of Kubernetes whose kube-proxy we behave like.
pub const KUBERNETES: (u32, u32) = (1, 36);

pub(super) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(OwnProcess));
    let (major, minor) = KUBERNETES;
    let version = format!("v{major}.{minor}.0+kubeshunt-{}", env!("CARGO_PKG_VERSION"));
    let labels = [
        ("major", major.to_string()),
        ("minor", minor.to_string()),
        ("git_version", version),
        ("compiler", "rustc".to_owned()),
        ("platform", format!("{}/{}", std::env::consts::OS, go_architecture())),
    ];
    registry.register(
        "kubernetes_build",
        "The release of Kubernetes whose kube-proxy this behaves like, and our own",
        Info::new(labels.to_vec()),
    );
}

/// As Go calls it, and so do all other components.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What /proc says of this process. What cannot be read is left out.
#[derive(Debug)]
struct OwnProcess;

impl Collector for OwnProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Ok(process) = Process::myself() else { return Ok(()) };
        if let Ok(stat) = process.stat() {
            let ticks = procfs::ticks_per_second();
            #[expect(clippy::cast_precision_loss, reason = "no process has used 2^52 ticks")]
            let seconds = (stat.utime + stat.stime) as f64 / ticks as f64;
            let cpu = ConstCounter::new(seconds);
            let help = "Time that this process has used of CPUs";
            cpu.encode(encoder.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                cpu.metric_type(),
            )?)?;
            let resident = stat.rss_bytes().get();
            gauge(&mut encoder, "process_resident_memory", Some(&Unit::Bytes), "Memory in use", resident)?;
            gauge(
                &mut encoder,
                "process_virtual_memory",
                Some(&Unit::Bytes),
                "Addresses in use",
                stat.vsize,
            )?;
            if let Ok(boot) = procfs::boot_time_secs() {
                let start = boot + stat.starttime / ticks;
                let help = "When this process began, since 1970";
                gauge(&mut encoder, "process_start_time", Some(&Unit::Seconds), help, start)?;
            }
        }
        if let Ok(count) = process.fd_count() {
            gauge(&mut encoder, "process_open_fds", None, "Open file descriptors", count as u64)?;
        }
        if let Ok(limits) = process.limits()
            && let LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            let help = "How many file descriptors may be open";
            gauge(&mut encoder, "process_max_fds", None, help, most)?;
        }
        Ok(())
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    unit: Option<&Unit>,
    help: &str,
    value: u64,
) -> Result<(), std::fmt::Error> {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, unit, gauge.metric_type())?)
}
