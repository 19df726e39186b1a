//! The IKE channel has alternates like every interface: a request nobody answers
//! leaves on the next pair too (R81).

use std::time::Duration;

use mifsec::ids::IfaceId;
use mifsec::ike::message::Header;
use mifsec::ike::{Channel, Command, Event, Transmit};
use mifsec_tests::sim::setup::{self, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS};
use mifsec_tests::sim::{A, B, Pair, ip, socket};

use super::world::*;

/// Requests that `who` sent since, with when.
fn requests(pair: &Pair, who: usize, since: usize) -> Vec<(Duration, Transmit)> {
    let sent = pair.log[since..].iter().filter(|(_, from, _)| *from == who);
    let begun = pair.log[since].0;
    sent.filter(|(_, _, t)| Header::decode(&t.payload).is_ok_and(|(h, ..)| !h.response))
        .map(|(at, _, transmit)| (*at - begun, transmit.clone()))
        .collect()
}

fn answered(pair: &Pair, who: usize) -> Vec<Channel> {
    let events = pair.ends[who].events.iter();
    let answered = events.filter_map(|event| match event {
        Event::ChannelAnswered { channel, .. } => Some(*channel),
        _ => None,
    });
    answered.collect()
}

#[test]
fn a_request_that_stays_unanswered_goes_out_on_the_next_pair_and_moves_nothing() {
    mifsec_tests::covers!("R81");
    let mut pair = members(1);
    let ike = pair.a().ike();
    let before = pair.ends[A].engine.views()[0].channel;
    pair.dead.insert(ip(RAN_ADDRESS));
    let since = pair.log.len();
    pair.command(A, Command::CheckLiveness { ike });
    pair.run(10 * SECOND);
    let sent = requests(&pair, A, since);
    let from: Vec<_> = sent.iter().map(|(_, t)| t.local.ip().to_string()).collect();
    // Two tries on the channel alone; the third one leaves on the next pair too.
    assert_eq!(from, [RAN_ADDRESS, RAN_ADDRESS, RAN_ADDRESS, ETH_ADDRESS]);
    assert!(
        sent.iter().all(|(_, t)| t.payload == sent[0].1.payload),
        "same octets"
    );
    let [.., (at, copy)] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert!(*at < Duration::from_millis(1500), "{at:?}");
    assert_eq!(copy.remote, socket("203.0.113.1:4500"));
    // Answered there, and that is all.
    assert_eq!(pair.ends[A].count("ike_liveness_answered"), 1);
    assert_eq!(pair.ends[A].engine.views()[0].channel, before);
    assert_eq!(pair.ends[B].engine.views()[0].channel.remote, before.local);
    let [works] = answered(&pair, A)[..] else {
        panic!("the agent is told once");
    };
    assert_eq!(
        (works.local_iface, works.local.ip()),
        (ETH, ip(ETH_ADDRESS))
    );
    // It is what moves the channel.
    pair.command(
        A,
        Command::MoveChannel {
            ike,
            channel: works,
        },
    );
    pair.run(SECOND);
    assert_eq!(pair.ends[B].engine.views()[0].channel.remote, works.local);
    assert!(pair.ends[A].failures().is_empty());
}

#[test]
fn the_peers_alternates_are_tried_when_its_address_is_the_dead_one() {
    mifsec_tests::covers!("R81");
    let mut pair = members(2);
    let ike = pair.a().ike();
    pair.dead.insert(ip(GATEWAY_ADDRESS));
    let since = pair.log.len();
    pair.command(A, Command::CheckLiveness { ike });
    pair.run(60 * SECOND);
    let copies: Vec<_> = requests(&pair, A, since)
        .iter()
        .map(|(_, t)| (t.local.ip().to_string(), t.remote.ip().to_string()))
        .filter(|(local, remote)| (&**local, &**remote) != (RAN_ADDRESS, GATEWAY_ADDRESS))
        .collect();
    let pair_of = |local: &str, remote: &str| (local.to_owned(), remote.to_owned());
    let expected = [
        pair_of(ETH_ADDRESS, GATEWAY_ADDRESS),
        pair_of(WLAN_ADDRESS, GATEWAY_ADDRESS),
        pair_of(RAN_ADDRESS, SPARE_ADDRESS),
    ];
    assert_eq!(copies, expected);
    assert_eq!(pair.ends[A].count("ike_liveness_answered"), 1);
    assert_eq!(answered(&pair, A)[0].remote.ip(), ip(SPARE_ADDRESS));
}

#[test]
fn the_gateway_reaches_the_end_user_that_lost_the_channels_access() {
    mifsec_tests::covers!("R35", "R81");
    let mut pair = members(3);
    let ike = pair.b().ike();
    pair.dead.insert(ip(RAN_ADDRESS));
    let since = pair.log.len();
    // Its first word after the failure is a choice among the end user's interfaces.
    carry(&mut pair, B, mifsec::ike::End::Remote, RAN, ETH);
    pair.run(5 * SECOND);
    assert_carried(&pair, A, &[(2, 3)]);
    let sent = requests(&pair, B, since);
    assert_eq!(sent.last().unwrap().1.remote.ip(), ip(ETH_ADDRESS));
    assert_eq!(pair.ends[B].engine.views()[0].ike, ike);
    assert!(pair.ends[B].failures().is_empty());
}

#[test]
fn pairs_the_agent_knows_to_work_go_first_and_take_turns() {
    let mut pair = members(4);
    let ike = pair.a().ike();
    let ways = [
        setup::channel(ETH, ETH_ADDRESS),
        setup::channel(RAN, RAN_ADDRESS),
        setup::channel(WLAN, WLAN_ADDRESS),
    ];
    let pairs = ways.to_vec();
    pair.command(A, Command::SetStandby { ike, pairs });
    // Also after a rekey of the IKE SA.
    pair.command(A, Command::RekeyIke { ike });
    pair.run(5 * SECOND);
    pair.partition = true;
    let since = pair.log.len();
    pair.command(A, Command::CheckLiveness { ike });
    pair.run(20 * SECOND);
    let copies: Vec<_> = requests(&pair, A, since)
        .into_iter()
        .filter(|(_, t)| t.local.ip() != ip(RAN_ADDRESS))
        .map(|(_, t)| (t.ifindex, t.local))
        .collect();
    let way = |n: usize| (ways[n].ifindex, ways[n].local);
    assert_eq!(copies[..4], [way(0), way(2), way(0), way(2)]);
}

#[test]
fn a_dead_peer_is_given_up_as_before() {
    let mut pair = members(5);
    let ike = pair.a().ike();
    pair.partition = true;
    pair.command(A, Command::CheckLiveness { ike });
    let gone = |pair: &Pair| pair.ends[A].engine.views().is_empty();
    assert!(pair.run_until(200 * SECOND, gone));
    assert!(pair.ends[A].count("ike_copied") <= 7);
}

#[test]
fn what_a_peer_only_announced_gets_three_times_what_the_peer_sent() {
    mifsec_tests::covers!("R85");
    // It names victims as its interfaces, gets the other end to ask, and is silent.
    let mut pair = setup::established(setup::user(), setup::gateway(), 6);
    let victims: Vec<_> = (1..9)
        .map(|n| setup::record(IfaceId(10 + n), &format!("203.0.113.{}", 100 + n)))
        .collect();
    let mut ifaces = victims;
    ifaces.push(setup::record(RAN, RAN_ADDRESS));
    pair.command(A, Command::SetInterfaces { ifaces });
    pair.run(SECOND);
    let heard: usize = pair
        .log
        .iter()
        .filter(|(_, who, _)| *who == A)
        .map(|(_, _, t)| t.payload.len())
        .sum();
    pair.partition = true;
    let since = pair.log.len();
    // As much as may be asked at once, and long.
    let ike = pair.b().ike();
    for n in 0..8 {
        let lists = (1..=16).map(|id| (IfaceId(id), (20..24 + n).map(IfaceId).collect()));
        let lists = lists.collect();
        pair.command(B, Command::SetAlternates { ike, lists });
        carry(
            &mut pair,
            B,
            mifsec::ike::End::Local,
            IfaceId(1 + n % 2),
            SPARE,
        );
        pair.command(B, Command::CheckLiveness { ike });
        let child = *pair.ends[B].children.keys().next().unwrap();
        pair.command(B, Command::RekeyChild { child });
    }
    pair.run(300 * SECOND);
    let copied: usize = pair.log[since..]
        .iter()
        .filter(|(_, who, t)| *who == B && t.remote.ip() != ip(RAN_ADDRESS))
        .map(|(_, _, t)| t.payload.len())
        .sum();
    println!("heard {heard} octets, sent {copied} to addresses that were only announced");
    assert!(copied > 0 && copied <= 3 * heard, "{copied} of {heard}");
}

#[test]
fn peers_without_the_extension_have_one_pair_at_a_time() {
    let mut user = setup::user();
    user.peers[0].mobility.mif = false;
    let mut pair = setup::established(user, setup::gateway(), 7);
    let ike = pair.a().ike();
    pair.dead.insert(ip(RAN_ADDRESS));
    let since = pair.log.len();
    pair.command(A, Command::CheckLiveness { ike });
    pair.run(20 * SECOND);
    let sent = requests(&pair, A, since);
    assert!(sent.len() > 3 && sent.iter().all(|(_, t)| t.local.ip() == ip(RAN_ADDRESS)));
}
