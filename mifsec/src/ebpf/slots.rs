//! Which slot of `PATHS` belongs to which path, and which are free.
//!
//! A slot that a flip left behind is not given out again for [`QUARANTINE`]:
//! a program on another CPU may still be reading it. Slot 0 is never given out,
//! so that an empty `PATH_SLOT` leads to an empty entry.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How long a slot left behind stays untouched. A program runs for microseconds.
pub(super) const QUARANTINE: Duration = Duration::from_millis(100);

pub(super) struct Slots {
    current: BTreeMap<u32, u32>,
    free: VecDeque<u32>,
    quarantined: VecDeque<(Instant, u32)>,
}

/// No slot now; the time at which there is one, if ever.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exhausted(pub(super) Option<Instant>);

impl Slots {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            current: BTreeMap::new(),
            free: (1..slots).collect(),
            quarantined: VecDeque::new(),
        }
    }

    /// The slot in force for `path`.
    pub(super) fn current(&self, path: u32) -> Option<u32> {
        self.current.get(&path).copied()
    }

    /// A slot to write the next entry into.
    pub(super) fn take(&mut self, now: Instant) -> Result<u32, Exhausted> {
        while let Some((since, slot)) = self.quarantined.front().copied() {
            if now.duration_since(since) < QUARANTINE {
                break;
            }
            self.quarantined.pop_front();
            self.free.push_back(slot);
        }
        self.free.pop_front().ok_or_else(|| {
            Exhausted(
                self.quarantined
                    .front()
                    .map(|(since, _)| *since + QUARANTINE),
            )
        })
    }

    /// `path` now uses `slot`: what it used before goes into quarantine.
    pub(super) fn flipped(&mut self, path: u32, slot: u32, now: Instant) {
        if let Some(old) = self.current.insert(path, slot) {
            self.quarantined.push_back((now, old));
        }
    }

    /// `path` uses no slot any more.
    pub(super) fn removed(&mut self, path: u32, now: Instant) {
        if let Some(old) = self.current.remove(&path) {
            self.quarantined.push_back((now, old));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_left_behind_rests_before_it_is_given_out_again() {
        let start = Instant::now();
        let mut slots = Slots::new(3);
        let first = slots.take(start).unwrap();
        slots.flipped(7, first, start);
        let second = slots.take(start).unwrap();
        assert!(first != 0 && second != 0 && first != second);
        slots.flipped(7, second, start);
        assert_eq!(slots.current(7), Some(second));

        let early = start + QUARANTINE - Duration::from_millis(1);
        assert_eq!(slots.take(early), Err(Exhausted(Some(start + QUARANTINE))));
        assert_eq!(slots.take(start + QUARANTINE), Ok(first));
    }

    #[test]
    fn a_removed_path_gives_its_slot_back() {
        let start = Instant::now();
        let mut slots = Slots::new(2);
        let slot = slots.take(start).unwrap();
        slots.flipped(1, slot, start);
        assert_eq!(slots.take(start), Err(Exhausted(None)));
        slots.removed(1, start);
        assert_eq!(slots.current(1), None);
        assert_eq!(slots.take(start + QUARANTINE), Ok(slot));
    }

    #[test]
    fn every_path_can_flip_once_within_a_quarantine_when_all_are_in_use() {
        let start = Instant::now();
        let paths = 10;
        let mut slots = Slots::new(mifsec_common::maps::slots(paths));
        for _ in 0..2 {
            for path in 0..paths {
                let slot = slots.take(start).unwrap();
                slots.flipped(path, slot, start);
            }
        }
    }
}
