//! What either end refuses, each error notify by a request that somebody with the
//! keys and without manners could send; nothing is made then.

use mifsec::ids::Spi;
use mifsec::ike::message::{ExchangeType, Ke, Notify, NotifyType, Payload};
use mifsec::ike::mif::{
    AddFlags, AddInterface, AddMode, DerivedFlags, DerivedSa, DerivedSas, Maddr, error,
};

use super::*;

/// A request of A's that is in order: the WLAN, from the only Child SA.
pub(crate) fn good(pair: &Pair) -> (AddInterface, DerivedSas) {
    let template = pair.ends[A].children.values().next().unwrap();
    let add = AddInterface {
        txn: 100,
        flags: AddFlags::BUNDLE,
        iface: WLAN,
        mode: AddMode::TUNNEL,
        inner: Vec::new(),
        outer: Maddr::new(ip(WLAN_ADDRESS), 0),
        destination: None,
        from: None,
        nonce: vec![7; 32],
        ke: None,
    };
    let entry = DerivedSa {
        index: 0,
        flags: DerivedFlags::default(),
        template_init: template.spi_in,
        template_resp: template.spi_out,
        new_init: Spi(0x1234_5678),
        new_resp: Spi(0),
    };
    let list = DerivedSas {
        txn: 100,
        entries: vec![entry],
    };
    (add, list)
}

pub(crate) fn send(pair: &mut Pair, add: &AddInterface, list: &DerivedSas) -> Vec<Payload> {
    let payloads = [add.notify(), list.notify()].map(Payload::Notify);
    send_all(pair, A, &payloads)
}

/// The payloads of the other end's answer.
pub(crate) fn send_all(pair: &mut Pair, who: usize, payloads: &[Payload]) -> Vec<Payload> {
    pair.forge(who, ExchangeType::INFORMATIONAL, None, false, payloads);
    let since = pair.log.len();
    pair.run(SECOND);
    let answers = pair.log[since..].iter().filter(|(_, from, _)| *from != who);
    let answer = answers.last().expect("every request is answered").2.clone();
    let revealed = pair.ends[who].engine.reveal(&answer.payload);
    revealed.expect("under the keys of the IKE SA").1
}

pub(crate) fn kinds(payloads: &[Payload]) -> Vec<NotifyType> {
    let notifies = payloads.iter().filter_map(|payload| match payload {
        Payload::Notify(notify) => Some(notify.kind),
        _ => None,
    });
    notifies.collect()
}

/// A change to a good request, and the answer to that.
type Case = (fn(&mut AddInterface, &mut DerivedSas), NotifyType);

#[test]
fn each_error_is_answered_by_its_notify_and_nothing_is_made() {
    mifsec_tests::covers!("R47", "R49");
    let cases: [Case; 19] = [
        (
            |add, _| add.iface = IfaceId(9),
            error::MIF_UNKNOWN_INTERFACE,
        ),
        (
            |add, _| add.from = Some(vec![IfaceId(9)]),
            error::MIF_UNKNOWN_INTERFACE,
        ),
        (
            |add, _| add.outer.ip = ip("198.18.0.1"),
            error::MIF_ADDRESS_REJECTED,
        ),
        (
            |add, _| add.outer.ip = ip("224.0.0.1"),
            error::MIF_ADDRESS_REJECTED,
        ),
        (
            |add, _| add.outer.ip = ip("127.0.0.1"),
            error::MIF_ADDRESS_REJECTED,
        ),
        (
            |add, _| add.outer.ip = ip(GATEWAY_ADDRESS),
            error::MIF_ADDRESS_REJECTED,
        ),
        (
            |add, _| add.destination = Some(Maddr::new(ip("203.0.113.77"), 0)),
            error::MIF_ADDRESS_REJECTED,
        ),
        (
            |add, _| add.flags = AddFlags::SPI_FROM_NONCE,
            error::MIF_UNSUPPORTED,
        ),
        (
            |add, _| add.mode = AddMode::TRANSPORT,
            error::MIF_UNSUPPORTED,
        ),
        (|add, _| add.mode = AddMode::BOTH, error::MIF_UNSUPPORTED),
        (|add, _| add.mode = AddMode(7), error::MIF_MODE_MISMATCH),
        (
            |add, _| {
                add.flags = add.flags.with(AddFlags::CONFIG);
                add.inner = vec![Maddr::new(ip("10.66.0.9"), 0)];
            },
            error::MIF_MODE_MISMATCH,
        ),
        (
            |_, list| list.entries[0].template_init = Spi(0x999),
            error::MIF_DERIVATION_MISMATCH,
        ),
        (
            |_, list| list.entries.clear(),
            error::MIF_DERIVATION_MISMATCH,
        ),
        (
            |_, list| list.entries[0].flags = DerivedFlags::SKIPPED_EXISTS,
            error::MIF_DERIVATION_MISMATCH,
        ),
        (|_, list| list.txn = 99, error::MIF_DERIVATION_MISMATCH),
        (
            |_, list| list.entries[0].new_init = Spi(255),
            error::MIF_SPI_COLLISION,
        ),
        (
            |_, list| list.entries[0].new_init = list.entries[0].template_init,
            error::MIF_SPI_COLLISION,
        ),
        // An address of the pool that is nobody's, but not this one's either.
        (
            |add, _| {
                add.flags = AddFlags::default();
                add.inner = vec![
                    Maddr::new(ip("10.66.200.200"), 0),
                    Maddr::new(ip("fd66::77"), 0),
                ];
            },
            NotifyType::TS_UNACCEPTABLE,
        ),
    ];
    for (change, expected) in cases {
        let mut pair = usual(20);
        let (mut add, mut list) = good(&pair);
        change(&mut add, &mut list);
        let answer = send(&mut pair, &add, &list);
        assert_eq!(kinds(&answer), [expected]);
        assert_eq!(pair.ends[B].installs, 1, "{expected:?}");
        assert_eq!(pair.ends[B].count("mif_add_refused"), 1);
        // It harmed nothing: the same in order is carried out.
        let (mut add, mut list) = good(&pair);
        (add.txn, list.txn) = (101, 101);
        let answer = send(&mut pair, &add, &list);
        assert_eq!(kinds(&answer).len(), 2, "{expected:?}");
        assert_eq!(pair.ends[B].installs, 2);
    }
}

#[test]
fn without_its_list_nothing_is_derived() {
    let mut pair = usual(21);
    let (add, list) = good(&pair);
    let answer = send_all(&mut pair, A, &[Payload::Notify(add.notify())]);
    assert_eq!(kinds(&answer), [error::MIF_DERIVATION_MISMATCH]);
    // And the list alone asks for nothing.
    let answer = send_all(&mut pair, A, &[Payload::Notify(list.notify())]);
    assert_eq!(answer, []);
}

#[test]
fn an_operation_is_carried_out_once_and_an_older_one_not_at_all() {
    let mut pair = usual(22);
    let (mut add, mut list) = good(&pair);
    let first = send(&mut pair, &add, &list);
    assert_eq!(kinds(&first).len(), 2);
    // As another message, the same octets: the same answer.
    assert_eq!(send(&mut pair, &add, &list), first);
    assert_eq!(pair.ends[B].installs, 2);
    // The same number for something else.
    add.nonce = vec![8; 32];
    assert_eq!(kinds(&send(&mut pair, &add, &list)), [error::MIF_STALE_TXN]);
    (add.txn, list.txn) = (99, 99);
    assert_eq!(kinds(&send(&mut pair, &add, &list)), [error::MIF_STALE_TXN]);
    assert_eq!(pair.ends[B].installs, 2);
}

#[test]
fn an_inner_address_of_somebody_else_is_not_given() {
    let mut pair = usual(23);
    let (mut add, list) = good(&pair);
    // Somebody who may have any address, and the lease of another subscriber.
    let victim = leases(&pair, A);
    let mut other = other_subscriber(&mut pair);
    add.flags = AddFlags::default();
    add.inner = victim.iter().map(|ip| Maddr::new(*ip, 0)).collect();
    let template = other.ends[A].children.values().next().unwrap();
    let mut list = list;
    list.entries[0].template_init = template.spi_in;
    list.entries[0].template_resp = template.spi_out;
    let answer = send(&mut other, &add, &list);
    assert_eq!(kinds(&answer), [error::MIF_SELECTOR_EXISTS]);
    assert_eq!(other.ends[B].children.len(), 2);
}

/// A second end user at the same gateway, which takes the first one's place in the
/// simulation.
fn other_subscriber(pair: &mut Pair) -> Pair {
    let mut config = setup::user();
    config.peers[0].local_id = "other@example.org".parse().unwrap();
    let fresh = setup::engine(config, 777);
    let spare = setup::engine(setup::gateway(), 778);
    let mut other = Pair::new(fresh, spare, 23);
    std::mem::swap(&mut other.ends[B], &mut pair.ends[B]);
    other.now = pair.now;
    tables(&mut other, A, &[(WLAN, WLAN_ADDRESS), (RAN, RAN_ADDRESS)]);
    setup::connect(&mut other);
    other.run(SECOND);
    let ike = other.a().ike();
    let command = Command::ResolveChannel {
        ike,
        local: RAN,
        remote: GATEWAY,
    };
    other.command(A, command);
    other
}

#[test]
fn operations_are_not_carried_out_at_any_rate() {
    let mut pair = usual(24);
    let (mut add, mut list) = good(&pair);
    list.entries[0].template_init = Spi(0x999);
    for txn in 1..=20 {
        (add.txn, list.txn) = (txn, txn);
        let payloads = [add.notify(), list.notify()].map(Payload::Notify);
        pair.forge(A, ExchangeType::INFORMATIONAL, None, false, &payloads);
        pair.run(Duration::from_millis(21));
    }
    assert_eq!(pair.ends[B].count("mif_add_too_often"), 12);
    assert_eq!(pair.ends[B].count("mif_add_refused"), 20);
}

/// A's request is answered by B with this instead.
fn answered(seed: u64, payloads: &[Payload]) -> Pair {
    let mut pair = usual(seed);
    pair.hold();
    let command = add(&pair, WLAN, WLAN_ADDRESS);
    pair.command(A, command);
    let request = pair.take(A, &["MIF_ADD_INTERFACE"]);
    let header = mifsec::ike::message::Header::decode(&request.transmit.payload)
        .unwrap()
        .0;
    pair.release();
    pair.forge(
        B,
        ExchangeType::INFORMATIONAL,
        Some(header.message_id),
        true,
        payloads,
    );
    pair.run(Duration::from_millis(50));
    pair
}

#[test]
fn a_refusal_says_whether_to_ask_one_by_one() {
    let refusals = [
        (error::MIF_UNSUPPORTED, true),
        (error::MIF_LIMIT_EXCEEDED, true),
        (error::MIF_SELECTOR_EXISTS, true),
        (error::MIF_MODE_MISMATCH, true),
        (error::MIF_ADDRESS_REJECTED, true),
        (error::MIF_STALE_TXN, true),
        (NotifyType::INTERNAL_ADDRESS_FAILURE, false),
    ];
    for (kind, falls_back) in refusals {
        let notify = Payload::Notify(Notify::new(kind, Vec::new()));
        let pair = answered(25, &[notify]);
        let [(_, fall_back)] = &refused(&pair, A)[..] else {
            panic!("one refusal for {kind:?}");
        };
        assert_eq!(*fall_back, falls_back, "{kind:?}");
        assert!(pair.ends[A].larval.is_empty());
    }
}

#[test]
fn what_passes_is_asked_again_and_given_up_in_the_end() {
    for kind in [
        NotifyType::TEMPORARY_FAILURE,
        error::MIF_DERIVATION_MISMATCH,
        error::MIF_SPI_COLLISION,
        error::MIF_UNKNOWN_INTERFACE,
    ] {
        let notify = Payload::Notify(Notify::new(kind, Vec::new()));
        let mut pair = answered(26, &[notify]);
        assert!(refused(&pair, A).is_empty() && pair.ends[A].larval.is_empty());
        pair.run(SECOND);
        assert_eq!(added(&pair, A), [(End::Local, WLAN, 1, 0)], "{kind:?}");
        assert_agreement(&pair);
    }
    // The templates differ for good: B has lost one without a word.
    let mut pair = usual(27);
    let template = *pair.ends[B].children.keys().next().unwrap();
    pair.hold();
    pair.command(B, Command::DeleteChild { child: template });
    pair.take(B, &["D("]);
    pair.release();
    let command = add(&pair, WLAN, WLAN_ADDRESS);
    pair.command(A, command);
    pair.run(Duration::from_millis(400));
    assert!(refused(&pair, A).is_empty(), "asked again and again");
    // Until the Delete is repeated and comes through.
    pair.run(SECOND * 30);
    let [(reason, fall_back)] = &refused(&pair, A)[..] else {
        panic!("one refusal");
    };
    assert!(reason.contains("derive from") && *fall_back, "{reason}");
}

#[test]
fn an_answer_to_something_else_makes_nothing_and_what_the_peer_made_is_deleted() {
    let pair = usual(28);
    let (mut add, mut list) = good(&pair);
    drop(pair);
    for change in 0..6 {
        let mut pair = usual(28);
        pair.hold();
        let command = super::add(&pair, WLAN, WLAN_ADDRESS);
        pair.command(A, command);
        let request = pair.take(A, &["MIF_ADD_INTERFACE"]);
        let (header, payloads) = pair.ends[A]
            .engine
            .reveal(&request.transmit.payload)
            .unwrap();
        for payload in &payloads {
            if let Payload::Notify(notify) = payload {
                if let Ok(read) = AddInterface::decode(&notify.data, None) {
                    add = read;
                } else if let Ok(read) = DerivedSas::decode(&notify.data, 9) {
                    list = read;
                }
            }
        }
        list.entries[0].new_resp = Spi(0x4444_4444);
        list.entries[0].flags = DerivedFlags::CREATED;
        match change {
            0 => add.txn += 1,
            1 => list.entries[0].new_resp = Spi(77),
            2 => list.entries[0].new_resp = list.entries[0].template_resp,
            3 => list.entries[0].new_init = Spi(0x5555_5555),
            4 => list.entries[0].flags = DerivedFlags::SKIPPED_EXISTS,
            _ => list.entries.clear(),
        }
        let answer = [add.notify(), list.notify()].map(Payload::Notify);
        pair.forge(
            B,
            ExchangeType::INFORMATIONAL,
            Some(header.message_id),
            true,
            &answer,
        );
        pair.release();
        pair.run(Duration::from_millis(15));
        assert_eq!(pair.ends[A].installs, 1, "{change}");
        assert_eq!(refused(&pair, A).len(), 1);
        assert!(pair.ends[A].larval.is_empty());
        let (.., last) = pair.log.iter().rfind(|(_, who, _)| *who == A).unwrap();
        let deletes = pair.ends[A].engine.reveal(&last.payload).unwrap().1;
        assert!(matches!(deletes[..], [Payload::Delete(_)]), "{deletes:?}");
    }
}

#[test]
fn a_public_value_that_is_none_is_refused() {
    let mut pair = usual(29);
    let (mut add, list) = good(&pair);
    add.ke = Some(Ke {
        group: 31,
        data: vec![0; 31],
    });
    let answer = send(&mut pair, &add, &list);
    assert_eq!(kinds(&answer), [NotifyType::INVALID_SYNTAX]);
    assert_eq!(pair.ends[B].installs, 1);
}
