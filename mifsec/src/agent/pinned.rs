//! Inner addresses for each access (R12): who has which.
//!
//! A peer with pinned children is asked for one address of each family for every
//! access they list, in the file's order of accesses; one more, the first, if
//! other children share one. The gateway answers in the order asked, and gives the
//! n-th of an identity the same again: an access keeps its inner address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::json;

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

/// Accesses that lack an inner address because the gateway leased fewer than asked.
pub(super) fn without(peer: &Peer, leases: &[IpAddr]) -> Vec<usize> {
    let wanted = usize::from(peer.request_v4) + usize::from(peer.request_v6);
    let lacks = |access: &usize| of_access(peer, leases, *access).len() < wanted;
    accesses(peer).into_iter().filter(lacks).collect()
}

/// The inner addresses children of layout `bundle` share.
pub(super) fn of_bundle(leases: &[IpAddr]) -> Vec<IpAddr> {
    at(leases, 0)
}

impl Agent {
    /// Says which accesses an established peer left without inner address.
    pub(super) fn check_leases(&mut self, config: usize, leases: &[IpAddr]) {
        let peer = &self.config.peers[config];
        let names: Vec<&str> = without(peer, leases)
            .iter()
            .filter_map(|access| self.config.accesses.get(*access))
            .map(|access| access.interface.as_str())
            .collect();
        if names.is_empty() {
            return;
        }
        let names = names.join(", ");
        let reason = format!("the gateway leased too few inner addresses: none for {names}");
        let name = peer.name.clone();
        tracing::warn!(peer = name, accesses = names, "too few inner addresses");
        self.tell("alert", &[("peer", json!(name)), ("reason", json!(reason))]);
    }

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

#[cfg(test)]
mod tests {
    use super::super::network::tests::{LAPTOP, config};
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn each_access_has_the_address_of_its_place_of_each_family() {
        let text = LAPTOP.replace("name = \"all\"", "name = \"all\"\nlayout = \"pinned\"");
        let pinned = config(&text, "pinned");
        let peer = &pinned.peers[0];
        assert_eq!(count(peer), 2);
        let leases = ips(&["10.66.0.7", "10.66.0.9", "fd66::7", "fd66::9"]);
        assert_eq!(of_access(peer, &leases, 0), ips(&["10.66.0.7", "fd66::7"]));
        assert_eq!(of_access(peer, &leases, 1), ips(&["10.66.0.9", "fd66::9"]));
        // The gateway had one of each family less to give.
        let fewer = ips(&["10.66.0.7", "fd66::7"]);
        assert_eq!(of_access(peer, &fewer, 1), ips(&[]));
        assert_eq!(without(peer, &fewer), [1]);
        assert_eq!(without(peer, &leases), [0; 0]);
    }

    #[test]
    fn a_child_that_shares_its_address_has_the_first() {
        let text = LAPTOP.replace(
            "name = \"all\"",
            "name = \"one\"\nlayout = \"pinned\"\naccesses = [\"wwan0\"]\nremote_ts = [\"192.0.2.0/24\"]\n\
             [[peer.child]]\nname = \"all\"",
        );
        let both = config(&text, "pinned-shared");
        let peer = &both.peers[0];
        assert_eq!(count(peer), 2, "wwan0 alone is pinned");
        let leases = ips(&["10.66.0.7", "10.66.0.9"]);
        assert_eq!(of_bundle(&leases), ips(&["10.66.0.7"]));
        assert_eq!(of_access(peer, &leases, 1), ips(&["10.66.0.9"]));
        assert_eq!(of_access(peer, &leases, 0), ips(&[]));
        let plain = config(LAPTOP, "not-pinned");
        assert_eq!(count(&plain.peers[0]), 1);
        assert!(any(peer) && !any(&plain.peers[0]));
    }
}
