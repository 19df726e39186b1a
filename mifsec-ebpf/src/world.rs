//! The maps as the decisions see them.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_loop};
use mifsec_common::event::{self, EventRecord};
use mifsec_common::maps::{Bucket, port_word};
use mifsec_common::spd::MAX_RULES;
use mifsec_common::{Addr, NO_PATH, PathEntry, PathKey, Reason, SaOut, SaOutKey, SpdEntry};
use mifsec_ebpf::{Verdict, egress, guard, ingress};

use crate::maps::{
    EVENT_RATE, EVENTS, EXCLUSIVE, FLOW, IKE_RATE, IKE_RATE_ALL, INIT_RATE, INIT_RATE_ALL, LOCAL,
    PATH_IN, PATH_SLOT, PATH_STATS, PATHS, PORTS, REASONS, SA_IN, SA_OUT, SPD, SPD_STATE,
};

/// The maps of this object.
pub(crate) struct Maps;

/// Counts a reason on this CPU.
#[inline(always)]
pub(crate) fn count(reason: Reason, n: u64) {
    if let Some(counter) = REASONS.get_ptr_mut(reason.0) {
        // SAFETY: this CPU's own counter; the hooks run with softirqs off.
        unsafe { *counter += n };
    }
}

impl egress::World for Maps {
    #[inline(always)]
    fn sa_out(&self, key: &SaOutKey) -> Option<&SaOut> {
        // SAFETY: an update links a new element in front of the old one, whose
        // memory may be used again, for another key as well, while this run still
        // reads it: what is read may then be another SA's. It is a path index
        // each time, checked where it is used, and costs a packet on another path.
        unsafe { SA_OUT.get(key) }
    }

    #[inline(always)]
    fn path(&self, index: u32) -> Option<&PathEntry> {
        let slot = PATH_SLOT.get_ptr(index)?;
        // SAFETY: an aligned word that user space stores with release.
        let slot = unsafe { slot.read_volatile() };
        // The load of the entry depends on the slot's value, which is all the
        // order a reader needs. A slot is not rewritten for 100 ms after the flip.
        PATHS.get(slot)
    }

    #[inline(always)]
    fn count(&self, reason: Reason, n: u64) {
        count(reason, n);
    }

    #[inline(always)]
    fn sent(&self, path: u32, packets: u64, octets: u64) {
        if let Some(stats) = PATH_STATS.get_ptr_mut(path) {
            // SAFETY: this CPU's own value; the hooks run with softirqs off.
            unsafe {
                (*stats).tx_packets += packets;
                (*stats).tx_octets += octets;
                (*stats).tx_last = now();
            }
        }
    }

    #[inline(always)]
    fn oversize(&self, path: u32, entry: &PathEntry, key: &SaOutKey, size: u32) {
        if let Some(stats) = PATH_STATS.get_ptr_mut(path) {
            // SAFETY: as above.
            unsafe { (*stats).tx_drops += 1 };
        }
        report(EventRecord {
            time: now(),
            kind: event::OVERSIZE,
            ifindex: entry.ifindex,
            spi: key.spi,
            path,
            local: entry.src,
            remote: entry.dst,
            remote_port: entry.dport,
            reserved: [0; 2],
            size,
        });
    }

    #[inline(always)]
    fn no_path(&self, key: &SaOutKey) {
        report(EventRecord {
            time: now(),
            kind: event::NO_PATH_USABLE,
            ifindex: 0,
            spi: key.spi,
            path: NO_PATH,
            local: key.anchor,
            remote: Addr::NONE,
            remote_port: [0; 2],
            reserved: [0; 2],
            size: 0,
        });
    }
}

impl ingress::World for Maps {
    #[inline(always)]
    fn port(&self, port: [u8; 2]) -> u64 {
        port_kind(port)
    }

    #[inline(always)]
    fn knows_spi(&self, spi: [u8; 4]) -> bool {
        SA_IN.get_ptr(spi).is_some()
    }

    #[inline(always)]
    fn is_local(&self, address: &Addr) -> bool {
        LOCAL.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn path_in(&self, key: &PathKey) -> Option<u32> {
        // SAFETY: an aligned word.
        unsafe { PATH_IN.get(key) }.copied()
    }

    #[inline(always)]
    fn received(&self, path: u32, packets: u64, octets: u64) {
        if let Some(stats) = PATH_STATS.get_ptr_mut(path) {
            // SAFETY: this CPU's own value; the hooks run with softirqs off.
            unsafe {
                (*stats).rx_packets += packets;
                (*stats).rx_octets += octets;
                (*stats).rx_last = now();
            }
        }
    }

    #[inline(always)]
    fn admit_ike(&self, source: &Addr, v4: bool, cookie: bool) -> Result<(), Reason> {
        let now = now();
        let key = ingress::rate_key(source, v4);
        // A source over its own limit spends nothing of what all share ...
        let known = IKE_RATE.get_ptr_mut(key);
        if let Some(bucket) = known {
            // SAFETY: one word; racing CPUs cost a token.
            if !unsafe { (*bucket).take(now, INIT_RATE.load()) } {
                return Err(Reason::IKE_LIMIT);
            }
        }
        if let Some(all) = IKE_RATE_ALL.get_ptr_mut(u32::from(cookie)) {
            // SAFETY: as above.
            if !unsafe { (*all).take(now, INIT_RATE_ALL.load()) } {
                return Err(Reason::IKE_LIMIT_ALL);
            }
        }
        // ... and a flood of spoofed sources does not fill the LRU map.
        if known.is_none() {
            let mut bucket = Bucket { drained: 0 };
            if !bucket.take(now, INIT_RATE.load()) {
                return Err(Reason::IKE_LIMIT);
            }
            // A full LRU map makes room; a race with another CPU is its first token.
            let _ = IKE_RATE.insert(key, bucket, 0);
        }
        Ok(())
    }

    #[inline(always)]
    fn count(&self, reason: Reason, n: u64) {
        count(reason, n);
    }

    #[inline(always)]
    fn new_source(&self, key: &PathKey, spi: [u8; 4]) {
        report(EventRecord {
            time: now(),
            kind: event::NEW_SOURCE,
            ifindex: key.ifindex,
            spi,
            path: NO_PATH,
            local: key.local,
            remote: key.remote,
            remote_port: key.remote_port,
            reserved: [0; 2],
            size: 0,
        });
    }

    #[inline(always)]
    fn exclusive(&self) -> bool {
        EXCLUSIVE.load() != 0
    }
}

impl guard::World for Maps {
    #[inline(always)]
    fn is_local(&self, address: &Addr) -> bool {
        LOCAL.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn table(&self) -> (u32, u32) {
        let Some(state) = SPD_STATE.get_ptr(0) else {
            return (0, 0);
        };
        // SAFETY: an aligned word that user space stores with release.
        let state = unsafe { state.read_volatile() };
        ((state >> 31) * MAX_RULES, state & 0x7fff_ffff)
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<&SpdEntry> {
        SPD.get(index)
    }

    #[inline(always)]
    fn port(&self, port: [u8; 2]) -> u64 {
        port_kind(port)
    }

    #[inline(always)]
    fn count(&self, reason: Reason, n: u64) {
        count(reason, n);
    }

    #[inline(always)]
    fn apply(&self, flow: guard::Flow, direction: u8) -> Verdict {
        let Some(place) = FLOW.get_ptr_mut(0) else {
            return Verdict::Drop;
        };
        // SAFETY: this CPU's own value; the hooks run with softirqs off.
        unsafe { place.write(flow) };
        let (first, rules) = self.table();
        let mut walk = RuleWalk {
            first,
            direction: u32::from(direction),
            drop: 0,
        };
        // A loop of the kernel's: the verifier looks at the body once, instead
        // of 256 times for every kind of packet.
        // SAFETY: the callback gets `walk`, which outlives the call.
        unsafe {
            bpf_loop(
                rules.min(MAX_RULES),
                judge_by_rule as *mut c_void,
                (&raw mut walk).cast(),
                0,
            );
        }
        if walk.drop == 0 {
            Verdict::Pass
        } else {
            Verdict::Drop
        }
    }
}

/// What [`judge_by_rule`] needs and leaves.
struct RuleWalk {
    first: u32,
    direction: u32,
    drop: u32,
}

/// One rule against the flow in `FLOW`; 1 ends the walk.
///
/// # Safety
/// `walk` is a [`RuleWalk`].
unsafe extern "C" fn judge_by_rule(index: u32, walk: *mut RuleWalk) -> i64 {
    // SAFETY: by contract.
    let walk = unsafe { &mut *walk };
    let Some(flow) = FLOW.get(0) else {
        return 1;
    };
    match guard::step(flow, walk.direction as u8, walk.first + index, &Maps) {
        None => 0,
        Some(verdict) => {
            walk.drop = u32::from(verdict == Verdict::Drop);
            1
        }
    }
}

#[inline(always)]
fn port_kind(port: [u8; 2]) -> u64 {
    let (word, shift) = port_word(u16::from_be_bytes(port));
    PORTS.get(word).map_or(0, |bits| (bits >> shift) & 3)
}

/// Reports an event unless its kind had its share of this second on this CPU.
#[inline(always)]
fn report(record: EventRecord) {
    let Some(rate) = EVENT_RATE.get_ptr_mut(record.kind) else {
        return;
    };
    // The shift stands for a division: about a second.
    let second = record.time >> 30;
    // SAFETY: this CPU's own value.
    let [since, count_in] = unsafe { *rate };
    let used = if since == second { count_in } else { 0 };
    if used >= event::RATE || EVENTS.output::<EventRecord>(&record, 0).is_err() {
        count(Reason::EVENT_LOST, 1);
        return;
    }
    // SAFETY: as above.
    unsafe { *rate = [second, used + 1] };
}

/// `CLOCK_MONOTONIC` at the last tick.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments, no effects.
    unsafe { bpf_ktime_get_coarse_ns() }
}
