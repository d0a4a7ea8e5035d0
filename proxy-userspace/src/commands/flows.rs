//! `kubeshunt flows`: the flows that the packet path remembers right now, for people or machines.

use std::{io::Write as _, net::SocketAddr, time::Duration};

use anyhow::Result;
use proxy_common::{
    address::{Address, Port},
    layout::{Flow, Tuple},
};
use serde::Serialize;

use super::{render, table};
use crate::{
    datapath::{
        flows::{FlowMaps, now},
        pins::Pins,
    },
    flows::{
        age::idle,
        census::{PROTOCOLS, Stage},
    },
    settings::{FlowList, Output},
};

/// Prints what the maps hold.
///
/// # Errors
/// When nothing is pinned, or it cannot be read.
pub fn run(args: &FlowList) -> Result<()> {
    let flows = FlowMaps::open(&Pins::new(&args.bpffs_root))?.all()?;
    let rows = rows(&flows, now()?);
    let text = match args.output {
        Output::Table => as_table(&rows),
        Output::Json => serde_json::to_string_pretty(&rows)? + "\n",
    };
    // Whoever reads may stop reading (`| head`): that is no failure.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A flow in words. Fields in the order in which a packet passes them.
#[derive(Debug, Serialize)]
struct Row {
    protocol: String,
    client: String,
    asked: String,
    backend: String,
    /// Absent where the backend sees the client's own address.
    #[serde(skip_serializing_if = "Option::is_none")]
    masquerade: Option<String>,
    state: &'static str,
    idle_seconds: u64,
    age_seconds: u64,
}

/// By what was asked, then by client. What is torn is left out: it is being written just now.
fn rows(flows: &[(Tuple, Flow)], now_ns: u64) -> Vec<Row> {
    let mut whole: Vec<&(Tuple, Flow)> = flows.iter().filter(|(key, flow)| flow.belongs_to(key)).collect();
    let order = |end: (Address, Port)| (!end.0.is_v4(), end.0.octets(), end.1.number());
    whole.sort_by_cached_key(|(key, flow)| {
        let asked = flow.asked(key);
        (
            order((asked.destination, asked.destination_port)),
            asked.protocol,
            order((asked.source, asked.source_port)),
        )
    });
    whole.into_iter().map(|(key, flow)| row(key, flow, now_ns)).collect()
}

fn row(key: &Tuple, flow: &Flow, now_ns: u64) -> Row {
    let (asked, inside) = (flow.asked(key), flow.inside(key));
    let protocol = PROTOCOLS.iter().find(|(number, _)| *number == key.protocol);
    Row {
        protocol: protocol.map_or_else(|| key.protocol.to_string(), |(_, name)| (*name).to_owned()),
        client: show(asked.source, asked.source_port),
        asked: show(asked.destination, asked.destination_port),
        backend: show(inside.destination, inside.destination_port),
        masquerade: flow.is_masqueraded().then(|| show(flow.masquerade, inside.source_port)),
        state: Stage::of(flow.state).name(),
        idle_seconds: idle(flow, now_ns).as_secs(),
        age_seconds: Duration::from_nanos(now_ns.saturating_sub(flow.born)).as_secs(),
    }
}

fn show(address: Address, port: Port) -> String {
    SocketAddr::new(address.to_ip(), port.number()).to_string()
}

fn as_table(rows: &[Row]) -> String {
    let mut lines = table(&["CLIENT", "ASKED", "BACKEND", "AS", "STATE", "IDLE"]);
    for row in rows {
        lines.add_row([
            row.client.clone(),
            format!("{}/{}", row.asked, row.protocol),
            row.backend.clone(),
            row.masquerade.clone().unwrap_or_else(|| "-".to_owned()),
            row.state.to_owned(),
            format!("{}s", row.idle_seconds),
        ]);
    }
    format!("{}\n\n{} flows\n", render(&lines), rows.len())
}

#[cfg(test)]
mod tests {
    use proxy_common::layout::{flow_flag, flow_state, protocol};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn end(text: &str) -> (Address, Port) {
        let end: SocketAddr = text.parse().unwrap();
        (Address::from(end.ip()), Port::new(end.port()))
    }

    fn flow(
        protocol: u8,
        client: &str,
        asked: &str,
        backend: &str,
        own: Option<&str>,
        state: u32,
    ) -> (Tuple, Flow) {
        let ((source, client_port), (vip, vip_port), (destination, destination_port)) =
            (end(client), end(asked), end(backend));
        let (masquerade, source_port) = own.map_or((Address::ANY_V6, client_port), end);
        let inside = Tuple { source, destination, source_port, destination_port, protocol, reserved: [0; 3] };
        let (key, is_reversed) = inside.ordered();
        let flow = Flow {
            vip,
            masquerade,
            born: SECOND,
            seen: 60 * SECOND,
            vip_port,
            client_port,
            service: 3,
            state,
            flags: if is_reversed { 0 } else { flow_flag::CLIENT_IS_SOURCE },
            place: 0,
            reserved: 0,
            seal: 0,
        };
        (key, flow.sealed(&key))
    }

    fn some() -> Vec<Row> {
        let established = flow_state::REPLIED | flow_state::ESTABLISHED;
        let mut torn = flow(protocol::TCP, "198.51.100.9:5", "192.0.2.1:30080", "10.1.0.1:8080", None, 0);
        torn.1.vip_port = Port::new(1);
        let flows = [
            flow(protocol::UDP, "[2001:db8::9]:53000", "[fd00::1]:53", "[fd01::5]:5353", None, 0),
            flow(
                protocol::TCP,
                "203.0.113.200:50000",
                "192.0.2.1:30080",
                "10.1.0.1:8080",
                Some("192.0.2.1:1024"),
                established,
            ),
            torn,
            flow(protocol::TCP, "10.1.0.2:4711", "10.96.0.1:80", "10.1.0.1:8080", None, flow_state::CLOSING),
        ];
        rows(&flows, 75 * SECOND)
    }

    #[test]
    fn the_table_lines_up() {
        let expected = "
 CLIENT               ASKED                BACKEND         AS              STATE        IDLE
 10.1.0.2:4711        10.96.0.1:80/TCP     10.1.0.1:8080   -               closing      15s
 203.0.113.200:50000  192.0.2.1:30080/TCP  10.1.0.1:8080   192.0.2.1:1024  established  15s
 [2001:db8::9]:53000  [fd00::1]:53/UDP     [fd01::5]:5353  -               nascent      15s

3 flows
";
        assert_eq!(format!("\n{}", as_table(&some())), expected);
        assert!(as_table(&[]).ends_with("\n\n0 flows\n"));
    }

    #[test]
    fn json_has_the_same_and_more() {
        let json = serde_json::to_value(some()).unwrap();
        let expected = serde_json::json!({
            "protocol": "TCP",
            "client": "203.0.113.200:50000",
            "asked": "192.0.2.1:30080",
            "backend": "10.1.0.1:8080",
            "masquerade": "192.0.2.1:1024",
            "state": "established",
            "idle_seconds": 15,
            "age_seconds": 74,
        });
        assert_eq!(json[1], expected);
        assert_eq!(json[0].get("masquerade"), None);
    }
}
