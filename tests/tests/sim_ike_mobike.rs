//! MOBIKE (RFC 4555) between two engines without MIF: one pair of addresses at a
//! time, moved by the initiator; SPIs, keys and counters stay.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mifsec::ids::Arrival;
use mifsec::ike::config::{EngineConfig, Mobility, Require};
use mifsec::ike::message::Header;
use mifsec::ike::mif::InterfaceRecord;
use mifsec::ike::{Channel, Command, Event, Failure, Nat as NatFound};
use mifsec_tests::sim::setup::{
    self, GATEWAY, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS, assert_agreement,
    established,
};
use mifsec_tests::sim::{A, B, Nat, Pair, ip, socket};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const V6: [&str; 2] = ["2001:db8::20", "2001:db8:1::1"];
const SECOND_GATEWAY: &str = "203.0.113.2";

/// MOBIKE alone, and the truth about NATs.
const HONEST: Mobility = Mobility {
    mif: false,
    mobike: true,
    force_udp: false,
    no_nats: false,
    early_announce: false,
};

fn with(mut config: EngineConfig, mobility: Mobility) -> EngineConfig {
    config.peers[0].mobility = mobility;
    config
}

/// The gateway leaves it to the end user whether there is MIF.
fn gateway() -> EngineConfig {
    let mobility = Mobility {
        mif: true,
        ..HONEST
    };
    with(setup::gateway(), mobility)
}

/// The end user on its RAN, MIF turned off there.
fn mobike(mobility: Mobility, seed: u64) -> Pair {
    established(with(setup::user(), mobility), gateway(), seed)
}

fn move_to(pair: &mut Pair, channel: Channel) {
    let ike = pair.a().ike();
    pair.command(A, Command::MoveChannel { ike, channel });
}

fn wlan() -> Channel {
    setup::channel(WLAN, WLAN_ADDRESS)
}

fn ran() -> Channel {
    setup::channel(RAN, RAN_ADDRESS)
}

/// What must not change in a move.
fn identity(pair: &Pair) -> Vec<(u32, u32, Vec<u8>, Vec<u8>)> {
    let children = pair.ends.iter().flat_map(|end| end.children.values());
    children
        .map(|c| (c.spi_in.0, c.spi_out.0, c.key_in.clone(), c.key_out.clone()))
        .collect()
}

/// Where the gateway's data goes to, and what NAT it sees, move by move.
fn followed(pair: &Pair) -> Vec<(SocketAddr, NatFound)> {
    let moved = |event: &Event| match event {
        Event::ChannelMoved { observed, nat, .. } => Some((observed.remote, *nat)),
        _ => None,
    };
    pair.ends[B].events.iter().filter_map(moved).collect()
}

/// What the end user knows to be confirmed, move by move.
fn confirmed(pair: &Pair) -> Vec<(SocketAddr, NatFound)> {
    let confirmed = |event: &Event| match event {
        Event::ChannelConfirmed { channel, nat, .. } => Some((channel.local, *nat)),
        _ => None,
    };
    pair.ends[A].events.iter().filter_map(confirmed).collect()
}

fn lists(pair: &Pair, who: usize) -> Vec<Vec<IpAddr>> {
    let list = |event: &Event| match event {
        Event::PeerAddresses { addresses, .. } => Some(addresses.clone()),
        _ => None,
    };
    pair.ends[who].events.iter().filter_map(list).collect()
}

fn tables(pair: &mut Pair, who: usize, ifaces: Vec<InterfaceRecord>) {
    pair.command(who, Command::SetInterfaces { ifaces });
}

/// Both ends use the end user's `local`, and their Child SAs are the same ones.
fn assert_on(pair: &Pair, local: SocketAddr) {
    assert_eq!(pair.ends[A].engine.views()[0].channel.local, local);
    assert_eq!(pair.ends[B].engine.views()[0].channel.remote, local);
    assert_agreement(pair);
}

#[test]
fn both_ends_agree_on_mobike_and_learn_each_others_further_addresses() {
    let pair = mobike(HONEST, 1);
    let found = |who: usize| {
        pair.ends[who].events.iter().find_map(|event| match event {
            Event::Established {
                mif,
                mobike,
                peer_addresses,
                ..
            } => Some((mif.is_some(), *mobike, peer_addresses.clone())),
            _ => None,
        })
    };
    assert_eq!(found(A), Some((false, true, vec![])));
    assert_eq!(found(B), Some((false, true, vec![ip(WLAN_ADDRESS)])));
    assert!(pair.ends[A].engine.views()[0].mobike);
}

#[test]
fn what_one_end_turned_off_is_not_used_whichever_end_it_is() {
    let off = Mobility {
        mobike: false,
        ..HONEST
    };
    let gateway = with(setup::gateway(), off);
    for (user, gateway) in [
        (with(setup::user(), off), setup::gateway()),
        (setup::user(), gateway),
    ] {
        let pair = established(user, gateway, 2);
        for end in &pair.ends {
            let view = &end.engine.views()[0];
            assert!(!view.mif && !view.mobike);
        }
    }
}

#[test]
fn a_peer_that_is_required_to_have_mobike_may_have_mif_instead_but_not_neither() {
    let require = |mobility| {
        let mut user = setup::user();
        user.peers[0].require = Require::Mobike;
        let gateway = with(setup::gateway(), mobility);
        let mut pair = setup::pair(user, gateway, 3);
        setup::connect(&mut pair);
        pair.run(SECOND);
        pair
    };
    let mif = Mobility {
        mif: true,
        mobike: false,
        ..HONEST
    };
    for mobility in [HONEST, mif] {
        assert_eq!(require(mobility).ends[A].established().len(), 1);
    }
    let neither = Mobility {
        mobike: false,
        ..HONEST
    };
    let pair = require(neither);
    assert_eq!(pair.ends[A].established().len(), 0);
    let failures = pair.ends[A].failures();
    assert!(failures[0].contains("neither IKEv2-MIF nor MOBIKE"));
}

#[test]
fn a_move_is_an_update_and_a_return_routability_check_and_touches_no_sa() {
    let mut pair = mobike(HONEST, 4);
    let before = identity(&pair);
    let since = pair.log.len();
    move_to(&mut pair, wlan());
    assert!(
        pair.ends[A].children.values().all(|c| c.pair.local == WLAN),
        "Child SAs go with the channel"
    );
    pair.run(15 * MS);
    assert!(
        followed(&pair).is_empty(),
        "not before the new address answered"
    );
    pair.run(10 * MS);
    assert_eq!(confirmed(&pair).len(), 1);
    pair.run(SECOND);
    let log = &pair.log[since..];
    let senders: Vec<_> = log.iter().map(|(_, who, _)| *who).collect();
    // Update; its answer, then the check; the answer to that.
    assert_eq!(senders, [A, B, B, A]);
    assert!(
        log.iter()
            .all(|(.., t)| t.local.port() == 4500 && t.remote.port() == 4500)
    );
    let none = NatFound::default();
    assert_eq!(followed(&pair), [(wlan().local, none)]);
    assert_eq!(confirmed(&pair), [(wlan().local, none)]);
    assert_eq!(identity(&pair), before);
    assert_on(&pair, wlan().local);
}

/// IKE_AUTH came from port 4500, and that is where the peer answered.
#[test]
fn an_update_from_where_the_peer_authenticated_is_not_checked_again() {
    let mut pair = mobike(HONEST, 24);
    let since = pair.log.len();
    move_to(&mut pair, ran());
    pair.run(SECOND);
    let asked = pair.log[since..].iter().filter(|(_, who, transmit)| {
        let (header, ..) = Header::decode(&transmit.payload).expect("ours");
        *who == B && !header.response
    });
    assert_eq!(asked.count(), 0);
    assert_eq!(confirmed(&pair).len(), 1);
}

#[test]
fn wlan_to_ran_and_back_is_checked_each_time() {
    let mut pair = mobike(HONEST, 5);
    for channel in [wlan(), ran(), wlan(), ran()] {
        move_to(&mut pair, channel);
        pair.run(SECOND);
        assert_on(&pair, channel.local);
        assert_eq!(followed(&pair).last().map(|f| f.0), Some(channel.local));
    }
    assert_eq!(followed(&pair).len(), 4);
    assert!(pair.ends[A].failures().is_empty());
}

#[test]
fn a_lost_update_is_sent_again_and_reported_and_may_be_tried_from_another_pair() {
    let mut pair = mobike(HONEST, 6);
    pair.dead.insert(ip(WLAN_ADDRESS));
    let before = identity(&pair);
    move_to(&mut pair, wlan());
    let (_, _, first) = pair.log.last().unwrap().clone();
    let quiet = |pair: &Pair| {
        let quiet = |e: &Event| matches!(e, Event::ChannelQuiet { tries: 2, .. });
        pair.ends[A].events.iter().any(quiet)
    };
    assert!(pair.run_until(5 * SECOND, quiet));
    let since = pair.log.len();
    move_to(&mut pair, ran());
    let (_, _, again) = &pair.log[since];
    assert_eq!(again.payload, first.payload, "the same request elsewhere");
    assert_eq!(again.local, ran().local);
    pair.run(SECOND);
    assert_on(&pair, ran().local);
    // The answer to the first is not taken for one to the second.
    assert_eq!(confirmed(&pair).len(), 1);
    assert_eq!(confirmed(&pair)[0].0, ran().local);
    assert_eq!(identity(&pair), before);
}

#[test]
fn quick_moves_are_at_most_one_more_update_and_the_newest_wins() {
    let mut pair = mobike(HONEST, 7);
    let since = pair.log.len();
    for channel in [wlan(), ran(), wlan(), ran(), wlan()] {
        move_to(&mut pair, channel);
    }
    pair.run(2 * SECOND);
    assert_on(&pair, wlan().local);
    assert_eq!(confirmed(&pair), [(wlan().local, NatFound::default())]);
    let requests: BTreeSet<_> = pair.log[since..]
        .iter()
        .filter(|(_, who, _)| *who == A)
        .map(|(.., t)| t.payload.clone())
        .collect();
    // Two updates and an answer for each check the gateway made.
    assert!(requests.len() <= 4, "{}", requests.len());
}

#[test]
fn child_sas_stay_where_they_are_until_the_new_address_answered() {
    let mut pair = mobike(HONEST, 8);
    move_to(&mut pair, wlan());
    // The update gets through; nothing sent back to the new address does.
    pair.run(10 * MS);
    pair.lose_all();
    pair.dead.insert(ip(WLAN_ADDRESS));
    pair.run(10 * SECOND);
    assert!(followed(&pair).is_empty());
    // The end user goes back, and there it answers.
    move_to(&mut pair, ran());
    pair.run(10 * SECOND);
    assert_on(&pair, ran().local);
    assert_eq!(followed(&pair).last().map(|f| f.0), Some(ran().local));
    assert!(followed(&pair).iter().all(|f| f.0 == ran().local));
}

#[test]
fn a_nat_that_appears_and_vanishes_is_found_by_both_ends() {
    let mut pair = mobike(HONEST, 9);
    let public = ip("192.0.2.250");
    let behind = NatFound {
        local: true,
        remote: false,
    };
    let before_it = NatFound {
        local: false,
        remote: true,
    };
    pair.nat = Some(Nat::new(public));
    move_to(&mut pair, wlan());
    pair.run(SECOND);
    assert_eq!(confirmed(&pair).last(), Some(&(wlan().local, behind)));
    let (remote, nat) = *followed(&pair).last().unwrap();
    assert_eq!((remote.ip(), nat), (public, before_it));
    pair.nat = None;
    move_to(&mut pair, ran());
    pair.run(SECOND);
    let none = NatFound::default();
    assert_eq!(confirmed(&pair).last(), Some(&(ran().local, none)));
    assert_eq!(followed(&pair).last(), Some(&(ran().local, none)));
}

#[test]
fn esp_in_udp_is_forced_by_a_source_nobody_has_from_either_end_and_in_every_move() {
    let forced = Mobility {
        force_udp: true,
        ..HONEST
    };
    let mut pair = established(
        with(setup::user(), forced),
        with(setup::gateway(), forced),
        10,
    );
    for who in [A, B] {
        let nat = pair.ends[who].engine.views()[0].nat;
        assert!(nat.remote, "the peer seems to be behind a NAT");
        assert!(!nat.local, "we know better of ourselves");
    }
    move_to(&mut pair, wlan());
    pair.run(SECOND);
    let seen = NatFound {
        local: false,
        remote: true,
    };
    assert_eq!(confirmed(&pair), [(wlan().local, seen)]);
    assert_eq!(followed(&pair), [(wlan().local, seen)]);
}

#[test]
fn the_family_of_addresses_may_change_to_and_fro() {
    let mut pair = mobike(HONEST, 11);
    let before = identity(&pair);
    let [user, gateway] = V6;
    let v6 = Channel {
        local_iface: WLAN,
        ifindex: 2,
        local: SocketAddr::new(ip(user), 4500),
        remote: SocketAddr::new(ip(gateway), 4500),
    };
    for channel in [v6, ran(), v6, wlan()] {
        move_to(&mut pair, channel);
        pair.run(SECOND);
        assert_on(&pair, channel.local);
        assert_eq!(pair.ends[B].engine.views()[0].channel.local, channel.remote);
    }
    assert_eq!(identity(&pair), before);
}

#[test]
fn an_address_that_cannot_be_a_peers_is_refused_and_nothing_moves() {
    let mut pair = mobike(HONEST, 12);
    // The gateway has that address itself.
    let ours = setup::record(GATEWAY, WLAN_ADDRESS);
    tables(
        &mut pair,
        B,
        vec![setup::record(GATEWAY, GATEWAY_ADDRESS), ours],
    );
    pair.run(SECOND);
    move_to(&mut pair, wlan());
    pair.run(SECOND);
    assert!(followed(&pair).is_empty() && confirmed(&pair).is_empty());
    assert_eq!(pair.ends[B].engine.views()[0].channel.remote, ran().local);
    assert_eq!(pair.ends[B].count("mobike_refused"), 1);
    let refused = |e: &Event| matches!(e, Event::MoveRefused { iface, reason: Failure::UnacceptableAddresses, .. } if *iface == WLAN);
    assert!(pair.ends[A].events.iter().any(refused));
    move_to(&mut pair, ran());
    pair.run(SECOND);
    assert_on(&pair, ran().local);
}

#[test]
fn with_nats_forbidden_a_move_behind_one_is_refused_and_others_are_not() {
    let forbid = Mobility {
        no_nats: true,
        ..HONEST
    };
    let mut pair = mobike(forbid, 13);
    move_to(&mut pair, wlan());
    pair.run(SECOND);
    assert_on(&pair, wlan().local);
    pair.nat = Some(Nat::new(ip("192.0.2.250")));
    move_to(&mut pair, ran());
    pair.run(2 * SECOND);
    let refusals = |pair: &Pair| {
        let refused = |e: &&Event| {
            matches!(
                e,
                Event::MoveRefused {
                    reason: Failure::UnexpectedNat,
                    ..
                }
            )
        };
        pair.ends[A].events.iter().filter(refused).count()
    };
    assert_eq!(refusals(&pair), 0, "an attacker may change a single packet");
    pair.run(30 * SECOND);
    assert_eq!(refusals(&pair), 1);
    assert!(pair.ends[B].count("mobike_refused") > 4);
    assert_eq!(followed(&pair).len(), 1);
    assert_eq!(pair.ends[B].engine.views()[0].channel.remote, wlan().local);
}

#[test]
fn with_nats_forbidden_no_ike_sa_is_made_through_one() {
    let forbid = Mobility {
        no_nats: true,
        ..HONEST
    };
    let mut pair = setup::pair(with(setup::user(), forbid), setup::gateway(), 14);
    pair.nat = Some(Nat::new(ip("192.0.2.250")));
    setup::connect(&mut pair);
    pair.run(SECOND);
    for end in &pair.ends {
        assert!(end.established().is_empty());
        assert!(end.failures()[0].contains("a NAT sits between"));
    }
}

#[test]
fn new_interfaces_are_told_as_a_complete_list_of_at_most_eight() {
    let mut pair = mobike(HONEST, 15);
    let record = |id: u16, address: &str| setup::record(mifsec::ids::IfaceId(id), address);
    let ran_only = vec![setup::record(RAN, RAN_ADDRESS)];
    tables(&mut pair, A, ran_only.clone());
    pair.run(SECOND);
    assert_eq!(lists(&pair, B), [vec![ip(RAN_ADDRESS)]], "no further ones");
    let mut many = ran_only;
    many.extend((1..=12).map(|i| record(10 + i, &format!("192.0.2.{i}"))));
    tables(&mut pair, A, many.clone());
    pair.run(SECOND);
    let told = lists(&pair, B).last().unwrap().clone();
    assert_eq!(told.len(), 9);
    assert_eq!(told[..2], [ip(RAN_ADDRESS), ip("192.0.2.1")]);
    // Nothing to say where nothing changed that is told.
    let since = pair.log.len();
    many.truncate(9);
    tables(&mut pair, A, many);
    pair.run(SECOND);
    assert_eq!(pair.log.len(), since);
    // The gateway tells its own.
    let ours = vec![
        setup::record(GATEWAY, GATEWAY_ADDRESS),
        record(2, SECOND_GATEWAY),
        record(3, V6[1]),
    ];
    tables(&mut pair, B, ours);
    pair.run(SECOND);
    let expected = vec![ip(GATEWAY_ADDRESS), ip(SECOND_GATEWAY), ip(V6[1])];
    assert_eq!(lists(&pair, A), [expected]);
}

#[test]
fn a_responder_that_lost_its_address_says_so_from_another_and_the_initiator_moves() {
    let mut pair = mobike(HONEST, 16);
    let b = pair.b().ike();
    pair.dead.insert(ip(GATEWAY_ADDRESS));
    tables(&mut pair, B, vec![setup::record(GATEWAY, SECOND_GATEWAY)]);
    let channel = Channel {
        local_iface: GATEWAY,
        ifindex: 2,
        local: SocketAddr::new(ip(SECOND_GATEWAY), 4500),
        remote: ran().local,
    };
    pair.command(B, Command::MoveChannel { ike: b, channel });
    pair.run(SECOND);
    let told = lists(&pair, A).last().unwrap().clone();
    assert_eq!(told, [ip(SECOND_GATEWAY)]);
    let to = Channel {
        remote: channel.local,
        ..ran()
    };
    move_to(&mut pair, to);
    pair.run(SECOND);
    assert_eq!(confirmed(&pair).len(), 1);
    assert_eq!(pair.ends[B].engine.views()[0].channel.local, channel.local);
    assert_agreement(&pair);
    assert!(pair.ends[B].failures().is_empty());
}

/// A gateway whose end user sits behind a NAT that has just forgotten it.
fn rebound(mobility: Mobility, seed: u64) -> (Pair, Arrival) {
    let mut pair = setup::pair(with(setup::user(), mobility), setup::gateway(), seed);
    let nat = Nat::new(ip("192.0.2.250"));
    pair.nat = Some(nat);
    setup::connect(&mut pair);
    pair.run(SECOND);
    let nat = pair.nat.as_mut().expect("set above");
    nat.rebind();
    let gateway = socket("203.0.113.1:4500");
    let observed = Arrival {
        ifindex: 2,
        local: gateway,
        remote: nat.outbound(ran().local, gateway),
    };
    (pair, observed)
}

#[test]
fn the_source_of_data_behind_a_nat_is_followed_once_it_answered() {
    let (mut pair, observed) = rebound(HONEST, 17);
    let ike = pair.b().ike();
    let since = pair.log.len();
    pair.command(B, Command::FollowPeer { ike, observed });
    pair.command(B, Command::FollowPeer { ike, observed });
    assert!(followed(&pair).is_empty());
    assert_eq!(pair.log.len(), since + 1, "asked once, and only there");
    assert_eq!(pair.log[since].2.remote, observed.remote);
    pair.run(SECOND);
    assert_eq!(followed(&pair).len(), 1);
    assert_eq!(followed(&pair)[0].0, observed.remote);
    pair.command(B, Command::CheckLiveness { ike });
    assert_eq!(pair.log.last().unwrap().2.remote, observed.remote);
    pair.run(SECOND);
    assert!(pair.ends[B].failures().is_empty());
}

/// Who follows is the one that was called, whoever rekeyed the IKE SA since.
#[test]
fn a_rekey_by_the_gateway_does_not_change_who_follows() {
    let mut pair = setup::pair(with(setup::user(), HONEST), setup::gateway(), 17);
    pair.nat = Some(Nat::new(ip("192.0.2.250")));
    setup::connect(&mut pair);
    pair.run(SECOND);
    let ike = pair.b().ike();
    pair.command(B, Command::RekeyIke { ike });
    pair.run(SECOND);
    let nat = pair.nat.as_mut().expect("set above");
    nat.rebind();
    let observed = Arrival {
        ifindex: 2,
        local: socket("203.0.113.1:4500"),
        remote: nat.outbound(ran().local, socket("203.0.113.1:4500")),
    };
    pair.command(B, Command::FollowPeer { ike, observed });
    pair.run(SECOND);
    assert_eq!(followed(&pair).len(), 1);
    assert_eq!(followed(&pair)[0].0, observed.remote);
    assert!(pair.ends[B].failures().is_empty());
}

#[test]
fn data_copied_to_us_from_elsewhere_moves_nothing_and_breaks_nothing() {
    let mut pair = mobike(
        Mobility {
            force_udp: true,
            ..HONEST
        },
        18,
    );
    let ike = pair.b().ike();
    let observed = Arrival {
        ifindex: 2,
        local: socket("203.0.113.1:4500"),
        remote: socket("198.18.0.66:4500"),
    };
    pair.dead.insert(observed.remote.ip());
    pair.command(B, Command::FollowPeer { ike, observed });
    pair.run(60 * SECOND);
    assert!(followed(&pair).is_empty());
    assert_eq!(pair.ends[B].count("mobike_not_followed"), 1);
    assert_eq!(pair.ends[B].established().len(), 1);
    assert_eq!(pair.ends[B].engine.views()[0].channel.remote, ran().local);
}

#[test]
fn without_a_nat_the_source_of_data_means_nothing() {
    let mut pair = mobike(HONEST, 19);
    let ike = pair.b().ike();
    let observed = Arrival {
        ifindex: 2,
        local: socket("203.0.113.1:4500"),
        remote: wlan().local,
    };
    let since = pair.log.len();
    pair.command(B, Command::FollowPeer { ike, observed });
    pair.run(SECOND);
    assert_eq!((pair.log.len(), followed(&pair).len()), (since, 0));
}

#[test]
fn a_peer_without_mobike_is_followed_behind_its_nat_by_data_and_by_requests() {
    let plain = Mobility {
        mobike: false,
        ..HONEST
    };
    let (mut pair, observed) = rebound(plain, 20);
    let ike = pair.b().ike();
    pair.command(B, Command::FollowPeer { ike, observed });
    assert_eq!(followed(&pair).len(), 1);
    assert_eq!(followed(&pair)[0].0, observed.remote);
    let (mut pair, observed) = rebound(plain, 21);
    let ike = pair.a().ike();
    pair.command(A, Command::CheckLiveness { ike });
    pair.run(SECOND);
    assert_eq!(followed(&pair)[0].0, observed.remote);
    // One that is not behind a NAT is not.
    let mut pair = mobike(plain, 22);
    let ike = pair.a().ike();
    move_to(&mut pair, wlan());
    pair.command(A, Command::CheckLiveness { ike });
    pair.run(SECOND);
    assert!(followed(&pair).is_empty());
    assert_eq!(
        pair.ends[A].established().len(),
        1,
        "its answer came all the same"
    );
}

#[test]
fn a_move_while_another_exchange_is_under_way_takes_it_along() {
    let mut pair = mobike(HONEST, 23);
    let ike = pair.a().ike();
    pair.dead.insert(ip(RAN_ADDRESS));
    pair.command(A, Command::CheckLiveness { ike });
    let (_, _, lost) = pair.log.last().unwrap().clone();
    pair.run(100 * MS);
    let since = pair.log.len();
    move_to(&mut pair, wlan());
    assert_eq!(pair.log[since].2.payload, lost.payload);
    pair.run(2 * SECOND);
    assert_on(&pair, wlan().local);
    assert_eq!(confirmed(&pair).len(), 1);
    for end in &pair.ends {
        assert!(end.failures().len() <= 1, "{:?}", end.failures());
    }
}

#[test]
fn both_ends_ask_at_once_while_the_channel_moves() {
    for seed in 0..20 {
        let mut pair = mobike(HONEST, 100 + seed);
        let (a, b) = (pair.a().ike(), pair.b().ike());
        pair.command(B, Command::CheckLiveness { ike: b });
        move_to(&mut pair, wlan());
        pair.command(A, Command::CheckLiveness { ike: a });
        pair.run(u32::try_from(seed).unwrap() * MS);
        move_to(&mut pair, ran());
        pair.run(3 * SECOND);
        assert_on(&pair, ran().local);
        assert_eq!(followed(&pair).last().map(|f| f.0), Some(ran().local));
        assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
    }
}

#[test]
fn whatever_is_lost_doubled_or_late_both_ends_end_up_on_the_last_pair() {
    for seed in 0..300 {
        let mut pair = mobike(HONEST, 1000 + seed);
        let before = identity(&pair);
        for link in &mut pair.links {
            link.loss = 0.25;
            link.duplicate = 0.1;
            link.jitter = Duration::from_millis(80);
        }
        let channels = [wlan(), ran(), wlan(), ran(), wlan()];
        for (i, channel) in channels.into_iter().enumerate() {
            if i % 2 == 1 {
                pair.nat = Some(Nat::new(ip("192.0.2.250")));
            } else {
                pair.nat = None;
            }
            move_to(&mut pair, channel);
            let pause = (seed * 37 + i as u64 * 131) % 900;
            pair.run(Duration::from_millis(pause));
        }
        pair.nat = None;
        move_to(&mut pair, ran());
        pair.run(SECOND);
        for link in &mut pair.links {
            link.loss = 0.0;
        }
        pair.run(60 * SECOND);
        assert_eq!(pair.ends[A].established().len(), 1, "seed {seed}");
        assert_on(&pair, ran().local);
        let last = followed(&pair).last().copied();
        assert_eq!(
            last,
            Some((ran().local, NatFound::default())),
            "seed {seed}"
        );
        assert_eq!(identity(&pair), before, "seed {seed}");
    }
}
