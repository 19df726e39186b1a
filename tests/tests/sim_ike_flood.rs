//! IKE_SA_INIT from ten thousand addresses (RFC 7296 2.6): what is kept of them is
//! bounded, and who means it connects.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mifsec::ids::Arrival;
use mifsec::ike::Transmit;
use mifsec::ike::message::{self, Body, NotifyType, Payload};
use mifsec_tests::sim::setup::{self, assert_agreement, connect};
use mifsec_tests::sim::{A, B, Pair};

const SECOND: Duration = Duration::from_secs(1);
const SENDERS: u32 = 10_000;

/// A user's first request.
fn first() -> Transmit {
    let mut pair = setup::pair(setup::user(), setup::gateway(), 1);
    connect(&mut pair);
    pair.log[0].2.clone()
}

/// Sender number `n`: an address of its own.
fn sender(n: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + n)), 500)
}

fn spoof(pair: &mut Pair, first: &Transmit, n: u32, bytes: &[u8]) -> Vec<Transmit> {
    let mut bytes = bytes.to_vec();
    bytes[4..8].copy_from_slice(&n.to_be_bytes());
    let arrival = Arrival {
        ifindex: 2,
        local: first.remote,
        remote: sender(n),
    };
    let log = pair.log.len();
    pair.inject(B, arrival, &bytes);
    pair.lose_all();
    pair.log
        .split_off(log)
        .into_iter()
        .map(|(.., t)| t)
        .collect()
}

#[test]
fn ten_thousand_spoofed_senders_leave_little_and_keep_nobody_out() {
    let first = first();
    let mut pair = setup::pair(setup::user(), setup::gateway(), 2);
    for n in 0..SENDERS {
        for answer in spoof(&mut pair, &first, n, &first.payload) {
            assert!(
                answer.payload.len() <= first.payload.len(),
                "no amplification"
            );
        }
    }
    let kept = pair.b().engine.views().len();
    assert_eq!(kept, 64, "cookie_threshold");
    assert_eq!(pair.ends[B].count("ike_cookie"), u64::from(SENDERS) - 64);
    connect(&mut pair);
    pair.run(SECOND);
    assert_eq!(pair.a().established().len(), 1);
    assert_agreement(&pair);
    pair.run(Duration::from_secs(40));
    assert_eq!(pair.b().engine.views().len(), 1, "the rest is forgotten");
    assert_eq!(pair.ends[B].count("ike_half_open_expired"), 64);
}

#[test]
fn the_answer_to_a_first_request_is_repeated_a_few_times_and_not_for_ever() {
    let first = first();
    let mut pair = setup::pair(setup::user(), setup::gateway(), 6);
    let made = spoof(&mut pair, &first, 1, &first.payload);
    assert_eq!(made.len(), 1);
    for _ in 0..10 {
        let again = spoof(&mut pair, &first, 1, &first.payload);
        assert_eq!(again[0].payload, made[0].payload, "RFC 7296 2.1");
    }
    for _ in 0..1_000 {
        assert!(spoof(&mut pair, &first, 1, &first.payload).is_empty());
    }
    assert_eq!(pair.ends[B].count("ike_duplicate"), 10);
    assert_eq!(pair.ends[B].count("ike_init_repeats"), 1_000);
    assert_eq!(pair.b().engine.views().len(), 1);
    assert_eq!(
        spoof(&mut pair, &first, 2, &first.payload).len(),
        1,
        "others are answered"
    );
}

#[test]
fn senders_that_return_their_cookies_are_bounded_too() {
    let first = first();
    let mut gateway = setup::gateway();
    gateway.limits.half_open = 256;
    gateway.limits.cookie_threshold = 0;
    let mut pair = setup::pair(setup::user(), gateway, 3);
    let Ok((header, Body::Clear(payloads))) = message::decode(&first.payload) else {
        panic!("a request in clear");
    };
    for n in 0..2_000 {
        let answers = spoof(&mut pair, &first, n, &first.payload);
        let Ok((_, Body::Clear(asked))) = message::decode(&answers[0].payload) else {
            panic!("an answer in clear");
        };
        let mut again = asked;
        assert!(matches!(&again[..], [Payload::Notify(n)] if n.kind == NotifyType::COOKIE));
        again.extend(payloads.clone());
        spoof(
            &mut pair,
            &first,
            n,
            &message::encode_clear(&header, &again),
        );
        assert!(pair.b().engine.views().len() <= 256);
    }
    assert_eq!(pair.b().engine.views().len(), 256);
    assert_eq!(pair.ends[B].count("ike_half_open_evicted"), 2_000 - 256);
    connect(&mut pair);
    pair.run(SECOND);
    assert_eq!(pair.a().established().len(), 1);
}

/// The first request of a user with these algorithms, with another public value.
fn with_value(ike: &str, value: Vec<u8>) -> Transmit {
    let mut user = setup::user();
    user.peers[0].ike_proposals = vec![ike.parse().expect("a proposal")];
    let mut pair = setup::pair(user, setup::gateway(), 1);
    connect(&mut pair);
    let mut first = pair.log[0].2.clone();
    let Ok((header, Body::Clear(mut payloads))) = message::decode(&first.payload) else {
        panic!("a request in clear");
    };
    for payload in &mut payloads {
        if let Payload::Ke(ke) = payload {
            ke.data.clone_from(&value);
        }
    }
    first.payload = message::encode_clear(&header, &payloads);
    first
}

#[test]
fn values_off_the_curve_make_everybody_show_a_cookie_for_a_while() {
    let bad = with_value("aes256gcm16-prfsha256-ecp384", vec![1; 96]);
    let mut pair = setup::pair(setup::user(), setup::gateway(), 4);
    for n in 0..1_000 {
        spoof(&mut pair, &bad, n, &bad.payload);
    }
    assert_eq!(pair.ends[B].count("ike_malformed"), 1, "a key pair for one");
    assert_eq!(pair.ends[B].count("ike_cookie"), 999);
    assert!(pair.b().engine.views().is_empty());
    connect(&mut pair);
    pair.run(SECOND);
    assert_eq!(pair.a().established().len(), 1);
    assert_eq!(pair.ends[B].count("ike_cookie"), 1_000);
    // Then nobody is asked any more.
    spoof(&mut pair, &bad, 0, &bad.payload);
    assert_eq!(pair.ends[B].count("ike_malformed"), 2);
}

#[test]
fn values_of_a_wrong_length_cost_nothing_and_make_nobody_wary() {
    let short = with_value("aes256gcm16-prfsha256-ecp384", vec![1; 95]);
    let zero = with_value("aes256gcm16-prfsha256-x25519", vec![0; 32]);
    let mut pair = setup::pair(setup::user(), setup::gateway(), 4);
    for n in 0..100 {
        spoof(&mut pair, &short, n, &short.payload);
        spoof(&mut pair, &zero, n, &zero.payload);
    }
    assert_eq!(pair.ends[B].count("ike_malformed"), 200);
    assert_eq!(pair.ends[B].count("ike_cookie"), 0);
}

#[test]
fn who_gets_no_place_takes_none_from_others() {
    let mut gateway = setup::gateway();
    gateway.limits.half_open = 16;
    gateway.limits.cookie_threshold = 1_000;
    let first = first();
    let none = with_value("aes256-sha256-modp2048", vec![2; 256]);
    let mut pair = setup::pair(setup::user(), gateway, 5);
    for n in 0..16 {
        spoof(&mut pair, &first, n, &first.payload);
    }
    for n in 100..200 {
        let answers = spoof(&mut pair, &none, n, &none.payload);
        let Ok((header, Body::Clear(mut again))) = message::decode(&answers[0].payload) else {
            panic!("a cookie in clear");
        };
        let Ok((_, Body::Clear(payloads))) = message::decode(&none.payload) else {
            panic!("a request in clear");
        };
        again.extend(payloads);
        let header = message::Header {
            initiator: true,
            response: false,
            ..header
        };
        spoof(&mut pair, &none, n, &message::encode_clear(&header, &again));
    }
    assert_eq!(pair.ends[B].count("ike_no_proposal"), 100);
    assert_eq!(pair.ends[B].count("ike_half_open_evicted"), 0);
    assert_eq!(pair.b().engine.views().len(), 16);
}

#[test]
fn a_cookie_serves_for_the_request_with_another_method_too() {
    let mut user = setup::user();
    user.peers[0].ike_proposals = vec!["aes128gcm16-prfsha256-ecp256-x25519".parse().unwrap()];
    let mut gateway = setup::gateway();
    gateway.peers[0].ike_proposals = vec!["aes128gcm16-prfsha256-x25519".parse().unwrap()];
    gateway.limits.cookie_threshold = 0;
    let mut pair = setup::pair(user, gateway, 4);
    connect(&mut pair);
    pair.run(SECOND);
    assert_eq!(pair.a().established().len(), 1);
    let init = |(_, who, t): &&(_, usize, Transmit)| *who == A && t.local.port() == 500;
    // Without a cookie, with one, and with the method wanted and the same cookie.
    assert_eq!(pair.log.iter().filter(init).count(), 3);
    assert_eq!(pair.ends[B].count("ike_cookie"), 1);
}

#[test]
fn a_childless_ike_sa_stands_and_gets_its_child_when_asked_for() {
    let mut user = setup::user();
    user.peers[0].childless = true;
    let mut pair = setup::established(user, setup::gateway(), 5);
    assert!(pair.a().children.is_empty() && pair.b().children.is_empty());
    let ike = pair.a().ike();
    pair.command(A, setup::second_member(ike));
    pair.run(SECOND);
    assert_eq!(pair.a().children.len(), 1);
    assert_agreement(&pair);
}
