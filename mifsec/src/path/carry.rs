//! Whose entry the maps hold for a path: its own, or that of the path that
//! carries it.
//!
//! An interface may be carried by another one of its end (a merge, protocol
//! 3.7): then each of its paths holds the entry of the carrier's path to the
//! same place. One entry is written for each path, whatever the number of
//! security associations, and again whenever the carrier's changes. A carrier's
//! path that has not been tried yet carries nothing: until then what rides on it
//! stays where it is (make before break). What is
//! carried is named by interface and never followed twice: who lends an
//! interface that others ride on lends those, too.

use std::collections::{BTreeMap, BTreeSet};

use super::types::{End, Entry, Event};
use crate::ids::{IfaceId, IfacePair, PathIndex};

/// Which interfaces of one peer's two ends are carried, and by which.
#[derive(Debug, Default)]
pub(super) struct Carriers(BTreeMap<(End, IfaceId), IfaceId>);

impl Carriers {
    /// What is on `iface` is on `by` from now; on itself if they are the same.
    /// Returns whether that is news.
    pub(super) fn set(&mut self, end: End, iface: IfaceId, by: IfaceId) -> bool {
        if iface == by {
            return self.0.remove(&(end, iface)).is_some();
        }
        let mut news = false;
        for ((_, carried), carrier) in self.0.iter_mut().filter(|((e, _), _)| *e == end) {
            if *carrier == iface && *carried != by {
                *carrier = by;
                news = true;
            }
        }
        // What `by` had lent to `iface` is at home again.
        news |= self.0.get(&(end, by)) == Some(&iface) && self.0.remove(&(end, by)).is_some();
        news | (self.0.insert((end, iface), by) != Some(by))
    }

    /// The interface that carries `iface`: itself, as a rule.
    pub(super) fn of(&self, end: End, iface: IfaceId) -> IfaceId {
        self.0.get(&(end, iface)).copied().unwrap_or(iface)
    }

    /// The pair whose paths carry those of `pair`.
    pub(super) fn pair(&self, pair: IfacePair) -> IfacePair {
        IfacePair {
            local: self.of(End::Local, pair.local),
            remote: self.of(End::Remote, pair.remote),
        }
    }

    /// Nothing is carried by `iface`, nor it by anything.
    pub(super) fn forget(&mut self, end: End, iface: IfaceId) {
        self.0
            .retain(|(e, carried), carrier| *e != end || *carried != iface && *carrier != iface);
    }
}

/// Entries as the paths have them and as the maps have them.
#[derive(Debug, Default)]
pub(super) struct Carriage {
    own: BTreeMap<PathIndex, Entry>,
    told: BTreeMap<PathIndex, Entry>,
    /// By the path that is carried; `None` if there is nothing to carry it.
    carriers: BTreeMap<PathIndex, Option<PathIndex>>,
    riders: BTreeMap<PathIndex, BTreeSet<PathIndex>>,
}

impl Carriage {
    /// A path's own entry is now this: what is to be told.
    pub(super) fn entry(&mut self, path: PathIndex, entry: Entry) -> Vec<Event> {
        self.own.insert(path, entry);
        let mut events = Vec::new();
        if self.carriers.contains_key(&path) {
            events.extend(self.tell(path));
        } else {
            self.told.insert(path, entry);
            events.push(Event::Entry { path, entry });
        }
        events.extend(self.tell_riders(path));
        events
    }

    /// The path is gone.
    pub(super) fn removed(&mut self, path: PathIndex) -> Vec<Event> {
        self.leave(path);
        self.own.remove(&path);
        self.told.remove(&path);
        let mut events = vec![Event::Removed { path }];
        events.extend(self.tell_riders(path));
        events
    }

    /// Who carries the path from now: outer `None` for nobody, inner `None` if its
    /// interface is carried and there is no path to do it.
    pub(super) fn set(
        &mut self,
        path: PathIndex,
        carrier: Option<Option<PathIndex>>,
    ) -> Option<Event> {
        if self.carriers.get(&path).copied() == carrier {
            return None;
        }
        self.leave(path);
        if let Some(carrier) = carrier {
            self.carriers.insert(path, carrier);
            if let Some(carrier) = carrier {
                self.riders.entry(carrier).or_default().insert(path);
            }
        }
        self.tell(path)
    }

    /// Who carries the path.
    pub(super) fn carrier(&self, path: PathIndex) -> Option<PathIndex> {
        self.carriers.get(&path).copied().flatten()
    }

    /// Whether something else decides on the path's entry.
    pub(super) fn is_carried(&self, path: PathIndex) -> bool {
        self.carriers.contains_key(&path)
    }

    /// Whether the path has its own entry until what is to carry it has been tried.
    pub(super) fn waits(&self, path: PathIndex) -> bool {
        self.carrier(path)
            .is_some_and(|carrier| !self.own.contains_key(&carrier))
    }

    /// Whether others ride on the path.
    pub(super) fn carries(&self, path: PathIndex) -> bool {
        self.riders.contains_key(&path)
    }

    /// Whether the maps hold something for the path.
    pub(super) fn is_told(&self, path: PathIndex) -> bool {
        self.told.contains_key(&path)
    }

    fn leave(&mut self, path: PathIndex) {
        if let Some(Some(carrier)) = self.carriers.remove(&path)
            && let Some(riders) = self.riders.get_mut(&carrier)
        {
            riders.remove(&path);
            if riders.is_empty() {
                self.riders.remove(&carrier);
            }
        }
    }

    fn tell_riders(&mut self, carrier: PathIndex) -> Vec<Event> {
        let riders: Vec<_> = self
            .riders
            .get(&carrier)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        riders.into_iter().filter_map(|r| self.tell(r)).collect()
    }

    /// The entry the maps should hold for the path, if they do not.
    fn tell(&mut self, path: PathIndex) -> Option<Event> {
        let own = self.own.get(&path).copied();
        let entry = match self.carriers.get(&path) {
            None => own,
            // Its own may work, and is not what was agreed on.
            Some(None) => own.map(|own| Entry { up: false, ..own }),
            // What carries it is used once it has been tried from here.
            Some(Some(carrier)) => self.own.get(carrier).copied().or(own),
        }?;
        (self.told.insert(path, entry) != Some(entry)).then_some(Event::Entry { path, entry })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(local: u8) -> Entry {
        Entry {
            up: true,
            ifindex: u32::from(local),
            local: ([10, 0, 0, local], 4500).into(),
            remote: ([203, 0, 113, 1], 4500).into(),
            next_hop: [10, 0, 0, 254].into(),
            mtu: 1500,
            layer3: false,
        }
    }

    #[test]
    fn a_chain_of_loans_is_one_step() {
        let mut carriers = Carriers::default();
        let of = |carriers: &Carriers, iface| carriers.of(End::Local, IfaceId(iface)).0;
        assert!(carriers.set(End::Local, IfaceId(1), IfaceId(2)));
        assert!(!carriers.set(End::Local, IfaceId(1), IfaceId(2)), "no news");
        assert!(carriers.set(End::Local, IfaceId(2), IfaceId(3)));
        assert_eq!((of(&carriers, 1), of(&carriers, 2)), (3, 3));
        assert_eq!(carriers.of(End::Remote, IfaceId(1)), IfaceId(1));
        assert!(carriers.set(End::Local, IfaceId(2), IfaceId(2)));
        assert_eq!((of(&carriers, 1), of(&carriers, 2)), (3, 2));
        // Back to where the first is at home.
        assert!(carriers.set(End::Local, IfaceId(3), IfaceId(1)));
        assert_eq!((of(&carriers, 1), of(&carriers, 3)), (1, 1));
    }

    #[test]
    fn what_carries_others_has_been_tried_first() {
        let mut carriage = Carriage::default();
        let [home, carrier] = [PathIndex(1), PathIndex(2)];
        carriage.entry(home, entry(1));
        assert_eq!(carriage.set(home, Some(Some(carrier))), None, "not yet");
        assert!(carriage.waits(home));
        let told = carriage.entry(carrier, entry(2));
        let expected = Event::Entry {
            path: home,
            entry: entry(2),
        };
        assert_eq!(told.last(), Some(&expected));
        assert!(!carriage.waits(home));
    }

    #[test]
    fn what_is_carried_has_its_carriers_entry_for_as_long() {
        let mut carriage = Carriage::default();
        let [home, carrier] = [PathIndex(1), PathIndex(2)];
        carriage.entry(home, entry(1));
        carriage.entry(carrier, entry(2));
        let told = carriage.set(home, Some(Some(carrier)));
        let expected = |entry| Event::Entry { path: home, entry };
        assert_eq!(told, Some(expected(entry(2))));
        assert!(carriage.entry(home, entry(4)).is_empty(), "for later");
        let moved = carriage.entry(carrier, entry(3));
        assert_eq!(moved.last(), Some(&expected(entry(3))));
        assert_eq!(moved.len(), 2);
        let gone = carriage.removed(carrier);
        let down = Entry {
            up: false,
            ..entry(4)
        };
        assert_eq!(gone.last(), Some(&expected(entry(4))));
        assert_eq!(carriage.set(home, Some(None)), Some(expected(down)));
        assert_eq!(carriage.set(home, None), Some(expected(entry(4))));
        carriage.removed(home);
        assert!(carriage.carriers.is_empty() && carriage.riders.is_empty());
    }
}
