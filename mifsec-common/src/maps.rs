//! Names of the maps and globals, their sizes, and the small values.

/// Outbound SAs: hash, [`crate::SaOutKey`] → [`crate::SaOut`].
pub const SA_OUT: &str = "SA_OUT";
/// Inbound SAs: hash, SPI → [`crate::SaIn`].
pub const SA_IN: &str = "SA_IN";
/// Path index → slot number: mmapable array of aligned words, flipped atomically.
pub const PATH_SLOT: &str = "PATH_SLOT";
/// Slot → [`crate::PathEntry`]: mmapable array. Slot 0 is never used.
pub const PATHS: &str = "PATHS";
/// Arrivals: hash, [`crate::PathKey`] → path index.
pub const PATH_IN: &str = "PATH_IN";
/// Path index → [`crate::PathStats`]: per-CPU array (an atomic add of a shared
/// counter costs as much as a hash look-up).
pub const PATH_STATS: &str = "PATH_STATS";
/// Ordered rules, two tables of [`crate::spd::MAX_RULES`]: array of [`crate::SpdEntry`].
pub const SPD: &str = "SPD";
/// Which table is in force and how long it is: mmapable array of one word, see [`spd_state`].
pub const SPD_STATE: &str = "SPD_STATE";
/// Our UDP ports: array of [`PORT_WORDS`] words, see [`port_word`]. A bitmap
/// because it is read for every packet of a guarded access.
pub const PORTS: &str = "PORTS";
/// Our outer addresses: hash, [`crate::Addr`] → 1.
pub const LOCAL: &str = "LOCAL";
/// Token buckets of IKE_SA_INIT per source prefix: LRU hash.
pub const IKE_RATE: &str = "IKE_RATE";
/// The token buckets of all IKE_SA_INIT: array, without a cookie and with one.
pub const IKE_RATE_ALL: &str = "IKE_RATE_ALL";
/// Reason → count: per-CPU array.
pub const REASONS: &str = "REASONS";
/// Ring buffer of [`crate::EventRecord`].
pub const EVENTS: &str = "EVENTS";
/// Event kind → second and count: per-CPU array.
pub const EVENT_RATE: &str = "EVENT_RATE";
/// `mif_queue`: [`QueueSettings`], array of one.
pub const QUEUE: &str = "QUEUE";

/// Globals, written before the programs are loaded so that the verifier sees
/// constants: [`crate::ABI_VERSION`] of the object.
pub const GLOBAL_ABI: &str = "ABI";
/// Global: only packets of this user's sockets may use the anchors.
pub const GLOBAL_UID: &str = "UID";
/// Global: IKE_SA_INIT requests per second from everybody.
pub const GLOBAL_INIT_RATE_ALL: &str = "INIT_RATE_ALL";
/// Global: IKE_SA_INIT requests per second from one IPv4 address or IPv6 /64.
pub const GLOBAL_INIT_RATE: &str = "INIT_RATE";
/// Global: 1 when native ESP with an unknown SPI is dropped, because nobody
/// else does IPsec on this host.
pub const GLOBAL_EXCLUSIVE: &str = "EXCLUSIVE";

/// Default of [`GLOBAL_INIT_RATE_ALL`].
pub const DEFAULT_INIT_RATE_ALL: u32 = 10_000;
/// Default of [`GLOBAL_INIT_RATE`]: whole ISPs sit behind one CGNAT address.
pub const DEFAULT_INIT_RATE: u32 = 1_000;

/// Default number of SAs each way.
pub const DEFAULT_SAS: u32 = 4096;
/// Default number of paths.
pub const DEFAULT_PATHS: u32 = 256;
/// Slots kept beyond two per path.
pub const SPARE_SLOTS: u32 = 64;
/// Outer addresses of ours.
pub const MAX_LOCAL: u32 = 1024;
/// Source prefixes whose IKE_SA_INIT rate is remembered.
pub const IKE_SOURCES: u32 = 65_536;

/// Words of `PORTS`: two bits for each port.
pub const PORT_WORDS: u32 = 65_536 / 32;
/// Not a port of ours.
pub const PORT_FOREIGN: u64 = 0;
/// Carries ESP, and IKE behind the non-ESP marker (RFC 3948 2.2).
pub const PORT_NAT_T: u64 = 1;
/// Carries IKE without a marker.
pub const PORT_IKE: u64 = 2;

/// Where the bits of `port` are: index of the word, and the shift in it.
#[inline(always)]
#[must_use]
pub const fn port_word(port: u16) -> (u32, u32) {
    (port as u32 / 32, port as u32 % 32 * 2)
}

/// Number of slots that `paths` paths need.
#[must_use]
pub const fn slots(paths: u32) -> u32 {
    2 * paths + SPARE_SLOTS
}

/// The word of `SPD_STATE`: table 0 or 1, and the number of its rules.
#[must_use]
pub const fn spd_state(table: u32, rules: u32) -> u32 {
    (table << 31) | rules
}

/// [`QueueSettings::mode`]: by the flow, as the steering table does.
pub const QUEUE_BY_FLOW: u32 = 0;
/// [`QueueSettings::mode`]: by the inner destination (gateways).
pub const QUEUE_BY_DESTINATION: u32 = 1;

/// Value of `QUEUE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct QueueSettings {
    /// One of the `QUEUE_BY_` values.
    pub mode: u32,
    /// Number of queues; 0 is treated as 1.
    pub queues: u32,
    /// Bucket → queue for [`QUEUE_BY_FLOW`]; taken modulo `queues`.
    pub table: crate::steering::Table,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            mode: QUEUE_BY_FLOW,
            queues: 1,
            table: [0; crate::steering::BUCKETS],
        }
    }
}

/// A token bucket: value of `IKE_RATE` and `IKE_RATE_ALL`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Bucket {
    /// `CLOCK_MONOTONIC` nanoseconds at which the bucket is empty again; see
    /// [`Bucket::take`].
    pub drained: u64,
}

impl Bucket {
    /// Takes one token at `now`, of `rate` per second with a burst of a tenth of
    /// a second's worth.
    ///
    /// The bucket is one time stamp: each packet moves it by 1/rate, and it may
    /// be at most the burst ahead of the clock. Racing CPUs lose a token at worst.
    #[inline(always)]
    pub const fn take(&mut self, now: u64, rate: u32) -> bool {
        const BURST: u64 = 100_000_000;
        if rate == 0 {
            return false;
        }
        let from = if self.drained > now {
            self.drained
        } else {
            now
        };
        if from - now > BURST {
            return false;
        }
        self.drained = from + 1_000_000_000 / rate as u64;
        true
    }
}

const _: () = {
    assert!(size_of::<QueueSettings>() == 8 + crate::steering::BUCKETS);
    assert!(size_of::<Bucket>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_passes_its_rate_and_little_more() {
        let mut bucket = Bucket::default();
        let mut passed = 0;
        // Ten times the rate, for one second.
        for i in 0..10_000u64 {
            passed += u32::from(bucket.take(1_000_000_000 + i * 100_000, 1_000));
        }
        assert!((1_000..=1_102).contains(&passed), "{passed}");
        assert!(!Bucket::default().take(5, 0));
    }
}
