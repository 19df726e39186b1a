//! MIF_DELETE_INTERFACE between two engines: all SAs of an interface go by one
//! message that lists none.

use std::collections::BTreeSet;
use std::time::Duration;

use mifsec::ids::{IfaceId, IfacePair};
use mifsec::ike::config::EngineConfig;
use mifsec::ike::message::{ExchangeType, NotifyType, Payload};
use mifsec::ike::mif::{DeleteFlags, DeleteInterface, error};
use mifsec::ike::{Command, End, Event};
use mifsec_tests::sim::setup::{
    self, GATEWAY, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS, assert_agreement,
    established,
};
use mifsec_tests::sim::{A, B, Pair, ip};

const SECOND: Duration = Duration::from_secs(1);

/// Until what is deleted no longer receives what was on its way.
const SETTLED: Duration = Duration::from_secs(7);

const fn path(local: IfaceId, remote: IfaceId) -> IfacePair {
    IfacePair { local, remote }
}

/// The channel and one member on the RAN, interface 0 named at both ends.
fn connected(user: EngineConfig, gateway: EngineConfig, seed: u64) -> Pair {
    let mut pair = established(user, gateway, seed);
    for (who, local, remote) in [(A, RAN, GATEWAY), (B, GATEWAY, RAN)] {
        let ike = pair.ends[who].ike();
        pair.command(who, Command::ResolveChannel { ike, local, remote });
    }
    pair
}

fn add(pair: &Pair, lease: bool) -> Command {
    Command::AddInterface {
        ike: pair.ends[A].ike(),
        iface: WLAN,
        remote: GATEWAY,
        local_addr: ip(WLAN_ADDRESS),
        remote_addr: ip(GATEWAY_ADDRESS),
        inner: Vec::new(),
        lease,
        bundle: !lease,
        from: Vec::new(),
        pfs: false,
    }
}

/// A bundle over both accesses.
fn two_members(seed: u64) -> Pair {
    let mut pair = connected(setup::user(), setup::gateway(), seed);
    let command = add(&pair, false);
    pair.command(A, command);
    pair.run(SETTLED);
    assert_eq!(pair.a().children.len(), 2);
    pair
}

/// An access each with an inner address of its own.
fn two_pinned(seed: u64) -> Pair {
    let (mut user, mut gateway) = (setup::user(), setup::gateway());
    user.peers[0].children[0].bundle = false;
    gateway.peers[0].children[0].bundle = false;
    let mut pair = connected(user, gateway, seed);
    let command = add(&pair, true);
    pair.command(A, command);
    pair.run(SETTLED);
    assert_eq!(pair.a().children.len(), 2);
    pair
}

fn delete(pair: &Pair, who: usize, iface: IfaceId) -> Command {
    Command::DeleteInterface {
        ike: pair.ends[who].ike(),
        iface,
        outer: true,
        ts: false,
        move_first: false,
    }
}

fn deleted(pair: &Pair, who: usize) -> Vec<(End, IfaceId, usize)> {
    let events = pair.ends[who].events.iter();
    events
        .filter_map(|event| match event {
            Event::InterfaceDeleted {
                end,
                iface,
                removed,
                ..
            } => Some((*end, *iface, *removed)),
            _ => None,
        })
        .collect()
}

fn refused(pair: &Pair, who: usize) -> Vec<String> {
    let events = pair.ends[who].events.iter();
    events
        .filter_map(|event| match event {
            Event::DeleteRefused { reason, .. } => Some(reason.to_string()),
            _ => None,
        })
        .collect()
}

fn pairs(pair: &Pair, who: usize) -> BTreeSet<IfacePair> {
    pair.ends[who].children.values().map(|c| c.pair).collect()
}

/// What the other end answers to a forged request of A's.
fn answer(pair: &mut Pair, payload: Payload) -> Vec<Payload> {
    pair.forge(A, ExchangeType::INFORMATIONAL, None, false, &[payload]);
    let since = pair.log.len();
    pair.run(SETTLED);
    let mut answers = pair.log[since..].iter().filter(|(_, from, _)| *from == B);
    let answer = answers
        .next_back()
        .expect("every request is answered")
        .2
        .clone();
    let revealed = pair.ends[A].engine.reveal(&answer.payload);
    revealed.expect("an answer of this IKE SA").1
}

fn kinds(payloads: &[Payload]) -> Vec<NotifyType> {
    let notifies = payloads.iter().filter_map(|payload| match payload {
        Payload::Notify(notify) => Some(notify.kind),
        _ => None,
    });
    notifies.collect()
}

#[test]
fn one_request_without_an_spi_removes_what_is_on_the_interface_and_nothing_else() {
    mifsec_tests::covers!("R54", "R55");
    let mut pair = two_members(1);
    let since = pair.log.len();
    pair.hold();
    let command = delete(&pair, A, WLAN);
    pair.command(A, command);
    let request = pair.deliver(A, &["INFORMATIONAL request"]);
    assert!(!request.says.contains("D("), "{}", request.says);
    let response = pair.deliver(B, &["INFORMATIONAL response"]);
    assert!(response.says.contains("{D("), "{}", response.says);
    // What is on its way is still received, and nobody sends on it any more.
    assert_eq!(pair.ends.each_ref().map(|end| end.retired.len()), [1, 1]);
    assert_eq!(
        pair.ends.each_ref().map(|end| end.sending.in_use().len()),
        [1, 1]
    );
    pair.release();
    pair.run(SETTLED);
    assert_eq!(pair.log.len() - since, 2, "nothing but these two");
    assert_eq!(deleted(&pair, A), [(End::Local, WLAN, 1)]);
    assert_eq!(deleted(&pair, B), [(End::Remote, WLAN, 1)]);
    assert_eq!(pairs(&pair, A), [path(RAN, GATEWAY)].into());
    assert_eq!(pairs(&pair, B), [path(GATEWAY, RAN)].into());
    assert_agreement(&pair);
}

#[test]
fn a_deleted_interface_is_unknown_until_it_is_added_again() {
    let mut pair = two_members(2);
    let command = delete(&pair, A, WLAN);
    pair.command(A, command);
    pair.run(SETTLED);
    let ike = pair.a().ike();
    // A late update of it, and a Child SA on it: unknown.
    pair.command(
        A,
        Command::UpdateAddresses {
            ike,
            old_iface: WLAN,
            new_iface: WLAN,
            old: ip(WLAN_ADDRESS),
            new: ip("192.0.2.99"),
            behind_nat: false,
            old_is_dead: false,
            grace: Duration::ZERO,
            channel: None,
        },
    );
    pair.run(SECOND * 60);
    let failures = pair.ends[A].failures().join("; ");
    assert!(
        failures.contains("not in the announced table"),
        "{failures}"
    );
    // What else changes in the table does not bring it back.
    let mut ran = setup::record(RAN, RAN_ADDRESS);
    ran.weight = 9;
    let ifaces = vec![setup::record(WLAN, WLAN_ADDRESS), ran];
    pair.command(A, Command::SetInterfaces { ifaces });
    pair.run(SETTLED);
    let announced = pair.ends[B]
        .events
        .iter()
        .rev()
        .find_map(|event| match event {
            Event::PeerInterfaces { ifaces, .. } => Some(ifaces.clone()),
            _ => None,
        });
    let announced: Vec<_> = announced.unwrap().iter().map(|record| record.id).collect();
    assert_eq!(announced, [RAN]);
    // Added again it is there, with other keys than before.
    let command = add(&pair, false);
    pair.command(A, command);
    pair.run(SETTLED);
    assert_eq!(pair.a().children.len(), 2);
    assert_agreement(&pair);
    let command = delete(&pair, A, WLAN);
    pair.command(A, command);
    pair.run(SETTLED);
    assert_eq!(deleted(&pair, B).len(), 2);
    assert_eq!(pair.a().children.len(), 1);
}

#[test]
fn a_second_delete_of_the_same_succeeds_and_names_nothing() {
    let mut pair = two_members(3);
    let request = |txn| {
        let delete = DeleteInterface {
            txn,
            flags: DeleteFlags::OUTER,
            iface: WLAN,
        };
        Payload::Notify(delete.notify())
    };
    let first = answer(&mut pair, request(50));
    assert!(matches!(first[..], [Payload::Delete(_)]), "{first:?}");
    assert_eq!(answer(&mut pair, request(51)), []);
    assert_eq!(deleted(&pair, B).len(), 1);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let request = |txn, iface, flags| {
        let delete = DeleteInterface { txn, flags, iface };
        Payload::Notify(delete.notify())
    };
    let outer = DeleteFlags::OUTER;
    let cases = [
        (IfaceId(9), outer, error::MIF_UNKNOWN_INTERFACE),
        (RAN, outer, error::MIF_PATH_UNVALIDATED),
        (WLAN, DeleteFlags(0), NotifyType::INVALID_SYNTAX),
    ];
    for (iface, flags, expected) in cases {
        let mut pair = two_members(4);
        let answer = answer(&mut pair, request(50, iface, flags));
        assert_eq!(kinds(&answer), [expected]);
        assert!(deleted(&pair, B).is_empty());
        if expected != NotifyType::INVALID_SYNTAX {
            assert_eq!(pair.b().children.len(), 2);
        }
    }
    // An older operation on it than the one that added it.
    let mut pair = two_members(5);
    let answer = answer(&mut pair, request(0, WLAN, outer));
    assert_eq!(kinds(&answer), [error::MIF_STALE_TXN]);
    assert_eq!(pair.b().children.len(), 2);
}

#[test]
fn the_interface_of_the_channel_goes_only_after_the_channel() {
    let mut pair = two_members(6);
    let since = pair.log.len();
    let command = delete(&pair, A, RAN);
    pair.command(A, command);
    assert_eq!(pair.log.len(), since, "not even asked for");
    assert!(refused(&pair, A)[0].contains("no other path"));
    // The channel moves, and the delete follows without waiting to be told.
    let ike = pair.a().ike();
    let channel = setup::channel(WLAN, WLAN_ADDRESS);
    pair.command(A, Command::MoveChannel { ike, channel });
    let command = delete(&pair, A, RAN);
    pair.command(A, command);
    pair.run(SETTLED);
    assert_eq!(deleted(&pair, B), [(End::Remote, RAN, 1)]);
    assert_eq!(pairs(&pair, A), [path(WLAN, GATEWAY)].into());
    assert_agreement(&pair);
}

#[test]
fn with_the_move_first_pinned_sas_live_on_at_the_alternate_with_their_keys() {
    mifsec_tests::covers!("R54");
    let mut pair = two_pinned(7);
    let identity = |pair: &Pair, who: usize| -> BTreeSet<_> {
        let children = pair.ends[who].children.values();
        children
            .map(|c| (c.spi_in, c.spi_out, c.key_in.clone(), c.key_out.clone()))
            .collect()
    };
    let before = [identity(&pair, A), identity(&pair, B)];
    let leases = |pair: &Pair| pair.ends[B].engine.views()[0].leases.len();
    assert_eq!(leases(&pair), 4);
    let command = Command::DeleteInterface {
        ike: pair.a().ike(),
        iface: WLAN,
        outer: true,
        ts: true,
        move_first: true,
    };
    pair.command(A, command);
    pair.run(SETTLED);
    assert_eq!(deleted(&pair, A), [(End::Local, WLAN, 0)]);
    assert_eq!([identity(&pair, A), identity(&pair, B)], before);
    assert_eq!(pairs(&pair, A), [path(RAN, GATEWAY)].into());
    assert_eq!(pairs(&pair, B), [path(GATEWAY, RAN)].into());
    assert_eq!(leases(&pair), 4, "its inner address is in use");
}

/// The first alternate counts from the place in the table of the interface that
/// goes: it is still there at the end that is asked.
#[test]
fn with_the_move_first_both_ends_choose_the_same_alternate() {
    mifsec_tests::covers!("R36", "R54");
    let [first, last] = [IfaceId(5), IfaceId(6)];
    for (refused_first, overtaken) in [(false, false), (true, false), (false, true)] {
        let mut pair = two_pinned(30);
        let ifaces = vec![
            setup::record(first, "192.0.2.50"),
            setup::record(WLAN, WLAN_ADDRESS),
            setup::record(last, "192.0.2.60"),
            setup::record(RAN, RAN_ADDRESS),
        ];
        let mut changed = ifaces.clone();
        pair.command(A, Command::SetInterfaces { ifaces });
        pair.run(SECOND);
        let ike = pair.a().ike();
        let command = Command::DeleteInterface {
            ike,
            iface: WLAN,
            outer: true,
            ts: false,
            move_first: true,
        };
        if overtaken {
            pair.hold();
        }
        if refused_first {
            pair.hold();
            let ike = pair.b().ike();
            pair.command(B, Command::RekeyIke { ike });
        }
        pair.command(A, command);
        if refused_first {
            pair.deliver(A, &["MIF_DELETE_INTERFACE"]);
            let answer = pair.deliver(B, &["INFORMATIONAL response"]);
            assert!(answer.says.contains("TEMPORARY_FAILURE"), "{}", answer.says);
            pair.release();
        }
        if overtaken {
            // A move takes a table along in which it is missing already.
            changed[3].priority = 3;
            pair.command(A, Command::SetInterfaces { ifaces: changed });
            let channel = setup::channel(RAN, RAN_ADDRESS);
            pair.command(A, Command::MoveChannel { ike, channel });
            pair.deliver(A, &["MIF_INTERFACES", "MIF_UPDATE_ADDRS"]);
            pair.deliver(A, &["MIF_DELETE_INTERFACE"]);
            pair.release();
        }
        pair.run(SECOND * 5);
        assert_eq!(deleted(&pair, A), [(End::Local, WLAN, 0)]);
        let homes = [path(last, GATEWAY), path(RAN, GATEWAY)];
        assert_eq!(pairs(&pair, A), homes.into());
        let homes = [path(GATEWAY, last), path(GATEWAY, RAN)];
        assert_eq!(pairs(&pair, B), homes.into());
    }
}

#[test]
fn with_the_move_first_a_bundle_has_its_member_there_already() {
    let mut pair = two_members(8);
    let command = Command::DeleteInterface {
        ike: pair.a().ike(),
        iface: WLAN,
        outer: true,
        ts: false,
        move_first: true,
    };
    pair.command(A, command);
    pair.run(SETTLED);
    assert_eq!(deleted(&pair, A), [(End::Local, WLAN, 1)]);
    assert_eq!(pairs(&pair, B), [path(GATEWAY, RAN)].into());
    assert_agreement(&pair);
    // Nowhere to go: refused at either end.
    let mut pair = two_members(9);
    let mut records = vec![
        setup::record(WLAN, WLAN_ADDRESS),
        setup::record(RAN, RAN_ADDRESS),
    ];
    records[1].state = mifsec::ike::mif::IfaceState::DOWN;
    pair.command(A, Command::SetInterfaces { ifaces: records });
    pair.run(SETTLED);
    let command = Command::DeleteInterface {
        ike: pair.a().ike(),
        iface: WLAN,
        outer: true,
        ts: false,
        move_first: true,
    };
    pair.command(A, command);
    assert!(refused(&pair, A)[0].contains("no other path"));
    let delete = DeleteInterface {
        txn: 90,
        flags: DeleteFlags::OUTER.with(DeleteFlags::MOVE_TO_ALTERNATE_FIRST),
        iface: WLAN,
    };
    let answer = answer(&mut pair, Payload::Notify(delete.notify()));
    assert_eq!(kinds(&answer), [error::MIF_PATH_UNVALIDATED]);
    assert_eq!(pair.b().children.len(), 2);
}

#[test]
fn as_selector_what_was_leased_for_the_interface_goes_and_its_address_is_free() {
    mifsec_tests::covers!("R54");
    let mut pair = two_pinned(10);
    let leases = |pair: &Pair, who: usize| pair.ends[who].engine.views()[0].leases.clone();
    let before = leases(&pair, B);
    assert_eq!(before.len(), 4);
    // Wherever it rides: here it is at home on the RAN since.
    let command = Command::DeleteInterface {
        ike: pair.a().ike(),
        iface: WLAN,
        outer: false,
        ts: true,
        move_first: false,
    };
    pair.command(A, command);
    pair.run(SETTLED);
    assert_eq!(deleted(&pair, A), [(End::Local, WLAN, 1)]);
    assert_eq!(leases(&pair, A), before[..2]);
    assert_eq!(leases(&pair, B), before[..2]);
    assert_agreement(&pair);
    // The same address for the same, next time.
    let command = add(&pair, true);
    pair.command(A, command);
    pair.run(SETTLED);
    assert_eq!(leases(&pair, B), before);
    assert_agreement(&pair);
}

#[test]
fn both_ends_may_delete_theirs_at_once() {
    let second = IfaceId(2);
    let mut pair = two_members(11);
    let ifaces = vec![
        setup::record(GATEWAY, GATEWAY_ADDRESS),
        setup::record(second, "203.0.113.2"),
    ];
    pair.command(B, Command::SetInterfaces { ifaces });
    pair.run(SETTLED);
    let command = Command::CreateChild {
        ike: pair.a().ike(),
        child: "internet".into(),
        pair: path(WLAN, second),
        local: ip(WLAN_ADDRESS),
        remote: ip("203.0.113.2"),
    };
    pair.command(A, command);
    pair.run(SETTLED);
    assert_eq!(pair.a().children.len(), 3);
    pair.hold();
    let (of_a, of_b) = (delete(&pair, A, WLAN), delete(&pair, B, second));
    pair.command(A, of_a);
    pair.command(B, of_b);
    pair.release();
    pair.run(SETTLED);
    assert_eq!(pairs(&pair, A), [path(RAN, GATEWAY)].into());
    assert_agreement(&pair);
    assert_eq!((deleted(&pair, A).len(), deleted(&pair, B).len()), (2, 2));
}

#[test]
fn a_child_that_is_rekeyed_meanwhile_goes_with_its_successor() {
    for who in [A, B] {
        for late in [false, true] {
            let mut pair = two_members(12);
            let wlan = |pair: &Pair| {
                let children = pair.ends[who].children.iter();
                let on = |p: IfacePair| p.local == WLAN || p.remote == WLAN;
                let mut on_wlan = children.filter(|(_, c)| on(c.pair));
                on_wlan.next().map(|(id, _)| *id)
            };
            let child = wlan(&pair).unwrap();
            pair.hold();
            pair.command(who, Command::RekeyChild { child });
            if late {
                // The other end has the new one, the answer is on its way.
                pair.deliver(who, &["CREATE_CHILD_SA request"]);
            }
            let command = delete(&pair, A, WLAN);
            pair.command(A, command);
            pair.release();
            pair.run(SECOND * 10);
            assert_eq!(pairs(&pair, A), [path(RAN, GATEWAY)].into(), "{who} {late}");
            assert_eq!(pairs(&pair, B), [path(GATEWAY, RAN)].into(), "{who} {late}");
            assert_agreement(&pair);
            assert!(pair.ends.iter().all(|end| end.larval.is_empty()));
        }
    }
}

#[test]
fn it_waits_for_a_rekey_of_the_ike_sa() {
    for who in [A, B] {
        let mut pair = two_members(13);
        let ike = pair.ends[who].ike();
        pair.hold();
        pair.command(who, Command::RekeyIke { ike });
        let command = delete(&pair, A, WLAN);
        pair.command(A, command);
        if who == B {
            pair.deliver(A, &["MIF_DELETE_INTERFACE"]);
            let answer = pair.deliver(B, &["INFORMATIONAL response"]);
            assert!(answer.says.contains("TEMPORARY_FAILURE"), "{}", answer.says);
        }
        pair.release();
        pair.run(SETTLED);
        assert_eq!(deleted(&pair, A), [(End::Local, WLAN, 1)]);
        assert_eq!(pairs(&pair, B), [path(GATEWAY, RAN)].into());
        assert_agreement(&pair);
    }
}

#[test]
fn an_update_of_an_interface_that_was_deleted_first_is_refused() {
    let mut pair = two_members(14);
    let ike = pair.a().ike();
    pair.hold();
    let command = delete(&pair, A, WLAN);
    pair.command(A, command);
    pair.command(
        A,
        Command::UpdateAddresses {
            ike,
            old_iface: WLAN,
            new_iface: WLAN,
            old: ip(WLAN_ADDRESS),
            new: ip("192.0.2.99"),
            behind_nat: false,
            old_is_dead: true,
            grace: Duration::ZERO,
            channel: None,
        },
    );
    pair.deliver(A, &["MIF_DELETE_INTERFACE"]);
    pair.deliver(A, &["MIF_UPDATE_ADDRS"]);
    pair.deliver(B, &["D("]);
    let answer = pair.deliver(B, &["INFORMATIONAL response"]);
    assert!(
        answer.says.contains("MIF_UNKNOWN_INTERFACE"),
        "{}",
        answer.says
    );
    pair.release();
    pair.run(SECOND * 60);
    assert_eq!(pairs(&pair, B), [path(GATEWAY, RAN)].into());
}

/// What was refused for the moment is not asked again after the interface went.
#[test]
fn an_addition_that_waits_is_not_made_after_the_deletion() {
    let mut pair = connected(setup::user(), setup::gateway(), 31);
    pair.hold();
    let ike = pair.b().ike();
    pair.command(B, Command::RekeyIke { ike });
    let command = add(&pair, false);
    pair.command(A, command);
    pair.deliver(A, &["INFORMATIONAL request"]);
    let answer = pair.deliver(B, &["INFORMATIONAL response"]);
    assert!(answer.says.contains("TEMPORARY_FAILURE"), "{}", answer.says);
    let command = delete(&pair, A, WLAN);
    pair.command(A, command);
    pair.release();
    pair.run(SECOND * 30);
    let refused = pair.ends[A].events.iter();
    let refused = refused.filter(|event| matches!(event, Event::AddRefused { .. }));
    assert_eq!(refused.count(), 1);
    assert_eq!(deleted(&pair, A), [(End::Local, WLAN, 0)]);
    assert_eq!(pairs(&pair, A), [path(RAN, GATEWAY)].into());
    assert_agreement(&pair);
}

/// Each end asks for the same member in its own way: one is made.
#[test]
fn an_addition_that_crosses_a_create_child_sa_for_the_same_path_makes_one() {
    for first in [A, B] {
        let mut pair = connected(setup::user(), setup::gateway(), 32);
        pair.hold();
        let command = add(&pair, false);
        pair.command(A, command);
        let command = Command::CreateChild {
            ike: pair.b().ike(),
            child: "internet".into(),
            pair: path(GATEWAY, WLAN),
            local: ip(GATEWAY_ADDRESS),
            remote: ip(WLAN_ADDRESS),
        };
        pair.command(B, command);
        match first {
            A => pair.deliver(A, &["INFORMATIONAL request"]),
            _ => pair.deliver(B, &["CREATE_CHILD_SA request"]),
        };
        pair.release();
        pair.run(SECOND * 10);
        assert_eq!(pair.a().children.len(), 2, "first {first}");
        assert_agreement(&pair);
    }
}

/// The tables that reached an end, in order.
fn tables(pair: &Pair, who: usize) -> Vec<Vec<IfaceId>> {
    let events = pair.ends[who].events.iter();
    events
        .filter_map(|event| match event {
            Event::PeerInterfaces { ifaces, .. } => Some(ifaces.iter().map(|i| i.id).collect()),
            _ => None,
        })
        .collect()
}

/// From the first table on: there is no moment in which the peer could use it.
#[test]
fn what_is_deleted_for_a_peer_is_not_in_the_tables_of_its_next_ike_sa() {
    mifsec_tests::covers!("R54");
    for (lost, early) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut user = setup::user();
        user.peers[0].mobility.early_announce = early;
        let mut pair = connected(user, setup::gateway(), 40);
        let command = delete(&pair, A, WLAN);
        pair.command(A, command);
        pair.run(SECOND);
        if lost {
            for who in [A, B] {
                let ike = pair.ends[who].ike();
                pair.command(who, Command::GiveUp { ike });
            }
        }
        let since = tables(&pair, B).len();
        setup::connect(&mut pair);
        pair.run(SECOND);
        let newest = |pair: &Pair| *pair.ends[A].established().last().expect("one stands");
        let ike = newest(&pair);
        assert_eq!(tables(&pair, B)[since..], [[RAN]], "{lost} {early}");
        assert_eq!(pair.ends[A].engine.deleted(ike), [WLAN].into());
        pair.command(A, Command::RestoreInterface { ike, iface: WLAN });
        pair.run(SECOND);
        assert_eq!(tables(&pair, B)[since + 1..], [[WLAN, RAN]]);
        // And it is forgotten for the next one.
        setup::connect(&mut pair);
        pair.run(SECOND);
        assert!(pair.ends[A].engine.deleted(newest(&pair)).is_empty());
    }
}

/// What it is refused for passes; meanwhile a move has taken a table along in which
/// the interface is missing, and then it is given back.
#[test]
fn what_is_given_back_while_its_deletion_waits_is_announced_again() {
    let mut pair = connected(setup::user(), setup::gateway(), 46);
    pair.hold();
    let ike = pair.b().ike();
    pair.command(B, Command::RekeyIke { ike });
    let ike = pair.a().ike();
    let command = delete(&pair, A, WLAN);
    pair.command(A, command);
    let mut ifaces = vec![
        setup::record(WLAN, WLAN_ADDRESS),
        setup::record(RAN, RAN_ADDRESS),
    ];
    ifaces[1].priority = 3;
    pair.command(A, Command::SetInterfaces { ifaces });
    let channel = setup::channel(RAN, RAN_ADDRESS);
    pair.command(A, Command::MoveChannel { ike, channel });
    pair.deliver(A, &["MIF_INTERFACES", "MIF_UPDATE_ADDRS"]);
    pair.deliver(A, &["MIF_DELETE_INTERFACE"]);
    pair.deliver(B, &["TEMPORARY_FAILURE"]);
    pair.command(A, Command::RestoreInterface { ike, iface: WLAN });
    pair.release();
    pair.run(SECOND * 5);
    assert_eq!(tables(&pair, B).last(), Some(&vec![WLAN, RAN]));
}

/// An entry may be of several gateways, and which one answers is not known when the
/// first table leaves.
#[test]
fn what_is_deleted_for_one_gateway_of_an_entry_is_announced_to_another() {
    for early in [false, true] {
        let mut user = setup::user();
        user.peers[0].mobility.early_announce = early;
        user.peers[0].remote_id = "*".parse().expect("a pattern");
        let mut pair = connected(user, setup::gateway(), 44);
        let command = delete(&pair, A, WLAN);
        pair.command(A, command);
        pair.run(SECOND);
        let ike = pair.ends[A].ike();
        pair.command(A, Command::GiveUp { ike });
        let mut other = setup::gateway();
        other.peers[0].local_id = "gw2.example.org".parse().expect("an identity");
        pair.ends[B] = mifsec_tests::sim::End::new(setup::engine(other, 45));
        let ifaces = vec![setup::record(GATEWAY, setup::GATEWAY_ADDRESS)];
        pair.command(B, Command::SetInterfaces { ifaces });
        setup::connect(&mut pair);
        pair.run(SECOND);
        let told = tables(&pair, B);
        assert_eq!(told.last(), Some(&vec![WLAN, RAN]), "early: {early}");
    }
}

#[test]
fn what_is_restored_while_connected_over_it_is_not_deleted_in_the_next_ike_sa() {
    let mut pair = connected(setup::user(), setup::gateway(), 42);
    let command = delete(&pair, A, WLAN);
    pair.command(A, command);
    pair.run(SECOND);
    let remembered = |pair: &Pair| pair.ends[A].engine.is_deleted_for("gw", WLAN);
    assert!(remembered(&pair));
    let newest = |pair: &Pair| *pair.ends[A].established().last().expect("one stands");
    let (peer, channel) = ("gw".into(), setup::channel(WLAN, setup::WLAN_ADDRESS));
    pair.command(A, Command::Initiate { peer, channel });
    pair.run(SECOND);
    let ike = newest(&pair);
    let engine = &pair.ends[A].engine;
    assert!(engine.deleted(ike).is_empty() && engine.remembers_deleted(ike, WLAN));
    pair.command(A, Command::RestoreInterface { ike, iface: WLAN });
    assert!(!pair.ends[A].engine.remembers_deleted(ike, WLAN) && !remembered(&pair));
    setup::connect(&mut pair);
    pair.run(SECOND);
    assert!(pair.ends[A].engine.deleted(newest(&pair)).is_empty());
}

/// The agent connects over it again, and whoever asked heard that the IKE SA closed.
#[test]
fn a_deletion_that_waits_when_the_ike_sa_ends_is_forgotten() {
    let mut pair = connected(setup::user(), setup::gateway(), 43);
    pair.hold();
    let ike = pair.ends[A].ike();
    pair.command(A, Command::RekeyIke { ike });
    let command = delete(&pair, A, WLAN);
    pair.command(A, command);
    for who in [A, B] {
        let ike = pair.ends[who].ike();
        pair.command(who, Command::GiveUp { ike });
    }
    pair.release();
    setup::connect(&mut pair);
    pair.run(SECOND);
    assert!(!pair.ends[A].engine.is_deleted_for("gw", WLAN));
    let ike = *pair.ends[A].established().last().expect("one stands");
    assert!(pair.ends[A].engine.deleted(ike).is_empty());
}

#[test]
fn whoever_is_connected_to_may_delete_an_interface_and_restore_it() {
    const SPARE: IfaceId = IfaceId(2);
    let mut pair = two_members(41);
    let ifaces = vec![
        setup::record(GATEWAY, GATEWAY_ADDRESS),
        setup::record(SPARE, "203.0.113.2"),
    ];
    pair.command(B, Command::SetInterfaces { ifaces });
    pair.run(SECOND);
    let (ike, iface) = (pair.ends[B].ike(), SPARE);
    let command = delete(&pair, B, SPARE);
    pair.command(B, command);
    pair.run(SECOND);
    assert_eq!(deleted(&pair, A), [(End::Remote, SPARE, 0)]);
    pair.command(B, Command::RestoreInterface { ike, iface });
    pair.run(SECOND);
    let all = [vec![GATEWAY], vec![GATEWAY, SPARE], vec![GATEWAY, SPARE]];
    assert_eq!(tables(&pair, A), all);
    // While the deletion is on its way it is brought back after that.
    let command = delete(&pair, B, SPARE);
    pair.command(B, command);
    pair.command(B, Command::RestoreInterface { ike, iface });
    pair.run(SECOND);
    assert_eq!(deleted(&pair, A).len(), 2);
    assert_eq!(tables(&pair, A)[3..], [[GATEWAY, SPARE]]);
    // While it waits it is not deleted at all.
    pair.hold();
    let theirs = pair.ends[A].ike();
    pair.command(A, Command::RekeyIke { ike: theirs });
    let command = delete(&pair, B, SPARE);
    pair.command(B, command);
    pair.deliver(B, &["MIF_DELETE_INTERFACE"]);
    pair.deliver(A, &["TEMPORARY_FAILURE"]);
    pair.command(B, Command::RestoreInterface { ike, iface });
    pair.release();
    pair.run(SECOND * 5);
    assert_eq!(refused(&pair, B).len(), 1, "{:?}", refused(&pair, B));
    assert_eq!(deleted(&pair, A).len(), 2);
    assert!(pair.ends[B].engine.deleted(ike).is_empty());
}

/// A table that left later hides the interface; the peer has nothing on it then, and
/// says that it knows of none.
#[test]
fn a_delete_that_comes_after_a_table_without_the_interface_has_succeeded() {
    let mut pair = connected(setup::user(), setup::gateway(), 42);
    let ike = pair.ends[A].ike();
    pair.hold();
    let command = delete(&pair, A, WLAN);
    pair.command(A, command);
    let mut ifaces = vec![
        setup::record(WLAN, WLAN_ADDRESS),
        setup::record(RAN, RAN_ADDRESS),
    ];
    ifaces[1].priority = 3;
    pair.command(A, Command::SetInterfaces { ifaces });
    let channel = setup::channel(RAN, RAN_ADDRESS);
    pair.command(A, Command::MoveChannel { ike, channel });
    pair.deliver(A, &["MIF_INTERFACES", "MIF_UPDATE_ADDRS"]);
    pair.deliver(A, &["MIF_DELETE_INTERFACE"]);
    let answer = pair.deliver(B, &["MIF_UNKNOWN_INTERFACE"]);
    assert!(answer.says.contains("response"), "{}", answer.says);
    pair.release();
    pair.run(SECOND);
    assert!(refused(&pair, A).is_empty());
    assert_eq!(deleted(&pair, A), [(End::Local, WLAN, 0)]);
    let told = tables(&pair, B);
    assert_eq!(told.last(), Some(&vec![RAN]), "it is not announced again");
}

#[test]
fn by_selectors_alone_an_interface_stays_that_has_others_on_it() {
    // Both have the inner address that was leased first, for no interface.
    let mut pair = two_members(43);
    let command = Command::DeleteInterface {
        ike: pair.ends[A].ike(),
        iface: WLAN,
        outer: false,
        ts: true,
        move_first: false,
    };
    pair.command(A, command);
    pair.run(SETTLED);
    assert_eq!(deleted(&pair, A), [(End::Local, WLAN, 0)]);
    let both = BTreeSet::from([path(RAN, GATEWAY), path(WLAN, GATEWAY)]);
    assert_eq!(pairs(&pair, A), both);
    assert!(pair.ends[A].engine.deleted(pair.ends[A].ike()).is_empty());
    // It is still an interface that may be moved.
    let command = Command::Carry {
        ike: pair.ends[A].ike(),
        end: End::Local,
        iface: WLAN,
        by: RAN,
        old: ip(WLAN_ADDRESS),
        new: ip(RAN_ADDRESS),
        old_is_dead: false,
        grace: SECOND,
        channel: None,
    };
    pair.command(A, command);
    pair.run(SETTLED);
    assert!(pair.ends[A].failures().is_empty());
    assert_eq!(tables(&pair, B).last().map(Vec::len), Some(2));
}
