//! One interface lends its Child SAs to another and takes them back: one message
//! each, whatever their number, and no Child SA is touched.

use std::time::{Duration, Instant};

use mifsec::ids::IfaceId;
use mifsec::ike::config::EngineConfig;
use mifsec::ike::mif::UpdateFlags;
use mifsec::ike::{Command, End, Event};
use mifsec_tests::sim::setup::{self, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS, assert_agreement};
use mifsec_tests::sim::{A, B, Pair, ip};

use super::world::*;

#[test]
fn a_merge_and_a_split_are_one_message_each_and_touch_no_sa() {
    mifsec_tests::covers!("R25", "R26", "R30", "R32");
    let mut pair = members(1);
    let (before, since) = (identity(&pair), pair.log.len());
    let rebinds = pair.ends[A].rebinds + pair.ends[B].rebinds;
    carry(&mut pair, A, End::Local, WLAN, RAN);
    assert_eq!(told(&pair, A), [(End::Local, 1, 2)], "at once at our end");
    pair.run(SECOND);
    assert_eq!(messages(&pair, since), 2, "request and response");
    assert_carried(&pair, A, &[(1, 2)]);
    assert_eq!(told(&pair, B), [(End::Remote, 1, 2)]);
    let moved = pair.ends[B].events.iter().find_map(|event| match event {
        Event::PeerMoved { update, .. } => Some(*update),
        _ => None,
    });
    let moved = moved.expect("the addresses too");
    assert!(
        moved
            .flags
            .has(UpdateFlags::TUNNEL.with(UpdateFlags::OLD_IS_DEAD))
    );
    assert_eq!(
        (moved.old.ip, moved.new.ip),
        (ip(WLAN_ADDRESS), ip(RAN_ADDRESS))
    );
    carry(&mut pair, A, End::Local, WLAN, WLAN);
    pair.run(SECOND);
    assert_eq!(messages(&pair, since), 4);
    assert_carried(&pair, A, &[]);
    assert_eq!(told(&pair, B).last(), Some(&(End::Remote, 1, 1)));
    assert_eq!(identity(&pair), before);
    assert_eq!(pair.ends[A].rebinds + pair.ends[B].rebinds, rebinds);
    assert_agreement(&pair);
}

#[test]
fn what_was_lent_goes_where_its_carrier_goes_and_each_interface_is_split_by_itself() {
    mifsec_tests::covers!("R26", "R30");
    let mut pair = members(2);
    carry(&mut pair, A, End::Local, WLAN, RAN);
    carry(&mut pair, A, End::Local, RAN, ETH);
    pair.run(SECOND);
    assert_carried(&pair, A, &[(1, 3), (2, 3)]);
    carry(&mut pair, A, End::Local, RAN, RAN);
    pair.run(SECOND);
    assert_carried(&pair, A, &[(1, 2)]);
    carry(&mut pair, A, End::Local, WLAN, WLAN);
    pair.run(SECOND);
    assert_carried(&pair, A, &[]);
    let heard = [(1, 2), (1, 3), (2, 3), (1, 2), (2, 2), (1, 1)];
    assert_eq!(
        told(&pair, B),
        heard.map(|(iface, by)| (End::Remote, iface, by))
    );
}

#[test]
fn an_interface_that_carried_another_lends_to_it_without_a_circle() {
    for (who, end) in [(A, End::Local), (B, End::Remote)] {
        let mut pair = members(2);
        carry(&mut pair, who, end, WLAN, RAN);
        pair.run(SECOND);
        // The WLAN is back and the RAN dies before the WLAN took its own back.
        carry(&mut pair, who, end, RAN, WLAN);
        pair.run(SECOND);
        assert_carried(&pair, A, &[(2, 1)]);
        assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
    }
}

#[test]
fn who_lent_to_an_interface_that_is_deleted_lends_to_whoever_carried_it() {
    let mut pair = members(2);
    carry(&mut pair, A, End::Local, RAN, WLAN);
    carry(&mut pair, A, End::Local, WLAN, ETH);
    pair.run(SECOND);
    assert_carried(&pair, A, &[(1, 3), (2, 3)]);
    let command = Command::DeleteInterface {
        ike: pair.a().ike(),
        iface: WLAN,
        outer: true,
        ts: false,
        move_first: false,
    };
    pair.command(A, command);
    pair.run(SECOND);
    assert_carried(&pair, A, &[(2, 3)]);
    carry(&mut pair, A, End::Local, RAN, RAN);
    pair.run(SECOND);
    assert_carried(&pair, A, &[]);
    assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
}

#[test]
fn a_new_address_of_a_lent_interface_takes_its_child_sas_back() {
    let mut pair = members(3);
    let update = |pair: &mut Pair, new: &str| Command::UpdateAddresses {
        ike: pair.a().ike(),
        old_iface: WLAN,
        new_iface: WLAN,
        old: ip(WLAN_ADDRESS),
        new: ip(new),
        behind_nat: false,
        old_is_dead: true,
        grace: Duration::ZERO,
        channel: None,
    };
    let command = update(&mut pair, "192.0.2.11");
    pair.command(A, command);
    pair.run(SECOND);
    assert!(told(&pair, A).is_empty() && told(&pair, B).is_empty());
    carry(&mut pair, A, End::Local, WLAN, RAN);
    let command = update(&mut pair, "192.0.2.12");
    pair.command(A, command);
    pair.run(SECOND);
    assert_carried(&pair, A, &[]);
    let whole = [(End::Remote, 1, 2), (End::Remote, 1, 1)];
    assert_eq!(told(&pair, B), whole);
}

/// `n` services, each a Child SA of its own on the WLAN.
fn services(n: usize) -> [EngineConfig; 2] {
    let (mut user, mut gateway) = (setup::user(), setup::gateway());
    for k in 0..n {
        let (name, net) = (
            format!("s{k}"),
            format!("100.64.{}.{}/32", k / 250, k % 250),
        );
        let mut child = setup::child(&name, &[None], &[Some(&net)]);
        child.bundle = false;
        user.peers[0].children.push(child);
        let mut child = setup::child(&name, &[Some(&net)], &[None]);
        child.bundle = false;
        gateway.peers[0].children.push(child);
    }
    [user, gateway]
}

#[test]
fn a_thousand_child_sas_move_with_one_message() {
    mifsec_tests::covers!("R28", "R30");
    let sizes: Vec<_> = [1, 1000].map(moved_together).to_vec();
    assert_eq!(sizes[0], sizes[1], "octets, for one and for a thousand");
}

/// Octets of the request that moves `n` Child SAs.
fn moved_together(n: usize) -> usize {
    let [user, gateway] = services(n);
    let mut pair = tables(user, gateway, 4);
    let ike = pair.a().ike();
    for k in 0..n {
        pair.command(A, member(ike, &format!("s{k}"), WLAN));
    }
    let all = |pair: &Pair| pair.ends[A].children.len() == n + 1;
    assert!(
        pair.run_until(600 * SECOND, all),
        "{}",
        pair.a().children.len()
    );
    pair.run(10 * SECOND);
    let (before, since) = (identity(&pair), pair.log.len());
    let counts = |pair: &Pair| [A, B].map(|who| (pair.ends[who].rebinds, pair.ends[who].installs));
    let sas = counts(&pair);
    let begun = Instant::now();
    carry(&mut pair, A, End::Local, WLAN, RAN);
    let took = begun.elapsed();
    pair.run(SECOND);
    assert_eq!(messages(&pair, since), 2);
    assert_carried(&pair, A, &[(1, 2)]);
    assert_eq!((told(&pair, A).len(), told(&pair, B).len()), (1, 1));
    assert_eq!(identity(&pair), before);
    assert_eq!(counts(&pair), sas, "no SA request at all");
    let octets = pair.log[since].2.payload.len();
    println!("{n} Child SAs: one request of {octets} octets, command {took:?}");
    octets
}

#[test]
fn a_move_from_one_family_to_the_other_is_a_move() {
    mifsec_tests::covers!("R26");
    let mut pair = members(5);
    let v6 = "2001:db8::30";
    let mut ifaces = users();
    ifaces[2] = setup::record(ETH, v6);
    pair.command(A, Command::SetInterfaces { ifaces });
    let ike = pair.a().ike();
    let change = |iface: IfaceId, by: IfaceId, old: &str, new: &str| Command::Carry {
        ike,
        end: End::Local,
        iface,
        by,
        old: ip(old),
        new: ip(new),
        old_is_dead: true,
        grace: Duration::ZERO,
        channel: None,
    };
    pair.command(A, change(WLAN, ETH, WLAN_ADDRESS, v6));
    pair.run(SECOND);
    assert_carried(&pair, A, &[(1, 3)]);
    pair.command(A, change(WLAN, RAN, v6, RAN_ADDRESS));
    pair.run(SECOND);
    assert_carried(&pair, A, &[(1, 2)]);
    let addresses: Vec<_> = pair.ends[B]
        .events
        .iter()
        .filter_map(|event| match event {
            Event::PeerMoved { update, .. } => Some((update.old.ip, update.new.ip)),
            _ => None,
        })
        .collect();
    assert_eq!(
        addresses,
        [(ip(WLAN_ADDRESS), ip(v6)), (ip(v6), ip(RAN_ADDRESS))]
    );
}

#[test]
fn an_interface_that_is_gone_from_the_table_still_lends_its_child_sas() {
    let mut pair = members(6);
    // The dongle is pulled: its owner does not announce it any more, and then moves
    // what was on it.
    let mut ifaces = users();
    ifaces.remove(2);
    pair.command(
        A,
        Command::SetInterfaces {
            ifaces: ifaces.clone(),
        },
    );
    pair.run(SECOND);
    carry(&mut pair, A, End::Local, ETH, RAN);
    pair.run(SECOND);
    assert_carried(&pair, A, &[(3, 2)]);
    assert!(pair.ends[A].failures().is_empty());
    // A table later it is still so; one that never was is refused.
    ifaces[0].priority = 7;
    pair.command(A, Command::SetInterfaces { ifaces });
    pair.run(SECOND);
    assert_carried(&pair, A, &[(3, 2)]);
    carry(&mut pair, A, End::Local, IfaceId(9), RAN);
    pair.run(60 * SECOND);
    assert!(pair.ends[A].failures()[0].contains("announce it first"));
}

/// Its owner remembers who carries it, and so does the other end: what is said later
/// means the same to both.
#[test]
fn an_interface_that_comes_back_is_carried_by_whoever_carried_it() {
    let mut pair = members(7);
    carry(&mut pair, A, End::Local, ETH, RAN);
    pair.run(SECOND);
    let is_on = |c: &&mifsec_tests::sim::Installed| c.pair.local == ETH;
    let child = pair.ends[A].children.iter();
    let child = child.filter(|(_, c)| is_on(c)).map(|(id, _)| *id).next();
    let child = child.expect("a member");
    pair.command(A, Command::DeleteChild { child });
    pair.run(SECOND);
    for ifaces in [users()[..2].to_vec(), users()] {
        pair.command(A, Command::SetInterfaces { ifaces });
        pair.run(SECOND);
        assert_carried(&pair, A, &[(3, 2)]);
    }
    let ike = pair.a().ike();
    pair.command(A, member(ike, "internet", ETH));
    carry(&mut pair, A, End::Local, ETH, ETH);
    pair.run(SECOND);
    assert_carried(&pair, A, &[]);
    for who in [A, B] {
        let end = [End::Local, End::Remote][who];
        assert_eq!(told(&pair, who), [(end, 3, 2), (end, 3, 3)]);
    }
}

/// Who names ever new interfaces is not believed for ever, and what is forgotten is
/// told.
#[test]
fn no_more_than_a_tables_worth_of_carriers_is_remembered() {
    let mut pair = members(8);
    for n in 0..100u16 {
        let id = IfaceId(100 + n);
        let mut ifaces = users();
        ifaces.push(setup::record(id, "192.0.2.77"));
        pair.command(A, Command::SetInterfaces { ifaces });
        pair.run(SECOND);
        carry(&mut pair, A, End::Local, id, RAN);
        pair.run(SECOND);
    }
    let [own, others] = carried(&pair, A);
    assert_eq!(own.len(), 100);
    assert!(others.len() <= 65, "{}", others.len());
    let told = told(&pair, B);
    let forgotten = told.iter().filter(|(_, iface, by)| iface == by).count();
    assert_eq!(forgotten, 100 - others.len());
}
