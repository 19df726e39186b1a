//! Tables: when they are told, what beside them, and what a table does not do.

use mifsec::ids::IfaceId;
use mifsec::ike::message::{ExchangeType, NotifyType, Payload};
use mifsec::ike::mif::{IfaceState, InterfaceRecord, status};
use mifsec::ike::{Command, Event};
use mifsec_tests::sim::setup::{
    self, GATEWAY, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS,
};
use mifsec_tests::sim::{A, B, Pair, ip};

use super::world::*;

/// Requests of `who` that carry this notify, by exchange.
fn carriers(pair: &Pair, who: usize, kind: NotifyType) -> Vec<ExchangeType> {
    let sent = pair.log.iter().filter(|(_, from, _)| *from == who);
    let read = sent.filter_map(|(_, _, t)| pair.ends[who].engine.reveal(&t.payload));
    let has = |payloads: &[Payload]| {
        let has = |p: &Payload| matches!(p, Payload::Notify(notify) if notify.kind == kind);
        payloads.iter().any(has)
    };
    read.filter(|(header, payloads)| !header.response && has(payloads))
        .map(|(header, _)| header.exchange)
        .collect()
}

/// Tables as the agent at `who` got them.
fn heard(pair: &Pair, who: usize) -> Vec<Vec<InterfaceRecord>> {
    let events = pair.ends[who].events.iter();
    let tables = events.filter_map(|event| match event {
        Event::PeerInterfaces { ifaces, .. } => Some(ifaces.clone()),
        _ => None,
    });
    tables.collect()
}

#[test]
fn the_end_user_tells_its_interfaces_after_ike_auth_and_with_early_announce_within() {
    mifsec_tests::covers!("R15", "R21", "R51");
    for early in [false, true] {
        let mut user = setup::user();
        user.peers[0].mobility.early_announce = early;
        let pair = setup::established(user, setup::gateway(), 1);
        let expected = match early {
            false => ExchangeType::INFORMATIONAL,
            true => ExchangeType::IKE_AUTH,
        };
        assert_eq!(carriers(&pair, A, status::MIF_INTERFACES), [expected]);
        assert_eq!(heard(&pair, B).len(), 1);
        assert_eq!(heard(&pair, B)[0].len(), 2);
        // The IKE SA is known before its peer's table.
        let place = |wanted: fn(&Event) -> bool| pair.ends[B].events.iter().position(wanted);
        let established = place(|event| matches!(event, Event::Established { .. }));
        let table = place(|event| matches!(event, Event::PeerInterfaces { .. }));
        assert!(established < table);
    }
}

#[test]
fn an_early_table_the_gateway_does_not_keep_is_told_again_as_far_as_it_does() {
    let (mut user, mut gateway) = (setup::user(), setup::gateway());
    user.peers[0].mobility.early_announce = true;
    gateway.limits.interfaces = 1;
    let pair = setup::established(user, gateway, 2);
    assert_eq!(heard(&pair, B).len(), 1);
    assert_eq!(heard(&pair, B)[0].len(), 1);
    assert_eq!(pair.ends[B].count("mif_too_many"), 1);
    assert!(pair.ends[A].failures().is_empty());
}

#[test]
fn nothing_is_told_early_to_a_gateway_that_is_not_to_have_it() {
    let (mut user, mut gateway) = (setup::user(), setup::gateway());
    user.peers[0].mobility.early_announce = true;
    gateway.peers[0].mobility.mif = false;
    let pair = setup::established(user, gateway, 3);
    assert!(
        heard(&pair, B).is_empty(),
        "without the extension it means nothing"
    );
}

#[test]
fn the_address_list_of_mobike_says_what_the_table_says() {
    let mut pair = members(4);
    let lists = |pair: &Pair| -> Vec<Vec<String>> {
        let events = pair.ends[B].events.iter();
        let lists = events.filter_map(|event| match event {
            Event::PeerAddresses { addresses, .. } => Some(addresses.clone()),
            _ => None,
        });
        lists
            .map(|list| list.iter().map(ToString::to_string).collect())
            .collect()
    };
    assert_eq!(lists(&pair), [[RAN_ADDRESS, WLAN_ADDRESS, ETH_ADDRESS]]);
    let mut ifaces = users();
    ifaces.truncate(2);
    ifaces[0].state = IfaceState::DOWN;
    pair.command(A, Command::SetInterfaces { ifaces });
    pair.run(SECOND);
    assert_eq!(lists(&pair)[1..], [[RAN_ADDRESS]]);
    // In one message with the table, and none without news.
    let since = pair.log.len();
    let mut ifaces = users();
    ifaces.truncate(2);
    ifaces[0].state = IfaceState::DOWN;
    ifaces[1].weight = 9;
    pair.command(A, Command::SetInterfaces { ifaces });
    pair.run(SECOND);
    assert_eq!(messages(&pair, since), 2);
    assert_eq!(lists(&pair).len(), 2);
    assert_eq!(heard(&pair, B).last().unwrap()[1].weight, 9);
}

#[test]
fn an_interface_is_known_before_it_has_an_address_and_makes_no_sa_when_it_gets_one() {
    mifsec_tests::covers!("R40", "R52");
    for who in [A, B] {
        let mut pair = setup::established(setup::user(), setup::gateway(), 5);
        let installs = [A, B].map(|who| pair.ends[who].installs);
        let (first, address) = [(RAN, RAN_ADDRESS), (GATEWAY, GATEWAY_ADDRESS)][who];
        let mut ifaces = vec![
            setup::record(first, address),
            setup::record(ETH, ETH_ADDRESS),
        ];
        ifaces[1].state = IfaceState::NO_ADDRESS;
        ifaces[1].addresses.clear();
        pair.command(
            who,
            Command::SetInterfaces {
                ifaces: ifaces.clone(),
            },
        );
        pair.run(SECOND);
        let last = |pair: &Pair| heard(pair, 1 - who).last().unwrap()[1].clone();
        assert_eq!(last(&pair), ifaces[1]);
        ifaces[1] = setup::record(ETH, ETH_ADDRESS);
        pair.command(who, Command::SetInterfaces { ifaces });
        pair.run(SECOND);
        assert_eq!(last(&pair).addresses[0].ip, ip(ETH_ADDRESS));
        assert_eq!([A, B].map(|who| pair.ends[who].installs), installs);
    }
}

#[test]
fn a_gateway_that_announces_a_further_interface_changes_nothing_by_it() {
    mifsec_tests::covers!("R13", "R41", "R52");
    let mut pair = setup::established(setup::user(), setup::gateway(), 6);
    let (before, since) = (identity(&pair), pair.log.len());
    let ifaces = gateways();
    pair.command(B, Command::SetInterfaces { ifaces });
    pair.run(10 * SECOND);
    assert_eq!(messages(&pair, since), 2);
    assert_eq!(heard(&pair, A).last().unwrap().len(), 2);
    assert_eq!(identity(&pair), before);
    assert_carried(&pair, B, &[]);
}

#[test]
fn link_local_and_our_own_addresses_are_left_out_of_a_table_and_counted() {
    let mut pair = setup::established(setup::user(), setup::gateway(), 7);
    let mut ifaces = vec![setup::record(WLAN, WLAN_ADDRESS)];
    for bad in ["fe80::1", "127.0.0.1", "224.0.0.5", GATEWAY_ADDRESS] {
        let record = setup::record(IfaceId(9), bad);
        ifaces[0].addresses.extend(record.addresses);
    }
    pair.command(A, Command::SetInterfaces { ifaces });
    pair.run(SECOND);
    let table = heard(&pair, B).pop().unwrap();
    assert_eq!(table[0].addresses.len(), 1);
    assert_eq!(pair.ends[B].count("mif_address"), 4);
}
