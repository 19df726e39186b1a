//! Who stands in for whom: explicit lists and the default rule, the same at both
//! ends, and what the other end may make of them.

use std::collections::BTreeMap;
use std::time::Duration;

use mifsec::crypto::{Entropy as _, SeededEntropy};
use mifsec::ids::IfaceId;
use mifsec::ike::mif::{IfaceState, InterfaceRecord, Maddr};
use mifsec::ike::{Command, End, Event};
use mifsec_tests::sim::setup::{self, GATEWAY, RAN, WLAN};
use mifsec_tests::sim::{A, B, Pair, ip};

use super::world::*;

/// The alternates of an interface of `owner`: as it has them itself, as the other
/// end does.
fn alternates(pair: &Pair, owner: usize, iface: IfaceId) -> [Vec<u16>; 2] {
    let view = |who: usize, end: End| {
        let engine = &pair.ends[who].engine;
        let list = engine.alternates(pair.ends[who].ike(), end, iface);
        list.into_iter().map(|id| id.0).collect()
    };
    [view(owner, End::Local), view(1 - owner, End::Remote)]
}

fn same(list: &[u16]) -> [Vec<u16>; 2] {
    [list.to_vec(), list.to_vec()]
}

/// `who` says who stands in for whom.
fn say(pair: &mut Pair, who: usize, lists: &[(IfaceId, &[IfaceId])]) {
    let ike = pair.ends[who].ike();
    let lists = lists.iter().map(|(iface, list)| (*iface, list.to_vec()));
    let lists: BTreeMap<_, _> = lists.collect();
    pair.command(who, Command::SetAlternates { ike, lists });
}

#[test]
fn a_list_is_told_once_and_counts_at_both_ends_until_it_is_taken_back() {
    mifsec_tests::covers!("R33", "R36", "R38");
    let mut pair = tables(setup::user(), setup::gateway(), 1);
    assert_eq!(
        alternates(&pair, A, WLAN),
        same(&[2, 3]),
        "the default rule"
    );
    let since = pair.log.len();
    let lists: [(IfaceId, &[IfaceId]); 2] = [(WLAN, &[ETH, RAN]), (ETH, &[])];
    say(&mut pair, A, &lists);
    say(&mut pair, A, &lists);
    pair.run(SECOND);
    assert_eq!(messages(&pair, since), 2, "one exchange for all");
    assert_eq!(alternates(&pair, A, WLAN), same(&[3, 2]));
    assert_eq!(alternates(&pair, A, ETH), same(&[]));
    assert_eq!(
        alternates(&pair, A, RAN),
        same(&[3, 1]),
        "nothing was said of it"
    );
    let heard = |pair: &Pair| {
        let events = pair.ends[B].events.iter();
        let heard = events.filter_map(|event| match event {
            Event::PeerAlternates { iface, list, .. } => Some((*iface, list.clone())),
            _ => None,
        });
        heard.collect::<Vec<_>>()
    };
    let first = [(WLAN, Some(vec![ETH, RAN])), (ETH, Some(vec![]))];
    assert_eq!(heard(&pair), first);
    // One is changed, one is left to the rule again.
    say(&mut pair, A, &[(WLAN, &[RAN])]);
    pair.run(SECOND);
    assert_eq!(alternates(&pair, A, WLAN), same(&[2]));
    assert_eq!(alternates(&pair, A, ETH), same(&[1, 2]));
    assert_eq!(heard(&pair)[2..], [(WLAN, Some(vec![RAN])), (ETH, None)]);
    // The gateway has its own.
    say(&mut pair, B, &[(GATEWAY, &[])]);
    pair.run(SECOND);
    assert_eq!(alternates(&pair, B, GATEWAY), same(&[]));
    assert_eq!(alternates(&pair, B, SPARE), same(&[1]));
}

#[test]
fn whoever_cannot_carry_traffic_stands_in_for_nobody() {
    let mut pair = tables(setup::user(), setup::gateway(), 2);
    say(&mut pair, A, &[(WLAN, &[ETH, RAN])]);
    let mut ifaces = users();
    ifaces[2].state = IfaceState::NO_ADDRESS;
    ifaces[2].addresses.clear();
    pair.command(A, Command::SetInterfaces { ifaces });
    pair.run(SECOND);
    assert_eq!(alternates(&pair, A, WLAN), same(&[2]));
    assert_eq!(alternates(&pair, A, RAN), same(&[1]));
    let ifaces = users();
    pair.command(A, Command::SetInterfaces { ifaces });
    pair.run(SECOND);
    assert_eq!(
        alternates(&pair, A, WLAN),
        same(&[3, 2]),
        "the list was kept"
    );
}

#[test]
fn an_interface_that_comes_back_has_the_list_it_had() {
    let mut pair = tables(setup::user(), setup::gateway(), 2);
    say(&mut pair, A, &[(ETH, &[WLAN])]);
    for ifaces in [users()[..2].to_vec(), users()] {
        pair.command(A, Command::SetInterfaces { ifaces });
        pair.run(SECOND);
    }
    assert_eq!(alternates(&pair, A, ETH), same(&[1]));
}

/// Deleted and added, or by tables alone: whatever the peer forgot meanwhile, it is told
/// again.
#[test]
fn an_interface_that_was_deleted_has_its_list_again_when_it_is_added() {
    mifsec_tests::covers!("R36", "R39");
    let mut pair = members(4);
    say(&mut pair, A, &[(WLAN, &[ETH, RAN])]);
    pair.run(SECOND);
    let ike = pair.a().ike();
    let delete = Command::DeleteInterface {
        ike,
        iface: WLAN,
        outer: true,
        ts: false,
        move_first: false,
    };
    let since = pair.log.len();
    pair.command(A, delete);
    pair.run(SECOND);
    assert_eq!(messages(&pair, since), 2, "nothing is told of what is gone");
    // Meanwhile it is another one.
    say(&mut pair, A, &[(WLAN, &[ETH])]);
    pair.run(SECOND);
    let heard = |pair: &Pair| {
        let lists = pair.ends[B].events.iter();
        lists
            .filter(|e| matches!(e, Event::PeerAlternates { .. }))
            .count()
    };
    assert_eq!(heard(&pair), 1);
    let add = Command::AddInterface {
        ike,
        iface: WLAN,
        remote: GATEWAY,
        local_addr: ip(setup::WLAN_ADDRESS),
        remote_addr: ip(setup::GATEWAY_ADDRESS),
        inner: Vec::new(),
        lease: false,
        bundle: true,
        from: Vec::new(),
        pfs: false,
    };
    pair.command(A, add);
    pair.run(SECOND);
    assert_eq!(heard(&pair), 2);
    assert_eq!(alternates(&pair, A, WLAN), same(&[3]));
    // Taken back while the interface is away, which is not told either.
    let since = pair.log.len();
    for lists in [&[(WLAN, &[RAN][..])][..], &[]] {
        let ifaces = users()[1..].to_vec();
        pair.command(A, Command::SetInterfaces { ifaces });
        pair.run(SECOND);
        say(&mut pair, A, lists);
        let ifaces = users();
        pair.command(A, Command::SetInterfaces { ifaces });
        pair.run(SECOND);
    }
    assert_eq!(alternates(&pair, A, WLAN), same(&[2, 3]));
    assert_eq!(heard(&pair), 4);
    assert_eq!(messages(&pair, since), 12);
}

#[test]
fn a_list_of_an_interface_that_is_not_there_is_told_when_it_comes() {
    mifsec_tests::covers!("R36", "R39");
    let mut pair = tables(setup::user(), setup::gateway(), 5);
    let (usb, since) = (IfaceId(7), pair.log.len());
    say(&mut pair, A, &[(usb, &[RAN]), (WLAN, &[usb, ETH])]);
    pair.run(60 * SECOND);
    assert_eq!(messages(&pair, since), 2, "of the WLAN alone");
    assert!(pair.ends[A].failures().is_empty());
    let mut ifaces = users();
    ifaces.push(setup::record(usb, "192.0.2.77"));
    pair.command(A, Command::SetInterfaces { ifaces });
    pair.run(SECOND);
    assert_eq!(alternates(&pair, A, usb), same(&[2]));
    assert_eq!(alternates(&pair, A, WLAN), same(&[7, 3]));
}

#[test]
fn a_list_of_more_than_the_peer_keeps_is_cut_and_one_before_its_table_waits_for_it() {
    let mut pair = setup::established(setup::user(), setup::gateway(), 3);
    let many: Vec<_> = (2..9).map(IfaceId).collect();
    // Of an interface the gateway has not heard of.
    say(&mut pair, A, &[(IfaceId(9), &many)]);
    pair.run(Duration::from_millis(100));
    let ifaces = (1..10)
        .map(|id| setup::record(IfaceId(id), &format!("192.0.2.{id}")))
        .collect();
    pair.command(A, Command::SetInterfaces { ifaces });
    pair.run(10 * SECOND);
    assert!(pair.ends[A].failures().is_empty());
    assert_eq!(alternates(&pair, A, IfaceId(9)), same(&[2, 3, 4, 5]));
}

/// A table of up to nine with anything in it.
fn drawn(random: &mut SeededEntropy) -> Vec<InterfaceRecord> {
    let mut ids: Vec<u16> = (1..=random.u32() as u16 % 9 + 1).collect();
    for at in 1..ids.len() {
        ids.swap(at, random.u32() as usize % (at + 1));
    }
    let mut record = |id: u16| {
        let mut record = setup::record(IfaceId(id), &format!("192.0.2.{id}"));
        record.state = IfaceState((random.u32() % 4) as u8);
        record.priority = (random.u32() % 3) as u8;
        let v6 = Maddr::new(ip(&format!("2001:db8::{id}")), 0);
        match random.u32() % 4 {
            0 => record.addresses.clear(),
            1 => record.addresses = vec![v6],
            2 => record.addresses.push(v6),
            _ => {}
        }
        record
    };
    ids.into_iter().map(&mut record).collect()
}

#[test]
fn the_default_rule_comes_to_the_same_at_both_ends_whatever_the_table() {
    mifsec_tests::covers!("R39", "R79", "R80");
    let mut random = SeededEntropy::new(7);
    let mut pair = setup::established(setup::user(), setup::gateway(), 4);
    let mut compared = 0;
    for _ in 0..200 {
        let table = drawn(&mut random);
        pair.command(
            A,
            Command::SetInterfaces {
                ifaces: table.clone(),
            },
        );
        pair.run(SECOND);
        for id in 1..=10 {
            let [ours, theirs] = alternates(&pair, A, IfaceId(id));
            assert_eq!(ours, theirs, "of {id} in {table:?}");
            compared += ours.len();
        }
    }
    assert!(compared > 1000, "{compared}");
}

#[test]
fn what_did_not_fit_the_announcement_is_no_alternate_at_either_end() {
    let mut gateway = setup::gateway();
    gateway.limits.interfaces = 2;
    let mut pair = tables(setup::user(), gateway, 5);
    assert_eq!(alternates(&pair, A, WLAN), same(&[2]));
    // Nor is the one that was left out chosen.
    carry(&mut pair, B, End::Remote, WLAN, RAN);
    pair.run(SECOND);
    assert_carried(&pair, A, &[(1, 2)]);
}

#[test]
fn either_end_chooses_an_alternate_of_the_other() {
    mifsec_tests::covers!("R33", "R35", "R80");
    for (who, iface, by) in [(B, WLAN, RAN), (A, GATEWAY, SPARE)] {
        let mut pair = members(6);
        let (before, since) = (identity(&pair), pair.log.len());
        carry(&mut pair, who, End::Remote, iface, by);
        assert_eq!(told(&pair, who), [(End::Remote, iface.0, by.0)]);
        pair.run(SECOND);
        assert_eq!(messages(&pair, since), 2);
        assert_carried(&pair, 1 - who, &[(iface.0, by.0)]);
        assert_eq!(told(&pair, 1 - who), [(End::Local, iface.0, by.0)]);
        carry(&mut pair, who, End::Remote, iface, iface);
        pair.run(SECOND);
        assert_carried(&pair, 1 - who, &[]);
        assert_eq!(identity(&pair), before);
        assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
    }
}

#[test]
fn a_choice_that_is_no_alternate_is_refused_and_undone() {
    mifsec_tests::covers!("R36", "R38");
    let mut pair = members(7);
    say(&mut pair, A, &[(WLAN, &[ETH])]);
    pair.run(SECOND);
    carry(&mut pair, B, End::Remote, WLAN, RAN);
    pair.run(SECOND);
    assert_carried(&pair, A, &[]);
    let both = [(End::Remote, 1, 2), (End::Remote, 1, 1)];
    assert_eq!(told(&pair, B), both, "made, and undone");
    assert!(told(&pair, A).is_empty());
    assert_eq!(pair.ends[B].failures().len(), 1);
    // What lends to it goes with it, and an alternate it has no more takes nothing.
    carry(&mut pair, B, End::Remote, WLAN, ETH);
    carry(&mut pair, A, End::Local, RAN, WLAN);
    pair.run(SECOND);
    assert_carried(&pair, A, &[(1, 3), (2, 3)]);
    say(&mut pair, A, &[(WLAN, &[])]);
    pair.run(SECOND);
    carry(&mut pair, B, End::Remote, WLAN, RAN);
    pair.run(SECOND);
    // But that what it lends to comes home, so that it does not lend in a circle.
    assert_carried(&pair, A, &[(1, 3)]);
}

#[test]
fn a_choice_names_an_address_its_owner_announced_whatever_it_is_seen_as() {
    let mut pair = members(8);
    let ike = pair.b().ike();
    // The gateway knows the RAN by what a NAT makes of it.
    let observed = ip("198.51.100.200");
    pair.command(
        B,
        Command::Carry {
            ike,
            end: End::Remote,
            iface: WLAN,
            by: RAN,
            old: ip("192.0.2.10"),
            new: observed,
            old_is_dead: true,
            grace: Duration::ZERO,
            channel: None,
        },
    );
    pair.run(SECOND);
    assert_carried(&pair, A, &[(1, 2)]);
    assert!(pair.ends[B].failures().is_empty());
}

#[test]
fn of_a_choice_and_the_owners_own_move_at_once_the_owners_counts() {
    // Whoever's message comes first.
    for first in [A, B] {
        let mut pair = members(9);
        pair.hold();
        carry(&mut pair, A, End::Local, WLAN, ETH);
        carry(&mut pair, B, End::Remote, WLAN, RAN);
        for who in [first, 1 - first] {
            pair.deliver(who, &["request"]);
        }
        pair.release();
        pair.run(30 * SECOND);
        assert_carried(&pair, A, &[(1, 3)]);
        assert_eq!(told(&pair, B).last(), Some(&(End::Remote, 1, 3)));
        assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
        assert_eq!(pair.ends[B].count("mif_select_overtaken"), 1);
    }
}

#[test]
fn a_choice_made_after_the_owners_move_counts_as_soon_as_that_is_settled() {
    let mut pair = members(10);
    pair.hold();
    carry(&mut pair, A, End::Local, WLAN, ETH);
    pair.deliver(A, &["request"]);
    // The gateway has it, its answer is on its way, and the Ethernet dies.
    carry(&mut pair, B, End::Remote, WLAN, RAN);
    pair.deliver(B, &["request"]);
    pair.release();
    pair.run(30 * SECOND);
    assert_carried(&pair, A, &[(1, 2)]);
    assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
}

#[test]
fn a_rekey_of_the_ike_sa_keeps_lists_carriers_and_transactions() {
    for who in [A, B] {
        let mut pair = members(11);
        say(&mut pair, A, &[(WLAN, &[ETH, RAN])]);
        say(&mut pair, B, &[(GATEWAY, &[])]);
        carry(&mut pair, A, End::Local, WLAN, RAN);
        carry(&mut pair, B, End::Remote, ETH, RAN);
        carry(&mut pair, B, End::Local, GATEWAY, SPARE);
        pair.run(SECOND);
        let before = (carried(&pair, A), carried(&pair, B));
        let ike = pair.ends[who].ike();
        pair.command(who, Command::RekeyIke { ike });
        pair.run(5 * SECOND);
        assert_eq!((carried(&pair, A), carried(&pair, B)), before);
        assert_carried(&pair, A, &[(1, 2), (3, 2)]);
        assert_eq!(alternates(&pair, A, WLAN), same(&[3, 2]));
        assert_eq!(alternates(&pair, B, GATEWAY), same(&[]));
        let since = pair.log.len();
        say(&mut pair, A, &[(WLAN, &[ETH, RAN])]);
        pair.run(SECOND);
        assert_eq!(messages(&pair, since), 0, "said already");
        // Transactions go on: the next one is no stale one.
        carry(&mut pair, A, End::Local, WLAN, WLAN);
        carry(&mut pair, B, End::Remote, ETH, ETH);
        pair.run(SECOND);
        assert_carried(&pair, A, &[]);
        assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
    }
}
