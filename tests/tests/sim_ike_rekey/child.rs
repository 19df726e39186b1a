//! Child SAs (RFC 7296 1.3.3, 2.8.1, 2.25.1).

use std::time::Duration;

use mifsec::ids::IfacePair;
use mifsec::ike::message::NotifyType;
use mifsec::ike::{Command, Event};
use mifsec_tests::sim::setup::{self, GATEWAY, GATEWAY_ADDRESS, WLAN, WLAN_ADDRESS, second_member};
use mifsec_tests::sim::{A, B, ip};

use crate::post::{Post, SECOND, Says, assert_unchanged, child, run, settle, views};

fn rekey(post: &Post, who: usize) -> Command {
    let child = child(&post.pair, who);
    Command::RekeyChild { child }
}

#[test]
fn either_end_rekeys_a_child_sa_and_deletes_the_old_one() {
    for who in [A, B] {
        let mut post = Post::new(1);
        let before = views(&post.pair);
        let (old, peers_old) = (child(&post.pair, who), child(&post.pair, 1 - who));
        // who -> SK{N(REKEY_SA), SA, Ni, TSi, TSr}
        let command = rekey(&post, who);
        let request = post.command(who, command);
        assert_eq!(post.says(&request), Says::RekeyChild);
        // Once more while it is under way: nothing.
        post.pair.command(who, Command::RekeyChild { child: old });
        post.nothing_sent();
        // <- SK{SA, Nr, TSi, TSr}: installed, sending waits for the first packet.
        let response = post.ask(who, &request);
        assert_eq!(post.says(&response), Says::Made);
        let theirs = post.pair.ends[1 - who].children.values().last().unwrap();
        assert!(theirs.hold && theirs.replaces == Some(peers_old));
        // The initiator sends on the new one at once and receives on both.
        post.deliver(1 - who, &response);
        let ours = post.pair.ends[who].children.values().last().unwrap();
        assert!(!ours.hold && ours.replaces == Some(old) && !ours.redundant);
        assert_eq!(post.pair.ends[who].sending.in_use()[0].2, ours.spi_out);
        assert_eq!(post.pair.ends[who].children.len(), 2);
        // Later: who -> SK{D}, <- SK{D}, and nobody sends on the old one any more.
        let mut pair = post.open();
        settle(&mut pair, 1);
        assert_unchanged(&pair, &views(&pair));
        assert_eq!(before[A][0].children[0].name, "internet");
        assert_ne!(child(&pair, who), old);
        assert_eq!(pair.ends[who].installs, 2);
        assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
    }
}

#[test]
fn a_path_that_is_not_the_channels_is_inherited() {
    for who in [A, B] {
        let mut post = Post::new(2);
        let ike = post.pair.a().ike();
        for link in &mut post.pair.links {
            link.loss = 0.0;
        }
        post.pair.command(A, second_member(ike));
        run(&mut post.pair, SECOND);
        let command = rekey(&post, who);
        post.pair.command(who, command);
        settle(&mut post.pair, 2);
        let paths = |who: usize| -> Vec<_> {
            post.pair.ends[who]
                .children
                .values()
                .map(|c| c.pair)
                .collect()
        };
        let newest = paths(A)[1];
        assert_eq!((newest.local, newest.remote), (WLAN, GATEWAY), "by {who}");
        assert_ne!(paths(A)[0], newest);
    }
}

/// Both ask before either hears of it. The four nonces decide.
#[test]
fn two_rekeys_of_one_child_sa_leave_the_one_without_the_lowest_nonce() {
    let mut won = [0; 2];
    for seed in 0..40 {
        for first in [A, B] {
            let mut post = Post::new(seed);
            let (by_a, by_b) = (rekey(&post, A), rekey(&post, B));
            // A -> SK{N(REKEY_SA)} ..      .. SK{N(REKEY_SA)} <- B
            let a_asks = post.command(A, by_a);
            let b_asks = post.command(B, by_b);
            // Each answers as usual: nobody knows all nonces yet.
            let b_answers = post.ask(A, &a_asks);
            let a_answers = post.ask(B, &b_asks);
            assert_eq!(post.says(&a_answers), Says::Made);
            assert_eq!(post.says(&b_answers), Says::Made);
            // Now they do. The loser is deleted by the end that asked for it.
            let answers = [&a_answers, &b_answers];
            post.deliver(first, answers[first]);
            post.deliver(1 - first, answers[1 - first]);
            let lost: Vec<_> = [A, B]
                .into_iter()
                .filter(|who| post.pair.ends[*who].children.values().any(|c| c.redundant))
                .collect();
            assert_eq!(lost.len(), 1, "seed {seed}: one of them lost");
            won[1 - lost[0]] += 1;
            let pair = &mut post.open();
            settle(pair, 1);
            // Two made, one kept.
            assert!(pair.ends.iter().all(|end| end.installs == 3));
            assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
        }
    }
    assert!(
        won.iter().all(|won| *won > 10),
        "{won:?}: nonces are random"
    );
}

/// B's rekey is over before A's request comes (RFC 7296 2.8.1).
#[test]
fn a_rekey_that_comes_after_the_peers_is_refused_for_the_moment_and_forgotten() {
    let mut post = Post::new(3);
    let (by_a, by_b) = (rekey(&post, A), rekey(&post, B));
    // A -> SK{N(REKEY_SA)} is lost.
    let a_asks = post.command(A, by_a);
    // B -> SK{N(REKEY_SA)}, A answers and notes that its own is under way.
    let b_asks = post.command(B, by_b);
    let a_answers = post.ask(B, &b_asks);
    // B has not seen a collision: it will delete the old one.
    post.deliver(A, &a_answers);
    // A -> SK{N(REKEY_SA)} again: B is closing that one.
    let b_answers = post.ask(A, &a_asks);
    assert_eq!(
        post.says(&b_answers),
        Says::Error(NotifyType::TEMPORARY_FAILURE)
    );
    post.deliver(B, &b_answers);
    let mut pair = post.open();
    settle(&mut pair, 1);
    assert!(pair.ends.iter().all(|end| end.installs == 2), "one rekey");
}

#[test]
fn a_rekey_that_comes_after_the_peers_delete_finds_nothing() {
    let mut post = Post::new(4);
    let (by_a, by_b) = (rekey(&post, A), rekey(&post, B));
    let a_asks = post.command(A, by_a);
    let b_asks = post.command(B, by_b);
    let a_answers = post.ask(B, &b_asks);
    post.deliver(A, &a_answers);
    // B -> SK{D(old)}, A -> SK{D(old)}: gone at both ends.
    let old = post.pair.ends[B].children.keys().next().copied().unwrap();
    let b_deletes = post.command(B, Command::DeleteChild { child: old });
    let a_answers = post.ask(B, &b_deletes);
    assert_eq!(post.says(&a_answers), Says::DeletesChild);
    post.deliver(A, &a_answers);
    // Only now A's request comes.
    let b_answers = post.ask(A, &a_asks);
    assert_eq!(
        post.says(&b_answers),
        Says::Error(NotifyType::CHILD_SA_NOT_FOUND)
    );
    post.deliver(B, &b_answers);
    let mut pair = post.open();
    settle(&mut pair, 1);
}

#[test]
fn a_rekey_and_a_delete_of_one_child_sa_leave_none() {
    for who in [A, B] {
        let mut post = Post::new(5);
        let other = 1 - who;
        let command = rekey(&post, who);
        let child = child(&post.pair, other);
        // who -> SK{N(REKEY_SA)} ..      .. SK{D} <- other
        let asks = post.command(who, command);
        let deletes = post.command(other, Command::DeleteChild { child });
        // It is being closed there, and rekeyed here: answered with D as usual.
        let refused = post.ask(who, &asks);
        assert_eq!(
            post.says(&refused),
            Says::Error(NotifyType::TEMPORARY_FAILURE)
        );
        let answer = post.ask(other, &deletes);
        assert_eq!(post.says(&answer), Says::DeletesChild);
        post.deliver(other, &refused);
        post.deliver(who, &answer);
        let mut pair = post.open();
        settle(&mut pair, 0);
    }
}

#[test]
fn what_is_deleted_while_it_is_rekeyed_is_gone_with_its_successor() {
    for who in [A, B] {
        let mut post = Post::new(6);
        let child = child(&post.pair, who);
        let asks = post.command(who, Command::RekeyChild { child });
        // The Delete waits for the answer.
        post.pair.command(who, Command::DeleteChild { child });
        post.nothing_sent();
        let answer = post.ask(who, &asks);
        post.deliver(1 - who, &answer);
        let mut pair = post.open();
        // In between the peer may send on what is deleted next.
        pair.run(SECOND);
        settle(&mut pair, 0);
    }
}

#[test]
fn a_child_sa_the_peer_has_lost_is_made_anew_by_the_end_that_wanted_it() {
    for who in [A, B] {
        let mut post = Post::new(7);
        let command = rekey(&post, who);
        let asks = post.command(who, command);
        let (header, _) = post.pair.ends[who].engine.reveal(&asks.payload).unwrap();
        let notify = mifsec::ike::message::Notify::about(
            NotifyType::CHILD_SA_NOT_FOUND,
            post.pair.ends[who].children.values().next().unwrap().spi_in,
        );
        let payloads = [mifsec::ike::message::Payload::Notify(notify)];
        post.pair.forge(
            1 - who,
            header.exchange,
            Some(header.message_id),
            true,
            &payloads,
        );
        let refusal = post.sent(1 - who);
        post.deliver(1 - who, &refusal);
        // Without a Delete, since the peer has nothing to delete.
        assert!(post.pair.ends[who].children.is_empty());
        if who == A {
            let create = post.sent(A);
            assert_eq!(post.says(&create), Says::Create);
        } else {
            post.nothing_sent();
        }
    }
}

#[test]
fn a_peer_that_takes_no_further_sa_gets_a_delete_and_a_new_request() {
    let mut post = Post::new(8);
    let command = rekey(&post, A);
    let asks = post.command(A, command);
    let (header, _) = post.pair.ends[A].engine.reveal(&asks.payload).unwrap();
    let notify = mifsec::ike::message::Notify::new(NotifyType::NO_ADDITIONAL_SAS, Vec::new());
    let payloads = [mifsec::ike::message::Payload::Notify(notify)];
    post.pair
        .forge(B, header.exchange, Some(header.message_id), true, &payloads);
    let refusal = post.sent(B);
    // A -> SK{D}, B -> SK{D}; A -> SK{SA, Ni, TSi, TSr}, B -> SK{SA, Nr, TSi, TSr}
    post.deliver(B, &refusal);
    let deletes = post.sent(A);
    assert_eq!(post.says(&deletes), Says::DeletesChild);
    let answer = post.ask(A, &deletes);
    post.deliver(B, &answer);
    let creates = post.sent(A);
    assert_eq!(post.says(&creates), Says::Create);
    let made = post.ask(A, &creates);
    assert_eq!(post.says(&made), Says::Made);
    post.deliver(B, &made);
    assert_eq!(post.pair.ends[A].children.len(), 1);
    assert_eq!(post.pair.ends[B].children.len(), 1);
}

#[test]
fn a_lost_response_to_a_rekey_makes_one_child_sa() {
    for who in [A, B] {
        let mut post = Post::new(9);
        let command = rekey(&post, who);
        let asks = post.command(who, command);
        let answer = post.ask(who, &asks);
        // Lost; the request comes again.
        let again = post.ask(who, &asks);
        assert_eq!(answer.payload, again.payload);
        let mut pair = post.open();
        settle(&mut pair, 1);
        assert!(pair.ends.iter().all(|end| end.installs == 2));
    }
}

#[test]
fn an_unknown_child_sa_is_not_rekeyed() {
    use mifsec::ids::Spi;
    use mifsec::ike::message::{ExchangeType, Notify, Payload};
    let mut post = Post::new(10);
    let rekey = Notify::about(NotifyType::REKEY_SA, Spi(0x1234_5678));
    let payloads = [Payload::Notify(rekey), Payload::Nonce(vec![1; 32])];
    post.pair
        .forge(A, ExchangeType::CREATE_CHILD_SA, None, false, &payloads);
    let asks = post.sent(A);
    let answer = post.ask(A, &asks);
    let (_, payloads) = post.pair.ends[B].engine.reveal(&answer.payload).unwrap();
    let Some(Payload::Notify(notify)) = payloads.first() else {
        panic!("{payloads:?}");
    };
    assert_eq!(notify.kind, NotifyType::CHILD_SA_NOT_FOUND);
    assert_eq!(notify.esp_spi(), Some(Spi(0x1234_5678)), "it says which");
}

#[test]
fn a_hard_limit_deletes_a_child_sa_and_the_end_that_wanted_it_makes_another() {
    for who in [A, B] {
        let mut pair = Post::new(11).open();
        let child = child(&pair, who);
        pair.command(who, Command::ExpireChild { child });
        pair.command(who, Command::ExpireChild { child });
        settle(&mut pair, usize::from(who == A));
        assert!(pair.ends.iter().all(|end| {
            !end.events
                .iter()
                .any(|e| matches!(e, Event::ChildFailed { .. }))
        }));
    }
}

/// Whoever misses a Child SA asks for it: the agent, what expired, the other end.
#[test]
fn a_child_sa_asked_for_twice_is_made_once() {
    for mif in [true, false] {
        for late in [0, 5, 15] {
            let mut config = [setup::user(), setup::gateway()];
            for config in &mut config {
                config.peers[0].mobility.mif = mif;
            }
            let [user, gateway] = config;
            let mut pair = setup::established(user, gateway, 23);
            let (a, b) = (pair.a().ike(), pair.b().ike());
            let theirs = Command::CreateChild {
                ike: b,
                child: "internet".into(),
                pair: IfacePair {
                    local: GATEWAY,
                    remote: WLAN,
                },
                local: ip(GATEWAY_ADDRESS),
                remote: ip(WLAN_ADDRESS),
            };
            if !mif {
                let gone = child(&pair, A);
                pair.command(A, Command::DeleteChild { child: gone });
                run(&mut pair, SECOND);
                assert!(pair.ends.iter().all(|end| end.children.is_empty()));
            }
            pair.command(A, second_member(a));
            pair.command(A, second_member(a));
            run(&mut pair, Duration::from_millis(late));
            pair.command(B, theirs.clone());
            pair.command(B, theirs.clone());
            run(&mut pair, Duration::from_secs(30));
            // An expired one is made anew, and asked for by the agent.
            let old = child(&pair, A);
            pair.command(A, Command::ExpireChild { child: old });
            run(&mut pair, Duration::from_millis(15));
            pair.command(A, second_member(a));
            settle(&mut pair, if mif { 2 } else { 1 });
            assert!(pair.ends[A].failures().is_empty());
            assert!(pair.ends[B].failures().is_empty());
        }
    }
}
