//! Interfaces that carry others, interfaces done without, homes that stay.

use mifsec::ids::{IfacePair, PathIndex};
use mifsec::path::{End, Entry};

use super::*;

const ETH: u16 = 3;

fn pair(local: u16, remote: u16) -> IfacePair {
    IfacePair {
        local: IfaceId(local),
        remote: IfaceId(remote),
    }
}

/// Entries written for a path since `from` events ago.
fn written(world: &World, host: usize, path: PathIndex, from: usize) -> Vec<Entry> {
    let events = world.hosts[host].events.iter().skip(from);
    let entry = |event: &Event| match event {
        Event::Entry { path: p, entry } if *p == path => Some(*entry),
        _ => None,
    };
    events.filter_map(|(_, event)| entry(event)).collect()
}

fn index(world: &World, host: usize, local: u16, remote: u16) -> PathIndex {
    world.view(host, local, remote).path
}

/// What the maps hold for the path of a pair.
fn entry(world: &World, host: usize, local: u16, remote: u16) -> Entry {
    world.hosts[host].entries[&index(world, host, local, remote)]
}

fn three_accesses(seed: u64) -> World {
    let mut world = World::new(
        seed,
        &[
            (WLAN, &["10.0.0.5"], behind_nat()),
            (WWAN, &["100.64.0.5"], Link::default()),
            (ETH, &["192.0.2.5"], Link::default()),
        ],
        &[(1, &["203.0.113.1"])],
    );
    world.run(3 * SECOND);
    world
}

/// Two accesses, and a gateway that has got a second, better interface.
fn second_gateway_interface(seed: u64) -> World {
    let mut world = World::new(
        seed,
        &[
            (WLAN, &["10.0.0.5"], behind_nat()),
            (WWAN, &["100.64.0.5"], Link::default()),
        ],
        &[(1, &["203.0.113.1"])],
    );
    world.change(GATEWAY, 1, |iface| iface.priority = 5);
    world.run(3 * SECOND);
    world.appear(GATEWAY, 2, &["203.0.113.2"], 0);
    world.run(3 * SECOND);
    world
}

#[test]
fn a_merge_is_one_entry_for_each_path_and_loses_nothing() {
    let mut world = settled(50);
    let home = [
        index(&world, USER, WLAN, 1),
        index(&world, GATEWAY, 1, WLAN),
    ];
    let before = [0, 1].map(|host| world.hosts[host].events.len());
    let asked = world.hosts[USER].challenges_on[&home[USER]];
    world.carry(USER, USER, WLAN, WWAN);
    assert_eq!(
        written(&world, USER, home[USER], before[USER]).len(),
        1,
        "at once"
    );
    world.run(5 * SECOND);
    for host in [USER, GATEWAY] {
        let told = written(&world, host, home[host], before[host]);
        assert_eq!(told.len(), 1, "host {host}: {told:?}");
        assert_eq!(world.hosts[host].data_lost, 0);
        assert_eq!(downs(&world, host), []);
    }
    assert_eq!(entry(&world, USER, WLAN, 1), entry(&world, USER, WWAN, 1));
    assert_eq!(
        entry(&world, GATEWAY, 1, WLAN).remote,
        addr("100.64.0.5"),
        "the other end, too"
    );
    let view = world.view(USER, WLAN, 1);
    assert_eq!(view.carried_by, Some(pair(WWAN, 1)));
    assert_eq!(view.local, Some(addr("10.0.0.5")), "its own is what it has");
    assert_eq!(world.view(USER, WWAN, 1).carried_by, None);
    let more = world.hosts[USER].challenges_on[&home[USER]] - asked;
    assert!((3..=8).contains(&more), "still probed: {more}");

    world.carry(USER, USER, WLAN, WLAN);
    world.run(5 * SECOND);
    for host in [USER, GATEWAY] {
        let told = written(&world, host, home[host], before[host]);
        assert_eq!(told.len(), 2, "a split is one more: {told:?}");
        assert_eq!(world.hosts[host].data_lost, 0);
        assert_eq!(downs(&world, host), []);
    }
    assert_eq!(entry(&world, USER, WLAN, 1).local, addr("10.0.0.5"));
}

#[test]
fn who_lends_lends_what_was_lent_to_it() {
    let mut world = three_accesses(51);
    world.carry(USER, USER, WLAN, WWAN);
    world.carry(USER, USER, WWAN, ETH);
    world.run(SECOND);
    for iface in [WLAN, WWAN] {
        assert_eq!(entry(&world, USER, iface, 1).local, addr("192.0.2.5"));
        assert_eq!(entry(&world, GATEWAY, 1, iface).remote, addr("192.0.2.5"));
    }
    assert_eq!(
        world.hosts[USER]
            .engine
            .carrier(IkeId(1), End::Local, IfaceId(WLAN)),
        IfaceId(ETH)
    );
    world.carry(USER, USER, WWAN, WWAN);
    world.run(SECOND);
    assert_eq!(
        entry(&world, USER, WLAN, 1).local,
        addr("192.0.2.5"),
        "only what is at home there returns"
    );
    assert_eq!(entry(&world, USER, WWAN, 1).local, addr("100.64.0.5"));
    for host in [USER, GATEWAY] {
        assert_eq!(world.hosts[host].data_lost, 0);
        assert_eq!(downs(&world, host), []);
    }
}

#[test]
fn a_carrier_that_dies_takes_its_riders_down_and_they_are_lent_on() {
    let mut world = three_accesses(52);
    world.carry(USER, USER, WLAN, WWAN);
    world.run(SECOND);
    // Only what rides on it sends.
    world.link(WWAN).dead = true;
    let took = world.run_until(SECOND, |world| {
        [(USER, WLAN, 1), (USER, WWAN, 1)]
            .iter()
            .all(|(host, local, remote)| !entry(world, *host, *local, *remote).up)
    });
    assert!(took <= 250 * MS, "{took:?}");
    assert!(world.view(USER, WLAN, 1).up, "its own still works");
    world.carry(USER, USER, WWAN, ETH);
    assert!(entry(&world, USER, WLAN, 1).up);
    world.run(SECOND);
    let lost = world.hosts[USER].data_lost + world.hosts[GATEWAY].data_lost;
    world.run(2 * SECOND);
    let after = world.hosts[USER].data_lost + world.hosts[GATEWAY].data_lost;
    assert_eq!(lost, after, "nothing more is lost");
    world.carry(USER, USER, WLAN, WLAN);
    assert_eq!(entry(&world, USER, WLAN, 1).local, addr("10.0.0.5"));
}

#[test]
fn a_carriers_silence_is_noticed_by_what_rides_on_it() {
    let mut world = settled(53);
    world.carry(USER, USER, WLAN, WWAN);
    world.run(SECOND);
    let [rider, carrier] = [index(&world, USER, WLAN, 1), index(&world, USER, WWAN, 1)];
    world.data = false;
    world.run(500 * MS);
    world.link(WWAN).dead = true;
    // Ten packets of the rider's; the carrier's own index sends none.
    for sent in 100_000..100_010 {
        let activity = mifsec::path::Activity {
            sent,
            last_rx: None,
        };
        world.hosts[USER]
            .engine
            .handle_activity(rider, activity, world.now);
        world.run(10 * MS);
    }
    world.run(200 * MS);
    assert!(!world.hosts[USER].entries[&carrier].up);
    assert!(!world.hosts[USER].entries[&rider].up);
    assert!(world.view(USER, WLAN, 1).up, "not asked in its place");
}

#[test]
fn a_carrier_without_the_family_leaves_the_path_down_until_it_has_it() {
    let mut world = World::new(
        54,
        &[
            (WLAN, &["10.0.0.5"], Link::default()),
            (WWAN, &["2001:db8::5"], Link::default()),
        ],
        &[(1, &["203.0.113.1", "2001:db8:1::1"])],
    );
    world.run(2 * SECOND);
    world.carry(USER, USER, WLAN, WWAN);
    world.run(SECOND);
    assert!(!entry(&world, USER, WLAN, 1).up, "nothing to carry it");
    assert_eq!(
        world.view(USER, WLAN, 1).carried_by,
        Some(pair(WWAN, 1)),
        "the agent finds the other family by this"
    );
    world.change(USER, WWAN, |iface| iface.addresses.push(ip("100.64.0.5")));
    world.run(SECOND);
    assert_eq!(entry(&world, USER, WLAN, 1).local, addr("100.64.0.5"));
    assert!(entry(&world, USER, WLAN, 1).up);
}

#[test]
fn a_carrier_that_moves_takes_its_riders_along() {
    let mut world = settled(55);
    world.carry(USER, USER, WLAN, WWAN);
    world.run(SECOND);
    world.change(USER, WWAN, |iface| {
        iface.addresses.insert(0, ip("100.64.9.9"));
    });
    world.run(SECOND);
    assert_eq!(entry(&world, USER, WLAN, 1).local, addr("100.64.9.9"));
    assert_eq!(entry(&world, GATEWAY, 1, WLAN).remote, addr("100.64.9.9"));
    assert_eq!(world.hosts[USER].data_lost, 0);
    assert_eq!(world.hosts[GATEWAY].data_lost, 0);
}

#[test]
fn a_better_interface_of_the_gateway_moves_nothing_until_the_user_says_so() {
    let mut world = second_gateway_interface(56);
    for iface in [WLAN, WWAN] {
        assert!(world.view(USER, iface, 1).home, "it stays");
        let candidate = world.view(USER, iface, 2);
        assert!(candidate.validated && candidate.up && candidate.rtt.is_some());
        assert!(!candidate.home && !world.view(GATEWAY, 2, iface).home);
        assert_eq!(entry(&world, USER, iface, 1).remote, addr("203.0.113.1"));
    }
    let asked = |world: &World, iface| {
        let path = index(world, USER, iface, 2);
        world.hosts[USER].challenges_on.get(&path).copied()
    };
    let once = asked(&world, WWAN);
    world.run(10 * SECOND);
    assert_eq!(asked(&world, WWAN), once, "measured once, then on demand");

    // SELECT_PEER: the user moves the gateway's interface.
    world.carry(GATEWAY, USER, 1, 2);
    world.run(5 * SECOND);
    for iface in [WLAN, WWAN] {
        assert_eq!(entry(&world, USER, iface, 1).remote, addr("203.0.113.2"));
        assert_eq!(entry(&world, GATEWAY, 1, iface).local, addr("203.0.113.2"));
    }
    assert!(
        asked(&world, WWAN) > once.map(|n| n + 2),
        "in use it is probed"
    );
    for host in [USER, GATEWAY] {
        assert_eq!(world.hosts[host].data_lost, 0);
        assert_eq!(downs(&world, host), []);
    }
}

#[test]
fn an_access_that_comes_later_chooses_its_home_among_all() {
    let mut world = second_gateway_interface(57);
    world.links.insert(IfaceId(ETH), Link::default());
    world.appear(USER, ETH, &["192.0.2.5"], 0);
    world.run(3 * SECOND);
    for (host, best, other) in [(USER, (ETH, 2), (ETH, 1)), (GATEWAY, (2, ETH), (1, ETH))] {
        assert!(world.view(host, best.0, best.1).home, "host {host}");
        assert!(!world.view(host, other.0, other.1).home, "host {host}");
    }
    // A Child SA that says otherwise is right.
    let now = world.now;
    world.hosts[GATEWAY]
        .engine
        .set_home(IkeId(1), pair(1, ETH), now);
    world.run(SECOND);
    assert!(world.view(GATEWAY, 1, ETH).home);
}

#[test]
fn an_interface_done_without_has_no_paths_until_it_is_announced_again() {
    let mut world = three_accesses(58);
    let now = world.now;
    for (host, end) in [(USER, End::Local), (GATEWAY, End::Remote)] {
        let engine = &mut world.hosts[host].engine;
        engine.carry(IkeId(1), end, IfaceId(WLAN), IfaceId(ETH), now);
        engine.forget(IkeId(1), end, IfaceId(ETH), true, now);
    }
    world.run(SECOND);
    let on = |world: &World, host: usize| {
        let views = world.hosts[host].engine.views();
        let eth = |pair: IfacePair| pair.local == IfaceId(ETH) || pair.remote == IfaceId(ETH);
        views.iter().filter(|view| eth(view.pair)).count()
    };
    assert_eq!((on(&world, USER), on(&world, GATEWAY)), (0, 0));
    assert!(entry(&world, USER, WLAN, 1).up, "and carries nothing");
    assert_eq!(entry(&world, USER, WLAN, 1).local, addr("10.0.0.5"));
    world.hosts[USER]
        .engine
        .forget(IkeId(1), End::Local, IfaceId(ETH), false, now);
    world.announce(USER);
    world.run(SECOND);
    assert!(world.hosts[USER].up(ETH, 1) && world.hosts[GATEWAY].up(1, ETH));
}

#[test]
fn where_the_channel_was_nothing_stays_of_an_interface_done_without() {
    for channel_first in [true, false] {
        let mut world = three_accesses(60);
        for (host, end, pair) in [
            (USER, End::Local, (WWAN, 1)),
            (GATEWAY, End::Remote, (1, WWAN)),
        ] {
            let (now, to) = (world.now, index(&world, host, pair.0, pair.1));
            let engine = &mut world.hosts[host].engine;
            if channel_first {
                engine.set_channel(IkeId(1), to);
            }
            engine.forget(IkeId(1), end, IfaceId(WLAN), true, now);
            engine.set_channel(IkeId(1), to);
        }
        world.run(3 * SECOND);
        for host in [USER, GATEWAY] {
            let views = world.hosts[host].engine.views();
            let on = |p: IfacePair| match host {
                USER => p.local == IfaceId(WLAN),
                _ => p.remote == IfaceId(WLAN),
            };
            let left: Vec<_> = views.iter().filter(|v| on(v.pair)).collect();
            assert!(left.is_empty(), "host {host}, {channel_first}: {left:?}");
            assert!(views.iter().any(|v| v.channel && v.up), "host {host}");
        }
    }
}

#[test]
fn both_ends_may_lend_at_once() {
    let mut world = second_gateway_interface(59);
    world.carry(USER, USER, WLAN, WWAN);
    world.carry(GATEWAY, GATEWAY, 1, 2);
    world.run(3 * SECOND);
    for iface in [WLAN, WWAN] {
        let at = entry(&world, USER, iface, 1);
        assert_eq!(at.local, addr("100.64.0.5"));
        assert_eq!(at.remote, addr("203.0.113.2"));
        let at = entry(&world, GATEWAY, 1, iface);
        assert_eq!(at.local, addr("203.0.113.2"));
        assert_eq!(at.remote, addr("100.64.0.5"));
    }
    for host in [USER, GATEWAY] {
        assert_eq!(world.hosts[host].data_lost, 0);
        assert_eq!(downs(&world, host), []);
    }
}

/// A better interface of the gateway's that the user goes to at once; the gateway's
/// first challenges are lost. Returns when the gateway could use it.
fn gone_to_at_once(seed: u64, lost: u32) -> Duration {
    let mut world = World::new(
        seed,
        &[
            (WLAN, &["10.0.0.5"], Link::default()),
            (WWAN, &["100.64.0.5"], Link::default()),
        ],
        &[(1, &["203.0.113.1"])],
    );
    world.change(GATEWAY, 1, |iface| iface.priority = 5);
    world.run(3 * SECOND);
    for iface in [WLAN, WWAN] {
        world.link(iface).swallow = lost;
    }
    world.appear(GATEWAY, 2, &["203.0.113.2"], 0);
    let [user, gateway] = [USER, GATEWAY].map(|host| {
        let pairs = |iface| match host {
            USER => pair(iface, 2),
            _ => pair(2, iface),
        };
        let up = |world: &World, iface| {
            let views = world.hosts[host].engine.views();
            views.iter().any(|v| v.pair == pairs(iface) && v.up)
        };
        let took = world.run_until(3 * SECOND, |world| {
            for iface in [WLAN, WWAN] {
                let home = world.view(GATEWAY, 1, iface);
                let carried = home.carried_by.is_some();
                assert!(home.up && (!carried || world.view(GATEWAY, 2, iface).up));
            }
            up(world, WLAN) && up(world, WWAN)
        });
        if host == USER {
            world.carry(GATEWAY, USER, 1, 2);
        }
        took
    });
    world.run(SECOND);
    for host in [USER, GATEWAY] {
        assert_eq!(world.hosts[host].data_lost, 0, "host {host}");
        assert_eq!(downs(&world, host), []);
    }
    for (iface, home) in [(WLAN, 1), (WWAN, 1)] {
        let there = entry(&world, GATEWAY, home, iface);
        assert_eq!(there.local.ip(), ip("203.0.113.2"), "{iface}");
    }
    user + gateway
}

#[test]
fn the_peers_challenge_is_answered_and_asked_back_at_once() {
    let took = gone_to_at_once(58, 1);
    assert!(took < 90 * MS, "before the first repetition: {took:?}");
}

#[test]
fn what_is_to_be_carried_stays_until_the_carrier_has_been_tried() {
    let took = gone_to_at_once(59, 4);
    assert!(took > 100 * MS, "{took:?}");
}
