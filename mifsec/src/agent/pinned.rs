//! Inner addresses for each access (R12): who has which.
//!
//! A peer with pinned children is asked for one address of each family for every
//! access they list, in the file's order of accesses; one more, the first, if
//! other children share one. The gateway answers in the order asked, and gives the
//! n-th of an identity the same again: an access keeps its inner address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::config::{Layout, Peer, Policy};

/// Accesses with an inner address of their own, in the file's order.
fn accesses(peer: &Peer) -> BTreeSet<usize> {
    let pinned = peer.children.iter().filter(|c| c.layout == Layout::Pinned);
    pinned.flat_map(|c| c.accesses.iter().copied()).collect()
}

/// Whether some child shares one inner address over all accesses.
fn shared(peer: &Peer) -> bool {
    peer.children.iter().any(|c| {
        c.layout == Layout::Bundle
            && c.policy == Policy::Protect
            && c.local_ts.iter().any(|ts| ts.net.is_none())
    })
}

/// Inner addresses to ask for, of each family.
pub(super) fn count(peer: &Peer) -> usize {
    (accesses(peer).len() + usize::from(shared(peer))).max(1)
}

/// The `place`-th address of each family.
fn at(leases: &[IpAddr], place: usize) -> Vec<IpAddr> {
    let of = |v6: bool| leases.iter().filter(move |l| l.is_ipv6() == v6).nth(place);
    [of(false), of(true)]
        .into_iter()
        .flatten()
        .copied()
        .collect()
}

/// The inner addresses of an access; none if the gateway leased fewer than asked.
pub(super) fn of_access(peer: &Peer, leases: &[IpAddr], access: usize) -> Vec<IpAddr> {
    let place = accesses(peer).iter().position(|a| *a == access);
    place.map_or_else(Vec::new, |place| {
        at(leases, place + usize::from(shared(peer)))
    })
}

/// The inner addresses children of layout `bundle` share.
pub(super) fn of_bundle(leases: &[IpAddr]) -> Vec<IpAddr> {
    at(leases, 0)
}
