//! The harness itself: its network carries packets, its probes tell the truth, its janitor leaves
//! nothing.

mod layouts;
mod loads;
mod sniffing;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kubeshunt_tests::netns::NetNs;
use kubeshunt_tests::protocol::{BenchSlice, Load, Method, OneSocket, Service, StreamSpec, Target};
use kubeshunt_tests::{Estate, Kubeshunt, Ready, Setup, Station, Testbed, bpffs, netfilter, probe, wait};

const PATIENCE: Duration = Duration::from_secs(10);

/// Serves TCP and UDP of both families on port 8080.
fn serve(station: &Station) -> Result<()> {
    for address in [station.at4(8080), station.at6(8080)] {
        station.probe().serve(Service::Tcp, address)?;
        station.probe().serve(Service::Udp, address)?;
    }
    Ok(())
}

/// Asks by every method and checks the answers.
#[track_caller]
fn assert_reaches(client: &Station, to: SocketAddr, server: &str) {
    let targets = [
        Target::tcp(to),
        Target::udp_connected(to),
        Target::udp(to),
        Target { method: Method::UdpUnconnected { peek: true }, ..Target::tcp(to) },
        // Fragments both ways.
        Target::udp(to).padding(5000),
    ];
    for target in targets {
        let report = client.probe().ask(&target, 10, 2).expect("the probe works");
        assert_eq!(report.answered.get(server), Some(&10), "{target:?}: {report:?}");
        assert_eq!(report.failed(), 0, "{target:?}: {report:?}");
        assert_eq!(report.senders.keys().collect::<Vec<_>>(), [&to], "{target:?}");
        let own: IpAddr = client.ip(to.ip());
        assert_eq!(report.seen_as.into_iter().collect::<Vec<_>>(), [own], "{target:?}");
        assert_eq!(report.latency.count, 10);
        assert!(report.latency.min > 0 && report.latency.p50 <= report.latency.max);
    }
}

#[test]
fn pods_reach_pods_on_their_node_and_on_another() -> Result<()> {
    let bed = Testbed::new()?;
    let (a, b) = (bed.node("node-a")?, bed.node("node-b")?);
    let client = a.pod("client")?;
    let (near, far) = (a.pod("near")?, b.pod("far")?);
    for backend in [&near, &far] {
        serve(backend)?;
        assert_reaches(&client, backend.at4(8080), backend.name());
        assert_reaches(&client, backend.at6(8080), backend.name());
    }
    Ok(())
}

#[test]
fn hosts_and_clients_outside_reach_pods_and_hosts() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let other = bed.node("node-b")?;
    let backend = node.pod("backend")?;
    serve(&backend)?;
    serve(node.host())?;
    let late = bed.outsider("late")?;
    for to in [backend.at4(8080), backend.at6(8080)] {
        assert_reaches(bed.outside(), to, "backend");
        assert_reaches(&late, to, "backend");
        assert_reaches(other.host(), to, "backend");
    }
    for to in [node.host().at4(8080), node.host().at6(8080)] {
        assert_reaches(bed.outside(), to, "node-a");
    }
    Ok(())
}

#[test]
fn mapped_sockets_reach_ipv4() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let (client, backend) = (node.pod("client")?, node.pod("backend")?);
    serve(&backend)?;
    let to = backend.at4(8080);
    for target in [Target::tcp(to), Target::udp_connected(to), Target::udp(to)] {
        let report = client.probe().ask(&target.mapped(), 5, 1)?;
        assert_eq!(report.answered.get("backend"), Some(&5), "{report:?}");
    }
    let names = client.probe().names(&Target::tcp(to).mapped())?;
    assert_eq!((names.peer, names.local.ip(), &*names.by), (to, client.v4().into(), "backend"));
    Ok(())
}

#[test]
fn failures_have_names() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let (client, backend) = (node.pod("client")?, node.pod("backend")?);
    let refused = client.probe().ask(&Target::tcp(backend.at4(81)), 3, 1)?;
    assert_eq!(refused.errors.get("ECONNREFUSED"), Some(&3), "{refused:?}");
    let refused = client.probe().ask(&Target::udp_connected(backend.at6(81)), 3, 1)?;
    assert_eq!(refused.errors.get("ECONNREFUSED"), Some(&3), "{refused:?}");
    let unreachable = bed.outside().probe().ask(&Target::tcp("203.0.113.1:80".parse()?), 1, 1)?;
    assert_eq!(unreachable.errors.get("ENETUNREACH"), Some(&1), "{unreachable:?}");
    backend.probe().serve(Service::TcpSilent, backend.at4(82))?;
    let silent = client.probe().ask(&Target::tcp(backend.at4(82)).timeout_ms(50), 1, 1)?;
    assert_eq!(silent.errors.get("TIMEOUT"), Some(&1), "{silent:?}");
    assert_eq!(silent.failures[0].call, "recv");
    // The LAN's gateway swallows what is for the Internet.
    let swallowed = client.probe().ask(&Target::tcp("203.0.113.1:80".parse()?).timeout_ms(50), 1, 1)?;
    assert_eq!(swallowed.errors.get("TIMEOUT"), Some(&1), "{swallowed:?}");
    assert_eq!(swallowed.failures[0].call, "connect");
    Ok(())
}

#[test]
fn one_udp_socket_talks_to_several_servers() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let client = node.pod("client")?;
    let servers = [node.pod("one")?, node.pod("two")?];
    for server in &servers {
        serve(server)?;
    }
    let turns = [&servers[0], &servers[1], &servers[0]];
    for reconnect in [false, true] {
        let to: Vec<_> = turns.iter().map(|server| server.at4(8080)).collect();
        let plan = OneSocket { to: to.clone(), reconnect, mapped: reconnect, timeout_ms: 1000 };
        let exchanges = client.probe().one_socket(plan)?;
        assert_eq!(exchanges.len(), 3);
        for (exchange, server) in exchanges.iter().zip(turns) {
            let answer = exchange.result.as_ref().expect("the server answers");
            assert_eq!((answer.by.as_str(), answer.sender), (server.name(), exchange.to));
        }
    }
    Ok(())
}

#[test]
fn sessions_live_on_after_the_listener_and_break_when_cut() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let (client, backend) = (node.pod("client")?, node.pod("backend")?);
    let serving = backend.probe().serve(Service::Tcp, backend.at4(8080))?;
    let open = client.probe().session(&Target::tcp(serving.address))?;
    assert_eq!((open.answer.by.as_str(), open.answer.seen_as), ("backend", open.local));
    backend.probe().stop_serving(serving, false)?;
    let health = client.probe().exchange(open.session, 10)?;
    assert_eq!((health.exchanged, health.broken), (10, None));
    let refused = client.probe().ask(&Target::tcp(serving.address), 1, 1)?;
    assert_eq!(refused.errors.get("ECONNREFUSED"), Some(&1), "{refused:?}");

    let serving = backend.probe().serve(Service::Tcp, backend.at4(8080))?;
    let second = client.probe().session(&Target::tcp(serving.address))?;
    backend.probe().stop_serving(serving, true)?;
    assert!(client.probe().exchange(second.session, 1)?.broken.is_some());
    assert_eq!(client.probe().exchange(open.session, 1)?.exchanged, 11);
    client.probe().close_session(open.session)?;
    Ok(())
}

#[test]
fn streams_tell_when_servers_came_and_went() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let (client, backend) = (node.pod("client")?, node.pod("backend")?);
    let serving = backend.probe().serve(Service::Tcp, backend.at4(8080))?;
    let begun = wait::monotonic_ns();
    let target = Target::tcp(serving.address);
    let spec = StreamSpec { target, concurrency: 2, pause_us: 100, keep_records: true };
    let stream = client.probe().stream(&spec)?;
    wait::until_true("answers come", PATIENCE, || Ok(stream.peek()?.asked.successes() > 20))?;
    let stopped = wait::monotonic_ns();
    backend.probe().stop_serving(serving, true)?;
    wait::until_true("refusals come", PATIENCE, || {
        Ok(stream.peek()?.errors.get("ECONNREFUSED").is_some_and(|seen| seen.count > 20))
    })?;
    let report = stream.stop()?;
    let (seen, refused) = (&report.servers["backend"], &report.errors["ECONNREFUSED"]);
    assert!(begun < seen.first_ns && seen.first_ns < stopped && stopped < refused.first_ns);
    let total = report.asked.successes() + report.asked.failed();
    assert_eq!(report.records.len() as u64, total);
    Ok(())
}

#[test]
fn benchmarks_count() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let (client, backend) = (node.pod("client")?, node.pod("backend")?);
    serve(&backend)?;
    let quick = backend.probe().serve(Service::TcpTurnaround { threads: 2 }, backend.at4(0))?;
    let slice =
        |to, load| client.probe().bench(&BenchSlice { to, mapped: false, for_ms: 50, workers: 2, load });
    // A first packet may be lost while neighbours are found, and the next one comes a second later.
    for to in [quick.address, backend.at6(8080)] {
        slice(to, Load::Connects { reset: true })?;
    }
    let mut connects = Vec::new();
    for (to, reset) in [(quick.address, true), (quick.address, false), (backend.at6(8080), true)] {
        let report = slice(to, Load::Connects { reset })?;
        assert!(report.count > 50 && report.errors.is_empty(), "{report:?}");
        assert_eq!(report.connect.count, report.count);
        assert!(report.connect.p50 < report.whole.p50);
        connects.push(report.connect);
    }
    assert_eq!(probe::merge(&connects).count, connects.iter().map(|part| part.count).sum::<u64>());
    for load in [
        Load::RequestResponse { size: 64 },
        Load::Datagrams { size: 64, connected: true },
        Load::Datagrams { size: 64, connected: false },
    ] {
        let report = slice(backend.at4(8080), load)?;
        assert!(report.count > 50 && report.errors.is_empty(), "{load:?}: {report:?}");
    }
    for to in [backend.at4(8080), quick.address] {
        let report = slice(to, Load::RequestResponse { size: 1 })?;
        assert!(report.count > 50 && report.errors.is_empty(), "{report:?}");
        let report = slice(to, Load::Throughput { chunk: 65_536 })?;
        assert!(report.bytes > 0 && report.errors.is_empty(), "{report:?}");
        assert_eq!(report.bytes, report.count * 65_536, "{report:?}");
    }
    backend.probe().stop_serving(quick, true)
}

#[test]
fn a_dropped_pod_is_gone_from_the_net() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let pod = node.pod("pod")?;
    let (folder, port) = (pod.cgroup().path().to_owned(), pod.port().expect("a pod has a link").to_owned());
    assert!(folder.exists());
    drop(pod);
    assert!(!folder.exists());
    let gone = node.netns().links(async |links| Ok(links.index(&port).await.is_err()))?;
    assert!(gone);
    Ok(())
}

#[test]
fn programs_run_inside_their_place() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let pod = node.pod("pod")?;
    let mut command = Command::new("cat");
    command.args(["/proc/self/cgroup", "/proc/self/net/fib_trie"]).stdout(Stdio::piped());
    let output = pod.spawn(command)?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("/node-a/pod-pod"), "{text}");
    assert!(text.contains(&pod.v4().to_string()), "{text}");
    Ok(())
}

/// Writes a program that stands in for the one under test where only its life matters.
fn script(bed: &Testbed, name: &str, text: &str) -> Result<PathBuf> {
    let path = bed.folder().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[test]
fn a_program_that_ends_at_once_shows_its_log() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let binary = script(&bed, "ends", "echo \"called with $@\"; exit 3")?;
    let setup = Setup::manifests(&bed.manifests("m")?).arg("--extra");
    let error = Kubeshunt::start_binary(&node, setup, binary).expect_err("it ends");
    let text = format!("{error:#}");
    let pins = node.pins().display().to_string();
    for part in
        ["exit status: 3", "called with run --manifests", "--hostname-override node-a", "--extra", &pins]
    {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    Ok(())
}

#[test]
fn a_program_is_started_killed_and_started_again() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let binary = script(&bed, "lives", "trap 'exit 7' TERM; cat /proc/self/cgroup; sleep 1000 & wait")?;
    // Ready once it has logged as often as it was started.
    let ready = |program: &Kubeshunt| Ok(fs::read_to_string(program.log())?.contains("/kubeshunt-node-a"));
    let setup = Setup::manifests(&bed.manifests("m")?).ready(Ready::When(Arc::new(ready)));
    let mut program = Kubeshunt::start_binary(&node, setup, binary)?;
    assert!(program.cgroup().processes()?.contains(&program.pid().expect("it runs")));
    program.kill9()?;
    assert!(program.kill9().is_err() && program.pid().is_none());
    program.restart()?;
    assert!(program.restart().is_err());
    wait::until_true("it logs again", PATIENCE, || {
        Ok(fs::read_to_string(program.log())?.matches("kubeshunt-node-a").count() == 2)
    })?;
    assert_eq!(program.terminate()?.code(), Some(7));
    Ok(())
}

/// Is nothing left of a testbed?
fn is_gone(estate: &Estate, pids: &[u64]) -> Result<bool> {
    let gone = !estate.cgroup.exists() && !estate.folder.exists() && !bpffs::is_mounted(&estate.bpffs)?;
    Ok(gone && pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()))
}

#[test]
fn an_orderly_end_leaves_nothing() -> Result<()> {
    let bed = Testbed::new()?;
    let node = bed.node("node-a")?;
    let pod = node.pod("pod")?;
    let estate = bed.estate().clone();
    let pids = [u64::from(pod.probe().pid()), u64::from(node.host().probe().pid())];
    fs::create_dir(node.pins().join("pinned"))?;
    // Dropped in the worst order: the last one cleans up, before drop returns.
    drop(bed);
    assert!(estate.cgroup.exists());
    drop(pod);
    drop(node);
    assert!(is_gone(&estate, &pids)?);
    Ok(())
}

/// Starts a harness process of its own that holds a testbed, kills it, and looks what is left.
fn kill_a_harness(signal: nix::sys::signal::Signal) -> Result<()> {
    let mut holder = Command::new(probe::program()?).arg("hold").stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(holder.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
    let held: serde_json::Value = serde_json::from_str(&line).context("no testbed was made")?;
    let path = |field: &str| held[field].as_str().expect("a path").into();
    let estate = Estate { cgroup: path("cgroup"), bpffs: path("bpffs"), folder: path("folder") };
    let pids: Vec<_> =
        held["pids"].as_array().expect("a list").iter().filter_map(serde_json::Value::as_u64).collect();
    assert_eq!(pids.len(), 2);
    assert!(estate.cgroup.exists() && bpffs::is_mounted(&estate.bpffs)?);
    assert!(!is_gone(&estate, &pids)?);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(holder.id())?), signal)?;
    let status = wait::until("the harness ends", PATIENCE, || Ok(holder.try_wait()?));
    if status.is_err() {
        holder.kill()?;
    }
    assert_eq!(status?.signal(), Some(signal as i32));
    wait::until_true("nothing is left", PATIENCE, || is_gone(&estate, &pids))
}

#[test]
fn a_killed_harness_leaves_nothing() -> Result<()> {
    kill_a_harness(nix::sys::signal::Signal::SIGKILL)
}

#[test]
fn an_interrupted_harness_leaves_nothing() -> Result<()> {
    kill_a_harness(nix::sys::signal::Signal::SIGINT)
}

#[test]
fn tables_of_the_packet_filter_are_found() -> Result<()> {
    let netns = NetNs::new()?;
    assert_eq!(netfilter::look(&netns)?.nftables, Some(0));
    for (count, name) in [(1, "one"), (2, "two")] {
        netfilter::add_table(&netns, name)?;
        assert_eq!(netfilter::look(&netns)?.nftables, Some(count));
    }
    Ok(())
}
