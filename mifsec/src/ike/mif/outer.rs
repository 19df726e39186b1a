//! MIF_OUTER_ADDRS: the path a Child SA is to be on.
//!
//! ```text
//!  0 initiator's interface (2) | 2 responder's interface (2) | 4 flags (2)
//!  6 reserved (2) | MADDR of the initiator | MADDR of the responder
//! ```

use crate::ids::IfaceId;
use crate::ike::message::Notify;
use crate::wire::{Reader, Writer};

use super::{AddressPolicy, Maddr, MifError, notify, status};

/// Path of a Child SA; initiator and responder are those of the exchange's IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OuterAddrs {
    /// Interface of the IKE SA's initiator.
    pub init_iface: IfaceId,
    /// Interface of the IKE SA's responder.
    pub resp_iface: IfaceId,
    /// How the path is meant.
    pub flags: OuterFlags,
    /// Address of the initiator.
    pub initiator: Maddr,
    /// Address of the responder.
    pub responder: Maddr,
}

/// Flags of [`OuterAddrs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OuterFlags(pub u16);

impl OuterFlags {
    /// The responder picks its side; what is given for it is a wish.
    pub const ANY_RESPONDER: Self = Self(1);
    /// Equal selectors on several paths are meant.
    pub const BUNDLE: Self = Self(1 << 1);
    /// Transport mode.
    pub const TRANSPORT: Self = Self(1 << 2);

    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Both sets.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }
}

impl OuterAddrs {
    /// Reads the notify's data. `from_initiator`: the sender is the original
    /// initiator of the IKE SA, so `initiator` is the address to judge; the
    /// other one is ours and the engine's to compare.
    ///
    /// # Errors
    /// Any [`MifError`].
    pub fn decode(
        data: &[u8],
        policy: &AddressPolicy,
        from_initiator: bool,
    ) -> Result<Self, MifError> {
        let mut reader = Reader::new(data);
        let init_iface = IfaceId(reader.u16()?);
        let resp_iface = IfaceId(reader.u16()?);
        let flags = OuterFlags(reader.u16()?);
        let _reserved = reader.u16()?;
        let initiator = Maddr::decode(&mut reader)?;
        let responder = Maddr::decode(&mut reader)?;
        if !reader.is_empty() {
            return Err(MifError::TooLong);
        }
        let theirs = if from_initiator { initiator } else { responder };
        policy.check(&theirs)?;
        Ok(Self {
            init_iface,
            resp_iface,
            flags,
            initiator,
            responder,
        })
    }

    /// The notify to send.
    #[must_use]
    pub fn notify(&self) -> Notify {
        let mut out = Writer::new();
        out.u16(self.init_iface.0)
            .u16(self.resp_iface.0)
            .u16(self.flags.0)
            .u16(0);
        self.initiator.encode(&mut out);
        self.responder.encode(&mut out);
        notify(status::MIF_OUTER_ADDRS, out.finish())
    }
}
