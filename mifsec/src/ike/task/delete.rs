//! Deletes of Child SAs and of the IKE SA (RFC 7296 1.4.1).

use crate::ids::{ChildId, Spi};
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::message::{Delete, Payload};
use crate::ike::sa::{IkeSa, OldIkeSa, Phase};

use super::{Received, Task, auth, child, rekey};

/// What our Delete is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ike) enum Target {
    /// A Child SA.
    Child(ChildId),
    /// An SA the peer installed and we could not; by our inbound SPI.
    Orphan(Spi),
    /// The IKE SA and all Child SAs.
    Ike,
}

/// The request: SPIs are those the sender receives on.
pub(super) fn build(target: Target, sa: &IkeSa) -> Option<Vec<Payload>> {
    let delete = match target {
        Target::Child(id) => Delete::Esp(vec![sa.children.get(&id)?.spi_in]),
        Target::Orphan(spi) => Delete::Esp(vec![spi]),
        Target::Ike => Delete::Ike,
    };
    let why = (target == Target::Ike)
        .then(|| auth::rejection(sa))
        .flatten();
    Some(why.into_iter().chain([Payload::Delete(delete)]).collect())
}

/// The response: whatever it says, the peer's side is gone.
pub(super) fn process(target: Target, sa: &mut IkeSa, cx: &mut Context) {
    match target {
        // Gone already if the peer's own Delete crossed ours.
        Target::Child(id) => {
            if let Some(child) = sa.children.remove(&id) {
                child::deleted(child, sa, cx);
            }
        }
        Target::Orphan(spi) => cx.release_spi(spi),
        Target::Ike => {
            let reason = match &sa.phase {
                Phase::Closing { reason, .. } => reason.clone(),
                _ => Failure::Deleted,
            };
            sa.close(reason, cx);
        }
    }
}

/// The peer deletes: the answer names our inbound SPIs of the same pairs, but not
/// those our own Delete already named.
pub(super) fn respond(sa: &mut IkeSa, cx: &mut Context, received: &Received) -> Vec<Payload> {
    let mut ours = Vec::new();
    for delete in received.payloads.deletes() {
        match delete {
            Delete::Ike => {
                // The peer finished a rekey before it saw ours (RFC 7296 2.8.2).
                if rekey::adopt_rival(sa, OldIkeSa::Gone) {
                    return Vec::new();
                }
                let reason = match &sa.phase {
                    Phase::Closing { reason, .. } => reason.clone(),
                    _ => Failure::DeletedByPeer,
                };
                sa.close(reason, cx);
                return Vec::new();
            }
            Delete::Esp(spis) => {
                for spi_out in spis {
                    let child = sa.child_by_outbound(*spi_out);
                    match child.and_then(|id| sa.children.remove(&id)) {
                        Some(child) => {
                            if !child.deleting {
                                ours.push(child.spi_in);
                            }
                            child::deleted(child, sa, cx);
                        }
                        None => remember(*spi_out, sa, cx),
                    }
                }
            }
            Delete::Other(_) => {}
        }
    }
    if ours.is_empty() {
        Vec::new()
    } else {
        vec![Payload::Delete(Delete::Esp(ours))]
    }
}

/// A Delete may overtake the response that made its Child SA: what that response
/// names then is gone already. We wait for no more of them than we take.
fn remember(spi_out: Spi, sa: &mut IkeSa, cx: &Context) {
    if sa.outbound.tasks().any(Task::makes_child) && sa.early_deletes.len() < cx.limits.children {
        sa.early_deletes.insert(spi_out);
    }
}
