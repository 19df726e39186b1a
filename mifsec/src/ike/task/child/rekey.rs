//! Rekeying a Child SA (RFC 7296 1.3.3, 2.8) and collisions (2.8.1, 2.25.1).
//!
//! ```text
//!  request   SK{N(REKEY_SA, ESP, SPI), SA, Ni, [KEi], TSi, TSr}
//!  response  SK{SA, Nr, [KEr], TSi, TSr}
//!        or  SK{N(error)}
//!  then      SK{D(ESP, SPI)} of the old one, by the side that asked
//! ```
//! SPI is the one the asking side receives on. Name, selectors, bundle and path
//! are those of the old Child SA; MIF_OUTER_ADDRS is not sent (protocol 3.6).

use crate::ids::ChildId;
use crate::ike::engine::Context;
use crate::ike::message::{Notify, NotifyType, Payload};
use crate::ike::sa::{Child, IkeSa, Installation};
use crate::ike::task::{Payloads, Task};

use super::{Create, Nonces};

/// What the peer's rekey made of a Child SA that we are rekeying as well.
pub(in crate::ike) struct Rival {
    child: ChildId,
    /// The lower of the nonces that made it.
    lowest: Vec<u8>,
}

/// The lower of two nonces, as 2.8.1 compares them: octet by octet.
fn lowest(nonces: &Nonces<'_>) -> Vec<u8> {
    nonces.ni.min(nonces.nr).to_vec()
}

impl Create {
    /// In place of `child`; nothing if its configuration is gone.
    pub(in crate::ike) fn rekey(child: &Child, sa: &IkeSa) -> Option<Self> {
        let peer = sa.peer.as_ref()?;
        let config = peer.children.iter().find(|c| c.name == child.name)?;
        Some(Self {
            rekeys: Some(child.id),
            pair: child.pair,
            ..Self::on_channel(config.clone(), sa)
        })
    }

    /// The Child SA it is to replace.
    pub(in crate::ike) fn rekeys(&self) -> Option<ChildId> {
        self.rekeys
    }

    /// REKEY_SA, while the old one is there and nothing has taken its place.
    pub(super) fn rekey_notify(old: ChildId, sa: &IkeSa) -> Option<Notify> {
        let old = sa.children.get(&old).filter(|child| child.is_current())?;
        Some(Notify::about(NotifyType::REKEY_SA, old.spi_in))
    }

    /// The peer made the new one as well: it takes over, unless it lost.
    pub(super) fn replace(
        old: ChildId,
        mut new: Installation,
        nonces: &Nonces<'_>,
        sa: &mut IkeSa,
        cx: &mut Context,
    ) {
        let rival = sa.child_rivals.remove(&old);
        let former = rival.as_ref().map_or(old, |rival| rival.child);
        if let Some(child) = sa.children.get(&old).or(sa.children.get(&former)) {
            (new.pair, new.bundle, new.ours) = (child.pair, child.bundle, child.ours);
        }
        let loses = rival.filter(|rival| lowest(nonces) < rival.lowest);
        if let Some(rival) = loses {
            new.lost_to = Some(rival.child);
            let redundant = sa.install(new, cx);
            return sa.delete_child(redundant, cx);
        }
        new.replaces = [old, former]
            .into_iter()
            .find(|id| sa.children.contains_key(id));
        let new = sa.install(new, cx);
        sa.replace(old, new, cx);
        if former != old {
            sa.replaced(former, new, cx);
        }
    }

    /// The peer refused.
    pub(super) fn rekey_refused(
        mut self: Box<Self>,
        old: ChildId,
        error: &Notify,
        sa: &mut IkeSa,
        cx: &mut Context,
    ) {
        sa.child_rivals.remove(&old);
        let current = sa.children.get(&old).is_some_and(Child::is_current);
        if !current || !sa.is_established() {
            return self.abandon(cx);
        }
        match error.kind {
            NotifyType::TEMPORARY_FAILURE if sa.postpone(self.attempts, cx) => {
                self.attempts += 1;
                return sa.postponed.push(Task::Child(self));
            }
            NotifyType::INVALID_KE_PAYLOAD if self.take_group(error, sa) => {
                return sa.queue.push(Task::Child(self));
            }
            // The peer has it no more: neither have we (RFC 7296 2.25).
            NotifyType::CHILD_SA_NOT_FOUND => {
                if let Some(mut child) = sa.children.remove(&old) {
                    child.recreate = child.ours;
                    deleted(child, sa, cx);
                }
            }
            // It keeps one at a time: delete, then create.
            NotifyType::NO_ADDITIONAL_SAS => sa.expire_child(old, cx),
            _ => Self::rekey_failed(old, sa, cx),
        }
        cx.count("ike_child_rekey_refused");
        self.abandon(cx);
    }

    /// Nothing came of it: another attempt before the old one is too old.
    pub(super) fn rekey_failed(old: ChildId, sa: &mut IkeSa, cx: &mut Context) {
        sa.child_rivals.remove(&old);
        if let Some(child) = sa.children.get_mut(&old).filter(|c| c.is_current()) {
            child.ageing.try_again(cx);
        }
    }
}

/// Both ends have deleted a Child SA; asks for another one where that was the
/// purpose.
pub(in crate::ike) fn deleted(child: Child, sa: &mut IkeSa, cx: &mut Context) {
    let again = child.recreate && sa.is_established();
    let create = again.then(|| Create::again(&child, sa, cx)).flatten();
    sa.deleted(child, cx);
    if let Some(create) = create {
        sa.queue.push(Task::Child(Box::new(create)));
    }
}

/// The side that answers: which Child SA the peer wants to replace.
pub(super) fn named(notify: &Notify, sa: &IkeSa) -> Result<ChildId, Payload> {
    let refuse = |kind| {
        Payload::Notify(Notify {
            kind,
            data: Vec::new(),
            ..notify.clone()
        })
    };
    let found = notify.esp_spi().and_then(|spi| sa.child_by_outbound(spi));
    let Some(id) = found else {
        // The response that makes it may still be on its way to us.
        let awaited = sa.outbound.tasks().any(Task::makes_child);
        return Err(if awaited {
            super::error(NotifyType::TEMPORARY_FAILURE)
        } else {
            refuse(NotifyType::CHILD_SA_NOT_FOUND)
        });
    };
    // Ours to close, or replaced already by a request that crossed this one.
    if sa.children.get(&id).is_some_and(Child::is_current) {
        Ok(id)
    } else {
        Err(super::error(NotifyType::TEMPORARY_FAILURE))
    }
}

/// The side that answers: `new` is installed. Our own request for the same one,
/// if under way, decides later which of them stays.
pub(super) fn accepted(
    old: ChildId,
    new: ChildId,
    nonces: &Nonces<'_>,
    sa: &mut IkeSa,
    cx: &Context,
) {
    sa.replaced(old, new, cx);
    if sa.outbound.tasks().any(|task| task.rekeys_child(old)) {
        let lowest = lowest(nonces);
        sa.child_rivals.insert(old, Rival { child: new, lowest });
    }
}

/// Whether the peer asks for an IKE SA.
pub(super) fn is_of_ike(payloads: &Payloads) -> bool {
    let protocol = payloads.sa().and_then(|offer| offer.first());
    protocol.is_some_and(|proposal| proposal.protocol == crate::ike::message::Protocol::IKE)
}
