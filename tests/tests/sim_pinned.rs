//! One inner address for each access (R12), between two engines in virtual time.

use std::net::IpAddr;
use std::time::Duration;

use mifsec::ids::{IfaceId, IfacePair};
use mifsec::ike::Command;
use mifsec::ike::config::EngineConfig;
use mifsec_tests::covers;
use mifsec_tests::sim::setup::{
    self, GATEWAY, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS, assert_agreement,
    established,
};
use mifsec_tests::sim::{A, B, Pair, ip};

const SECOND: Duration = Duration::from_secs(1);

/// Asks for so many addresses of each family.
fn user(count: usize) -> EngineConfig {
    let mut user = setup::user();
    let peer = &mut user.peers[0];
    peer.inner_addresses = count;
    peer.childless = true;
    peer.children[0].bundle = false;
    user
}

fn leases(pair: &Pair, who: usize) -> Vec<IpAddr> {
    pair.ends[who].engine.views()[0].leases.clone()
}

/// A pinned Child SA on one of the accesses.
fn pinned(pair: &mut Pair, iface: IfaceId, inner: Vec<IpAddr>) {
    let local = if iface == WLAN {
        WLAN_ADDRESS
    } else {
        RAN_ADDRESS
    };
    let ike = pair.a().ike();
    let command = Command::CreatePinned {
        ike,
        child: "internet".into(),
        pair: IfacePair {
            local: iface,
            remote: GATEWAY,
        },
        local: ip(local),
        remote: ip(GATEWAY_ADDRESS),
        inner,
    };
    pair.command(A, command);
    pair.run(SECOND);
}

/// (interface, inner addresses) of every Child SA at the end user.
fn selectors(pair: &Pair) -> Vec<(IfaceId, Vec<IpAddr>)> {
    let mut out: Vec<_> = pair.ends[A]
        .children
        .values()
        .map(|c| {
            (
                c.pair.local,
                c.ts_local.iter().map(|ts| ts.start()).collect(),
            )
        })
        .collect();
    out.sort();
    out
}

/// The n-th address of each family.
fn of_place(leases: &[IpAddr], place: usize) -> Vec<IpAddr> {
    let of = |v6| leases.iter().filter(move |l| l.is_ipv6() == v6).nth(place);
    [of(false), of(true)]
        .into_iter()
        .flatten()
        .copied()
        .collect()
}

#[test]
fn one_cp_leases_an_address_of_each_family_for_every_access() {
    covers!("R12");
    let mut pair = established(user(2), setup::gateway(), 7);
    let leased = leases(&pair, A);
    assert_eq!(leased.len(), 4, "two of each family: {leased:?}");
    assert_eq!(leases(&pair, B), leased);
    assert!(
        pair.ends[A].children.is_empty(),
        "none with all of them in it"
    );
    pinned(&mut pair, RAN, of_place(&leased, 0));
    pinned(&mut pair, WLAN, of_place(&leased, 1));
    assert_agreement(&pair);
    let mut expected = vec![(RAN, of_place(&leased, 0)), (WLAN, of_place(&leased, 1))];
    expected.sort();
    assert_eq!(selectors(&pair), expected);
    // The same again, to the same identity, whoever forgot it in between.
    let ike = pair.a().ike();
    pair.command(A, Command::DeleteIke { ike });
    pair.run(SECOND);
    setup::connect(&mut pair);
    pair.run(SECOND);
    assert_eq!(leases(&pair, A), leased);
    let other = established(user(2), setup::gateway(), 8);
    assert_eq!(leases(&other, A), leased, "another gateway process");
}

#[test]
fn new_keys_and_a_new_child_sa_keep_the_inner_address() {
    let mut pair = established(user(2), setup::gateway(), 7);
    let leased = leases(&pair, A);
    pinned(&mut pair, RAN, of_place(&leased, 0));
    pinned(&mut pair, WLAN, of_place(&leased, 1));
    let before = selectors(&pair);
    let ike = pair.a().ike();
    let ids: Vec<_> = pair.ends[A].children.keys().copied().collect();
    for child in ids {
        pair.command(A, Command::RekeyChild { child });
    }
    pair.run(10 * SECOND);
    assert_eq!(selectors(&pair), before, "rekeyed");
    pair.command(A, Command::RekeyIke { ike });
    pair.run(10 * SECOND);
    assert_eq!(leases(&pair, A), leased, "IKE SA rekeyed");
    let ids: Vec<_> = pair.ends[A].children.keys().copied().collect();
    for child in ids {
        pair.command(A, Command::ExpireChild { child });
    }
    pair.run(10 * SECOND);
    assert_eq!(selectors(&pair), before, "made anew");
    assert_agreement(&pair);
}

#[test]
fn an_inner_address_of_somebody_else_is_not_to_be_had() {
    let mut pair = established(user(2), setup::gateway(), 7);
    // Of the pool, but nobody leased it to this subscriber.
    pinned(&mut pair, RAN, vec![ip("10.66.77.77")]);
    assert!(pair.ends[A].children.is_empty() && pair.ends[B].children.is_empty());
    let failures = pair.ends[A].failures();
    assert_eq!(failures.len(), 1, "{failures:?}");
    // Beside one of its own it is cut away.
    let own = of_place(&leases(&pair, A), 0)[0];
    pinned(&mut pair, WLAN, vec![own, ip("10.66.77.77")]);
    assert_eq!(selectors(&pair), [(WLAN, vec![own])]);
    assert_agreement(&pair);
}

#[test]
fn nobody_gets_more_addresses_than_the_bound() {
    let pair = established(user(1000), setup::gateway(), 7);
    let most = mifsec::ike::lease::MAX_LEASES;
    assert_eq!(leases(&pair, A).len(), 2 * most);
    assert_eq!(leases(&pair, B).len(), 2 * most);
    let distinct: std::collections::BTreeSet<_> = leases(&pair, B).into_iter().collect();
    assert_eq!(distinct.len(), 2 * most);
}

#[test]
fn a_small_pool_gives_what_it_has() {
    let mut gateway = setup::gateway();
    gateway.pools[0].cidr = vec![
        "10.66.0.0/30".parse().unwrap(),
        "fd66::/64".parse().unwrap(),
    ];
    let pair = established(user(2), gateway, 7);
    let leased = leases(&pair, A);
    assert_eq!(leased.iter().filter(|l| l.is_ipv4()).count(), 1);
    assert_eq!(leased.iter().filter(|l| l.is_ipv6()).count(), 2);
}
