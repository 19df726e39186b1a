//! What a path may reach while it works: queues, randomness, the arrival table.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::budget::Budget;
use super::carry::Carriage;
use super::types::{Entry, Event, Transmit};
use crate::crypto::Entropy;
use crate::ids::{Arrival, PathIndex};

pub(super) struct Output {
    pub(super) transmits: VecDeque<Transmit>,
    pub(super) events: VecDeque<Event>,
    pub(super) entropy: Box<dyn Entropy>,
    pub(super) counters: BTreeMap<&'static str, u64>,
    pub(super) budget: Budget,
    pub(super) carriage: Carriage,
    /// Who claims an arrival; the last one owns it. More than one does when
    /// interfaces are merged, or when a peer is back before its old SA is gone.
    arrivals: BTreeMap<Arrival, Vec<PathIndex>>,
    /// Origin of the clock in our probes.
    epoch: Option<Instant>,
}

impl Output {
    pub(super) fn new(entropy: Box<dyn Entropy>) -> Self {
        Self {
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            entropy,
            counters: BTreeMap::new(),
            budget: Budget::default(),
            carriage: Carriage::default(),
            arrivals: BTreeMap::new(),
            epoch: None,
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// A path's own entry is now this; the maps have it unless it is carried.
    pub(super) fn entry(&mut self, path: PathIndex, entry: Entry) {
        self.events.extend(self.carriage.entry(path, entry));
    }

    pub(super) fn removed(&mut self, path: PathIndex) {
        self.events.extend(self.carriage.removed(path));
    }

    /// Who carries the path, see [`Carriage::set`].
    pub(super) fn carried(&mut self, path: PathIndex, carrier: Option<Option<PathIndex>>) {
        self.events.extend(self.carriage.set(path, carrier));
    }

    pub(super) fn count(&mut self, reason: &'static str) {
        *self.counters.entry(reason).or_insert(0) += 1;
    }

    pub(super) fn clock_us(&mut self, now: Instant) -> u64 {
        let epoch = *self.epoch.get_or_insert(now);
        let elapsed = now.saturating_duration_since(epoch).as_micros();
        u64::try_from(elapsed).unwrap_or(u64::MAX)
    }

    pub(super) fn claim(&mut self, arrival: Arrival, path: PathIndex) {
        let claims = self.arrivals.entry(arrival).or_default();
        if claims.last() == Some(&path) {
            return;
        }
        claims.retain(|claim| *claim != path);
        claims.push(path);
        self.event(Event::ArrivalAdded { arrival, path });
    }

    pub(super) fn release(&mut self, arrival: Arrival, path: PathIndex) {
        let Some(claims) = self.arrivals.get_mut(&arrival) else {
            return;
        };
        let owner = claims.last().copied();
        claims.retain(|claim| *claim != path);
        let heir = claims.last().copied();
        if heir.is_none() {
            self.arrivals.remove(&arrival);
        }
        if owner == Some(path) {
            self.event(match heir {
                Some(path) => Event::ArrivalAdded { arrival, path },
                None => Event::ArrivalRemoved { arrival },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SeededEntropy;

    #[test]
    fn the_newest_claim_to_an_arrival_counts_and_the_older_one_inherits() {
        let mut out = Output::new(Box::new(SeededEntropy::new(0)));
        let arrival = Arrival {
            ifindex: 1,
            local: ([10, 0, 0, 1], 4500).into(),
            remote: ([10, 0, 0, 2], 4500).into(),
        };
        let [old, new] = [PathIndex(1), PathIndex(2)];
        out.claim(arrival, old);
        out.claim(arrival, new);
        out.claim(arrival, new);
        out.release(arrival, new);
        out.release(arrival, new);
        out.release(arrival, old);
        let added = |path| Event::ArrivalAdded { arrival, path };
        assert_eq!(
            Vec::from(out.events),
            [
                added(old),
                added(new),
                added(old),
                Event::ArrivalRemoved { arrival }
            ]
        );
        assert!(out.arrivals.is_empty());
    }
}
