//! Child SAs that were replaced and deleted: what is still under way to them is
//! received for a while.
//!
//! The exchange that deletes an SA takes one path, its last packets may sit in
//! the queue of a slower one. The sender too may be in the middle of a batch. So
//! both the inbound SA and its entries in the maps stay for [`LINGER`]; nothing
//! new is sealed with it. The replay window stays as well: nothing counts twice.
//!
//! Only an SA with a successor lingers. One that was deleted for good, and all of
//! a closed IKE SA, are gone at once.

use std::time::{Duration, Instant};

use crate::ids::{ChildId, IkeId};

use super::Agent;
use super::anchors::Anchor;
use super::bundle::Child;

/// Longer than the queue of a slow access.
const LINGER: Duration = Duration::from_secs(5);
/// Of one bundle member: a peer may rekey as fast as it likes.
const MOST: usize = 8;

/// One such SA.
pub(super) struct Lingering {
    pub(super) id: ChildId,
    pub(super) child: Child,
    anchor: Anchor,
    until: Instant,
}

impl Agent {
    /// Keeps what a successor has replaced.
    pub(super) fn linger(&mut self, id: ChildId, child: Child, anchor: Anchor, now: Instant) {
        let (ike, member) = (child.ike, child.member);
        self.lingering.push(Lingering {
            id,
            child,
            anchor,
            until: now + LINGER,
        });
        let of_member = |l: &&Lingering| l.child.ike == ike && l.child.member == member;
        if self.lingering.iter().filter(of_member).count() > MOST
            && let Some(oldest) = self.lingering.iter().position(|l| of_member(&l))
        {
            let gone = self.lingering.remove(oldest);
            self.unmap(&gone.child, gone.anchor);
        }
    }

    /// Lets go of what lingered long enough.
    pub(super) fn lingering_due(&mut self, now: Instant) {
        self.linger_no_more(|l| l.until <= now);
    }

    /// When the next is let go.
    pub(super) fn lingering_until(&self) -> Option<Instant> {
        self.lingering.iter().map(|l| l.until).min()
    }

    /// Its IKE SA is gone.
    pub(super) fn linger_no_more_of(&mut self, ike: IkeId) {
        self.linger_no_more(|l| l.child.ike == ike);
    }

    fn linger_no_more(&mut self, gone: impl Fn(&Lingering) -> bool) {
        if !self.lingering.iter().any(&gone) {
            return;
        }
        let (gone, kept) = std::mem::take(&mut self.lingering)
            .into_iter()
            .partition::<Vec<_>, _>(|l| gone(l));
        self.lingering = kept;
        for lingering in gone {
            self.unmap(&lingering.child, lingering.anchor);
        }
        self.changed = true;
    }
}
