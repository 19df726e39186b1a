//! Messages longer than a packet (RFC 7383) over links that lose, duplicate and
//! reorder, and fragments nobody asked for.

use std::time::Duration;

use mifsec::ids::{Arrival, IfaceId};
use mifsec::ike::config::EngineConfig;
use mifsec::ike::message::{ExchangeType, Header, PayloadType};
use mifsec::ike::{Command, Event, Transmit};
use mifsec_tests::sim::setup::{self, assert_agreement, connect};
use mifsec_tests::sim::{A, B, Link, Pair};

const SECOND: Duration = Duration::from_secs(1);

/// A host with more addresses than one packet holds, and a gateway that cannot
/// send packets above 1280.
fn talkative(seed: u64, change: impl FnOnce(&mut EngineConfig, &mut EngineConfig)) -> Pair {
    let (mut user, mut gateway) = (setup::user(), setup::gateway());
    change(&mut user, &mut gateway);
    let mut pair = setup::pair(user, gateway, seed);
    for who in [A, B] {
        let mut ifaces: Vec<_> = (3..19)
            .map(|id| setup::record(IfaceId(id), "2001:db8::1"))
            .collect();
        for iface in &mut ifaces {
            iface.addresses = vec![iface.addresses[0]; 8];
        }
        pair.command(who, Command::SetInterfaces { ifaces });
    }
    for link in &mut pair.links {
        link.mtu = 1280 - 40 - 8 - 4;
    }
    pair
}

fn is_fragment(transmit: &Transmit) -> bool {
    transmit.payload[16] == PayloadType::SKF.0
}

fn fragments(pair: &Pair, who: usize) -> Vec<Transmit> {
    let by = |(_, from, transmit): &(_, usize, Transmit)| {
        (*from == who && is_fragment(transmit)).then(|| transmit.clone())
    };
    pair.log.iter().filter_map(by).collect()
}

fn arrival(transmit: &Transmit) -> Arrival {
    Arrival {
        ifindex: setup::ifindex(transmit.remote.ip()),
        local: transmit.remote,
        remote: transmit.local,
    }
}

fn tables(pair: &Pair, who: usize) -> usize {
    let events = pair.ends[who].events.iter();
    events
        .filter(|e| matches!(e, Event::PeerInterfaces { ifaces, .. } if ifaces.len() == 16))
        .count()
}

#[test]
fn a_message_above_the_path_s_mtu_arrives_in_fragments_only() {
    let mut pair = talkative(1, |_, _| {});
    connect(&mut pair);
    pair.run(SECOND);
    assert_agreement(&pair);
    for who in [A, B] {
        assert_eq!(pair.ends[who].established().len(), 1);
        assert_eq!(tables(&pair, who), 1, "the whole table of the other end");
        assert!(fragments(&pair, who).len() > 1);
        assert!(pair.ends[who].engine.views()[0].fragmentation);
        assert_eq!(pair.ends[who].count("ike_oversize_sent"), 0);
    }
    // Where less passes it takes smaller fragments.
    for (size, passes) in [(1228, false), (1000, true)] {
        let mut pair = talkative(1, |user, gateway| {
            user.fragment_size = size;
            gateway.fragment_size = size;
        });
        for link in &mut pair.links {
            link.mtu = 1100;
        }
        connect(&mut pair);
        pair.run(SECOND);
        assert_eq!(!pair.a().established().is_empty(), passes);
    }
}

#[test]
fn what_fits_is_sent_whole() {
    let mut pair = setup::established(setup::user(), setup::gateway(), 1);
    assert!(
        pair.log
            .iter()
            .all(|(_, _, transmit)| !is_fragment(transmit))
    );
    let view = pair.a().engine.views().remove(0);
    assert!(view.fragmentation);
    assert_eq!(view.vendor, Some("mifsec"));
}

#[test]
fn fragments_lost_doubled_and_out_of_order_make_the_same_ike_sa() {
    for seed in 0..1_000 {
        let mut pair = talkative(seed, |_, _| {});
        for link in &mut pair.links {
            *link = Link {
                loss: 0.15,
                duplicate: 0.2,
                jitter: Duration::from_millis(60),
                ..*link
            };
        }
        connect(&mut pair);
        let up = pair.run_until(Duration::from_secs(200), |pair| {
            pair.ends.iter().all(|end| !end.established().is_empty())
                && tables(pair, A) > 0
                && tables(pair, B) > 0
        });
        assert!(up, "seed {seed}: {:?}", pair.ends[A].failures());
        assert_agreement(&pair);
        for end in &pair.ends {
            assert!(!end.children.is_empty(), "seed {seed}");
            assert_eq!(end.count("ike_integrity"), 0, "seed {seed}");
        }
    }
}

#[test]
fn all_fragments_are_sent_again_and_only_the_first_is_answered_again() {
    let mut pair = talkative(3, |_, _| {});
    connect(&mut pair);
    pair.run(Duration::from_millis(35));
    // The gateway's IKE_AUTH response, in fragments, is lost.
    let sent = fragments(&pair, B);
    assert!(sent.len() > 1, "{}", sent.len());
    pair.lose_all();
    pair.run(SECOND);
    let again: Vec<_> = fragments(&pair, B).split_off(sent.len());
    assert_eq!(again[..sent.len()], sent[..], "the same octets once more");
    assert_eq!(pair.a().established().len(), 1);

    let requests: Vec<_> = fragments(&pair, A);
    assert!(requests.len() > 1);
    let id = |transmit: &Transmit| Header::decode(&transmit.payload).unwrap().0.message_id;
    let request: Vec<_> = requests
        .iter()
        .filter(|transmit| id(transmit) == id(&requests[0]))
        .collect();
    for (index, transmit) in request.iter().enumerate() {
        let before = pair.log.len();
        pair.inject(B, arrival(transmit), &transmit.payload);
        let answers = pair.log.len() - before;
        assert_eq!(answers > 0, index == 0, "fragment {}", index + 1);
    }
}

#[test]
fn a_forged_fragment_does_not_hurt_the_message_it_claims_to_be_of() {
    let mut pair = talkative(4, |_, _| {});
    connect(&mut pair);
    pair.run(Duration::from_millis(35));
    let sent = fragments(&pair, B);
    assert!(sent.len() > 1);
    // Every fragment changed in one bit, before the good ones arrive.
    for transmit in &sent {
        for at in [32, 33, 35, 40, 60, transmit.payload.len() - 1] {
            let mut bytes = transmit.payload.clone();
            bytes[at] ^= 1;
            pair.inject(A, arrival(transmit), &bytes);
        }
    }
    assert!(pair.ends[A].count("ike_integrity") > 4);
    pair.run(Duration::from_millis(30));
    assert_eq!(pair.a().established().len(), 1, "without a retransmission");
    assert_eq!(tables(&pair, A), 1);
}

#[test]
fn every_truncation_of_a_fragment_is_counted_and_changes_nothing() {
    let mut pair = talkative(5, |_, _| {});
    connect(&mut pair);
    pair.run(SECOND);
    let sum = |pair: &Pair| pair.ends[B].engine.counters().values().sum::<u64>();
    let before = format!("{:?}", pair.ends[B].engine.views());
    for transmit in fragments(&pair, A) {
        for len in 0..transmit.payload.len() {
            let mut bytes = transmit.payload[..len].to_vec();
            if len > 32 {
                bytes[24..28].copy_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
                let payload = u16::try_from(len - 28).unwrap();
                bytes[30..32].copy_from_slice(&payload.to_be_bytes());
            }
            let count = sum(&pair);
            pair.inject(B, arrival(&transmit), &bytes);
            assert!(sum(&pair) > count, "{len}");
        }
    }
    assert_eq!(format!("{:?}", pair.ends[B].engine.views()), before);
}

#[test]
fn a_flood_of_fragments_without_keys_keeps_nothing() {
    let mut pair = setup::established(setup::user(), setup::gateway(), 6);
    let (_, _, last) = pair.log.last().unwrap().clone();
    let view = pair.b().engine.views().remove(0);
    let before = format!("{view:?}");
    let mut bytes = vec![0xa5; 1228];
    bytes[..8].copy_from_slice(&view.spi_i.0.to_be_bytes());
    bytes[8..16].copy_from_slice(&view.spi_r.0.to_be_bytes());
    bytes[16] = PayloadType::SKF.0;
    bytes[17] = 0x20;
    bytes[18] = ExchangeType::INFORMATIONAL.0;
    bytes[19] = 0x08;
    bytes[24..28].copy_from_slice(&1228u32.to_be_bytes());
    bytes[28] = 41;
    bytes[29] = 0;
    bytes[30..32].copy_from_slice(&1200u16.to_be_bytes());
    let log = pair.log.len();
    for number in 0..20_000u32 {
        bytes[20..24].copy_from_slice(&(number % 200).to_be_bytes());
        let place = u16::try_from(number % 64 + 1).unwrap();
        bytes[32..34].copy_from_slice(&place.to_be_bytes());
        bytes[34..36].copy_from_slice(&64u16.to_be_bytes());
        pair.inject(B, arrival(&last), &bytes);
    }
    assert_eq!(pair.log.len(), log, "no answer");
    let counted = pair.ends[B].count("ike_integrity") + pair.ends[B].count("ike_duplicate");
    assert_eq!(counted, 20_000);
    assert_eq!(format!("{:?}", pair.b().engine.views().remove(0)), before);
}

#[test]
fn fragments_whose_rest_never_comes_are_forgotten() {
    let mut pair = talkative(7, |_, _| {});
    connect(&mut pair);
    pair.run(Duration::from_millis(35));
    let sent = fragments(&pair, B);
    pair.lose_all();
    pair.dead.insert(setup::GATEWAY_ADDRESS.parse().unwrap());
    pair.inject(A, arrival(&sent[0]), &sent[0].payload);
    assert_eq!(pair.ends[A].count("ike_fragments_expired"), 0);
    pair.run(Duration::from_secs(31));
    assert_eq!(pair.ends[A].count("ike_fragments_expired"), 1);
}
