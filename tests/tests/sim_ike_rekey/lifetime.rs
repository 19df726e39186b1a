//! Rekeying by time, hard limits, repeated authentication (RFC 4478).

use std::time::Duration;

use mifsec::ike::config::Lifetime;
use mifsec::ike::message::{ExchangeType, Notify, NotifyType, Payload};
use mifsec::ike::{Command, Event};
use mifsec_tests::sim::setup::{self, assert_agreement, established};
use mifsec_tests::sim::{A, B};

use crate::post::{Post, SECOND, child, run};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_day_of_rekeying_by_both_ends_loses_nothing() {
    for seed in 0..3 {
        let (mut user, mut gateway) = (setup::user(), setup::gateway());
        for config in [&mut user, &mut gateway] {
            config.peers[0].rekey = Lifetime::CHILD;
            config.peers[0].ike_rekey = Lifetime::IKE;
        }
        let mut pair = established(user, gateway, seed);
        let before = pair.ends[A].engine.views()[0].clone();
        run(&mut pair, 24 * HOUR);
        let after = pair.ends[A].engine.views()[0].clone();
        assert_eq!((before.ike, &before.leases), (after.ike, &after.leases));
        assert_ne!(before.spi_i, after.spi_i);
        // Each after 54 to 60 minutes.
        let made = pair.ends[A].installs;
        assert!((25..=54).contains(&made), "seed {seed}: {made}");
        run(&mut pair, Duration::from_secs(20));
        assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
    }
}

#[test]
fn the_time_is_drawn_before_the_limit() {
    let mut times = Vec::new();
    for seed in 0..20 {
        let mut user = setup::user();
        user.peers[0].rekey = Lifetime {
            time: Some(Duration::from_secs(1000)),
            jitter: 0.2,
        };
        let mut pair = established(user, setup::gateway(), seed);
        let begun = pair.start;
        assert!(pair.run_until(HOUR, |pair| pair.ends[A].installs == 2));
        times.push((pair.now - begun).as_secs());
    }
    assert!(times.iter().all(|t| (800..=1001).contains(t)), "{times:?}");
    let spread = times.iter().max().unwrap() - times.iter().min().unwrap();
    assert!(spread > 80, "{times:?}");
}

#[test]
fn what_the_peer_does_not_rekey_is_given_up_and_made_anew() {
    let mut user = setup::user();
    let mut gateway = setup::gateway();
    user.peers[0].rekey = Lifetime::of(Duration::from_secs(100));
    // The offers of later Child SAs have nothing in common: a key exchange here,
    // none there.
    user.peers[0].esp_proposals = vec!["aes128gcm16-x25519".parse().unwrap()];
    gateway.peers[0].esp_proposals = vec!["aes128gcm16-ecp256".parse().unwrap()];
    let mut pair = established(user, gateway, 1);
    let first = child(&pair, A);
    run(&mut pair, Duration::from_secs(109));
    assert_eq!(child(&pair, A), first, "tried, but kept");
    assert!(pair.ends[A].count("ike_child_rekey_refused") >= 2);
    run(&mut pair, Duration::from_secs(5));
    // The limit: deleted at both ends, and the request for another one refused.
    assert!(pair.ends.iter().all(|end| end.children.is_empty()));
    let failed = |e: &Event| matches!(e, Event::ChildFailed { .. });
    assert!(pair.ends[A].events.iter().any(failed));
}

#[test]
fn an_ike_sa_the_peer_does_not_rekey_is_set_up_anew_and_ends_at_its_limit() {
    let mut user = setup::user();
    user.peers[0].ike_rekey = Lifetime {
        time: Some(Duration::from_secs(100)),
        jitter: 0.0,
    };
    let pair = established(user, setup::gateway(), 2);
    let mut post = Post::of(pair);
    post.pair.run(Duration::from_millis(99_100));
    let asks = post.sent(A);
    let (header, _) = post.pair.ends[A].engine.reveal(&asks.payload).unwrap();
    let refusal = Notify::new(NotifyType::NO_ADDITIONAL_SAS, Vec::new());
    let payloads = [Payload::Notify(refusal)];
    post.pair
        .forge(B, header.exchange, Some(header.message_id), true, &payloads);
    let refused = post.sent(B);
    post.deliver(B, &refused);
    let due = |e: &Event| matches!(e, Event::ReauthDue { .. });
    assert!(post.pair.ends[A].events.iter().any(due));
    let mut pair = post.open();
    run(&mut pair, Duration::from_secs(9));
    assert_eq!(pair.ends[A].established().len(), 1);
    run(&mut pair, Duration::from_secs(2));
    assert!(pair.ends[A].established().is_empty());
    assert!(pair.ends[A].failures()[0].starts_with("too old"));
}

#[test]
fn the_responder_says_when_to_authenticate_again() {
    for seed in 0..10 {
        let mut post = Post::new(seed);
        let lifetime = |seconds: u32| {
            let data = seconds.to_be_bytes().to_vec();
            [Payload::Notify(Notify::new(
                NotifyType::AUTH_LIFETIME,
                data,
            ))]
        };
        post.pair
            .forge(B, ExchangeType::INFORMATIONAL, None, false, &lifetime(100));
        let says = post.sent(B);
        post.deliver(B, &says);
        // Not the other way round.
        let mut pair = post.open();
        pair.forge(A, ExchangeType::INFORMATIONAL, None, false, &lifetime(10));
        // A rekey does not put it off.
        let ike = pair.b().ike();
        run(&mut pair, SECOND);
        pair.command(B, Command::RekeyIke { ike });
        let due = |e: &Event| matches!(e, Event::ReauthDue { .. });
        let begun = pair.now;
        assert!(pair.run_until(HOUR, |pair| pair.ends[A].events.iter().any(due)));
        let waited = (pair.now - begun).as_secs();
        assert!((79..=90).contains(&waited), "{waited}");
        run(&mut pair, HOUR);
        assert_eq!(pair.ends[A].events.iter().filter(|e| due(e)).count(), 1);
        assert!(!pair.ends[B].events.iter().any(due));
        assert_agreement(&pair);
    }
}

#[test]
fn however_short_its_time_no_authentication_is_repeated_within_two_seconds() {
    for seconds in [0u32, 1, 2] {
        let mut pair = established(setup::user(), setup::gateway(), 3);
        let data = seconds.to_be_bytes().to_vec();
        let notify = Payload::Notify(Notify::new(NotifyType::AUTH_LIFETIME, data));
        pair.forge(B, ExchangeType::INFORMATIONAL, None, false, &[notify]);
        let due = |e: &Event| matches!(e, Event::ReauthDue { .. });
        run(&mut pair, Duration::from_millis(1900));
        assert!(!pair.ends[A].events.iter().any(due));
        run(&mut pair, Duration::from_millis(200));
        assert!(pair.ends[A].events.iter().any(due));
    }
}
