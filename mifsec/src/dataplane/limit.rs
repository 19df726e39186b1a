//! A token bucket, for what must not be said too often.

use std::time::{Duration, Instant};

/// Allows `burst` at once and one more every `interval`.
#[derive(Debug)]
pub(super) struct Limit {
    interval: Duration,
    burst: u32,
    tokens: u32,
    since: Option<Instant>,
}

impl Limit {
    pub(super) const fn new(burst: u32, interval: Duration) -> Self {
        Self {
            interval,
            burst,
            tokens: burst,
            since: None,
        }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        let earned = elapsed.as_nanos() / self.interval.as_nanos().max(1);
        if let Ok(earned @ 1..) = u32::try_from(earned.min(u128::from(self.burst))) {
            self.tokens = self.tokens.saturating_add(earned).min(self.burst);
            self.since = Some(now);
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_per_interval() {
        let mut limit = Limit::new(3, Duration::from_millis(10));
        let start = Instant::now();
        let passed = (0..10).filter(|_| limit.take(start)).count();
        assert_eq!(passed, 3);
        assert!(!limit.take(start + Duration::from_millis(9)));
        assert!(limit.take(start + Duration::from_millis(10)));
        assert!(!limit.take(start + Duration::from_millis(19)));
        // A long rest earns no more than the burst.
        let later = start + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| limit.take(later)).count(), 3);
    }
}
