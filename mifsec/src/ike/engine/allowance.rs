//! How often something is done that anybody can cause.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// So many times a second and no more.
#[derive(Debug)]
pub(super) struct Allowance {
    per_second: u32,
    used: u32,
    since: Option<Instant>,
}

impl Allowance {
    /// `per_second` times in any second that starts with the first of them.
    pub(super) const fn new(per_second: u32) -> Self {
        Self {
            per_second,
            used: 0,
            since: None,
        }
    }

    /// Whether it may be done once more now; it counts if so.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self
            .since
            .is_none_or(|since| now.duration_since(since) >= SECOND)
        {
            self.since = Some(now);
            self.used = 0;
        }
        let may = self.used < self.per_second;
        self.used += u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_comes_back_after_a_second() {
        let now = Instant::now();
        let mut allowance = Allowance::new(3);
        let taken = |allowance: &mut Allowance, at| (0..9).filter(|_| allowance.take(at)).count();
        assert_eq!(taken(&mut allowance, now), 3);
        assert_eq!(taken(&mut allowance, now + SECOND / 2), 0);
        assert_eq!(taken(&mut allowance, now + SECOND), 3);
    }
}
