//! Peers with `start = "trap"`: connected when the first packet for them comes.
//!
//! Their selectors lead into the TUN and the guard protects them before anything
//! stands, so the packet is caught and nothing leaves in clear. Where the address
//! to send from is a lease, there is none yet: until then the host sends from an
//! address that is nobody's. What comes is dropped and counted `trapped`; the
//! agent is told and connects. When the IKE SA ends, or no way leads to the peer,
//! the next packet is waited for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::IpNet;
use mifsec_common::steering;

use crate::config::{Peer, Policy, Start, Ts};
use crate::dataplane::{Bundle, Selector};

use super::Agent;
use super::retry::Progress;
use super::spd::{self, Entry, Place};

/// The IPv4 dummy address (RFC 7600 4.8): a source that never answers.
const DUMMY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8));
/// Of the discard prefix (RFC 6666), which routers drop.
const DUMMY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1));

/// What a host sends from to a peer that has yet to lease it an address.
pub(super) fn placeholders(peer: &Peer) -> Vec<IpAddr> {
    let families = [(peer.request_v4, DUMMY_V4), (peer.request_v6, DUMMY_V6)];
    let asked = families.into_iter().filter(|(asked, _)| *asked);
    asked.map(|(_, address)| address).collect()
}

/// What a peer is wanted for, with its place among the bundles; `index` is its
/// place in the configuration. A packet for a lease to come may have any source:
/// it is caught when no bundle for as much takes it.
fn traps(index: usize, peer: &Peer, entries: &[Entry]) -> impl Iterator<Item = (Place, Bundle)> {
    let protected = (0..).zip(&peer.children);
    let protected = protected.filter(|(_, child)| child.policy == Policy::Protect);
    protected.flat_map(move |(order, child)| {
        let dynamic = child.local_ts.iter().any(|ts| ts.net.is_none());
        let bundle = Bundle {
            local: child.local_ts.iter().flat_map(selectors).collect(),
            remote: child
                .remote_ts
                .iter()
                .filter(|ts| ts.net.is_some())
                .flat_map(selectors)
                .collect(),
            members: Vec::new(),
            table: [steering::NO_MEMBER; steering::BUCKETS],
            trap: Some(index),
            discard: false,
        };
        let config = if dynamic { usize::MAX } else { index };
        // Without a prefix there is nothing to wait for.
        let parts = spd::split(bundle).into_iter();
        let parts = parts.filter(|part| !part.remote.is_empty());
        parts.map(move |part| {
            let mut rank = spd::rank(entries, (index, order), child.order, &part);
            if dynamic {
                rank.0 = spd::last_like(entries, rank.0);
            }
            ((rank, config, order, false), part)
        })
    })
}

/// A lease may be any address.
fn selectors(ts: &Ts) -> Vec<Selector> {
    let nets = match ts.net {
        Some(net) => vec![net],
        None => vec![
            IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
            IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
        ],
    };
    let selector = |net: &IpNet| Selector {
        addresses: net.network()..=net.broadcast(),
        protocol: ts.protocol,
        ports: ts.ports.0..=ts.ports.1,
    };
    nets.iter().map(selector).collect()
}

impl Agent {
    /// What the data plane tells of: whatever is for a peer that does not stand.
    pub(super) fn traps(&self, entries: &[Entry]) -> Vec<(Place, Bundle)> {
        let peers = self.config.peers.iter().zip(&self.retries).enumerate();
        peers
            .filter(|(_, (peer, _))| peer.start == Start::Trap)
            .filter(|(_, (_, retry))| !matches!(retry.progress, Progress::Up(_)))
            .flat_map(|(index, (peer, _))| traps(index, peer, entries))
            .collect()
    }

    /// There is a packet for a peer.
    pub(super) fn wanted(&mut self, index: usize, now: Instant) {
        let Some(retry) = self.retries.get_mut(index) else {
            return;
        };
        if retry.wanted(now) {
            let peer = &self.config.peers[index].name;
            tracing::info!(peer, "there is a packet for it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::network::tests::{LAPTOP, config};
    use super::*;

    #[test]
    fn a_peer_is_wanted_for_its_remote_selectors_from_the_address_it_will_lease() {
        let text = LAPTOP.replace("addresses", "start = \"trap\"\naddresses");
        let config = config(&text, "wanted");
        let entries = spd::entries(&config);
        let mut traps: Vec<_> = traps(0, &config.peers[0], &entries).collect();
        traps.sort_by_key(|(rank, _)| *rank);
        let after = |(rank, _): &(Place, Bundle)| rank.1 == usize::MAX;
        assert!(traps.iter().all(after), "what can be sent for as much");
        let remote = |(_, trap): &(Place, Bundle)| trap.remote.iter().map(first).collect();
        let remote: Vec<String> = traps.iter().flat_map(|t| -> Vec<_> { remote(t) }).collect();
        assert_eq!(remote, ["10.0.0.0", "0.0.0.0"], "each in its place");
        let (_, trap) = &traps[0];
        assert_eq!(trap.trap, Some(0));
        let local: Vec<String> = trap.local.iter().map(first).collect();
        assert_eq!(local, ["0.0.0.0", "::"], "whatever the host sends from");
        assert_eq!(placeholders(&config.peers[0]), [DUMMY_V4]);
    }

    #[test]
    fn a_peer_with_prefixes_of_its_own_is_wanted_for_these_in_its_turn() {
        let text = LAPTOP
            .replace("addresses = [\"ipv4\"]", "start = \"trap\"")
            .replace("remote_ts", "local_ts = [\"10.1.0.0/16\"]\nremote_ts");
        let config = config(&text, "turn");
        let entries = spd::entries(&config);
        let traps: Vec<_> = traps(0, &config.peers[0], &entries).collect();
        let (rank, trap) = &traps[0];
        assert_eq!((rank.1, trap.trap), (0, Some(0)));
        let local: Vec<String> = trap.local.iter().map(first).collect();
        assert_eq!(local, ["10.1.0.0"]);
        assert!(placeholders(&config.peers[0]).is_empty());
    }

    fn first(selector: &Selector) -> String {
        selector.addresses.start().to_string()
    }
}
