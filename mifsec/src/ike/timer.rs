//! The deadlines of one IKE SA: a fixed table indexed by purpose, whose minimum
//! is the next deadline.

use std::time::Instant;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    /// Output is queued: drain it now.
    Drain,
    /// Send outstanding requests again (RFC 7296 2.1).
    Retransmit,
    /// Give up an IKE SA that nobody authenticates (RFC 7296 2.6), or that only
    /// lives to answer duplicates.
    Expire,
    /// Ask a quiet peer for a sign of life (RFC 7296 2.4).
    Dpd,
    /// Try again what the peer refused with TEMPORARY_FAILURE (RFC 7296 2.25).
    Retry,
    /// Rekey, give up or forget an SA that has aged (RFC 7296 2.8).
    Lifetime,
    /// Forget fragments whose rest does not come (RFC 7383 2.6).
    Reassembly,
}

impl TimerKind {
    /// Those an IKE SA owns.
    pub(super) const OF_SA: [Self; 6] = [
        Self::Retransmit,
        Self::Expire,
        Self::Dpd,
        Self::Retry,
        Self::Lifetime,
        Self::Reassembly,
    ];

    const fn slot(self) -> usize {
        match self {
            Self::Drain => 0,
            Self::Retransmit => 1,
            Self::Expire => 2,
            Self::Dpd => 3,
            Self::Retry => 4,
            Self::Lifetime => 5,
            Self::Reassembly => 6,
        }
    }
}

/// At most one deadline per [`TimerKind`].
#[derive(Debug, Default)]
pub(super) struct TimerTable([Option<Instant>; 7]);

impl TimerTable {
    /// Sets or clears one deadline.
    pub(super) fn set(&mut self, kind: TimerKind, at: Option<Instant>) {
        if let Some(slot) = self.0.get_mut(kind.slot()) {
            *slot = at;
        }
    }

    /// Sets one deadline unless an earlier one is set.
    pub(super) fn hasten(&mut self, kind: TimerKind, at: Instant) {
        let set = self.0.get(kind.slot()).copied().flatten();
        self.set(kind, Some(set.map_or(at, |set| set.min(at))));
    }

    /// Clears the deadline if it has come, and says so.
    pub(super) fn take_due(&mut self, kind: TimerKind, now: Instant) -> bool {
        match self.0.get_mut(kind.slot()) {
            Some(slot) if slot.is_some_and(|at| at <= now) => {
                *slot = None;
                true
            }
            _ => false,
        }
    }

    /// The earliest deadline of an IKE SA.
    pub(super) fn next(&self) -> Option<(Instant, TimerKind)> {
        TimerKind::OF_SA
            .into_iter()
            .filter_map(|kind| Some(((*self.0.get(kind.slot())?)?, kind)))
            .min()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    /// Any time: only differences count.
    pub(in crate::ike) fn some_instant() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_earliest_deadline_comes_first_and_fires_once() {
        let now = Instant::now();
        let mut table = TimerTable::default();
        assert_eq!(table.next(), None);
        table.set(TimerKind::Dpd, Some(now + Duration::from_secs(2)));
        table.set(TimerKind::Retransmit, Some(now + Duration::from_secs(1)));
        assert_eq!(
            table.next(),
            Some((now + Duration::from_secs(1), TimerKind::Retransmit))
        );
        assert!(!table.take_due(TimerKind::Retransmit, now));
        assert!(table.take_due(TimerKind::Retransmit, now + Duration::from_secs(1)));
        assert!(!table.take_due(TimerKind::Retransmit, now + Duration::from_secs(1)));
        assert_eq!(
            table.next(),
            Some((now + Duration::from_secs(2), TimerKind::Dpd))
        );
    }
}
