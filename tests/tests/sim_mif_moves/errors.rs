//! Every error of tables, moves and alternates, provoked by either end: who breaks a
//! rule is told which, and nothing else happens.

use mifsec::ids::IfaceId;
use mifsec::ike::Command;
use mifsec::ike::message::{Notify, NotifyType};
use mifsec::ike::mif::{
    Alternates, IfaceState, InterfaceRecord, Interfaces, MAX_RECORDS, Maddr, UpdateAddrs,
    UpdateFlags, error, status,
};
use mifsec_tests::sim::setup::{self, GATEWAY, RAN, WLAN};
use mifsec_tests::sim::{A, B, Pair, ip};

use super::world::*;

const TUNNEL: UpdateFlags = UpdateFlags::TUNNEL;

fn update(txn: u32, flags: UpdateFlags, (old, new): (IfaceId, IfaceId), to: &str) -> Notify {
    let update = UpdateAddrs {
        txn,
        flags,
        grace_ms: 0,
        old_iface: old,
        new_iface: new,
        old: Maddr::new(ip("192.0.2.10"), 0),
        new: Maddr::new(ip(to), 4500),
    };
    update.notify()
}

fn table(records: Vec<InterfaceRecord>) -> Notify {
    let epoch = 1000;
    Interfaces { epoch, records }.notify()
}

fn list(iface: IfaceId, alternates: Vec<IfaceId>) -> Notify {
    let list = Some(alternates);
    let epoch = 1000;
    Alternates { epoch, iface, list }.notify(u8::MAX)
}

fn records(ids: &[u16]) -> Vec<InterfaceRecord> {
    let record = |id: &u16| setup::record(IfaceId(*id), "198.51.100.77");
    ids.iter().map(record).collect()
}

/// `who` asks; the other end answers with exactly this error and nothing of it
/// changes.
fn refused(pair: &mut Pair, who: usize, notify: Notify, expected: NotifyType) {
    let other = 1 - who;
    let events = pair.ends[other].events.len();
    let before = (identity(pair), carried(pair, A), carried(pair, B));
    let views = pair.ends[other].engine.views();
    let said = format!("{notify:?}");
    assert_eq!(ask(pair, who, vec![notify]), [expected], "{said}");
    assert_eq!(pair.ends[other].events.len(), events, "{said}");
    assert_eq!(before, (identity(pair), carried(pair, A), carried(pair, B)));
    assert_eq!(pair.ends[other].engine.views(), views);
}

#[test]
fn who_asks_for_what_may_not_be_is_told_so_and_nothing_happens() {
    mifsec_tests::covers!("R85");
    for who in [A, B] {
        let mut pair = members(20);
        let own = [WLAN, GATEWAY][who];
        let (theirs, alternate) = [(GATEWAY, SPARE), (WLAN, RAN)][who];
        let address = address(1 - who, alternate);
        let choose = TUNNEL.with(UpdateFlags::SELECT_PEER);
        let nobody = IfaceId(77);
        let all: Vec<u16> = (1..=17).collect();
        let mut crowded = records(&[5]);
        crowded[0].addresses = vec![Maddr::new(ip("198.51.100.77"), 0); 9];
        let cases = [
            // Not agreed on, or not known to this version.
            (
                update(1, UpdateFlags::TRANSPORT, (own, own), "198.51.100.7"),
                error::MIF_UNSUPPORTED,
            ),
            (
                Notify::new(status::MIF_STEERING, vec![0; 4]),
                error::MIF_UNSUPPORTED,
            ),
            (
                Notify::new(NotifyType(47120), vec![1]),
                error::MIF_UNSUPPORTED,
            ),
            // Neither Child SAs nor the channel.
            (
                update(1, UpdateFlags::default(), (own, own), "198.51.100.7"),
                error::MIF_MODE_MISMATCH,
            ),
            // No such interface, here or there.
            (
                update(1, TUNNEL, (nobody, nobody), "198.51.100.7"),
                error::MIF_UNKNOWN_INTERFACE,
            ),
            (
                update(1, TUNNEL, (own, nobody), "198.51.100.7"),
                error::MIF_UNKNOWN_INTERFACE,
            ),
            (
                update(1, TUNNEL, (nobody, own), "198.51.100.7"),
                error::MIF_UNKNOWN_INTERFACE,
            ),
            (
                update(1, choose, (nobody, alternate), address),
                error::MIF_UNKNOWN_INTERFACE,
            ),
            (
                update(1, choose, (theirs, nobody), address),
                error::MIF_UNKNOWN_INTERFACE,
            ),
            (table(records(&[5, 5])), error::MIF_UNKNOWN_INTERFACE),
            (table(records(&[0])), error::MIF_UNKNOWN_INTERFACE),
            (list(nobody, vec![own]), error::MIF_UNKNOWN_INTERFACE),
            (list(own, vec![own]), error::MIF_UNKNOWN_INTERFACE),
            (
                list(own, vec![nobody, nobody]),
                error::MIF_UNKNOWN_INTERFACE,
            ),
            (
                list(IfaceId::CHANNEL, vec![own]),
                error::MIF_UNKNOWN_INTERFACE,
            ),
            // Nobody's address, and our own.
            (
                update(1, TUNNEL, (own, own), "224.0.0.9"),
                error::MIF_ADDRESS_REJECTED,
            ),
            (
                update(1, TUNNEL, (own, own), "127.0.0.1"),
                error::MIF_ADDRESS_REJECTED,
            ),
            (
                update(1, TUNNEL, (own, own), "::1"),
                error::MIF_ADDRESS_REJECTED,
            ),
            (
                update(1, TUNNEL, (own, own), address),
                error::MIF_ADDRESS_REJECTED,
            ),
            // Not an address of that interface; not an alternate of it.
            (
                update(1, choose, (theirs, alternate), "198.51.100.7"),
                error::MIF_ADDRESS_REJECTED,
            ),
            // More than was agreed on.
            (table(records(&all)), error::MIF_LIMIT_EXCEEDED),
            (table(crowded), error::MIF_LIMIT_EXCEEDED),
            (
                list(own, (80..85).map(IfaceId).collect()),
                error::MIF_LIMIT_EXCEEDED,
            ),
        ];
        for (notify, expected) in cases {
            refused(&mut pair, who, notify, expected);
        }
    }
}

#[test]
fn a_contradiction_of_an_earlier_move_is_stale_and_its_repetition_is_not() {
    for who in [A, B] {
        let mut pair = members(21);
        let (own, by) = [(WLAN, RAN), (GATEWAY, SPARE)][who];
        let to = address(who, by);
        assert_eq!(
            ask(&mut pair, who, vec![update(1000, TUNNEL, (own, by), to)]),
            []
        );
        let again = update(999, TUNNEL, (own, by), to);
        assert_eq!(ask(&mut pair, who, vec![again]), [], "it holds anyway");
        let home = update(999, TUNNEL, (own, own), address(who, own));
        refused(&mut pair, who, home, error::MIF_STALE_TXN);
        // A choice among the other's interfaces has an order of its own.
        let (theirs, alternate) = [(GATEWAY, SPARE), (WLAN, RAN)][who];
        let choose = TUNNEL.with(UpdateFlags::SELECT_PEER);
        let chosen = update(
            500,
            choose,
            (theirs, alternate),
            address(1 - who, alternate),
        );
        assert_eq!(ask(&mut pair, who, vec![chosen]), []);
        let back = update(499, choose, (theirs, theirs), address(1 - who, theirs));
        refused(&mut pair, who, back, error::MIF_STALE_TXN);
    }
}

#[test]
fn nobody_is_moved_to_what_cannot_carry_it_or_is_no_alternate() {
    for who in [A, B] {
        let mut pair = members(22);
        let other = 1 - who;
        let (iface, by) = [(GATEWAY, SPARE), (WLAN, RAN)][who];
        let choose = TUNNEL.with(UpdateFlags::SELECT_PEER);
        let mut ifaces = [users(), gateways()][other].clone();
        ifaces[1].state = IfaceState::DOWN;
        pair.command(other, Command::SetInterfaces { ifaces });
        pair.run(SECOND);
        let to = address(other, by);
        let down = update(1, choose, (iface, by), to);
        refused(&mut pair, who, down, error::MIF_PATH_UNVALIDATED);
        let ifaces = [users(), gateways()][other].clone();
        pair.command(other, Command::SetInterfaces { ifaces });
        let lists = [(iface, Vec::new())].into_iter().collect();
        let ike = pair.ends[other].ike();
        pair.command(other, Command::SetAlternates { ike, lists });
        pair.run(SECOND);
        let unwanted = update(1, choose, (iface, by), to);
        refused(&mut pair, who, unwanted, error::MIF_ADDRESS_REJECTED);
    }
}

#[test]
fn a_list_of_one_who_moves_its_interface_under_way_is_for_later() {
    for who in [A, B] {
        let mut pair = members(23);
        let other = 1 - who;
        let (iface, by) = [(GATEWAY, SPARE), (WLAN, RAN)][who];
        // Its owner's own word on it is not answered yet.
        pair.hold();
        carry(&mut pair, other, mifsec::ike::End::Local, iface, by);
        let choose = TUNNEL.with(UpdateFlags::SELECT_PEER);
        let notify = update(1, choose, (iface, by), address(other, by));
        let payload = mifsec::ike::message::Payload::Notify(notify);
        let informational = mifsec::ike::message::ExchangeType::INFORMATIONAL;
        pair.forge(who, informational, None, false, &[payload]);
        pair.deliver(who, &["request"]);
        let answer = pair.take(other, &["response"]);
        assert!(answer.says.contains("TEMPORARY_FAILURE"), "{}", answer.says);
    }
}

#[test]
fn what_ends_within_a_field_ends_the_ike_sa_at_both_ends() {
    for who in [A, B] {
        for kind in [
            status::MIF_INTERFACES,
            status::MIF_UPDATE_ADDRS,
            status::MIF_ALTERNATES,
        ] {
            let mut pair = members(24);
            let answer = ask(&mut pair, who, vec![Notify::new(kind, vec![0, 0, 0])]);
            assert_eq!(answer, [NotifyType::INVALID_SYNTAX]);
            assert!(pair.ends[1 - who].engine.views().is_empty());
        }
    }
}

#[test]
fn ever_new_interfaces_make_nobody_hold_more_than_a_table() {
    mifsec_tests::covers!("R85");
    for who in [A, B] {
        let mut pair = members(25);
        for id in 100..400u16 {
            let home = [(RAN, "198.51.100.20"), (GATEWAY, "203.0.113.1")][who];
            let mut records = records(&[id]);
            records.push(setup::record(home.0, home.1));
            let epoch = 2000 + u32::from(id);
            let table = Interfaces { epoch, records }.notify();
            let moved = update(1, TUNNEL, (IfaceId(id), home.0), home.1);
            let list = list(IfaceId(id), vec![home.0]);
            assert_eq!(ask(&mut pair, who, vec![table, moved, list]), []);
        }
        let [_, others] = carried(&pair, who);
        assert!(others.len() <= MAX_RECORDS + 1, "{others:?}");
    }
}
