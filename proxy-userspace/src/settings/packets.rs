//! What the user said about the packet path.

use clap::{Args, ValueEnum};

use crate::{
    datapath::devices::Hook,
    host::devices::{Choice, choice::Names},
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
    /// How programs are attached to devices
    #[arg(long, value_enum, value_name = "HOW", default_value_t = TcAttach::Auto)]
    pub tc_attach: TcAttach,
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
        Choice { outside: self.devices.clone(), pods: self.pod_devices.clone() }
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
