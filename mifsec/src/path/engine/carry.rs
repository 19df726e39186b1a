//! Interfaces that carry others, interfaces a peer does without, and homes that
//! are chosen elsewhere.

use std::time::Instant;

use super::Engine;
use crate::ids::{Arrival, IfaceId, IfacePair, IkeId, PathIndex};
use crate::path::state::path_id;
use crate::path::types::End;

impl Engine {
    /// What is on `iface` of that end is on `by` from now (MIF_UPDATE_ADDRS with
    /// two interfaces, protocol 3.7), with what `iface` carried until now;
    /// `by == iface` says that it carries its own again. The index of each path of
    /// `iface` gets the entry of the carrier's path to the same place and family;
    /// without such a path it is down. Its own addresses are probed as before.
    pub fn carry(&mut self, ike: IkeId, end: End, iface: IfaceId, by: IfaceId, now: Instant) {
        self.last_now = Some(now);
        let Some(peer) = self.peers.get_mut(&ike).filter(|peer| peer.params.probes) else {
            self.out.count("path_unknown_peer");
            return;
        };
        if peer.carriers.set(end, iface, by) {
            self.settle_peer(ike, now);
        }
    }

    /// Which interface carries `iface` of that end: itself, as a rule.
    #[must_use]
    pub fn carrier(&self, ike: IkeId, end: End, iface: IfaceId) -> IfaceId {
        let peer = self.peers.get(&ike);
        peer.map_or(iface, |peer| peer.carriers.of(end, iface))
    }

    /// The peer does without an interface of that end from now (protocol 3.9,
    /// MIF_DELETE_INTERFACE): there are no paths on it but the IKE channel's, until
    /// this says otherwise or, for the peer's own, the peer announces it again.
    pub fn forget(&mut self, ike: IkeId, end: End, iface: IfaceId, forgotten: bool, now: Instant) {
        self.last_now = Some(now);
        let Some(peer) = self.peers.get_mut(&ike).filter(|peer| peer.params.probes) else {
            self.out.count("path_unknown_peer");
            return;
        };
        if forgotten {
            peer.forgotten.insert((end, iface));
            peer.carriers.forget(end, iface);
            if end == End::Remote {
                peer.remotes.remove(&iface);
            }
            // What was at home there chooses anew.
            let initiators = (end == End::Local) == peer.params.initiator;
            peer.homes
                .retain(|from, to| iface != if initiators { *from } else { *to });
            self.discard_forgotten(ike, now);
        } else {
            peer.forgotten.remove(&(end, iface));
        }
        self.settle_peer(ike, now);
    }

    /// Removes the paths of interfaces the peer does without, but for the one the IKE
    /// channel is on.
    pub(super) fn discard_forgotten(&mut self, ike: IkeId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        let (channel, forgotten) = (peer.channel, &peer.forgotten);
        let mut gone: Vec<PathIndex> = Vec::new();
        peer.paths.retain(|(pair, _), index| {
            let ends = [(End::Local, pair.local), (End::Remote, pair.remote)];
            let on = *index != channel && ends.iter().any(|at| forgotten.contains(at));
            if on {
                gone.push(*index);
            }
            !on
        });
        if gone.contains(&peer.origin) {
            peer.origin = channel;
        }
        for index in gone {
            self.discard(index, now);
        }
    }

    /// The pair is home for its initiator's interface, as a Child SA of the peer's
    /// choice says. Where both ends chose alike this is no news.
    pub fn set_home(&mut self, ike: IkeId, pair: IfacePair, now: Instant) {
        let Some(peer) = self.peers.get_mut(&ike).filter(|peer| peer.params.probes) else {
            return;
        };
        let id = path_id(pair, peer.params.initiator);
        let known = [id.initiator, id.responder]
            .iter()
            .all(|iface| *iface != IfaceId::CHANNEL);
        if known && peer.homes.insert(id.initiator, id.responder) != Some(id.responder) {
            self.last_now = Some(now);
            self.settle_peer(ike, now);
        }
    }

    /// What left on a carried path's index left on its carrier.
    pub(super) fn sent_for_riders(&mut self, path: PathIndex, now: Instant) {
        let carrier = self.out.carriage.carrier(path);
        if let Some(carrier) = carrier
            && let Some(path) = self.paths.get_mut(&carrier)
        {
            path.sent_for_riders(now);
            self.reschedule(carrier);
        }
    }

    /// The path that data of `path`'s security associations from an unknown source
    /// speaks of: its carrier's, if that leaves where the data came in.
    pub(super) fn carrier_at(&self, path: PathIndex, arrival: Arrival) -> PathIndex {
        let carrier = self.out.carriage.carrier(path);
        let here = |index: &PathIndex| {
            let state = self.paths.get(index);
            state.is_some_and(|state| state.ifindex() == arrival.ifindex)
        };
        carrier.filter(here).unwrap_or(path)
    }

    /// Sees that every path of the peer has the entry of what carries it.
    pub(super) fn settle_carried(&mut self, ike: IkeId) {
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        let paths = peer.paths.iter();
        let mut carried: Vec<_> = paths
            .map(|((pair, family), index)| {
                let by = peer.carriers.pair(*pair);
                let carrier = (by != *pair).then(|| peer.paths.get(&(by, *family)).copied());
                (*index, carrier)
            })
            .collect();
        self.leave_behind(&mut carried);
        for (index, carrier) in carried {
            self.out.carried(index, carrier);
        }
    }
}

/// Paths, and whether another one carries them.
type Carried = Vec<(PathIndex, Option<Option<PathIndex>>)>;

impl Engine {
    /// What the fault `one_path_moves` does.
    #[cfg(feature = "testing")]
    fn leave_behind(&self, carried: &mut Carried) {
        let mut moved = 0;
        carried.retain(|(_, carrier)| {
            moved += usize::from(carrier.is_some());
            !self.one_path_moves || carrier.is_none() || moved == 1
        });
    }

    /// Without the feature all paths of an interface move.
    #[cfg(not(feature = "testing"))]
    const fn leave_behind(&self, _: &mut Carried) {}
}
