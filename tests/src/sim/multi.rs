//! The usual two with more interfaces: the end user gets an Ethernet at run time,
//! the gateway has a second address. Commands of the multiple-interface
//! operations, and what both ends must agree on after any of them.

use std::collections::BTreeSet;
use std::time::Duration;

use mifsec::ids::{IfaceId, IfacePair, IkeId};
use mifsec::ike::{Command, End};

use super::setup::{
    self, GATEWAY, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS, established,
};
use super::{A, B, Pair, ip};

/// The end user's Ethernet.
pub const ETH: IfaceId = IfaceId(3);
/// The gateway's other interface.
pub const GATEWAY2: IfaceId = IfaceId(2);

/// The end user's address on its Ethernet.
pub const ETH_ADDRESS: &str = "192.0.2.140";
/// The gateway's address on its other interface.
pub const GATEWAY2_ADDRESS: &str = "203.0.113.2";

/// Address of an interface.
#[must_use]
pub fn address(who: usize, iface: IfaceId) -> &'static str {
    match (who, iface) {
        (A, WLAN) => WLAN_ADDRESS,
        (A, RAN) => RAN_ADDRESS,
        (A, _) => ETH_ADDRESS,
        (_, GATEWAY) => GATEWAY_ADDRESS,
        (_, _) => GATEWAY2_ADDRESS,
    }
}

/// An end's complete table.
#[must_use]
pub fn table(who: usize, ifaces: &[IfaceId]) -> Command {
    let record = |iface: &IfaceId| setup::record(*iface, address(who, *iface));
    Command::SetInterfaces {
        ifaces: ifaces.iter().map(record).collect(),
    }
}

/// Connected over the RAN; a bundle over WLAN and RAN to the gateway's first
/// address. All interfaces of both ends are announced.
///
/// # Panics
/// When that does not come up.
#[must_use]
pub fn pair(seed: u64) -> Pair {
    let pair = two(established(setup::user(), setup::gateway(), seed));
    assert_eq!(pair.ends[A].children.len(), 2);
    pair
}

/// As [`pair`] around an established one: the second member, and all interfaces.
#[must_use]
pub fn two(mut pair: Pair) -> Pair {
    for link in &mut pair.links {
        *link = super::Link::default();
    }
    let ike = pair.ends[A].ike();
    pair.command(A, setup::second_member(ike));
    pair.command(B, table(B, &[GATEWAY, GATEWAY2]));
    pair.command(A, table(A, &[WLAN, RAN, ETH]));
    pair.command(
        A,
        Command::ResolveChannel {
            ike,
            local: RAN,
            remote: GATEWAY,
        },
    );
    let theirs = pair.ends[B].ike();
    pair.command(
        B,
        Command::ResolveChannel {
            ike: theirs,
            local: GATEWAY,
            remote: RAN,
        },
    );
    pair.run(Duration::from_secs(2));
    pair
}

/// The command's IKE SA at an end.
#[must_use]
pub fn ike(pair: &Pair, who: usize) -> IkeId {
    pair.ends[who].ike()
}

/// `iface` of `end`, as `who` sees it, is carried by `by`.
#[must_use]
pub fn carry(pair: &Pair, who: usize, end: End, iface: IfaceId, by: IfaceId) -> Command {
    let owner = if end == End::Local { who } else { 1 - who };
    Command::Carry {
        ike: ike(pair, who),
        end,
        iface,
        by,
        old: ip(address(owner, iface)),
        new: ip(address(owner, by)),
        old_is_dead: true,
        grace: Duration::ZERO,
        channel: None,
    }
}

/// An interface of `who` has another address.
#[must_use]
pub fn readdress(pair: &Pair, who: usize, iface: IfaceId, new: &str) -> Command {
    Command::UpdateAddresses {
        ike: ike(pair, who),
        old_iface: iface,
        new_iface: iface,
        old: ip(address(who, iface)),
        new: ip(new),
        behind_nat: false,
        old_is_dead: false,
        grace: Duration::from_millis(500),
        channel: None,
    }
}

/// `who` adds `iface`, its SAs go to the other end's `remote`.
#[must_use]
pub fn add(pair: &Pair, who: usize, iface: IfaceId, remote: IfaceId) -> Command {
    Command::AddInterface {
        ike: ike(pair, who),
        iface,
        remote,
        local_addr: ip(address(who, iface)),
        remote_addr: ip(address(1 - who, remote)),
        inner: Vec::new(),
        lease: false,
        bundle: true,
        from: Vec::new(),
        pfs: false,
    }
}

/// `who` deletes `iface`.
#[must_use]
pub fn delete(pair: &Pair, who: usize, iface: IfaceId) -> Command {
    Command::DeleteInterface {
        ike: ike(pair, who),
        iface,
        outer: true,
        ts: false,
        move_first: false,
    }
}

/// What carries interfaces that Child SAs are at home on, at an end: (whose,
/// interface, carrier).
#[must_use]
pub fn carried(pair: &Pair, who: usize) -> BTreeSet<(usize, IfaceId, IfaceId)> {
    let Some(ike) = pair.ends[who].established().first().copied() else {
        return BTreeSet::new();
    };
    let homes: BTreeSet<_> = paths(pair, who)
        .into_iter()
        .flat_map(|(user, gateway)| [(A, user), (B, gateway)])
        .collect();
    let owner = |end| if end == End::Local { who } else { 1 - who };
    let carried = pair.ends[who].engine.carried(ike).into_iter();
    carried
        .map(|(end, iface, by)| (owner(end), iface, by))
        .filter(|(owner, iface, _)| homes.contains(&(*owner, *iface)))
        .collect()
}

/// The paths of an end's Child SAs, the end user's interface first.
#[must_use]
pub fn paths(pair: &Pair, who: usize) -> Vec<(IfaceId, IfaceId)> {
    let turned = |path: IfacePair| match who {
        A => (path.local, path.remote),
        _ => (path.remote, path.local),
    };
    let children = pair.ends[who].children.values();
    let mut paths: Vec<_> = children.map(|child| turned(child.pair)).collect();
    paths.sort();
    paths
}

/// What must hold when nothing is under way: both ends have the same Child SAs on
/// the same paths and say the same of who carries whom, and hold no SPI for nothing.
///
/// # Panics
/// When it does not.
pub fn assert_converged(pair: &Pair) {
    setup::assert_agreement(pair);
    assert_eq!(paths(pair, A), paths(pair, B), "the same paths");
    assert_eq!(carried(pair, A), carried(pair, B), "the same carriers");
    for end in &pair.ends {
        assert!(end.larval.is_empty(), "an SPI is held for nothing");
        assert_eq!(end.engine.views().len(), 1, "one IKE SA");
    }
    let spis = |who: usize| {
        let view = pair.ends[who].engine.views().into_iter().next();
        view.map(|view| (view.spi_i, view.spi_r))
    };
    assert_eq!(spis(A), spis(B), "the same IKE SA");
}
