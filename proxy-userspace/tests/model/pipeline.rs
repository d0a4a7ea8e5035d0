//! The pipeline that is judged: from objects to the maps, as the controller's loop has it, without I/O.

use proxy_common::address::Address;
use proxy_userspace::cluster::Cluster;
use proxy_userspace::cluster::change::{Change, Kind, Object, ObjectRef};
use proxy_userspace::cluster::model::ServiceName;
use proxy_userspace::plan::simulated::Maps;
use proxy_userspace::plan::{self, Capacity, Desired, Extent, Operation, Planner};
use proxy_userspace::tables::{self, node_ports};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::oracle::objects::{Name, NodePortAddresses, Service, Slice, World};
use super::wire;

/// As much as the histories need, and no more than is quickly zeroed.
pub(crate) const CAPACITY: Capacity = Capacity { frontends: 512, services: 128, backends: 1024 };

pub(crate) struct Pipeline {
    cluster: Cluster,
    planner: Planner,
    pub(crate) maps: Maps,
    extent: Extent,
}

impl Pipeline {
    /// A node that knows that there is nothing.
    pub(crate) fn new(world: &World, capacity: Capacity) -> Self {
        let maps = Maps::new(capacity);
        let mut cluster = Cluster::new(&world.node.to_uppercase());
        for kind in [Kind::Service, Kind::EndpointSlice] {
            cluster.apply(Change::Listed(kind, Vec::new()));
        }
        Self { cluster, planner: Planner::adopt(capacity, maps.observed()), maps, extent: Extent::Everything }
    }

    pub(crate) fn service(&mut self, name: &Name, service: Option<&Service>) {
        let object = service.map(|own| Object::Service(read(wire::service(name, own))));
        self.change(Kind::Service, name, object);
    }

    pub(crate) fn slice(&mut self, name: &Name, slice: Option<&Slice>) {
        let object = slice.map(|own| Object::EndpointSlice(read(wire::slice(name, own))));
        self.change(Kind::EndpointSlice, name, object);
    }

    pub(crate) fn node(&mut self, world: &World) {
        self.cluster.apply(Change::Applied(Object::Node(read(wire::node(world)))));
    }

    fn change(&mut self, kind: Kind, name: &Name, object: Option<Object>) {
        let gone = || Change::Deleted(ObjectRef::new(kind, name.namespace, &name.name));
        // Much of what is written here is rejected, as it should be.
        self.cluster.apply(object.map_or_else(gone, Change::Applied));
    }

    /// Writes what has changed, and says what was written. Then a grace period passes.
    pub(crate) fn settle(&mut self, world: &World) -> Vec<Operation> {
        let names: Vec<ServiceName> = match self.extent {
            Extent::Everything => self.cluster.service_names().cloned().collect(),
            Extent::Changes => self.cluster.take_dirty().into_iter().collect(),
        };
        let desired: Vec<Desired> = names
            .into_iter()
            .map(|name| {
                let tables = tables::of_service(&self.cluster, &name);
                (name, tables)
            })
            .collect();
        let plan = self.planner.plan(&self.maps.backends, desired, self.extent);
        self.extent = Extent::Changes;
        assert!(plan.unplaced.is_empty(), "{:?} found no room", plan.unplaced);
        let own: Vec<Address> = world.interfaces.iter().copied().map(Address::from).collect();
        let addresses = node_ports::addresses(&own, &choice(world), self.cluster.node());
        let mut operations = plan.operations;
        operations.extend(plan::node_addresses(&self.maps.node_addresses, &addresses));
        self.maps.carry_out(&operations);
        self.planner.release(plan.epoch);
        operations
    }

    /// A new process finds the maps and completes what they say.
    pub(crate) fn restart(&mut self) {
        self.cluster.take_dirty();
        self.planner = Planner::adopt(self.maps.capacity(), self.maps.observed());
        self.extent = Extent::Everything;
    }
}

/// The setting, as the command line has it.
fn choice(world: &World) -> node_ports::Choice {
    match &world.node_port_addresses {
        NodePortAddresses::Primary => node_ports::Choice::Primary,
        NodePortAddresses::Ranges(ranges) => {
            let words: Vec<node_ports::Word> =
                ranges.iter().map(|range| range.parse().expect("a range")).collect();
            node_ports::Choice::of(&words).expect("ranges alone")
        }
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Box<T> {
    Box::new(serde_json::from_value(value).expect("an object as the API has it"))
}
