//! Devices of every kind that this kernel has, each with the right programs.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use kubeshunt_tests::netns::NetNs;
use kubeshunt_tests::stage::{PATIENCE, Stage};
use kubeshunt_tests::wait;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{LinkBond, LinkBridge, LinkDummy, LinkUnspec, LinkVlan, LinkVxlan, LinkWireguard};

use crate::{NOTHING, index, masquerade, port, programs, wait_for_programs};

/// Adds a link; `false` and a word about it if the kernel lacks its kind.
fn add(stage: &Stage, name: &str, message: LinkMessage) -> Result<bool> {
    let added = stage.node.netns().links(async |links| links.add(name, message).await)?;
    if !added {
        println!("this kernel has no {name}: not tested");
    }
    Ok(added)
}

/// A tun or tap device, which is there for as long as its file is open.
fn tun(netns: &NetNs, name: &str, is_tap: bool) -> Result<File> {
    netns.run(|| {
        // SAFETY: plain bytes and a union of such, for which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        let kind = if is_tap { libc::IFF_TAP } else { libc::IFF_TUN };
        request.ifr_ifru.ifru_flags = i16::try_from(kind | libc::IFF_NO_PI)?;
        let file = File::options().read(true).write(true).open("/dev/net/tun").context("no /dev/net/tun")?;
        // SAFETY: the request lives until the call returns.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result < 0 {
            bail!("cannot make {name}: {}", std::io::Error::last_os_error());
        }
        Ok(file)
    })
}

/// Wants a device to get the programs of one that is known, and the log to say why.
fn assert_like(stage: &Stage, device: &str, known: &str, side: &str) -> Result<()> {
    wait_for_programs(stage, device)?;
    assert_eq!(programs(stage, device)?, programs(stage, known)?, "{device} is like {known}");
    told(stage, device, side, 14)
}

fn told(stage: &Stage, device: &str, side: &str, header: u32) -> Result<()> {
    let device = format!("device=\"{device}\"");
    let (side, header) = (format!("side=\"{side}\""), format!("header={header}"));
    stage.wait_for_log(&["programs for packets attached", &device, &side, &header]).map(drop)
}

#[test]
fn links_of_every_kind_have_the_programs_of_their_kind() -> Result<()> {
    let stage = Stage::serving(0)?;
    let eth0 = index(&stage, "eth0")?;
    assert!(add(&stage, "br1", LinkBridge::new("br1").build())?);
    assert_like(&stage, "br1", &port(&stage)?, "pod")?;
    if add(&stage, "dummy", LinkDummy::new("dummy0").build())? {
        assert_like(&stage, "dummy0", "eth0", "outside")?;
    }
    if add(&stage, "vlan", LinkVlan::new("eth0.7", eth0, 7).build())? {
        assert_like(&stage, "eth0.7", "eth0", "outside")?;
    }
    if add(&stage, "vxlan", LinkVxlan::new("vxlan1", 1).port(4789).build())? {
        assert_like(&stage, "vxlan1", "eth0", "outside")?;
    }
    if add(&stage, "wireguard", LinkWireguard::new("wg0").build())? {
        wait_for_programs(&stage, "wg0")?;
        told(&stage, "wg0", "outside", 0)?;
    }
    let _tap = tun(stage.node.netns(), "tap0", true)?;
    assert_like(&stage, "tap0", &port(&stage)?, "pod")?;
    let _tun = tun(stage.node.netns(), "tun0", false)?;
    wait_for_programs(&stage, "tun0")?;
    told(&stage, "tun0", "outside", 0)?;
    let without_header = programs(&stage, "tun0")?;
    assert!(
        without_header != programs(&stage, "eth0")? && without_header != programs(&stage, &port(&stage)?)?
    );
    Ok(())
}

/// Makes a device a port of another, or of none.
fn enslave(stage: &Stage, name: &str, master: u32) -> Result<()> {
    let message = LinkUnspec::new_with_index(index(stage, name)?).controller(master).build();
    stage.node.netns().links(async |links| links.change(name, message).await)
}

/// Waits until a device has no program any more.
fn wait_for_none(stage: &Stage, device: &str) -> Result<()> {
    wait::until_true(&format!("{device} has no programs"), PATIENCE, || {
        Ok(programs(stage, device)? == NOTHING)
    })
    .with_context(|| stage.kubeshunt().log_tail())
}

#[test]
fn members_of_a_bond_and_physical_ports_of_a_bridge_are_left_alone() -> Result<()> {
    let stage = Stage::serving(0)?;
    let master = |name: &str, master: u32| enslave(&stage, name, master);
    // Like a physical one in that it is not made for pods, which is what counts.
    assert!(add(&stage, "vxlan", LinkVxlan::new("nic0", 7).port(4790).build())?);
    assert_like(&stage, "nic0", "eth0", "outside")?;
    let (cni0, entry) = (index(&stage, "cni0")?, masquerade(&stage, index(&stage, "cni0")?)?);
    assert!(entry.is_some() && programs(&stage, "cni0")? == NOTHING);
    master("nic0", cni0)?;
    wait_for_none(&stage, "nic0")?;
    stage.wait_for_log(&["programs for packets detached", "nic0"])?;
    // Now there is a port that nobody sees to but the bridge.
    assert_like(&stage, "cni0", &port(&stage)?, "pod")?;
    master("nic0", 0)?;
    wait_for_programs(&stage, "nic0")?;
    wait_for_none(&stage, "cni0")?;
    stage.wait_for_log(&["programs for packets detached", "cni0"])?;
    assert_eq!(masquerade(&stage, cni0)?, entry, "what goes out by it is masqueraded as before");
    if add(&stage, "bond", LinkBond::new("bond0").build())? {
        assert_like(&stage, "bond0", "eth0", "outside")?;
        master("nic0", index(&stage, "bond0")?)?;
        wait_for_none(&stage, "nic0")?;
    }
    Ok(())
}

#[test]
fn a_device_that_changes_sides_gets_other_programs_in_place() -> Result<()> {
    let stage = Stage::serving(0)?;
    let netns = stage.node.netns();
    let pins = || kubeshunt_tests::attached::by_pins(stage.node.pins());
    let cni0 = index(&stage, "cni0")?;
    // A port that is left alone, so that the bridge has programs.
    assert!(add(&stage, "vxlan", LinkVxlan::new("nic0", 7).port(4790).build())?);
    enslave(&stage, "nic0", cni0)?;
    let before = wait::until("the bridge's link is pinned", PATIENCE, || {
        Ok(pins()?.get(&format!("{cni0}-ingress")).copied())
    })?;
    // A gateway behind the bridge: a way to the rest of the world.
    let (prefix, gateway): (IpAddr, IpAddr) =
        (Ipv4Addr::new(203, 0, 113, 0).into(), Ipv4Addr::new(10, 244, 1, 77).into());
    netns.links(async |links| links.route((prefix, 24), gateway).await)?;
    let outside = programs(&stage, "eth0")?;
    wait::until_true("the bridge leads outside", PATIENCE, || Ok(programs(&stage, "cni0")? == outside))
        .with_context(|| stage.kubeshunt().log_tail())?;
    assert_eq!(pins()?[&format!("{cni0}-ingress")].link, before.link);
    Ok(())
}

#[test]
fn the_users_choice_counts() -> Result<()> {
    let mut stage = Stage::new(0)?;
    stage.start_with(|setup| setup.arg("--devices=cni*").arg("--pod-devices=veth*,eth0"))?;
    let (outside, pod) = (programs(&stage, "cni0")?, programs(&stage, "eth0")?);
    assert!(outside.iter().chain(&pod).all(|ids| ids.len() == 1) && outside != pod);
    stage.wait_for_log(&["attached to devices", "outside=1", "pod=2"])?;
    stage.kubeshunt_mut().terminate()?;
    let error = stage.start_with(|setup| setup.arg("--devices=*").arg("--pod-devices=cni0")).err();
    let said = format!("{:#}", error.context("a device cannot be on both sides")?);
    assert!(said.contains("both --devices and --pod-devices name the device cni0"), "{said}");
    Ok(())
}
