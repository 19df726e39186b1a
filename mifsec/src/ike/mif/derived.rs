//! MIF_DERIVED_SAS: which SA is derived from which, with the SPIs. In a request
//! those inbound at the responder are still 0: whoever receives on an SPI chooses it.
//!
//! ```text
//!  0 txn (4) | 4 count (2) | 6 reserved (2), then per pair of SAs
//!    0 index (2) | 2 flags (2)
//!    4 template: SPI inbound at the IKE SA's initiator (4) | at its responder (4)
//!   12 new: SPI inbound at the IKE SA's initiator (4) | at its responder (4)
//! ```

use crate::ids::Spi;
use crate::ike::message::Notify;
use crate::wire::{Reader, Writer};

use super::{MifError, notify, status};

/// The list that goes with one MIF_ADD_INTERFACE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DerivedSas {
    /// That of the operation.
    pub txn: u32,
    /// One for each template, in the order of the enumeration.
    pub entries: Vec<DerivedSa>,
}

/// What becomes of one template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DerivedSa {
    /// Its place in the enumeration; bound into the keys.
    pub index: u16,
    /// What was done.
    pub flags: DerivedFlags,
    /// The template's SPI inbound at the IKE SA's initiator.
    pub template_init: Spi,
    /// The template's SPI inbound at the IKE SA's responder.
    pub template_resp: Spi,
    /// The new SA's SPI inbound at the IKE SA's initiator; 0 when not known yet, or
    /// skipped.
    pub new_init: Spi,
    /// The new SA's SPI inbound at the IKE SA's responder; the same.
    pub new_resp: Spi,
}

/// Flags of a [`DerivedSa`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DerivedFlags(pub u16);

impl DerivedFlags {
    /// Nothing is derived: equal selectors exist.
    pub const SKIPPED_EXISTS: Self = Self(1);
    /// It is there.
    pub const CREATED: Self = Self(1 << 1);

    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl DerivedSas {
    /// Reads the notify's data; not more than `most` entries.
    ///
    /// # Errors
    /// [`MifError::Truncated`], [`MifError::TooLong`], [`MifError::TooMany`].
    pub fn decode(data: &[u8], most: usize) -> Result<Self, MifError> {
        let mut reader = Reader::new(data);
        let txn = reader.u32()?;
        let count = reader.u16()?;
        let _reserved = reader.u16()?;
        if usize::from(count) > most {
            return Err(MifError::TooMany("derived SAs"));
        }
        let mut entries = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            entries.push(DerivedSa {
                index: reader.u16()?,
                flags: DerivedFlags(reader.u16()?),
                template_init: Spi(reader.u32()?),
                template_resp: Spi(reader.u32()?),
                new_init: Spi(reader.u32()?),
                new_resp: Spi(reader.u32()?),
            });
        }
        if !reader.is_empty() {
            return Err(MifError::TooLong);
        }
        Ok(Self { txn, entries })
    }

    /// The notify to send.
    ///
    /// # Panics
    /// When there are more than 65535: `max_derived` is far less.
    #[must_use]
    pub fn notify(&self) -> Notify {
        let count = u16::try_from(self.entries.len()).expect("bounded by max_derived");
        let mut out = Writer::new();
        out.u32(self.txn).u16(count).u16(0);
        for entry in &self.entries {
            out.u16(entry.index)
                .u16(entry.flags.0)
                .u32(entry.template_init.0)
                .u32(entry.template_resp.0)
                .u32(entry.new_init.0)
                .u32(entry.new_resp.0);
        }
        notify(status::MIF_DERIVED_SAS, out.finish())
    }
}
