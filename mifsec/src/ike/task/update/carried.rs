//! Which interface carries the Child SAs of which: a Child SA keeps the path it was
//! made on, and an interface that cannot serve lends its Child SAs to another one
//! (protocol 3.7, merge and split). So a move is one entry, however many Child SAs
//! there are.
//!
//! What is said of one interface changes the entry of that one alone, so words of
//! both ends on different interfaces may come in any order. What was lent to an
//! interface goes where that one goes.

use std::collections::BTreeMap;

use crate::ids::IfaceId;
use crate::ike::event::End;

/// To whom each interface lends; one without an entry is at home.
#[derive(Debug, Clone, Default)]
pub(in crate::ike) struct Carried(BTreeMap<(End, IfaceId), IfaceId>);

impl Carried {
    /// To whom `iface` lends; itself if to nobody.
    pub(in crate::ike) fn lent_to(&self, end: End, iface: IfaceId) -> IfaceId {
        self.0.get(&(end, iface)).copied().unwrap_or(iface)
    }

    /// What carries the Child SAs at home on `iface`: whoever it lends to, or whoever
    /// that one lends to. Interfaces that lend in a circle are at home.
    pub(in crate::ike) fn by(&self, end: End, iface: IfaceId) -> IfaceId {
        let mut by = iface;
        for _ in 0..=self.0.len() {
            match self.lent_to(end, by) {
                home if home == by => return by,
                next => by = next,
            }
        }
        iface
    }

    /// Whether lending `iface` to `by` would close a circle.
    pub(in crate::ike) fn circles(&self, end: End, iface: IfaceId, by: IfaceId) -> bool {
        let mut at = by;
        for _ in 0..=self.0.len() {
            match self.lent_to(end, at) {
                next if next == iface => return iface != by,
                next => at = next,
            }
        }
        false
    }

    /// `iface` lends to `by` from now, or is at home if that is itself. Gives each
    /// interface with another carrier than before, and that carrier.
    pub(in crate::ike) fn lend(
        &mut self,
        end: End,
        iface: IfaceId,
        by: IfaceId,
    ) -> Vec<(IfaceId, IfaceId)> {
        let before = self.0.clone();
        if iface == by {
            self.0.remove(&(end, iface));
        } else {
            self.0.insert((end, iface), by);
        }
        let before = Self(before);
        let known = before.0.keys().chain(self.0.keys());
        let mut known: Vec<_> = known.filter(|(of, _)| *of == end).collect();
        known.sort();
        known.dedup();
        let carriers = known.into_iter().map(|(_, one)| (*one, self.by(end, *one)));
        carriers
            .filter(|(one, by)| before.by(end, *one) != *by)
            .collect()
    }

    /// Who lends to `iface` itself.
    pub(in crate::ike) fn lenders(&self, end: End, iface: IfaceId) -> Vec<IfaceId> {
        let entries = self.0.iter();
        let lenders = entries.filter(|((of, _), by)| (*of, **by) == (end, iface));
        lenders.map(|((_, lender), _)| *lender).collect()
    }

    /// Interfaces that lend.
    pub(in crate::ike) fn entries(&self, end: End) -> Vec<IfaceId> {
        let entries = self.0.keys().filter(|(of, _)| *of == end);
        entries.map(|(_, iface)| *iface).collect()
    }

    /// Interfaces that are not at home: whose, which, what carries them.
    pub(in crate::ike) fn iter(&self) -> impl Iterator<Item = (End, IfaceId, IfaceId)> {
        let carriers = self
            .0
            .keys()
            .map(|(end, one)| (*end, *one, self.by(*end, *one)));
        carriers.filter(|(_, iface, by)| iface != by)
    }

    /// Entries held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IfaceId = IfaceId(1);
    const B: IfaceId = IfaceId(2);
    const C: IfaceId = IfaceId(3);

    #[test]
    fn what_was_lent_to_an_interface_goes_where_that_one_goes() {
        let mut carried = Carried::default();
        let end = End::Local;
        assert_eq!(carried.lend(end, A, B), [(A, B)]);
        assert_eq!(carried.lend(end, A, B), [], "it is so already");
        assert_eq!(carried.lend(end, B, C), [(A, C), (B, C)]);
        assert_eq!(carried.by(End::Remote, A), A, "the other end's are others");
        assert_eq!(carried.lend(end, B, B), [(A, B), (B, B)]);
        assert_eq!(carried.lend(end, B, C), [(A, C), (B, C)]);
        assert_eq!(carried.lend(end, A, A), [(A, A)]);
        assert_eq!(carried.iter().collect::<Vec<_>>(), [(end, B, C)]);
    }

    #[test]
    fn who_lends_in_a_circle_is_at_home() {
        let mut carried = Carried::default();
        let end = End::Remote;
        carried.lend(end, A, B);
        carried.lend(end, B, C);
        assert!(carried.circles(end, C, A) && carried.circles(end, C, B));
        assert!(!carried.circles(end, A, C) && !carried.circles(end, C, C));
        assert_eq!(carried.lend(end, C, A), [(A, A), (B, B)]);
        assert_eq!(carried.iter().count(), 0);
        assert!(!carried.circles(end, IfaceId(4), A), "not one it is in");
        assert_eq!(carried.lend(end, IfaceId(4), A), []);
        assert_eq!(carried.lend(end, A, A), [(B, A), (C, A), (IfaceId(4), A)]);
    }
}
