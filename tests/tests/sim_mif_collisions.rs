//! Operations of both ends at once (protocol 3.11): the rule for each pair of them,
//! message by message, and the same at random times over bad links, after which
//! both ends must say the same.

use std::time::Duration;

use mifsec::crypto::{Entropy as _, SeededEntropy};
use mifsec::ids::{ChildId, IfaceId};
use mifsec::ike::{Command, End, Event};
use mifsec_tests::sim::multi::{
    self, ETH, GATEWAY2, add, assert_converged, carried, carry, delete, paths, readdress,
};
use mifsec_tests::sim::setup::{self, GATEWAY, RAN, WLAN, established};
use mifsec_tests::sim::{A, B, Link, Pair, ip};

const SECOND: Duration = Duration::from_secs(1);
/// Longer than any request is repeated or put off on links like these.
const CALM: Duration = Duration::from_secs(120);

/// A command of one end, made when its time has come.
type Act = fn(&Pair) -> (usize, Command);

/// Both acts at about the same time over links that lose, double and reorder, many
/// times; then the links are good again.
fn meet(seed: u64, acts: [Act; 2]) -> Pair {
    let mut random = SeededEntropy::new(seed ^ 0x3_11);
    let mut pair = multi::pair(seed);
    pair.links = [Link {
        loss: 0.1,
        duplicate: 0.1,
        jitter: Duration::from_millis(60),
        ..Link::default()
    }; 2];
    let mut order = acts;
    if random.u32() % 2 == 1 {
        order.reverse();
    }
    for act in order {
        let (who, command) = act(&pair);
        pair.command(who, command);
        let pause = u64::from(random.u32() % 80);
        pair.run(Duration::from_millis(pause));
    }
    pair.links = [Link::default(); 2];
    pair.run(CALM);
    pair
}

fn each_seed(acts: [Act; 2], check: impl Fn(&Pair)) {
    for seed in 0..60 {
        let pair = meet(seed, acts);
        assert_converged(&pair);
        check(&pair);
    }
}

fn first_child(pair: &Pair, who: usize) -> ChildId {
    *pair.ends[who].children.keys().next().expect("a Child SA")
}

fn moved(pair: &Pair, who: usize) -> usize {
    let events = pair.ends[who].events.iter();
    events
        .filter(|event| matches!(event, Event::PeerMoved { .. }))
        .count()
}

/// Who carries the WLAN's, at both ends.
fn wlan_is_on(pair: &Pair) -> IfaceId {
    let of = |who| {
        let entries = carried(pair, who).into_iter();
        let mut found = entries.filter(|(owner, iface, _)| (*owner, *iface) == (A, WLAN));
        found.next().map_or(WLAN, |(_, _, by)| by)
    };
    assert_eq!(of(A), of(B));
    of(A)
}

const WLAN_NEW: &str = "192.0.2.77";
const GATEWAY_NEW: &str = "203.0.113.77";

/// Owner writes, so moves of both ends commute.
#[test]
fn moves_of_both_ends_at_once_are_both_carried_out() {
    mifsec_tests::covers!("R22", "R24", "R85");
    let mut pair = multi::pair(1);
    pair.hold();
    let command = readdress(&pair, A, WLAN, WLAN_NEW);
    pair.command(A, command);
    let command = carry(&pair, B, End::Local, GATEWAY, GATEWAY2);
    pair.command(B, command);
    // A -> SK{N(UPDATE)} and B -> SK{N(UPDATE)} cross.
    pair.deliver(A, &["request"]);
    pair.deliver(B, &["request"]);
    pair.deliver(B, &["response"]);
    pair.deliver(A, &["response"]);
    assert_eq!(pair.waiting(), Vec::<String>::new());
    pair.release();
    pair.run(SECOND);
    assert_eq!((moved(&pair, A), moved(&pair, B)), (1, 1));
    assert_eq!(carried(&pair, A), [(B, GATEWAY, GATEWAY2)].into());
    assert_converged(&pair);
    assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
}

#[test]
fn moves_of_both_ends_commute_whatever_the_links_do() {
    mifsec_tests::covers!("R22", "R24", "R85");
    each_seed(
        [
            |pair| (A, carry(pair, A, End::Local, WLAN, RAN)),
            |pair| (B, readdress(pair, B, GATEWAY, GATEWAY_NEW)),
        ],
        |pair| {
            assert_eq!(wlan_is_on(pair), RAN);
            assert_eq!((moved(pair, A), moved(pair, B)), (1, 1));
        },
    );
    each_seed(
        [
            |pair| (A, carry(pair, A, End::Local, WLAN, RAN)),
            |pair| (B, carry(pair, B, End::Local, GATEWAY, GATEWAY2)),
        ],
        |pair| {
            let both = [(A, WLAN, RAN), (B, GATEWAY, GATEWAY2)];
            assert_eq!(carried(pair, A), both.into());
        },
    );
}

/// The gateway chooses an alternate of the WLAN while its owner moves it elsewhere:
/// the owner's word holds.
#[test]
fn the_owner_wins_against_who_chooses_for_it() {
    mifsec_tests::covers!("R33", "R35", "R85");
    let mut pair = multi::pair(1);
    pair.hold();
    let command = carry(&pair, B, End::Remote, WLAN, RAN);
    pair.command(B, command);
    let command = carry(&pair, A, End::Local, WLAN, ETH);
    pair.command(A, command);
    pair.deliver(B, &["request"]);
    pair.deliver(A, &["request"]);
    pair.release();
    pair.run(CALM);
    assert_eq!(wlan_is_on(&pair), ETH);
    assert_converged(&pair);
    each_seed(
        [
            |pair| (B, carry(pair, B, End::Remote, WLAN, RAN)),
            |pair| (A, carry(pair, A, End::Local, WLAN, ETH)),
        ],
        // The gateway may have chosen after it heard: then its choice is the newer.
        |pair| assert!([ETH, RAN].contains(&wlan_is_on(pair))),
    );
}

/// A new address on the interface chosen from does not undo anything either.
#[test]
fn a_choice_and_a_new_address_of_its_owner_end_alike_at_both_ends() {
    mifsec_tests::covers!("R33", "R85");
    each_seed(
        [
            |pair| (B, carry(pair, B, End::Remote, WLAN, RAN)),
            |pair| (A, readdress(pair, A, WLAN, WLAN_NEW)),
        ],
        |pair| assert!([WLAN, RAN].contains(&wlan_is_on(pair))),
    );
}

/// The move is of the interface: of the Child SA that goes and of the one that comes.
#[test]
fn a_move_during_a_child_sa_rekey_is_one_of_both_child_sas() {
    mifsec_tests::covers!("R30", "R85");
    for (rekeys, moves) in [(A, A), (A, B), (B, A), (B, B)] {
        let mut pair = multi::pair(2);
        let before = paths(&pair, A);
        pair.hold();
        let child = first_child(&pair, rekeys);
        pair.command(rekeys, Command::RekeyChild { child });
        let rekey = pair.take(rekeys, &["CREATE_CHILD_SA request"]);
        let end = if moves == A { End::Local } else { End::Remote };
        let command = carry(&pair, moves, end, RAN, WLAN);
        pair.command(moves, command);
        pair.deliver(moves, &["INFORMATIONAL request"]);
        pair.deliver(1 - moves, &["INFORMATIONAL response"]);
        pair.arrive(&rekey);
        pair.release();
        pair.run(CALM);
        assert_converged(&pair);
        assert_eq!(paths(&pair, A), before, "homes stay");
        assert_eq!(carried(&pair, A), [(A, RAN, WLAN)].into());
        assert_eq!(pair.ends[A].installs, 3, "one was rekeyed");
    }
    each_seed(
        [
            |pair| {
                (
                    B,
                    Command::RekeyChild {
                        child: first_child(pair, B),
                    },
                )
            },
            |pair| (A, carry(pair, A, End::Local, RAN, WLAN)),
        ],
        |pair| assert_eq!(carried(pair, B), [(A, RAN, WLAN)].into()),
    );
}

/// A failover does not wait for a rekey of the IKE SA; what it did is there after it.
#[test]
fn a_move_during_an_ike_sa_rekey_is_carried_out_at_once_and_kept() {
    mifsec_tests::covers!("R30", "R85");
    for (rekeys, moves) in [(A, A), (A, B), (B, A), (B, B)] {
        let mut pair = multi::pair(3);
        pair.hold();
        let ike = multi::ike(&pair, rekeys);
        pair.command(rekeys, Command::RekeyIke { ike });
        let request = pair.take(rekeys, &["CREATE_CHILD_SA request"]);
        if rekeys == moves {
            // The peer has the new IKE SA already when the move comes on the old one.
            pair.arrive(&request);
        }
        let end = if moves == A { End::Local } else { End::Remote };
        let command = carry(&pair, moves, end, RAN, WLAN);
        pair.command(moves, command);
        pair.deliver(moves, &["INFORMATIONAL request", "MIF_UPDATE_ADDRS"]);
        assert_eq!(
            carried(&pair, 1 - moves),
            [(A, RAN, WLAN)].into(),
            "at once: rekey by {rekeys}, move by {moves}"
        );
        if rekeys != moves {
            pair.arrive(&request);
        }
        pair.release();
        pair.run(CALM);
        assert_converged(&pair);
        assert_eq!(carried(&pair, A), [(A, RAN, WLAN)].into());
        // And the tables too: the next move needs them.
        let command = carry(&pair, A, End::Local, RAN, ETH);
        pair.command(A, command);
        pair.run(SECOND);
        assert_eq!(carried(&pair, B), [(A, RAN, ETH)].into());
    }
    each_seed(
        [
            |pair| {
                (
                    A,
                    Command::RekeyIke {
                        ike: multi::ike(pair, A),
                    },
                )
            },
            |pair| (B, carry(pair, B, End::Remote, WLAN, RAN)),
        ],
        |pair| assert_eq!(wlan_is_on(pair), RAN),
    );
}

/// Both wait: nothing is derived from or deleted with keys that are on their way out.
#[test]
fn adding_and_deleting_wait_for_a_rekey_of_the_ike_sa() {
    mifsec_tests::covers!("R50", "R55", "R85");
    for rekeys in [A, B] {
        let mut pair = multi::pair(4);
        pair.hold();
        let ike = multi::ike(&pair, rekeys);
        // The rekey's request is on its way when the other is asked.
        pair.command(rekeys, Command::RekeyIke { ike });
        let command = add(&pair, A, ETH, GATEWAY);
        pair.command(A, command);
        pair.release();
        pair.run(CALM);
        assert_converged(&pair);
        assert!(
            paths(&pair, B).contains(&(ETH, GATEWAY)),
            "{:?}",
            paths(&pair, B)
        );
        let ike = multi::ike(&pair, rekeys);
        pair.command(rekeys, Command::RekeyIke { ike });
        let command = delete(&pair, A, ETH);
        pair.command(A, command);
        pair.run(CALM);
        assert_converged(&pair);
        assert!(!paths(&pair, B).contains(&(ETH, GATEWAY)));
        // Twice the keys of the IKE SA changed and nothing was derived twice, or the
        // harness had said so.
        assert_eq!(pair.ends[A].installs, 3);
    }
    each_seed(
        [
            |pair| {
                (
                    B,
                    Command::RekeyIke {
                        ike: multi::ike(pair, B),
                    },
                )
            },
            |pair| (A, add(pair, A, ETH, GATEWAY)),
        ],
        |pair| assert!(paths(pair, A).contains(&(ETH, GATEWAY))),
    );
    each_seed(
        [
            |pair| {
                (
                    B,
                    Command::RekeyIke {
                        ike: multi::ike(pair, B),
                    },
                )
            },
            |pair| (A, delete(pair, A, WLAN)),
        ],
        |pair| assert_eq!(paths(pair, A), [(RAN, GATEWAY)]),
    );
}

/// A request to add while the peer's rekey of the IKE SA is under way is refused for
/// the moment, and asked again.
#[test]
fn who_rekeys_the_ike_sa_refuses_an_interface_for_the_moment() {
    mifsec_tests::covers!("R50", "R85");
    let mut pair = multi::pair(5);
    pair.hold();
    let ike = multi::ike(&pair, B);
    pair.command(B, Command::RekeyIke { ike });
    let _rekey = pair.take(B, &["CREATE_CHILD_SA request"]);
    let command = add(&pair, A, ETH, GATEWAY);
    pair.command(A, command);
    pair.deliver(A, &["INFORMATIONAL request"]);
    pair.deliver(B, &["INFORMATIONAL response", "TEMPORARY_FAILURE"]);
    assert_eq!(paths(&pair, B).len(), 2);
    pair.release();
    pair.run(CALM);
    assert_converged(&pair);
    assert!(paths(&pair, A).contains(&(ETH, GATEWAY)));
}

/// Both derive the SA of one path: one of them is redundant and goes.
#[test]
fn two_that_derive_the_same_leave_one() {
    mifsec_tests::covers!("R49", "R85");
    let acts: [Act; 2] = [
        |pair| (A, add(pair, A, ETH, GATEWAY2)),
        |pair| (B, add(pair, B, GATEWAY2, ETH)),
    ];
    for seed in 0..8 {
        let mut pair = multi::pair(seed);
        pair.hold();
        for act in acts {
            let (who, command) = act(&pair);
            pair.command(who, command);
        }
        // A -> SK{N(ADD), ..} and B -> SK{N(ADD), ..} cross.
        pair.deliver(A, &["INFORMATIONAL request"]);
        pair.deliver(B, &["INFORMATIONAL request"]);
        pair.release();
        pair.run(CALM);
        assert_converged(&pair);
        let on = |path: &&(IfaceId, IfaceId)| **path == (ETH, GATEWAY2);
        assert_eq!(paths(&pair, A).iter().filter(on).count(), 1, "seed {seed}");
    }
    each_seed(acts, |pair| {
        let on = |path: &&(IfaceId, IfaceId)| **path == (ETH, GATEWAY2);
        assert_eq!(paths(pair, A).iter().filter(on).count(), 1);
    });
}

/// The ends enumerate different templates: nothing is derived until they agree.
#[test]
fn an_interface_added_while_a_template_goes_or_is_rekeyed_is_added_in_the_end() {
    mifsec_tests::covers!("R47", "R48", "R85");
    let rekeys: [Act; 2] = [
        |pair| {
            (
                A,
                Command::RekeyChild {
                    child: first_child(pair, A),
                },
            )
        },
        |pair| {
            (
                B,
                Command::RekeyChild {
                    child: first_child(pair, B),
                },
            )
        },
    ];
    for act in rekeys {
        each_seed([act, |pair| (A, add(pair, A, ETH, GATEWAY))], |pair| {
            assert_eq!(
                paths(pair, A),
                [(WLAN, GATEWAY), (RAN, GATEWAY), (ETH, GATEWAY)]
            );
        });
    }
    let deletes: [Act; 2] = [
        |pair| {
            (
                A,
                Command::DeleteChild {
                    child: first_child(pair, A),
                },
            )
        },
        |pair| {
            (
                B,
                Command::DeleteChild {
                    child: first_child(pair, B),
                },
            )
        },
    ];
    for act in deletes {
        each_seed([act, |pair| (A, add(pair, A, ETH, GATEWAY))], |pair| {
            assert_eq!(paths(pair, A).len(), 2, "{:?}", paths(pair, A));
            assert!(paths(pair, A).contains(&(ETH, GATEWAY)));
        });
    }
}

/// What the responder does not enumerate is not derived, and it says so.
#[test]
fn a_template_that_is_gone_at_one_end_only_is_a_mismatch() {
    mifsec_tests::covers!("R48", "R85");
    let mut pair = multi::pair(6);
    pair.hold();
    let command = add(&pair, A, ETH, GATEWAY);
    pair.command(A, command);
    let request = pair.take(A, &["INFORMATIONAL request"]);
    // B deletes both templates; A has not heard of it when B gets the request.
    let templates: Vec<_> = pair.ends[B].children.keys().copied().collect();
    pair.command(
        B,
        Command::DeleteChild {
            child: templates[0],
        },
    );
    pair.arrive(&request);
    let answer = pair.take(B, &["INFORMATIONAL response"]);
    assert!(
        answer.says.contains("MIF_DERIVATION_MISMATCH") || answer.says.contains("TEMPORARY"),
        "{}",
        answer.says
    );
    assert!(!paths(&pair, B).contains(&(ETH, GATEWAY)));
    pair.arrive(&answer);
    assert!(!paths(&pair, A).contains(&(ETH, GATEWAY)));
    pair.release();
    pair.run(CALM);
    assert_converged(&pair);
    assert!(paths(&pair, A).contains(&(ETH, GATEWAY)), "asked again");
}

/// Delete wins.
#[test]
fn an_interface_that_is_deleted_is_nobodys_alternate() {
    mifsec_tests::covers!("R55", "R85");
    let mut pair = multi::pair(7);
    pair.hold();
    let command = delete(&pair, A, WLAN);
    pair.command(A, command);
    let command = carry(&pair, B, End::Remote, RAN, WLAN);
    pair.command(B, command);
    pair.deliver(A, &["INFORMATIONAL request"]);
    pair.deliver(B, &["INFORMATIONAL request"]);
    pair.deliver(A, &["INFORMATIONAL response", "MIF_UNKNOWN_INTERFACE"]);
    pair.release();
    pair.run(CALM);
    assert_converged(&pair);
    assert_eq!(paths(&pair, A), [(RAN, GATEWAY)]);
    assert_eq!(carried(&pair, B), [].into());
    each_seed(
        [
            |pair| (A, delete(pair, A, WLAN)),
            |pair| (B, carry(pair, B, End::Remote, RAN, WLAN)),
        ],
        |pair| {
            assert_eq!(paths(pair, A), [(RAN, GATEWAY)]);
            assert_eq!(carried(pair, B), [].into());
        },
    );
}

/// Both ends delete the interface they have in one path: it is gone, nobody fails.
#[test]
fn an_interface_deleted_twice_is_deleted() {
    mifsec_tests::covers!("R55", "R85");
    let acts: [[Act; 2]; 2] = [
        [
            |pair| (A, delete(pair, A, WLAN)),
            |pair| (A, delete(pair, A, WLAN)),
        ],
        [
            |pair| (A, delete(pair, A, WLAN)),
            |pair| (B, delete_on_wlan(pair, B)),
        ],
    ];
    for acts in acts {
        each_seed(acts, |pair| {
            assert_eq!(paths(pair, A), [(RAN, GATEWAY)]);
            assert_eq!(pair.ends[A].failures(), Vec::<String>::new());
        });
    }
    // WLAN and the gateway's second interface go at once, with the path of both.
    for seed in 0..20 {
        let mut pair = multi::pair(seed);
        let command = Command::CreateChild {
            ike: multi::ike(&pair, A),
            child: "internet".into(),
            pair: mifsec::ids::IfacePair {
                local: WLAN,
                remote: GATEWAY2,
            },
            local: ip(multi::address(A, WLAN)),
            remote: ip(multi::address(B, GATEWAY2)),
        };
        pair.command(A, command);
        pair.run(SECOND);
        assert_eq!(pair.ends[A].children.len(), 3);
        pair.hold();
        let command = delete(&pair, A, WLAN);
        pair.command(A, command);
        let command = delete(&pair, B, GATEWAY2);
        pair.command(B, command);
        pair.deliver(A, &["INFORMATIONAL request"]);
        pair.deliver(B, &["INFORMATIONAL request"]);
        pair.release();
        pair.run(CALM);
        assert_converged(&pair);
        assert_eq!(paths(&pair, A), [(RAN, GATEWAY)]);
        assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
    }
}

/// The Child SA on the WLAN is deleted by itself, if it is still there.
fn delete_on_wlan(pair: &Pair, who: usize) -> Command {
    let mut children = pair.ends[who].children.iter();
    let found = children.find(|(_, child)| [child.pair.local, child.pair.remote][who] == WLAN);
    match found {
        Some((child, _)) => Command::DeleteChild { child: *child },
        None => Command::CheckLiveness {
            ike: multi::ike(pair, who),
        },
    }
}

/// Deletes of single Child SAs keep their meaning beside everything.
#[test]
fn a_delete_of_one_child_sa_beside_any_operation_is_carried_out() {
    mifsec_tests::covers!("R85");
    let operations: [Act; 4] = [
        |pair| (A, carry(pair, A, End::Local, RAN, WLAN)),
        |pair| (B, carry(pair, B, End::Remote, RAN, WLAN)),
        |pair| (A, delete(pair, A, RAN)),
        |pair| (A, readdress(pair, A, RAN, "198.51.100.77")),
    ];
    for operation in operations {
        each_seed(
            [
                |pair| {
                    (
                        B,
                        Command::DeleteChild {
                            child: first_child(pair, B),
                        },
                    )
                },
                operation,
            ],
            |pair| assert_eq!(paths(pair, A), [(WLAN, GATEWAY)]),
        );
    }
}

/// When the window is full a move goes before a delete before an addition.
#[test]
fn moves_overtake_deletes_and_these_additions() {
    mifsec_tests::covers!("R85");
    let mut gateway = setup::gateway();
    gateway.limits.window = 1;
    let mut pair = multi::two(established(setup::user(), gateway, 8));
    pair.hold();
    let ike = multi::ike(&pair, A);
    for command in [
        Command::CheckLiveness { ike },
        add(&pair, A, ETH, GATEWAY),
        delete(&pair, A, WLAN),
        carry(&pair, A, End::Local, RAN, ETH),
    ] {
        pair.command(A, command);
    }
    assert_eq!(pair.waiting().len(), 1, "the window is full");
    let mut order = Vec::new();
    for _ in 0..40 {
        let Some(first) = pair.waiting().first().cloned() else {
            break;
        };
        let from = if first.starts_with('A') { A } else { B };
        let held = pair.deliver(from, &[]);
        for (word, name) in [
            ("MIF_UPDATE_ADDRS", "move"),
            ("MIF_DELETE_INTERFACE", "delete"),
            ("MIF_ADD_INTERFACE", "add"),
        ] {
            if held.says.contains(" request ") && held.says.contains(word) {
                order.push(name);
            }
        }
    }
    order.dedup();
    assert_eq!(order, ["move", "delete", "add"]);
}
