//! MIF_ADD_INTERFACE between two engines: one exchange derives the SAs of a further
//! interface, with keys of their own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use mifsec::ids::{IfaceId, IfacePair};
use mifsec::ike::config::EngineConfig;
use mifsec::ike::mif::{Features, InterfaceRecord};
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
