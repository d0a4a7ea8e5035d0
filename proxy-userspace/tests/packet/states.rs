//! What packets say about their flow, in the order in which they pass.

use proxy_common::{
    decision::packet::{Signals, state::next},
    layout::flow_state::{BACKEND_DONE, CLIENT_DONE, CLOSING, ESTABLISHED, REPLIED, RESET},
};

/// TCP flags.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Client,
    Backend,
}
use By::{Backend, Client};

#[track_caller]
fn check(what: &str, signals: fn(u8) -> Signals, packets: &[(By, u8, u32)]) {
    let mut state = 0;
    for (number, (by, header, expected)) in packets.iter().enumerate() {
        state = next(state, *by == Client, signals(*header));
        assert_eq!(state, *expected, "{what}, packet {number}: {state:#b}");
        let again = next(state, *by == Client, signals(*header));
        assert_eq!(again, state, "{what}, packet {number} seen twice, by a bridge and its port");
    }
}

const UP: u32 = REPLIED | ESTABLISHED;
const OVER: u32 = UP | CLIENT_DONE | BACKEND_DONE | CLOSING;

#[test]
fn tcp() {
    let open = [(Client, SYN, 0), (Backend, SYN | ACK, REPLIED), (Client, ACK, UP)];
    let after = |rest: &[(By, u8, u32)]| [open.as_slice(), rest].concat();
    let tcp = |what: &str, packets: &[(By, u8, u32)]| check(what, Signals::tcp, packets);
    tcp("data", &after(&[(Client, PSH | ACK, UP), (Backend, ACK, UP), (Backend, PSH | ACK, UP)]));
    tcp(
        "the client is done first",
        &after(&[
            (Client, FIN | ACK, UP | CLIENT_DONE),
            (Backend, ACK, UP | CLIENT_DONE),
            (Backend, PSH | ACK, UP | CLIENT_DONE),
            (Backend, FIN | ACK, OVER),
            (Client, ACK, OVER),
        ]),
    );
    tcp(
        "the backend is done first",
        &after(&[
            (Backend, FIN | ACK, UP | BACKEND_DONE),
            (Client, ACK, UP | BACKEND_DONE),
            (Client, FIN | ACK, OVER),
            (Backend, ACK, OVER),
        ]),
    );
    tcp("broken off", &after(&[(Client, RST, UP | RESET | CLOSING)]));
    tcp("broken off by nobody", &after(&[(Backend, RST, UP | RESET | CLOSING), (Client, ACK, UP)]));
    tcp(
        "over is over",
        &after(&[
            (Client, FIN | ACK, UP | CLIENT_DONE),
            (Backend, FIN | ACK, OVER),
            (Client, RST, OVER | RESET),
            (Backend, ACK, OVER),
        ]),
    );
    tcp("refused", &[(Client, SYN, 0), (Backend, RST | ACK, RESET | CLOSING), (Client, SYN, 0)]);
    tcp(
        "nobody answers",
        &[(Client, SYN, 0), (Client, SYN, 0), (Client, ACK, 0), (Client, FIN | ACK, CLIENT_DONE)],
    );
    tcp(
        "nobody asked",
        &[(Client, SYN, 0), (Backend, SYN | ACK, REPLIED), (Client, RST, REPLIED | RESET | CLOSING)],
    );
}

/// Chunk types.
const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const HEARTBEAT: u8 = 4;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

#[test]
fn sctp() {
    let open = [
        (Client, INIT, 0),
        (Backend, INIT_ACK, REPLIED),
        (Client, COOKIE_ECHO, UP),
        (Backend, COOKIE_ACK, UP),
    ];
    let after = |rest: &[(By, u8, u32)]| [open.as_slice(), rest].concat();
    let sctp = |what: &str, packets: &[(By, u8, u32)]| check(what, Signals::sctp, packets);
    sctp("data", &after(&[(Client, DATA, UP), (Backend, HEARTBEAT, UP)]));
    sctp(
        "the client ends it",
        &after(&[
            (Client, SHUTDOWN, UP),
            (Backend, DATA, UP),
            (Backend, SHUTDOWN_ACK, UP | BACKEND_DONE),
            (Client, SHUTDOWN_COMPLETE, OVER),
        ]),
    );
    sctp(
        "the backend ends it",
        &after(&[
            (Backend, SHUTDOWN, UP),
            (Client, SHUTDOWN_ACK, UP | CLIENT_DONE),
            (Backend, SHUTDOWN_COMPLETE, OVER),
        ]),
    );
    sctp("broken off", &after(&[(Backend, ABORT, UP | RESET | CLOSING), (Client, HEARTBEAT, UP)]));
}

#[test]
fn only_the_first_packet_of_a_connection_opens_one() {
    for flags in 0..=0xff_u8 {
        assert_eq!(
            Signals::tcp(flags).has(Signals::OPENS),
            flags & SYN != 0 && flags & ACK == 0,
            "{flags:#x}"
        );
        assert_eq!(Signals::sctp(flags).has(Signals::OPENS), flags == INIT);
    }
}
