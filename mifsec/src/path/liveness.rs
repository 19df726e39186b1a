//! Whether the pair of addresses a path uses still works.
//!
//! ```text
//!            data or probe unanswered            3rd probe unanswered
//!   Quiet ───────────────────────────► Doubted ─────────────────────► Dead
//!     ▲  ◄─────────────────────────────   ▲                            │
//!     │      anything authenticated                                    │
//!     └────────────────────────────────────────────────────────────────┘
//!        3 s of answers; or one answer, if it did not die in silence,
//!        or if it answers a probe from before it was given up
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::rtt::{Losses, Rtt};
use super::timing::{
    CHALLENGE_FIRST, CHALLENGE_GAP_MAX, CHALLENGE_LIMIT, DOWN_EAGER_FOR, DOWN_INTERVAL,
    DOWN_INTERVAL_LATE, KEEPALIVE_INTERVAL, QUESTION_AFTER, RETURN_AFTER, RETURN_INTERVAL,
    STANDBY_INTERVAL, UNANSWERED_LIMIT,
};
use super::types::{Activity, Probing, TimerKind};

/// Probes whose answers are still recognised.
const REMEMBERED: usize = 64;
/// Of what an answer is given, the least between two questions: a long path
/// is not asked hundreds of times before the first answer can be back.
const QUESTIONS_PER_ANSWER: u32 = 8;

#[derive(Debug, Clone, Copy)]
struct Sent {
    token: u64,
    at: Instant,
    expires: Instant,
    counted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Doubted {
        /// Anything that arrived after this settles it.
        since: Instant,
        unanswered: u32,
    },
    Dead {
        at: Instant,
        /// Every probe since then was answered.
        good_since: Option<Instant>,
        /// One answer is enough.
        trusting: bool,
    },
}

/// What became of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Unchanged,
    Died,
    Returned,
}

#[derive(Debug)]
pub(super) struct Liveness {
    probing: Probing,
    mode: Mode,
    /// Worth probing when nothing is wrong.
    watched: bool,
    /// Nothing can be sent.
    paused: bool,
    sent: VecDeque<Sent>,
    next_probe: Option<Instant>,
    /// When the last probe left, answered or not.
    last_probe: Option<Instant>,
    /// The last data packet that nothing has followed back.
    waiting_since: Option<Instant>,
    last_rx: Option<Instant>,
    data_sent: u64,
    active_until: Option<Instant>,
    /// Probes still to be sent until the peer has been heard here.
    unconfirmed: u32,
    rtt: Rtt,
    losses: Losses,
}

impl Liveness {
    /// A path that has not been tried.
    pub(super) fn new(probing: Probing) -> Self {
        Self {
            probing,
            mode: Mode::Quiet,
            watched: false,
            paused: true,
            sent: VecDeque::new(),
            next_probe: None,
            last_probe: None,
            waiting_since: None,
            last_rx: None,
            data_sent: 0,
            active_until: None,
            unconfirmed: 0,
            rtt: Rtt::default(),
            losses: Losses::default(),
        }
    }

    /// Begins with a new pair of addresses that has just been validated.
    /// `heard`: the peer has already used it.
    pub(super) fn start(
        &mut self,
        rtt: Option<Duration>,
        heard: bool,
        first_probe: Instant,
        now: Instant,
    ) {
        self.mode = Mode::Quiet;
        self.paused = false;
        self.sent.clear();
        self.waiting_since = None;
        self.last_rx = Some(now);
        self.unconfirmed = if heard { 0 } else { CHALLENGE_LIMIT };
        self.rtt = Rtt::default();
        if let Some(rtt) = rtt {
            self.rtt.sample(rtt);
        }
        self.next_probe = Some(first_probe);
    }

    pub(super) fn rtt(&self) -> Rtt {
        self.rtt
    }

    pub(super) fn loss_ppm(&self) -> u32 {
        self.losses.ppm()
    }

    pub(super) fn answer_timeout(&self) -> Duration {
        self.rtt.timeout(self.probing.answer_min())
    }

    pub(super) fn is_doubted(&self) -> bool {
        matches!(self.mode, Mode::Doubted { .. })
    }

    pub(super) fn is_dead(&self) -> bool {
        matches!(self.mode, Mode::Dead { .. })
    }

    pub(super) fn set_probing(&mut self, probing: Probing) {
        self.probing = probing;
    }

    /// Whether to probe when nothing is wrong: home paths.
    pub(super) fn watch(&mut self, watched: bool, now: Instant) {
        if watched && !self.watched && self.next_probe.is_none() {
            self.next_probe = Some(now);
        }
        self.watched = watched;
    }

    /// Data passes on some path of this peer.
    pub(super) fn set_active_until(&mut self, until: Instant, now: Instant) {
        self.active_until = Some(until);
        if self.watched
            && self.probing != Probing::Idle
            && matches!(self.mode, Mode::Quiet)
            && let Some(next) = &mut self.next_probe
        {
            *next = (*next).min(now + STANDBY_INTERVAL);
        }
    }

    /// The path is down for a reason other than silence. Without `paused` it is
    /// probed, and the first answer brings it back.
    pub(super) fn take_down(&mut self, paused: bool, now: Instant) {
        self.mode = Mode::Dead {
            at: now,
            good_since: None,
            trusting: true,
        };
        self.paused = paused;
        self.waiting_since = None;
        self.next_probe = (!paused).then_some(now);
        if paused {
            self.sent.clear();
        }
    }

    /// Something was heard from the peer on this pair: ask now if it is down.
    pub(super) fn heard(&mut self, now: Instant) {
        self.unconfirmed = 0;
        self.received(now);
        if self.is_dead() && !self.paused {
            let soon = self.last_probe.map_or(now, |at| at + RETURN_INTERVAL);
            self.next_probe = Some(soon.max(now));
        }
    }

    /// The peer still sends to another address of ours than this pair's.
    pub(super) fn remind(&mut self, now: Instant) {
        if matches!(self.mode, Mode::Quiet) {
            self.unconfirmed = self.unconfirmed.max(2);
            let soon = self.last_probe.map_or(now, |at| at + CHALLENGE_FIRST);
            let soon = soon.max(now);
            self.next_probe = Some(self.next_probe.map_or(soon, |next| next.min(soon)));
        }
    }

    /// Returns whether data has passed in either direction, and whether out.
    pub(super) fn activity(&mut self, activity: Activity, now: Instant) -> (bool, bool) {
        let mut passed = false;
        if let Some(at) = activity.last_rx
            && self.last_rx.is_none_or(|last| at > last)
        {
            self.received(at);
            passed = true;
        }
        let sent = activity.sent > self.data_sent;
        if sent {
            // When in the interval it was sent is not known; assume the latest.
            self.waiting_since.get_or_insert(now);
        }
        self.data_sent = activity.sent;
        (passed || sent, sent)
    }

    /// What left was not for here: nothing is expected back. Returns whether
    /// anything did.
    pub(super) fn sent_elsewhere(&mut self, activity: Activity) -> bool {
        self.waiting_since = None;
        activity.sent > std::mem::replace(&mut self.data_sent, activity.sent)
    }

    /// Something left that was counted elsewhere.
    pub(super) fn sent_for_riders(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    fn received(&mut self, at: Instant) {
        self.last_rx = Some(self.last_rx.map_or(at, |last| last.max(at)));
        if self.waiting_since.is_some_and(|since| at >= since) {
            self.waiting_since = None;
        }
        if let Mode::Doubted { since, .. } = self.mode
            && at > since
        {
            self.mode = Mode::Quiet;
            self.next_probe = self.next_probe.map(|next| next + STANDBY_INTERVAL);
        }
    }

    /// A probe has left; the next one is scheduled.
    pub(super) fn probed(&mut self, token: u64, jitter: u32, now: Instant) {
        if self.sent.len() >= REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent {
            token,
            at: now,
            expires: now + self.answer_timeout(),
            counted: false,
        });
        self.last_probe = Some(now);
        self.next_probe = self.next_gap(jitter, now).map(|gap| now + gap);
        self.unconfirmed = self.unconfirmed.saturating_sub(1);
    }

    fn next_gap(&self, jitter: u32, now: Instant) -> Option<Duration> {
        match self.mode {
            Mode::Doubted { .. } => Some(
                self.probing
                    .question_interval()
                    .max(self.answer_timeout() / QUESTIONS_PER_ANSWER),
            ),
            Mode::Dead {
                good_since: Some(_),
                ..
            } => Some(RETURN_INTERVAL),
            Mode::Dead { at, .. } if now < at + DOWN_EAGER_FOR => Some(DOWN_INTERVAL),
            Mode::Dead { .. } => Some(DOWN_INTERVAL_LATE),
            Mode::Quiet => {
                let steady = if !self.watched {
                    None
                } else if self.probing != Probing::Idle
                    && self.active_until.is_some_and(|until| now < until)
                {
                    Some(STANDBY_INTERVAL)
                } else {
                    // Up to a tenth early: thousands of peers must not keep step.
                    let early =
                        (KEEPALIVE_INTERVAL / 10).mul_f64(f64::from(jitter) / 2f64.powi(32));
                    Some(KEEPALIVE_INTERVAL - early)
                };
                if self.unconfirmed == 0 {
                    return steady;
                }
                let confirm = CHALLENGE_FIRST.max(self.answer_timeout())
                    * 2u32.pow(CHALLENGE_LIMIT.saturating_sub(self.unconfirmed).min(8));
                let confirm = confirm.min(CHALLENGE_GAP_MAX);
                Some(steady.map_or(confirm, |steady| steady.min(confirm)))
            }
        }
    }

    /// `None`: the token is not of a probe we remember.
    pub(super) fn answered(&mut self, token: u64, now: Instant) -> Option<Verdict> {
        let at = self.sent.iter().position(|sent| sent.token == token)?;
        let sent = self.sent.remove(at)?;
        self.rtt.sample(now.saturating_duration_since(sent.at));
        if !sent.counted {
            self.losses.record(false);
        }
        self.received(now);
        let Mode::Dead {
            at,
            good_since,
            trusting,
        } = self.mode
        else {
            return Some(Verdict::Unchanged);
        };
        let slow_not_dead = sent.at <= at;
        let long_enough =
            good_since.is_some_and(|since| now.saturating_duration_since(since) >= RETURN_AFTER);
        if trusting || slow_not_dead || long_enough {
            self.mode = Mode::Quiet;
            self.waiting_since = None;
            self.next_probe = Some(now + STANDBY_INTERVAL);
            return Some(Verdict::Returned);
        }
        if good_since.is_none() {
            self.mode = Mode::Dead {
                at,
                good_since: Some(now),
                trusting,
            };
            self.next_probe = Some(now + RETURN_INTERVAL);
        }
        Some(Verdict::Unchanged)
    }

    /// What is due at `now`: whether the path died, and whether to probe.
    pub(super) fn timeout(&mut self, now: Instant) -> (Verdict, bool) {
        let mut verdict = Verdict::Unchanged;
        for index in 0..self.sent.len() {
            let Some(sent) = self.sent.get_mut(index) else {
                break;
            };
            if sent.counted || sent.expires > now {
                continue;
            }
            sent.counted = true;
            let at = sent.at;
            self.losses.record(true);
            if self.expired(at, now) == Verdict::Died {
                verdict = Verdict::Died;
            }
        }
        if let Some((due, TimerKind::Question)) = self.question()
            && due <= now
            && let Some(since) = self.waiting_since.take()
        {
            self.doubt(since, 0, now);
        }
        let probe = !self.paused && self.next_probe.is_some_and(|at| at <= now);
        (verdict, probe)
    }

    fn expired(&mut self, sent_at: Instant, now: Instant) -> Verdict {
        match &mut self.mode {
            Mode::Quiet => {
                if self.last_rx.is_none_or(|rx| rx <= sent_at) {
                    self.doubt(sent_at, 1, now);
                }
            }
            Mode::Doubted { since, unanswered } if sent_at >= *since => {
                *unanswered += 1;
                if *unanswered >= UNANSWERED_LIMIT {
                    self.mode = Mode::Dead {
                        at: now,
                        good_since: None,
                        trusting: false,
                    };
                    self.waiting_since = None;
                    self.next_probe = Some(now + DOWN_INTERVAL);
                    return Verdict::Died;
                }
            }
            Mode::Doubted { .. } => {}
            Mode::Dead { good_since, .. } => *good_since = None,
        }
        Verdict::Unchanged
    }

    fn doubt(&mut self, since: Instant, unanswered: u32, now: Instant) {
        self.mode = Mode::Doubted { since, unanswered };
        self.next_probe = Some(now);
    }

    fn question(&self) -> Option<(Instant, TimerKind)> {
        let since = self.waiting_since?;
        (self.mode == Mode::Quiet && !self.paused).then(|| {
            (
                since + self.rtt.timeout(QUESTION_AFTER),
                TimerKind::Question,
            )
        })
    }

    /// The next thing [`timeout`](Self::timeout) has to do.
    pub(super) fn deadline(&self) -> Option<(Instant, TimerKind)> {
        let answer = self
            .sent
            .iter()
            .filter(|sent| !sent.counted)
            .map(|sent| (sent.expires, TimerKind::Answer))
            .min();
        let probe = self
            .next_probe
            .filter(|_| !self.paused)
            .map(|at| (at, TimerKind::Probe));
        [answer, probe, self.question()].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A watched path with a round trip of 20 ms; time in ms from its start.
    struct Bench {
        live: Liveness,
        start: Instant,
        token: u64,
        sent: u64,
    }

    impl Bench {
        fn new(probing: Probing) -> Self {
            let start = Instant::now();
            let mut live = Liveness::new(probing);
            live.watch(true, start);
            live.start(Some(20 * MS), true, start + 3_600_000 * MS, start);
            // Settle the estimate: 20 ms, no variation to speak of.
            for _ in 0..40 {
                live.rtt.sample(20 * MS);
            }
            Self {
                live,
                start,
                token: 0,
                sent: 0,
            }
        }

        fn data(&mut self, ms: u32) {
            self.sent += 1;
            let activity = Activity {
                sent: self.sent,
                last_rx: None,
            };
            self.live.activity(activity, self.start + MS * ms);
        }

        /// Follows the deadlines up to `until`, sending what is due; the times
        /// of probes, and when it died.
        fn run(&mut self, until: u32) -> (Vec<u128>, Option<u128>) {
            let (mut probes, mut died) = (Vec::new(), None);
            while let Some((due, _)) = self.live.deadline()
                && due <= self.start + MS * until
            {
                let ms = (due - self.start).as_millis();
                let (verdict, probe) = self.live.timeout(due);
                if verdict == Verdict::Died {
                    died = Some(ms);
                }
                if probe {
                    self.token += 1;
                    self.live.probed(self.token, 0, due);
                    probes.push(ms);
                }
            }
            (probes, died)
        }
    }

    #[test]
    fn unanswered_data_is_questioned_after_40_ms_and_kills_in_another_100() {
        let mut bench = Bench::new(Probing::Default);
        bench.data(1000);
        let (probes, died) = bench.run(1300);
        assert_eq!(probes, [1040, 1065, 1090, 1115]);
        assert_eq!(died, Some(1140));
    }

    #[test]
    fn a_fast_access_asks_five_times_as_often() {
        let mut bench = Bench::new(Probing::Fast);
        bench.data(1000);
        let (probes, died) = bench.run(1300);
        assert_eq!(probes[..3], [1040, 1045, 1050]);
        // The estimate of 20 ms is above the 10 ms an answer gets at least.
        assert!(matches!(died, Some(1070..=1072)), "{died:?}");
    }

    #[test]
    fn anything_authenticated_settles_the_question() {
        let mut bench = Bench::new(Probing::Default);
        bench.data(1000);
        assert_eq!(bench.run(1041).0, [1040]);
        assert!(bench.live.is_doubted());
        let rx = bench.start + MS * 1042;
        bench.live.activity(
            Activity {
                sent: bench.sent,
                last_rx: Some(rx),
            },
            rx,
        );
        assert!(!bench.live.is_doubted());
        assert_eq!(bench.run(1999).1, None);
    }

    #[test]
    fn what_came_before_the_data_does_not_settle_it() {
        let mut bench = Bench::new(Probing::Default);
        bench.data(1000);
        let activity = Activity {
            sent: bench.sent,
            last_rx: Some(bench.start + MS * 999),
        };
        bench.live.activity(activity, bench.start + MS * 1010);
        assert_eq!(bench.run(1300).1, Some(1140));
    }

    #[test]
    fn a_path_that_died_in_silence_returns_after_three_good_seconds() {
        let mut bench = Bench::new(Probing::Default);
        bench.data(1000);
        assert_eq!(bench.run(1140).1, Some(1140));
        let mut returned = None;
        let mut now = bench.start + MS * 1200;
        while returned.is_none() && now < bench.start + MS * 20_000 {
            let due = bench.live.deadline().unwrap().0;
            now = due;
            let (_, probe) = bench.live.timeout(due);
            if probe {
                bench.token += 1;
                bench.live.probed(bench.token, 0, due);
                let answer = due + 20 * MS;
                if bench.live.answered(bench.token, answer) == Some(Verdict::Returned) {
                    returned = Some((answer - bench.start).as_millis());
                }
            }
        }
        // First probe 1 s after death, answered 20 ms later, and then 3 s to the
        // next answer.
        let earliest = 1140 + 1000 + 20 + RETURN_AFTER.as_millis();
        let latest = earliest + RETURN_INTERVAL.as_millis();
        assert!(
            (earliest..=latest).contains(&returned.unwrap()),
            "{returned:?}"
        );
    }

    #[test]
    fn a_lost_probe_starts_the_three_seconds_again() {
        let mut bench = Bench::new(Probing::Default);
        bench.data(1000);
        bench.run(1140);
        let now = bench.start + MS * 2140;
        assert!(bench.live.timeout(now).1);
        bench.live.probed(100, 0, now);
        bench.live.answered(100, now + 20 * MS);
        let lost = now + 270 * MS;
        assert!(bench.live.timeout(lost).1);
        bench.live.probed(101, 0, lost);
        bench.live.timeout(lost + 60 * MS);
        assert!(matches!(
            bench.live.mode,
            Mode::Dead {
                good_since: None,
                ..
            }
        ));
    }

    #[test]
    fn an_answer_to_a_probe_from_before_shows_it_was_slow_not_dead() {
        let mut bench = Bench::new(Probing::Default);
        bench.data(1000);
        bench.run(1140);
        assert!(bench.live.is_dead());
        let late = bench.start + MS * 1440;
        assert_eq!(bench.live.answered(1, late), Some(Verdict::Returned));
        assert!(bench.live.answer_timeout() > 200 * MS, "and it has learnt");
    }

    #[test]
    fn after_an_address_event_one_answer_is_enough() {
        let mut bench = Bench::new(Probing::Default);
        let now = bench.start + MS * 50;
        bench.live.take_down(false, now);
        assert!(bench.live.timeout(now).1, "asked at once");
        bench.live.probed(7, 0, now);
        assert_eq!(
            bench.live.answered(7, now + 20 * MS),
            Some(Verdict::Returned)
        );
    }

    #[test]
    fn an_idle_path_is_left_alone_for_the_keepalive_interval() {
        let mut bench = Bench::new(Probing::Default);
        bench.live.next_probe = Some(bench.start);
        let mut gaps = Vec::new();
        let mut last = bench.start;
        for _ in 0..4 {
            let (due, _) = bench.live.deadline().unwrap();
            gaps.push(due - last);
            last = due;
            bench.token += 1;
            bench.live.probed(bench.token, u32::MAX, due);
            bench.live.answered(bench.token, due + 20 * MS);
        }
        for gap in &gaps[1..] {
            assert!((KEEPALIVE_INTERVAL * 9 / 10..=KEEPALIVE_INTERVAL).contains(gap));
        }
    }

    #[test]
    fn beside_an_active_service_it_is_probed_every_second_unless_told_not_to() {
        for (probing, expected) in [(Probing::Default, 5), (Probing::Idle, 1)] {
            let mut bench = Bench::new(probing);
            bench.live.next_probe = Some(bench.start);
            bench
                .live
                .set_active_until(bench.start + 60_000 * MS, bench.start);
            let mut count = 0;
            while let Some((due, _)) = bench.live.deadline()
                && due < bench.start + 5_000 * MS
            {
                count += 1;
                bench.token += 1;
                bench.live.probed(bench.token, 0, due);
                bench.live.answered(bench.token, due);
            }
            assert_eq!(count, expected);
        }
    }
}
