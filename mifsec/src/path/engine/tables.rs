//! Which paths exist, and which are home.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Engine, INDEX_REST, Peer};
use crate::ids::{Family, IfaceId, IfacePair, IkeId, PathIndex};
use crate::path::candidates::Rank;
use crate::path::home::{self, homes};
use crate::path::state::{Key, Path};
use crate::path::timing::MAX_REMOTE_IFACES;
use crate::path::types::End;

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
        self.settle_carried(ike);
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
                    let usable =
                        local.state.usable() && remote.state.usable() && !peer.does_without(pair);
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
        if !self.make_room(peer, now) {
            self.out.count("path_peer_limit");
            return None;
        }
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

    /// Sees that one peer does not use up the paths of all: of those whose
    /// interface it does not announce any more one goes if need be.
    fn make_room(&mut self, peer: &mut Peer, now: Instant) -> bool {
        let limit = 2 * MAX_REMOTE_IFACES * self.locals.len().max(1);
        while peer.resting.front().is_some_and(|until| *until <= now) {
            peer.resting.pop_front();
        }
        if peer.paths.len() + peer.resting.len() >= 2 * limit {
            return false;
        }
        if peer.paths.len() < limit {
            return true;
        }
        let kept = [peer.channel, peer.origin];
        let spare = peer.paths.iter().find(|((pair, _), index)| {
            !peer.remotes.contains_key(&pair.remote) && !kept.contains(index)
        });
        let Some((key, index)) = spare.map(|(key, index)| (*key, *index)) else {
            return false;
        };
        peer.paths.remove(&key);
        peer.resting.push_back(now + INDEX_REST);
        self.discard(index, now);
        true
    }

    /// Forgets the paths to interfaces that came and went without an answer.
    pub(super) fn discard_untried(&mut self, ike: IkeId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        let paths = &self.paths;
        let mut gone = Vec::new();
        peer.paths.retain(|(pair, _), index| {
            let keep = pair.remote == IfaceId::CHANNEL
                || peer.remotes.contains_key(&pair.remote)
                || paths.get(index).is_some_and(Path::is_validated);
            if !keep {
                gone.push(*index);
            }
            keep
        });
        for index in gone {
            self.discard(index, now);
        }
    }

    pub(super) fn choose_homes(&self, peer: &Peer) -> BTreeMap<IfaceId, IfaceId> {
        let wanted = |end, id| !peer.forgotten.contains(&(end, id));
        let ours: Vec<_> = self
            .locals
            .values()
            .filter(|iface| wanted(End::Local, iface.id))
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
            .filter(|iface| wanted(End::Remote, iface.id))
            .map(|iface| home::Candidate {
                id: iface.id,
                state: iface.state,
                priority: iface.priority,
                v4: iface.addresses.iter().any(|address| address.ip.is_ipv4()),
                v6: iface.addresses.iter().any(|address| address.ip.is_ipv6()),
            })
            .collect();
        let (from, to) = if peer.params.initiator {
            (ours, theirs)
        } else {
            (theirs, ours)
        };
        homes(from, &to, &peer.homes)
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
            let needed = home || channel == index || self.out.carriage.carries(index);
            if let Some(path) = self.paths.get_mut(&index) {
                path.watch(needed, now);
                path.tell_home(home && chosen == Some(index), &mut self.out);
            }
            self.reschedule(index);
        }
    }

    pub(super) fn discard(&mut self, index: PathIndex, now: Instant) {
        if let Some(mut path) = self.paths.remove(&index) {
            let told = self.out.carriage.is_told(index);
            path.remove(&mut self.out);
            if path.is_validated() || told {
                self.free.push_back((now + INDEX_REST, index));
            } else {
                // It never was in the maps.
                self.free.push_front((now, index));
            }
        }
        self.reschedule(index);
    }
}
