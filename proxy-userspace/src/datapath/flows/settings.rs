//! How large the maps of flows are, and what the programs for packets are told.

use aya::EbpfLoader;
use proxy_common::layout::{DEFAULT_FLOWS, DEFAULT_QUEUE_LENGTH, PortRanges, constant, map};

use crate::tables::ranges::{self, Ranges};

/// Maps of the packet path that outlive the process.
pub const PINNED_MAPS: [&str; 11] = [
    map::FLOWS,
    map::ARRIVALS,
    map::NASCENT,
    map::CLOSING,
    map::TURNS,
    map::VIP_CELLS,
    map::BACKEND_CELLS,
    map::FRAGMENTS,
    map::PUT_BY,
    map::SERVICE_CIDRS,
    map::POD_CIDRS,
];

/// The packet path, as the user wants it.
#[derive(Clone, Copy, Debug)]
pub struct PacketSettings {
    /// How many flows fit into a map to be created.
    pub flows: u32,
    /// CPUs that take turns in the queues.
    pub cpus: u32,
    /// Places per CPU in each queue.
    pub queue_length: u32,
    /// From which ports masqueraded flows take theirs.
    pub ports: PortRanges,
    /// Where the user says that ClusterIPs are taken from.
    pub service_cidrs: Ranges,
    /// Whose packets count as those of this node's pods.
    pub pods: Pods,
}

/// How packets of this node's pods are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one of them")]
pub enum Pods {
    /// They come by a device to pods.
    ByDevice,
    /// They come from these addresses.
    ByAddress(Ranges),
    /// They come from the node's `spec.podCIDRs`; by device until those are known.
    ByNode,
}

impl Default for PacketSettings {
    /// Ports as they are on a machine with the kernel's `ip_local_port_range`.
    fn default() -> Self {
        Self {
            flows: DEFAULT_FLOWS,
            cpus: 1,
            queue_length: DEFAULT_QUEUE_LENGTH,
            ports: PortRanges::new((1024, 28_976), (61_000, 4_536)),
            service_cidrs: ranges::NONE,
            pods: Pods::ByDevice,
        }
    }
}

impl PacketSettings {
    /// Sizes of maps to be created. Flows that stand in the queues come on top of those that the user wants room for:
    /// a flood fills the queues, not the map. A masqueraded flow has two arrivals.
    #[must_use]
    pub fn sizes(&self) -> [(&'static str, u32); 4] {
        let places = self.cpus.saturating_mul(self.queue_length);
        let flows = self.flows.saturating_add(places.saturating_mul(2));
        [
            (map::FLOWS, flows),
            (map::ARRIVALS, flows.saturating_mul(2)),
            (map::NASCENT, places),
            (map::CLOSING, places),
        ]
    }

    /// Sets the constants, in an object that has them.
    pub fn tell<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader.override_global(constant::MASQUERADE_PORTS, &self.ports.0, true).override_global(
            constant::QUEUE_LENGTH,
            &self.queue_length,
            true,
        );
    }
}
