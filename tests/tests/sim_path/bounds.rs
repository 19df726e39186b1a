//! What a peer that keeps the protocol but means no good can not do.

use mifsec::path::timing::{ANNOUNCED_ALLOWANCE, MAX_REMOTE_IFACES, REFILL};
use mifsec::path::{LinkClass, RemoteIface};

use super::*;

fn iface(id: u16, address: &str) -> RemoteIface {
    RemoteIface {
        id: IfaceId(id),
        state: IfaceState::Up,
        class: LinkClass(1),
        priority: 0,
        weight: 50,
        mtu: 1500,
        addresses: vec![RemoteAddr {
            ip: ip(address),
            port: 0,
            behind_nat: address.starts_with("10."),
        }],
    }
}

fn honest() -> Vec<RemoteIface> {
    vec![iface(WLAN, "10.0.0.5"), iface(WWAN, "100.64.0.5")]
}

/// Sends the gateway a table of the user's.
fn announce(world: &mut World, ifaces: Vec<RemoteIface>) {
    let now = world.now;
    world.hosts[GATEWAY]
        .engine
        .set_remote(world::IKE, ifaces, now);
    world.run(5 * MS);
}

fn stranger_gets_a_path(world: &mut World) {
    let now = world.now;
    let params = PeerParams {
        initiator: false,
        probes: true,
        behind_nat: false,
        channel: Channel {
            local: IfaceId(1),
            local_addr: addr("203.0.113.1"),
            remote_addr: addr("198.18.0.1"),
        },
    };
    let engine = &mut world.hosts[GATEWAY].engine;
    engine.add_peer(IkeId(2), params, now);
    assert!(engine.views().iter().any(|view| view.ike == IkeId(2)));
}

#[test]
fn interfaces_that_come_and_go_use_up_nothing() {
    let mut world = settled(30);
    world.signalling = false;
    let victim = "192.0.2.66";
    let begin = world.now;
    for id in 100..400 {
        let mut table = honest();
        table.push(iface(id, victim));
        announce(&mut world, table);
        let count = world.hosts[GATEWAY].engine.views().len();
        assert!(count <= 3, "{count} paths");
    }
    let grown = ((world.now - begin).as_secs() / REFILL.as_secs() + 1) * PROBE_LEN as u64;
    let octets = world.hosts[GATEWAY].octets_to(addr(victim));
    assert!(octets > 0);
    assert!(
        octets <= ANNOUNCED_ALLOWANCE + grown,
        "{octets} octets to the victim"
    );
    assert!(both_up(&world));
    stranger_gets_a_path(&mut world);
}

#[test]
fn the_ports_of_a_victim_have_one_allowance() {
    let mut world = settled(31);
    world.signalling = false;
    let victim = "192.0.2.66";
    for port in 1..100 {
        let mut table = honest();
        table.push(iface(100, victim));
        table[2].addresses[0].port = port;
        announce(&mut world, table);
    }
    let octets: u64 = (1..100)
        .map(|port| std::net::SocketAddr::new(ip(victim), port))
        .map(|remote| world.hosts[GATEWAY].octets_to(remote))
        .sum();
    assert!(
        octets <= ANNOUNCED_ALLOWANCE,
        "{octets} octets to the victim"
    );
}

#[test]
fn one_peers_table_does_not_fill_the_maps() {
    let mut world = settled(32);
    world.signalling = false;
    let mut table = honest();
    table.extend((100..300).map(|id| iface(id, "192.0.2.66")));
    announce(&mut world, table);
    let count = world.hosts[GATEWAY].engine.views().len();
    assert!(
        (3..=2 * MAX_REMOTE_IFACES).contains(&count),
        "{count} paths"
    );
    assert!(world.hosts[GATEWAY].engine.counters()["path_table_limit"] > 0);
    stranger_gets_a_path(&mut world);
}

#[test]
fn interfaces_that_answer_and_go_make_room() {
    let mut world = settled(33);
    world.signalling = false;
    // The peer renumbers one interface again and again, and answers as each.
    for id in 100..200 {
        let table = vec![iface(WLAN, "10.0.0.5"), iface(id, "100.64.0.5")];
        announce(&mut world, table);
        world.run(100 * MS);
        let views = world.hosts[GATEWAY].engine.views();
        let new = views.iter().find(|view| view.pair.remote == IfaceId(id));
        assert!(new.is_some_and(|view| view.validated), "{id}");
        assert!(
            views.len() <= 2 * MAX_REMOTE_IFACES,
            "{} paths",
            views.len()
        );
    }
    stranger_gets_a_path(&mut world);
}

#[test]
fn a_challenge_that_came_in_elsewhere_is_not_answered() {
    let mut world = settled(34);
    world.data = false;
    world.run(30 * SECOND);
    let sequence = world.take_sequence(USER);
    let mut arrival = at_gateway("100.64.0.5");
    arrival.ifindex += 1;
    let before = world.hosts[GATEWAY].probes_sent;
    let bytes = challenge(77, "100.64.0.5");
    world.probe(GATEWAY, arrival, sequence, &bytes);
    assert_eq!(world.hosts[GATEWAY].probes_sent, before);
    let counters = world.hosts[GATEWAY].engine.counters();
    assert_eq!(counters["path_probe_interface"], 1);
}
