//! MIF_UPDATE_ADDRS: an interface of the sender has another address, or its
//! SAs move to another interface. SAs are not named and not touched.
//!
//! ```text
//!  0 txn (4) | 4 flags (2) | 6 grace in ms (2) | 8 old interface (2)
//!  10 new interface (2) | MADDR old | MADDR new
//! ```

use std::time::Duration;

use crate::ids::IfaceId;
use crate::ike::message::Notify;
use crate::wire::{Reader, Writer};

use super::{AddressPolicy, Maddr, MifError, notify, status};

/// One move; interfaces and addresses are the sender's unless SELECT_PEER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdateAddrs {
    /// Counts up per sender; a repeated one is answered, not done again.
    pub txn: u32,
    /// Scope and manner.
    pub flags: UpdateFlags,
    /// For how long the old address keeps receiving after the switch, in
    /// milliseconds.
    pub grace_ms: u16,
    /// Whose SAs move.
    pub old_iface: IfaceId,
    /// Where to: the same interface if only its address changed.
    pub new_iface: IfaceId,
    /// Address they leave.
    pub old: Maddr,
    /// Address they go to.
    pub new: Maddr,
}

/// Flags of [`UpdateAddrs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpdateFlags(pub u16);

impl UpdateFlags {
    /// Applies to tunnel mode SAs.
    pub const TUNNEL: Self = Self(1);
    /// Applies to transport mode SAs.
    pub const TRANSPORT: Self = Self(1 << 1);
    /// The IKE channel moves too.
    pub const IKE_CHANNEL: Self = Self(1 << 2);
    /// Both addresses work for the time of the grace.
    pub const MAKE_BEFORE_BREAK: Self = Self(1 << 3);
    /// Nothing sent to the old address arrives any more.
    pub const OLD_IS_DEAD: Self = Self(1 << 4);
    /// The addresses are the receiver's: the sender chose one of its alternates.
    pub const SELECT_PEER: Self = Self(1 << 5);

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

impl UpdateAddrs {
    /// The grace as a duration.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms as u64)
    }

    /// Reads the notify's data. The new address is judged by `policy` unless
    /// SELECT_PEER makes it one of ours.
    ///
    /// # Errors
    /// Any [`MifError`].
    pub fn decode(data: &[u8], policy: &AddressPolicy) -> Result<Self, MifError> {
        let mut reader = Reader::new(data);
        let update = Self {
            txn: reader.u32()?,
            flags: UpdateFlags(reader.u16()?),
            grace_ms: reader.u16()?,
            old_iface: IfaceId(reader.u16()?),
            new_iface: IfaceId(reader.u16()?),
            old: Maddr::decode(&mut reader)?,
            new: Maddr::decode(&mut reader)?,
        };
        if !reader.is_empty() {
            return Err(MifError::TooLong);
        }
        if !update.flags.has(UpdateFlags::SELECT_PEER) {
            policy.check(&update.new)?;
        }
        Ok(update)
    }

    /// The notify to send.
    #[must_use]
    pub fn notify(&self) -> Notify {
        let mut out = Writer::new();
        out.u32(self.txn)
            .u16(self.flags.0)
            .u16(self.grace_ms)
            .u16(self.old_iface.0)
            .u16(self.new_iface.0);
        self.old.encode(&mut out);
        self.new.encode(&mut out);
        notify(status::MIF_UPDATE_ADDRS, out.finish())
    }
}
