//! Which of the peer's interfaces the path belongs to that the IKE SA was made
//! on. Until that is known its remote interface is [`IfaceId::CHANNEL`].

use std::net::SocketAddr;
use std::time::Instant;

use super::Engine;
use crate::ids::{Arrival, Family, IfaceId, IfacePair, IkeId};
use crate::path::state::{Key, Path};
use crate::path::types::{Event, RemoteMove};

/// Which of two paths stays when both turn out to be the same.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// The one the IKE SA was made on.
    Origin,
    /// The other, if it is up: the peer has left the address of the first.
    Twin,
}

impl Engine {
    /// By the address the peer announced or, in its first table, since only one
    /// interface can be it.
    pub(super) fn resolve_announced(&mut self, ike: IkeId, first: bool, now: Instant) {
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        let remote = peer.params.channel.remote_addr.ip();
        let has = |ip| {
            let ifaces = peer.remotes.values();
            ifaces.filter(move |iface| iface.addresses.iter().any(|a| a.ip == ip))
        };
        let family = Family::of(remote);
        let mut possible = peer.remotes.values().filter(|iface| {
            let addresses = &mut iface.addresses.iter();
            iface.state.usable() && addresses.any(|address| Family::of(address.ip) == family)
        });
        let only = match (possible.next(), possible.next()) {
            (Some(only), None) if first => Some(only),
            _ => None,
        };
        if let Some(id) = has(remote).next().or(only).map(|iface| iface.id) {
            self.resolve(ike, id, Keep::Origin, now);
        }
    }

    /// By the source of a probe that names the interface.
    pub(super) fn resolve_observed(
        &mut self,
        ike: IkeId,
        remote: IfaceId,
        arrival: Arrival,
        now: Instant,
    ) {
        if self.knows(ike, remote)
            && let Some(path) = self.unresolved(ike)
            && path.ifindex() == arrival.ifindex
            && path.active_remote() == Some(arrival.remote)
        {
            self.resolve(ike, remote, Keep::Origin, now);
            self.settle_peer(ike, now);
        }
    }

    /// By a challenge that calls our end the IKE channel's: the peer does not
    /// know our interface either, so it speaks of the same path.
    pub(super) fn resolve_named(
        &mut self,
        ike: IkeId,
        remote: IfaceId,
        arrival: Arrival,
        now: Instant,
    ) {
        if self.knows(ike, remote)
            && let Some(path) = self.unresolved(ike)
            && path.ifindex() == arrival.ifindex
        {
            let keep = keep(path.active_remote(), arrival.remote);
            self.resolve(ike, remote, keep, now);
            self.settle_peer(ike, now);
        }
    }

    /// By a move of the channel's interface.
    pub(super) fn resolve_moved(&mut self, ike: IkeId, moved: &RemoteMove, now: Instant) {
        let Some(peer) = self.peers.get(&ike).filter(|peer| peer.params.probes) else {
            return;
        };
        let known = !peer.has_table || peer.remotes.contains_key(&moved.old_iface);
        let with_channel = moved.channel && peer.channel == peer.origin;
        if known
            && moved.old_iface != IfaceId::CHANNEL
            && let Some(path) = self.unresolved(ike)
            && (with_channel || path.active_remote().map(|remote| remote.ip()) == Some(moved.old))
        {
            self.resolve(ike, moved.old_iface, Keep::Twin, now);
        }
    }

    fn knows(&self, ike: IkeId, remote: IfaceId) -> bool {
        let peer = self.peers.get(&ike);
        peer.is_some_and(|peer| peer.remotes.contains_key(&remote))
    }

    fn unresolved(&self, ike: IkeId) -> Option<&Path> {
        let path = self.paths.get(&self.peers.get(&ike)?.origin)?;
        let key = path.key();
        (key.ike == ike && key.pair.remote == IfaceId::CHANNEL).then_some(path)
    }

    fn resolve(&mut self, ike: IkeId, remote: IfaceId, keep: Keep, now: Instant) {
        let Some(path) = self.unresolved(ike) else {
            return;
        };
        let Key { pair, family, .. } = path.key();
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        let resolved = IfacePair {
            local: pair.local,
            remote,
        };
        let origin = peer.origin;
        peer.paths.remove(&(pair, family));
        let twin = peer.paths.get(&(resolved, family)).copied();
        let twin_lives = twin
            .and_then(|twin| self.paths.get(&twin))
            .is_some_and(Path::is_up);
        let kept = match twin {
            Some(twin) if twin_lives && keep == Keep::Twin => twin,
            _ => origin,
        };
        peer.paths.insert((resolved, family), kept);
        if peer.channel == origin {
            peer.channel = kept;
        }
        peer.origin = kept;
        if let Some(path) = self.paths.get_mut(&kept) {
            path.resolve(resolved);
        }
        for other in [Some(origin), twin].into_iter().flatten() {
            if other != kept {
                self.discard(other, now);
            }
        }
        self.out.event(Event::Resolved {
            ike,
            remote,
            path: kept,
        });
    }
}

fn keep(active: Option<SocketAddr>, heard: SocketAddr) -> Keep {
    if active == Some(heard) {
        Keep::Origin
    } else {
        Keep::Twin
    }
}
