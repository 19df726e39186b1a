//! What the operator said of one peer, for as long as the agent runs: an IKE SA that
//! comes after another one, by a new authentication or after a loss, finds it here.
//! Which interfaces are deleted for a peer the engine remembers, once the peer has been
//! asked.

use std::collections::BTreeMap;

use crate::ids::{IfaceId, IkeId};
use crate::ike::End;

use super::Agent;
use super::peer::Peer;

/// A peer's place in the configuration and its identity.
type Key = (usize, String);

/// By peer; only commands make entries, so there are few.
pub(super) type AllTold = BTreeMap<Key, Told>;

/// Of one peer.
#[derive(Debug, Default, Clone)]
pub(super) struct Told {
    /// Interfaces that were moved, with what is to carry them.
    pub(super) moved: BTreeMap<(End, IfaceId), IfaceId>,
}

fn key(peer: &Peer) -> Key {
    (peer.config, peer.remote_id.clone())
}

impl Agent {
    /// What was said of the peer of an IKE SA.
    pub(super) fn told(&self, ike: IkeId) -> Option<&Told> {
        self.told.get(&key(self.peers.get(&ike)?))
    }

    /// The same, to add to it.
    pub(super) fn told_mut(&mut self, ike: IkeId) -> Option<&mut Told> {
        let peer = self.peers.get(&ike)?;
        Some(self.told.entry(key(peer)).or_default())
    }

    /// Whether the operator took this interface of ours from the peer.
    pub(super) fn is_deleted(&self, ike: IkeId, iface: IfaceId) -> bool {
        let peer = self.peers.get(&ike);
        peer.is_some_and(|peer| peer.additions.deleted.contains(&iface))
    }

    /// The operator took it, or gave it back.
    pub(super) fn set_deleted(&mut self, ike: IkeId, iface: IfaceId, deleted: bool) {
        if let Some(peer) = self.peers.get_mut(&ike) {
            match deleted {
                true => peer.additions.deleted.insert(iface),
                false => peer.additions.deleted.remove(&iface),
            };
        }
    }

    /// Whether it was taken from any peer of this place in the configuration: it is the
    /// last one to connect over.
    pub(super) fn is_deleted_for(&self, config: usize, iface: IfaceId) -> bool {
        let peer = self.config.peers.get(config);
        peer.is_some_and(|peer| self.ike.is_deleted_for(&peer.name, iface))
    }
}
