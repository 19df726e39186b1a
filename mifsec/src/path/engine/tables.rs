//! Which paths exist, which are home, and what the IKE channel's is called.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Engine, INDEX_REST, Peer};
use crate::ids::{Arrival, Family, IfaceId, IfacePair, IkeId, PathIndex};
use crate::path::candidates::Rank;
use crate::path::home::{self, homes};
use crate::path::state::{Key, Path};
use crate::path::types::Event;

impl Engine {
    /// Makes a peer's paths what the tables say: creates what is missing,
    /// decides on homes, tells.
    pub(super) fn settle_peer(&mut self, ike: IkeId, now: Instant) {
        let Some(mut peer) = self.peers.remove(&ike) else {
            return;
        };
        self.create_missing(ike, &mut peer, now);
        peer.homes = self.choose_homes(&peer);
        let pairs: BTreeSet<_> = peer.paths.keys().map(|(pair, _)| *pair).collect();
        self.peers.insert(ike, peer);
        for pair in pairs {
            self.settle_pair(ike, pair, now);
        }
    }

    pub(super) fn create_missing(&mut self, ike: IkeId, peer: &mut Peer, now: Instant) {
        let mut missing = Vec::new();
        for local in self.locals.values() {
            for remote in peer.remotes.values() {
                for family in [Family::V4, Family::V6] {
                    let pair = IfacePair {
                        local: local.id,
                        remote: remote.id,
                    };
                    let shared = local.addresses.iter().any(|a| Family::of(*a) == family)
                        && remote.addresses.iter().any(|a| Family::of(a.ip) == family);
                    let usable = local.state.usable() && remote.state.usable();
                    if shared && usable && !peer.paths.contains_key(&(pair, family)) {
                        missing.push(Key { ike, pair, family });
                    }
                }
            }
        }
        for key in missing {
            if let Some(index) = self.create(key, peer, now)
                && let Some(path) = self.paths.get_mut(&index)
            {
                let iface = peer.remotes.get(&key.pair.remote);
                path.set_remote(iface, Rank::default(), &mut self.out, now);
            }
        }
    }

    pub(super) fn create(&mut self, key: Key, peer: &mut Peer, now: Instant) -> Option<PathIndex> {
        let Some(iface) = self.locals.get(&key.pair.local) else {
            self.out.count("path_without_interface");
            return None;
        };
        let index = match self.free.front().copied() {
            Some((rested, index)) if rested <= now => {
                self.free.pop_front();
                index
            }
            _ if self.next_index < self.config.max_paths => {
                self.next_index += 1;
                PathIndex(self.next_index - 1)
            }
            _ => {
                self.out.count("path_limit");
                return None;
            }
        };
        let path = Path::new(
            index,
            key,
            peer.params.initiator,
            peer.params.probes,
            self.config.port,
            iface,
        );
        self.paths.insert(index, path);
        peer.paths.insert((key.pair, key.family), index);
        Some(index)
    }

    pub(super) fn choose_homes(&self, peer: &Peer) -> BTreeMap<IfaceId, IfaceId> {
        let ours: Vec<_> = self
            .locals
            .values()
            .map(|iface| home::Candidate {
                id: iface.id,
                state: iface.state,
                priority: iface.priority,
                v4: iface.addresses.iter().any(std::net::IpAddr::is_ipv4),
                v6: iface.addresses.iter().any(std::net::IpAddr::is_ipv6),
            })
            .collect();
        let theirs: Vec<_> = peer
            .remotes
            .values()
            .map(|iface| home::Candidate {
                id: iface.id,
                state: iface.state,
                priority: iface.priority,
                v4: iface.addresses.iter().any(|address| address.ip.is_ipv4()),
                v6: iface.addresses.iter().any(|address| address.ip.is_ipv6()),
            })
            .collect();
        let mut chosen = if peer.params.initiator {
            homes(ours, &theirs)
        } else {
            homes(theirs, &ours)
        };
        // An interface without a choice keeps the home it had.
        for (from, to) in &peer.homes {
            chosen.entry(*from).or_insert(*to);
        }
        chosen
    }

    /// Which family of a pair is home: the first that is validated, IPv4 where
    /// both are; the other one when that goes down and this is up.
    pub(super) fn settle_pair(&mut self, ike: IkeId, pair: IfacePair, now: Instant) {
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        let home = peer.is_home(pair);
        let indices: Vec<_> = peer.pair_paths(pair).collect();
        let state = |index: &PathIndex| self.paths.get(index).filter(|path| path.is_validated());
        let current = indices
            .iter()
            .find(|index| state(index).is_some_and(Path::is_told_home));
        let up = indices
            .iter()
            .find(|index| state(index).is_some_and(Path::is_up));
        let chosen = match current {
            Some(index) if state(index).is_some_and(Path::is_up) => Some(*index),
            _ => up.or(current).or(indices.first()).copied(),
        };
        let channel = peer.channel;
        for index in indices {
            if let Some(path) = self.paths.get_mut(&index) {
                path.watch(home || channel == index, now);
                path.tell_home(home && chosen == Some(index), &mut self.out);
            }
            self.reschedule(index);
        }
    }

    pub(super) fn discard(&mut self, index: PathIndex, now: Instant) {
        if let Some(mut path) = self.paths.remove(&index) {
            path.remove(&mut self.out);
            self.free.push_back((now + INDEX_REST, index));
        }
        self.reschedule(index);
    }

    /// The peer's interface of the IKE channel, by the address it announced.
    pub(super) fn resolve_announced(&mut self, ike: IkeId) {
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        let remote = peer.params.channel.remote_addr;
        let found = peer.remotes.values().find(|iface| {
            let addresses = &mut iface.addresses.iter();
            addresses.any(|address| address.ip == remote.ip())
        });
        if let Some(id) = found.map(|iface| iface.id) {
            self.resolve(ike, id);
        }
    }

    /// The same, by the source of a probe that names it.
    pub(super) fn resolve_observed(
        &mut self,
        ike: IkeId,
        remote: IfaceId,
        arrival: Arrival,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        if peer.remotes.contains_key(&remote)
            && let Some(path) = self.paths.get(&peer.channel)
            && path.key().pair.remote == IfaceId::CHANNEL
            && path.ifindex() == arrival.ifindex
            && path.active_remote() == Some(arrival.remote)
        {
            self.resolve(ike, remote);
            self.settle_peer(ike, now);
        }
    }

    pub(super) fn resolve(&mut self, ike: IkeId, remote: IfaceId) {
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        let index = peer.channel;
        let Some(path) = self.paths.get_mut(&index) else {
            return;
        };
        let Key { pair, family, .. } = path.key();
        if pair.remote != IfaceId::CHANNEL {
            return;
        }
        let resolved = IfacePair {
            local: pair.local,
            remote,
        };
        path.resolve(resolved);
        peer.paths.remove(&(pair, family));
        let twin = peer.paths.insert((resolved, family), index);
        if let Some(twin) = twin
            && let Some(now) = self.last_now
        {
            self.discard(twin, now);
        }
        self.out.event(Event::Resolved {
            ike,
            remote,
            path: index,
        });
    }
}
