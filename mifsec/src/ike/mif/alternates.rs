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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::ike::mif::{LinkClass, Maddr};
    use crate::ike::testing::{hex, unhex};

    use super::*;

    fn record(id: u16, state: IfaceState, priority: u8, addresses: &[&str]) -> InterfaceRecord {
        InterfaceRecord {
            id: IfaceId(id),
            class: LinkClass::UNSPECIFIED,
            state,
            priority,
            weight: 1,
            mtu: 0,
            addresses: addresses
                .iter()
                .map(|ip| Maddr::new(ip.parse().unwrap(), 0))
                .collect(),
        }
    }

    fn list(table: &[InterfaceRecord], iface: u16) -> Vec<u16> {
        let list = default_list(table, IfaceId(iface));
        list.into_iter().map(|id| id.0).collect()
    }

    /// What the notify says, without its header.
    fn statement(list: Option<&[u16]>) -> Alternates {
        Alternates {
            epoch: 5,
            iface: IfaceId(3),
            list: list.map(|list| list.iter().copied().map(IfaceId).collect()),
        }
    }

    #[test]
    fn a_list_has_the_documented_octets() {
        for (list, octets) in [
            (
                Some(&[1, 2][..]),
                "00000005 00 02 0003 0001 00 00 0002 01 00",
            ),
            (Some(&[]), "00000005 00 00 0003"),
            (None, "00000005 01 00 0003"),
        ] {
            let statement = statement(list);
            let notify = statement.notify(MAX_ALTERNATES);
            assert_eq!(notify.kind, status::MIF_ALTERNATES);
            assert_eq!(hex(&notify.data), hex(&unhex(octets)));
            assert_eq!(Alternates::decode(&notify.data), Ok(statement));
        }
        let cut = statement(Some(&[1, 2, 4])).notify(2);
        let read = Alternates::decode(&cut.data).unwrap();
        assert_eq!(read, statement(Some(&[1, 2])), "what the peer keeps");
        // Preference counts, not place.
        let sorted = unhex("00000005 00 02 0003 0001 09 00 0002 01 00");
        assert_eq!(Alternates::decode(&sorted), Ok(statement(Some(&[2, 1]))));
    }

    #[test]
    fn what_cannot_be_a_list_is_refused_by_name() {
        use super::super::{MifError, error};
        for (octets, refusal, answer) in [
            (
                "0000",
                MifError::Truncated,
                crate::ike::message::NotifyType::INVALID_SYNTAX,
            ),
            (
                "00000005 00 01 0003",
                MifError::Truncated,
                crate::ike::message::NotifyType::INVALID_SYNTAX,
            ),
            (
                "00000005 00 00 0003 00",
                MifError::TooLong,
                crate::ike::message::NotifyType::INVALID_SYNTAX,
            ),
            (
                "00000005 00 05 0003",
                MifError::TooMany("alternates of an interface"),
                error::MIF_LIMIT_EXCEEDED,
            ),
            (
                "00000005 00 01 0003 0003 00 00",
                MifError::Interface(IfaceId(3)),
                error::MIF_UNKNOWN_INTERFACE,
            ),
            (
                "00000005 00 02 0003 0001 00 00 0001 01 00",
                MifError::Interface(IfaceId(1)),
                error::MIF_UNKNOWN_INTERFACE,
            ),
            (
                "00000005 00 01 0003 0000 00 00",
                MifError::Interface(IfaceId(0)),
                error::MIF_UNKNOWN_INTERFACE,
            ),
            (
                "00000005 00 00 0000",
                MifError::Interface(IfaceId(0)),
                error::MIF_UNKNOWN_INTERFACE,
            ),
        ] {
            let read = Alternates::decode(&unhex(octets));
            assert_eq!(read, Err(refusal), "{octets}");
            assert_eq!(read.unwrap_err().notify_type(), answer);
        }
    }

    #[test]
    fn the_default_rule_goes_by_state_family_priority_and_place() {
        let (up, backup) = (IfaceState::UP, IfaceState::BACKUP);
        let v4 = &["192.0.2.1"][..];
        let v6 = &["2001:db8::1"][..];
        let table = [
            record(1, up, 0, v4),
            record(2, up, 0, v4),
            record(3, up, 0, v4),
            record(4, backup, 0, v4),
            record(5, IfaceState::DOWN, 0, v4),
            record(6, IfaceState::NO_ADDRESS, 0, &[]),
            record(7, up, 0, v6),
            record(8, up, 9, v4),
        ];
        // Place is counted from the interface on, and around.
        assert_eq!(list(&table, 1), [2, 3, 8, 7, 4]);
        assert_eq!(list(&table, 2), [3, 1, 8, 7, 4]);
        assert_eq!(list(&table, 3), [1, 2, 8, 7, 4]);
        // One that is down has alternates as well, and one nobody listed.
        assert_eq!(list(&table, 5), [1, 2, 3, 8, 7, 4]);
        assert_eq!(list(&table, 6), [7, 1, 2, 3, 8, 4], "any family will do");
        assert_eq!(list(&table, 9), [1, 2, 3, 7, 8, 4]);
        assert_eq!(list(&table, 7), [1, 2, 3, 8, 4]);
        assert!(list(&[], 1).is_empty());
    }

    fn table() -> impl Strategy<Value = Vec<InterfaceRecord>> {
        let fields = (0u8..4, 0u8..3, 0usize..4);
        proptest::collection::btree_map(1u16..20, fields, 0..8).prop_map(|records| {
            let families: [&[&str]; 4] = [
                &[],
                &["192.0.2.1"],
                &["2001:db8::1"],
                &["2001:db8::1", "192.0.2.1"],
            ];
            records
                .into_iter()
                .map(|(id, (state, priority, addresses))| {
                    record(id, IfaceState(state), priority, families[addresses])
                })
                .collect()
        })
    }

    proptest! {
        /// Whatever the order of the table: everybody usable is in the list once, the
        /// better class of state, family and priority first. Only who is equal in all
        /// of them goes by place.
        #[test]
        fn permuting_a_table_changes_the_order_of_equals_only(
            (table, mixed) in table().prop_flat_map(|table| {
                (Just(table.clone()), Just(table).prop_shuffle())
            }),
            iface in 1u16..20,
        ) {
            let class = |id: &u16| {
                let record = table.iter().find(|r| r.id.0 == *id).unwrap();
                let own = table.iter().find(|r| r.id.0 == iface);
                let foreign = own.is_some_and(|own| {
                    !own.addresses.is_empty() && !own.addresses.iter().any(|a| {
                        record.addresses.iter().any(|b| a.ip.is_ipv4() == b.ip.is_ipv4())
                    })
                });
                (record.state == IfaceState::BACKUP, foreign, record.priority)
            };
            let classes = |list: &[u16]| list.iter().map(class).collect::<Vec<_>>();
            let (first, second) = (list(&table, iface), list(&mixed, iface));
            prop_assert!(classes(&first).is_sorted());
            prop_assert_eq!(classes(&first), classes(&second));
            let sorted = |mut list: Vec<u16>| { list.sort_unstable(); list };
            prop_assert_eq!(sorted(first), sorted(second));
        }

        /// Turning a table round keeps every list: place counts from the interface on.
        #[test]
        fn turning_a_table_changes_nothing(table in table(), by in 0usize..8, at in 0usize..8) {
            prop_assume!(!table.is_empty());
            let iface = table[at % table.len()].id.0;
            let mut turned = table.clone();
            turned.rotate_left(by % table.len());
            prop_assert_eq!(list(&table, iface), list(&turned, iface));
        }

        #[test]
        fn no_octets_panic_and_what_is_read_is_written_again(data in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(read) = Alternates::decode(&data) {
                let again = read.notify(MAX_ALTERNATES);
                prop_assert_eq!(Alternates::decode(&again.data), Ok(read));
            }
        }
    }
}
