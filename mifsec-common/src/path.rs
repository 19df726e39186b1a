//! Paths: where a packet goes, how an arrival is recognised, what was counted.

use crate::Addr;

/// [`PathEntry::state`]: the slot holds nothing.
pub const STATE_NONE: u32 = 0;
/// [`PathEntry::state`]: the path may be used.
pub const STATE_UP: u32 = 1;
/// [`PathEntry::state`]: the path is known and must not be used.
pub const STATE_DOWN: u32 = 2;

/// [`PathEntry::family`] of an IPv4 path.
pub const FAMILY_V4: u32 = 4;
/// [`PathEntry::family`] of an IPv6 path.
pub const FAMILY_V6: u32 = 6;

/// [`PathEntry::link_type`]: frames with an Ethernet header.
pub const LINK_ETHERNET: u32 = 0;
/// [`PathEntry::link_type`]: bare IP packets (modems, tunnels).
pub const LINK_LAYER3: u32 = 1;

/// Value of `PATHS`: everything the egress program needs to put a packet on a path.
///
/// Never changed in place while a `PATH_SLOT` points at it: a reader on another
/// CPU could mix two addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct PathEntry {
    /// One of the `STATE_` values.
    pub state: u32,
    /// [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u32,
    /// One of the `LINK_` values.
    pub link_type: u32,
    /// Kernel index of the access to leave by.
    pub ifindex: u32,
    /// New outer source.
    pub src: Addr,
    /// New outer destination.
    pub dst: Addr,
    /// Router or the destination itself; unspecified means the destination.
    pub next_hop: Addr,
    /// New UDP source port, network order; unused for native ESP.
    pub sport: [u8; 2],
    /// New UDP destination port, network order; unused for native ESP.
    pub dport: [u8; 2],
    /// Largest outer IP packet, octets.
    pub mtu: u32,
    /// Raised with every change of the path; for display.
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
}

/// Key of `PATH_IN`: what an arriving outer header says about its path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(C)]
pub struct PathKey {
    /// Interface of arrival.
    pub ifindex: u32,
    /// Outer destination.
    pub local: Addr,
    /// Outer source.
    pub remote: Addr,
    /// UDP source port, network order; zero for native ESP.
    pub remote_port: [u8; 2],
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value of `PATH_STATS`, one for each CPU; written by the programs alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct PathStats {
    /// ESP packets sent, a GSO packet counted by its segments.
    pub tx_packets: u64,
    /// Outer IP octets sent.
    pub tx_octets: u64,
    /// ESP packets received, a GRO packet counted by its segments.
    pub rx_packets: u64,
    /// Outer IP octets received.
    pub rx_octets: u64,
    /// `CLOCK_MONOTONIC` nanoseconds of the last packet sent, tick resolution.
    pub tx_last: u64,
    /// `CLOCK_MONOTONIC` nanoseconds of the last packet received, tick resolution.
    pub rx_last: u64,
    /// Packets dropped on this path (size).
    pub tx_drops: u64,
    /// Zero.
    pub reserved: u64,
}

const _: () = {
    assert!(size_of::<PathEntry>() == 80);
    assert!(core::mem::offset_of!(PathEntry, src) == 16);
    assert!(core::mem::offset_of!(PathEntry, next_hop) == 48);
    assert!(core::mem::offset_of!(PathEntry, mtu) == 68);
    assert!(size_of::<PathKey>() == 40);
    assert!(core::mem::offset_of!(PathKey, remote_port) == 36);
    assert!(size_of::<PathStats>() == 64);
};
