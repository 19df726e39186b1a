//! What does not come about, and what both operators get to read.

use std::time::Duration;

use mifsec::crypto::{KeGroup, PrfAlgorithm};
use mifsec::ids::Arrival;
use mifsec::ike::config::{EngineConfig, Require};
use mifsec::ike::message::{self, Body, ExchangeType, Header, Notify, NotifyType, Payload};
use mifsec::ike::proposal::IkeProposal;
use mifsec::ike::{Command, Event};
use mifsec_tests::sim::setup::{
    self, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, assert_agreement, connect, established,
};
use mifsec_tests::sim::{A, B, Nat, Pair, ip, socket};

/// One line each, with the mend, and no IKE SA left.
fn assert_refused(pair: &mut Pair, at_user: &str, at_gateway: &str) {
    connect(pair);
    pair.run(Duration::from_secs(60));
    for (end, expected) in [(A, at_user), (B, at_gateway)] {
        let failures = pair.ends[end].failures();
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert!(failures[0].contains(expected), "{failures:?}");
        assert!(failures[0].contains(": "), "names the mend: {failures:?}");
        assert!(pair.ends[end].engine.views().is_empty());
        assert!(pair.ends[end].children.is_empty());
        assert!(pair.ends[end].larval.is_empty());
    }
    assert_eq!(pair.in_flight(), 0);
}

#[test]
fn a_wrong_secret_is_named_at_both_ends() {
    let mut user = setup::user();
    user.peers[0].remote_auth = setup::psk("wrong");
    let mut pair = setup::pair(user, setup::gateway(), 1);
    assert_refused(
        &mut pair,
        "the peer refused our authentication",
        "the secret of \"laptop@example.org\" differs",
    );
    assert_eq!(pair.ends[B].count("ike_authentication"), 1);
}

#[test]
fn an_unknown_peer_gets_the_same_answer_as_a_wrong_secret() {
    let mut user = setup::user();
    user.peers[0].local_id = "laptop@elsewhere.org".parse().unwrap();
    let mut pair = setup::pair(user, setup::gateway(), 1);
    assert_refused(
        &mut pair,
        "the peer refused our authentication",
        "unknown peer \"laptop@elsewhere.org\"",
    );
}

#[test]
fn a_gateway_of_another_name_is_not_trusted_and_learns_it() {
    let mut gateway = setup::gateway();
    gateway.peers[0].local_id = "evil.example.org".parse().unwrap();
    let mut user = setup::user();
    user.peers[0].remote_id = "*gw.example.org".parse().unwrap();
    let mut pair = setup::pair(user, gateway, 1);
    assert_refused(
        &mut pair,
        "the peer is \"evil.example.org\"",
        "the peer refused our authentication",
    );
}

#[test]
fn no_common_algorithms_is_believed_only_after_a_while() {
    let mut user = setup::user();
    user.peers[0].ike_proposals = vec![IkeProposal {
        prfs: vec![PrfAlgorithm::HmacSha384],
        ..IkeProposal::default()
    }];
    let mut gateway = setup::gateway();
    gateway.peers[0].ike_proposals = vec![IkeProposal {
        prfs: vec![PrfAlgorithm::HmacSha256],
        ..IkeProposal::default()
    }];
    let mut pair = setup::pair(user, gateway, 1);
    connect(&mut pair);
    pair.run(Duration::from_secs(1));
    assert!(
        pair.ends[A].failures().is_empty(),
        "anybody may have sent it"
    );
    pair.run(Duration::from_secs(10));
    assert!(pair.ends[A].failures()[0].contains("no common IKE algorithms"));
    assert!(pair.ends[B].failures()[0].contains("no common IKE algorithms"));
}

#[test]
fn selectors_without_common_part_cost_the_child_sa_not_the_ike_sa() {
    let mut gateway = setup::gateway();
    gateway.peers[0].children = vec![setup::child("lan", &[Some("10.9.0.0/16")], &[None])];
    let mut user = setup::user();
    user.peers[0].children = vec![setup::child("lan", &[None], &[Some("10.8.0.0/16")])];
    let pair = established(user, gateway, 1);
    for end in &pair.ends {
        assert!(end.children.is_empty() && end.larval.is_empty());
        let failures = end.failures();
        assert_eq!(failures.len(), 1);
        assert!(
            failures[0].contains("no common traffic selectors"),
            "{failures:?}"
        );
    }
}

#[test]
fn without_an_address_there_is_an_ike_sa_but_no_child_sa() {
    let mut gateway = setup::gateway();
    gateway.peers[0].pool = None;
    let pair = established(setup::user(), gateway, 1);
    for end in &pair.ends {
        assert!(end.children.is_empty() && end.larval.is_empty());
        assert!(
            end.failures()[0].contains("no inner address"),
            "{:?}",
            end.failures()
        );
    }
}

#[test]
fn esp_without_common_algorithms_costs_the_child_sa_only() {
    let mut user = setup::user();
    user.peers[0].esp_proposals[0].aeads.truncate(1);
    let mut gateway = setup::gateway();
    gateway.peers[0].esp_proposals[0].aeads.remove(0);
    let pair = established(user, gateway, 1);
    for end in &pair.ends {
        assert!(end.failures()[0].contains("no common ESP algorithms"));
    }
}

#[test]
fn a_demand_for_mif_is_met_between_two_of_us() {
    let mut user = setup::user();
    user.peers[0].require = Require::Mif;
    let mut gateway = setup::gateway();
    gateway.peers[0].require = Require::Mif;
    assert_agreement(&established(user, gateway, 1));
}

#[test]
fn another_key_exchange_method_takes_one_more_round() {
    let mut user = setup::user();
    user.peers[0].ike_proposals[0].groups = vec![KeGroup::X25519, KeGroup::Ecp384];
    let mut gateway = setup::gateway();
    gateway.peers[0].ike_proposals[0].groups = vec![KeGroup::Ecp384];
    let pair = established(user, gateway, 1);
    assert_agreement(&pair);
    let inits = pair.log.iter().filter(|(_, who, transmit)| {
        *who == A && transmit.payload[18] == ExchangeType::IKE_SA_INIT.0
    });
    assert_eq!(inits.count(), 2);
}

/// An unprotected error as anybody could send it to the end user.
fn refusal(pair: &Pair, kind: NotifyType, data: &[u8]) -> (Arrival, Vec<u8>) {
    let (_, _, request) = pair
        .log
        .iter()
        .rfind(|(_, who, _)| *who == A)
        .expect("the end user has asked");
    let (header, ..) = Header::decode(&request.payload).expect("our own message");
    let header = Header {
        response: true,
        initiator: false,
        ..header
    };
    let notify = Notify::new(kind, data.to_vec());
    let arrival = Arrival {
        ifindex: 3,
        local: request.local,
        remote: request.remote,
    };
    let bytes = message::encode_clear(&header, &[Payload::Notify(notify)]);
    (arrival, bytes)
}

#[test]
fn a_forged_refusal_does_not_outlive_the_good_answer() {
    let mut pair = setup::pair(setup::user(), setup::gateway(), 1);
    connect(&mut pair);
    let (arrival, bytes) = refusal(&pair, NotifyType::NO_PROPOSAL_CHOSEN, &[]);
    pair.inject(A, arrival, &bytes);
    // The good answer comes, then IKE_AUTH takes longer than a refusal is doubted.
    pair.run(Duration::from_millis(15));
    pair.links[A].latency = Duration::from_secs(3);
    pair.run(Duration::from_secs(10));
    assert!(pair.ends[A].failures().is_empty());
    assert_eq!(pair.ends[A].established().len(), 1);
}

#[test]
fn a_second_copy_of_a_wish_for_another_method_is_not_a_refusal() {
    let mut user = setup::user();
    user.peers[0].ike_proposals[0].groups = vec![KeGroup::X25519, KeGroup::Ecp384];
    let mut gateway = setup::gateway();
    gateway.peers[0].ike_proposals[0].groups = vec![KeGroup::Ecp384];
    let mut pair = setup::pair(user, gateway, 1);
    connect(&mut pair);
    let wish = KeGroup::Ecp384.number().to_be_bytes();
    let (arrival, bytes) = refusal(&pair, NotifyType::INVALID_KE_PAYLOAD, &wish);
    pair.inject(A, arrival, &bytes);
    pair.dead.insert(ip(RAN_ADDRESS));
    pair.inject(A, arrival, &bytes);
    pair.run(Duration::from_secs(4));
    pair.dead.clear();
    pair.run(Duration::from_secs(30));
    assert!(pair.ends[A].failures().is_empty());
    assert_eq!(pair.ends[A].established().len(), 1);
}

#[test]
fn under_load_a_cookie_is_asked_for_and_returned() {
    let mut gateway = setup::gateway();
    gateway.limits.cookie_threshold = 0;
    let pair = established(setup::user(), gateway, 1);
    assert_agreement(&pair);
    assert_eq!(pair.ends[B].count("ike_cookie"), 1);
}

#[test]
fn a_cookie_and_another_method_together_still_converge() {
    let mut user = setup::user();
    user.peers[0].ike_proposals[0].groups = vec![KeGroup::X25519, KeGroup::Ecp256];
    let mut gateway = setup::gateway();
    gateway.limits.cookie_threshold = 0;
    gateway.peers[0].ike_proposals[0].groups = vec![KeGroup::Ecp256];
    assert_agreement(&established(user, gateway, 1));
}

/// IKE_SA_INIT requests as a flood of senders would make them, each from the
/// address `from` gives it; with `cookies` the senders answer those.
fn flood(pair: &mut Pair, count: u64, from: impl Fn(u64) -> String, cookies: bool) {
    connect(pair);
    let (_, _, first) = pair.log.pop().expect("the first request");
    pair.lose_all();
    let Ok((header, Body::Clear(payloads))) = message::decode(&first.payload) else {
        panic!("a request in clear");
    };
    for n in 0..count {
        let header = Header {
            spi_i: mifsec::ids::IkeSpi(n + 1),
            ..header
        };
        let arrival = Arrival {
            ifindex: 2,
            local: socket(&format!("{GATEWAY_ADDRESS}:500")),
            remote: socket(&from(n)),
        };
        let log = pair.log.len();
        pair.inject(B, arrival, &message::encode_clear(&header, &payloads));
        let answer = pair.log.get(log).map(|(_, _, t)| t.payload.clone());
        if let Some(Ok((_, Body::Clear(answer)))) = answer.as_deref().map(message::decode)
            && let Some(Payload::Notify(cookie)) = answer.first()
            && cookies
        {
            let mut payloads = payloads.clone();
            payloads.insert(0, Payload::Notify(cookie.clone()));
            pair.inject(B, arrival, &message::encode_clear(&header, &payloads));
        }
        pair.lose_all();
    }
}

fn one_source(_: u64) -> String {
    "198.51.100.77:500".to_owned()
}

/// Each of another network.
fn many_sources(n: u64) -> String {
    format!("10.{}.{}.1:500", n / 256, n % 256)
}

#[test]
fn half_open_state_is_bounded_and_expires() {
    let mut gateway = setup::gateway();
    gateway.limits.half_open = 10;
    gateway.limits.cookie_threshold = 100;
    let mut pair = setup::pair(setup::user(), gateway, 1);
    flood(&mut pair, 1_000, many_sources, false);
    assert_eq!(pair.ends[B].engine.views().len(), 10);
    assert_eq!(pair.ends[B].count("ike_cookie"), 990);
    pair.dead.insert(ip(RAN_ADDRESS));
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.ends[B].engine.views().len(), 0);
    assert_eq!(pair.ends[B].count("ike_half_open_expired"), 10);
    assert!(pair.ends[B].failures().is_empty(), "no line per stranger");
}

#[test]
fn nobody_with_real_addresses_keeps_a_peer_out() {
    for (from, held) in [
        (one_source as fn(u64) -> String, 2),
        (many_sources, 16),
        (|n| format!("[2001:db8::{n:x}]:500"), 2),
    ] {
        let mut gateway = setup::gateway();
        gateway.limits.half_open = 16;
        gateway.limits.cookie_threshold = 4;
        let mut pair = setup::pair(setup::user(), gateway, 1);
        flood(&mut pair, 200, from, true);
        assert_eq!(pair.ends[B].engine.views().len(), held);
        connect(&mut pair);
        let up = pair.run_until(Duration::from_secs(5), |pair| {
            !pair.ends[B].established().is_empty()
        });
        assert!(up);
    }
}

#[test]
fn a_flood_without_cookies_leaves_room_for_a_peer() {
    let mut gateway = setup::gateway();
    gateway.limits.cookie_threshold = 5;
    let mut pair = setup::pair(setup::user(), gateway, 1);
    flood(&mut pair, 10_000, many_sources, false);
    assert_eq!(pair.ends[B].engine.views().len(), 5);
    pair.lose_all();
    connect(&mut pair);
    let up = pair.run_until(Duration::from_secs(5), |pair| {
        !pair.ends[B].established().is_empty()
    });
    assert!(up);
}

#[test]
fn a_restarted_peer_replaces_its_old_ike_sa_and_keeps_its_address() {
    let mut pair = established(setup::user(), setup::gateway(), 1);
    let old = pair.b().ike();
    // kill -9: a new engine knows nothing of the old one.
    let fresh = setup::engine(setup::user(), 77);
    let before = std::mem::replace(&mut pair.ends[A], mifsec_tests::sim::End::new(fresh));
    let ifaces = vec![setup::record(RAN, RAN_ADDRESS)];
    pair.command(A, Command::SetInterfaces { ifaces });
    connect(&mut pair);
    pair.run(Duration::from_secs(1));
    assert_agreement(&pair);
    assert_ne!(pair.b().ike(), old);
    assert_eq!(pair.b().children.len(), 1);
    assert!(pair.ends[B].failures()[0].contains("replaced by a new connection"));
    let old = before.children.values().next().unwrap();
    let new = pair.ends[A].children.values().next().unwrap();
    assert_eq!(old.ts_local, new.ts_local, "same identity, same address");
    assert_ne!(old.key_in, new.key_in);
}

#[test]
fn refused_callers_are_counted_one_by_one_and_told_once_a_second_without_a_name() {
    let mut pair = setup::pair(setup::user(), setup::gateway(), 1);
    for seed in 70..74 {
        let mut user = setup::user();
        user.peers[0].remote_auth = setup::psk("wrong");
        pair.ends[A] = mifsec_tests::sim::End::new(setup::engine(user, seed));
        connect(&mut pair);
        pair.run(Duration::from_millis(240));
    }
    assert_eq!(pair.ends[B].count("ike_authentication"), 4);
    let told: Vec<_> = pair.ends[B]
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Failed { peer, reason, .. } => Some((peer.as_str(), reason.to_string())),
            _ => None,
        })
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, "", "nobody proved to be anybody");
    assert!(told[0].1.contains("laptop@example.org"));
}

#[test]
fn an_entry_is_not_reached_with_the_algorithms_of_another_one() {
    let weak: IkeProposal = "aes256-sha256-modp2048".parse().unwrap();
    for (caller, stands) in [("laptop@example.org", false), ("laptop@old.example", true)] {
        let mut user = setup::user();
        user.peers[0].local_id = caller.parse().unwrap();
        user.peers[0].ike_proposals = vec![weak.clone()];
        let mut gateway = setup::gateway();
        let mut old = setup::gateway().peers.remove(0);
        old.name = "old".into();
        old.remote_id = "*@old.example".parse().unwrap();
        old.ike_proposals.push(weak.clone());
        gateway.peers.push(old);
        let mut pair = setup::pair(user, gateway, 1);
        if stands {
            connect(&mut pair);
            pair.run(Duration::from_secs(1));
            assert_agreement(&pair);
            assert_eq!(pair.b().established().len(), 1);
        } else {
            let expected = "calls with IKE algorithms its [[peer]] does not have";
            assert_refused(&mut pair, "the peer refused our authentication", expected);
        }
    }
}

/// A new engine in the place of a user's that was killed.
fn restart(pair: &mut Pair, user: EngineConfig) -> mifsec_tests::sim::End {
    let fresh = setup::engine(user, 77);
    let before = std::mem::replace(&mut pair.ends[A], mifsec_tests::sim::End::new(fresh));
    let ifaces = vec![setup::record(RAN, RAN_ADDRESS)];
    pair.command(A, Command::SetInterfaces { ifaces });
    connect(pair);
    pair.run(Duration::from_secs(1));
    before
}

#[test]
fn a_restarted_peer_replaces_an_ike_sa_that_the_gateway_had_rekeyed() {
    let mut pair = established(setup::user(), setup::gateway(), 1);
    let ike = pair.b().ike();
    pair.command(B, Command::RekeyIke { ike });
    pair.run(Duration::from_secs(5));
    restart(&mut pair, setup::user());
    assert_eq!(pair.b().established().len(), 1);
    assert_eq!(pair.b().children.len(), 1);
    assert_agreement(&pair);
}

#[test]
fn the_same_name_under_another_entry_neither_ends_an_ike_sa_nor_gets_its_address() {
    let mut gateway = setup::gateway();
    let mut guests = setup::gateway().peers.remove(0);
    guests.name = "guests".into();
    guests.local_id = "guests.example.org".parse().unwrap();
    gateway.peers.push(guests);
    let mut pair = established(setup::user(), gateway, 1);
    let mut guest = setup::user();
    guest.peers[0].remote_id = "guests.example.org".parse().unwrap();
    let before = restart(&mut pair, guest);
    assert_eq!(pair.b().established().len(), 2);
    let staff = before.children.values().next().unwrap();
    let guest = pair.ends[A].children.values().next().unwrap();
    assert_ne!(staff.ts_local, guest.ts_local);
}

#[test]
fn two_users_get_addresses_of_their_own() {
    let mut pair = established(setup::user(), setup::gateway(), 1);
    let first = pair.ends[A]
        .children
        .values()
        .next()
        .unwrap()
        .ts_local
        .clone();
    let mut user = setup::user();
    user.peers[0].local_id = "phone@example.org".parse().unwrap();
    let fresh = setup::engine(user, 77);
    pair.ends[A] = mifsec_tests::sim::End::new(fresh);
    connect(&mut pair);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.b().established().len(), 2);
    let second = &pair.ends[A].children.values().next().unwrap().ts_local;
    assert_ne!(&first, second);
}

#[test]
fn everything_works_through_a_nat() {
    let mut pair = setup::pair(setup::user(), setup::gateway(), 1);
    pair.nat = Some(Nat::new(ip("198.51.100.200")));
    connect(&mut pair);
    pair.run(Duration::from_secs(1));
    assert_agreement(&pair);
    let channel = pair.ends[B].events.iter().find_map(|event| match event {
        Event::Established { channel, .. } => Some(*channel),
        _ => None,
    });
    let channel = channel.unwrap();
    assert_eq!(channel.remote.ip(), ip("198.51.100.200"));
    assert_eq!(channel.local, socket(&format!("{GATEWAY_ADDRESS}:4500")));
}

#[test]
fn everything_after_the_first_exchange_leaves_from_and_goes_to_4500() {
    let pair = established(setup::user(), setup::gateway(), 1);
    for (_, _, transmit) in &pair.log {
        let init = transmit.payload[18] == ExchangeType::IKE_SA_INIT.0;
        let port = if init { 500 } else { 4500 };
        assert_eq!(transmit.local.port(), port);
        assert_eq!(transmit.remote.port(), port);
    }
}

#[test]
fn an_absent_peer_is_given_up_with_its_address() {
    let mut pair = setup::pair(setup::user(), setup::gateway(), 1);
    pair.dead.insert(ip(GATEWAY_ADDRESS));
    connect(&mut pair);
    pair.run(Duration::from_secs(300));
    assert_eq!(
        pair.ends[A].failures(),
        ["no answer from 203.0.113.1:500: check that it runs and that UDP 500 and 4500 pass"]
    );
    assert!(pair.ends[A].engine.poll_timeout().is_none());
}

#[test]
fn commands_name_what_is_not_configured() {
    let mut pair = setup::pair(setup::user(), setup::gateway(), 1);
    let channel = setup::channel(RAN, RAN_ADDRESS);
    let peer = "nobody".to_owned();
    pair.command(A, Command::Initiate { peer, channel });
    assert!(pair.ends[A].failures()[0].contains("no peer \"nobody\""));
}

#[test]
fn a_forged_error_does_not_stop_a_handshake() {
    let mut pair = setup::pair(setup::user(), setup::gateway(), 1);
    connect(&mut pair);
    let (_, _, request) = pair.log.last().unwrap().clone();
    let (header, ..) = Header::decode(&request.payload).expect("our own message");
    for kind in [
        NotifyType::NO_PROPOSAL_CHOSEN,
        NotifyType::AUTHENTICATION_FAILED,
        NotifyType::INVALID_SYNTAX,
    ] {
        let header = Header {
            response: true,
            initiator: false,
            ..header
        };
        let notify = Payload::Notify(message::Notify::new(kind, Vec::new()));
        let forged = message::encode_clear(&header, &[notify]);
        let arrival = Arrival {
            ifindex: 3,
            local: request.local,
            remote: request.remote,
        };
        pair.inject(A, arrival, &forged);
    }
    pair.run(Duration::from_secs(1));
    assert_agreement(&pair);
    assert_eq!(pair.ends[A].count("ike_unauthenticated"), 3);
}

#[test]
fn another_major_version_is_told_ours() {
    let mut pair = setup::pair(setup::user(), setup::gateway(), 1);
    connect(&mut pair);
    let (_, _, request) = pair.log.pop().unwrap();
    pair.lose_all();
    let mut bytes = request.payload;
    bytes[17] = 0x30;
    let arrival = Arrival {
        ifindex: 2,
        local: request.remote,
        remote: request.local,
    };
    pair.inject(B, arrival, &bytes);
    let (_, who, answer) = pair.log.last().unwrap();
    assert_eq!(*who, B);
    let Ok((header, Body::Clear(payloads))) = message::decode(&answer.payload) else {
        panic!("an answer in clear");
    };
    assert!(header.response);
    let Some(Payload::Notify(notify)) = payloads.first() else {
        panic!("{payloads:?}");
    };
    assert_eq!(notify.kind, NotifyType::INVALID_MAJOR_VERSION);
    assert_eq!(notify.data, [2]);
}

#[test]
fn an_attempt_called_off_at_any_moment_leaves_nothing_at_either_end() {
    for millis in 0..60 {
        let mut pair = setup::pair(setup::user(), setup::gateway(), 1);
        connect(&mut pair);
        pair.run(Duration::from_millis(millis));
        let ike = pair.ends[A].engine.views()[0].ike;
        let was_up = pair.ends[A].established().len();
        pair.command(A, Command::DeleteIke { ike });
        pair.run(Duration::from_secs(100));
        let up = |event: &&Event| matches!(event, Event::Established { .. });
        let ups = pair.ends[A].events.iter().filter(up).count();
        assert_eq!(ups, was_up, "a late answer brings nothing back");
        for end in &pair.ends {
            assert!(end.engine.views().is_empty(), "after {millis} ms");
            assert!(end.children.is_empty() && end.larval.is_empty());
        }
        assert_eq!(pair.ends[A].failures(), ["deleted by command"]);
    }
}
