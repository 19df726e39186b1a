//! MIF_DELETE_INTERFACE: an interface of the sender goes, with all SAs on it. No
//! SPI is listed; the response names those that went in an ordinary Delete payload.
//!
//! ```text
//!  0 txn (4) | 4 flags (2) | 6 interface (2)
//! ```

use crate::ids::IfaceId;
use crate::ike::message::Notify;
use crate::wire::{Reader, Writer};

use super::{MifError, notify, status};

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteInterface {
    /// Counts up per sender.
    pub txn: u32,
    /// Which SAs go, and how.
    pub flags: DeleteFlags,
    /// The interface.
    pub iface: IfaceId,
}

/// Flags of [`DeleteInterface`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeleteFlags(pub u16);

impl DeleteFlags {
    /// SAs whose outer address is the interface's.
    pub const OUTER: Self = Self(1);
    /// SAs whose selectors are addresses of the interface.
    pub const TS: Self = Self(1 << 1);
    /// They move to its first alternate and live on there.
    pub const MOVE_TO_ALTERNATE_FIRST: Self = Self(1 << 2);

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

impl DeleteInterface {
    /// Reads the notify's data.
    ///
    /// # Errors
    /// [`MifError::Truncated`], [`MifError::TooLong`], [`MifError::Interface`] for
    /// interface 0, [`MifError::Fields`] when it is about no SA.
    pub fn decode(data: &[u8]) -> Result<Self, MifError> {
        let mut reader = Reader::new(data);
        let delete = Self {
            txn: reader.u32()?,
            flags: DeleteFlags(reader.u16()?),
            iface: IfaceId(reader.u16()?),
        };
        if !reader.is_empty() {
            return Err(MifError::TooLong);
        }
        if delete.iface == IfaceId::CHANNEL {
            return Err(MifError::Interface(delete.iface));
        }
        if !(delete.flags.has(DeleteFlags::OUTER) || delete.flags.has(DeleteFlags::TS)) {
            return Err(MifError::Fields);
        }
        Ok(delete)
    }

    /// The notify to send.
    #[must_use]
    pub fn notify(&self) -> Notify {
        let mut out = Writer::new();
        out.u32(self.txn).u16(self.flags.0).u16(self.iface.0);
        notify(status::MIF_DELETE_INTERFACE, out.finish())
    }
}
