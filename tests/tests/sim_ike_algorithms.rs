//! What two ends agree on outside the default offer: AES-CBC with HMAC-SHA2,
//! HMAC-SHA2-512 as PRF, MODP-2048.

use std::time::Duration;

use mifsec::crypto::AeadAlgorithm;
use mifsec::ike::config::EngineConfig;
use mifsec::ike::message::{self, Body, NotifyType, Payload};
use mifsec::ike::proposal::{EspProposal, IkeProposal, Named as _};
use mifsec_tests::sim::setup::{self, assert_agreement, connect, established, second_member};
use mifsec_tests::sim::{A, B, Pair};

/// One end with these proposals, as a configuration names them.
fn with(mut config: EngineConfig, ike: &[&str], esp: &[&str]) -> EngineConfig {
    let peer = &mut config.peers[0];
    peer.ike_proposals = ike
        .iter()
        .flat_map(|text| IkeProposal::entry(text).expect("a proposal"))
        .collect();
    peer.esp_proposals = esp
        .iter()
        .flat_map(|text| EspProposal::entry(text).expect("a proposal"))
        .collect();
    config
}

fn agreed(user: [&[&str]; 2], gateway: [&[&str]; 2]) -> Pair {
    let pair = established(
        with(setup::user(), user[0], user[1]),
        with(setup::gateway(), gateway[0], gateway[1]),
        3,
    );
    assert_agreement(&pair);
    pair
}

fn esp(pair: &Pair) -> Vec<String> {
    let children = pair.ends[A].children.values();
    children.map(|child| child.algorithm.to_string()).collect()
}

/// How often a notification came in clear from the gateway.
fn told(pair: &Pair, kind: NotifyType) -> usize {
    let of_gateway = pair.log.iter().filter(|(_, who, _)| *who == B);
    of_gateway
        .filter(|(_, _, transmit)| {
            let decoded = message::decode(&transmit.payload);
            matches!(decoded, Ok((_, Body::Clear(payloads))) if payloads
                .iter()
                .any(|p| matches!(p, Payload::Notify(n) if n.kind == kind)))
        })
        .count()
}

#[test]
fn every_cipher_integrity_prf_and_group_protects_an_ike_sa_and_its_children() {
    for (ike, esp_words) in [
        ("aes256-sha256-modp2048", "aes128-sha256"),
        ("aes128-sha256-modp2048", "aes256-sha256-noesn"),
        ("aes192-sha384-ecp384", "aes192-sha384-esn"),
        ("aes256-sha512-x25519", "aes256-sha512"),
        ("aes128-sha512-prfsha256-ecp256", "aes128gcm16"),
        ("aes256gcm16-prfsha512-modp2048", "aes128-sha512"),
        ("chacha20poly1305-prfsha384-modp2048", "chacha20poly1305"),
    ] {
        let same: [&[&str]; 2] = [&[ike], &[esp_words]];
        let mut pair = agreed(same, same);
        // Requests of either side, and a Child SA that is made later.
        let id = pair.a().ike();
        pair.command(A, second_member(id));
        pair.run(Duration::from_secs(1));
        assert_agreement(&pair);
        let made = esp(&pair);
        assert_eq!(made.len(), 2, "{ike}");
        for algorithm in made {
            assert!(esp_words.starts_with(&algorithm), "{algorithm} of {ike}");
        }
        assert!(pair.ends[A].failures().is_empty());
    }
}

#[test]
fn a_child_sa_has_a_key_exchange_of_its_own_in_modp_2048() {
    let same: [&[&str]; 2] = [&["aes256-sha256-modp2048"], &["aes256-sha256-modp2048"]];
    let mut pair = agreed(same, same);
    let id = pair.a().ike();
    pair.command(A, second_member(id));
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.ends[A].children.len(), 2);
    assert_agreement(&pair);
}

/// RFC 7296 1.2: the responder names the method it wants, the initiator starts
/// again with it.
#[test]
fn a_gateway_that_has_only_modp_2048_asks_for_it() {
    let pair = agreed(
        [&["default", "legacy"], &["default", "legacy"]],
        [&["aes256-sha256-modp2048"], &["aes128-sha256"]],
    );
    assert_eq!(told(&pair, NotifyType::INVALID_KE_PAYLOAD), 1);
    assert_eq!(esp(&pair), ["aes128-sha256"]);
}

#[test]
fn an_end_user_that_has_only_the_old_algorithms_is_served_where_they_are_turned_on() {
    let user: [&[&str]; 2] = [&["aes128-sha256-modp2048"], &["aes256-sha512"]];
    let pair = agreed(user, [&["default", "legacy"], &["default", "legacy"]]);
    assert_eq!(told(&pair, NotifyType::INVALID_KE_PAYLOAD), 0);
    assert_eq!(esp(&pair), ["aes256-sha512"]);
}

#[test]
fn two_ends_with_both_agree_on_the_default_offer() {
    let both: [&[&str]; 2] = [&["default", "legacy"], &["default", "legacy"]];
    let pair = agreed(both, both);
    let child = pair.ends[A].children.values().next().expect("a Child SA");
    assert_eq!(child.algorithm, AeadAlgorithm::Aes128Gcm16);
}

#[test]
fn an_end_user_that_has_only_the_old_algorithms_is_refused_by_default() {
    let mut pair = setup::pair(
        with(
            setup::user(),
            &["aes128-sha256-modp2048"],
            &["aes128-sha256"],
        ),
        setup::gateway(),
        1,
    );
    connect(&mut pair);
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.ends[A].failures().len(), 1);
    for end in [A, B] {
        assert!(pair.ends[end].failures()[0].contains("no common IKE algorithms"));
        assert!(pair.ends[end].children.is_empty());
    }
}
