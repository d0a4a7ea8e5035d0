//! The packet path: one entry point where packets come in, one where they leave; what happens to them is decided in
//! `proxy_common::decision::packet`.
//!
//! - [`glance`]: whether a packet may concern us at all, in a few instructions;
//! - [`view`]: headers as they stand in the packet;
//! - [`filter`]: whether an address may;
//! - [`flows`]: the decision's traits on BPF maps and helpers;
//! - [`rewrite`]: new addresses and ports, and checksums that fit;
//! - [`icmp`]: errors about packets of flows;
//! - [`fragment`]: datagrams in pieces;
//! - [`refuse`]: answers in the name of who is not there.

mod filter;
mod flows;
mod fragment;
mod glance;
mod icmp;
mod refuse;
mod rewrite;
mod skb;
mod view;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use proxy_common::{
    decision::{
        frontend,
        packet::{self, Desk, Rewrite, Verdict},
    },
    layout::{Counter, FragmentKey, protocol},
};

use crate::kernel::{Maps, count};
use flows::{FlowMaps, Here};
use rewrite::End;
use skb::Skb;
use view::{Fragment, Reading, View};

/// The next program decides, and after the last one the kernel.
const PASS: i32 = TC_ACT_UNSPEC;
/// The packet is gone.
const DROP: i32 = TC_ACT_SHOT;

/// What a run writes down. It lies in a map, one per CPU, because the stack has 512 bytes, and because the verifier
/// does not follow what is in maps: what comes after a step is verified once, and not for each way through it.
#[repr(C)]
pub struct Work {
    view: View,
    quoted: View,
    fragment_key: FragmentKey,
    desk: Desk,
    rewrite: Rewrite,
}

/// Translates destinations of packets that come in by a device.
#[classifier]
pub fn packet_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    if glance::is_foreign_arrival(skb) {
        return PASS;
    }
    let Some(work) = flows::work() else { return PASS };
    match view::network(skb, &mut work.view) {
        Reading::Read => {}
        Reading::Other => return PASS,
        Reading::Malformed => return malformed(),
    }
    if !filter::is_vip(&work.view.tuple.destination) {
        return PASS;
    }
    if work.view.fragment == Fragment::Later {
        return later(skb, work, End::Destination);
    }
    if icmp::is_icmp(&work.view) {
        if icmp::is_echo_request(skb, &work.view) {
            return echo(skb, work);
        }
        return icmp::translate(skb, work, End::Destination);
    }
    match view::transport(skb, &mut work.view) {
        Reading::Read => {}
        Reading::Other => return PASS,
        Reading::Malformed => return malformed(),
    }
    let step = arrive(skb, work);
    if work.view.fragment == Fragment::First && !fragment::first(skb, work, End::Destination, step) {
        return DROP;
    }
    carry_out(skb, work, End::Destination, step)
}

#[inline(never)]
fn arrive(skb: Skb, work: &mut Work) -> Step {
    let here = Here { skb, client: &work.view.tuple.source };
    let packet = (&work.view.tuple, work.view.signals);
    let verdict = packet::ingress(&Maps, &FlowMaps, &here, &mut work.desk, packet);
    step(verdict, &mut work.rewrite)
}

/// Translates sources of packets that leave by a device.
#[classifier]
pub fn packet_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    if glance::is_foreign_departure(skb, flows::is_pod_side()) {
        return PASS;
    }
    let Some(work) = flows::work() else { return PASS };
    match view::network(skb, &mut work.view) {
        Reading::Read => {}
        Reading::Other => return PASS,
        Reading::Malformed => return malformed(),
    }
    if !flows::is_pod_side() && filter::is_in_service_cidr(&work.view.tuple.destination) {
        count(Counter::PacketUnassigned);
        return DROP;
    }
    if icmp::is_icmp(&work.view) && work.view.fragment != Fragment::Later {
        return icmp::translate(skb, work, End::Source);
    }
    if !filter::is_backend(&work.view.tuple.source, End::Source)
        && !filter::is_backend(&work.view.tuple.destination, End::Destination)
    {
        return PASS;
    }
    if work.view.fragment == Fragment::Later {
        return later(skb, work, End::Source);
    }
    match view::transport(skb, &mut work.view) {
        Reading::Read => {}
        Reading::Other => return PASS,
        Reading::Malformed => return malformed(),
    }
    let step = leave(skb, work);
    if work.view.fragment == Fragment::First && !fragment::first(skb, work, End::Source, step) {
        return DROP;
    }
    carry_out(skb, work, End::Source, step)
}

#[inline(never)]
fn leave(skb: Skb, work: &mut Work) -> Step {
    let here = Here { skb, client: &work.view.tuple.source };
    let packet = (&work.view.tuple, work.view.signals);
    let verdict = packet::egress(&FlowMaps, &here, &mut work.desk, packet);
    if matches!(verdict, Verdict::Pass) && filter::is_vip(&work.view.tuple.source) {
        packet::disown(&Maps, &FlowMaps, &here, &mut work.desk, &work.view.tuple);
    }
    step(verdict, &mut work.rewrite)
}

/// A fragment without a transport header, of a protocol that has ports.
#[inline(always)]
fn later(skb: Skb, work: &mut Work, end: End) -> i32 {
    match work.view.tuple.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => fragment::later(skb, work, end),
        _ => PASS,
    }
}

/// A ClusterIP does not answer to pings; kube-proxy in nftables mode refuses them.
#[inline(never)]
fn echo(skb: Skb, work: &Work) -> i32 {
    if frontend::is_cluster_ip(&Maps, &work.view.tuple.destination) {
        count(Counter::PacketClosedPort);
        return refuse::answer(skb, &work.view);
    }
    PASS
}

/// It passes: who it is for knows best what to do with it.
#[inline(always)]
fn malformed() -> i32 {
    count(Counter::PacketMalformed);
    PASS
}

/// A verdict without what goes with it, which stands in [`Work::rewrite`]: a function returns one register.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Step {
    Pass = 0,
    Rewrite = 1,
    Drop = 2,
    Refuse = 3,
}

/// From a verdict to what is done about it: one exhaustive match. Counts.
#[inline(always)]
fn step(verdict: Verdict, into: &mut Rewrite) -> Step {
    match verdict {
        Verdict::Pass => Step::Pass,
        Verdict::Drop(counter) => {
            count(counter);
            Step::Drop
        }
        Verdict::Refuse(counter) => {
            count(counter);
            Step::Refuse
        }
        Verdict::Open(rewrite) => {
            count(Counter::PacketOpened);
            *into = rewrite;
            Step::Rewrite
        }
        Verdict::Rewrite(rewrite) => {
            *into = rewrite;
            Step::Rewrite
        }
    }
}

/// From there to what the kernel is told.
#[inline(always)]
fn carry_out(skb: Skb, work: &Work, end: End, step: Step) -> i32 {
    match step {
        Step::Pass => PASS,
        Step::Drop => DROP,
        Step::Refuse => refuse::answer(skb, &work.view),
        Step::Rewrite if rewrite::apply(skb, &work.view, end, &work.rewrite) => PASS,
        Step::Rewrite => {
            count(Counter::PacketFailed);
            DROP
        }
    }
}
