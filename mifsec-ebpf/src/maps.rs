//! The maps and globals of the object. Sizes are the defaults; the loader sets
//! those of the configuration.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use mifsec_common::maps::{
    Bucket, DEFAULT_INIT_RATE, DEFAULT_INIT_RATE_ALL, DEFAULT_PATHS, DEFAULT_SAS, IKE_SOURCES,
    MAX_LOCAL, PORT_WORDS, QueueSettings, slots,
};
use mifsec_common::reason::REASONS as REASON_COUNT;
use mifsec_common::spd::MAX_RULES;
use mifsec_common::{Addr, PathEntry, PathKey, PathStats, SaIn, SaOut, SaOutKey, SpdEntry};

#[unsafe(no_mangle)]
pub(crate) static ABI: Global<u32> = Global::new(mifsec_common::ABI_VERSION);
#[unsafe(no_mangle)]
pub(crate) static UID: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static INIT_RATE_ALL: Global<u32> = Global::new(DEFAULT_INIT_RATE_ALL);
#[unsafe(no_mangle)]
pub(crate) static INIT_RATE: Global<u32> = Global::new(DEFAULT_INIT_RATE);
#[unsafe(no_mangle)]
pub(crate) static EXCLUSIVE: Global<u32> = Global::new(0);

#[map]
pub(crate) static SA_OUT: HashMap<SaOutKey, SaOut> = HashMap::with_max_entries(DEFAULT_SAS, 0);
#[map]
pub(crate) static SA_IN: HashMap<[u8; 4], SaIn> = HashMap::with_max_entries(DEFAULT_SAS, 0);
#[map]
pub(crate) static PATH_SLOT: Array<u32> = Array::with_max_entries(DEFAULT_PATHS, BPF_F_MMAPABLE);
#[map]
pub(crate) static PATHS: Array<PathEntry> =
    Array::with_max_entries(slots(DEFAULT_PATHS), BPF_F_MMAPABLE);
#[map]
pub(crate) static PATH_IN: HashMap<PathKey, u32> = HashMap::with_max_entries(2 * DEFAULT_PATHS, 0);
#[map]
pub(crate) static PATH_STATS: PerCpuArray<PathStats> =
    PerCpuArray::with_max_entries(DEFAULT_PATHS, 0);
#[map]
pub(crate) static SPD: Array<SpdEntry> = Array::with_max_entries(2 * MAX_RULES, 0);
#[map]
pub(crate) static SPD_STATE: Array<u32> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub(crate) static PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS, 0);
#[map]
pub(crate) static LOCAL: HashMap<Addr, u32> = HashMap::with_max_entries(MAX_LOCAL, 0);
#[map]
pub(crate) static IKE_RATE: LruHashMap<Addr, Bucket> = LruHashMap::with_max_entries(IKE_SOURCES, 0);
#[map]
pub(crate) static IKE_RATE_ALL: Array<Bucket> = Array::with_max_entries(2, 0);
#[map]
pub(crate) static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASON_COUNT, 0);
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);
#[map]
pub(crate) static EVENT_RATE: PerCpuArray<[u64; 2]> =
    PerCpuArray::with_max_entries(mifsec_common::event::KINDS, 0);
/// Where `mif_guard` keeps the flow it judges.
#[map]
pub(crate) static FLOW: PerCpuArray<mifsec_ebpf::guard::Flow> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static QUEUE: Array<QueueSettings> = Array::with_max_entries(1, 0);
