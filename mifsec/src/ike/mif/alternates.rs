//! MIF_ALTERNATES: which interfaces of the sender stand in for one of them, best
//! first, and the rule that says so where the sender does not.
//!
//! ```text
//!  0 epoch (4) | 4 flags | 5 count | 6 interface (2), then per alternate
//!    0 interface (2) | 2 preference, 0 best | 3 reserved
//! ```

use crate::ids::{Family, IfaceId};
use crate::ike::message::Notify;
use crate::wire::{Reader, Writer};

use super::{IfaceState, InterfaceRecord, MifError, notify, status};

/// Most alternates of one interface that are kept of a peer, and announced as such.
pub const MAX_ALTERNATES: u8 = 4;

/// Flag: the default rule applies, the list counts for nothing.
const USE_DEFAULT_RULE: u8 = 1;

/// What its owner says of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alternates {
    /// Number of this statement; see [`is_newer_than`](Self::is_newer_than).
    pub epoch: u32,
    /// The interface others stand in for.
    pub iface: IfaceId,
    /// They, best first; `None` leaves it to [`default_list`].
    pub list: Option<Vec<IfaceId>>,
}

impl Alternates {
    /// Whether this replaces a statement of `epoch` (serial number arithmetic,
    /// RFC 1982).
    #[must_use]
    pub const fn is_newer_than(&self, epoch: u32) -> bool {
        let ahead = self.epoch.wrapping_sub(epoch);
        ahead != 0 && ahead < 1 << 31
    }

    /// Reads the notify's data.
    ///
    /// # Errors
    /// [`MifError::Truncated`], [`MifError::TooLong`], [`MifError::TooMany`], and
    /// [`MifError::Interface`] for 0, for one named twice and for one that is to
    /// stand in for itself.
    pub fn decode(data: &[u8]) -> Result<Self, MifError> {
        let mut reader = Reader::new(data);
        let epoch = reader.u32()?;
        let flags = reader.u8()?;
        let count = reader.u8()?;
        let iface = IfaceId(reader.u16()?);
        if iface == IfaceId::CHANNEL {
            return Err(MifError::Interface(iface));
        }
        if count > MAX_ALTERNATES {
            return Err(MifError::TooMany("alternates of an interface"));
        }
        let mut list: Vec<(u8, IfaceId)> = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let other = IfaceId(reader.u16()?);
            let preference = reader.u8()?;
            let _reserved = reader.u8()?;
            let taken = list.iter().any(|(_, known)| *known == other);
            if taken || other == iface || other == IfaceId::CHANNEL {
                return Err(MifError::Interface(other));
            }
            list.push((preference, other));
        }
        if !reader.is_empty() {
            return Err(MifError::TooLong);
        }
        // Stable: of equal preference the first one goes first.
        list.sort_by_key(|(preference, _)| *preference);
        let listed = flags & USE_DEFAULT_RULE == 0;
        Ok(Self {
            epoch,
            iface,
            list: listed.then(|| list.into_iter().map(|(_, other)| other).collect()),
        })
    }

    /// The notify to send, with as many alternates as the peer keeps.
    #[must_use]
    pub fn notify(&self, most: u8) -> Notify {
        let list = self.list.as_deref().unwrap_or_default();
        let preferences = (0..most).zip(list);
        let count = u8::try_from(preferences.clone().count()).unwrap_or(most);
        let flags = match self.list {
            Some(_) => 0,
            None => USE_DEFAULT_RULE,
        };
        let mut out = Writer::new();
        out.u32(self.epoch).u8(flags).u8(count).u16(self.iface.0);
        for (preference, other) in preferences {
            out.u16(other.0).u8(preference).u8(0);
        }
        notify(status::MIF_ALTERNATES, out.finish())
    }
}

/// Who stands in for `iface` where its owner listed nobody (protocol 3.9): all
/// others of its owner's table that are up, then those for backup; in each group
/// those first that share an address family with it, then by priority, then by
/// place in the table, counted from `iface` on and around.
///
/// Both ends compute it from the table as announced, so it is a function of that
/// alone.
#[must_use]
pub fn default_list(table: &[InterfaceRecord], iface: IfaceId) -> Vec<IfaceId> {
    let at = table.iter().position(|record| record.id == iface);
    let families = at.and_then(|at| table.get(at)).map(families);
    // Nothing is known of one without an address: any family will do.
    let families = families.filter(|families| !families.is_empty());
    let around = |place: usize| match at {
        Some(at) => (place + table.len() - at) % table.len(),
        None => place,
    };
    let mut others: Vec<_> = table
        .iter()
        .enumerate()
        .filter(|(_, record)| record.id != iface && record.state.is_usable())
        .map(|(place, record)| {
            let foreign = families.as_ref().is_some_and(|known| {
                let own = self::families(record);
                !own.iter().any(|family| known.contains(family))
            });
            let backup = record.state == IfaceState::BACKUP;
            ((backup, foreign, record.priority, around(place)), record.id)
        })
        .collect();
    others.sort();
    others.into_iter().map(|(_, id)| id).collect()
}

fn families(record: &InterfaceRecord) -> Vec<Family> {
    let mut out: Vec<_> = record
        .addresses
        .iter()
        .map(|maddr| Family::of(maddr.ip))
        .collect();
    out.sort();
    out.dedup();
    out
}
