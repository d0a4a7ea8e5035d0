//! Reading everything back from pins, without being the process that writes: `kubeshunt services`.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData},
};
use proxy_common::{
    address::Address,
    layout::{Backend, Frontend, FrontendKey, Service, Sets, Traits, map},
};

use super::{mapped::MappedArray, pins::Pins};

/// Takes a map out of a loaded object, typed.
pub(super) fn map<T>(ebpf: &mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
    T::try_from(map).with_context(|| format!("the map {name} is not of the expected type"))
}

/// A frontend with everything it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it answers.
    pub key: FrontendKey,
    /// Its id and kind.
    pub frontend: Frontend,
    /// The service's snapshot.
    pub sets: Sets,
    /// The service's properties.
    pub traits: Traits,
    /// The Cluster set.
    pub cluster: Vec<Backend>,
    /// The Local set.
    pub local: Vec<Backend>,
}

/// What is pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// By address, port, protocol.
    pub frontends: Vec<Entry>,
    /// Addresses that answer NodePorts.
    pub node_addresses: Vec<Address>,
}

/// Reads the maps under `pins`. Taken while a controller writes, each service is consistent in itself as far as
/// its `sets` word did not change meanwhile, which is checked.
///
/// # Errors
/// When nothing is pinned there, or it cannot be read.
pub fn read(pins: &Pins) -> Result<Contents> {
    let open = |name: &str| -> Result<MapData> {
        let path = pins.map(name);
        MapData::from_pin(&path).with_context(|| {
            format!("cannot open {}: is kubeshunt running, with this --bpffs-root?", path.display())
        })
    };
    let frontends: HashMap<_, FrontendKey, Frontend> =
        HashMap::try_from(Map::HashMap(open(map::FRONTENDS)?))?;
    let services: MappedArray<Service> = MappedArray::new(&open(map::SERVICES)?, map::SERVICES)?;
    let backends: MappedArray<Backend> = MappedArray::new(&open(map::BACKENDS)?, map::BACKENDS)?;
    let nodes: HashMap<_, Address, u32> = HashMap::try_from(Map::HashMap(open(map::NODE_ADDRESSES)?))?;

    let mut contents = Contents::default();
    for entry in frontends.iter() {
        let (key, frontend) = entry.context("reading the frontends map")?;
        if let Some(entry) = resolve(key, frontend, &services, &backends) {
            contents.frontends.push(entry);
        }
    }
    contents.frontends.sort_unstable_by_key(|entry| order(&entry.key));
    contents.node_addresses =
        nodes.keys().collect::<Result<_, _>>().context("reading the node addresses map")?;
    contents.node_addresses.sort_unstable_by_key(|address| address.octets());
    Ok(contents)
}

fn resolve(
    key: FrontendKey,
    frontend: Frontend,
    services: &MappedArray<Service>,
    backends: &MappedArray<Backend>,
) -> Option<Entry> {
    let index = frontend.service as usize;
    let take = |range: proxy_common::layout::Range| {
        let from = range.start as usize;
        backends.as_slice().get(from..from + range.len as usize).map(<[Backend]>::to_vec)
    };
    loop {
        let service = read_volatile(services.as_slice().get(index)?);
        let sets = Sets(service.sets);
        let (cluster, local) = (take(sets.cluster())?, take(sets.local())?);
        // Unchanged until now: the slots read were this snapshot's.
        if read_volatile(services.as_slice().get(index)?).sets == service.sets {
            return Some(Entry { key, frontend, sets, traits: Traits(service.traits), cluster, local });
        }
    }
}

/// Reads memory that another process writes.
fn read_volatile(service: &Service) -> Service {
    // SAFETY: a reference is valid for reads; volatile keeps the compiler from reading once for two reads.
    unsafe { std::ptr::read_volatile(service) }
}

/// For people: by family, address, port, protocol; NodePorts last.
fn order(key: &FrontendKey) -> (u8, bool, [u8; 16], u16, u8) {
    (key.scope, !key.address.is_v4(), key.address.octets(), key.port.number(), key.protocol)
}
