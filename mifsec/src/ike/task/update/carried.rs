//! Which interface carries the Child SAs of which: a Child SA keeps the path it was
//! made on, and an interface that cannot serve lends its Child SAs to another one
//! (protocol 3.7, merge and split). So a move is one entry, however many Child SAs
//! there are.

use std::collections::BTreeMap;

use crate::ids::IfaceId;
use crate::ike::event::End;

/// Carriers by interface. An interface without an entry carries its own; whose
/// entry is another's value is lent together with it, so there are no chains.
#[derive(Debug, Clone, Default)]
pub(in crate::ike) struct Carried(BTreeMap<(End, IfaceId), IfaceId>);

/// One entry that changed: the interface, its carrier before, its carrier now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ike) struct Change {
    pub(in crate::ike) iface: IfaceId,
    pub(in crate::ike) before: IfaceId,
    pub(in crate::ike) by: IfaceId,
}

impl Carried {
    /// What carries the Child SAs at home on `iface`.
    pub(in crate::ike) fn by(&self, end: End, iface: IfaceId) -> IfaceId {
        self.0.get(&(end, iface)).copied().unwrap_or(iface)
    }

    /// `iface` is carried by `by` from now, with what was lent to it; it carries its
    /// own again if that is itself. Gives what changed.
    pub(in crate::ike) fn carry(&mut self, end: End, iface: IfaceId, by: IfaceId) -> Vec<Change> {
        let mut changes = Vec::new();
        let lent: Vec<_> = self
            .0
            .iter()
            .filter(|((of, _), carrier)| *of == end && **carrier == iface && iface != by)
            .map(|((_, lent), _)| *lent)
            .collect();
        for one in lent.into_iter().chain([iface]) {
            changes.extend(self.set(end, one, by));
        }
        changes
    }

    /// As [`carry`](Self::carry) for `iface` alone.
    pub(in crate::ike) fn set(&mut self, end: End, iface: IfaceId, by: IfaceId) -> Option<Change> {
        let before = self.by(end, iface);
        if iface == by {
            self.0.remove(&(end, iface));
        } else {
            self.0.insert((end, iface), by);
        }
        (before != by).then_some(Change { iface, before, by })
    }

    /// Forgets interfaces that are none any more.
    pub(in crate::ike) fn retain(&mut self, end: End, is_one: impl Fn(IfaceId) -> bool) {
        self.0.retain(|(of, iface), _| *of != end || is_one(*iface));
    }

    /// All entries: whose interface, which, by which.
    pub(in crate::ike) fn iter(&self) -> impl Iterator<Item = (End, IfaceId, IfaceId)> {
        self.0.iter().map(|((end, iface), by)| (*end, *iface, *by))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IfaceId = IfaceId(1);
    const B: IfaceId = IfaceId(2);
    const C: IfaceId = IfaceId(3);

    #[test]
    fn what_was_lent_to_an_interface_goes_with_it_and_home_again() {
        let mut carried = Carried::default();
        let change = |iface, before, by| Change { iface, before, by };
        assert_eq!(carried.carry(End::Local, A, B), [change(A, A, B)]);
        assert_eq!(carried.carry(End::Local, A, B), [], "it is so already");
        assert_eq!(
            carried.carry(End::Local, B, C),
            [change(A, B, C), change(B, B, C)]
        );
        assert_eq!(carried.by(End::Local, A), C);
        assert_eq!(carried.by(End::Remote, A), A, "the other end's are others");
        // Each returns by itself.
        assert_eq!(carried.carry(End::Local, B, B), [change(B, C, B)]);
        assert_eq!(carried.by(End::Local, A), C);
        assert_eq!(carried.carry(End::Local, A, A), [change(A, C, A)]);
        assert_eq!(carried.iter().count(), 0);
    }
}
