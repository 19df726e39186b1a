//! Round-trip estimate (RFC 6298) and loss of recent probes.

use std::time::Duration;

use super::timing::{ANSWER_MAX, ANSWER_UNKNOWN};

/// Smoothed round-trip time and its variation.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Rtt(Option<(Duration, Duration)>);

impl Rtt {
    pub(super) fn sample(&mut self, rtt: Duration) {
        self.0 = Some(match self.0 {
            None => (rtt, rtt / 2),
            Some((srtt, rttvar)) => (
                srtt * 7 / 8 + rtt / 8,
                rttvar * 3 / 4 + srtt.abs_diff(rtt) / 4,
            ),
        });
    }

    pub(super) fn smoothed(self) -> Option<Duration> {
        self.0.map(|(srtt, _)| srtt)
    }

    /// `srtt + 4 * rttvar`, at least `min`.
    pub(super) fn timeout(self, min: Duration) -> Duration {
        self.0.map_or(ANSWER_UNKNOWN, |(srtt, rttvar)| {
            (srtt + rttvar * 4).max(min).min(ANSWER_MAX)
        })
    }
}

/// The fate of the last 32 probes.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Losses {
    lost: u32,
    count: u32,
}

impl Losses {
    pub(super) fn record(&mut self, lost: bool) {
        self.lost = self.lost << 1 | u32::from(lost);
        self.count = (self.count + 1).min(u32::BITS);
    }

    pub(super) fn ppm(self) -> u32 {
        (self.lost.count_ones() * 1_000_000)
            .checked_div(self.count)
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn follows_rfc_6298() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(MS), ANSWER_UNKNOWN);
        rtt.sample(100 * MS);
        assert_eq!(rtt.smoothed(), Some(100 * MS));
        assert_eq!(rtt.timeout(MS), 300 * MS);
        rtt.sample(180 * MS);
        assert_eq!(rtt.smoothed(), Some(110 * MS));
        assert_eq!(rtt.timeout(MS), 110 * MS + (75 * MS / 2 + 20 * MS) * 4);
        assert_eq!(rtt.timeout(MS * 2000), MS * 2000);
        rtt.sample(100_000 * MS);
        assert_eq!(rtt.timeout(MS), ANSWER_MAX);
    }

    #[test]
    fn losses_are_of_the_last_32() {
        let mut losses = Losses::default();
        assert_eq!(losses.ppm(), 0);
        losses.record(true);
        losses.record(false);
        assert_eq!(losses.ppm(), 500_000);
        for _ in 0..31 {
            losses.record(false);
        }
        assert_eq!(losses.ppm(), 0);
    }
}
