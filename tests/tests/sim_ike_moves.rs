//! Interfaces that move, and the IKE channel with them: SPIs, keys and counters
//! stay, whatever happens to the messages.

use std::net::SocketAddr;
use std::time::Duration;

use mifsec::ids::{IfaceId, IfacePair, IkeId};
use mifsec::ike::mif::{Features, UpdateAddrs, UpdateFlags};
use mifsec::ike::{Channel, Command, Event};
use mifsec_tests::sim::setup::{
    self, GATEWAY, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS, assert_agreement,
    established, second_member,
};
use mifsec_tests::sim::{A, B, Nat, Pair, ip, socket};

const SECOND: Duration = Duration::from_secs(1);
const NEW_ADDRESS: &str = "192.0.2.99";

/// Two members: one bound to interface 0 (the RAN carries the channel), one on
/// the WLAN.
fn two_members() -> Pair {
    let mut pair = established(setup::user(), setup::gateway(), 11);
    let ike = pair.a().ike();
    pair.command(A, second_member(ike));
    pair.run(SECOND);
    assert_eq!(pair.a().children.len(), 2);
    pair
}

fn moves(pair: &Pair) -> Vec<UpdateAddrs> {
    pair.ends[B]
        .events
        .iter()
        .filter_map(|event| match event {
            Event::PeerMoved { update, .. } => Some(*update),
            _ => None,
        })
        .collect()
}

fn update(ike: IkeId, iface: IfaceId, old: &str, new: &str) -> Command {
    Command::UpdateAddresses {
        ike,
        old_iface: iface,
        new_iface: iface,
        old: ip(old),
        new: ip(new),
        behind_nat: true,
        old_is_dead: false,
        grace: Duration::from_millis(500),
        channel: None,
    }
}

/// What must not change in a move.
fn identity(pair: &Pair, who: usize) -> Vec<(u32, u32, Vec<u8>, Vec<u8>)> {
    pair.ends[who]
        .children
        .values()
        .map(|c| (c.spi_in.0, c.spi_out.0, c.key_in.clone(), c.key_out.clone()))
        .collect()
}

#[test]
fn a_new_address_is_one_message_and_touches_no_sa() {
    mifsec_tests::covers!("R11", "R22", "R25", "R32");
    let mut pair = two_members();
    let before = [identity(&pair, A), identity(&pair, B)];
    let (since, ike) = (pair.log.len(), pair.a().ike());
    pair.command(A, update(ike, WLAN, WLAN_ADDRESS, NEW_ADDRESS));
    pair.run(SECOND);
    assert_eq!(pair.log.len() - since, 2, "request and response");
    assert_eq!([identity(&pair, A), identity(&pair, B)], before);
    assert_eq!((pair.ends[A].rebinds, pair.ends[B].rebinds), (0, 0));
    assert_eq!(pair.ends[B].installs, 2);
    let [moved] = moves(&pair)[..] else {
        panic!("one move");
    };
    assert_eq!((moved.old_iface, moved.new_iface), (WLAN, WLAN));
    assert_eq!(
        (moved.old.ip, moved.new.ip),
        (ip(WLAN_ADDRESS), ip(NEW_ADDRESS))
    );
    assert!(moved.new.behind_nat() && moved.new.port == 4500);
    assert!(
        moved
            .flags
            .has(UpdateFlags::TUNNEL.with(UpdateFlags::MAKE_BEFORE_BREAK))
    );
    assert!(!moved.flags.has(UpdateFlags::IKE_CHANNEL));
    assert_eq!(moved.grace(), Duration::from_millis(500));
}

#[test]
fn a_move_to_an_interface_the_peer_never_heard_of_is_refused() {
    let mut pair = two_members();
    let ike = pair.a().ike();
    pair.command(A, update(ike, IfaceId(9), WLAN_ADDRESS, NEW_ADDRESS));
    pair.run(SECOND);
    assert!(
        pair.ends[A].failures().is_empty(),
        "its table may still come"
    );
    pair.run(30 * SECOND);
    assert!(moves(&pair).is_empty());
    let failures = pair.ends[A].failures();
    assert_eq!(failures.len(), 1);
    assert!(failures[0].contains("announce it first"));
}

#[test]
fn a_move_that_came_before_its_table_is_made_when_the_table_is_there() {
    let mut pair = two_members();
    let (ike, usb) = (pair.a().ike(), IfaceId(9));
    pair.command(A, update(ike, usb, NEW_ADDRESS, "192.0.2.98"));
    pair.run(Duration::from_millis(100));
    let ifaces = vec![
        setup::record(WLAN, WLAN_ADDRESS),
        setup::record(RAN, RAN_ADDRESS),
        setup::record(usb, NEW_ADDRESS),
    ];
    pair.command(A, Command::SetInterfaces { ifaces });
    pair.run(SECOND);
    let to: Vec<_> = moves(&pair).iter().map(|m| m.new.ip).collect();
    assert_eq!(to, [ip("192.0.2.98")]);
    // One made meanwhile is the one that holds.
    pair.command(A, update(ike, IfaceId(10), NEW_ADDRESS, "192.0.2.50"));
    pair.run(Duration::from_millis(100));
    let mut ifaces = vec![setup::record(IfaceId(10), NEW_ADDRESS)];
    ifaces.push(setup::record(WLAN, WLAN_ADDRESS));
    pair.command(A, Command::SetInterfaces { ifaces });
    pair.command(A, update(ike, IfaceId(10), NEW_ADDRESS, "192.0.2.51"));
    pair.run(30 * SECOND);
    assert_eq!(moves(&pair).last().unwrap().new.ip, ip("192.0.2.51"));
    assert_eq!(moves(&pair).len(), 2);
    assert!(pair.ends[A].failures().is_empty());
}

#[test]
fn an_address_that_cannot_be_a_peers_is_refused() {
    for bad in ["224.0.0.1", "0.0.0.0", "127.0.0.1", "::1", "fe80::1"] {
        let mut pair = two_members();
        let ike = pair.a().ike();
        pair.command(A, update(ike, WLAN, WLAN_ADDRESS, bad));
        pair.run(SECOND);
        assert!(moves(&pair).is_empty());
        assert!(pair.ends[A].failures()[0].contains("not usable as an outer address"));
        assert_eq!(pair.ends[B].count("mif_address"), 1);
    }
}

#[test]
fn a_move_right_after_a_new_table_does_not_overtake_it() {
    for seed in 0..50 {
        let mut pair = established(setup::user(), setup::gateway(), seed);
        for link in &mut pair.links {
            link.jitter = Duration::from_millis(100);
            link.loss = 0.3;
        }
        let ike = pair.a().ike();
        let usb = IfaceId(3);
        let ifaces = vec![
            setup::record(WLAN, WLAN_ADDRESS),
            setup::record(RAN, RAN_ADDRESS),
            setup::record(usb, NEW_ADDRESS),
        ];
        pair.command(A, Command::SetInterfaces { ifaces });
        pair.command(A, update(ike, usb, NEW_ADDRESS, "192.0.2.98"));
        pair.run(Duration::from_secs(100));
        assert!(pair.ends[A].failures().is_empty(), "seed {seed}");
        assert_eq!(moves(&pair).len(), 1);
    }
}

#[test]
fn many_moves_over_a_bad_link_end_with_the_last_one() {
    for seed in 0..100 {
        let mut pair = established(setup::user(), setup::gateway(), seed);
        for link in &mut pair.links {
            link.jitter = Duration::from_millis(150);
            link.loss = 0.1;
            link.duplicate = 0.3;
        }
        let ike = pair.a().ike();
        let mut old = WLAN_ADDRESS.to_owned();
        for n in 100..120 {
            let new = format!("192.0.2.{n}");
            pair.command(A, update(ike, WLAN, &old, &new));
            pair.run(Duration::from_millis(70));
            old = new;
        }
        pair.run(Duration::from_secs(300));
        let moves = moves(&pair);
        assert_eq!(
            moves.last().map(|m| m.new.ip),
            Some(ip("192.0.2.119")),
            "seed {seed}"
        );
        let txns: Vec<_> = moves.iter().map(|m| m.txn).collect();
        assert!(txns.is_sorted_by(|a, b| a < b), "in order, once: {txns:?}");
        assert!(pair.ends[A].failures().is_empty());
    }
}

/// The channel over the WLAN.
fn wlan_channel() -> Channel {
    setup::channel(WLAN, WLAN_ADDRESS)
}

#[test]
fn the_channel_moves_with_what_is_outstanding() {
    mifsec_tests::covers!("R27");
    let mut pair = two_members();
    let ike = pair.a().ike();
    // The RAN dies with a request in flight.
    pair.dead.insert(ip(RAN_ADDRESS));
    pair.command(A, update(ike, WLAN, WLAN_ADDRESS, "192.0.2.77"));
    let (_, _, lost) = pair.log.last().unwrap().clone();
    pair.run(Duration::from_millis(100));
    assert!(moves(&pair).is_empty());
    let (since, then) = (pair.log.len(), pair.now);
    let channel = wlan_channel();
    pair.command(A, Command::MoveChannel { ike, channel });
    let (_, _, again) = &pair.log[since];
    assert_eq!(again.payload, lost.payload, "the same octets");
    assert_eq!(again.local, channel.local);
    let followed = |pair: &Pair| {
        pair.ends[B].events.iter().any(|event| {
            matches!(event, Event::ChannelMoved { observed, .. } if observed.remote == channel.local)
        })
    };
    assert!(pair.run_until(SECOND, followed));
    assert!(pair.now - then < Duration::from_millis(100), "at once");
    pair.run(SECOND);
    assert!(pair.ends[A].failures().is_empty());
    let view = &pair.ends[B].engine.views()[0];
    assert_eq!(view.channel.remote, channel.local);
    assert_eq!(pair.ends[A].engine.views()[0].channel, channel);
    assert_eq!(
        moves(&pair).len(),
        1,
        "of the WLAN; the channel moves no path"
    );
    // Child SAs are not touched by a move of the channel alone.
    assert_eq!((pair.ends[A].rebinds, pair.ends[B].rebinds), (0, 0));
    // From now the gateway asks over the WLAN too.
    let b = pair.b().ike();
    pair.command(B, Command::CheckLiveness { ike: b });
    let (_, _, asked) = pair.log.last().unwrap();
    assert_eq!(asked.remote, channel.local);
}

#[test]
fn an_address_change_of_the_channels_interface_is_one_message() {
    let mut pair = two_members();
    let ike = pair.a().ike();
    let new = "198.51.100.99";
    let channel = Channel {
        local: SocketAddr::new(ip(new), 4500),
        ..setup::channel(RAN, RAN_ADDRESS)
    };
    pair.dead.insert(ip(RAN_ADDRESS));
    let since = pair.log.len();
    pair.command(
        A,
        Command::UpdateAddresses {
            ike,
            old_iface: RAN,
            new_iface: RAN,
            old: ip(RAN_ADDRESS),
            new: ip(new),
            behind_nat: false,
            old_is_dead: true,
            grace: Duration::ZERO,
            channel: Some(channel),
        },
    );
    pair.run(SECOND);
    assert_eq!(pair.log.len() - since, 2);
    assert_eq!(pair.ends[B].engine.views()[0].channel.remote, channel.local);
    let flags = moves(&pair)[0].flags;
    assert!(flags.has(UpdateFlags::IKE_CHANNEL.with(UpdateFlags::TUNNEL)));
}

#[test]
fn a_lost_channel_is_reported_before_it_is_given_up() {
    let mut pair = two_members();
    let ike = pair.a().ike();
    pair.dead.insert(ip(RAN_ADDRESS));
    pair.command(A, Command::CheckLiveness { ike });
    pair.run(Duration::from_secs(3));
    let quiet = pair.ends[A].events.iter().filter_map(|event| match event {
        Event::ChannelQuiet { tries, .. } => Some(*tries),
        _ => None,
    });
    assert_eq!(quiet.collect::<Vec<_>>(), [2]);
    assert_eq!(pair.ends[A].established().len(), 1);
}

#[test]
fn each_copy_of_a_request_is_answered_to_where_it_came_from() {
    let mut pair = two_members();
    let ike = pair.a().ike();
    pair.command(A, Command::CheckLiveness { ike });
    let (_, _, mut copy) = pair.log.last().unwrap().clone();
    copy.local = wlan_channel().local;
    pair.send(A, copy);
    let since = pair.log.len();
    pair.run(SECOND);
    let answers: Vec<_> = pair.log[since..]
        .iter()
        .filter(|(_, who, _)| *who == B)
        .map(|(_, _, transmit)| (transmit.remote, transmit.payload.clone()))
        .collect();
    let [(first, bytes), (second, same)] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(*first, socket(&format!("{RAN_ADDRESS}:4500")));
    assert_eq!(*second, wlan_channel().local);
    assert_eq!(bytes, same);
    // A response moves nothing by itself.
    assert_eq!(pair.ends[B].engine.views()[0].channel.remote, *first);
}

#[test]
fn the_gateway_moves_its_end_of_the_channel_too() {
    let mut pair = two_members();
    let b = pair.b().ike();
    let second = "203.0.113.2";
    let ifaces = vec![
        setup::record(GATEWAY, GATEWAY_ADDRESS),
        setup::record(IfaceId(2), second),
    ];
    pair.command(B, Command::SetInterfaces { ifaces });
    let channel = Channel {
        local_iface: IfaceId(2),
        ifindex: 2,
        local: SocketAddr::new(ip(second), 4500),
        remote: SocketAddr::new(ip(RAN_ADDRESS), 4500),
    };
    pair.command(B, Command::MoveChannel { ike: b, channel });
    pair.run(SECOND);
    assert_eq!(pair.ends[A].engine.views()[0].channel.remote, channel.local);
    assert!(
        pair.ends[B].failures().is_empty(),
        "{:?}",
        pair.ends[B].failures()
    );
}

#[test]
fn a_rebound_nat_is_followed_when_the_agent_says_so() {
    let mut pair = setup::pair(setup::user(), setup::gateway(), 5);
    pair.nat = Some(Nat::new(ip("198.51.100.200")));
    setup::connect(&mut pair);
    pair.run(SECOND);
    let (a, b) = (pair.a().ike(), pair.b().ike());
    pair.nat.as_mut().unwrap().rebind();
    pair.command(A, Command::CheckLiveness { ike: a });
    pair.run(SECOND);
    let old = pair.ends[B].engine.views()[0].channel.remote;
    let (_, _, answer) = pair.log.last().unwrap().clone();
    assert_ne!(answer.remote, old, "answered to where it came from");
    pair.command(
        B,
        Command::ChannelRemote {
            ike: b,
            remote: answer.remote,
        },
    );
    pair.command(B, Command::CheckLiveness { ike: b });
    pair.run(SECOND);
    assert!(pair.ends[B].failures().is_empty());
    assert_eq!(pair.ends[B].engine.views()[0].channel.remote, answer.remote);
}

#[test]
fn both_ends_learn_which_of_them_is_behind_a_nat() {
    for natted in [false, true] {
        let (mut user, mut gateway) = (setup::user(), setup::gateway());
        for config in [&mut user, &mut gateway] {
            config.peers[0].mobility.force_udp = false;
        }
        let mut pair = setup::pair(user, gateway, 5);
        pair.nat = natted.then(|| Nat::new(ip("198.51.100.200")));
        setup::connect(&mut pair);
        pair.run(SECOND);
        let seen = |who: usize| {
            pair.ends[who].events.iter().find_map(|event| match event {
                Event::Established {
                    nat_local,
                    nat_remote,
                    ..
                } => Some((*nat_local, *nat_remote)),
                _ => None,
            })
        };
        assert_eq!(seen(A), Some((natted, false)));
        assert_eq!(seen(B), Some((false, natted)));
    }
}

#[test]
fn interface_zero_becomes_what_the_channel_turns_out_to_be() {
    mifsec_tests::covers!("R19");
    let mut pair = two_members();
    let (a, b) = (pair.a().ike(), pair.b().ike());
    pair.command(
        A,
        Command::ResolveChannel {
            ike: a,
            local: RAN,
            remote: GATEWAY,
        },
    );
    pair.command(
        B,
        Command::ResolveChannel {
            ike: b,
            local: GATEWAY,
            remote: RAN,
        },
    );
    let first = |who: usize| pair.ends[who].children.values().next().unwrap().pair;
    assert_eq!(
        first(A),
        IfacePair {
            local: RAN,
            remote: GATEWAY
        }
    );
    assert_eq!(
        first(B),
        IfacePair {
            local: GATEWAY,
            remote: RAN
        }
    );
    assert_eq!((pair.ends[A].rebinds, pair.ends[B].rebinds), (1, 1));
    assert_agreement(&pair);
}

#[test]
fn a_table_is_announced_when_it_changed_and_only_then() {
    mifsec_tests::covers!("R51", "R52");
    let mut pair = two_members();
    let tables = |pair: &Pair| {
        pair.ends[B]
            .events
            .iter()
            .filter(|event| matches!(event, Event::PeerInterfaces { .. }))
            .count()
    };
    let before = tables(&pair);
    let ifaces = vec![
        setup::record(WLAN, WLAN_ADDRESS),
        setup::record(RAN, RAN_ADDRESS),
    ];
    pair.command(
        A,
        Command::SetInterfaces {
            ifaces: ifaces.clone(),
        },
    );
    pair.run(SECOND);
    assert_eq!(tables(&pair), before);
    let ifaces = ifaces[..1].to_vec();
    pair.command(A, Command::SetInterfaces { ifaces });
    pair.run(SECOND);
    assert_eq!(tables(&pair), before + 1);
}

#[test]
fn both_ends_probe_with_each_others_keys() {
    let pair = two_members();
    let keys = |who: usize| {
        pair.ends[who].events.iter().find_map(|event| match event {
            Event::Established { mif: Some(mif), .. } => Some((
                mif.probe.spi_in,
                mif.probe.spi_out,
                mif.probe.keymat_in.expose().to_vec(),
                mif.probe.keymat_out.expose().to_vec(),
                mif.features,
            )),
            _ => None,
        })
    };
    let (a, b) = (keys(A).unwrap(), keys(B).unwrap());
    assert_eq!((a.0, a.1), (b.1, b.0));
    assert_eq!((&a.2, &a.3), (&b.3, &b.2));
    assert_ne!(a.2, a.3);
    let agreed = Features::IMPLEMENTED.0;
    assert_eq!((a.4, b.4), (agreed, agreed));
}
