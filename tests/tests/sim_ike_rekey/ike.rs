//! IKE SAs (RFC 7296 1.3.2, 2.8.2, 2.18, 2.25.2).

use std::time::Duration;

use mifsec::ids::IkeSpi;
use mifsec::ike::message::NotifyType;
use mifsec::ike::{Command, Event};
use mifsec_tests::sim::setup::{
    self, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS, channel, second_member,
};
use mifsec_tests::sim::{A, B, Pair, ip};

use crate::post::{Post, SECOND, Says, assert_unchanged, child, run, settle, views};

fn rekey(pair: &Pair, who: usize) -> Command {
    let ike = pair.ends[who].ike();
    Command::RekeyIke { ike }
}

/// SPIs of the one IKE SA there is, the same at both ends.
fn spis(pair: &Pair) -> (IkeSpi, IkeSpi) {
    let [a, b] = views(pair).map(|views| (views[0].spi_i, views[0].spi_r));
    assert_eq!(a, b);
    a
}

/// Whether both ends can use what they have: a Child SA more, and back.
fn works(pair: &mut Pair) {
    let ike = pair.a().ike();
    pair.command(A, second_member(ike));
    run(pair, SECOND);
    assert_eq!(pair.ends[B].children.len(), 2);
    let child = child(pair, B);
    pair.command(B, Command::DeleteChild { child });
    run(pair, SECOND);
    assert_eq!(pair.ends[A].children.len(), 1);
}

#[test]
fn either_end_rekeys_the_ike_sa_and_everything_stays() {
    for who in [A, B] {
        let mut post = Post::new(20);
        let before = views(&post.pair);
        let old = spis(&post.pair);
        // who -> SK{SA, Ni, KEi, N(MIF_SUPPORTED)}
        let command = rekey(&post.pair, who);
        let asks = post.command(who, command.clone());
        assert_eq!(post.says(&asks), Says::RekeyIke);
        post.pair.command(who, command);
        post.nothing_sent();
        let answer = post.ask(who, &asks);
        assert_eq!(post.says(&answer), Says::Made);
        // The Delete of the old one, and the window for the new one.
        post.deliver(1 - who, &answer);
        let mut pair = post.open();
        assert_ne!(spis(&pair), old);
        run(&mut pair, SECOND);
        assert_unchanged(&pair, &before);
        works(&mut pair);
        settle(&mut pair, 1);
        for end in &pair.ends {
            let probes = end.events.iter().filter_map(|event| match event {
                Event::ProbeKeysChanged { probe, .. } => Some(probe),
                _ => None,
            });
            let probes: Vec<_> = probes.collect();
            assert_eq!(probes.len(), 1, "new probe keys");
            assert!(end.failures().is_empty(), "{:?}", end.failures());
        }
        assert_same_probes(&pair);
        // Once more, from the other end.
        let command = rekey(&pair, 1 - who);
        pair.command(1 - who, command);
        run(&mut pair, SECOND);
        assert_unchanged(&pair, &before);
        works(&mut pair);
        settle(&mut pair, 1);
        assert_same_probes(&pair);
    }
}

/// Both ends have the same probe SA pair.
fn assert_same_probes(pair: &Pair) {
    let last = |who: usize| {
        pair.ends[who]
            .events
            .iter()
            .rev()
            .find_map(|event| match event {
                Event::ProbeKeysChanged { probe, .. } => Some(probe),
                _ => None,
            })
    };
    let (a, b) = (last(A).expect("told"), last(B).expect("told"));
    assert_eq!((a.spi_in, a.spi_out), (b.spi_out, b.spi_in));
    assert_eq!(a.keymat_in.expose(), b.keymat_out.expose());
    assert_eq!(a.keymat_out.expose(), b.keymat_in.expose());
}

/// Both ask before either hears of it; the old one, the winner and the loser end.
#[test]
fn two_rekeys_of_the_ike_sa_leave_the_one_without_the_lowest_nonce() {
    let mut won = [0; 2];
    for seed in 0..30 {
        for first in [A, B] {
            let mut post = Post::new(seed);
            let before = views(&post.pair);
            let (by_a, by_b) = (rekey(&post.pair, A), rekey(&post.pair, B));
            // A -> SK{SA, Ni, KEi} ..      .. SK{SA, Ni, KEi} <- B
            let a_asks = post.command(A, by_a);
            let b_asks = post.command(B, by_b);
            let b_answers = post.ask(A, &a_asks);
            let a_answers = post.ask(B, &b_asks);
            let answers = [&a_answers, &b_answers];
            post.deliver(first, answers[first]);
            post.deliver(1 - first, answers[1 - first]);
            let mut pair = post.open();
            let (spi_i, _) = spis(&pair);
            run(&mut pair, SECOND);
            assert_unchanged(&pair, &before);
            let asked = |who: usize| {
                let requests = [&a_asks, &b_asks];
                spi_of(&pair, requests[who])
            };
            let who = if asked(A) == Some(spi_i) { A } else { B };
            won[who] += 1;
            works(&mut pair);
            settle(&mut pair, 1);
            assert_same_probes(&pair);
            assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
        }
    }
    assert!(won.iter().all(|won| *won > 8), "{won:?}: nonces are random");
}

/// The SPI a request of a rekey names: of the old keys, so as long as they are known.
fn spi_of(pair: &Pair, request: &mifsec::ike::Transmit) -> Option<IkeSpi> {
    use mifsec::ike::message::Payload;
    let revealed = pair
        .ends
        .iter()
        .find_map(|end| end.engine.reveal(&request.payload))?;
    revealed.1.iter().find_map(|payload| match payload {
        Payload::Sa(offer) => {
            let spi = offer.first()?.spi.as_slice().try_into().ok()?;
            Some(IkeSpi(u64::from_be_bytes(spi)))
        }
        _ => None,
    })
}

/// B is done before A's request comes (RFC 7296 2.8.2): whichever of B's answers
/// A gets first, it forgets its own rekey.
#[test]
fn a_rekey_of_the_ike_sa_that_comes_after_the_peers_is_forgotten() {
    for delete_first in [false, true] {
        let mut post = Post::new(21);
        let before = views(&post.pair);
        let (by_a, by_b) = (rekey(&post.pair, A), rekey(&post.pair, B));
        // A -> SK{SA, Ni, KEi} is lost.
        let a_asks = post.command(A, by_a);
        let b_asks = post.command(B, by_b);
        let a_answers = post.ask(B, &b_asks);
        // B takes the new one and closes the old one.
        let since = post.pair.log.len();
        post.deliver(A, &a_answers);
        let sent: Vec<_> = post.pair.log[since..]
            .iter()
            .map(|(_, _, t)| t.clone())
            .collect();
        let says: Vec<_> = sent.iter().map(|t| post.says(t)).collect();
        let deletes = says
            .iter()
            .position(|s| *s == Says::DeletesIke)
            .expect("of the old one");
        if delete_first {
            post.deliver(B, &sent[deletes]);
        } else {
            // A -> SK{SA, Ni, KEi} again
            let since = post.pair.log.len();
            post.deliver(A, &a_asks);
            let refused = post.pair.log[since].2.clone();
            assert_eq!(
                post.says(&refused),
                Says::Error(NotifyType::TEMPORARY_FAILURE)
            );
            post.deliver(B, &refused);
        }
        let mut pair = post.open();
        run(&mut pair, Duration::from_secs(5));
        spis(&pair);
        assert_unchanged(&pair, &before);
        works(&mut pair);
        settle(&mut pair, 1);
    }
}

#[test]
fn a_rekey_of_the_ike_sa_and_its_delete_leave_none() {
    for who in [A, B] {
        let mut post = Post::new(22);
        let other = 1 - who;
        let command = rekey(&post.pair, who);
        let ike = post.pair.ends[other].ike();
        // who -> SK{SA, Ni, KEi} ..      .. SK{D} <- other
        let asks = post.command(who, command);
        let deletes = post.command(other, Command::DeleteIke { ike });
        let refused = post.ask(who, &asks);
        assert_eq!(
            post.says(&refused),
            Says::Error(NotifyType::TEMPORARY_FAILURE)
        );
        let answer = post.ask(other, &deletes);
        post.deliver(other, &refused);
        post.deliver(who, &answer);
        let mut pair = post.open();
        run(&mut pair, Duration::from_secs(400));
        for end in &pair.ends {
            assert!(end.engine.views().is_empty() && end.children.is_empty());
            assert_eq!(end.engine.census(), (0, 0));
            assert_eq!(end.failures().len(), 1);
        }
    }
}

#[test]
fn what_is_deleted_while_it_is_rekeyed_is_gone_at_both_ends() {
    for who in [A, B] {
        let mut post = Post::new(23);
        let command = rekey(&post.pair, who);
        let asks = post.command(who, command);
        let ike = post.pair.ends[who].ike();
        // The Delete is for what comes of the rekey.
        post.pair.command(who, Command::DeleteIke { ike });
        post.nothing_sent();
        let answer = post.ask(who, &asks);
        post.deliver(1 - who, &answer);
        let mut pair = post.open();
        run(&mut pair, Duration::from_secs(400));
        for end in &pair.ends {
            assert!(end.engine.views().is_empty() && end.children.is_empty());
            assert_eq!(end.engine.census(), (0, 0));
        }
        assert_eq!(pair.ends[who].failures(), ["deleted by command"]);
    }
}

#[test]
fn a_child_sa_is_not_rekeyed_while_the_peer_rekeys_the_ike_sa() {
    for who in [A, B] {
        let mut post = Post::new(24);
        let other = 1 - who;
        let child = child(&post.pair, who);
        let command = rekey(&post.pair, other);
        // who -> SK{N(REKEY_SA), ..} ..      .. SK{SA, Ni, KEi} <- other
        let of_child = post.command(who, Command::RekeyChild { child });
        let of_ike = post.command(other, command);
        let one = post.ask(who, &of_child);
        let two = post.ask(other, &of_ike);
        for refused in [&one, &two] {
            assert_eq!(
                post.says(refused),
                Says::Error(NotifyType::TEMPORARY_FAILURE)
            );
        }
        let old = spis(&post.pair);
        post.deliver(other, &one);
        post.deliver(who, &two);
        // Both try again, not in step.
        let mut pair = post.open();
        run(&mut pair, Duration::from_secs(30));
        assert_ne!(spis(&pair), old);
        settle(&mut pair, 1);
        assert!(pair.ends.iter().all(|end| end.installs == 2));
        assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
    }
}

#[test]
fn nothing_is_made_on_an_ike_sa_that_is_replaced_or_closing() {
    // B has answered A's rekey when A's earlier wish for a Child SA comes.
    let mut post = Post::new(25);
    let ike = post.pair.a().ike();
    let command = rekey(&post.pair, B);
    let asks = post.command(B, command);
    let answer = post.ask(B, &asks);
    post.deliver(A, &answer);
    let mut pair = post.open();
    pair.command(A, second_member(ike));
    run(&mut pair, SECOND);
    settle(&mut pair, 2);

    let mut post = Post::new(26);
    let ike = post.pair.a().ike();
    let peers = post.pair.b().ike();
    let creates = post.command(A, second_member(ike));
    let deletes = post.command(B, Command::DeleteIke { ike: peers });
    let refused = post.ask(A, &creates);
    assert_eq!(
        post.says(&refused),
        Says::Error(NotifyType::TEMPORARY_FAILURE)
    );
    post.deliver(B, &deletes);
    assert!(post.pair.ends[A].children.is_empty());
}

#[test]
fn a_lost_response_is_repeated_under_the_old_keys() {
    for who in [A, B] {
        let mut post = Post::new(27);
        let command = rekey(&post.pair, who);
        let asks = post.command(who, command);
        let answer = post.ask(who, &asks);
        // Lost. The other end lives on the new one, and answers on the old one.
        post.pair.run(Duration::from_millis(300));
        let again = post.ask(who, &asks);
        assert_eq!(answer.payload, again.payload);
        let mut pair = post.open();
        run(&mut pair, Duration::from_secs(5));
        spis(&pair);
        works(&mut pair);
        settle(&mut pair, 1);
    }
}

#[test]
fn late_copies_of_everything_change_nothing() {
    let mut pair = Post::new(28).open();
    for who in [A, B, A] {
        let command = rekey(&pair, who);
        pair.command(who, command);
        run(&mut pair, SECOND);
        let child = child(&pair, who);
        pair.command(who, Command::RekeyChild { child });
        run(&mut pair, Duration::from_secs(3));
    }
    let log = pair.log.clone();
    let before = views(&pair);
    for (_, who, transmit) in log {
        pair.send(who, transmit);
        run(&mut pair, Duration::from_millis(100));
    }
    // A copied IKE_SA_INIT makes a half-open one for a while.
    run(&mut pair, Duration::from_secs(60));
    assert_unchanged(&pair, &before);
    settle(&mut pair, 1);
}

/// A failover does not wait for a rekey, whichever of them comes first.
#[test]
fn a_move_during_a_rekey_is_carried_out_at_once_and_kept() {
    for who in [A, B] {
        let mut post = Post::new(29);
        let ike = post.pair.a().ike();
        let command = rekey(&post.pair, who);
        let asks = post.command(who, command);
        post.pair.command(
            A,
            Command::UpdateAddresses {
                ike,
                old_iface: RAN,
                new_iface: RAN,
                old: ip(RAN_ADDRESS),
                new: ip("198.51.100.77"),
                behind_nat: false,
                old_is_dead: true,
                grace: Duration::ZERO,
                channel: Some(mifsec::ike::Channel {
                    local: "198.51.100.77:4500".parse().unwrap(),
                    ..channel(RAN, RAN_ADDRESS)
                }),
            },
        );
        let moves = post.pair.log.last().unwrap().2.clone();
        if who == B {
            // A -> SK{N(MIF_UPDATE_ADDRS)} comes while B waits for its answer.
            post.deliver(A, &moves);
            let moved = |e: &Event| matches!(e, Event::PeerMoved { .. });
            assert!(post.pair.ends[B].events.iter().any(moved), "at once");
        } else {
            // A's rekey is answered first, so the move comes under the old keys.
            post.deliver(A, &asks);
            post.deliver(A, &moves);
            let moved = |e: &Event| matches!(e, Event::PeerMoved { .. });
            assert!(
                post.pair.ends[B].events.iter().any(moved),
                "under the old keys"
            );
        }
        let mut pair = post.open();
        run(&mut pair, Duration::from_secs(5));
        spis(&pair);
        let at = ip("198.51.100.77");
        assert_eq!(pair.ends[A].engine.views()[0].channel.local.ip(), at);
        assert_eq!(pair.ends[B].engine.views()[0].channel.remote.ip(), at);
        let moved = |e: &&Event| matches!(e, Event::PeerMoved { .. });
        assert_eq!(pair.ends[B].events.iter().filter(moved).count(), 1, "once");
        settle(&mut pair, 1);
        assert!(pair.ends.iter().all(|end| end.failures().is_empty()));
    }
}

#[test]
fn another_table_during_a_rekey_reaches_the_peer() {
    for who in [A, B] {
        let mut post = Post::new(30);
        let command = rekey(&post.pair, who);
        post.command(who, command);
        let ifaces = vec![setup::record(WLAN, WLAN_ADDRESS)];
        post.pair.command(A, Command::SetInterfaces { ifaces });
        let mut pair = post.open();
        run(&mut pair, Duration::from_secs(10));
        let last = pair.ends[B]
            .events
            .iter()
            .rev()
            .find_map(|event| match event {
                Event::PeerInterfaces { ifaces, .. } => Some(ifaces.len()),
                _ => None,
            });
        assert_eq!(last, Some(1), "by {who}");
        settle(&mut pair, 1);
    }
}

#[test]
fn another_key_exchange_method_is_asked_for_and_taken() {
    let mut user = setup::user();
    let mut gateway = setup::gateway();
    // IKE_SA_INIT has agreed on x25519; a reload is not needed for the other way:
    // the responder's order differs from what is in use.
    user.peers[0].ike_proposals = vec!["aes256gcm16-prfsha256-x25519-ecp256".parse().unwrap()];
    gateway.peers[0].ike_proposals = vec!["aes256gcm16-prfsha256-ecp256-x25519".parse().unwrap()];
    let mut pair = setup::established(user, gateway, 31);
    let old = spis(&pair);
    for who in [A, B] {
        let command = rekey(&pair, who);
        pair.command(who, command);
        run(&mut pair, SECOND);
        assert_ne!(spis(&pair), old);
    }
    works(&mut pair);
    settle(&mut pair, 1);
}

#[test]
fn without_mif_the_ike_sa_is_rekeyed_in_a_window_of_one() {
    for who in [A, B] {
        let mut user = setup::user();
        let mut gateway = setup::gateway();
        user.peers[0].mobility.mif = false;
        gateway.peers[0].mobility.mif = false;
        let mut pair = setup::established(user, gateway, 32);
        let before = views(&pair);
        assert!(!before[A][0].mif);
        let command = rekey(&pair, who);
        pair.command(who, command);
        let child = child(&pair, who);
        pair.command(who, Command::RekeyChild { child });
        run(&mut pair, Duration::from_secs(10));
        assert_unchanged(&pair, &before);
        settle(&mut pair, 1);
        assert!(pair.ends.iter().all(|end| end.installs == 2));
    }
}

/// A peer that rekeys and never deletes does not make us keep ever more.
#[test]
fn what_rekeys_leave_behind_is_bounded() {
    let mut config = [setup::user(), setup::gateway()];
    for config in &mut config {
        config.peers[0].mobility.mif = false;
    }
    let [user, gateway] = config;
    let mut post = Post::of(setup::established(user, gateway, 22));
    let mut made = 0;
    let refused = loop {
        let command = rekey(&post.pair, A);
        let asks = post.command(A, command);
        let answer = post.ask(A, &asks);
        post.deliver(B, &answer);
        if post.says(&answer) != Says::Made {
            break answer;
        }
        made += 1;
        // Its Delete of the old one never gets through.
        let deletes = post.sent(A);
        assert_eq!(post.says(&deletes), Says::DeletesIke);
        assert!(made < 10, "no bound");
    };
    assert_eq!(
        post.says(&refused),
        Says::Error(NotifyType::TEMPORARY_FAILURE)
    );
    let (ids, _) = post.pair.ends[B].engine.census();
    assert_eq!(ids, made + 1);
    assert_eq!(post.pair.ends[B].count("ike_rekey_too_often"), 1);
    // Once they are deleted it may rekey again.
    let mut pair = post.open();
    run(&mut pair, Duration::from_secs(60));
    let old = spis(&pair);
    let command = rekey(&pair, A);
    pair.command(A, command);
    run(&mut pair, SECOND);
    assert_ne!(spis(&pair), old);
    settle(&mut pair, 1);
}
