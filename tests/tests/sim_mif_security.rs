//! What an authenticated peer that keeps no rule can do (protocol 3.13), and each
//! error of the extension, provoked from both sides.

use std::net::IpAddr;
use std::time::Duration;

use mifsec::ids::{IfaceId, Spi};
use mifsec::ike::message::{Config, ConfigType, ExchangeType, Notify, NotifyType, Payload};
use mifsec::ike::mif::{
    AddFlags, AddInterface, AddMode, Alternates, DeleteFlags, DeleteInterface, DerivedSas,
    IfaceState, Interfaces, MAX_RECORDS, Maddr, OuterAddrs, OuterFlags, UpdateAddrs, UpdateFlags,
    error, status,
};
use mifsec::ike::{Command, End, Event};
use mifsec_tests::sim::multi::{self, ETH, GATEWAY2, add, assert_converged, carry};
use mifsec_tests::sim::setup::{self, GATEWAY, RAN, WLAN, established};
use mifsec_tests::sim::{A, B, Held, Pair, ip};

const SECOND: Duration = Duration::from_secs(1);
/// Somebody who has nothing to do with it.
const VICTIM: &str = "198.18.0.1";

/// A request that keeps no rule, and what is answered.
fn ask(pair: &mut Pair, who: usize, exchange: ExchangeType, payloads: &[Payload]) -> Vec<Payload> {
    let since = pair.log.len();
    pair.forge(who, exchange, None, false, payloads);
    pair.run(SECOND);
    let answers = pair.log[since..].iter().filter(|(_, by, _)| *by != who);
    let engine = &pair.ends[1 - who].engine;
    let revealed = answers.filter_map(|(_, _, transmit)| engine.reveal(&transmit.payload));
    let mut responses = revealed.filter(|(header, _)| header.response);
    responses.next().expect("an answer").1
}

/// One notify as a request; the first error of the answer.
fn tell(pair: &mut Pair, who: usize, notifies: Vec<Notify>) -> Option<NotifyType> {
    let payloads: Vec<_> = notifies.into_iter().map(Payload::Notify).collect();
    refusal(&ask(pair, who, ExchangeType::INFORMATIONAL, &payloads))
}

fn refusal(payloads: &[Payload]) -> Option<NotifyType> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Notify(notify) if notify.kind.is_error() => Some(notify.kind),
        _ => None,
    })
}

/// What is answered to a changed request, and what it left at the other end before
/// the sender, whose own engine keeps the rules, asks again.
struct Answer {
    payloads: Vec<Payload>,
    installs: usize,
    census: (usize, usize),
    leases: usize,
}

impl Answer {
    fn refusal(&self) -> Option<NotifyType> {
        refusal(&self.payloads)
    }
}

/// The request of a command, changed on its way by who sends it.
fn tampered(
    pair: &mut Pair,
    who: usize,
    command: Command,
    change: impl FnOnce(&mut AddInterface, &mut DerivedSas),
) -> Answer {
    pair.hold();
    pair.command(who, command);
    let mut held = pair.take(who, &["INFORMATIONAL request", "MIF_ADD_INTERFACE"]);
    let engine = &pair.ends[who].engine;
    let (header, mut payloads) = engine.reveal(&held.transmit.payload).expect("our own");
    let data = |payloads: &[Payload], kind| {
        let notify = payloads.iter().find_map(|payload| match payload {
            Payload::Notify(notify) if notify.kind == kind => Some(notify.data.clone()),
            _ => None,
        });
        notify.expect("both are there")
    };
    let mut add =
        AddInterface::decode(&data(&payloads, status::MIF_ADD_INTERFACE), None).expect("our own");
    let list = data(&payloads, status::MIF_DERIVED_SAS);
    let mut list = DerivedSas::decode(&list, 1024).expect("our own");
    change(&mut add, &mut list);
    for payload in &mut payloads {
        match payload {
            Payload::Notify(notify) if notify.kind == status::MIF_ADD_INTERFACE => {
                *notify = add.notify();
            }
            Payload::Notify(notify) if notify.kind == status::MIF_DERIVED_SAS => {
                *notify = list.notify();
            }
            _ => {}
        }
    }
    let ike = multi::ike(pair, who);
    let engine = &mut pair.ends[who].engine;
    let id = Some(header.message_id);
    let forged = engine.forge(ike, header.exchange, id, false, &payloads);
    held.transmit.payload = forged.expect("an IKE SA");
    pair.arrive(&held);
    let answer: Held = pair.take(1 - who, &["INFORMATIONAL response"]);
    let engine = &pair.ends[1 - who].engine;
    let (_, payloads) = engine.reveal(&answer.transmit.payload).expect("an answer");
    let result = Answer {
        payloads,
        installs: pair.ends[1 - who].installs,
        census: engine.census(),
        leases: engine.views()[0].leases.len(),
    };
    pair.arrive(&answer);
    pair.release();
    pair.run(SECOND);
    result
}

fn update(txn: u32, flags: UpdateFlags, ifaces: (IfaceId, IfaceId), new: &str) -> Notify {
    UpdateAddrs {
        txn,
        flags: UpdateFlags::TUNNEL.with(flags),
        grace_ms: 0,
        old_iface: ifaces.0,
        new_iface: ifaces.1,
        old: Maddr::new(ip("192.0.2.10"), 0),
        new: Maddr::new(ip(new), 4500),
    }
    .notify()
}

/// Of interfaces that the end has, one that carries Child SAs.
fn own(who: usize) -> IfaceId {
    if who == A { WLAN } else { GATEWAY }
}

const NONE: UpdateFlags = UpdateFlags(0);

#[test]
fn an_interface_nobody_announced_is_refused_from_both_sides() {
    mifsec_tests::covers!("R85");
    for who in [A, B] {
        let mut pair = multi::pair(1);
        let (own, none) = (own(who), IfaceId(99));
        let alternates = |iface, other| {
            Alternates {
                epoch: 9,
                iface,
                list: Some(vec![other]),
            }
            .notify(4)
        };
        let delete = DeleteInterface {
            txn: 1000,
            flags: DeleteFlags::OUTER,
            iface: none,
        };
        for notify in [
            update(1000, NONE, (none, none), "192.0.2.99"),
            update(1001, NONE, (own, none), "192.0.2.99"),
            update(1002, NONE, (none, own), "192.0.2.99"),
            update(1003, UpdateFlags::SELECT_PEER, (none, none), "192.0.2.99"),
            alternates(none, own),
            delete.notify(),
        ] {
            let kind = notify.kind;
            let refused = tell(&mut pair, who, vec![notify]);
            assert_eq!(refused, Some(error::MIF_UNKNOWN_INTERFACE), "{who} {kind}");
        }
        let command = add(&pair, who, if who == A { ETH } else { GATEWAY2 }, own);
        let answer = tampered(&mut pair, who, command, |add, _| add.iface = none);
        assert_eq!(answer.refusal(), Some(error::MIF_UNKNOWN_INTERFACE));
        assert_eq!(answer.installs, 2);
    }
}

#[test]
fn addresses_that_cannot_be_a_peers_are_refused_from_both_sides() {
    mifsec_tests::covers!("R85");
    for who in [A, B] {
        let mut pair = multi::pair(2);
        let victims_own = multi::address(1 - who, own(1 - who));
        let before = [multi::carried(&pair, A), multi::carried(&pair, B)];
        let bad = [
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "127.0.0.1",
            "::1",
            "169.254.1.1",
            "fe80::1",
            "0.0.0.0",
            "::",
            victims_own,
        ];
        for (n, address) in (1000..).zip(bad) {
            let moved = update(n, NONE, (own(who), own(who)), address);
            let refused = tell(&mut pair, who, vec![moved]);
            assert_eq!(
                refused,
                Some(error::MIF_ADDRESS_REJECTED),
                "{who} {address}"
            );
            let iface = if who == A { ETH } else { GATEWAY2 };
            let command = add(&pair, who, iface, own(1 - who));
            let bad = Maddr::new(ip(address), 0);
            let answer = tampered(&mut pair, who, command, |add, _| add.outer = bad);
            assert_eq!(
                answer.refusal(),
                Some(error::MIF_ADDRESS_REJECTED),
                "{address}"
            );
        }
        // Of a choice among ours: an address that is not ours.
        let ours = if who == A {
            (GATEWAY, GATEWAY2)
        } else {
            (WLAN, RAN)
        };
        let choice = update(2000, UpdateFlags::SELECT_PEER, ours, VICTIM);
        let refused = tell(&mut pair, who, vec![choice]);
        assert_eq!(refused, Some(error::MIF_ADDRESS_REJECTED));
        assert_eq!([multi::carried(&pair, A), multi::carried(&pair, B)], before);
        let moved = |event: &Event| matches!(event, Event::PeerMoved { .. });
        assert!(!pair.ends[1 - who].events.iter().any(moved));
        assert_converged(&pair);
    }
}

#[test]
fn more_than_agreed_is_refused_from_both_sides() {
    mifsec_tests::covers!("R85");
    for who in [A, B] {
        let (mut user, mut gateway) = (setup::user(), setup::gateway());
        user.limits.children = 4;
        gateway.limits.children = 4;
        let mut pair = multi::two(established(user, gateway, 3));
        let record = |id| setup::record(IfaceId(id), "192.0.2.150");
        let table = Interfaces {
            epoch: 99,
            records: (1..=45).map(record).collect(),
        };
        let refused = tell(&mut pair, who, vec![table.notify()]);
        assert_eq!(refused, Some(error::MIF_LIMIT_EXCEEDED));
        let alternates = Alternates {
            epoch: 9,
            iface: own(who),
            list: Some((100..140).map(IfaceId).collect()),
        };
        let refused = tell(&mut pair, who, vec![alternates.notify(40)]);
        assert_eq!(refused, Some(error::MIF_LIMIT_EXCEEDED));
        let iface = if who == A { ETH } else { GATEWAY2 };
        let command = add(&pair, who, iface, own(1 - who));
        let answer = tampered(&mut pair, who, command, |_, list| {
            let entry = list.entries[0];
            list.entries = vec![entry; 5];
        });
        assert_eq!(answer.refusal(), Some(error::MIF_LIMIT_EXCEEDED));
        let command = add(&pair, who, iface, own(1 - who));
        let answer = tampered(&mut pair, who, command, |add, _| {
            add.inner = vec![Maddr::new(ip("10.66.0.9"), 0); 20];
        });
        assert_eq!(answer.refusal(), Some(error::MIF_LIMIT_EXCEEDED));
        assert!(pair.ends[1 - who].children.len() <= 4);
    }
}

#[test]
fn an_old_operation_that_says_something_else_is_stale_from_both_sides() {
    mifsec_tests::covers!("R85");
    for who in [A, B] {
        let mut pair = multi::pair(4);
        let iface = own(who);
        let first = update(1000, NONE, (iface, iface), "198.51.100.50");
        assert_eq!(tell(&mut pair, who, vec![first.clone()]), None);
        // Again, as a request of its own: answered alike, carried out once.
        assert_eq!(tell(&mut pair, who, vec![first]), None);
        let other = update(1000, NONE, (iface, iface), "198.51.100.51");
        let refused = tell(&mut pair, who, vec![other]);
        assert_eq!(refused, Some(error::MIF_STALE_TXN));
        let older = update(999, NONE, (iface, iface), "198.51.100.52");
        let refused = tell(&mut pair, who, vec![older]);
        assert_eq!(refused, Some(error::MIF_STALE_TXN));
        let moved = |event: &&Event| matches!(event, Event::PeerMoved { .. });
        assert_eq!(pair.ends[1 - who].events.iter().filter(moved).count(), 1);

        // The same of an added interface.
        let iface = if who == A { ETH } else { GATEWAY2 };
        let command = add(&pair, who, iface, own(1 - who));
        let (mut sent, mut txn) = (None, 0);
        let answer = tampered(&mut pair, who, command, |add, list| {
            txn = add.txn;
            sent = Some(vec![add.notify(), list.notify()]);
        });
        assert_eq!(answer.refusal(), None);
        let installs = pair.ends[1 - who].installs;
        let repeated = sent.expect("it was sent");
        assert_eq!(tell(&mut pair, who, repeated.clone()), None);
        assert_eq!(pair.ends[1 - who].installs, installs, "carried out once");
        let mut changed = repeated;
        let last = changed[0].data.len() - 1;
        changed[0].data[last] ^= 1;
        let refused = tell(&mut pair, who, changed);
        assert_eq!(refused, Some(error::MIF_STALE_TXN), "txn {txn}");
        assert_eq!(pair.ends[1 - who].installs, installs);
    }
}

/// Each field of the list; nothing of it is installed and no SPI stays taken.
#[test]
fn a_list_that_is_not_what_the_responder_finds_is_a_mismatch_from_both_sides() {
    mifsec_tests::covers!("R47", "R48", "R49", "R85");
    type Change = fn(&mut AddInterface, &mut DerivedSas);
    let changes: [(&str, Change); 7] = [
        ("nothing", |_, list| list.entries.clear()),
        ("one left out", |_, list| {
            list.entries.pop();
        }),
        ("one too many", |_, list| {
            let mut entry = list.entries[0];
            entry.index = 2;
            list.entries.push(entry);
        }),
        ("another order", |_, list| {
            list.entries.reverse();
        }),
        ("another template", |_, list| {
            list.entries[0].template_init = Spi(0x7777_7777);
        }),
        ("another index", |_, list| list.entries[0].index = 7),
        ("another operation", |_, list| list.txn ^= 1),
    ];
    for who in [A, B] {
        let iface = if who == A { ETH } else { GATEWAY2 };
        for (what, change) in changes {
            let mut pair = multi::pair(5);
            let before = pair.ends[1 - who].engine.census();
            let command = add(&pair, who, iface, own(1 - who));
            let answer = tampered(&mut pair, who, command, change);
            let refused = answer.refusal();
            assert_eq!(
                refused,
                Some(error::MIF_DERIVATION_MISMATCH),
                "{who}: {what}"
            );
            assert_eq!(answer.installs, 2, "{what}");
            assert_eq!(answer.census, before);
        }
    }
}

/// An SPI nobody can be sent packets on, or one that is taken.
#[test]
fn an_spi_that_is_reserved_or_taken_is_a_collision_from_both_sides() {
    mifsec_tests::covers!("R47", "R85");
    for who in [A, B] {
        let iface = if who == A { ETH } else { GATEWAY2 };
        let taken = {
            let pair = multi::pair(6);
            pair.ends[who].children.values().next().unwrap().spi_in
        };
        for spi in [Spi(0), Spi(255), taken] {
            let mut pair = multi::pair(6);
            let command = add(&pair, who, iface, own(1 - who));
            let answer = tampered(&mut pair, who, command, |_, list| {
                for entry in &mut list.entries {
                    if who == A {
                        entry.new_init = spi;
                    } else {
                        entry.new_resp = spi;
                    }
                }
            });
            assert_eq!(
                answer.refusal(),
                Some(error::MIF_SPI_COLLISION),
                "{who} {spi}"
            );
            assert_eq!(answer.installs, 2);
        }
    }
}

#[test]
fn equal_selectors_without_bundle_are_refused_and_not_derived_from_both_sides() {
    mifsec_tests::covers!("R49", "R85");
    for who in [A, B] {
        // By CREATE_CHILD_SA.
        let mut pair = multi::pair(7);
        // Roles are those of the first IKE SA, whoever asks.
        let outer = |flags| {
            OuterAddrs {
                init_iface: ETH,
                resp_iface: GATEWAY,
                flags,
                initiator: Maddr::new(ip(multi::address(A, ETH)), 0),
                responder: Maddr::new(ip(multi::address(B, GATEWAY)), 0),
            }
            .notify()
        };
        let create = |pair: &Pair, flags| create(pair, who, outer(flags));
        let payloads = create(&pair, OuterFlags::default());
        let answer = ask(&mut pair, who, ExchangeType::CREATE_CHILD_SA, &payloads);
        assert_eq!(refusal(&answer), Some(error::MIF_SELECTOR_EXISTS), "{who}");
        // Transport mode was not agreed on.
        let payloads = create(&pair, OuterFlags::BUNDLE.with(OuterFlags::TRANSPORT));
        let answer = ask(&mut pair, who, ExchangeType::CREATE_CHILD_SA, &payloads);
        assert_eq!(refusal(&answer), Some(error::MIF_MODE_MISMATCH), "{who}");
        assert_eq!(pair.ends[1 - who].installs, 2);

        // By adding: there is nothing to derive, which is no error.
        let mut pair = multi::pair(7);
        let iface = if who == A { ETH } else { GATEWAY2 };
        let mut command = add(&pair, who, iface, own(1 - who));
        if let Command::AddInterface { bundle, .. } = &mut command {
            *bundle = false;
        }
        pair.command(who, command);
        pair.run(SECOND * 10);
        assert_eq!(pair.ends[1 - who].installs, 2, "nothing was derived");
        assert_converged(&pair);
    }
}

/// CREATE_CHILD_SA with the selectors there are.
fn create(pair: &Pair, who: usize, outer: Notify) -> Vec<Payload> {
    use mifsec::ike::selector::to_entries;
    let child = pair.ends[who].children.values().next().expect("one");
    let offer = mifsec::ike::proposal::offer_esp(&[Default::default()], Spi(0x4321_0000), true);
    vec![
        Payload::Sa(offer),
        Payload::Nonce(vec![9; 32]),
        Payload::TsI(to_entries(&child.ts_local)),
        Payload::TsR(to_entries(&child.ts_remote)),
        Payload::Notify(outer),
    ]
}

#[test]
fn transport_mode_and_no_mode_are_a_mismatch_from_both_sides() {
    mifsec_tests::covers!("R85");
    for who in [A, B] {
        let mut pair = multi::pair(8);
        let channelless = UpdateAddrs {
            txn: 1000,
            flags: UpdateFlags(0),
            grace_ms: 0,
            old_iface: own(who),
            new_iface: own(who),
            old: Maddr::new(ip("192.0.2.10"), 0),
            new: Maddr::new(ip("192.0.2.98"), 0),
        };
        let refused = tell(&mut pair, who, vec![channelless.notify()]);
        assert_eq!(refused, Some(error::MIF_MODE_MISMATCH));
        let iface = if who == A { ETH } else { GATEWAY2 };
        for (mode, expected) in [
            (AddMode::TRANSPORT, error::MIF_UNSUPPORTED),
            (AddMode::BOTH, error::MIF_UNSUPPORTED),
            (AddMode(9), error::MIF_MODE_MISMATCH),
        ] {
            let command = add(&pair, who, iface, own(1 - who));
            let answer = tampered(&mut pair, who, command, |add, _| add.mode = mode);
            let refused = answer.refusal().expect("refused");
            let either = [expected, error::MIF_MODE_MISMATCH];
            assert!(either.contains(&refused), "{mode:?}: {refused}");
            assert_eq!(pair.ends[1 - who].installs, 2);
        }
    }
}

/// Third-party bombing, seen from IKE: of a victim named in every place there is,
/// the other end sends nothing there by itself. What data it would send is the path
/// engine's: `sim_path::an_authenticated_peer_cannot_direct_traffic_at_a_victim`.
#[test]
fn a_victim_named_everywhere_gets_no_ike_message() {
    mifsec_tests::covers!("R85");
    for who in [A, B] {
        let mut pair = multi::pair(9);
        let mut table = setup::record(own(who), multi::address(who, own(who)));
        table.addresses.insert(0, Maddr::new(ip(VICTIM), 4500));
        table.state = IfaceState::UP;
        let table = Interfaces {
            epoch: 99,
            records: vec![table],
        };
        let channel = UpdateFlags::IKE_CHANNEL.with(UpdateFlags::OLD_IS_DEAD);
        for notify in [
            table.notify(),
            update(1000, channel, (own(who), own(who)), VICTIM),
            update(1001, NONE, (own(who), own(who)), VICTIM),
        ] {
            tell(&mut pair, who, vec![notify]);
        }
        // Requests of the other end, also such as are repeated for lack of an answer.
        let ike = multi::ike(&pair, 1 - who);
        pair.links[who].loss = 1.0;
        pair.command(1 - who, Command::CheckLiveness { ike });
        pair.command(1 - who, Command::RekeyIke { ike });
        pair.run(SECOND * 60);
        let octets: usize = pair
            .log
            .iter()
            .filter(|(_, by, transmit)| *by != who && transmit.remote.ip() == ip(VICTIM))
            .map(|(_, _, transmit)| transmit.payload.len())
            .sum();
        let received: usize = pair
            .log
            .iter()
            .filter(|(_, by, transmit)| *by == who && transmit.local.ip() == ip(VICTIM))
            .map(|(_, _, transmit)| transmit.payload.len())
            .sum();
        assert_eq!(received, 0, "nothing ever came from there");
        assert_eq!(octets, 0, "three times nothing");
    }
}

/// A choice among ours: only an alternate we have, only from there to there.
#[test]
fn a_peer_chooses_only_among_our_alternates() {
    mifsec_tests::covers!("R36", "R85");
    let mut pair = multi::pair(10);
    let ike = multi::ike(&pair, A);
    let lists = [(WLAN, vec![RAN]), (RAN, vec![])].into();
    pair.command(A, Command::SetAlternates { ike, lists });
    pair.run(SECOND);
    for (n, from, to) in [(1000, WLAN, ETH), (1001, RAN, WLAN), (1002, RAN, ETH)] {
        let choice = update(
            n,
            UpdateFlags::SELECT_PEER,
            (from, to),
            multi::address(A, to),
        );
        let refused = tell(&mut pair, B, vec![choice]);
        assert_eq!(
            refused,
            Some(error::MIF_ADDRESS_REJECTED),
            "{from:?} {to:?}"
        );
    }
    assert_eq!(multi::carried(&pair, A), [].into());
    let choice = update(
        1003,
        UpdateFlags::SELECT_PEER,
        (WLAN, RAN),
        multi::address(A, RAN),
    );
    assert_eq!(tell(&mut pair, B, vec![choice]), None);
    assert_eq!(multi::carried(&pair, A), [(A, WLAN, RAN)].into());
}

/// Another subscriber's inner address, one of the pool that nobody leased, and one
/// outside of what is allowed: nothing is derived for them.
#[test]
fn selectors_of_others_cannot_be_derived() {
    mifsec_tests::covers!("R43", "R85");
    let mut pair = multi::pair(11);
    let lease = |pair: &Pair| pair.ends[A].engine.views()[0].leases.clone();
    let own: Vec<_> = lease(&pair);
    assert!(!own.is_empty());
    for stolen in [
        "10.66.0.77",
        "10.66.255.1",
        "fd66::7777",
        "192.0.2.1",
        "10.0.0.1",
    ] {
        let command = add(&pair, A, ETH, GATEWAY);
        let answer = tampered(&mut pair, A, command, |add, _| {
            add.inner = vec![Maddr::new(ip(stolen), 0)];
        });
        let refused = answer.refusal().expect("refused");
        let known = [
            NotifyType::TS_UNACCEPTABLE,
            error::MIF_SELECTOR_EXISTS,
            error::MIF_DERIVATION_MISMATCH,
            error::MIF_ADDRESS_REJECTED,
        ];
        assert!(known.contains(&refused), "{stolen}: {refused}");
        assert_eq!(pair.ends[B].installs, 2, "{stolen}");
    }
    // All that the gateway would take from the peer is its own.
    let all: Vec<_> = pair.ends[B]
        .children
        .values()
        .flat_map(|child| child.ts_remote.clone())
        .collect();
    assert!(
        all.iter()
            .all(|ts| own.contains(&ts.start()) && ts.is_host())
    );
}

/// Inner addresses by the score: each costs one of the pool, and what was refused
/// gave it back.
#[test]
fn refused_additions_keep_no_inner_address() {
    mifsec_tests::covers!("R44", "R85");
    let mut pair = multi::pair(12);
    for _ in 0..50 {
        // The honest retry takes one, and has it back when the interface goes.
        let before = pair.ends[B].engine.views()[0].leases.len();
        let mut command = add(&pair, A, ETH, GATEWAY);
        if let Command::AddInterface { lease, bundle, .. } = &mut command {
            (*lease, *bundle) = (true, false);
        }
        let answer = tampered(&mut pair, A, command, |_, list| {
            list.entries[0].template_init = Spi(0x1234_5678);
        });
        assert!(answer.refusal().is_some());
        assert_eq!(answer.leases, before, "given back");
    }
}

/// One message, many SAs: there is a bound in each request and in all of them.
#[test]
fn what_a_peer_derives_is_bounded() {
    mifsec_tests::covers!("R62", "R85");
    for (children, derived, most) in [(20, 256, 20), (1024, 0, 2)] {
        let mut config = setup::gateway();
        (config.limits.children, config.limits.derived) = (children, derived);
        bounded(established(setup::user(), config, 13), most);
    }
}

fn bounded(pair: Pair, most: usize) {
    let mut pair = multi::two(pair);
    for round in 0..60u16 {
        let iface = IfaceId(10 + round);
        let table = Interfaces {
            epoch: 100 + u32::from(round),
            records: vec![
                setup::record(WLAN, multi::address(A, WLAN)),
                setup::record(RAN, multi::address(A, RAN)),
                setup::record(iface, multi::address(A, ETH)),
            ],
        };
        tell(&mut pair, A, vec![table.notify()]);
        let child = pair.ends[A].children.values().next().expect("a template");
        let entry = |index| mifsec::ike::mif::DerivedSa {
            index,
            flags: mifsec::ike::mif::DerivedFlags::CREATED,
            template_init: child.spi_in,
            template_resp: child.spi_out,
            new_init: Spi(0x0100_0000 + u32::from(round)),
            new_resp: Spi(0),
        };
        let add = AddInterface {
            txn: 1000 + u32::from(round),
            flags: AddFlags::BUNDLE,
            iface,
            mode: AddMode::TUNNEL,
            inner: Vec::new(),
            outer: Maddr::new(ip(multi::address(A, ETH)), 0),
            destination: None,
            from: Some(vec![child.pair.local]),
            nonce: vec![round as u8; 32],
            ke: None,
        };
        let list = DerivedSas {
            txn: add.txn,
            entries: vec![entry(0)],
        };
        let refused = tell(&mut pair, A, vec![add.notify(), list.notify()]);
        let made = 3 + usize::from(round);
        let refusal = (made > most).then_some(error::MIF_LIMIT_EXCEEDED);
        assert_eq!(refused, refusal, "{round}");
        assert_eq!(pair.ends[B].children.len(), made.min(most));
        let (ikes, spis) = pair.ends[B].engine.census();
        assert!(ikes == 1 && spis <= 24, "{ikes} IKE SAs, {spis} SPIs");
    }
    assert_eq!(
        pair.ends[B].engine.views()[0].children.len(),
        pair.ends[B].children.len()
    );
}

/// What a peer says of interfaces and alternates over and over is kept once.
#[test]
fn words_without_end_leave_no_more_than_one_table() {
    mifsec_tests::covers!("R85");
    let mut pair = multi::pair(14);
    let quiet = pair.ends[B].events.len();
    for n in 0..500u16 {
        let iface = IfaceId(50 + n);
        let table = Interfaces {
            epoch: 1000 + u32::from(n),
            records: vec![
                setup::record(WLAN, multi::address(A, WLAN)),
                setup::record(RAN, multi::address(A, RAN)),
                setup::record(iface, "198.51.100.33"),
            ],
        };
        let alternates = Alternates {
            epoch: 1000 + u32::from(n),
            iface,
            list: Some(vec![WLAN, RAN]),
        };
        let notifies = vec![
            table.notify(),
            alternates.notify(4),
            update(
                1000 + u32::from(n),
                NONE,
                (iface, RAN),
                multi::address(A, RAN),
            ),
        ];
        tell(&mut pair, A, notifies);
    }
    let carriers = pair.ends[B].engine.carried(multi::ike(&pair, B));
    assert!(carriers.len() <= MAX_RECORDS + 1, "{carriers:?}");
    let events = pair.ends[B].events.len() - quiet;
    // A carrier that is forgotten is told, too.
    assert!(events <= 500 * 5, "{events} for 500 requests");
}

/// An old request that comes again, or is said again under new keys, moves nothing.
#[test]
fn a_replayed_move_has_no_effect() {
    mifsec_tests::covers!("R85");
    let mut pair = multi::pair(15);
    pair.hold();
    let command = carry(&pair, A, End::Local, WLAN, RAN);
    pair.command(A, command);
    let old = pair.deliver(A, &["MIF_UPDATE_ADDRS"]);
    pair.release();
    pair.run(SECOND);
    let command = carry(&pair, A, End::Local, WLAN, WLAN);
    pair.command(A, command);
    pair.run(SECOND);
    assert_eq!(multi::carried(&pair, B), [].into());
    for _ in 0..3 {
        pair.arrive(&old);
        pair.run(SECOND);
    }
    assert_eq!(multi::carried(&pair, B), [].into());
    let ike = multi::ike(&pair, A);
    pair.command(A, Command::RekeyIke { ike });
    pair.run(SECOND * 10);
    pair.arrive(&old);
    pair.run(SECOND);
    assert_eq!(multi::carried(&pair, B), [].into());
    assert_converged(&pair);
}

/// Nobody without the keys learns that we speak this, or which interfaces there are.
#[test]
fn nothing_of_the_extension_is_said_in_clear() {
    mifsec_tests::covers!("R15", "R85");
    let pair = multi::pair(16);
    let clear = pair.log.iter().filter_map(|(_, _, transmit)| {
        let (header, body) = mifsec::ike::message::decode(&transmit.payload).ok()?;
        match body {
            mifsec::ike::message::Body::Clear(payloads) => Some((header, payloads)),
            _ => None,
        }
    });
    let mut seen = 0;
    for (_, payloads) in clear {
        seen += 1;
        for payload in payloads {
            match payload {
                Payload::VendorId(id) => assert_ne!(id, mifsec::ike::mif::VENDOR_ID),
                Payload::Notify(notify) => {
                    assert!(!(47104..47136).contains(&notify.kind.0), "{}", notify.kind);
                }
                _ => {}
            }
        }
    }
    assert_eq!(seen, 2, "IKE_SA_INIT alone is in clear");
    // By default the initiator tells its interfaces after the gateway has shown who
    // it is.
    let asked = pair.log.iter().find_map(|(_, who, transmit)| {
        let (header, payloads) = pair.ends[A].engine.reveal(&transmit.payload)?;
        let first = header.exchange == ExchangeType::IKE_AUTH && *who == A;
        first.then_some(payloads)
    });
    let named = asked.expect("IKE_AUTH").into_iter().any(|payload| {
        matches!(payload, Payload::Notify(notify) if notify.kind == status::MIF_INTERFACES)
    });
    assert!(!named, "an active attacker could read the table");
}

/// Garbage in each notify, under the keys: an answer or none, never more state.
#[test]
fn every_length_of_every_notify_is_survived() {
    mifsec_tests::covers!("R85");
    let address = |text: &str| Maddr::new(text.parse::<IpAddr>().expect("an address"), 4500);
    let add = AddInterface {
        txn: 5000,
        flags: AddFlags::BUNDLE,
        iface: ETH,
        mode: AddMode::TUNNEL,
        inner: vec![address("10.66.0.1")],
        outer: address(multi::address(A, ETH)),
        destination: Some(address(multi::address(B, GATEWAY))),
        from: Some(vec![WLAN, RAN]),
        nonce: vec![1; 32],
        ke: None,
    };
    let list = DerivedSas {
        txn: 5000,
        entries: Vec::new(),
    };
    let delete = DeleteInterface {
        txn: 5001,
        flags: DeleteFlags::OUTER,
        iface: IfaceId(77),
    };
    let alternates = Alternates {
        epoch: 0,
        iface: WLAN,
        list: Some(vec![RAN, ETH]),
    };
    let request = Config {
        kind: ConfigType::REQUEST,
        attributes: Vec::new(),
    };
    let all = [
        add.notify(),
        list.notify(),
        delete.notify(),
        alternates.notify(4),
    ];
    for who in [A, B] {
        for whole in &all {
            for len in (0..whole.data.len()).step_by(3) {
                let mut pair = multi::pair(17);
                let before = pair.ends[1 - who].engine.census();
                let cut = Notify::new(whole.kind, whole.data[..len].to_vec());
                let payloads = [
                    Payload::Notify(cut),
                    Payload::Notify(list.notify()),
                    Payload::Config(request.clone()),
                ];
                pair.forge(who, ExchangeType::INFORMATIONAL, None, false, &payloads);
                pair.run(SECOND * 5);
                // Refused, or taken for the end of the IKE SA (RFC 7296 2.21.3).
                let after = pair.ends[1 - who].engine.census();
                assert!(after.0 <= before.0 && after.1 <= before.1, "{after:?}");
                assert_eq!(pair.ends[1 - who].installs, 2, "{} to {len}", whole.kind);
            }
        }
    }
}
