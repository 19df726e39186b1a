//! Setting up IKE SAs and Child SAs over good and bad links.

use std::time::Duration;

use mifsec::ids::{IfaceId, IfacePair};
use mifsec::ike::{Command, Event};
use mifsec_tests::sim::setup::{
    self, GATEWAY, RAN, WLAN, assert_agreement, connect, established, second_member,
};
use mifsec_tests::sim::{A, B, Link};

#[test]
fn two_peers_agree_on_keys_selectors_leases_and_tables() {
    mifsec_tests::covers!("R10", "R13", "R14", "R15", "R17", "R21", "R73");
    let mut pair = established(setup::user(), setup::gateway(), 1);
    assert_agreement(&pair);
    assert_eq!(pair.a().children.len(), 1);
    let leases = |events: &[Event]| {
        events.iter().find_map(|event| match event {
            Event::Established { leases, mif, .. } => Some((leases.clone(), mif.is_some())),
            _ => None,
        })
    };
    let (ours, mif) = leases(&pair.ends[A].events).unwrap();
    assert_eq!(leases(&pair.ends[B].events).unwrap(), (ours.clone(), mif));
    assert!(mif);
    assert_eq!(ours.len(), 2, "one per family: {ours:?}");
    for end in &pair.ends {
        let tables = end
            .events
            .iter()
            .filter(|e| matches!(e, Event::PeerInterfaces { .. }));
        assert_eq!(tables.count(), 1);
    }
    assert!(pair.ends[A].failures().is_empty());
    let member = pair.a().children.values().next().unwrap().clone();
    assert_eq!(
        member.pair,
        IfacePair {
            local: RAN,
            remote: IfaceId::CHANNEL
        }
    );
    assert!(!member.hold, "the initiator may send at once");

    let ike = pair.a().ike();
    pair.command(A, second_member(ike));
    pair.run(Duration::from_secs(1));
    assert_agreement(&pair);
    assert_eq!(pair.a().children.len(), 2);
    let second = pair.b().children.values().last().unwrap();
    assert_eq!(
        second.pair,
        IfacePair {
            local: GATEWAY,
            remote: WLAN
        }
    );
    assert!(second.hold, "the responder waits for the first packet");
}

#[test]
fn a_host_of_many_interfaces_and_addresses_connects_in_datagrams_of_one_packet() {
    let mut pair = setup::pair(setup::user(), setup::gateway(), 1);
    // An address of the peer's own would be left out.
    for (who, address) in [(A, "2001:db8::1"), (B, "2001:db8::2")] {
        let mut ifaces: Vec<_> = (3..20)
            .map(|id| setup::record(IfaceId(id), address))
            .collect();
        for iface in &mut ifaces {
            iface.addresses = vec![iface.addresses[0]; 8];
        }
        pair.command(who, Command::SetInterfaces { ifaces });
    }
    connect(&mut pair);
    // Every message sent is measured by the harness.
    pair.run(Duration::from_secs(1));
    for end in &mut pair.ends {
        assert_eq!(end.established().len(), 1);
        assert_eq!(end.count("ike_oversize_sent"), 0);
        // 17 interfaces of 8 addresses: more than the peer keeps, else all of them.
        let ifaces = end.events.iter().find_map(|event| match event {
            Event::PeerInterfaces { ifaces, .. } => Some(ifaces),
            _ => None,
        });
        let ifaces = ifaces.expect("the peer's table");
        assert!(ifaces.len() > 8);
        assert!(ifaces.iter().all(|iface| iface.addresses.len() == 8));
    }
}

#[test]
fn thousands_of_handshakes_over_bad_links_converge() {
    for seed in 0..2_000 {
        let mut pair = setup::pair(setup::user(), setup::gateway(), seed);
        let bad = Link {
            loss: 0.2,
            duplicate: 0.2,
            jitter: Duration::from_millis(80),
            ..Link::default()
        };
        pair.links = [bad; 2];
        connect(&mut pair);
        let up = pair.run_until(Duration::from_secs(200), |pair| {
            pair.ends.iter().all(|end| !end.established().is_empty())
        });
        assert!(up, "seed {seed}: {:?}", pair.ends[A].failures());
        let ike = pair.a().ike();
        pair.command(A, second_member(ike));
        pair.run(Duration::from_secs(200));
        assert_eq!(pair.a().children.len(), 2, "seed {seed}");
        assert_agreement(&pair);
    }
}
