//! The core in virtual time.

use std::time::Duration;

use proptest::prelude::*;

use super::{Bursts, Counters, Fate, Impairments, Jitter, Link, Queue, Rate, Reordering};

const US: Duration = Duration::from_micros(1);
const MS: Duration = Duration::from_millis(1);

/// A packet of `octets` that bears its number.
fn packet(number: u32, octets: usize) -> Vec<u8> {
    let mut packet = number.to_be_bytes().to_vec();
    packet.resize(octets.max(4), 0);
    packet
}

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(*packet.first_chunk().unwrap())
}

/// What arrives of `count` packets sent every `gap`: when, and which.
struct Run {
    arrivals: Vec<(Duration, u32)>,
    counters: Counters,
}

impl Run {
    fn new(impairments: Impairments, seed: u64, count: u32, gap: Duration, octets: usize) -> Self {
        let mut link = Link::new(impairments, seed);
        let mut arrivals = Vec::new();
        let mut take = |link: &mut Link<Vec<u8>>, now| {
            while let Some((at, packet)) = link.receive(now) {
                arrivals.push((at, number(&packet)));
            }
        };
        for i in 0..count {
            take(&mut link, gap * i);
            link.send(gap * i, packet(i, octets));
        }
        take(&mut link, Duration::from_secs(1_000_000));
        assert_eq!(link.on_the_way(), 0);
        Self {
            arrivals,
            counters: link.counters(),
        }
    }

    /// Lengths of the runs of numbers that did not arrive.
    fn gaps(&self, count: u32) -> Vec<u32> {
        let mut arrived = vec![false; count as usize];
        for (_, number) in &self.arrivals {
            arrived[*number as usize] = true;
        }
        let runs = arrived.chunk_by(|a, b| a == b);
        runs.filter(|run| !run[0])
            .map(|run| run.len() as u32)
            .collect()
    }
}

/// Whether `count` of `of` is what `probability` makes likely: within five
/// standard deviations.
fn likely(count: u64, of: u64, probability: f64) -> bool {
    let (of, count) = (of as f64, count as f64);
    let deviation = (of * probability * (1.0 - probability)).sqrt();
    (count - of * probability).abs() <= 5.0 * deviation
}

#[test]
fn a_packet_arrives_after_the_delay_and_not_a_nanosecond_earlier() {
    let mut link = Link::new(Impairments::delay(20 * MS), 1);
    link.send(5 * MS, packet(7, 100));
    assert_eq!(link.due(), Some(25 * MS));
    assert_eq!(link.receive(25 * MS - Duration::from_nanos(1)), None);
    assert_eq!(link.receive(30 * MS), Some((25 * MS, packet(7, 100))));
    assert_eq!(link.due(), None);
}

#[test]
fn loss_is_as_likely_as_it_is_set() {
    for (seed, loss) in [(1, 0.1), (2, 0.3), (3, 0.01), (4, 0.5)] {
        let run = Run::new(Impairments::loss(loss), seed, 100_000, MS, 64);
        assert!(
            likely(run.counters.lost, 100_000, loss),
            "{:?}",
            run.counters
        );
        assert_eq!(run.counters.lost + run.arrivals.len() as u64, 100_000);
        // Each for itself: a loss is followed by another as often as by anything.
        let gaps = run.gaps(100_000);
        let after_loss = run.counters.lost - gaps.len() as u64;
        assert!(likely(after_loss, run.counters.lost, loss), "{after_loss}");
    }
}

#[test]
fn nothing_passes_a_dead_link_and_all_passes_a_perfect_one() {
    let run = Run::new(Impairments::dead(), 1, 1000, MS, 64);
    assert_eq!((run.counters.lost, run.counters.arrived), (1000, 0));
    let run = Run::new(Impairments::default(), 1, 1000, MS, 64);
    assert_eq!((run.counters.lost, run.counters.arrived), (0, 1000));
}

#[test]
fn bursts_have_the_length_and_the_share_asked_for() {
    for (loss, length) in [(0.05, 8.0), (0.2, 3.0), (0.01, 20.0)] {
        let impairments = Impairments {
            bursts: Some(Bursts::of(loss, length)),
            ..Impairments::default()
        };
        let run = Run::new(impairments, 9, 1_000_000, MS, 64);
        let gaps = run.gaps(1_000_000);
        let mean = run.counters.lost as f64 / gaps.len() as f64;
        assert!((mean / length - 1.0).abs() < 0.05, "{mean} of {length}");
        let share = run.counters.lost as f64 / 1e6;
        assert!((share / loss - 1.0).abs() < 0.1, "{share} of {loss}");
    }
}

#[test]
fn the_rate_is_kept_to_one_percent() {
    for megabits in [1, 10, 50, 100, 300] {
        for octets in [64, 300, 1400] {
            let rate = Rate::megabits(megabits, 10 * MS);
            let impairments = Impairments {
                rate: Some(rate),
                ..Impairments::default()
            };
            // Twice what it carries.
            let gap = rate.time_of(octets) / 2;
            let run = Run::new(impairments, 3, 20_000, gap, octets);
            let (last, _) = *run.arrivals.last().unwrap();
            let bits = run.counters.octets as f64 * 8.0;
            let measured = bits / last.as_secs_f64() / 1e6;
            assert!(
                (measured / megabits as f64 - 1.0).abs() < 0.01,
                "{measured} of {megabits} Mbit/s at {octets} octets"
            );
            // What does not pass while they come, nor fits the queue at last.
            let dropped = run.counters.queue_dropped;
            assert_eq!(dropped + run.counters.arrived, 20_000);
            let passed = (gap * 20_000 + 10 * MS).div_duration_f64(rate.time_of(octets));
            let expected = 20_000.0 - passed;
            assert!(
                (dropped as f64 - expected).abs() < 3.0,
                "{dropped} of {expected}"
            );
        }
    }
}

#[test]
fn a_queue_holds_what_it_is_allowed_to() {
    // 1 Mbit/s: 125 octets take a millisecond.
    let with = |queue| Impairments {
        rate: Some(Rate {
            bits: 1_000_000,
            burst: 0,
            queue,
        }),
        ..Impairments::default()
    };
    // One is being sent and nine wait.
    let run = Run::new(with(Queue::Octets(1250)), 1, 30, Duration::ZERO, 125);
    assert_eq!(run.counters.queue_dropped, 20);
    assert_eq!(run.arrivals.last(), Some(&(10 * MS, 9)));
    // Those whose turn comes within 5 ms.
    let run = Run::new(with(Queue::Time(5 * MS)), 1, 30, Duration::ZERO, 125);
    assert_eq!(run.counters.queue_dropped, 24);
    // Without any queue the one that is sent passes all the same.
    let run = Run::new(with(Queue::Octets(0)), 1, 30, Duration::ZERO, 125);
    assert_eq!(run.counters.queue_dropped, 29);
}

#[test]
fn a_full_bucket_passes_at_once_and_fills_again_at_the_rate() {
    let mut link = Link::new(
        Impairments {
            rate: Some(Rate {
                bits: 1_000_000,
                burst: 500,
                queue: Queue::Time(100 * MS),
            }),
            ..Impairments::default()
        },
        1,
    );
    let mut arrivals = |now: Duration, count| {
        let fates = (0..count).map(|i| link.send(now, packet(i, 125)));
        let at = fates.map(|fate| match fate {
            Fate::Arrives { at, .. } => at - now,
            other => panic!("{other:?}"),
        });
        at.collect::<Vec<_>>()
    };
    let zero = Duration::ZERO;
    assert_eq!(arrivals(zero, 6), [zero, zero, zero, zero, MS, 2 * MS]);
    // Two milliseconds to send what waits, two for half a bucket.
    assert_eq!(arrivals(4 * MS, 3), [zero, zero, MS]);
    // However long the pause, no more than a bucket.
    assert_eq!(arrivals(900 * MS, 5), [zero, zero, zero, zero, MS]);
}

#[test]
fn jitter_is_distributed_as_named() {
    let base = Impairments {
        keep_order: false,
        ..Impairments::delay(100 * MS)
    };
    let delays = |jitter| {
        let run = Run::new(Impairments { jitter, ..base }, 5, 50_000, MS, 64);
        let sent = run
            .arrivals
            .iter()
            .map(|(at, i)| (*at - MS * *i).as_secs_f64() * 1e3);
        let mut delays: Vec<_> = sent.collect();
        delays.sort_by(f64::total_cmp);
        let mean = delays.iter().sum::<f64>() / delays.len() as f64;
        let variance = delays.iter().map(|d| (d - mean).powi(2)).sum::<f64>();
        let deviation = (variance / delays.len() as f64).sqrt();
        (delays[0], mean, delays[delays.len() - 1], deviation)
    };
    let (least, mean, most, _) = delays(Jitter::Uniform(40 * MS));
    assert!((100.0..100.1).contains(&least) && (139.9..140.0).contains(&most));
    assert!((mean - 120.0).abs() < 0.3, "{mean}");
    let (least, mean, most, deviation) = delays(Jitter::Normal(10 * MS));
    assert!(least >= 70.0 && most <= 130.0, "{least} {most}");
    assert!((mean - 100.0).abs() < 0.3, "{mean}");
    assert!((deviation - 10.0).abs() < 0.3, "{deviation}");
    let never_before_it_was_sent = delays(Jitter::Normal(80 * MS)).0;
    assert!(never_before_it_was_sent >= 0.0);
}

#[test]
fn packets_held_back_are_overtaken_and_counted() {
    let impairments = Impairments {
        reordering: Some(Reordering {
            probability: 0.1,
            by: 3 * MS + 500 * US,
        }),
        ..Impairments::delay(10 * MS)
    };
    let run = Run::new(impairments, 6, 50_000, MS, 64);
    let late = |(at, i): &&(Duration, u32)| *at - MS * *i == 13 * MS + 500 * US;
    let held = run.arrivals.iter().filter(late).count() as u64;
    assert!(likely(held, 50_000, 0.1), "{held}");
    // Each but those before three that were held back too.
    let reordered = run.counters.reordered;
    assert!(
        reordered <= held && likely(reordered, held, 0.999),
        "{reordered} of {held}"
    );
    assert_eq!(run.counters.arrived, 50_000);
}

#[test]
fn a_lower_delay_does_not_overtake_where_order_is_kept() {
    for keep_order in [true, false] {
        let slow = Impairments {
            keep_order,
            ..Impairments::delay(50 * MS)
        };
        let mut link = Link::new(slow, 1);
        link.send(Duration::ZERO, packet(0, 64));
        link.set(Impairments {
            delay: 10 * MS,
            ..slow
        });
        link.send(MS, packet(1, 64));
        let (_, first) = link.receive(100 * MS).unwrap();
        assert_eq!(number(&first), u32::from(!keep_order));
        link.receive(100 * MS).unwrap();
        assert_eq!(link.counters().reordered, u64::from(!keep_order));
    }
}

#[test]
fn too_long_packets_are_dropped_and_counted() {
    let impairments = Impairments {
        mtu: 1280,
        ..Impairments::default()
    };
    assert_eq!(Run::new(impairments, 1, 10, MS, 1281).counters.too_long, 10);
    assert_eq!(Run::new(impairments, 1, 10, MS, 1280).counters.arrived, 10);
}

#[test]
fn what_is_thrown_away_does_not_arrive() {
    let mut link = Link::new(Impairments::delay(MS), 1);
    link.send(Duration::ZERO, packet(0, 64));
    link.clear();
    assert_eq!(link.receive(MS), None);
    assert_eq!(link.counters().cleared, 1);
}

fn probability() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), 0.0..1.0]
}

fn time() -> impl Strategy<Value = Duration> {
    (0..100_000u64).prop_map(Duration::from_micros)
}

prop_compose! {
    fn impairments()(
        (delay, keep_order) in (time(), any::<bool>()),
        jitter in prop_oneof![
            Just(Jitter::None),
            time().prop_map(Jitter::Uniform),
            time().prop_map(Jitter::Normal),
        ],
        (loss, duplicate) in (probability(), probability()),
        bursts in proptest::option::of((0.0..1.0, 0.1..1.0, probability(), probability())),
        reordering in proptest::option::of((probability(), time())),
        rate in proptest::option::of((1_000..1_000_000_000u64, 0..100_000usize)),
        queue in prop_oneof![
            time().prop_map(Queue::Time),
            (0..100_000usize).prop_map(Queue::Octets),
        ],
        mtu in 500..3000usize,
    ) -> Impairments {
        Impairments {
            delay,
            jitter,
            keep_order,
            loss,
            bursts: bursts.map(|(enter, leave, good_loss, bad_loss)| Bursts {
                enter, leave, good_loss, bad_loss,
            }),
            reordering: reordering.map(|(probability, by)| Reordering { probability, by }),
            duplicate,
            rate: rate.map(|(bits, burst)| Rate { bits, burst, queue }),
            mtu,
        }
    }
}

/// Packets by the time since the one before and their octets, and changes.
fn load() -> impl Strategy<Value = Vec<(u64, usize, Option<Impairments>)>> {
    let change = proptest::option::weighted(0.05, impairments());
    prop::collection::vec((0..5_000u64, 20..1500usize, change), 1..300)
}

proptest! {
    #[test]
    fn every_packet_is_accounted_for(seed: u64, first in impairments(), load in load()) {
        let mut links: [Link<Vec<u8>>; 2] = [0, 1].map(|_| Link::new(first, seed));
        let mut now = Duration::ZERO;
        let (mut newest, mut reordered) = (None, 0);
        let mut seen = std::collections::BTreeSet::new();
        for (i, (gap, octets, change)) in (0..).zip(load) {
            now += Duration::from_micros(gap);
            let before = links[0].counters();
            let mut last = Duration::ZERO;
            while let Some((at, packet)) = links[0].receive(now) {
                prop_assert!(last <= at && at <= now);
                last = at;
                let number = number(&packet);
                if seen.insert(number) {
                    reordered += u64::from(newest.is_some_and(|newest| number < newest));
                    newest = newest.max(Some(number));
                }
                prop_assert_eq!(links[1].receive(now), Some((at, packet)));
            }
            if let Some(change) = change {
                links.iter_mut().for_each(|link| link.set(change));
            }
            let [fate, twin] = links.each_mut().map(|link| link.send(now, packet(i, octets)));
            prop_assert_eq!(fate, twin);
            if let Fate::Arrives { at, again } = fate {
                prop_assert!(at >= now && again.is_none_or(|again| again >= at));
            }
            let c = links[0].counters();
            prop_assert_eq!(c.sent, before.sent + 1);
            prop_assert_eq!(c.reordered, reordered);
            prop_assert_eq!(
                c.sent + c.duplicated,
                c.arrived + c.lost + c.queue_dropped + c.too_long + links[0].on_the_way() as u64
            );
        }
    }

    #[test]
    fn order_is_kept_where_it_shall_be(seed: u64, first in impairments(), load in load()) {
        let kept = |impairments| Impairments {
            keep_order: true,
            reordering: None,
            ..impairments
        };
        let mut link: Link<Vec<u8>> = Link::new(kept(first), seed);
        let mut now = Duration::ZERO;
        for (i, (gap, octets, change)) in (0..).zip(load) {
            now += Duration::from_micros(gap);
            if let Some(change) = change {
                link.set(kept(change));
            }
            link.send(now, packet(i, octets));
        }
        let mut last = 0;
        while let Some((_, packet)) = link.receive(Duration::from_secs(1_000_000)) {
            let number = number(&packet);
            prop_assert!(number >= last);
            last = number;
        }
        prop_assert_eq!(link.counters().reordered, 0);
    }

    #[test]
    fn no_more_passes_than_the_rate_and_one_burst(
        seed: u64,
        bits in 10_000..1_000_000_000u64,
        burst in 0..100_000usize,
        load in load(),
    ) {
        let rate = Rate { bits, burst, queue: Queue::Time(Duration::from_secs(10)) };
        let impairments = Impairments { rate: Some(rate), ..Impairments::default() };
        let mut link = Link::new(impairments, seed);
        let (mut now, mut last) = (Duration::ZERO, Duration::ZERO);
        let mut passed = 0;
        for (i, (gap, octets, _)) in (0..).zip(load) {
            now += Duration::from_micros(gap);
            if let Fate::Arrives { at, .. } = link.send(now, packet(i, octets)) {
                passed += octets.max(4);
                last = last.max(at);
                // Rounding is to a nanosecond per packet.
                let allowed = rate.octets_in(at + Duration::from_nanos(400)) + burst + 1;
                prop_assert!(passed <= allowed, "{passed} octets of {allowed} in {at:?}");
            }
        }
    }
}

#[test]
fn another_seed_is_another_fate() {
    let fates = |seed| Run::new(Impairments::loss(0.5), seed, 64, MS, 64).arrivals;
    assert_eq!(fates(1), fates(1));
    assert_ne!(fates(1), fates(2));
}
