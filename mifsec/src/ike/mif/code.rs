//! Notify numbers of the extension and its vendor id.
//!
//! Status 47104 to 47135 and errors 14080 to 14095: private use, clear of the
//! numbers 3GPP and strongSwan already use for themselves.

use crate::ike::message::NotifyType;

/// First 16 octets of SHA-256("mifsec IKEv2-MIF v1").
pub const VENDOR_ID: [u8; 16] = [
    0x6c, 0x4e, 0x4c, 0xf2, 0xa5, 0x32, 0x2c, 0x29, 0xed, 0xe1, 0x86, 0x6d, 0xc5, 0xb6, 0x41, 0xa4,
];

/// Whether a vendor id payload is ours.
#[must_use]
pub fn is_vendor_id(data: &[u8]) -> bool {
    data == VENDOR_ID
}

/// Status notifies.
pub mod status {
    use super::NotifyType;

    /// What the sender can do.
    pub const MIF_SUPPORTED: NotifyType = NotifyType(47104);
    /// The sender's interfaces, all of them.
    pub const MIF_INTERFACES: NotifyType = NotifyType(47105);
    /// The path of a Child SA.
    pub const MIF_OUTER_ADDRS: NotifyType = NotifyType(47106);
    /// An interface's address changed.
    pub const MIF_UPDATE_ADDRS: NotifyType = NotifyType(47107);
    /// Which interfaces stand in for which.
    pub const MIF_ALTERNATES: NotifyType = NotifyType(47108);
    /// A new interface and the SAs derived for it.
    pub const MIF_ADD_INTERFACE: NotifyType = NotifyType(47109);
    /// The list of derived SAs.
    pub const MIF_DERIVED_SAS: NotifyType = NotifyType(47110);
    /// An interface and its SAs go.
    pub const MIF_DELETE_INTERFACE: NotifyType = NotifyType(47111);
    /// How paths fare.
    pub const MIF_PATH_STATUS: NotifyType = NotifyType(47112);
    /// How traffic is spread.
    pub const MIF_STEERING: NotifyType = NotifyType(47113);
}

/// Error notifies; sent only to a peer that announced the extension.
pub mod error {
    use super::NotifyType;

    /// A feature that was not agreed on.
    pub const MIF_UNSUPPORTED: NotifyType = NotifyType(14080);
    /// No such interface.
    pub const MIF_UNKNOWN_INTERFACE: NotifyType = NotifyType(14081);
    /// An address that is refused.
    pub const MIF_ADDRESS_REJECTED: NotifyType = NotifyType(14082);
    /// Equal selectors exist.
    pub const MIF_SELECTOR_EXISTS: NotifyType = NotifyType(14083);
    /// The two sides enumerated different SAs.
    pub const MIF_DERIVATION_MISMATCH: NotifyType = NotifyType(14084);
    /// A derived SPI is taken.
    pub const MIF_SPI_COLLISION: NotifyType = NotifyType(14085);
    /// Beyond what MIF_SUPPORTED allows.
    pub const MIF_LIMIT_EXCEEDED: NotifyType = NotifyType(14086);
    /// An operation older than one already done.
    pub const MIF_STALE_TXN: NotifyType = NotifyType(14087);
    /// The path has not shown that it works.
    pub const MIF_PATH_UNVALIDATED: NotifyType = NotifyType(14088);
    /// Tunnel and transport do not fit together.
    pub const MIF_MODE_MISMATCH: NotifyType = NotifyType(14089);
}
