//! One IKE SA takes the place of another (RFC 7296 2.8, 2.18): what it inherits,
//! and what the old one still does.
//!
//! The successor takes over the handle, so nobody outside of the engine notices.
//! The old one stays under a handle of its own in [`Phase::Replaced`]: requests
//! that crossed the rekey still come under its keys, and are carried out on the
//! successor. Two rekeys at once leave a third one, which is such a shell from the
//! beginning.

use std::time::Duration;

use crate::ids::{IkeId, Spi};
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::event::Event;
use crate::ike::message::{Delete, ExchangeType, NotifyType, Payload};
use crate::ike::task::child::error;
use crate::ike::task::{Payloads, Received, Task, delete, informational, interfaces};
use crate::ike::timer::{TimerKind, TimerTable};

use super::{Ageing, IkeSa, Phase};

/// How long a replaced IKE SA waits for its Delete: longer than any peer sends a
/// request again and again.
const REPLACED_LIFETIME: Duration = Duration::from_secs(180);

/// What a rekey made.
pub(in crate::ike) struct Successor {
    /// SPIs, keys and windows; all else is inherited.
    pub(in crate::ike) sa: Box<IkeSa>,
    /// The new probe SA pair: the SPI we receive on, the peer's.
    pub(in crate::ike) probe: Option<(Spi, Spi)>,
    /// The lower of the nonces that made it.
    pub(in crate::ike) lowest: Vec<u8>,
}

impl Successor {
    /// It will never be used.
    pub(in crate::ike) fn abandon(self, cx: &mut Context) {
        if let Some((probe_in, _)) = self.probe {
            cx.release_spi(probe_in);
        }
    }
}

/// Who ends the old IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ike) enum OldIkeSa {
    /// We do: our rekey replaced it.
    Delete,
    /// The peer does.
    Await,
    /// The peer has.
    Gone,
}

/// One IKE SA makes place for another.
pub(in crate::ike) struct Handover {
    pub(in crate::ike) next: Successor,
    pub(in crate::ike) old: OldIkeSa,
    /// The other one, if both ends rekeyed; whoever made it deletes it.
    pub(in crate::ike) loser: Option<Successor>,
}

impl IkeSa {
    /// Ends the rekeying of `self`, which becomes the shell `shell_id`. Gives the
    /// successor, and the loser of two, with ids of their own.
    pub(in crate::ike) fn hand_over(
        &mut self,
        handover: Handover,
        shell_id: IkeId,
        loser_id: IkeId,
        cx: &mut Context,
    ) -> (Box<Self>, Option<Box<Self>>) {
        let Handover { next, old, loser } = handover;
        let mut unanswered: Vec<_> = match old {
            // Answers may still come under the old keys.
            OldIkeSa::Await => self.outbound.abandon_if(|t| matches!(t, Task::RekeyIke(_))),
            OldIkeSa::Delete | OldIkeSa::Gone => self.outbound.abandon().collect(),
        };
        let mut sa = next.sa;
        sa.inherit(self, next.probe, cx);
        self.id = shell_id;
        let successor = sa.id;
        self.phase = Phase::Replaced { successor };
        self.timers = TimerTable::default();
        let forgotten = Some(cx.now() + REPLACED_LIFETIME);
        self.timers.set(TimerKind::Expire, forgotten);
        self.timers
            .set(TimerKind::Retransmit, self.outbound.next_due());
        sa.shells.retain(|shell| cx.sas.contains_key(shell));
        sa.shells.push(shell_id);
        sa.shells.extend(loser.as_ref().map(|_| loser_id));
        for task in unanswered.drain(..) {
            sa.take_over(task, cx);
        }
        let loser = loser.map(|loser| {
            if let Some((probe_in, _)) = loser.probe {
                cx.release_spi(probe_in);
            }
            let mut loser = loser.sa;
            loser.id = loser_id;
            loser.phase = Phase::Replaced { successor };
            loser.timers.set(TimerKind::Expire, forgotten);
            loser
        });
        (sa, loser)
    }

    /// Everything but SPIs, keys and windows. It is written out in full so that
    /// whoever adds a field decides what a rekey does to it.
    fn inherit(&mut self, old: &mut Self, probe: Option<(Spi, Spi)>, cx: &mut Context) {
        let Self {
            // Its own, from the exchange that made it.
            initiator: _,
            spi_i: _,
            spi_r: _,
            keys: _,
            outbound: _,
            inbound: _,
            rival: _,
            handover: _,
            // About its message ids.
            told_outside: _,
            reassembly: _,
            // Inherited.
            id,
            caller,
            peer,
            remote_id,
            channel,
            channel_peer,
            nat,
            fragmentation,
            vendor,
            phase,
            queue,
            postponed,
            timers,
            children,
            early_deletes,
            mif,
            mobike,
            leases,
            ageing,
            reauth_at,
            child_rivals,
            lingering,
            shells,
            standby,
        } = old;
        self.id = *id;
        self.caller = *caller;
        self.peer.clone_from(peer);
        self.remote_id.clone_from(remote_id);
        self.channel = *channel;
        self.channel_peer = *channel_peer;
        self.nat = *nat;
        self.fragmentation = *fragmentation;
        self.vendor = *vendor;
        self.phase = std::mem::replace(phase, Phase::Spent);
        self.queue = std::mem::take(queue);
        self.postponed = std::mem::take(postponed);
        self.timers = std::mem::take(timers);
        self.timers.set(TimerKind::Retransmit, None);
        self.children = std::mem::take(children);
        self.early_deletes = std::mem::take(early_deletes);
        self.mif = mif.take();
        self.mobike = mobike.take();
        self.leases = std::mem::take(leases);
        self.reauth_at = reauth_at.take();
        self.child_rivals = std::mem::take(child_rivals);
        self.lingering = std::mem::take(lingering);
        self.shells = std::mem::take(shells);
        self.standby = std::mem::take(standby);
        *ageing = Ageing::default();
        let lifetime = self.peer.as_ref().map(|peer| peer.ike_rekey);
        self.ageing = lifetime.map_or_else(Ageing::default, |l| Ageing::start(l, cx));
        let renewed = self.mif.as_mut().and_then(|mif| mif.rekeyed(probe));
        if let Some(former) = renewed {
            self.linger(former, None, cx);
            if let Some(session) = self.mif_session() {
                cx.event(Event::ProbeKeysChanged {
                    ike: self.id,
                    probe: session.probe,
                });
            }
        }
        self.alive(cx);
    }

    /// What was asked under other keys is asked again; what it was about may be
    /// done already, which such requests bear.
    fn take_over(&mut self, task: Task, cx: &mut Context) {
        if let (Task::Announce(_), Some(mif)) = (&task, &mut self.mif) {
            mif.unannounced();
        }
        match task {
            Task::Update(_)
            | Task::Announce(_)
            | Task::Alternates(_)
            | Task::Mobike(_)
            | Task::Liveness
            | Task::Child(_)
            | Task::Add(_)
            | Task::Remove(_)
            | Task::Delete(delete::Target::Child(_) | delete::Target::Orphan(_)) => {
                self.queue.push(task);
            }
            Task::Init(_)
            | Task::Auth(_)
            | Task::RekeyIke(_)
            // About a message id of the other.
            | Task::Tell(_)
            | Task::Delete(delete::Target::Ike) => task.abandon(cx),
        }
    }

    /// A request under the keys of an IKE SA that was replaced.
    pub(in crate::ike) fn respond_replaced(
        &mut self,
        successor: IkeId,
        received: &Received,
        cx: &mut Context,
    ) -> Vec<Payload> {
        if received.exchange == ExchangeType::CREATE_CHILD_SA {
            // We are closing it (RFC 7296 2.25).
            return vec![error(NotifyType::TEMPORARY_FAILURE)];
        }
        if received.payloads.deletes().any(|d| *d == Delete::Ike) {
            self.close(Failure::DeletedByPeer, cx);
            return Vec::new();
        }
        let received = without_window(received);
        cx.with(successor, |sa, cx| {
            if !sa.is_authenticated() {
                return Vec::new();
            }
            sa.alive(cx);
            informational::respond(sa, cx, &received)
        })
        .unwrap_or_default()
    }

    /// A response under the keys of an IKE SA that was replaced.
    pub(in crate::ike) fn process_replaced(
        &mut self,
        successor: IkeId,
        task: Task,
        received: &Received,
        cx: &mut Context,
    ) {
        if matches!(task, Task::Delete(delete::Target::Ike)) {
            return self.close(Failure::Deleted, cx);
        }
        let received = without_window(received);
        let mut task = Some(task);
        cx.with(successor, |sa, cx| {
            if let Some(task) = task.take_if(|_| sa.is_authenticated()) {
                sa.alive(cx);
                task.process(sa, cx, &received);
            }
        });
        if let Some(task) = task {
            task.abandon(cx);
        }
    }
}

/// The shell of `successor` ended with these unanswered: they are asked again.
/// One that nobody answered says nothing good about the path.
pub(super) fn ask_again(successor: IkeId, tasks: Vec<Task>, cx: &mut Context) {
    let mut tasks = Some(tasks);
    cx.with(successor, |sa, cx| {
        for task in tasks.take().into_iter().flatten() {
            if sa.is_authenticated() {
                sa.take_over(task, cx);
            } else {
                task.abandon(cx);
            }
        }
    });
    for task in tasks.into_iter().flatten() {
        task.abandon(cx);
    }
}

/// A window belongs to the keys it was offered under; ids start anew, so this is
/// older than anything under the new ones.
fn without_window(received: &Received) -> Received {
    let size = |payload: &Payload| matches!(payload, Payload::Notify(notify) if notify.kind == NotifyType::SET_WINDOW_SIZE);
    let payloads = received.payloads.0.iter().filter(|p| !size(p));
    Received {
        payloads: Payloads(payloads.cloned().collect()),
        message_id: None,
        ..*received
    }
}

/// The window is 1 again.
pub(in crate::ike) fn begin(sa: &mut IkeSa, cx: &mut Context) {
    interfaces::announce(sa, cx);
    sa.pump(cx);
}
