//! The path engine against itself over a simulated network: moves, deaths,
//! NATs, and hundreds of random lives.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "sim_path/bounds.rs"]
mod bounds;
#[path = "sim_path/carry.rs"]
mod carry;
#[path = "sim_path/changes.rs"]
mod changes;
#[path = "sim_path/rehome.rs"]
mod rehome;
#[path = "sim_path/sabotage.rs"]
mod sabotage;
#[path = "sim_path/world.rs"]
mod world;

use std::time::Duration;

use mifsec::ids::{Arrival, Family, IfaceId, IkeId};
use mifsec::path::probe::{PROBE_LEN, PathId, Probe, ProbeKind};
use mifsec::path::timing::{
    GRACE, KEEPALIVE_INTERVAL, QUESTION_AFTER, REPLIES_PER_SECOND, RETURN_AFTER, RETURN_INTERVAL,
    STANDBY_INTERVAL,
};
use mifsec::path::{
    Channel, DownReason, Event, IfaceState, PeerParams, Probing, RemoteAddr, RemoteMove,
};
use world::{DATA_EVERY, Link, MS, World, addr, ip};

const USER: usize = 0;
const GATEWAY: usize = 1;
const WLAN: u16 = 1;
const WWAN: u16 = 2;
const SECOND: Duration = Duration::from_secs(1);

fn behind_nat() -> Link {
    Link {
        nat: Some(ip("198.51.100.1")),
        ..Link::default()
    }
}

/// WLAN behind a NAT, RAN without, and a gateway with one interface.
fn two_accesses(seed: u64) -> World {
    World::new(
        seed,
        &[
            (WLAN, &["10.0.0.5"], behind_nat()),
            (WWAN, &["100.64.0.5"], Link::default()),
        ],
        &[(1, &["203.0.113.1"])],
    )
}

fn settled(seed: u64) -> World {
    let mut world = two_accesses(seed);
    world.run(3 * SECOND);
    for host in [USER, GATEWAY] {
        for iface in [WLAN, WWAN] {
            let (local, remote) = if host == USER { (iface, 1) } else { (1, iface) };
            let view = world.view(host, local, remote);
            assert!(view.up && view.validated && view.home, "{host} {view:?}");
        }
    }
    world
}

fn both_up(world: &World) -> bool {
    [WLAN, WWAN]
        .iter()
        .all(|iface| world.hosts[USER].up(*iface, 1) && world.hosts[GATEWAY].up(1, *iface))
}

fn downs(world: &World, host: usize) -> Vec<DownReason> {
    world.hosts[host]
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::Down { why, .. } => Some(*why),
            _ => None,
        })
        .collect()
}

#[test]
fn both_accesses_are_validated_soon_and_at_both_ends() {
    let mut world = two_accesses(1);
    let took = world.run_until(SECOND, both_up);
    // Table 20 ms, challenge and reply 20 ms; or one round of challenges later.
    assert!(took <= 200 * MS, "{took:?}");
    world.run(2 * SECOND);

    let wlan = world.view(USER, WLAN, 1);
    assert!(wlan.nat && wlan.channel);
    assert!(!world.view(USER, WWAN, 1).nat);
    let seen = world.seen_at(WLAN);
    let gateway = world.view(GATEWAY, 1, WLAN);
    assert_eq!(gateway.remote, Some(seen));
    assert!(gateway.nat && gateway.channel);
    assert!(wlan.local_nat && !gateway.local_nat, "it is the user's NAT");
    for host in [USER, GATEWAY] {
        assert_eq!(
            world.count(host, |e| matches!(e, Event::Resolved { .. })),
            1
        );
        assert_eq!(world.hosts[host].data_lost, 0);
        assert_eq!(downs(&world, host), []);
    }
    let rtt = world.view(USER, WWAN, 1).rtt.unwrap();
    assert_eq!(rtt.as_millis(), 20);
}

#[test]
fn a_planned_move_loses_nothing() {
    mifsec_tests::covers!("R23", "R24");
    for access in [WLAN, WWAN] {
        let mut world = settled(2);
        let new = if access == WLAN {
            "10.0.9.9"
        } else {
            "100.64.9.9"
        };
        let old = world.hosts[USER].address(IfaceId(access)).ip();
        world.change(USER, access, |iface| iface.addresses.insert(0, ip(new)));
        let moved = |world: &World| world.view(USER, access, 1).local == Some(addr(new));
        let took = world.run_until(SECOND, moved);
        assert!(took <= 25 * MS, "one round trip: {took:?}");
        world.run(SECOND);
        world.change(USER, access, |iface| iface.addresses.retain(|a| *a != old));
        world.run(SECOND);

        let seen = world.seen_at(access);
        assert_eq!(world.view(GATEWAY, 1, access).remote, Some(seen));
        for host in [USER, GATEWAY] {
            assert_eq!(world.hosts[host].data_lost, 0, "host {host}");
            assert_eq!(downs(&world, host), []);
        }
        let told = world.count(USER, |e| matches!(e, Event::LocalMoved { .. }));
        assert_eq!(told, 1);
    }
}

#[test]
fn an_abrupt_move_is_over_a_round_trip_after_the_new_address() {
    for access in [WLAN, WWAN] {
        let mut world = settled(3);
        let new = if access == WLAN {
            "10.0.9.9"
        } else {
            "100.64.9.9"
        };
        world.change(USER, access, |iface| iface.addresses.clear());
        assert!(!world.hosts[USER].up(access, 1), "down at once");
        world.run(30 * MS);
        world.link(access).nat = (access == WLAN).then(|| ip("198.51.100.77"));
        world.change(USER, access, |iface| iface.addresses = vec![ip(new)]);
        let took = world.run_until(SECOND, both_up);
        assert!(took <= 45 * MS, "{took:?}");
        let lost = world.hosts[GATEWAY].data_lost;
        world.run(2 * SECOND);

        assert_eq!(world.hosts[USER].data_lost, 0);
        // 20 ms of notice, and what was in flight.
        let bound = (20 * MS + 20 * MS + 50 * MS).as_millis() / DATA_EVERY.as_millis();
        assert!(u128::from(lost) <= bound, "{lost} lost");
        assert_eq!(world.hosts[GATEWAY].data_lost, lost, "and nothing after");
        let seen = world.seen_at(access);
        assert_eq!(world.view(GATEWAY, 1, access).remote, Some(seen));
    }
}

#[test]
fn a_rebinding_nat_is_followed_without_any_signalling() {
    let mut world = settled(4);
    world.signalling = false;
    world.rebind(WLAN);
    let lost = world.hosts[GATEWAY].data_lost;
    world.run(SECOND);
    let seen = world.seen_at(WLAN);
    assert_eq!(world.view(GATEWAY, 1, WLAN).remote, Some(seen));
    let lost = world.hosts[GATEWAY].data_lost - lost;
    // Until the user's next packet has arrived and its source has answered.
    let bound = (DATA_EVERY + 40 * MS).as_millis() / DATA_EVERY.as_millis() + 1;
    assert!(u128::from(lost) <= bound, "{lost} lost");
    assert_eq!(downs(&world, USER), []);
    assert_eq!(downs(&world, GATEWAY), []);
}

#[test]
fn an_idle_rebinding_is_found_by_the_users_next_probe() {
    let mut world = settled(5);
    world.data = false;
    world.run(30 * SECOND);
    world.rebind(WLAN);
    world.run(KEEPALIVE_INTERVAL + SECOND);
    let seen = world.seen_at(WLAN);
    assert_eq!(world.view(GATEWAY, 1, WLAN).remote, Some(seen));
}

#[test]
fn silent_death_is_noticed_in_time_and_undone_after_three_good_seconds() {
    mifsec_tests::covers!("R34");
    let mut world = settled(6);
    world.link(WLAN).dead = true;
    let down =
        |host: usize, local, remote| move |world: &World| !world.view(host, local, remote).up;
    let took = world.run_until(SECOND, |world| {
        down(USER, WLAN, 1)(world) && down(GATEWAY, 1, WLAN)(world)
    });
    // Data, the question, three probes 25 ms apart, the last one's 50 ms, and
    // what was still in flight.
    let bound = DATA_EVERY * 2 + QUESTION_AFTER + 2 * 25 * MS + 50 * MS + 20 * MS;
    assert!(took <= bound, "{took:?}");
    assert_eq!(downs(&world, USER), [DownReason::Unanswered]);
    assert!(
        world.hosts[USER].up(WWAN, 1),
        "the other one is not touched"
    );

    world.run(5 * SECOND);
    world.link(WLAN).dead = false;
    let took = world.run_until(10 * SECOND, both_up);
    assert!(took >= RETURN_AFTER, "{took:?}");
    assert!(
        took <= RETURN_AFTER + SECOND + 2 * RETURN_INTERVAL + 50 * MS,
        "{took:?}"
    );
}

#[test]
fn an_idle_standby_is_found_dead_within_a_second_or_so() {
    let mut world = settled(7);
    // Only the RAN carries data: the user's WLAN still belongs to the service.
    world.change(USER, WLAN, |iface| iface.probing = Probing::Fast);
    world.run(2 * SECOND);
    world.link(WLAN).dead = true;
    world.data = false;
    let took = world.run_until(3 * SECOND, |world| !world.view(USER, WLAN, 1).up);
    assert!(took <= STANDBY_INTERVAL + 200 * MS, "{took:?}");
}

#[test]
fn without_carrier_a_path_is_down_at_once_and_with_it_up_when_it_answers() {
    let mut world = settled(8);
    world.change(USER, WLAN, |iface| {
        iface.state = IfaceState::Down;
    });
    assert!(!world.view(USER, WLAN, 1).up);
    assert_eq!(downs(&world, USER), [DownReason::LocalInterface]);
    world.run(25 * MS);
    assert_eq!(downs(&world, GATEWAY), [DownReason::RemoteInterface]);
    let lost = world.hosts[GATEWAY].data_lost;
    world.run(10 * SECOND);
    assert_eq!(world.hosts[GATEWAY].data_lost, lost);
    assert_eq!(world.hosts[USER].data_lost, 0);
    assert!(world.hosts[GATEWAY].up(1, WWAN));

    world.change(USER, WLAN, |iface| iface.state = IfaceState::Up);
    let took = world.run_until(SECOND, both_up);
    assert!(took <= 70 * MS, "{took:?}");
}

#[test]
fn both_ends_may_move_at_once() {
    for gap in [0, 5, 15, 40] {
        let mut world = settled(9);
        world.change(USER, WWAN, |iface| {
            iface.addresses.insert(0, ip("100.64.9.9"))
        });
        world.run(gap * MS);
        world.change(GATEWAY, 1, |iface| {
            iface.addresses.insert(0, ip("203.0.113.99"));
        });
        world.run(2 * SECOND);
        world.change(USER, WWAN, |iface| iface.addresses.truncate(1));
        world.change(GATEWAY, 1, |iface| iface.addresses.truncate(1));
        world.run(2 * SECOND);
        for access in [WLAN, WWAN] {
            let user = world.view(USER, access, 1);
            let gateway = world.view(GATEWAY, 1, access);
            let seen = world.seen_at(access);
            assert!(user.up && gateway.up, "{gap}: {user:?} {gateway:?}");
            assert_eq!(user.remote, Some(addr("203.0.113.99")));
            assert_eq!(gateway.remote, Some(seen));
        }
        for host in [USER, GATEWAY] {
            assert_eq!(world.hosts[host].data_lost, 0, "{gap} ms, host {host}");
        }
    }
}

fn challenge(token: u64, from: &str) -> Vec<u8> {
    let probe = Probe {
        kind: ProbeKind::Challenge,
        path: PathId {
            initiator: IfaceId(WWAN),
            responder: IfaceId(1),
        },
        token,
        sent_us: 0,
        echo_us: 0,
        observed: addr(from),
        behind_nat: false,
    };
    probe.encode()
}

fn at_gateway(from: &str) -> Arrival {
    Arrival {
        ifindex: 50,
        local: addr("203.0.113.1"),
        remote: addr(from),
    }
}

#[test]
fn a_probe_that_was_held_back_moves_nothing() {
    let mut world = settled(10);
    let old = world.take_sequence(USER);
    world.change(USER, WWAN, |iface| {
        iface.addresses.insert(0, ip("100.64.9.9"));
    });
    world.run(2 * SECOND);
    let here = world.view(GATEWAY, 1, WWAN).remote;
    assert_eq!(here, Some(addr("100.64.9.9")));

    // The user still has the old address: it would answer a challenge there.
    let bytes = challenge(77, "100.64.0.5");
    world.probe(GATEWAY, at_gateway("100.64.0.5"), old, &bytes);
    world.run(2 * SECOND);
    assert_eq!(world.view(GATEWAY, 1, WWAN).remote, here);

    // Whereas one that was sent after the move does.
    let new = world.take_sequence(USER);
    let bytes = challenge(78, "100.64.0.5");
    world.probe(GATEWAY, at_gateway("100.64.0.5"), new, &bytes);
    world.run(30 * MS);
    assert_eq!(
        world.view(GATEWAY, 1, WWAN).remote,
        Some(addr("100.64.0.5"))
    );
}

#[test]
fn a_move_gets_through_although_the_gateways_challenges_are_lost() {
    let mut world = settled(17);
    world.data = false;
    world.signalling = false;
    world.run(15 * SECOND);
    // Each of the user's probes is worth a reply and two challenges.
    world.link(WLAN).swallow = 4;
    world.change(USER, WLAN, |iface| iface.addresses = vec![ip("10.0.9.9")]);
    world.run(2 * SECOND);
    assert_eq!(world.link(WLAN).swallow, 0);
    let seen = world.seen_at(WLAN);
    assert_eq!(world.view(GATEWAY, 1, WLAN).remote, Some(seen));
}

#[test]
fn what_is_in_flight_from_the_old_address_still_belongs_to_the_path() {
    let mut world = settled(18);
    let path = world.view(GATEWAY, 1, WWAN).path;
    let old = at_gateway("100.64.0.5");
    world.change(USER, WWAN, |iface| iface.addresses = vec![ip("100.64.9.9")]);
    world.run(SECOND);
    let arrivals = &world.hosts[GATEWAY].arrivals;
    assert_eq!(arrivals.get(&at_gateway("100.64.9.9")), Some(&path));
    assert_eq!(arrivals.get(&old), Some(&path));
    world.run(GRACE);
    assert_eq!(world.hosts[GATEWAY].arrivals.get(&old), None);
}

#[test]
fn a_dead_address_is_left_at_once_when_the_peer_says_so() {
    let mut world = settled(19);
    let mut moved = RemoteMove {
        old_iface: IfaceId(WLAN),
        new_iface: IfaceId(WLAN),
        old: ip("10.0.0.5"),
        new: RemoteAddr {
            ip: ip("10.0.9.9"),
            port: 0,
            behind_nat: true,
        },
        old_is_dead: false,
        channel: false,
    };
    let now = world.now;
    let engine = &mut world.hosts[GATEWAY].engine;
    engine.remote_moved(world::IKE, moved, now);
    world.run(MS);
    assert!(world.view(GATEWAY, 1, WLAN).up, "it did not say so");
    moved.old_is_dead = true;
    let now = world.now;
    let engine = &mut world.hosts[GATEWAY].engine;
    engine.remote_moved(world::IKE, moved, now);
    world.run(MS);
    assert!(!world.view(GATEWAY, 1, WLAN).up);
    assert!(world.view(GATEWAY, 1, WWAN).up, "another interface's");
    assert_eq!(downs(&world, GATEWAY), [DownReason::RemoteAddress]);
    // It was not true, as the peer's next packets from there show.
    world.run(2 * SECOND);
    assert!(world.view(GATEWAY, 1, WLAN).up);
}

#[test]
fn the_news_of_a_move_may_come_after_the_move() {
    let mut world = settled(20);
    world.control_delay = 400 * MS;
    world.change(USER, WLAN, |iface| iface.addresses = vec![ip("10.0.9.9")]);
    world.run(100 * MS);
    let seen = world.seen_at(WLAN);
    assert_eq!(world.view(GATEWAY, 1, WLAN).remote, Some(seen));
    world.run(2 * SECOND);
    assert_eq!(downs(&world, GATEWAY), []);
}

#[test]
fn a_peer_that_still_asks_the_old_address_is_reminded() {
    let mut world = settled(21);
    world.data = false;
    let new = ip("100.64.9.9");
    world.change(USER, WWAN, |iface| iface.addresses.insert(0, new));
    world.run(30 * SECOND);
    let before = world.hosts[USER].probes_from[&new];
    let sequence = world.take_sequence(GATEWAY);
    let arrival = Arrival {
        ifindex: 11,
        local: addr("100.64.0.5"),
        remote: addr("203.0.113.1"),
    };
    world.probe(USER, arrival, sequence, &challenge(99, "203.0.113.1"));
    world.run(30 * MS);
    assert!(world.hosts[USER].probes_from[&new] > before);
}

#[test]
fn an_authenticated_peer_cannot_direct_traffic_at_a_victim() {
    let mut world = settled(11);
    let victim = "192.0.2.66";
    let before = world.view(GATEWAY, 1, WWAN).remote;
    let sequences: Vec<_> = (0..5).map(|_| world.take_sequence(USER)).collect();
    for (token, sequence) in (500..).zip(sequences) {
        let bytes = challenge(token, victim);
        world.probe(GATEWAY, at_gateway(victim), sequence, &bytes);
        world.run(100 * MS);
        // Even with an address of its own in the same breath.
        assert_eq!(world.view(GATEWAY, 1, WWAN).remote, before);
    }
    world.run(60 * SECOND);
    let octets = world.hosts[GATEWAY].octets_to(addr(victim));
    assert!(octets > 0);
    // Three times what came from there.
    assert!(octets <= 5 * 3 * PROBE_LEN as u64, "{octets}");
    assert!(!world.hosts[GATEWAY].proven.contains(&addr(victim)));
}

#[test]
fn no_octets_in_the_probe_sa_do_harm() {
    let mut world = settled(22);
    for round in 0..5000u32 {
        let mut bytes = challenge(u64::from(round), "100.64.0.5");
        for _ in 0..world.random(4) {
            let at = world.random(PROBE_LEN as u32) as usize;
            bytes[at] = world.random(256) as u8;
        }
        bytes.truncate(world.random(80) as usize);
        let sequence = world.take_sequence(USER);
        let now = world.now;
        let engine = &mut world.hosts[GATEWAY].engine;
        engine.handle_probe(world::IKE, at_gateway("100.64.0.5"), sequence, &bytes, now);
        engine.handle_probe(IkeId(99), at_gateway("100.64.0.5"), sequence, &bytes, now);
        world.run(3 * MS);
    }
    let counters = world.hosts[GATEWAY].engine.counters();
    for reason in [
        "path_probe_malformed",
        "path_probe_unknown",
        "path_unknown_peer",
    ] {
        assert!(counters[reason] > 10, "{counters:?}");
    }
    world.run(5 * SECOND);
    assert!(both_up(&world));
}

#[test]
fn replies_are_limited() {
    let mut world = settled(23);
    world.run(SECOND);
    let before = world.hosts[GATEWAY].probes_sent;
    for token in 0..2000 {
        let sequence = world.take_sequence(USER);
        let bytes = challenge(token, "100.64.0.5");
        world.probe(GATEWAY, at_gateway("100.64.0.5"), sequence, &bytes);
    }
    let sent = world.hosts[GATEWAY].probes_sent - before;
    assert_eq!(sent, u64::from(REPLIES_PER_SECOND));
}

#[test]
fn a_peer_that_is_back_before_its_old_sa_is_gone_has_its_packets_to_itself() {
    let mut world = settled(24);
    let now = world.now;
    let params = PeerParams {
        initiator: false,
        probes: true,
        behind_nat: false,
        channel: Channel {
            local: IfaceId(1),
            local_addr: addr("203.0.113.1"),
            remote_addr: addr("100.64.0.5"),
        },
    };
    let engine = &mut world.hosts[GATEWAY].engine;
    engine.add_peer(IkeId(2), params, now);
    let mut owner = None;
    while let Some(event) = engine.poll_event() {
        if let Event::ArrivalAdded { arrival, path } = event {
            assert_eq!(arrival, at_gateway("100.64.0.5"));
            owner = Some(path);
        }
    }
    let new = engine.views().into_iter().find(|view| view.ike == IkeId(2));
    assert_eq!(owner, new.map(|view| view.path));
    engine.remove_peer(world::IKE);
    while let Some(event) = engine.poll_event() {
        assert!(
            !matches!(event, Event::ArrivalRemoved { arrival } if arrival == at_gateway("100.64.0.5")),
            "it is still in use"
        );
    }
}

#[test]
fn spoofed_data_from_elsewhere_moves_nothing() {
    let mut world = settled(12);
    let path = world.view(GATEWAY, 1, WWAN).path;
    for port in 0..200 {
        let mut arrival = at_gateway("192.0.2.66");
        arrival.remote.set_port(port);
        let now = world.now;
        world.hosts[GATEWAY]
            .engine
            .handle_new_source(path, arrival, now);
        world.run(10 * MS);
    }
    world.run(5 * SECOND);
    let view = world.view(GATEWAY, 1, WWAN);
    assert_eq!(view.remote, Some(addr("100.64.0.5")));
    assert!(view.up);
    assert_eq!(world.hosts[GATEWAY].data_lost, 0);
}

#[test]
fn an_idle_peer_costs_a_probe_each_keepalive_interval() {
    let mut world = settled(13);
    world.data = false;
    world.run(30 * SECOND);
    let before: u64 = world.hosts.iter().map(|host| host.probes_sent).sum();
    world.run(600 * SECOND);
    let sent = world.hosts.iter().map(|host| host.probes_sent).sum::<u64>() - before;
    // Two paths, two ends, challenge and reply, an interval of 18 to 20 s.
    assert!((8 * 29..=8 * 35).contains(&sent), "{sent}");
    assert!(both_up(&world));
}

#[test]
fn a_peer_without_probes_has_one_fixed_path_and_keepalives() {
    let mut world = World::without_peer(
        14,
        &[
            (WLAN, &["10.0.0.5"], behind_nat()),
            (WWAN, &["100.64.0.5"], Link::default()),
        ],
        &[(1, &["203.0.113.1"])],
    );
    world.connect(false);
    world.run(10 * SECOND);
    assert_eq!(world.hosts[USER].engine.views().len(), 1);
    assert_eq!(world.hosts[USER].keepalives_sent, 0, "data keeps it open");
    world.data = false;
    world.run(101 * SECOND);
    assert_eq!(world.hosts[USER].keepalives_sent, 5);
    assert_eq!(
        world.hosts[GATEWAY].keepalives_sent, 0,
        "it is not behind it"
    );
    assert_eq!(world.hosts[USER].probes_sent, 0);
    world.change(USER, WLAN, |iface| iface.state = IfaceState::Down);
    assert!(!world.hosts[USER].engine.views()[0].up);
    world.change(USER, WLAN, |iface| iface.state = IfaceState::Up);
    assert!(world.hosts[USER].engine.views()[0].up);
}

#[test]
fn the_other_family_takes_a_pairs_traffic_over() {
    let mut world = World::new(
        15,
        &[(WLAN, &["100.64.0.5", "2001:db8:1::5"], Link::default())],
        &[(1, &["203.0.113.1", "2001:db8::1"])],
    );
    world.run(2 * SECOND);
    let (v4, v6) = (
        world.hosts[USER].view(WLAN, 1, Family::V4),
        world.hosts[USER].view(WLAN, 1, Family::V6),
    );
    assert!(v4.up && v4.home && v6.up && !v6.home);
    world.change(USER, WLAN, |iface| {
        iface.addresses.retain(std::net::IpAddr::is_ipv6);
    });
    let v6 = world.hosts[USER].view(WLAN, 1, Family::V6);
    assert!(v6.home, "at once");
    let told = world.count(
        USER,
        |e| matches!(e, Event::Validated { path, home: true, .. } if *path == v6.path),
    );
    assert_eq!(told, 1);
}

#[test]
fn a_removed_peer_leaves_nothing() {
    let mut world = settled(16);
    let host = &mut world.hosts[GATEWAY];
    host.engine.remove_peer(world::IKE);
    let mut removed = 0;
    while let Some(event) = host.engine.poll_event() {
        match event {
            Event::Removed { .. } => removed += 1,
            Event::ArrivalRemoved { arrival } => {
                host.arrivals.remove(&arrival);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((removed, host.arrivals.len()), (2, 0));
    assert_eq!(host.engine.views(), []);
    while host.engine.poll_transmit().is_some() {}
    assert_eq!(host.engine.poll_timeout(), None);
}

/// One life: faults for 15 seconds, then peace, and everything that physically
/// can work must.
fn random_life(seed: u64) {
    let mut world = World::new(
        seed,
        &[
            (WLAN, &["10.0.0.5"], behind_nat()),
            (WWAN, &["100.64.0.5"], Link::default()),
            (
                3,
                &["10.3.0.5"],
                Link {
                    nat: Some(ip("198.51.100.3")),
                    ..Link::default()
                },
            ),
        ],
        &[(1, &["203.0.113.1"]), (2, &["203.0.113.2"])],
    );
    for access in 1..=3 {
        let delay = MS * (2 + world.random(60));
        let jitter = MS * world.random(15);
        let (loss, duplicate) = (world.random(100), world.random(50));
        let link = world.link(access);
        (link.delay, link.jitter) = (delay, jitter);
        (link.loss, link.duplicate) = (loss, duplicate);
    }
    world.control_delay = MS * (10 + world.random(300));
    world.data_every = 40 * MS;
    let mut fresh = 10u8;
    for _ in 0..20 {
        let pause = MS * world.random(1500);
        world.run(pause);
        let access = 1 + world.random(3) as u16;
        fresh += 1;
        let new = ip(&format!("100.{access}.0.{fresh}"));
        match world.random(10) {
            0 | 1 => world.change(USER, access, |iface| iface.addresses.insert(0, new)),
            2 => world.change(USER, access, |iface| iface.addresses.truncate(1)),
            3 => world.change(USER, access, |iface| iface.addresses = vec![new]),
            4 => world.change(USER, access, |iface| iface.addresses.clear()),
            5 => {
                let dead = world.random(2) == 0;
                world.link(access).dead = dead;
            }
            6 => world.rebind(access),
            7 => {
                let up = world.random(2) == 0;
                world.change(USER, access, |iface| {
                    iface.state = if up { IfaceState::Up } else { IfaceState::Down };
                });
            }
            8 => {
                let new = ip(&format!("203.0.113.{fresh}"));
                world.change(GATEWAY, 1, |iface| iface.addresses.insert(0, new));
            }
            _ => world.change(GATEWAY, 1, |iface| iface.addresses.truncate(1)),
        }
    }
    // Peace: every access works, with the newest address it was given.
    for access in 1..=3u16 {
        let link = world.link(access);
        (link.dead, link.loss) = (false, 0);
        world.change(USER, access, |iface| {
            iface.state = IfaceState::Up;
            if iface.addresses.is_empty() {
                iface.addresses.push(ip(&format!("100.{access}.0.250")));
            }
        });
    }
    world.run(35 * SECOND);
    let (lost_user, lost_gateway) = (world.hosts[USER].data_lost, world.hosts[GATEWAY].data_lost);
    world.run(3 * SECOND);

    let homes: Vec<_> = world.hosts[USER]
        .engine
        .views()
        .into_iter()
        .filter(|view| view.home)
        .collect();
    assert_eq!(homes.len(), 3, "seed {seed}: {homes:#?}");
    for user in homes {
        let (access, remote) = (user.pair.local.0, user.pair.remote.0);
        let gateway = world.view(GATEWAY, remote, access);
        let seen = world.seen_at(access);
        assert!(
            user.up && gateway.up && gateway.home,
            "seed {seed}: {user:#?} {gateway:#?}"
        );
        let local = world.hosts[USER].address(IfaceId(access));
        assert_eq!(
            user.local,
            Some(local),
            "seed {seed}: not the newest address"
        );
        assert_eq!(gateway.remote, Some(seen), "seed {seed}: not where it is");
        let there = world.hosts[GATEWAY].address(IfaceId(remote));
        assert_eq!(user.remote, Some(there), "seed {seed}");
    }
    assert_eq!(world.hosts[USER].data_lost, lost_user, "seed {seed}");
    assert_eq!(world.hosts[GATEWAY].data_lost, lost_gateway, "seed {seed}");
}

#[test]
fn hundreds_of_random_lives_end_well() {
    // MIFSEC_SIM_SEED, as a failure's message names it, repeats that life alone.
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (first, count): (u64, u64) = match number("MIFSEC_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("MIFSEC_SIM_LIVES").unwrap_or(500)),
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|worker| {
                scope.spawn(move || {
                    (first..first + count)
                        .filter(|seed| seed % 2 == worker)
                        .for_each(random_life);
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("a life ended badly");
        }
    });
}
