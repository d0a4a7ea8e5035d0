//! The maps. Types and meaning stand in `proxy_common::layout`; capacities here are defaults that the loader
//! overrides.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_fib_lookup},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SkStorage},
    macros::btf_map,
};
use proxy_common::{
    address::Address,
    layout::{
        self, Affinity, AffinityKey, Arrival, Backend, Device, Fates, Flow, FragmentKey, Fragments, Frontend,
        FrontendKey, Origin, Prefix, PutBy, Queued, Sender, SenderKey, Service, Source, Tuple,
    },
};

use crate::packet::Work;

pub const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend, { layout::DEFAULT_FRONTENDS as usize }, NO_PREALLOC> =
    HashMap::new();

#[btf_map]
pub static SERVICES: Array<Service, { layout::DEFAULT_SERVICES as usize }, MMAPABLE> = Array::new();

#[btf_map]
pub static BACKENDS: Array<Backend, { layout::DEFAULT_BACKENDS as usize }, MMAPABLE> = Array::new();

#[btf_map]
pub static REVISION: Array<u64, 1, MMAPABLE> = Array::new();

#[btf_map]
pub static NODE_ADDRESSES: HashMap<Address, u32, { layout::NODE_ADDRESSES as usize }, NO_PREALLOC> =
    HashMap::new();

#[btf_map]
pub static SOURCES: LpmTrie<Source, u32, { layout::SOURCES as usize }> = LpmTrie::new();

#[btf_map]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity, { layout::AFFINITY_ROWS as usize }> =
    LruHashMap::new();

#[btf_map]
pub static LEFT_CGROUPS: HashMap<u64, u32, { layout::LEFT_CGROUPS as usize }, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub static LEFT_COUNT: Array<u64, 1, MMAPABLE> = Array::new();

#[btf_map]
pub static ORIGINS: SkStorage<Origin> = SkStorage::new();

#[btf_map]
pub static SENDERS: LruHashMap<SenderKey, Sender, { layout::SENDER_ROWS as usize }> = LruHashMap::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { layout::Counter::COUNT as usize }> = PerCpuArray::new();

#[btf_map]
pub static FATES: Array<Fates, { layout::DEFAULT_SERVICES as usize }, MMAPABLE> = Array::new();

#[btf_map]
pub static DEVICES: HashMap<u32, Device, { layout::DEVICES as usize }, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub static FLOWS: HashMap<Tuple, Flow, { layout::DEFAULT_FLOWS as usize }, NO_PREALLOC> = HashMap::new();

#[btf_map]
pub static ARRIVALS: HashMap<Tuple, Arrival, { 2 * layout::DEFAULT_FLOWS as usize }, NO_PREALLOC> =
    HashMap::new();

#[btf_map]
pub static NASCENT: Array<Queued, { layout::DEFAULT_QUEUE_LENGTH as usize }> = Array::new();

#[btf_map]
pub static CLOSING: Array<Queued, { layout::DEFAULT_QUEUE_LENGTH as usize }> = Array::new();

#[btf_map]
pub static TURNS: PerCpuArray<u32, 2> = PerCpuArray::new();

#[btf_map]
pub static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

#[btf_map]
pub static ROUTE: PerCpuArray<bpf_fib_lookup, 1> = PerCpuArray::new();

#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragments, { layout::FRAGMENTED as usize }> = LruHashMap::new();

#[btf_map]
pub static PUT_BY: Array<PutBy, { layout::PUT_BY as usize }> = Array::new();

#[btf_map]
pub static FIRST: PerCpuArray<[u8; layout::PUT_BY_LEN as usize], 1> = PerCpuArray::new();

#[btf_map]
pub static VIP_CELLS: Array<Cells, { ROWS }, MMAPABLE> = Array::new();

#[btf_map]
pub static BACKEND_CELLS: Array<Cells, { 2 * ROWS }> = Array::new();

#[btf_map]
pub static SERVICE_CIDRS: Array<Prefix, { layout::RANGES as usize }, MMAPABLE> = Array::new();

#[btf_map]
pub static POD_CIDRS: Array<Prefix, { layout::RANGES as usize }, MMAPABLE> = Array::new();

type Cells = [u8; layout::CELLS_PER_ROW as usize];
const ROWS: usize = (layout::CELLS / layout::CELLS_PER_ROW) as usize;
