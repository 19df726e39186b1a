//! What goes with a move: the router, the IKE channel, the credit of old arrivals.

use super::*;

#[test]
fn the_router_changes_with_the_address_and_not_before() {
    let mut world = settled(40);
    let path = world.view(USER, WWAN, 1).path;
    let [old, new] = ["100.64.0.5", "100.64.9.9"];
    let [r1, r2] = ["100.64.0.1", "100.64.9.1"];
    let v4 = |text: &str| Some(text.parse().unwrap());
    let entry = |world: &World| world.hosts[USER].entries[&path];

    world.change(USER, WWAN, |iface| iface.next_hop_v4 = v4(r1));
    assert_eq!(entry(&world).next_hop, ip(r1));
    world.change(USER, WWAN, |iface| {
        iface.addresses.insert(0, ip(new));
        (iface.next_hop_v4, iface.mtu) = (v4(r2), 1400);
    });
    assert_eq!((entry(&world).local, entry(&world).mtu), (addr(old), 1400));
    assert_eq!(entry(&world).next_hop, ip(r1), "still from the old address");
    world.run(SECOND);
    assert_eq!(entry(&world).local, addr(new));
    assert_eq!(entry(&world).next_hop, ip(r2));

    // The new address is lost, and the agent still names the new router.
    world.link(WWAN).dead_for = Some(ip(new));
    world.run(2 * SECOND);
    assert_eq!(entry(&world).local, addr(old), "it still works");
    assert_eq!(entry(&world).next_hop, ip(r1));
    world.change(USER, WWAN, |iface| iface.addresses = vec![ip(old)]);
    assert_eq!(entry(&world).next_hop, ip(r2), "the only one there is");
}

#[test]
fn what_comes_from_the_old_address_does_not_vouch_for_the_new_one() {
    let mut world = settled(41);
    let [old, new] = ["100.64.0.5", "100.64.9.9"];
    // The gateway can not follow, and goes on sending to the old address.
    world.link(WWAN).swallow = 1000;
    world.signalling = false;
    world.change(USER, WWAN, |iface| iface.addresses.insert(0, ip(new)));
    world.run_until(SECOND, |world| {
        world.view(USER, WWAN, 1).local == Some(addr(new))
    });
    // What the user sends from the new one no longer arrives.
    world.link(WWAN).dead_for = Some(ip(new));
    world.run_until(300 * MS, |world| !world.view(USER, WWAN, 1).up);
    let back = |world: &World| {
        let view = world.view(USER, WWAN, 1);
        view.up && view.local == Some(addr(old))
    };
    world.run_until(SECOND, back);
}

/// A gateway that knows the user's table, but has not heard the user since.
fn unresolved(seed: u64) -> World {
    let mut world = World::without_peer(
        seed,
        &[
            (WLAN, &["10.0.0.5"], behind_nat()),
            (WWAN, &["10.1.0.5"], behind_nat()),
        ],
        &[(1, &["203.0.113.1"])],
    );
    for access in [WLAN, WWAN] {
        world.link(access).dead = true;
    }
    world.connect(true);
    world.run(100 * MS);
    assert_eq!(resolved(&world), []);
    world
}

fn resolved(world: &World) -> Vec<IfaceId> {
    let events = world.hosts[GATEWAY].events.iter();
    events
        .filter_map(|(_, event)| match event {
            Event::Resolved { remote, .. } => Some(*remote),
            _ => None,
        })
        .collect()
}

fn a_move() -> RemoteMove {
    RemoteMove {
        old_iface: IfaceId(WLAN),
        new_iface: IfaceId(WLAN),
        old: ip("10.0.0.5"),
        new: RemoteAddr {
            ip: ip("10.0.9.9"),
            port: 0,
            behind_nat: true,
        },
        old_is_dead: true,
        channel: true,
    }
}

#[test]
fn a_move_of_the_channel_says_whose_it_was() {
    let mut world = unresolved(42);

    let mut moved = a_move();
    moved.channel = false;
    let now = world.now;
    world.hosts[GATEWAY]
        .engine
        .remote_moved(world::IKE, moved, now);
    world.run(MS);
    assert_eq!(resolved(&world), [], "it may be about another interface");
    let now = world.now;
    world.hosts[GATEWAY]
        .engine
        .remote_moved(world::IKE, a_move(), now);
    world.run(MS);
    assert_eq!(resolved(&world), [IfaceId(WLAN)]);
    assert!(world.view(GATEWAY, 1, WLAN).channel);
    assert_eq!(downs(&world, GATEWAY), [DownReason::RemoteAddress]);
}

#[test]
fn a_path_that_took_over_before_stays() {
    let mut world = unresolved(43);
    // The user has moved before anything of it was heard, and is validated anew.
    world.signalling = false;
    world.change(USER, WLAN, |iface| iface.addresses = vec![ip("10.0.9.9")]);
    world.link(WLAN).dead = false;
    world.run(2 * SECOND);
    let twin = world.view(GATEWAY, 1, WLAN);
    assert!(twin.up);
    assert_eq!(resolved(&world), []);
    let now = world.now;
    world.hosts[GATEWAY]
        .engine
        .remote_moved(world::IKE, a_move(), now);
    world.run(MS);
    assert_eq!(resolved(&world), [IfaceId(WLAN)]);
    let view = world.view(GATEWAY, 1, WLAN);
    assert_eq!((view.path, view.remote), (twin.path, twin.remote));
    assert!(view.up && view.channel && view.home);
}

#[test]
fn the_channel_may_go_before_its_first_path_has_a_name() {
    let mut world = unresolved(44);
    let now = world.now;
    let first = world.view(GATEWAY, 1, 0);
    let other = world.view(GATEWAY, 1, WWAN);
    let engine = &mut world.hosts[GATEWAY].engine;
    engine.set_channel(world::IKE, other.path);
    // A probe from the address of the first one names its interface.
    let arrival = Arrival {
        remote: first.remote.unwrap(),
        ..at_gateway("0.0.0.0")
    };
    let probe = Probe {
        kind: ProbeKind::Challenge,
        path: PathId {
            initiator: IfaceId(WLAN),
            responder: IfaceId(1),
        },
        token: 1,
        sent_us: 0,
        echo_us: 0,
        observed: addr("10.0.0.5"),
        behind_nat: true,
    };
    engine.handle_probe(world::IKE, arrival, 1, &probe.encode(), now);
    world.run(MS);
    assert_eq!(resolved(&world), [IfaceId(WLAN)]);
    assert_eq!(world.view(GATEWAY, 1, WLAN).path, first.path);
    assert!(world.view(GATEWAY, 1, WWAN).channel, "it stays there");
}

#[test]
fn a_challenge_of_the_nameless_path_names_it() {
    let mut world = unresolved(45);
    let now = world.now;
    let probe = Probe {
        kind: ProbeKind::Challenge,
        path: PathId {
            initiator: IfaceId(WLAN),
            responder: IfaceId::CHANNEL,
        },
        token: 1,
        sent_us: 0,
        echo_us: 0,
        observed: addr("10.0.9.9"),
        behind_nat: true,
    };
    // From an address that is new already.
    let arrival = at_gateway("198.51.100.200");
    let engine = &mut world.hosts[GATEWAY].engine;
    engine.handle_probe(world::IKE, arrival, 1, &probe.encode(), now);
    world.run(MS);
    assert_eq!(resolved(&world), [IfaceId(WLAN)]);
}

#[test]
fn where_the_peer_has_one_interface_only_that_is_the_channels() {
    let mut world = World::without_peer(
        46,
        &[(WLAN, &["10.0.0.5"], behind_nat())],
        &[(1, &["203.0.113.1"])],
    );
    world.link(WLAN).dead = true;
    world.connect(true);
    world.run(100 * MS);
    assert_eq!(resolved(&world), [IfaceId(WLAN)]);
}

#[test]
fn the_channels_path_is_probed_wherever_the_channel_goes() {
    let mut world = World::new(
        47,
        &[(WLAN, &["100.64.0.5"], Link::default())],
        &[(1, &["203.0.113.1"]), (2, &["203.0.113.2"])],
    );
    world.run(3 * SECOND);
    world.data = false;
    world.run(30 * SECOND);
    let views = world.hosts[USER].engine.views();
    let [home, other] = [true, false].map(|home| {
        let view = views.iter().find(|view| view.home == home && view.up);
        view.unwrap().path
    });
    let probed = |world: &mut World, path| {
        let before = world.hosts[USER].challenges_on.get(&path).copied();
        world.run(2 * KEEPALIVE_INTERVAL);
        world.hosts[USER].challenges_on.get(&path).copied() != before
    };
    assert!(!probed(&mut world, other));
    world.hosts[USER].engine.set_channel(world::IKE, other);
    assert!(probed(&mut world, other));
    world.hosts[USER].engine.set_channel(world::IKE, home);
    world.run(2 * KEEPALIVE_INTERVAL);
    assert!(!probed(&mut world, other));
}

#[test]
fn two_ends_that_find_a_path_dead_do_not_keep_each_other_asking() {
    let mut world = two_accesses(70);
    world.signalling = false;
    world.link(WLAN).delay = MS / 10;
    world.run(2 * SECOND);
    world.link(WLAN).deaf = true;
    world.run(1200 * MS);
    assert!(!world.hosts[USER].up(WLAN, 1) && !world.hosts[GATEWAY].up(1, WLAN));
    let asked = |world: &World| {
        let path = world.view(USER, WLAN, 1).path;
        world.hosts[USER].challenges_on[&path]
    };
    let before = asked(&world);
    world.link(WLAN).deaf = false;
    let took = world.run_until(10 * SECOND, |world| {
        world.hosts[USER].up(WLAN, 1) && world.hosts[GATEWAY].up(1, WLAN)
    });
    assert!(took <= 5 * SECOND, "{took:?}");
    let asked = asked(&world) - before;
    assert!((12..=40).contains(&asked), "{asked} challenges");
}
