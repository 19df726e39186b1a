//! What became of each datagram of one direction.

use std::collections::BTreeSet;
use std::time::Duration;

/// One direction of a load: when each datagram was sent and first received.
#[derive(Debug, Default)]
pub struct Direction {
    flows: usize,
    /// (sent, first received), nanoseconds of [`crate::lab::sys::now_ns`].
    datagrams: Vec<(u64, Option<u64>)>,
    duplicated: u64,
    /// Received without having been sent: the instrument itself is broken.
    strange: u64,
}

impl Direction {
    /// From the sender's and the receiver's list.
    #[must_use]
    pub fn new(sent: Vec<u64>, received: &[(u32, u64)], flows: usize) -> Self {
        let mut direction = Self {
            flows: flows.max(1),
            datagrams: sent.into_iter().map(|at| (at, None)).collect(),
            ..Self::default()
        };
        for (sequence, at) in received {
            let datagram = usize::try_from(*sequence)
                .ok()
                .and_then(|index| direction.datagrams.get_mut(index));
            match datagram {
                Some((_, first @ None)) => *first = Some(*at),
                Some(_) => direction.duplicated += 1,
                None => direction.strange += 1,
            }
        }
        direction
    }

    /// Datagrams sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        number(self.datagrams.len())
    }

    /// Datagrams sent from `from` on.
    #[must_use]
    pub fn sent_since(&self, from: u64) -> u64 {
        number(
            self.datagrams
                .iter()
                .filter(|(sent, _)| *sent >= from)
                .count(),
        )
    }

    /// Datagrams that never arrived.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost_between(0, u64::MAX)
    }

    /// Datagrams that arrived.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.sent() - self.lost()
    }

    /// Datagrams that arrived more than once.
    #[must_use]
    pub fn duplicated(&self) -> u64 {
        self.duplicated
    }

    /// Datagrams that arrived and were never sent.
    #[must_use]
    pub fn strange(&self) -> u64 {
        self.strange
    }

    /// Lost ones of those sent from `from` until before `until`.
    #[must_use]
    pub fn lost_between(&self, from: u64, until: u64) -> u64 {
        number(
            self.datagrams
                .iter()
                .filter(|(sent, received)| received.is_none() && (from..until).contains(sent))
                .count(),
        )
    }

    /// Flows that lost something.
    #[must_use]
    pub fn flows_with_loss(&self) -> usize {
        let lossy: BTreeSet<_> = (0..)
            .zip(&self.datagrams)
            .filter(|(_, (_, received))| received.is_none())
            .map(|(index, _): (usize, _)| index % self.flows)
            .collect();
        lossy.len()
    }

    /// The longest time a flow went without a datagram, counted from `from`
    /// (nanoseconds) to the end, less the usual time between two datagrams of a flow.
    /// A flow that never came back counts up to its last datagram sent.
    #[must_use]
    pub fn longest_silence(&self, from: u64) -> Duration {
        let mut longest = 0;
        for flow in 0..self.flows {
            let mine = || self.datagrams.iter().skip(flow).step_by(self.flows);
            let mut last_sent: Option<u64> = None;
            let mut spacings = Vec::new();
            for (sent, _) in mine() {
                spacings.extend(last_sent.map(|last| sent.saturating_sub(last)));
                last_sent = Some(*sent);
            }
            // Not the largest: a sender that stood still once would excuse any silence.
            let spacing = median(spacings);
            let mut arrivals: Vec<u64> = mine().filter_map(|(_, received)| *received).collect();
            arrivals.sort_unstable();
            let end = last_sent.unwrap_or(from);
            let mut before = arrivals
                .iter()
                .copied()
                .filter(|at| *at <= from)
                .max()
                .unwrap_or(from);
            for at in arrivals.into_iter().filter(|at| *at > from).chain([end]) {
                longest = longest.max(at.saturating_sub(before).saturating_sub(spacing));
                before = before.max(at);
            }
        }
        Duration::from_nanos(longest)
    }

    /// The longest time the sender sent nothing although it should have.
    #[must_use]
    pub fn longest_pause(&self) -> Duration {
        let sent = self.datagrams.iter().map(|(sent, _)| *sent);
        let pauses = sent.clone().zip(sent.skip(1));
        let longest = pauses.map(|(one, next)| next.saturating_sub(one)).max();
        Duration::from_nanos(longest.unwrap_or(0))
    }

    /// The time from sending to arrival in the middle of all.
    #[must_use]
    pub fn median_delay(&self) -> Duration {
        let delays = self
            .datagrams
            .iter()
            .filter_map(|(sent, received)| Some(received.as_ref()?.saturating_sub(*sent)))
            .collect();
        Duration::from_nanos(median(delays))
    }

    /// Datagrams each second that arrived, of those sent from `from` until `until`.
    #[must_use]
    pub fn rate_between(&self, from: u64, until: u64) -> f64 {
        let arrived = self
            .datagrams
            .iter()
            .filter(|(sent, received)| received.is_some() && (from..until).contains(sent))
            .count();
        let seconds = Duration::from_nanos(until.saturating_sub(from)).as_secs_f64();
        if seconds > 0.0 {
            f64::from(u32::try_from(arrived).unwrap_or(u32::MAX)) / seconds
        } else {
            0.0
        }
    }
}

/// The one in the middle; 0 of nothing.
fn median(mut numbers: Vec<u64>) -> u64 {
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or(0)
}

fn number(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Datagram `n` is sent at `1000 n` and arrives 100 later, unless `lose` says so.
    fn direction(count: u64, flows: usize, lose: impl Fn(u64) -> bool) -> Direction {
        let sent = (0..count).map(|n| n * 1000).collect();
        let received: Vec<_> = (0..count)
            .filter(|n| !lose(*n))
            .map(|n| (u32::try_from(n).expect("small"), n * 1000 + 100))
            .collect();
        Direction::new(sent, &received, flows)
    }

    #[test]
    fn what_is_missing_is_lost_and_what_comes_twice_is_duplicated() {
        let sent = vec![0, 10, 20, 30];
        let direction = Direction::new(sent, &[(0, 5), (2, 25), (2, 26), (2, 27), (9, 28)], 1);
        assert_eq!(direction.sent(), 4);
        assert_eq!(direction.lost(), 2);
        assert_eq!(direction.received(), 2);
        assert_eq!(direction.duplicated(), 2);
        assert_eq!(direction.strange(), 1);
    }

    #[test]
    fn loss_is_placed_by_the_time_of_sending() {
        let direction = direction(100, 4, |n| n == 10 || n == 50);
        assert_eq!(direction.lost_between(0, 10_000), 0);
        assert_eq!(direction.lost_between(10_000, 10_001), 1);
        assert_eq!(direction.lost_between(10_001, u64::MAX), 1);
        assert_eq!(direction.flows_with_loss(), 1);
    }

    #[test]
    fn a_flow_in_step_has_no_silence() {
        assert_eq!(
            direction(100, 4, |_| false).longest_silence(0),
            Duration::ZERO
        );
    }

    #[test]
    fn silence_is_that_of_the_worst_flow_less_its_spacing() {
        // Flow 1 of 4 loses numbers 21, 25 and 29: silent from 17 to 33.
        let direction = direction(100, 4, |n| matches!(n, 21 | 25 | 29));
        assert_eq!(direction.longest_silence(0), Duration::from_nanos(12_000));
    }

    #[test]
    fn a_flow_that_never_comes_back_is_silent_to_the_end() {
        let direction = direction(100, 4, |n| n > 40 && n % 4 == 2);
        assert!(direction.longest_silence(30_000) >= Duration::from_nanos(50_000));
    }

    #[test]
    fn a_sender_that_stood_still_is_silent_and_found_out() {
        // Between numbers 39 and 40 nothing is sent for 50 more.
        let late = |n: u64| n * 1000 + if n >= 40 { 50_000 } else { 0 };
        let received: Vec<_> = (0..100u32).map(|n| (n, late(n.into()) + 100)).collect();
        let direction = Direction::new((0..100).map(late).collect(), &received, 4);
        assert_eq!(direction.longest_pause(), Duration::from_nanos(51_000));
        assert_eq!(direction.longest_silence(0), Duration::from_nanos(50_000));
    }

    #[test]
    fn silence_before_the_event_does_not_count() {
        let direction = direction(100, 4, |n| matches!(n, 21 | 25 | 29));
        assert_eq!(direction.longest_silence(60_000), Duration::ZERO);
    }

    #[test]
    fn rates_count_what_arrived_of_what_was_sent_in_the_span() {
        let direction = direction(100, 1, |n| n < 50);
        assert!((direction.rate_between(0, 100_000) - 500_000.0).abs() < 1.0);
        assert!((direction.rate_between(50_000, 100_000) - 1_000_000.0).abs() < 1.0);
    }
}
