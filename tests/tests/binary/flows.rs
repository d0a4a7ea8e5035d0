//! Flows as the running program keeps them: it removes those that are over, and tells of the others.

use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use kubeshunt_tests::stage::{PATIENCE, Stage};
use kubeshunt_tests::wait;
use proxy_common::address::{Address, Port};
use proxy_common::layout::{Flow, Tuple, flow_flag, flow_state, map, protocol};
use proxy_userspace::datapath::flows::now;
use proxy_userspace::datapath::pins::Pins;
use serde_json::{Value, json};

const SECOND: u64 = 1_000_000_000;

fn address(text: &str) -> Result<Address> {
    Ok(Address::from(text.parse::<IpAddr>()?))
}

/// Writes a flow of 198.51.100.7 to 10.1.0.1:8080, masqueraded with that port, without what leads to it.
fn write(stage: &Stage, port: u16, state: u32, idle: u64) -> Result<()> {
    let data = MapData::from_pin(Pins::new(stage.node.pins()).map(map::FLOWS))?;
    let mut flows: HashMap<_, Tuple, Flow> = HashMap::try_from(Map::HashMap(data))?;
    let inside = Tuple {
        source: address("198.51.100.7")?,
        destination: address("10.1.0.1")?,
        source_port: Port::new(port),
        destination_port: Port::new(8080),
        protocol: protocol::TCP,
        reserved: [0; 3],
    };
    let (key, is_reversed) = inside.ordered();
    let seen = now()?.saturating_sub(idle * SECOND).max(1);
    let flow = Flow {
        vip: address("192.0.2.1")?,
        masquerade: address("192.0.2.1")?,
        born: seen,
        seen,
        vip_port: Port::new(30080),
        client_port: Port::new(50000),
        service: 0,
        state,
        flags: if is_reversed { 0 } else { flow_flag::CLIENT_IS_SOURCE },
        place: 0,
        reserved: 0,
        seal: 0,
    };
    Ok(flows.insert(key, flow.sealed(&key), 0)?)
}

#[test]
fn flows_outlive_the_program_until_they_are_over() -> Result<()> {
    let mut stage = Stage::serving(1)?;
    assert_eq!(listed(&stage)?, json!([]));
    let established = flow_state::REPLIED | flow_state::ESTABLISHED;
    write(&stage, 2000, established, 0)?;
    write(&stage, 2001, established | flow_state::CLOSING, 11)?;
    stage.kubeshunt_mut().terminate()?;
    stage.kubeshunt_mut().restart()?;
    let metric = |name: &str, value: f64| {
        wait::until_true(&format!("{name} is {value}"), PATIENCE, || {
            Ok((stage.kubeshunt().metric(name).unwrap_or(-1.0) - value).abs() < 1e-9)
        })
        .with_context(|| format!("{name} is {:?}", stage.kubeshunt().metric(name)))
    };
    metric("kubeshunt_flows_expired_total", 1.0)?;
    metric("kubeshunt_flows{protocol=\"TCP\",state=\"established\"}", 1.0)?;
    metric("kubeshunt_flows{protocol=\"TCP\",state=\"closing\"}", 0.0)?;
    metric("kubeshunt_flows_masqueraded", 1.0)?;
    metric("kubeshunt_map_entries{map=\"flows\"}", 1.0)?;
    // And the queues' places, which depend on the number of CPUs.
    let capacity = stage.kubeshunt().metric("kubeshunt_map_capacity{map=\"flows\"}")?;
    assert!(capacity > 131_072.0, "{capacity}");
    let listed = listed(&stage)?;
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed:#}");
    let flow = &listed[0];
    for (field, value) in [
        ("client", "198.51.100.7:50000"),
        ("asked", "192.0.2.1:30080"),
        ("backend", "10.1.0.1:8080"),
        ("masquerade", "192.0.2.1:2000"),
        ("state", "established"),
    ] {
        assert_eq!(flow[field], value, "{listed:#}");
    }
    Ok(())
}

fn listed(stage: &Stage) -> Result<Value> {
    let output = stage.kubeshunt().command(&["flows", "--output", "json"])?;
    assert!(output.status.success(), "{output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn a_backend_that_takes_most_ports_is_named() -> Result<()> {
    let mut stage = Stage::new(1)?;
    stage.start_with(|setup| setup.arg("--masquerade-ports").arg("2000-2009"))?;
    for port in 2000..2009 {
        write(&stage, port, flow_state::REPLIED | flow_state::ESTABLISHED, 0)?;
    }
    stage.kubeshunt_mut().terminate()?;
    stage.kubeshunt_mut().restart()?;
    stage.wait_for_log(&["90 % of the source ports", "10.1.0.1:8080 as 192.0.2.1", "--masquerade-ports"])?;
    let share = stage.kubeshunt().metric("kubeshunt_masquerade_ports_taken_ratio")?;
    assert!((share - 0.9).abs() < 1e-9, "{share}");
    Ok(())
}

#[test]
fn an_impossible_choice_of_ports_is_refused() -> Result<()> {
    let stage = Stage::new(1)?;
    for (ports, words) in [("80", "no range of ports"), ("9-8", "no port"), ("1-5,5-9", "overlap")] {
        let output = stage.invoke(&["run", "--masquerade-ports", ports])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{ports}: {said}");
    }
    Ok(())
}
