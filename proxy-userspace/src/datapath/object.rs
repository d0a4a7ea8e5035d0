//! The object file: its maps, its constants, and what is wrong when the kernel does not take it.
//!
//! It holds the programs for sockets and those for packets. Each is loaded by who attaches it, out of an object
//! of its own, because constants are an object's; pinned maps are what objects share.

use std::{collections::BTreeMap, io};

use anyhow::{Context as _, Result, anyhow};
use aya::{Ebpf, EbpfLoader, programs::ProgramError};
use proxy_common::layout::{constant, map};

use super::{
    flows::settings::{PINNED_MAPS as PINNED_FLOW_MAPS, PacketSettings},
    pins::Pins,
    raw::Shape,
};

/// The object that build.rs compiled.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kubeshunt.bpf.o"));

/// Maps that outlive the process.
const PINNED_MAPS: [&str; 14] = [
    map::FRONTENDS,
    map::SERVICES,
    map::BACKENDS,
    map::REVISION,
    map::NODE_ADDRESSES,
    map::SOURCES,
    map::LEFT_CGROUPS,
    map::LEFT_COUNT,
    map::AFFINITY,
    map::ORIGINS,
    map::SENDERS,
    map::COUNTERS,
    map::FATES,
    map::DEVICES,
];

/// The names of all maps that outlive the process.
pub fn pinned_maps() -> impl Iterator<Item = &'static str> {
    PINNED_MAPS.into_iter().chain(PINNED_FLOW_MAPS)
}

/// What the programs are told, see [`constant`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Constants {
    host_netns_cookie: u64,
    can_set_errno: u8,
    log_decisions: u8,
    link_header: u32,
    pod_side: u8,
    packets: PacketSettings,
}

impl Constants {
    pub(super) fn new(
        cookie: Option<u64>,
        can_set_errno: bool,
        log_decisions: bool,
        packets: PacketSettings,
    ) -> Self {
        Self {
            host_netns_cookie: cookie.unwrap_or(0),
            can_set_errno: can_set_errno.into(),
            log_decisions: log_decisions.into(),
            link_header: 0,
            pod_side: 0,
            packets,
        }
    }

    /// For programs that may refuse with an errno, or may not.
    pub(super) fn refusing(self, can_set_errno: bool) -> Self {
        Self { can_set_errno: can_set_errno.into(), ..self }
    }

    /// For programs of a kind of device.
    pub(super) fn of_device(self, link_header: u32, is_pod_side: bool) -> Self {
        Self { link_header, pod_side: is_pod_side.into(), ..self }
    }
}

/// Constants and sizes for a look at what the kernel can do.
pub(super) fn tiny(cookie: Option<u64>) -> (Constants, Vec<(&'static str, u32)>) {
    let packets = PacketSettings { flows: 64, queue_length: 64, ..PacketSettings::default() };
    let mut sizes = packets.sizes().to_vec();
    sizes.extend(
        [map::FRONTENDS, map::SERVICES, map::BACKENDS, map::FATES, map::AFFINITY, map::SENDERS]
            .map(|name| (name, 64)),
    );
    (Constants::new(cookie, false, false, packets), sizes)
}

/// The shapes of the maps that outlive the process, as this build wants them.
pub(super) fn shapes(sizes: &[(&'static str, u32)]) -> Result<BTreeMap<&'static str, Shape>> {
    let object = aya_obj::Object::parse(OBJECT).context("the object file does not parse")?;
    let shape = |name: &'static str| {
        let map = object.maps.get(name).with_context(|| format!("the object has no map {name}"))?;
        let size = sizes.iter().find(|(sized, _)| *sized == name).map(|(_, size)| *size);
        let shape = Shape {
            kind: map.map_type(),
            key: map.key_size(),
            value: map.value_size(),
            entries: size.unwrap_or(map.max_entries()),
            flags: map.map_flags(),
        };
        Ok((name, shape))
    };
    pinned_maps().map(shape).collect()
}

/// Opens the object, with maps from the pins where there are some. No program is loaded yet.
pub(super) fn open(
    constants: &Constants,
    sizes: &[(&'static str, u32)],
    pins: Option<&Pins>,
) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    loader
        .override_global(constant::HOST_NETNS_COOKIE, &constants.host_netns_cookie, true)
        .override_global(constant::CAN_SET_ERRNO, &constants.can_set_errno, true)
        .override_global(constant::LOG_DECISIONS, &constants.log_decisions, true)
        .override_global(constant::LINK_HEADER, &constants.link_header, true)
        .override_global(constant::POD_SIDE, &constants.pod_side, true);
    constants.packets.tell(&mut loader);
    for (name, size) in sizes {
        loader.map_max_entries(name, *size);
    }
    if let Some(pins) = pins {
        for name in pinned_maps() {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    loader.load(OBJECT).map_err(|error| missing_right(error.into()))
}

/// Says which program was not loaded, and what to do about it.
pub(super) fn verified(name: &str, result: Result<(), ProgramError>) -> Result<()> {
    result
        .map_err(|error| missing_right(anyhow!(error)))
        .with_context(|| format!("the kernel does not load the program {name}"))
}

/// Adds what to do to an error that means missing rights. CAP_PERFMON is among them because the verifier allows
/// arithmetic on stack pointers in loops only to who has it, as a precaution against speculative execution.
fn missing_right(error: anyhow::Error) -> anyhow::Error {
    let denied = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied)
    });
    if denied {
        error
            .context("needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root (CAP_SYS_ADMIN before Linux 5.8)")
    } else {
        error
    }
}
