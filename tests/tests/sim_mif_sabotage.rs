//! Requirements whose tests must be able to fail: each is checked with the engine
//! as it is, and again with the fault that the requirement forbids, by the same
//! check, which must then fail for that reason.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mifsec::ids::IfaceId;
use mifsec::ike::{Command, End, Event, Fault};
use mifsec_tests::sim::multi::{
    self, ETH, GATEWAY2, add, carried, carry, delete, paths, readdress,
};
use mifsec_tests::sim::setup::{self, GATEWAY, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS, established};
use mifsec_tests::sim::{A, B, Pair, ip};

const SECOND: Duration = Duration::from_secs(1);
const NEW: &str = "192.0.2.99";

/// The check holds, and with the fault at either end of `at` it fails because of it.
fn shown(fault: Fault, at: &[usize], because: &str, check: fn(&mut Pair)) {
    check(&mut established(setup::user(), setup::gateway(), 1));
    let mut pair = established(setup::user(), setup::gateway(), 1);
    for who in at {
        pair.ends[*who].engine.sabotage(fault);
    }
    let failed = catch_unwind(AssertUnwindSafe(|| check(&mut pair)));
    let Err(payload) = failed else {
        panic!("{fault:?} went unnoticed");
    };
    let text = payload.downcast_ref::<String>().cloned();
    let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
    let text = text.unwrap_or_default();
    assert!(text.contains(because), "{fault:?} failed by: {text}");
}

/// Both members and all interfaces.
fn grow(pair: &mut Pair) {
    let fresh = established(setup::user(), setup::gateway(), 9);
    let own = std::mem::replace(pair, fresh);
    *pair = multi::two(own);
}

#[test]
fn an_ike_sa_for_each_interface_is_noticed() {
    mifsec_tests::covers!("R10", "R11");
    shown(
        Fault::ChannelPerInterface,
        &[A],
        "one IKE channel",
        |pair| {
            let since = pair.log.len();
            let ike = pair.a().ike();
            pair.command(A, setup::second_member(ike));
            pair.run(SECOND);
            let locals = pair.log[since..].iter();
            let locals = locals.filter(|(_, who, _)| *who == A);
            let mut locals = locals.map(|(_, _, transmit)| transmit.local.ip());
            assert!(
                locals.all(|local| local == ip(RAN_ADDRESS)),
                "one IKE channel"
            );
            assert_eq!(pair.ends[B].established().len(), 1, "one IKE channel");
            assert_eq!(pair.ends[B].children.len(), 2, "and SAs on two interfaces");
        },
    );
}

#[test]
fn a_gateway_that_does_not_follow_a_move_is_noticed() {
    mifsec_tests::covers!("R22", "R24");
    shown(Fault::IgnoreMoves, &[B], "the gateway follows", |pair| {
        grow(pair);
        let command = readdress(pair, A, WLAN, NEW);
        pair.command(A, command);
        pair.run(SECOND);
        let events = &pair.ends[B].events;
        let moved = events.iter().find_map(|event| match event {
            Event::PeerMoved { update, .. } => Some(update.new.ip),
            _ => None,
        });
        assert_eq!(moved, Some(ip(NEW)), "the gateway follows");
    });
}

#[test]
fn an_end_user_that_stays_where_it_was_is_noticed() {
    mifsec_tests::covers!("R22", "R23");
    shown(Fault::StayWhereWeAre, &[A], "the end user moves", |pair| {
        grow(pair);
        let command = carry(pair, A, End::Local, WLAN, RAN);
        pair.command(A, command);
        // At once: it does not wait for the gateway.
        assert_eq!(
            carried(pair, A),
            [(A, WLAN, RAN)].into(),
            "the end user moves"
        );
        pair.run(SECOND);
        assert_eq!(carried(pair, B), carried(pair, A));
    });
}

#[test]
fn a_move_told_on_the_address_that_moves_is_noticed() {
    mifsec_tests::covers!("R25");
    shown(Fault::TellElsewhere, &[A], "told on the channel", |pair| {
        grow(pair);
        let since = pair.log.len();
        let command = readdress(pair, A, WLAN, NEW);
        pair.command(A, command);
        pair.run(SECOND);
        for (_, who, transmit) in &pair.log[since..] {
            let ours = if *who == A {
                transmit.local
            } else {
                transmit.remote
            };
            assert_eq!(ours.ip(), ip(RAN_ADDRESS), "told on the channel");
        }
        assert_eq!(pair.log.len() - since, 2);
    });
}

#[test]
fn an_interface_that_is_not_merged_into_one_in_use_is_noticed() {
    mifsec_tests::covers!("R26");
    for at in [&[A][..], &[B], &[A, B]] {
        shown(Fault::NoMerge, at, "both ends merge", |pair| {
            grow(pair);
            let command = carry(pair, A, End::Local, WLAN, RAN);
            pair.command(A, command);
            pair.run(SECOND);
            for who in [A, B] {
                let expected = [(A, WLAN, RAN)].into();
                assert_eq!(carried(pair, who), expected, "both ends merge");
            }
            // And split.
            let command = carry(pair, A, End::Local, WLAN, WLAN);
            pair.command(A, command);
            pair.run(SECOND);
            assert_eq!(carried(pair, B), [].into());
        });
    }
}

#[test]
fn a_derived_sa_with_the_spi_of_its_template_is_noticed() {
    mifsec_tests::covers!("R47");
    shown(Fault::KeepSpi, &[A], "is in use", |pair| {
        grow(pair);
        let command = add(pair, A, ETH, GATEWAY);
        pair.command(A, command);
        pair.run(SECOND);
        assert_eq!(
            paths(pair, B),
            [(WLAN, GATEWAY), (RAN, GATEWAY), (ETH, GATEWAY)]
        );
    });
}

#[test]
fn an_order_that_only_one_end_has_is_noticed() {
    mifsec_tests::covers!("R48");
    shown(Fault::OwnOrder, &[A], "one order", |pair| {
        grow(pair);
        let command = add(pair, A, ETH, GATEWAY);
        pair.command(A, command);
        pair.run(SECOND * 100);
        let there = paths(pair, B).contains(&(ETH, GATEWAY));
        assert!(there, "one order at both ends");
    });
}

#[test]
fn an_sa_derived_where_there_is_an_equal_one_is_noticed() {
    mifsec_tests::covers!("R49");
    shown(Fault::DeriveTwice, &[A, B], "one for the bundle", |pair| {
        grow(pair);
        let command = add(pair, A, ETH, GATEWAY);
        pair.command(A, command);
        pair.run(SECOND);
        let on = |path: &&(IfaceId, IfaceId)| **path == (ETH, GATEWAY);
        let made = paths(pair, B).iter().filter(on).count();
        assert_eq!(made, 1, "one for the bundle, not one for each template");
    });
    // Where only one end does it the other one says so.
    for at in [A, B] {
        shown(Fault::DeriveTwice, &[at], "they agree", |pair| {
            grow(pair);
            let command = add(pair, A, ETH, GATEWAY);
            pair.command(A, command);
            pair.run(SECOND * 100);
            let there = paths(pair, A).contains(&(ETH, GATEWAY));
            assert!(there, "they agree");
        });
    }
}

#[test]
fn an_interface_deleted_without_its_sas_is_noticed() {
    mifsec_tests::covers!("R54", "R55");
    shown(
        Fault::KeepDeleted,
        &[B],
        "all SAs of it are gone at once",
        |pair| {
            grow(pair);
            pair.hold();
            let command = delete(pair, A, WLAN);
            pair.command(A, command);
            pair.deliver(A, &["MIF_DELETE_INTERFACE"]);
            assert_eq!(
                paths(pair, B),
                [(RAN, GATEWAY)],
                "all SAs of it are gone at once"
            );
            pair.deliver(B, &["response"]);
            assert_eq!(paths(pair, A), [(RAN, GATEWAY)]);
            assert_eq!(pair.waiting(), Vec::<String>::new(), "one exchange");
            pair.release();
        },
    );
}

/// The gateway's interface goes the same way.
#[test]
fn what_is_checked_above_holds_for_the_gateway_as_well() {
    mifsec_tests::covers!("R22", "R26", "R49", "R55");
    let mut pair = multi::pair(2);
    let command = add(&pair, B, GATEWAY2, WLAN);
    pair.command(B, command);
    pair.run(SECOND);
    assert!(paths(&pair, A).contains(&(WLAN, GATEWAY2)));
    let command = carry(&pair, B, End::Local, GATEWAY2, GATEWAY);
    pair.command(B, command);
    pair.run(SECOND);
    assert_eq!(carried(&pair, A), [(B, GATEWAY2, GATEWAY)].into());
    let command = delete(&pair, B, GATEWAY2);
    pair.command(B, command);
    pair.run(SECOND);
    assert_eq!(paths(&pair, A), [(WLAN, GATEWAY), (RAN, GATEWAY)]);
    assert_eq!(carried(&pair, A), [].into());
    let address = WLAN_ADDRESS;
    let views = pair.ends[A].engine.views();
    assert_ne!(
        views[0].channel.local.ip(),
        ip(address),
        "the channel stayed"
    );
    let command = Command::CheckLiveness {
        ike: multi::ike(&pair, A),
    };
    pair.command(A, command);
    pair.run(SECOND);
    multi::assert_converged(&pair);
}
