//! What the user said about the packet path.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use super::flows::cidrs;
use crate::{
    datapath::{devices::Hook, flows::settings::Pods},
    host::devices::{
        Choice,
        choice::{Names, ToPods},
    },
    tables::{by_packets, ranges::Ranges},
};

/// The packet path: Services for who does not speak through a socket on this node
#[derive(Args, Debug, Clone)]
pub struct Packets {
    /// Whether packets that pass this node's devices are translated too, as NodePorts and load balancers need it
    /// for clients outside the cluster
    #[arg(long, value_enum, value_name = "SWITCH", default_value_t = Switch::On)]
    pub packet_path: Switch,
    /// Exactly these devices lead outside: names separated by commas, `*` for anything, as in `eth*,wg0`
    /// [default: devices with a default route or a gateway, and those of a kind that is not made for pods]
    #[arg(long, value_name = "NAMES")]
    pub devices: Option<Names>,
    /// Exactly behind these devices are pods: names as for --devices, or `none`
    /// [default: veth, netkit, tap and bridge devices that do not lead outside]
    #[arg(long, value_name = "NAMES")]
    pub pod_devices: Option<Names>,
    /// How packets of this node's pods are told from others, for whom externalTrafficPolicy Local is meant
    /// [default: they come by a device to pods]
    #[arg(long, value_enum, value_name = "MODE")]
    pub detect_local_mode: Option<DetectLocal>,
    /// Pods' addresses, for --detect-local-mode=ClusterCIDR: up to 8 prefixes separated by commas
    #[arg(long, value_name = "CIDRS", value_parser = cidrs, required_if_eq("detect_local_mode", "ClusterCIDR"))]
    pub cluster_cidr: Option<Ranges>,
    /// The bridge that pods are on, for --detect-local-mode=BridgeInterface
    #[arg(
        long,
        value_name = "NAME",
        conflicts_with = "pod_devices",
        required_if_eq("detect_local_mode", "BridgeInterface")
    )]
    pub pod_bridge_interface: Option<String>,
    /// What the names of devices to pods begin with, for --detect-local-mode=InterfaceNamePrefix
    #[arg(
        long,
        value_name = "PREFIX",
        conflicts_with = "pod_devices",
        required_if_eq("detect_local_mode", "InterfaceNamePrefix")
    )]
    pub pod_interface_name_prefix: Option<String>,
    /// Pods whose sockets are left alone, because their packets are to be translated instead: `annotated` for those with
    /// the annotation kubeshunt.io/path: packets, runtimeclass/NAME for those of a RuntimeClass; several separated by
    /// commas. Needs the right to list and watch pods
    #[arg(long, value_name = "PODS", value_delimiter = ',')]
    pub pods_by_packets: Vec<by_packets::Kind>,
    /// How programs are attached to devices
    #[arg(long, value_enum, value_name = "HOW", default_value_t = TcAttach::Auto)]
    pub tc_attach: TcAttach,
}

/// kube-proxy's modes, under its names.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[value(rename_all = "verbatim")]
pub enum DetectLocal {
    /// They come from --cluster-cidr
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// They come from the Node object's spec.podCIDRs
    #[value(name = "NodeCIDR")]
    NodeCidr,
    /// They come by the bridge --pod-bridge-interface, or one of its ports
    BridgeInterface,
    /// They come by a device whose name begins with --pod-interface-name-prefix
    InterfaceNamePrefix,
}

/// On or off.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Do
    On,
    /// Do not, and detach what an earlier process attached
    Off,
}

/// How programs are attached to devices.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcAttach {
    /// By tcx where the kernel has it, else by clsact
    Auto,
    /// By tcx links (Linux 6.6)
    Tcx,
    /// By filters of a clsact qdisc, as kernels before 6.6 need it
    Clsact,
}

impl Packets {
    /// The devices that the user has chosen.
    #[must_use]
    pub fn choice(&self) -> Choice {
        let pods = match self.detect_local_mode {
            Some(DetectLocal::BridgeInterface) => self.pod_bridge_interface.clone().map(ToPods::Bridge),
            Some(DetectLocal::InterfaceNamePrefix) => self
                .pod_interface_name_prefix
                .as_deref()
                .map(|prefix| ToPods::Named(Names::beginning(prefix))),
            _ => self.pod_devices.clone().map(ToPods::Named),
        };
        Choice { outside: self.devices.clone(), pods }
    }

    /// The pods that are left to their packets.
    ///
    /// # Errors
    /// When nobody sees to packets.
    pub fn by_packets(&self) -> Result<Vec<by_packets::Kind>> {
        if self.packet_path == Switch::Off && !self.pods_by_packets.is_empty() {
            bail!("--pods-by-packets leaves pods to the packet path, which --packet-path=off turns off");
        }
        Ok(self.pods_by_packets.clone())
    }

    /// How packets of this node's pods are told apart.
    #[must_use]
    pub fn pods(&self) -> Pods {
        match (self.detect_local_mode, self.cluster_cidr) {
            (Some(DetectLocal::ClusterCidr), Some(ranges)) => Pods::ByAddress(ranges),
            (Some(DetectLocal::NodeCidr), _) => Pods::ByNode,
            _ => Pods::ByDevice,
        }
    }

    /// The way of attaching that the user has chosen.
    #[must_use]
    pub fn hook(&self) -> Option<Hook> {
        match self.tc_attach {
            TcAttach::Auto => None,
            TcAttach::Tcx => Some(Hook::Tcx),
            TcAttach::Clsact => Some(Hook::Clsact),
        }
    }
}
