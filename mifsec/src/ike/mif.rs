//! The multiple-interface extension on the wire: notify numbers, vendor id and
//! the layouts of what is implemented.
//!
//! Interfaces are named by a number their owner chose; addresses are their
//! attributes. All of this means something only after the peer's vendor id was
//! received inside IKE_AUTH. Integers are big endian, reserved fields are sent
//! as 0 and ignored. Decoding checks counts before it allocates and refuses
//! addresses that cannot be a peer's ([`AddressPolicy`]).

#![forbid(unsafe_code)]

mod code;
mod interfaces;
mod maddr;
mod outer;
mod supported;
mod update;

pub use code::{VENDOR_ID, error, is_vendor_id, status};
pub use interfaces::{IfaceState, InterfaceRecord, Interfaces, LinkClass, MAX_RECORDS};
pub use maddr::{AddressPolicy, Maddr, MaddrFlags, Refusal};
pub use outer::{OuterAddrs, OuterFlags};
pub use supported::{Features, Supported};
pub use update::{UpdateAddrs, UpdateFlags};

use std::net::IpAddr;

use super::message::{Notify, NotifyType};
use crate::ids::IfaceId;
use crate::wire::Truncated;

/// Why a MIF notify was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MifError {
    /// Ends within a field.
    #[error("notify ends within a field")]
    Truncated,
    /// Octets after the last field.
    #[error("notify is longer than its fields")]
    TooLong,
    /// An address family that is neither IPv4 nor IPv6.
    #[error("address family {0}")]
    Family(u8),
    /// A version we cannot read.
    #[error("version {0}")]
    Version(u8),
    /// An address that cannot be a peer's.
    #[error("address {0} is {1}")]
    Address(IpAddr, Refusal),
    /// More of something than we accept.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// An interface named twice in one table, or named 0.
    #[error("interface {0:?} named twice or with the reserved number")]
    Interface(IfaceId),
}

impl From<Truncated> for MifError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl MifError {
    /// The name it is counted under.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Truncated => "mif_truncated",
            Self::TooLong => "mif_too_long",
            Self::Family(_) => "mif_family",
            Self::Version(_) => "mif_version",
            Self::Address(..) => "mif_address",
            Self::TooMany(_) => "mif_too_many",
            Self::Interface(_) => "mif_interface",
        }
    }

    /// The error notify the request is answered with.
    #[must_use]
    pub const fn notify_type(&self) -> NotifyType {
        match self {
            Self::Address(..) | Self::Family(_) => error::MIF_ADDRESS_REJECTED,
            Self::TooMany(_) => error::MIF_LIMIT_EXCEEDED,
            Self::Interface(_) => error::MIF_UNKNOWN_INTERFACE,
            Self::Version(_) => error::MIF_UNSUPPORTED,
            Self::Truncated | Self::TooLong => NotifyType::INVALID_SYNTAX,
        }
    }
}

/// A MIF notify: protocol 0, no SPI.
#[must_use]
fn notify(kind: NotifyType, data: Vec<u8>) -> Notify {
    Notify::new(kind, data)
}

/// Path as named on the wire: initiator's interface << 16 | responder's.
#[must_use]
pub fn path_id(initiator: IfaceId, responder: IfaceId) -> u32 {
    u32::from(initiator.0) << 16 | u32::from(responder.0)
}
