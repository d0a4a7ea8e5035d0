//! The steps of the demo. Each shows one promise with real connections, and says whether it held.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use kubeshunt_tests::probe::{Stream, merge};
use kubeshunt_tests::protocol::{AskReport, BenchSlice, Load, StreamReport, StreamSpec, Target};
use kubeshunt_tests::{netfilter, wait};

use super::screen::{Screen, micros, millis};
use super::stage::{DNS, EMPTY, HTTP, NODE_PORT, QUICK, Stage, WEB};

/// A step of the demo.
pub(super) type Scene = fn(&mut Stage, &mut Screen) -> Result<()>;

/// All of them, in order.
pub(super) const SCENES: &[(&str, Scene)] = &[
    ("Connections through the ClusterIP", cluster_ip),
    ("The time it takes to connect, beside direct access", latency),
    ("A backend is removed while connections run", removal),
    ("kubeshunt is killed and started again while connections run", restart),
    ("A service without endpoints refuses at once", refusal),
    ("Programs see the service's address, not the backend's", names),
    ("Through the NodePort: from a pod, from the host, from a client outside", node_port),
    ("Rules in the node's packet filter", rules),
];

/// How long something may take to come true before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(10);

fn errors_of(report: &AskReport) -> String {
    let errors: Vec<_> = report.errors.iter().map(|(name, count)| format!("{count} × {name}")).collect();
    errors.join(", ")
}

fn ask(stage: &Stage, screen: &Screen, label: &str, target: &Target) -> Result<AskReport> {
    let report = stage.client.probe().ask(target, 300, 2)?;
    screen.bars(&format!("{label:<4} {}", target.to), &report.answered);
    Ok(report)
}

fn cluster_ip(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    let (mut asked, mut failed, mut strange) = (0, 0, 0);
    let mut errors = String::new();
    for ip in WEB {
        for (label, target) in [
            ("TCP", Target::tcp(SocketAddr::new(ip, HTTP.0))),
            ("UDP", Target::udp(SocketAddr::new(ip, DNS.0))),
        ] {
            let report = ask(stage, screen, label, &target)?;
            asked += report.successes() + report.failed();
            failed += report.failed();
            // Replies must seem to come from the service, and backends must see the true client.
            let own = stage.client.ip(ip);
            let odd = report.senders.keys().any(|sender| *sender != target.to)
                || report.seen_as.iter().any(|seen| *seen != own);
            strange += u32::from(odd);
            if errors.is_empty() {
                errors = errors_of(&report);
            }
        }
    }
    screen.promise(failed == 0, format!("{} of {asked} answered {errors}", asked - failed));
    screen.promise(strange == 0, "backends see the client's own address, clients the service's");
    Ok(())
}

fn latency(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    const ROUNDS: usize = 24;
    let slice =
        |to| BenchSlice { to, mapped: false, for_ms: 40, workers: 1, load: Load::Connects { reset: true } };
    let (mut direct, mut service, mut failed) = (Vec::new(), Vec::new(), 0);
    for round in 0..ROUNDS {
        // In turns, so that both meet the same moods of the machine.
        let backend = &stage.backends[round % stage.backends.len()];
        for (to, kept) in
            [(backend.at4(QUICK.1), &mut direct), (SocketAddr::new(WEB[0], QUICK.0), &mut service)]
        {
            let report = stage.client.probe().bench(&slice(to))?;
            failed += report.errors.values().sum::<u64>();
            kept.push(report.connect);
        }
    }
    let (direct, service) = (merge(&direct), merge(&service));
    for (label, latency) in [("to a backend's own address", &direct), ("through the ClusterIP", &service)] {
        screen.line(
            label,
            format!("p50 {:>9}   p99 {:>9}   of {}", micros(latency.p50), micros(latency.p99), latency.count),
        );
    }
    screen.promise(failed == 0, format!("{failed} connections failed"));
    if let Some(percent) = (service.p50 * 100).checked_div(direct.p50) {
        screen.remark(format!("connecting through the service takes {percent} % of the direct time (p50)"));
    }
    Ok(())
}

/// Starts connections in the background and waits until every backend has answered some.
fn flow(stage: &Stage) -> Result<Stream<'_>> {
    let target = Target::tcp(SocketAddr::new(WEB[0], HTTP.0));
    let spec = StreamSpec { target, concurrency: 2, pause_us: 400, keep_records: false };
    let stream = stage.client.probe().stream(&spec)?;
    wait::until_true("every backend answers", PATIENCE, || {
        let servers = stream.peek()?.servers;
        Ok(stage
            .backends
            .iter()
            .all(|backend| servers.get(backend.name()).is_some_and(|seen| seen.count > 50)))
    })?;
    Ok(stream)
}

fn conclude(screen: &mut Screen, report: &StreamReport) {
    let (done, failed) = (report.asked.successes(), report.asked.failed());
    let errors = errors_of(&report.asked);
    screen.promise(failed == 0, format!("{failed} of {} connections failed {errors}", done + failed));
}

fn removal(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    let stream = flow(stage)?;
    let removed = wait::monotonic_ns();
    stage.set_endpoints(&stage.backends[..2])?;
    let gone = stage.backends[2].name();
    wait::until_true("the removed backend is left alone", PATIENCE, || {
        let last = stream.peek()?.servers[gone].last_ns;
        Ok(wait::monotonic_ns().saturating_sub(last) > 300_000_000)
    })?;
    let between = stream.peek()?;
    let added = wait::monotonic_ns();
    stage.set_endpoints(&stage.backends)?;
    let count = between.servers[gone].count;
    let back = wait::until("the backend is used again", PATIENCE, || {
        Ok(Some(stream.peek()?).filter(|report| report.servers[gone].count > count))
    })?;
    let report = stream.stop()?;
    screen.bars("answered", &report.asked.answered);
    let last = between.servers[gone].last_ns.saturating_sub(removed);
    screen.line(&format!("last connection to {gone}"), format!("{} after its removal", millis(last)));
    let first = back.servers[gone].last_ns.saturating_sub(added);
    screen.line(&format!("next connection to {gone}"), format!("{} after its return", millis(first)));
    conclude(screen, &report);
    Ok(())
}

fn restart(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    let Stage { client, kubeshunt, .. } = stage;
    let target = Target::tcp(SocketAddr::new(WEB[0], HTTP.0));
    let spec = StreamSpec { target, concurrency: 2, pause_us: 400, keep_records: false };
    let stream = client.probe().stream(&spec)?;
    let more = |what: &str| {
        let before = stream.peek()?.asked.successes();
        wait::until_true(what, PATIENCE, || {
            let report = stream.peek()?;
            Ok(report.asked.successes() > before + 500 || report.asked.failed() > 0)
        })
    };
    more("connections run")?;
    kubeshunt.kill9()?;
    more("connections run without the program")?;
    kubeshunt.restart()?;
    more("connections run with the program again")?;
    let report = stream.stop()?;
    screen.bars("answered", &report.asked.answered);
    conclude(screen, &report);
    Ok(())
}

fn refusal(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    let to = SocketAddr::new(EMPTY, 80);
    for (label, target) in [("TCP connect", Target::tcp(to)), ("UDP sendto", Target::udp(to))] {
        let report = stage.client.probe().ask(&target.timeout_ms(200), 20, 1)?;
        let mut times: Vec<_> = report.failures.iter().map(|failure| failure.elapsed_ns).collect();
        times.sort_unstable();
        let middle = times.get(times.len() / 2).copied().unwrap_or(0);
        let refused = report.errors.get("ECONNREFUSED").copied().unwrap_or(0);
        let outcome = if refused == 20 { "ECONNREFUSED".to_owned() } else { errors_of(&report) };
        let text = format!("{label} to {to}: {outcome}, after {} (p50 of 20)", micros(middle));
        screen.promise(refused == 20, text);
    }
    Ok(())
}

fn names(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    for ip in WEB {
        for (label, target) in [
            ("TCP", Target::tcp(SocketAddr::new(ip, HTTP.0))),
            ("UDP", Target::udp_connected(SocketAddr::new(ip, DNS.0))),
        ] {
            let names = stage.client.probe().names(&target)?;
            let text = format!("{label} connected to {}, getpeername says {}", names.by, names.peer);
            screen.promise(names.peer == target.to, text);
        }
    }
    Ok(())
}

fn node_port(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    let (client, host, outside) = (&stage.client, stage.node.host(), stage.bed.outside());
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let own = [IpAddr::from(host.v4()), host.v6().into()];
    let asked = [(client, own), (host, own), (host, loopback), (outside, own)];
    let (mut answered, mut failed, mut errors) = (0, 0, String::new());
    let mut hidden = 0;
    for (station, addresses) in asked {
        for ip in addresses {
            let target = Target::tcp(SocketAddr::new(ip, NODE_PORT)).timeout_ms(500);
            let report = station.probe().ask(&target, 100, 8)?;
            screen.bars(&format!("{:<7} {}", station.name(), target.to), &report.answered);
            answered += report.successes();
            failed += report.failed();
            // The node has several addresses, and the kernel takes the one that is nearest to the backend.
            if station.name() != host.name() {
                hidden += report.seen_as.iter().filter(|seen| **seen != station.ip(ip)).count();
            }
            errors = errors_of(&report);
        }
    }
    screen.promise(failed == 0, format!("{answered} of {} answered {errors}", answered + failed));
    screen.promise(hidden == 0, "backends see the client's own address, outside as inside");
    Ok(())
}

fn rules(stage: &mut Stage, screen: &mut Screen) -> Result<()> {
    let rules = netfilter::look(stage.node.netns()).context("cannot ask the packet filter")?;
    let tables = rules.nftables.map_or("not in this kernel".to_owned(), |count| format!("{count} tables"));
    screen.line("nftables", tables);
    let tables = rules.iptables.map_or("not loaded".to_owned(), |count| format!("{count} tables"));
    screen.line("iptables", tables);
    let none = rules.nftables.unwrap_or(0) == 0 && rules.iptables.unwrap_or(0) == 0;
    screen.promise(none, "no iptables or nftables rules were used");
    Ok(())
}
