//! Octets from anybody: nothing panics, everything without effect is counted,
//! and an established IKE SA does not change.

use std::time::Duration;

use mifsec::crypto::{Entropy as _, SeededEntropy};
use mifsec::ids::Arrival;
use mifsec::ike::message::{HEADER_LEN, PayloadType};
use mifsec::ike::{Command, Transmit};
use mifsec_tests::sim::setup::{self, assert_agreement, connect, established, second_member};
use mifsec_tests::sim::{A, B, Pair};

const SECOND: Duration = Duration::from_secs(1);

/// Every message of a session with all exchanges, and the session after it.
fn session() -> (Pair, Vec<(usize, Transmit)>) {
    let mut pair = established(setup::user(), setup::gateway(), 5);
    let ike = pair.a().ike();
    pair.command(A, second_member(ike));
    pair.run(SECOND);
    pair.command(A, Command::CheckLiveness { ike });
    pair.run(SECOND);
    let messages = pair
        .log
        .iter()
        .map(|(_, who, t)| (*who, t.clone()))
        .collect();
    (pair, messages)
}

fn arrival(transmit: &Transmit) -> Arrival {
    Arrival {
        ifindex: setup::ifindex(transmit.remote.ip()),
        local: transmit.remote,
        remote: transmit.local,
    }
}

fn counted(pair: &Pair, who: usize) -> u64 {
    pair.ends[who].engine.counters().values().sum()
}

/// The established IKE SA of each end, whatever half-open ones there are.
fn state(pair: &Pair) -> Vec<String> {
    pair.ends
        .iter()
        .flat_map(|end| end.engine.views())
        .filter(|view| !view.peer.is_empty())
        .map(|view| format!("{view:?}"))
        .collect()
}

#[test]
fn truncated_at_every_length_nothing_happens() {
    let (mut pair, messages) = session();
    let before = state(&pair);
    for (who, transmit) in &messages {
        for len in 0..transmit.payload.len() {
            let to = 1 - who;
            let count = counted(&pair, to);
            let log = pair.log.len();
            pair.inject(to, arrival(transmit), &transmit.payload[..len]);
            assert_eq!(counted(&pair, to), count + 1, "{len} octets");
            assert_eq!(pair.log.len(), log, "and no answer");
        }
    }
    assert_eq!(state(&pair), before);
    assert_agreement(&pair);
}

#[test]
fn one_flipped_bit_anywhere_in_a_protected_message_is_counted_and_ignored() {
    let (mut pair, messages) = session();
    let before = state(&pair);
    for (who, transmit) in &messages {
        if transmit.local.port() == 500 {
            continue;
        }
        for at in 0..transmit.payload.len() {
            for bit in [0, 3, 7] {
                let mut bytes = transmit.payload.clone();
                bytes[at] ^= 1 << bit;
                let to = 1 - who;
                let count = counted(&pair, to);
                pair.inject(to, arrival(transmit), &bytes);
                assert!(counted(&pair, to) > count, "octet {at} bit {bit}");
            }
        }
    }
    pair.lose_all();
    assert_eq!(state(&pair), before);
    assert_agreement(&pair);
}

#[test]
fn mutated_first_messages_leave_only_bounded_half_open_state() {
    let mut random = SeededEntropy::new(9);
    let mut gateway = setup::gateway();
    gateway.limits.half_open = 16;
    let mut pair = setup::pair(setup::user(), gateway, 5);
    connect(&mut pair);
    let (_, _, first) = pair.log[0].clone();
    pair.lose_all();
    for _ in 0..20_000 {
        let mut bytes = first.payload.clone();
        for _ in 0..1 + random.u32() % 4 {
            let at = usize::try_from(random.u32()).unwrap() % bytes.len();
            bytes[at] = random.u32().to_be_bytes()[0];
        }
        pair.inject(B, arrival(&first), &bytes);
        pair.lose_all();
    }
    assert!(pair.ends[B].engine.views().len() <= 16);
    assert!(pair.ends[B].children.is_empty());
}

#[test]
fn a_half_open_ike_sa_survives_garbage_under_its_spi() {
    let mut pair = setup::pair(setup::user(), setup::gateway(), 5);
    connect(&mut pair);
    pair.step(pair.now + SECOND);
    // The response is on its way; the request for IKE_AUTH comes later.
    let (_, _, response) = pair.log.last().unwrap().clone();
    let mut random = SeededEntropy::new(1);
    for len in HEADER_LEN..400 {
        let mut bytes = vec![0; len];
        random.fill(&mut bytes);
        bytes[..16].copy_from_slice(&response.payload[..16]);
        bytes[16] = PayloadType::SK.0;
        bytes[17] = 0x20;
        bytes[18] = 35;
        bytes[19] = 0x08;
        bytes[20..24].copy_from_slice(&1u32.to_be_bytes());
        bytes[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        if len >= HEADER_LEN + 4 {
            let payload = u16::try_from(len - HEADER_LEN).unwrap();
            bytes[29] = 0;
            bytes[30..32].copy_from_slice(&payload.to_be_bytes());
        }
        let count = counted(&pair, B);
        let from = Arrival {
            ifindex: 2,
            local: response.local,
            remote: response.remote,
        };
        pair.inject(B, from, &bytes);
        assert_eq!(counted(&pair, B), count + 1);
    }
    assert!(pair.ends[B].count("ike_integrity") > 300);
    pair.run(SECOND);
    assert_agreement(&pair);
    assert_eq!(pair.b().established().len(), 1);
}

#[test]
fn oversized_and_empty_datagrams_are_counted() {
    let (mut pair, messages) = session();
    let from = arrival(&messages[0].1);
    pair.inject(B, from, &[]);
    pair.inject(B, from, &vec![0xff; 20_000]);
    pair.inject(B, from, &vec![0; 65_535]);
    assert_eq!(pair.ends[B].count("ike_truncated"), 1);
    assert_eq!(pair.ends[B].count("ike_oversized"), 2);
}

#[test]
fn a_message_sent_back_to_its_sender_is_not_taken_for_the_peers() {
    let (mut pair, messages) = session();
    let before = state(&pair);
    for (who, transmit) in &messages {
        if transmit.local.port() == 500 {
            continue;
        }
        let count = counted(&pair, *who);
        let log = pair.log.len();
        pair.inject(*who, arrival(transmit), &transmit.payload);
        assert_eq!(counted(&pair, *who), count + 1);
        assert_eq!(pair.log.len(), log);
    }
    assert_eq!(state(&pair), before);
}

#[test]
fn a_critical_payload_in_clear_is_named_in_the_answer() {
    let mut pair = setup::pair(setup::user(), setup::gateway(), 5);
    connect(&mut pair);
    let (_, _, first) = pair.log[0].clone();
    pair.lose_all();
    let mut bytes = first.payload.clone();
    // An empty payload of type 200, critical, before all others.
    let next = bytes[16];
    bytes[16] = 200;
    bytes.splice(HEADER_LEN..HEADER_LEN, [next, 0x80, 0, 4]);
    let len = u32::try_from(bytes.len()).unwrap();
    bytes[24..28].copy_from_slice(&len.to_be_bytes());
    let log = pair.log.len();
    pair.inject(B, arrival(&first), &bytes);
    assert_eq!(pair.ends[B].count("ike_critical_payload"), 1);
    let (_, _, answer) = &pair.log[log];
    let tail = &answer.payload[answer.payload.len() - 5..];
    assert_eq!(
        tail,
        [0, 0, 0, 1, 200],
        "UNSUPPORTED_CRITICAL_PAYLOAD naming it"
    );
    // Not critical: passed over (RFC 7296 2.5).
    bytes[HEADER_LEN + 1] = 0;
    pair.inject(B, arrival(&first), &bytes);
    assert_eq!(pair.ends[B].engine.views().len(), 1);
}
