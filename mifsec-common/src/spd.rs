//! The rules `mif_guard` holds clear traffic to.

use crate::Addr;

/// Rules in one table.
pub const MAX_RULES: u32 = 256;

/// [`SpdEntry::direction`]: packets leaving on an access.
pub const OUT: u8 = 1;
/// [`SpdEntry::direction`]: packets arriving on an access.
pub const IN: u8 = 2;

/// [`SpdEntry::action`]: may pass in clear.
pub const BYPASS: u8 = 0;
/// [`SpdEntry::action`]: belongs into a tunnel; in clear it is dropped.
pub const PROTECT_TUNNEL: u8 = 1;
/// [`SpdEntry::action`]: belongs into a transport mode SA; in clear it is dropped.
pub const PROTECT_TRANSPORT: u8 = 2;
/// [`SpdEntry::action`]: dropped whatever it is.
pub const DISCARD: u8 = 3;

/// Value of `SPD`: one ordered rule; the first match decides.
///
/// Local is the source of a leaving packet and the destination of an arriving
/// one. Masks instead of prefix lengths: the programs only AND and compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SpdEntry {
    /// Local network, host bits zero.
    pub local: Addr,
    /// Mask of `local`.
    pub local_mask: Addr,
    /// Remote network, host bits zero.
    pub remote: Addr,
    /// Mask of `remote`.
    pub remote_mask: Addr,
    /// Local ports, first and last, host order. ICMP has none and matches any.
    pub local_ports: [u16; 2],
    /// Remote ports, first and last, host order.
    pub remote_ports: [u16; 2],
    /// IP protocol; 0 is any.
    pub protocol: u8,
    /// [`OUT`] or [`IN`].
    pub direction: u8,
    /// [`BYPASS`], [`PROTECT_TUNNEL`], [`PROTECT_TRANSPORT`] or [`DISCARD`].
    pub action: u8,
    /// [`FAMILY_V4`](crate::path::FAMILY_V4) or `FAMILY_V6`: a `::/0` must not
    /// match v4-mapped addresses.
    pub family: u8,
}

const _: () = {
    assert!(size_of::<SpdEntry>() == 76);
    assert!(core::mem::offset_of!(SpdEntry, local_ports) == 64);
    assert!(core::mem::offset_of!(SpdEntry, protocol) == 72);
};
