//! Records of the `EVENTS` ring buffer.

use crate::Addr;

/// [`EventRecord::kind`]: a known SPI came from an address no path has.
pub const NEW_SOURCE: u32 = 0;
/// [`EventRecord::kind`]: an outbound SA has no usable path.
pub const NO_PATH_USABLE: u32 = 1;
/// [`EventRecord::kind`]: a packet was larger than its path allows.
pub const OVERSIZE: u32 = 2;
/// Number of kinds.
pub const KINDS: u32 = 3;

/// Events of one kind a CPU may report per second.
pub const RATE: u64 = 100;

/// One event. What a field means for a kind that does not need it: zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct EventRecord {
    /// `CLOCK_MONOTONIC` nanoseconds, tick resolution.
    pub time: u64,
    /// One of the kinds above.
    pub kind: u32,
    /// Interface of arrival, or the path's.
    pub ifindex: u32,
    /// SPI, network order.
    pub spi: [u8; 4],
    /// Path index, `NO_PATH` when unknown.
    pub path: u32,
    /// Our outer address; for [`NO_PATH_USABLE`] the anchor.
    pub local: Addr,
    /// The peer's outer address.
    pub remote: Addr,
    /// The peer's UDP port, network order.
    pub remote_port: [u8; 2],
    /// Zero.
    pub reserved: [u8; 2],
    /// [`OVERSIZE`]: octets of the outer packet.
    pub size: u32,
}

impl EventRecord {
    /// Octets of a record.
    pub const LEN: usize = size_of::<Self>();

    /// Reads a record as the ring buffer has it.
    #[must_use]
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        let word = |at: usize| -> Option<[u8; 4]> { octets.get(at..at + 4)?.try_into().ok() };
        let addr = |at: usize| -> Option<Addr> {
            Some(Addr::v6(octets.get(at..at + 16)?.try_into().ok()?))
        };
        Some(Self {
            time: u64::from_ne_bytes(octets.get(0..8)?.try_into().ok()?),
            kind: u32::from_ne_bytes(word(8)?),
            ifindex: u32::from_ne_bytes(word(12)?),
            spi: word(16)?,
            path: u32::from_ne_bytes(word(20)?),
            local: addr(24)?,
            remote: addr(40)?,
            remote_port: octets.get(56..58)?.try_into().ok()?,
            reserved: [0; 2],
            size: u32::from_ne_bytes(word(60)?),
        })
    }
}

const _: () = {
    assert!(size_of::<EventRecord>() == 64);
    assert!(core::mem::offset_of!(EventRecord, kind) == 8);
    assert!(core::mem::offset_of!(EventRecord, spi) == 16);
    assert!(core::mem::offset_of!(EventRecord, path) == 20);
    assert!(core::mem::offset_of!(EventRecord, local) == 24);
    assert!(core::mem::offset_of!(EventRecord, remote) == 40);
    assert!(core::mem::offset_of!(EventRecord, remote_port) == 56);
    assert!(core::mem::offset_of!(EventRecord, size) == 60);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_record_is_refused_at_every_length() {
        let whole = [7u8; EventRecord::LEN];
        for len in 0..EventRecord::LEN {
            assert_eq!(EventRecord::from_octets(&whole[..len]), None, "{len}");
        }
        let record = EventRecord::from_octets(&whole).unwrap();
        assert_eq!(record.spi, [7; 4]);
        assert_eq!(record.size, u32::from_ne_bytes([7; 4]));
    }
}
