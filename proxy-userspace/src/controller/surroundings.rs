//! The loop's share in what Services stand in: the node's addresses, ranges of addresses, pods that are left alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use anyhow::Result;
use proxy_common::{
    address::Address,
    layout::{self, node_address},
};
use tracing::warn;

use super::Controller;
use crate::{
    datapath::flows::settings::Pods,
    host::cgroups::Cgroups,
    plan,
    tables::{
        by_packets,
        node_ports::{self, NodeAddresses},
        ranges::{self, Ranges},
    },
};

/// What the user has chosen, of what depends on objects.
pub struct Chosen {
    /// Where NodePorts answer.
    pub node_ports: node_ports::Rule,
    /// Whether Services answer at their external IPs.
    pub serves_external_ips: bool,
    /// Which pods' sockets are to be left alone.
    pub by_packets: Vec<by_packets::Kind>,
}

/// What is, and what the maps say of it.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// Whether the maps may say something else.
    pub(super) are_due: bool,
    /// This node's own addresses.
    pub(super) own: BTreeSet<Address>,
    /// The cgroups of pods whose sockets are to be left alone; `None` while that is not known.
    pub(super) left: Option<Cgroups>,
    /// On which of its addresses NodePorts answer.
    pub(super) node_ports: Arc<BTreeSet<Address>>,
    pub(super) written_addresses: Option<NodeAddresses>,
    pub(super) written_left: Option<Cgroups>,
    /// Of ClusterIPs, and of pods.
    pub(super) written_ranges: [Option<Ranges>; 2],
    /// What has been said, once.
    told: HashSet<&'static str>,
}

impl Controller {
    /// Brings the maps in line with all that. Writes nothing where nothing has changed.
    ///
    /// What depends on objects stays as an earlier process left it until those have been listed.
    pub(super) fn settle_surroundings(&mut self) -> Result<()> {
        // One map that is full keeps nothing out of the others.
        let addresses = self.settle_node_addresses();
        if self.cluster.are_service_cidrs_known() {
            let chosen = self.settings.packets.service_cidrs;
            let (all, left_out) = ranges::with(&chosen, &self.cluster.service_cidrs());
            self.datapath.set_service_cidrs(&all)?;
            self.surroundings.written_ranges[0] = Some(all);
            if left_out > 0 {
                self.tell_once(
                    "more ranges of ClusterIPs than fit: packets to unassigned addresses of the others leave the node",
                );
            }
        }
        let told = match self.settings.packets.pods {
            Pods::ByDevice => Some(ranges::NONE),
            Pods::ByAddress(ranges) => Some(ranges),
            Pods::ByNode => None,
        };
        if let Some(ranges) = told {
            self.datapath.set_pod_cidrs(&ranges)?;
            self.surroundings.written_ranges[1] = Some(ranges);
        } else if self.cluster.is_node_known() {
            let pods = &self.cluster.node().pod_cidrs;
            let ranges: Ranges = ranges::with(&ranges::NONE, pods).0;
            let is_empty = pods.is_empty();
            self.datapath.set_pod_cidrs(&ranges)?;
            self.surroundings.written_ranges[1] = Some(ranges);
            if is_empty {
                self.tell_once(
                    "the Node object names no spec.podCIDRs: pods are told apart by the devices they come by",
                );
            }
        }
        self.say_who_is_left_alone();
        if let Some(left) = self.surroundings.left.as_ref()
            && self.surroundings.written_left.as_ref() != Some(left)
        {
            self.datapath.leave_alone(left)?;
            self.surroundings.written_left = Some(left.clone());
        }
        let Surroundings { written_addresses, written_left, .. } = &self.surroundings;
        let tables = &self.status.metrics.tables;
        tables.map(
            "node_addresses",
            written_addresses.as_ref().map_or(0, BTreeMap::len),
            layout::NODE_ADDRESSES,
        );
        tables.map("left_cgroups", written_left.as_ref().map_or(0, BTreeSet::len), layout::LEFT_CGROUPS);
        addresses
    }

    fn settle_node_addresses(&mut self) -> Result<()> {
        let rule = &self.chosen.node_ports;
        if rule.choice == node_ports::Choice::Primary && !self.cluster.is_node_known() {
            return Ok(());
        }
        let wanted = rule.addresses(&self.surroundings.own, self.cluster.node());
        if self.surroundings.written_addresses.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let operations = plan::node_addresses(&self.datapath.node_addresses()?, &wanted);
        self.datapath.carry_out(&operations)?;
        let answering = wanted.iter().filter(|(_, is)| **is & node_address::NODE_PORTS != 0);
        self.surroundings.node_ports = Arc::new(answering.map(|(address, _)| *address).collect());
        self.surroundings.written_addresses = Some(wanted);
        Ok(())
    }

    /// Says which pods' sockets are to be left alone, as soon as that is known.
    fn say_who_is_left_alone(&self) {
        let uids = match self.cluster.pods() {
            _ if self.chosen.by_packets.is_empty() => Some(BTreeSet::new()),
            pods => pods.map(|pods| by_packets::uids(pods, &self.chosen.by_packets)),
        };
        self.hears.left.send_if_modified(|known| {
            let differs = *known != uids;
            *known = uids;
            differs
        });
    }

    fn tell_once(&mut self, what: &'static str) {
        if self.surroundings.told.insert(what) {
            warn!("{what}");
        }
    }
}
