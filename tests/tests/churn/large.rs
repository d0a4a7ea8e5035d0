//! A Service of five thousand endpoints, all of which answer, changes by one at a time.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::Result;
use kubeshunt_tests::manifests::{EndpointSlice, Port, Service};
use kubeshunt_tests::protocol::{self, StreamSpec, Target};
use kubeshunt_tests::stage::{PATIENCE, PORT, Stage, TARGET_PORT, at4, vip4};
use kubeshunt_tests::wait;

const SLICES: u16 = 50;
/// As many as the EndpointSlice controller puts into one.
const PER_SLICE: u16 = 100;
const CHANGES: u16 = 400;
const FLAPS: usize = 10;

fn endpoint(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 250, high + 1, low)
}

/// One slice, with so many of its endpoints.
fn write(stage: &Stage, slice: u16, endpoints: u16) -> Result<()> {
    let name = format!("large-{slice}");
    let first = slice * PER_SLICE;
    let addresses = (first..first + endpoints).map(endpoint);
    let object = EndpointSlice::v4("large").named(&name).tcp(None, TARGET_PORT).ready(addresses);
    stage.folder.write(&name, &[&object])
}

/// One pod answers on the whole subnet: on `lo`, a prefix is as many addresses of the pod's own.
fn with_endpoints() -> Result<Stage> {
    let mut stage = Stage::new(0)?;
    let pod = stage.node.pod("large")?;
    let subnet = Ipv4Addr::new(10, 250, 0, 0).into();
    pod.netns().links(async |links| links.address("lo", (subnet, 16)).await)?;
    stage.node.netns().links(async |links| links.route((subnet, 16), pod.v4().into()).await)?;
    let everywhere = (IpAddr::from(Ipv4Addr::UNSPECIFIED), TARGET_PORT).into();
    pod.probe().serve(protocol::Service::Tcp, everywhere)?;
    stage.backends.push(pod);
    stage.folder.write("service", &[&service()])?;
    for slice in 0..SLICES {
        write(&stage, slice, PER_SLICE)?;
    }
    stage.start()?;
    Ok(stage)
}

fn service() -> Service {
    Service::new("large").cluster_ip(vip4(1)).port(Port::tcp(PORT).target(TARGET_PORT))
}

#[test]
fn one_endpoint_of_five_thousand_changes_while_connections_run() -> Result<()> {
    let stage = with_endpoints()?;
    let known = stage.endpoints(at4(1), "TCP")?.map(|endpoints| endpoints.len());
    assert_eq!(known, Some(usize::from(SLICES * PER_SLICE)));
    let operations = || stage.kubeshunt().metric("kubeshunt_sync_operations_total");
    let spec = StreamSpec { target: Target::tcp(at4(1)), concurrency: 2, pause_us: 300, keep_records: false };
    let stream = stage.client.probe().stream(&spec)?;
    let (mut before, mut slowest) = (operations()?, Duration::ZERO);
    for change in 0..CHANGES {
        let begin = Instant::now();
        // One endpoint less, and one more, of one slice after the other.
        write(&stage, change / 2 % SLICES, PER_SLICE - 1 + change % 2)?;
        wait::until_true("the change is written", PATIENCE, || Ok(operations()? > before + 0.5))?;
        slowest = slowest.max(begin.elapsed());
        let now = operations()?;
        assert!((now - before - 2.0).abs() < 1e-9, "change {change}: {} map writes", now - before);
        before = now;
    }
    let asked = stream.stop()?.asked;
    assert_eq!(asked.failed(), 0, "connections failed: {:?}", asked.failures);
    println!("{} connections during {CHANGES} changes, the slowest took {slowest:?}", asked.successes());
    assert!(asked.successes() > u64::from(CHANGES), "connections hardly ran: {}", asked.successes());
    Ok(())
}

/// All of them, and then one slice's, and so on, as fast as files can be written: what is in between may be passed over.
#[test]
fn five_thousand_endpoints_come_and_go_while_those_that_stay_serve() -> Result<()> {
    let stage = with_endpoints()?;
    let spec = StreamSpec { target: Target::tcp(at4(1)), concurrency: 2, pause_us: 300, keep_records: false };
    let stream = stage.client.probe().stream(&spec)?;
    let wants = |count: u16| {
        wait::until_true(&format!("{count} endpoints serve"), PATIENCE, || {
            Ok(stage.endpoints(at4(1), "TCP")?.map(|set| set.len()) == Some(usize::from(count)))
        })
    };
    for _ in 0..FLAPS {
        for slice in 1..SLICES {
            write(&stage, slice, 0)?;
        }
        wants(PER_SLICE)?;
        for slice in 1..SLICES {
            write(&stage, slice, PER_SLICE)?;
        }
        wants(SLICES * PER_SLICE)?;
    }
    let asked = stream.stop()?.asked;
    assert_eq!(asked.failed(), 0, "connections failed: {:?}", asked.failures.first());
    println!("{} connections while 4,900 endpoints came and went {FLAPS} times", asked.successes());
    let room = stage.kubeshunt().metric("kubeshunt_map_entries{map=\"backends\"}")?;
    assert!(room < 2.5 * f64::from(SLICES * PER_SLICE), "slots are not given back: {room}");
    Ok(())
}
