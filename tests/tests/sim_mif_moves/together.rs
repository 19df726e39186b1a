//! Moves of both ends at once, and beside rekeys: protocol 3.11.

use std::time::Duration;

use mifsec::crypto::{Entropy as _, SeededEntropy};
use mifsec::ids::IfaceId;
use mifsec::ike::{Command, End};
use mifsec_tests::sim::setup::{GATEWAY, RAN, WLAN, assert_agreement};
use mifsec_tests::sim::{A, B, Pair};

use super::world::*;

#[test]
fn both_ends_move_at_once_and_both_moves_count() {
    mifsec_tests::covers!("R18", "R22");
    for first in [A, B] {
        let mut pair = members(1);
        let before = identity(&pair);
        pair.hold();
        carry(&mut pair, A, End::Local, WLAN, RAN);
        carry(&mut pair, B, End::Local, GATEWAY, SPARE);
        for who in [first, 1 - first] {
            pair.deliver(who, &["request"]);
        }
        pair.release();
        pair.run(SECOND);
        assert_carried(&pair, A, &[(1, 2)]);
        assert_carried(&pair, B, &[(1, 2)]);
        assert_eq!(identity(&pair), before);
        assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
    }
}

#[test]
fn both_ends_move_the_channel_at_once() {
    let mut pair = members(2);
    let (a, b) = (pair.a().ike(), pair.b().ike());
    let to = mifsec_tests::sim::setup::channel(WLAN, address(A, WLAN));
    pair.hold();
    pair.command(
        A,
        Command::MoveChannel {
            ike: a,
            channel: to,
        },
    );
    let from = mifsec::ike::Channel {
        local_iface: SPARE,
        ifindex: 2,
        local: mifsec_tests::sim::socket("203.0.113.2:4500"),
        remote: mifsec_tests::sim::socket("198.51.100.20:4500"),
    };
    let channel = from;
    pair.command(B, Command::MoveChannel { ike: b, channel });
    pair.deliver(A, &["request"]);
    pair.deliver(B, &["request"]);
    pair.release();
    pair.run(30 * SECOND);
    // The other end is wherever each of them says; requests of both are answered.
    for (who, ike) in [(A, a), (B, b)] {
        pair.command(who, Command::CheckLiveness { ike });
        pair.run(5 * SECOND);
        assert_eq!(pair.ends[who].count("ike_liveness_answered"), 1);
        assert!(pair.ends[who].failures().is_empty());
    }
}

#[test]
fn a_move_while_a_child_sa_is_rekeyed_holds_for_the_old_and_the_new_one() {
    mifsec_tests::covers!("R22", "R30");
    for (rekeys, moves) in [(A, A), (A, B), (B, A), (B, B)] {
        for moved_first in [true, false] {
            let mut pair = members(3);
            let owner_iface = [WLAN, GATEWAY][moves];
            let by = [RAN, SPARE][moves];
            let child = pair.ends[rekeys].children.iter();
            let child = child.filter(|(_, c)| c.pair.local == WLAN || c.pair.remote == WLAN);
            let (child, home) = child
                .map(|(id, c)| (*id, c.pair))
                .next()
                .expect("it is there");
            pair.hold();
            pair.command(rekeys, Command::RekeyChild { child });
            carry(&mut pair, moves, End::Local, owner_iface, by);
            let order = [(moves, "INFORMATIONAL"), (rekeys, "CREATE_CHILD_SA")];
            for (who, words) in if moved_first {
                order
            } else {
                [order[1], order[0]]
            } {
                pair.deliver(who, &[words, "request"]);
            }
            pair.release();
            pair.run(30 * SECOND);
            assert_carried(&pair, moves, &[(owner_iface.0, by.0)]);
            let there = |pair: &Pair| {
                let all = pair.ends[rekeys].children.values();
                all.filter(|c| c.pair == home).count()
            };
            assert_eq!(
                there(&pair),
                1,
                "the new one is at home where the old one was"
            );
            assert!(!pair.ends[rekeys].children.contains_key(&child));
            assert_agreement(&pair);
            assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
        }
    }
}

#[test]
fn a_move_while_the_ike_sa_is_rekeyed_is_made_at_once_and_stays() {
    for (rekeys, moves) in [(A, A), (A, B), (B, A), (B, B)] {
        for moved_first in [true, false] {
            let mut pair = members(4);
            let (iface, by) = ([WLAN, GATEWAY][moves], [RAN, SPARE][moves]);
            let ike = pair.ends[rekeys].ike();
            pair.hold();
            pair.command(rekeys, Command::RekeyIke { ike });
            carry(&mut pair, moves, End::Local, iface, by);
            let order = [(moves, "INFORMATIONAL"), (rekeys, "CREATE_CHILD_SA")];
            for (who, words) in if moved_first {
                order
            } else {
                [order[1], order[0]]
            } {
                pair.deliver(who, &[words, "request"]);
            }
            assert_carried(&pair, moves, &[(iface.0, by.0)]);
            pair.release();
            pair.run(30 * SECOND);
            assert_carried(&pair, moves, &[(iface.0, by.0)]);
            carry(&mut pair, moves, End::Local, iface, iface);
            pair.run(5 * SECOND);
            assert_carried(&pair, moves, &[]);
            assert_agreement(&pair);
            assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
        }
    }
}

#[test]
fn the_last_of_several_moves_holds_though_the_ike_sa_was_rekeyed_in_between() {
    for seed in 0..20 {
        let mut pair = members(seed);
        let ike = pair.a().ike();
        // Nothing arrives while A asks for everything.
        pair.partition = true;
        carry(&mut pair, A, End::Local, WLAN, RAN);
        pair.command(
            B,
            Command::RekeyIke {
                ike: pair.ends[B].ike(),
            },
        );
        pair.run(Duration::from_millis(300));
        carry(&mut pair, A, End::Local, RAN, ETH);
        pair.command(A, Command::RekeyIke { ike });
        pair.partition = false;
        pair.run(60 * SECOND);
        assert_carried(&pair, A, &[(1, 3), (2, 3)]);
        assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
    }
}

/// Anything either end may ask for, at random, over links that lose and reorder.
#[test]
fn both_ends_agree_on_what_carries_what_after_any_sequence() {
    for seed in 0..150 {
        let mut pair = members(seed);
        let mut random = SeededEntropy::new(seed ^ 0x6d69_6673);
        for link in &mut pair.links {
            link.loss = 0.15;
            link.duplicate = 0.1;
            link.jitter = Duration::from_millis(120);
        }
        for _ in 0..25 {
            let who = random.u32() as usize % 2;
            let end = [End::Local, End::Remote][random.u32() as usize % 2];
            let owner = if end == End::Local { who } else { 1 - who };
            let most = [3, 2][owner];
            let mut iface = || IfaceId((random.u32() % most) as u16 + 1);
            let (iface, by) = (iface(), iface());
            if random.u32().is_multiple_of(12) {
                let ike = pair.ends[who].ike();
                pair.command(who, Command::RekeyIke { ike });
            }
            let line = format!("{} {end:?} {} by {}", ["A", "B"][who], iface.0, by.0);
            pair.trace.note(pair.now, line);
            carry(&mut pair, who, end, iface, by);
            pair.run(Duration::from_millis(u64::from(random.u32() % 400)));
        }
        for link in &mut pair.links {
            link.loss = 0.0;
        }
        pair.run(300 * SECOND);
        for owner in [A, B] {
            let [own, others] = carried(&pair, owner);
            assert_eq!(own, others, "seed {seed}, of {}", ["A", "B"][owner]);
        }
        assert_agreement(&pair);
    }
}
