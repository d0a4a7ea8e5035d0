//! What the user said about the packet path.

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};

use crate::{
    configuration::KubeProxyConfiguration,
    datapath::{devices::Hook, flows::settings::Pods},
    host::devices::{
        Choice,
        choice::{Names, ToPods},
    },
    tables::by_packets,
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
    /// Pods whose sockets are left alone, because their packets are to be translated instead: `annotated` for those with
    /// the annotation kubeshunt.io/path: packets, runtimeclass/NAME for those of a RuntimeClass; several separated by
    /// commas. Needs the right to list and watch pods
    #[arg(long, value_name = "PODS", value_delimiter = ',')]
    pub pods_by_packets: Vec<by_packets::Kind>,
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
    /// The devices that the user has chosen, himself or by how pods are to be told apart.
    ///
    /// # Errors
    /// When he has chosen those to pods in both ways.
    pub fn choice(&self, configuration: &KubeProxyConfiguration) -> Result<Choice> {
        let devices = &configuration.detect_local;
        let detected = match configuration.detect_local_mode.as_str() {
            "BridgeInterface" => Some(ToPods::Bridge(devices.bridge_interface.clone())),
            "InterfaceNamePrefix" => Some(ToPods::Named(Names::beginning(&devices.interface_name_prefix))),
            _ => None,
        };
        if detected.is_some() && self.pod_devices.is_some() {
            let mode = &configuration.detect_local_mode;
            bail!(
                "--pod-devices and the detectLocalMode {mode} both say which devices lead to pods; leave one out"
            );
        }
        let pods = detected.or_else(|| self.pod_devices.clone().map(ToPods::Named));
        Ok(Choice { outside: self.devices.clone(), pods })
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

/// How packets of this node's pods are told apart. kube-proxy takes no mode for ClusterCIDR; we go by device, as it does
/// itself where that mode has no range.
///
/// # Errors
/// When a range is none, or holds every address there is.
pub(super) fn pods(configuration: &KubeProxyConfiguration) -> Result<Pods> {
    let cidrs = &configuration.cluster_cidr;
    Ok(match configuration.detect_local_mode.as_str() {
        "ClusterCIDR" if !cidrs.is_empty() => {
            Pods::ByAddress(super::flows::cidrs(cidrs).map_err(|wrong| anyhow!("clusterCIDR: {wrong}"))?)
        }
        "NodeCIDR" => Pods::ByNode,
        _ => Pods::ByDevice,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Settings, tests::settings};

    fn choice(settings: &Settings) -> Choice {
        settings.own.packets.choice(&settings.configuration).unwrap()
    }

    fn told_apart(settings: &Settings) -> Pods {
        pods(&settings.configuration).unwrap()
    }

    #[test]
    fn devices_are_chosen_by_name() {
        let by_default = settings(&[]).unwrap();
        assert_eq!((by_default.own.packets.packet_path, by_default.own.packets.hook()), (Switch::On, None));
        assert_eq!(choice(&by_default), Choice::default());
        let chosen = settings(&["--devices=eth*,wg0", "--pod-devices=none", "--packet-path=off"]).unwrap();
        assert_eq!(chosen.own.packets.packet_path, Switch::Off);
        let choice = choice(&chosen);
        assert!(choice.outside.is_some_and(|names| names.contain("eth7") && names.contain("wg0")));
        assert!(choice.pods.is_some_and(|pods| !pods.contain("none", None) && !pods.contain("cni0", None)));
        assert_eq!(settings(&["--tc-attach=clsact"]).unwrap().own.packets.hook(), Some(Hook::Clsact));
    }

    #[test]
    fn pods_are_told_apart_in_kube_proxys_modes() {
        let one = |args: &[&str]| settings(args).unwrap();
        assert_eq!(told_apart(&one(&[])), Pods::ByDevice);
        assert_eq!(told_apart(&one(&["--cluster-cidr=10.0.0.0/8"])), Pods::ByDevice, "without the mode");
        assert_eq!(
            told_apart(&one(&["--detect-local-mode=ClusterCIDR"])),
            Pods::ByDevice,
            "as kube-proxy takes it"
        );
        let by_address = one(&["--detect-local-mode=ClusterCIDR", "--cluster-cidr=10.0.0.0/8,fd00::/48"]);
        assert!(matches!(told_apart(&by_address), Pods::ByAddress([v4, v6, rest, ..])
            if v4.is_some() && v6.is_some() && !rest.is_some()));
        assert_eq!(told_apart(&one(&["--detect-local-mode=NodeCIDR"])), Pods::ByNode);
        let bridge = ["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"];
        let pods = choice(&one(&bridge)).pods.unwrap();
        assert!(
            pods.contain("cni0", None) && pods.contain("veth7", Some("cni0")) && !pods.contain("veth7", None)
        );
        let prefix = ["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=cali"];
        let pods = choice(&one(&prefix)).pods.unwrap();
        assert!(pods.contain("cali123", None) && !pods.contain("veth7", Some("cali0")));
        for half in ["BridgeInterface", "InterfaceNamePrefix", "Magic"] {
            assert!(settings(&["--detect-local-mode", half]).is_err(), "{half} alone says too little");
        }
        let twice = settings(&[bridge[0], bridge[1], "--pod-devices=veth*"]);
        assert!(twice.unwrap_err().contains("leave one out"));
    }

    #[test]
    fn pods_are_left_to_packets_only_where_somebody_sees_to_packets() {
        let by_packets =
            |args: &[&str]| settings(args).map(|settings| settings.own.packets.pods_by_packets.len());
        assert_eq!(by_packets(&[]), Ok(0));
        assert_eq!(by_packets(&["--pods-by-packets=annotated,runtimeclass/gvisor"]), Ok(2));
        assert_eq!(by_packets(&["--packet-path=off"]), Ok(0));
        assert!(by_packets(&["--packet-path=off", "--pods-by-packets=annotated"]).is_err());
    }
}
