//! Reading everything back from pins, without being the process that writes: `kubeshunt services`.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{
        HashMap, Map, MapData, MapError,
        lpm_trie::{Key, LpmTrie},
    },
};
use proxy_common::{
    address::{Address, Port},
    layout::{
        Backend, Frontend, FrontendKey, Prefix, Service, Sets, Source, Traits, frontend_kind, map,
        node_address, protocol, scope,
    },
};

use super::{mapped::MappedArray, pins::Pins};
use crate::plan::{NodeAddresses, SourceRange};

/// Takes a map out of a loaded object, typed.
pub(super) fn map<T>(ebpf: &mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
    T::try_from(map).with_context(|| format!("the map {name} is not of the expected type"))
}

/// The clients that are admitted to restricted services.
pub(super) fn sources(trie: &LpmTrie<MapData, Source, u32>) -> Result<Vec<SourceRange>> {
    let mut ranges = Vec::new();
    for key in trie.keys() {
        ranges.push(range(&key.context("reading the map of admitted clients")?));
    }
    Ok(ranges)
}

/// The range that a key says.
pub(super) fn range(key: &Key<Source>) -> SourceRange {
    let Source { service, address } = key.data();
    let length = key.prefix_len().saturating_sub(Source::bits(&address, 0));
    SourceRange { service, address, length: u8::try_from(length).unwrap_or(u8::MAX) }
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
    /// The clients admitted, if it is a load-balancer address of a restricted service.
    pub admitted: Option<Vec<SourceRange>>,
}

/// What is pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// By address, port, protocol.
    pub frontends: Vec<Entry>,
    /// Addresses that answer NodePorts.
    pub node_addresses: Vec<Address>,
    /// All of the node's addresses, and what they are to it.
    pub addresses: NodeAddresses,
    /// Where ClusterIPs are taken from, and whose packets count as those of this node's pods.
    pub ranges: [Vec<Prefix>; 2],
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
    let trie = LpmTrie::try_from(Map::LpmTrie(open(map::SOURCES)?))?;
    let nodes: HashMap<_, Address, u32> = HashMap::try_from(Map::HashMap(open(map::NODE_ADDRESSES)?))?;

    let mut contents = Contents::default();
    let admitted = sources(&trie)?;
    for entry in frontends.iter() {
        let (key, frontend) = entry.context("reading the frontends map")?;
        if let Some(entry) = resolve(key, frontend, &services, &backends, &admitted) {
            contents.frontends.push(entry);
        }
    }
    contents.frontends.sort_unstable_by_key(|entry| order(&entry.key));
    for entry in nodes.iter() {
        let (address, is) = entry.context("reading the node addresses map")?;
        contents.addresses.insert(address, is);
        if is & node_address::NODE_PORTS != 0 {
            contents.node_addresses.push(address);
        }
    }
    contents.node_addresses.sort_unstable_by_key(|address| address.octets());
    for (ranges, name) in contents.ranges.iter_mut().zip([map::SERVICE_CIDRS, map::POD_CIDRS]) {
        *ranges = MappedArray::new(&open(name)?, name)?.as_slice().to_vec();
    }
    Ok(contents)
}

/// Where the maps under `pins` lead connections to this address of a cluster IP: for whoever needs them before anything
/// is known.
///
/// # Errors
/// When nothing is pinned there, or it cannot be read.
pub fn endpoints_of(pins: &Pins, to: SocketAddr) -> Result<Vec<SocketAddr>> {
    let open = |name: &str| MapData::from_pin(pins.map(name)).with_context(|| format!("no map {name}"));
    let frontends: HashMap<_, FrontendKey, Frontend> =
        HashMap::try_from(Map::HashMap(open(map::FRONTENDS)?))?;
    let services = MappedArray::new(&open(map::SERVICES)?, map::SERVICES)?;
    let backends = MappedArray::new(&open(map::BACKENDS)?, map::BACKENDS)?;
    let key = FrontendKey {
        address: Address::from(to.ip()),
        port: Port::new(to.port()),
        protocol: protocol::TCP,
        scope: scope::VIP,
    };
    let frontend = match frontends.get(&key, 0) {
        Ok(frontend) => frontend,
        Err(MapError::KeyNotFound) => return Ok(Vec::new()),
        Err(error) => return Err(error).context("reading the frontends map"),
    };
    let entry = resolve(key, frontend, &services, &backends, &[]);
    let address = |backend: &Backend| SocketAddr::new(backend.address.to_ip(), backend.port.number());
    Ok(entry.iter().flat_map(|entry| &entry.cluster).map(address).collect())
}

fn resolve(
    key: FrontendKey,
    frontend: Frontend,
    services: &MappedArray<Service>,
    backends: &MappedArray<Backend>,
    admitted: &[SourceRange],
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
            let traits = Traits(service.traits);
            let is_restricted = traits.is_restricted() && frontend.kind == frontend_kind::LOAD_BALANCER;
            let of_service = || admitted.iter().filter(|range| range.service == frontend.service);
            let admitted = is_restricted.then(|| of_service().copied().collect());
            return Some(Entry { key, frontend, sets, traits, cluster, local, admitted });
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
