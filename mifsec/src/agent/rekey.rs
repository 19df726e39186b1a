//! Rekeying as the data plane sees it: which Child SA of a bundle member sends.
//!
//! A bundle member outlives its keys. Its Child SAs form a line: each replaces
//! one before it and inherits member, path and place in the bundle, so that no
//! flow moves. Exactly one of them sends. All are in the maps and receive until the
//! engine has them removed, which is seconds after both ends have deleted them:
//! the last packets sealed with old keys may be in the queue of a slow access, or
//! a worker in the middle of a batch.
//!
//! The end that asked for new keys sends on them at once: its peer has them. The
//! other end waits for the first packet, or a second. When both asked, two new
//! SAs replace the same one; the one we asked for wins here, and the peer deletes
//! what is redundant.

use std::time::Instant;

use serde_json::json;

use crate::ids::{ChildId, IkeId, Spi};
use crate::ike::{ChildSa, ProbeKeys};

use super::Agent;

/// Where a new Child SA stands.
pub(super) struct Line {
    pub(super) member: ChildId,
    pub(super) generation: u32,
    /// Inbound SPI of the one it replaces.
    pub(super) before: Option<Spi>,
}

impl Agent {
    /// The line a Child SA belongs to.
    pub(super) fn line_of(&self, sa: &ChildSa) -> Line {
        let before = sa.replaces.and_then(|id| self.children.get(&id));
        match before {
            Some(before) => Line {
                member: before.member,
                generation: before.generation.saturating_add(1),
                before: Some(before.inbound.spi()),
            },
            None => Line {
                member: sa.child,
                generation: 0,
                before: None,
            },
        }
    }

    /// From now on its bundle member sends on this one.
    pub(super) fn send_on(&mut self, id: ChildId) {
        let Some(child) = self.children.get(&id) else {
            return;
        };
        let member = child.member;
        for (other, child) in &mut self.children {
            if child.member == member {
                child.sends = *other == id;
            }
        }
        self.changed = true;
    }

    /// The peer has it: it need not be held any more, and sends if what it
    /// replaces still does.
    pub(super) fn release(&mut self, id: ChildId) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        child.held_until = None;
        self.changed = true;
        let takes_over = !child.sends && !child.redundant;
        let before = child.replaces.and_then(|before| self.children.get(&before));
        // Gone without a successor then: whatever is left sends.
        if takes_over && before.is_none_or(|before| before.sends) {
            self.send_on(id);
        }
    }

    /// Both ends have deleted it: what replaces it sends. Without that nothing of its
    /// member does, and what only receives counts as removed.
    pub(super) fn retire(&mut self, id: ChildId) {
        let heir = self.heir(id);
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        child.retired = true;
        match heir {
            Some(heir) if child.sends => {
                self.release(heir);
                self.send_on(heir);
            }
            Some(_) => {}
            None => self.last_retired(id),
        }
        self.changed = true;
    }

    fn last_retired(&mut self, id: ChildId) {
        let Some(mut child) = self.children.remove(&id) else {
            return;
        };
        child.sends = false;
        let peer = self.peers.get(&child.ike).map(|peer| peer.config);
        if let Some(config) = peer.filter(|_| !child.redundant) {
            self.child_removed(&child, config);
        }
        self.children.insert(id, child);
    }

    /// It is deleted at both ends.
    pub(super) fn remove_child(&mut self, id: ChildId) {
        let heir = self.heir(id);
        let Some(removed) = self.children.remove(&id) else {
            return;
        };
        if let Some(heir) = heir.filter(|_| removed.sends) {
            self.release(heir);
            self.send_on(heir);
        }
        let Some(peer) = self.peers.get(&removed.ike) else {
            // Without its peer it is in no other map, but it is in this one.
            self.ebpf.remove_sa_in(removed.inbound.spi());
            return;
        };
        let (anchor, config) = (peer.anchor, peer.config);
        self.unmap(&removed, anchor);
        // What only lingered was missed when the last that could send went.
        if heir.is_none() && !removed.redundant && !removed.retired {
            self.child_removed(&removed, config);
        }
        self.changed = true;
    }

    /// Which of its bundle member takes over from it: the newest.
    fn heir(&self, id: ChildId) -> Option<ChildId> {
        let gone = self.children.get(&id)?;
        let others = self.children.iter().filter(|(other, child)| {
            let may_send = !child.redundant && !child.retired;
            **other != id && may_send && child.member == gone.member
        });
        others
            .max_by_key(|(other, child)| (child.generation, **other))
            .map(|(other, _)| *other)
    }

    /// The inbound SPI of what replaces it.
    pub(super) fn replaced_by(&self, id: ChildId) -> Option<Spi> {
        let by = |(other, child): (&ChildId, &super::bundle::Child)| {
            (child.replaces == Some(id) && !child.redundant && *other != id)
                .then(|| child.inbound.spi())
        };
        self.children.iter().rev().find_map(by)
    }

    /// The IKE SA has new keys, and so has its probe SA.
    pub(super) fn probe_keys_changed(&mut self, ike: IkeId, keys: &ProbeKeys, now: Instant) {
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        let Some(probe) = &mut peer.probe else {
            return;
        };
        let name = self.config.peers[peer.config].name.clone();
        match probe.add(keys, now) {
            Ok(gone) => {
                self.probe_in(keys.spi_in, ike);
                self.probes_gone(gone);
            }
            Err(error) => tracing::error!(%error, "probe SA"),
        }
        tracing::info!(peer = name, "IKE SA rekeyed");
        self.totals.ike_rekeys += 1;
        self.tell("ike-rekey", &[("peer", json!(name))]);
        self.changed = true;
    }

    /// Probes are expected on this SPI.
    pub(super) fn probe_in(&mut self, spi: Spi, ike: IkeId) {
        if let Err(error) = self.ebpf.set_sa_in(spi, false) {
            tracing::error!(%error, "probe SA not in the map");
        }
        self.probes.insert(spi, ike);
    }

    /// Lets go of probe SAs that were replaced long enough ago.
    pub(super) fn retire_probes(&mut self, now: Instant) {
        let probes = self.peers.values_mut().filter_map(|p| p.probe.as_mut());
        let gone: Vec<Spi> = probes.flat_map(|p| p.retire(now)).collect();
        self.probes_gone(gone);
    }

    /// When the next is let go.
    pub(super) fn probes_until(&self) -> Option<Instant> {
        let probes = self.peers.values().filter_map(|p| p.probe.as_ref());
        probes.filter_map(super::probe::ProbeSas::until).min()
    }

    fn probes_gone(&mut self, spis: Vec<Spi>) {
        for spi in spis {
            self.ebpf.remove_sa_in(spi);
            self.probes.remove(&spi);
            self.changed = true;
        }
    }
}
