//! Inner addresses for each access (R12): who has which.
//!
//! A peer with pinned children is asked for one address of each family for every
//! access they list, in the file's order of accesses; one more, the first, if
//! other children share one. The gateway answers in the order asked, and gives the
//! n-th of an identity the same again: an access keeps its inner address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::config::{Child, Layout, Peer, Policy};
use crate::ids::{IfacePair, IkeId};
use crate::ike::Command;
use crate::path::PathView;

use super::{Agent, peer};

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

/// Whether any child of it is pinned.
pub(super) fn any(peer: &Peer) -> bool {
    peer.children.iter().any(|c| c.layout == Layout::Pinned)
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

impl Agent {
    /// Whether a child may have a Child SA of its own on this path: of a bundle on
    /// every path, of a pinned child one for each access that has an inner address.
    pub(super) fn wants_member(
        &self,
        ike: IkeId,
        peer: &peer::Peer,
        child: &Child,
        view: &PathView,
    ) -> bool {
        if child.layout == Layout::Bundle {
            return peer.bundle;
        }
        let access = |iface| self.accesses.iface(iface).map(|l| l.access);
        let there = self.children.values().any(|c| {
            c.ike == ike
                && c.name == child.name
                && !c.retired
                && access(c.pair.local) == Some(view.access)
        });
        let settings = &self.config.peers[peer.config];
        let inner = of_access(settings, &peer.leases, usize::from(view.access.0));
        !there && !inner.is_empty()
    }

    /// The command for a Child SA on a path, with the inner addresses it is to have.
    pub(super) fn create_child(
        &self,
        ike: IkeId,
        child: String,
        pair: IfacePair,
        (local, remote): (IpAddr, IpAddr),
    ) -> Command {
        match self.inner_of(ike, &child, pair) {
            Some(inner) => Command::CreatePinned {
                ike,
                child,
                pair,
                local,
                remote,
                inner,
            },
            None => Command::CreateChild {
                ike,
                child,
                pair,
                local,
                remote,
            },
        }
    }

    /// Which of our leases a child has on a path; `None` is all of them.
    fn inner_of(&self, ike: IkeId, child: &str, pair: IfacePair) -> Option<Vec<IpAddr>> {
        let peer = self.peers.get(&ike).filter(|p| p.mif)?;
        let settings = &self.config.peers[peer.config];
        let layout = settings.children.iter().find(|c| c.name == child)?.layout;
        if !any(settings) {
            return None;
        }
        if layout == Layout::Bundle {
            return Some(of_bundle(&peer.leases));
        }
        let access = self.accesses.iface(pair.local)?.access;
        Some(of_access(settings, &peer.leases, usize::from(access.0)))
    }
}
