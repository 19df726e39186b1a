//! MIF_ADD_INTERFACE between two engines: one exchange derives the SAs of a further
//! interface, with keys of their own.

#[path = "sim_mif_add/collisions.rs"]
mod collisions;
#[path = "sim_mif_add/refusals.rs"]
mod refusals;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use mifsec::ids::{IfaceId, IfacePair};
use mifsec::ike::config::EngineConfig;
use mifsec::ike::mif::InterfaceRecord;
use mifsec::ike::selector::TrafficSelector;
use mifsec::ike::{Command, End, Event};
use mifsec_tests::sim::setup::{
    self, GATEWAY, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS, assert_agreement,
    established,
};
use mifsec_tests::sim::{A, B, Pair, ip};

const SECOND: Duration = Duration::from_secs(1);
const ETH: IfaceId = IfaceId(3);
const ETH_ADDRESS: &str = "192.0.2.30";

/// Established over the RAN, interface 0 named at both ends.
fn connected(user: EngineConfig, gateway: EngineConfig, seed: u64) -> Pair {
    let mut pair = established(user, gateway, seed);
    for (who, local, remote) in [(A, RAN, GATEWAY), (B, GATEWAY, RAN)] {
        let ike = pair.ends[who].ike();
        pair.command(who, Command::ResolveChannel { ike, local, remote });
    }
    pair
}

fn usual(seed: u64) -> Pair {
    connected(setup::user(), setup::gateway(), seed)
}

/// The end user adds an interface to its bundle.
fn add(pair: &Pair, iface: IfaceId, address: &str) -> Command {
    Command::AddInterface {
        ike: pair.ends[A].ike(),
        iface,
        remote: GATEWAY,
        local_addr: ip(address),
        remote_addr: ip(GATEWAY_ADDRESS),
        inner: Vec::new(),
        lease: false,
        bundle: true,
        from: Vec::new(),
        pfs: false,
    }
}

fn tables(pair: &mut Pair, who: usize, ifaces: &[(IfaceId, &str)]) {
    let record =
        |(id, address): &(IfaceId, &str)| -> InterfaceRecord { setup::record(*id, address) };
    let ifaces = ifaces.iter().map(record).collect();
    pair.command(who, Command::SetInterfaces { ifaces });
}

/// What was said of interfaces added at one end: whose, which, created, skipped.
fn added(pair: &Pair, who: usize) -> Vec<(End, IfaceId, usize, usize)> {
    let events = pair.ends[who].events.iter();
    events
        .filter_map(|event| match event {
            Event::InterfaceAdded {
                end,
                iface,
                created,
                skipped,
                ..
            } => Some((*end, *iface, *created, *skipped)),
            _ => None,
        })
        .collect()
}

fn refused(pair: &Pair, who: usize) -> Vec<(String, bool)> {
    let events = pair.ends[who].events.iter();
    events
        .filter_map(|event| match event {
            Event::AddRefused {
                reason, fall_back, ..
            } => Some((reason.to_string(), *fall_back)),
            _ => None,
        })
        .collect()
}

fn pairs(pair: &Pair, who: usize) -> BTreeSet<IfacePair> {
    pair.ends[who].children.values().map(|c| c.pair).collect()
}

const fn path(local: IfaceId, remote: IfaceId) -> IfacePair {
    IfacePair { local, remote }
}

#[test]
fn one_exchange_makes_the_member_of_a_further_interface() {
    mifsec_tests::covers!("R42", "R50", "R53");
    let mut pair = usual(1);
    let since = pair.log.len();
    let command = add(&pair, WLAN, WLAN_ADDRESS);
    pair.command(A, command);
    pair.run(SECOND);
    assert_eq!(pair.log.len() - since, 2, "request and response");
    assert_eq!(added(&pair, A), [(End::Local, WLAN, 1, 0)]);
    assert_eq!(added(&pair, B), [(End::Remote, WLAN, 1, 0)]);
    assert_agreement(&pair);
    assert_eq!(
        pairs(&pair, A),
        [path(WLAN, GATEWAY), path(RAN, GATEWAY)].into()
    );
    assert_eq!(
        pairs(&pair, B),
        [path(GATEWAY, WLAN), path(GATEWAY, RAN)].into()
    );
    // A copy but for path, SPIs and keys; the responder waits for the first packet.
    for who in [A, B] {
        let [template, derived] = &pair.ends[who].children.values().collect::<Vec<_>>()[..] else {
            panic!("two Child SAs");
        };
        assert_eq!(template.name, derived.name);
        assert_eq!(template.ts_local, derived.ts_local);
        assert_eq!(template.ts_remote, derived.ts_remote);
        assert_eq!(
            (template.algorithm, template.esn),
            (derived.algorithm, derived.esn)
        );
        assert_ne!(template.spi_in, derived.spi_in);
        assert_ne!(template.key_in, derived.key_in);
        assert_eq!(derived.hold, who == B);
    }
    assert!(pair.ends[A].larval.is_empty());
}

/// All three accesses announced, the bundle on WLAN and RAN.
fn three_accesses(seed: u64) -> Pair {
    let mut pair = usual(seed);
    let all = [(WLAN, WLAN_ADDRESS), (RAN, RAN_ADDRESS), (ETH, ETH_ADDRESS)];
    tables(&mut pair, A, &all);
    let command = add(&pair, WLAN, WLAN_ADDRESS);
    pair.command(A, command);
    pair.run(SECOND);
    assert_eq!(pair.a().children.len(), 2);
    pair
}

/// Of one command what differs from the usual.
fn changed(mut command: Command, change: impl FnOnce(Parts<'_>)) -> Command {
    if let Command::AddInterface {
        remote,
        remote_addr,
        inner,
        lease,
        bundle,
        from,
        pfs,
        ..
    } = &mut command
    {
        change(Parts {
            remote,
            remote_addr,
            inner,
            lease,
            bundle,
            from,
            pfs,
        });
    }
    command
}

struct Parts<'a> {
    remote: &'a mut IfaceId,
    remote_addr: &'a mut IpAddr,
    inner: &'a mut Vec<IpAddr>,
    lease: &'a mut bool,
    bundle: &'a mut bool,
    from: &'a mut Vec<IfaceId>,
    pfs: &'a mut bool,
}

#[test]
fn a_bundle_over_several_interfaces_and_one_more_is_one_sa() {
    mifsec_tests::covers!("R45", "R46", "R49");
    let mut pair = three_accesses(2);
    let since = pair.log.len();
    let command = add(&pair, ETH, ETH_ADDRESS);
    pair.command(A, command);
    pair.run(SECOND);
    assert_eq!(pair.log.len() - since, 2);
    assert_eq!(added(&pair, A).last(), Some(&(End::Local, ETH, 1, 1)));
    assert_eq!(added(&pair, B).last(), Some(&(End::Remote, ETH, 1, 1)));
    assert_eq!(pair.a().children.len(), 3);
    assert_agreement(&pair);
    // Once more: there is nothing to derive, and nothing is asked.
    let command = add(&pair, ETH, ETH_ADDRESS);
    let since = pair.log.len();
    pair.command(A, command);
    assert_eq!(added(&pair, A).last(), Some(&(End::Local, ETH, 0, 2)));
    assert_eq!(pair.log.len(), since);
}

/// End user and gateway with so many services, each with a network of its own.
fn services(count: u8) -> (EngineConfig, EngineConfig) {
    let (mut user, mut gateway) = (setup::user(), setup::gateway());
    let name = |n: u8| format!("service{n}");
    let net = |n: u8| format!("198.18.{n}.0/24");
    user.peers[0].request_v6 = false;
    user.peers[0].children = (0..count)
        .map(|n| setup::child(&name(n), &[None], &[Some(&net(n))]))
        .collect();
    gateway.peers[0].children = (0..count)
        .map(|n| setup::child(&name(n), &[Some(&net(n))], &[None]))
        .collect();
    (user, gateway)
}

/// All of them on the RAN.
fn with_services(count: u8, seed: u64) -> Pair {
    let (user, gateway) = services(count);
    let mut pair = connected(user, gateway, seed);
    let ike = pair.a().ike();
    for n in 1..count {
        let command = Command::CreateChild {
            ike,
            child: format!("service{n}"),
            pair: path(RAN, GATEWAY),
            local: ip(RAN_ADDRESS),
            remote: ip(GATEWAY_ADDRESS),
        };
        pair.command(A, command);
    }
    pair.run(SECOND);
    assert_eq!(pair.a().children.len(), usize::from(count));
    pair
}

#[test]
fn one_exchange_serves_all_services() {
    mifsec_tests::covers!("R45", "R62");
    let mut pair = with_services(5, 3);
    let since = pair.log.len();
    let command = add(&pair, WLAN, WLAN_ADDRESS);
    pair.command(A, command);
    pair.run(SECOND);
    assert_eq!(pair.log.len() - since, 2);
    assert_eq!(added(&pair, A), [(End::Local, WLAN, 5, 0)]);
    assert_agreement(&pair);
    for who in [A, B] {
        let on = |iface: IfaceId| -> BTreeSet<(String, Vec<TrafficSelector>)> {
            let children = pair.ends[who].children.values();
            let mine = children.filter(|c| c.pair.local == iface || c.pair.remote == iface);
            let far = |c: &mifsec_tests::sim::Installed| [&c.ts_local[..], &c.ts_remote].concat();
            mine.map(|c| (c.name.clone(), far(c))).collect()
        };
        if who == A {
            assert_eq!(on(WLAN).len(), 5);
            assert_eq!(on(WLAN), on(RAN));
        }
    }
}

/// Children that are no bundle, and two inner addresses of each family.
fn pinned(seed: u64) -> Pair {
    let (mut user, mut gateway) = (setup::user(), setup::gateway());
    user.peers[0].children[0].bundle = false;
    user.peers[0].inner_addresses = 2;
    gateway.peers[0].children[0].bundle = false;
    let mut pair = pair_of(user, gateway, seed);
    let leases = leases(&pair, A);
    assert_eq!(leases.len(), 4);
    let ike = pair.a().ike();
    let command = Command::CreatePinned {
        ike,
        child: "internet".into(),
        pair: path(RAN, GATEWAY),
        local: ip(RAN_ADDRESS),
        remote: ip(GATEWAY_ADDRESS),
        inner: first(&leases),
    };
    pair.command(A, command);
    pair.run(SECOND);
    assert_eq!(pair.a().children.len(), 1);
    pair
}

/// Without a Child SA from the start: whoever asks says on which address.
fn pair_of(mut user: EngineConfig, gateway: EngineConfig, seed: u64) -> Pair {
    user.peers[0].childless = true;
    connected(user, gateway, seed)
}

fn leases(pair: &Pair, who: usize) -> Vec<IpAddr> {
    let views = pair.ends[who].engine.views();
    views
        .first()
        .map(|view| view.leases.clone())
        .unwrap_or_default()
}

/// The first of each family; the second.
fn first(leases: &[IpAddr]) -> Vec<IpAddr> {
    nth(leases, 0)
}

fn nth(leases: &[IpAddr], n: usize) -> Vec<IpAddr> {
    let of = |v6: bool| leases.iter().filter(move |ip| ip.is_ipv6() == v6).nth(n);
    [of(false), of(true)]
        .into_iter()
        .flatten()
        .copied()
        .collect()
}

/// The single addresses the end user has in its selectors on a path.
fn inner_on(pair: &Pair, iface: IfaceId) -> Vec<IpAddr> {
    let children = pair.ends[A].children.values();
    let on = children.filter(|child| child.pair.local == iface);
    on.flat_map(|child| child.ts_local.iter().map(TrafficSelector::start))
        .collect()
}

#[test]
fn an_inner_address_it_has_takes_the_place_of_the_old_one() {
    mifsec_tests::covers!("R43", "R47");
    let mut pair = pinned(4);
    let leases = leases(&pair, A);
    let second = nth(&leases, 1);
    let command = changed(add(&pair, WLAN, WLAN_ADDRESS), |c| {
        *c.bundle = false;
        c.inner.clone_from(&second);
    });
    pair.command(A, command);
    pair.run(SECOND);
    assert_eq!(added(&pair, A), [(End::Local, WLAN, 1, 0)]);
    assert_eq!(inner_on(&pair, RAN), first(&leases));
    assert_eq!(inner_on(&pair, WLAN), second);
    assert_agreement(&pair);
    // From both: the second template makes what the first one made (R49).
    let all = [(WLAN, WLAN_ADDRESS), (RAN, RAN_ADDRESS), (ETH, ETH_ADDRESS)];
    tables(&mut pair, A, &all);
    let command = changed(add(&pair, ETH, ETH_ADDRESS), |c| {
        *c.bundle = false;
        *c.lease = true;
    });
    pair.command(A, command);
    pair.run(SECOND);
    assert_eq!(added(&pair, A).last(), Some(&(End::Local, ETH, 1, 1)));
    assert_eq!(added(&pair, B).last(), Some(&(End::Remote, ETH, 1, 1)));
    assert_agreement(&pair);
}

#[test]
fn an_inner_address_is_leased_in_the_same_exchange() {
    mifsec_tests::covers!("R44");
    let mut pair = pinned(5);
    let before = leases(&pair, A);
    let since = pair.log.len();
    let command = changed(add(&pair, WLAN, WLAN_ADDRESS), |c| {
        *c.bundle = false;
        *c.lease = true;
    });
    pair.command(A, command);
    pair.run(SECOND);
    assert_eq!(pair.log.len() - since, 2);
    let leased = |who: usize| {
        pair.ends[who].events.iter().find_map(|event| match event {
            Event::InterfaceAdded { leases, .. } => Some(leases.clone()),
            _ => None,
        })
    };
    let new = leased(A).unwrap();
    assert_eq!(Some(&new), leased(B).as_ref());
    assert_eq!(new.len(), 2);
    assert!(new.iter().all(|ip| !before.contains(ip)));
    assert_eq!(leases(&pair, A), [before.clone(), new.clone()].concat());
    assert_eq!(leases(&pair, B), [before, new.clone()].concat());
    assert_eq!(inner_on(&pair, WLAN), new);
    assert_agreement(&pair);
    assert!(pair.ends[A].larval.is_empty());
    // They are free again with the IKE SA: the next one has the same.
    let ike = pair.a().ike();
    pair.command(A, Command::DeleteIke { ike });
    pair.run(SECOND);
    assert_eq!(pair.ends[B].children.len(), 0);
}

#[test]
fn without_an_address_to_lease_nothing_is_made() {
    let mut user = setup::user();
    user.peers[0].children[0].bundle = false;
    let mut gateway = setup::gateway();
    gateway.peers[0].children[0].bundle = false;
    // Room for one.
    gateway.pools[0].cidr = vec![
        "10.66.0.0/30".parse().unwrap(),
        "fd66::/64".parse().unwrap(),
    ];
    user.peers[0].request_v6 = false;
    let mut pair = connected(user, gateway, 6);
    let command = changed(add(&pair, WLAN, WLAN_ADDRESS), |c| {
        *c.bundle = false;
        *c.lease = true;
    });
    pair.command(A, command);
    pair.run(SECOND);
    let [(reason, fall_back)] = &refused(&pair, A)[..] else {
        panic!("one refusal");
    };
    assert!(
        reason.contains("no inner address") && !fall_back,
        "{reason}"
    );
    assert_eq!(
        (pair.ends[A].children.len(), pair.ends[B].children.len()),
        (1, 1)
    );
    assert!(pair.ends[A].larval.is_empty());
}

#[test]
fn the_destination_is_another_interface_of_the_gateway_when_it_is_named() {
    mifsec_tests::covers!("R50");
    let second = IfaceId(2);
    let mut pair = usual(7);
    tables(
        &mut pair,
        B,
        &[(GATEWAY, GATEWAY_ADDRESS), (second, "203.0.113.2")],
    );
    pair.run(SECOND);
    let command = changed(add(&pair, WLAN, WLAN_ADDRESS), |c| {
        *c.remote = second;
        *c.remote_addr = ip("203.0.113.2");
    });
    pair.command(A, command);
    pair.run(SECOND);
    assert!(pairs(&pair, A).contains(&path(WLAN, second)));
    assert!(pairs(&pair, B).contains(&path(second, WLAN)));
    assert_agreement(&pair);
}

#[test]
fn the_listed_interfaces_say_what_is_derived_and_in_which_order() {
    mifsec_tests::covers!("R48");
    // On the WLAN one service, on the RAN both.
    let mut pair = with_services(2, 8);
    let ike = pair.a().ike();
    let command = Command::CreateChild {
        ike,
        child: "service1".into(),
        pair: path(WLAN, GATEWAY),
        local: ip(WLAN_ADDRESS),
        remote: ip(GATEWAY_ADDRESS),
    };
    pair.command(A, command);
    let all = [(WLAN, WLAN_ADDRESS), (RAN, RAN_ADDRESS), (ETH, ETH_ADDRESS)];
    tables(&mut pair, A, &all);
    pair.run(SECOND);
    let from = |pair: &Pair, list: &[IfaceId]| {
        changed(add(pair, ETH, ETH_ADDRESS), |c| c.from.extend(list))
    };
    let command = from(&pair, &[WLAN]);
    pair.command(A, command);
    pair.run(SECOND);
    assert_eq!(added(&pair, A), [(End::Local, ETH, 1, 0)]);
    assert_eq!(
        pair.ends[A].children.values().last().unwrap().name,
        "service1"
    );
    let command = from(&pair, &[RAN, WLAN]);
    pair.command(A, command);
    pair.run(SECOND);
    assert_eq!(added(&pair, A).last(), Some(&(End::Local, ETH, 1, 2)));
    assert_agreement(&pair);
}

#[test]
fn a_key_exchange_of_its_own_makes_other_keys_of_the_same_nonces() {
    let made = |pfs: bool| {
        let mut pair = usual(9);
        let command = changed(add(&pair, WLAN, WLAN_ADDRESS), |c| *c.pfs = pfs);
        pair.command(A, command);
        pair.run(SECOND);
        assert_eq!(added(&pair, A), [(End::Local, WLAN, 1, 0)]);
        assert_agreement(&pair);
    };
    made(false);
    made(true);
    // A method the gateway does not have: no.
    let mut gateway = setup::gateway();
    let only = mifsec::crypto::KeGroup::X25519;
    gateway.peers[0].ike_proposals[0].groups = vec![only];
    let mut user = setup::user();
    let other = mifsec::crypto::KeGroup::Ecp256;
    user.peers[0].esp_proposals[0].groups = vec![other];
    let mut pair = connected(user, gateway, 10);
    let command = changed(add(&pair, WLAN, WLAN_ADDRESS), |c| *c.pfs = true);
    pair.command(A, command);
    pair.run(SECOND);
    let [(reason, fall_back)] = &refused(&pair, A)[..] else {
        panic!("one refusal");
    };
    assert!(reason.contains("ESP algorithms") && *fall_back, "{reason}");
    assert_eq!(pair.ends[B].children.len(), 1);
}

#[test]
fn a_lost_response_is_repeated_and_nothing_is_made_twice() {
    let mut pair = usual(11);
    pair.hold();
    let command = add(&pair, WLAN, WLAN_ADDRESS);
    pair.command(A, command);
    let request = pair.deliver(A, &["INFORMATIONAL request"]);
    pair.lose(B, &["INFORMATIONAL response"]);
    pair.arrive(&request);
    pair.deliver(B, &["INFORMATIONAL response"]);
    pair.release();
    pair.run(SECOND);
    assert_eq!((pair.ends[A].installs, pair.ends[B].installs), (2, 2));
    assert_agreement(&pair);
}

#[test]
fn what_the_gateway_keeps_at_most_is_not_exceeded() {
    // What it announced, the end user does not ask for.
    let (user, mut gateway) = services(3);
    gateway.limits.derived = 2;
    let mut pair = connected(user, gateway, 12);
    let ike = pair.a().ike();
    for n in 1..3 {
        let command = Command::CreateChild {
            ike,
            child: format!("service{n}"),
            pair: path(RAN, GATEWAY),
            local: ip(RAN_ADDRESS),
            remote: ip(GATEWAY_ADDRESS),
        };
        pair.command(A, command);
    }
    pair.run(SECOND);
    let since = pair.log.len();
    let command = add(&pair, WLAN, WLAN_ADDRESS);
    pair.command(A, command);
    let [(reason, fall_back)] = &refused(&pair, A)[..] else {
        panic!("one refusal");
    };
    assert!(
        reason.contains("too many derived SAs") && *fall_back,
        "{reason}"
    );
    assert_eq!(pair.log.len(), since);
    // What it did not announce, it refuses.
    let (user, mut gateway) = services(3);
    gateway.limits.children = 4;
    let mut pair = connected(user, gateway, 13);
    let ike = pair.a().ike();
    for n in 1..3 {
        let command = Command::CreateChild {
            ike,
            child: format!("service{n}"),
            pair: path(RAN, GATEWAY),
            local: ip(RAN_ADDRESS),
            remote: ip(GATEWAY_ADDRESS),
        };
        pair.command(A, command);
    }
    pair.run(SECOND);
    let command = add(&pair, WLAN, WLAN_ADDRESS);
    pair.command(A, command);
    pair.run(SECOND);
    let [(reason, fall_back)] = &refused(&pair, A)[..] else {
        panic!("one refusal");
    };
    assert!(reason.contains("too many") && *fall_back, "{reason}");
    assert_eq!(
        (pair.ends[A].children.len(), pair.ends[B].children.len()),
        (3, 3)
    );
    assert!(pair.ends[A].larval.is_empty());
}

#[test]
fn a_gateway_may_add_one_of_its_own() {
    let second = IfaceId(2);
    let mut pair = usual(14);
    tables(
        &mut pair,
        B,
        &[(GATEWAY, GATEWAY_ADDRESS), (second, "203.0.113.2")],
    );
    let ike = pair.b().ike();
    let command = Command::AddInterface {
        ike,
        iface: second,
        remote: RAN,
        local_addr: ip("203.0.113.2"),
        remote_addr: ip(RAN_ADDRESS),
        inner: Vec::new(),
        lease: false,
        bundle: true,
        from: Vec::new(),
        pfs: false,
    };
    pair.command(B, command);
    pair.run(SECOND);
    assert_eq!(added(&pair, B), [(End::Local, second, 1, 0)]);
    assert_eq!(added(&pair, A), [(End::Remote, second, 1, 0)]);
    assert!(pairs(&pair, A).contains(&path(RAN, second)));
    assert_agreement(&pair);
}
