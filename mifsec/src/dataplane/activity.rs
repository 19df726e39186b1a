//! What each path carried, and when: written by the workers, read by the agent
//! to decide which paths to question.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::ids::PathIndex;

/// One entry per path index.
pub(super) struct Activity {
    start: Instant,
    entries: Vec<Entry>,
}

/// A cache line of its own, so that two paths' workers do not share one.
#[derive(Default)]
#[repr(align(64))]
struct Entry {
    sent: AtomicU64,
    /// Nanoseconds after `start`, plus one; 0 = never.
    received: AtomicU64,
}

impl Activity {
    pub(super) fn new(paths: usize) -> Self {
        Self {
            start: Instant::now(),
            entries: (0..paths).map(|_| Entry::default()).collect(),
        }
    }

    /// `n` data packets left on `path`.
    pub(super) fn sent(&self, path: PathIndex, n: u64) {
        if let Some(entry) = self.entry(path) {
            entry.sent.fetch_add(n, Relaxed);
        }
    }

    /// Something authenticated arrived on `path`.
    pub(super) fn received(&self, path: PathIndex, now: Instant) {
        if let Some(entry) = self.entry(path) {
            let after = now.saturating_duration_since(self.start).as_nanos();
            let after = u64::try_from(after).unwrap_or(u64::MAX - 1) + 1;
            entry.received.fetch_max(after, Relaxed);
        }
    }

    pub(super) fn get(&self, path: PathIndex) -> (u64, Option<Instant>) {
        let Some(entry) = self.entry(path) else {
            return (0, None);
        };
        let received = entry.received.load(Relaxed).checked_sub(1);
        (
            entry.sent.load(Relaxed),
            received.and_then(|after| self.start.checked_add(Duration::from_nanos(after))),
        )
    }

    pub(super) fn reset(&self, path: PathIndex) {
        if let Some(entry) = self.entry(path) {
            entry.sent.store(0, Relaxed);
            entry.received.store(0, Relaxed);
        }
    }

    fn entry(&self, path: PathIndex) -> Option<&Entry> {
        self.entries.get(usize::try_from(path.0).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_remembers_its_newest_arrival_until_reset() {
        let activity = Activity::new(2);
        let (path, now) = (PathIndex(1), activity.start);
        assert_eq!(activity.get(path), (0, None));
        activity.sent(path, 3);
        activity.received(path, now + Duration::from_millis(5));
        activity.received(path, now);
        assert_eq!(
            activity.get(path),
            (3, Some(now + Duration::from_millis(5)))
        );
        activity.reset(path);
        assert_eq!(activity.get(path), (0, None));
        // An index beyond the table is ignored.
        activity.sent(PathIndex(9), 1);
        assert_eq!(activity.get(PathIndex(9)), (0, None));
    }
}
