//! Exchanges of an established IKE SA, message by message: lost, late, doubled
//! and crossing.

use std::time::Duration;

use mifsec::ids::{IfacePair, IkeId};
use mifsec::ike::Command;
use mifsec::ike::message::{ExchangeType, Header};
use mifsec_tests::sim::setup::{
    self, GATEWAY, GATEWAY_ADDRESS, RAN, WLAN, WLAN_ADDRESS, assert_agreement, established,
    second_member,
};
use mifsec_tests::sim::{A, B, Pair, ip};

const SECOND: Duration = Duration::from_secs(1);

fn usual() -> Pair {
    established(setup::user(), setup::gateway(), 7)
}

/// Requests and responses sent since, as (who, exchange, id, response).
fn trace(pair: &Pair, since: usize) -> Vec<(usize, ExchangeType, u32, bool)> {
    pair.log[since..]
        .iter()
        .map(|(_, who, transmit)| {
            let (header, ..) = Header::decode(&transmit.payload).expect("we send messages");
            (*who, header.exchange, header.message_id, header.response)
        })
        .collect()
}

#[test]
fn a_lost_response_is_repeated_not_made_again() {
    let mut pair = usual();
    let ike = pair.a().ike();
    let since = pair.log.len();
    pair.command(A, second_member(ike));
    // The request arrives, the response is lost.
    pair.step(pair.now + SECOND);
    assert_eq!(pair.ends[B].children.len(), 2);
    pair.lose_all();
    pair.run(SECOND);
    assert_agreement(&pair);
    assert_eq!(pair.ends[B].installs, 2, "processed once");
    assert_eq!(pair.ends[B].count("ike_duplicate"), 1);
    let sent: Vec<_> = pair.log[since..]
        .iter()
        .filter(|(_, who, _)| *who == B)
        .map(|(_, _, transmit)| &transmit.payload)
        .collect();
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0], sent[1], "the same octets");
}

#[test]
fn a_late_copy_of_an_old_message_changes_nothing() {
    let mut pair = usual();
    let log = pair.log.clone();
    let ike = pair.a().ike();
    pair.command(A, second_member(ike));
    pair.run(SECOND);
    for _ in 0..12 {
        pair.command(A, Command::CheckLiveness { ike });
        pair.run(SECOND);
    }
    let (a, b) = (pair.ends[A].engine.views(), pair.ends[B].engine.views());
    for (_, who, transmit) in log {
        pair.send(who, transmit);
        pair.run(SECOND);
    }
    // An old IKE_SA_INIT looks like a new one until nobody authenticates it.
    pair.run(Duration::from_secs(40));
    assert_eq!(pair.ends[A].engine.views(), a);
    assert_eq!(pair.ends[B].engine.views(), b);
    assert_agreement(&pair);
    assert!(pair.ends[B].count("ike_old_request") > 0);
    assert!(pair.ends[A].count("ike_response_unexpected") > 0);
}

#[test]
fn duplicates_of_everything_are_harmless() {
    let mut pair = setup::pair(setup::user(), setup::gateway(), 3);
    for link in &mut pair.links {
        link.duplicate = 1.0;
    }
    setup::connect(&mut pair);
    pair.run(SECOND);
    let ike = pair.a().ike();
    pair.command(A, second_member(ike));
    pair.run(SECOND);
    assert_agreement(&pair);
    assert_eq!(pair.ends[A].installs, 2);
    assert_eq!(pair.ends[B].installs, 2);
}

#[test]
fn deletes_of_one_child_sa_may_cross() {
    let mut pair = usual();
    let ike = pair.a().ike();
    pair.command(A, second_member(ike));
    pair.run(SECOND);
    let ours = *pair.ends[A].children.keys().last().unwrap();
    let spi = pair.ends[A].children[&ours].spi_out;
    let (theirs, _) = pair.ends[B]
        .children
        .iter()
        .find(|(_, child)| child.spi_in == spi)
        .unwrap();
    let theirs = *theirs;
    pair.command(A, Command::DeleteChild { child: ours });
    pair.command(B, Command::DeleteChild { child: theirs });
    pair.run(SECOND);
    assert_eq!(pair.ends[A].children.len(), 1);
    assert_agreement(&pair);
    assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
}

#[test]
fn either_end_deletes_a_child_sa() {
    for who in [A, B] {
        let mut pair = usual();
        let child = *pair.ends[who].children.keys().next().unwrap();
        pair.command(who, Command::DeleteChild { child });
        pair.command(who, Command::DeleteChild { child });
        pair.run(SECOND);
        assert!(pair.ends.iter().all(|end| end.children.is_empty()));
        assert_eq!(pair.ends[who].established().len(), 1);
    }
}

#[test]
fn either_end_deletes_the_ike_sa_and_both_may_at_once() {
    for (by_a, by_b) in [(true, false), (false, true), (true, true)] {
        let mut pair = usual();
        let (a, b) = (pair.a().ike(), pair.b().ike());
        if by_a {
            pair.command(A, Command::DeleteIke { ike: a });
        }
        if by_b {
            pair.command(B, Command::DeleteIke { ike: b });
        }
        pair.run(Duration::from_secs(10));
        for (end, by_us) in [(&pair.ends[A], by_a), (&pair.ends[B], by_b)] {
            assert!(end.engine.views().is_empty() && end.children.is_empty());
            let expected = if by_us {
                "deleted by command"
            } else {
                "deleted by the peer: see its log"
            };
            assert_eq!(end.failures(), [expected]);
            assert!(end.engine.poll_timeout().is_none(), "nothing is left to do");
        }
    }
}

#[test]
fn a_lost_answer_to_a_delete_is_repeated_by_the_end_that_is_gone() {
    let mut pair = usual();
    let ike = pair.a().ike();
    pair.command(A, Command::DeleteIke { ike });
    pair.step(pair.now + SECOND);
    pair.lose_all();
    let before = pair.now;
    assert!(pair.run_until(Duration::from_secs(60), |pair| {
        pair.ends[A].engine.views().is_empty()
    }));
    assert!(pair.now - before < SECOND, "answered, not given up");
}

/// The other end's view of [`second_member`].
fn second_member_from_b(ike: IkeId) -> Command {
    Command::CreateChild {
        ike,
        child: "internet".into(),
        pair: IfacePair {
            local: GATEWAY,
            remote: WLAN,
        },
        local: ip(GATEWAY_ADDRESS),
        remote: ip(WLAN_ADDRESS),
    }
}

#[test]
fn requests_for_the_same_member_may_cross_and_make_one() {
    let mut pair = usual();
    let (a, b) = (pair.a().ike(), pair.b().ike());
    pair.command(A, second_member(a));
    pair.command(B, second_member_from_b(b));
    pair.run(Duration::from_secs(5));
    assert_agreement(&pair);
    assert_eq!(pair.ends[A].children.len(), 2);
    for end in &pair.ends {
        assert!(end.failures().is_empty(), "{:?}", end.failures());
        assert!(end.larval.is_empty());
    }
}

#[test]
fn the_gateway_may_add_a_member_too() {
    let mut pair = usual();
    let b = pair.b().ike();
    pair.command(B, second_member_from_b(b));
    pair.run(SECOND);
    assert_agreement(&pair);
    assert_eq!(pair.ends[A].children.len(), 2);
    let held: Vec<_> = pair.ends[A].children.values().map(|c| c.hold).collect();
    assert_eq!(held, [false, true], "whoever answers holds");
}

#[test]
fn a_path_has_one_member_of_a_bundle() {
    mifsec_tests::covers!("R14", "R20");
    let mut pair = usual();
    let ike = pair.a().ike();
    for _ in 0..3 {
        pair.command(A, second_member(ike));
    }
    pair.run(SECOND);
    assert_eq!(pair.ends[A].children.len(), 2);
    assert_agreement(&pair);
    assert!(pair.ends.iter().all(|end| end.larval.is_empty()));
}

#[test]
fn equal_selectors_outside_of_a_bundle_are_refused() {
    let mut user = setup::user();
    user.peers[0].children[0].bundle = false;
    let mut pair = established(user, setup::gateway(), 7);
    let ike = pair.a().ike();
    pair.command(A, second_member(ike));
    pair.run(SECOND);
    for end in &pair.ends {
        assert_eq!(end.children.len(), 1);
        assert!(
            end.failures()[0].contains("equal selectors exists"),
            "{:?}",
            end.failures()
        );
        assert!(end.larval.is_empty());
    }
}

#[test]
fn an_interface_nobody_announced_is_refused_after_a_few_attempts() {
    let mut pair = usual();
    let ike = pair.a().ike();
    pair.command(
        A,
        Command::CreateChild {
            ike,
            child: "internet".into(),
            pair: IfacePair {
                local: mifsec::ids::IfaceId(9),
                remote: GATEWAY,
            },
            local: ip(WLAN_ADDRESS),
            remote: ip(GATEWAY_ADDRESS),
        },
    );
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.ends[A].children.len(), 1);
    assert!(pair.ends[A].failures()[0].contains("not in the announced table"));
    assert!(pair.ends[A].larval.is_empty());
}

#[test]
fn beyond_the_limit_there_are_no_additional_sas() {
    let mut gateway = setup::gateway();
    gateway.limits.children = 1;
    let mut pair = established(setup::user(), gateway, 7);
    let ike = pair.a().ike();
    pair.command(A, second_member(ike));
    pair.run(SECOND);
    assert!(pair.ends[A].failures()[0].contains("takes no more Child SAs"));
    assert_eq!(pair.ends[A].established().len(), 1);
}

#[test]
fn forward_secrecy_is_agreed_where_both_want_it() {
    let groups = vec![mifsec::crypto::KeGroup::Ecp256];
    let mut user = setup::user();
    user.peers[0].esp_proposals[0].groups = groups.clone();
    let mut gateway = setup::gateway();
    gateway.peers[0].esp_proposals[0].groups = groups;
    let mut pair = established(user, gateway, 7);
    let ike = pair.a().ike();
    pair.command(A, second_member(ike));
    pair.run(SECOND);
    assert_eq!(
        pair.ends[A].children.len(),
        2,
        "{:?}",
        pair.ends[A].failures()
    );
    assert_agreement(&pair);
}

#[test]
fn another_method_for_forward_secrecy_takes_one_more_round() {
    use mifsec::crypto::KeGroup::{Ecp256, X25519};
    let mut user = setup::user();
    user.peers[0].esp_proposals[0].groups = vec![X25519, Ecp256];
    let mut gateway = setup::gateway();
    gateway.peers[0].esp_proposals[0].groups = vec![Ecp256];
    let mut pair = established(user, gateway, 7);
    let ike = pair.a().ike();
    pair.command(A, second_member(ike));
    pair.run(SECOND);
    assert_eq!(
        pair.ends[A].children.len(),
        2,
        "{:?}",
        pair.ends[A].failures()
    );
    assert_agreement(&pair);
}

#[test]
fn a_quiet_peer_is_asked_and_a_silent_one_given_up() {
    let mut user = setup::user();
    user.peers[0].dpd = Some(Duration::from_secs(10));
    let mut pair = established(user, setup::gateway(), 7);
    let since = pair.log.len();
    pair.run(Duration::from_secs(35));
    let asked: Vec<_> = trace(&pair, since)
        .into_iter()
        .filter(|(who, ..)| *who == A)
        .collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
    let ike = pair.a().ike();
    // ESP of the peer counts as a sign of life.
    pair.command(A, Command::PeerAlive { ike });
    let since = pair.log.len();
    for _ in 0..6 {
        pair.run(Duration::from_secs(5));
        pair.command(A, Command::PeerAlive { ike });
    }
    assert_eq!(trace(&pair, since).len(), 0);
    pair.dead.insert(ip(GATEWAY_ADDRESS));
    pair.run(Duration::from_secs(200));
    assert!(pair.ends[A].engine.views().is_empty());
    assert!(pair.ends[A].children.is_empty());
    assert!(pair.ends[A].failures()[0].contains("no answer from"));
}

#[test]
fn moves_go_before_deletes_before_the_rest_when_the_window_is_full() {
    let mut user = setup::user();
    user.limits.window = 1;
    let mut gateway = setup::gateway();
    gateway.limits.window = 1;
    let mut pair = established(user, gateway, 7);
    let ike = pair.a().ike();
    let child = *pair.ends[A].children.keys().next().unwrap();
    // Fills the window of one.
    pair.command(A, Command::CheckLiveness { ike });
    pair.command(A, second_member(ike));
    pair.command(A, Command::DeleteChild { child });
    pair.command(
        A,
        Command::UpdateAddresses {
            ike,
            old_iface: RAN,
            new_iface: RAN,
            old: ip("198.51.100.20"),
            new: ip("198.51.100.21"),
            behind_nat: false,
            old_is_dead: false,
            grace: Duration::ZERO,
            channel: None,
        },
    );
    let order = |pair: &Pair, n: usize| {
        let (moved, children) = (
            pair.ends[B]
                .events
                .iter()
                .any(|e| matches!(e, mifsec::ike::Event::PeerMoved { .. })),
            pair.ends[B].children.len(),
        );
        (n, moved, children)
    };
    let mut seen = Vec::new();
    for n in 0..8 {
        pair.step(pair.now + SECOND);
        seen.push(order(&pair, n));
    }
    seen.dedup_by_key(|(_, moved, children)| (*moved, *children));
    let states: Vec<_> = seen.into_iter().map(|(_, moved, c)| (moved, c)).collect();
    assert_eq!(states, [(false, 1), (true, 1), (true, 0), (true, 1)]);
}

#[test]
fn a_grown_window_lets_requests_overtake_each_other() {
    let mut pair = usual();
    let ike = pair.a().ike();
    let since = pair.log.len();
    for link in &mut pair.links {
        link.jitter = Duration::from_millis(200);
    }
    let table = |n: u8| Command::SetInterfaces {
        ifaces: vec![
            setup::record(WLAN, WLAN_ADDRESS),
            setup::record(RAN, &format!("198.51.100.{n}")),
        ],
    };
    pair.command(A, second_member(ike));
    pair.command(A, table(30));
    for n in 31u16..40 {
        pair.command(
            A,
            Command::UpdateAddresses {
                ike,
                old_iface: mifsec::ids::IfaceId(n % 2 + 1),
                new_iface: mifsec::ids::IfaceId(n % 2 + 1),
                old: ip("198.51.100.20"),
                new: ip(&format!("198.51.100.{n}")),
                behind_nat: false,
                old_is_dead: false,
                grace: Duration::ZERO,
                channel: None,
            },
        );
    }
    let at_once = trace(&pair, since).len();
    assert!(at_once > 2, "several in flight: {at_once}");
    pair.run(Duration::from_secs(20));
    assert_agreement(&pair);
    assert!(
        pair.ends[A].failures().is_empty(),
        "{:?}",
        pair.ends[A].failures()
    );
}
