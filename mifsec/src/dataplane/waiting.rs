//! Packets that wait for their SA, within a budget.
//!
//! Input: packets by SPI. Output: all of them again. Invariant: neither one SA
//! nor all together hold more than their share, whoever sends.

use std::collections::BTreeMap;

use crate::ids::Spi;

/// Packets that may wait for one SA.
const PER_SA: usize = 64;
/// Octets that may wait in all, at each worker and direction.
const BUDGET: usize = 8 << 20;
/// What a packet costs beside its octets.
const OVERHEAD: usize = 128;

/// Packets by the SA they wait for, in order of arrival.
pub(super) struct Waiting<T> {
    packets: BTreeMap<Spi, Vec<T>>,
    cost: usize,
}

impl<T> Waiting<T> {
    pub(super) const fn new() -> Self {
        Self {
            packets: BTreeMap::new(),
            cost: 0,
        }
    }

    /// Keeps a packet of `octets` that `make` makes; `false`: there is no room.
    pub(super) fn push(&mut self, spi: Spi, octets: usize, make: impl FnOnce() -> T) -> bool {
        let cost = self.cost + OVERHEAD + octets;
        let waiting = self.packets.get(&spi).map_or(0, Vec::len);
        let room = waiting < PER_SA && cost <= BUDGET;
        if room {
            self.packets.entry(spi).or_default().push(make());
            self.cost = cost;
        }
        room
    }

    /// The SAs something waits for.
    pub(super) fn spis(&self) -> impl Iterator<Item = &Spi> {
        self.packets.keys()
    }

    /// Gives everything back and is empty.
    pub(super) fn take(&mut self) -> BTreeMap<Spi, Vec<T>> {
        self.cost = 0;
        std::mem::take(&mut self.packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sa_has_its_share_and_leaves_room_for_others() {
        let mut waiting = Waiting::new();
        let kept = (0..100)
            .filter(|n| waiting.push(Spi(256), 10, || *n))
            .count();
        assert_eq!(kept, PER_SA);
        assert!(waiting.push(Spi(257), 10, || 7));
        let packets = waiting.take();
        assert!(packets[&Spi(256)].iter().copied().eq(0..64));
        assert_eq!(packets[&Spi(257)], [7]);
    }

    #[test]
    fn all_sas_together_stay_within_the_budget_until_they_are_taken() {
        for octets in [0, 1400, 65_000] {
            let mut waiting = Waiting::new();
            let fill = |waiting: &mut Waiting<()>| {
                (0..2000)
                    .flat_map(|spi| (0..PER_SA).map(move |_| Spi(spi)))
                    .filter(|spi| waiting.push(*spi, octets, || ()))
                    .count()
            };
            let kept = fill(&mut waiting);
            assert_eq!(kept, BUDGET / (octets + OVERHEAD));
            waiting.take();
            assert_eq!(waiting.spis().count(), 0);
            assert_eq!(fill(&mut waiting), kept);
        }
    }
}
