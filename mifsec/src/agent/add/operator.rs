//! `mifsec add-interface` and `mifsec delete-interface`: what is asked of the peer,
//! and who waits for what comes of it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::oneshot;

use crate::agent::Agent;
use crate::agent::views::{CHANGE_SCHEMA, ChangeView};
use crate::ids::{IfaceId, IfacePair, IkeId};
use crate::ike::{Command, Failure};
use crate::path;

use super::Additions;

/// How long whoever asked for a change waits for the peer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Delete,
}

/// Somebody who waits for it.
pub(super) struct Waiting {
    iface: IfaceId,
    change: Change,
    since: Instant,
    /// Child SAs on the interface at that time.
    before: usize,
    /// Why one could not be made.
    failed: Option<String>,
    reply: oneshot::Sender<String>,
}

/// What came of a change.
pub(super) struct Outcome {
    pub(super) sas: usize,
    pub(super) skipped: usize,
    pub(super) leases: Vec<IpAddr>,
}

impl Additions {
    fn take_waiting(&mut self, iface: IfaceId, change: Change) -> Vec<Waiting> {
        let mine = |waiting: &mut Waiting| waiting.iface == iface && waiting.change == change;
        self.waiting.extract_if(.., mine).collect()
    }

    /// Whoever waits is told that nothing will come any more.
    pub(in crate::agent) fn closed(self, reason: &Failure) {
        for waiting in self.waiting {
            refuse(waiting.reply, &format!("the IKE SA closed: {reason}"));
        }
    }
}

/// The answer to what could not be done.
fn refuse(reply: oneshot::Sender<String>, error: &str) {
    let line = json!({ "error": error }).to_string();
    // Whoever asked may be gone.
    let _ = reply.send(line);
}

impl Agent {
    /// Gives a peer the access again that was deleted for it, and answers when its
    /// Child SAs are there.
    pub(in crate::agent) fn add_interface(
        &mut self,
        peer: &str,
        access: &str,
        reply: oneshot::Sender<String>,
    ) {
        let now = Instant::now();
        let found = self.one_peer(peer);
        let found = found.and_then(|ike| Ok((ike, self.our_iface(access)?)));
        let (ike, iface) = match found {
            Ok(found) => found,
            Err(error) => return refuse(reply, &error),
        };
        let before = self.on_interface(ike, iface);
        // Also when this IKE SA is connected over it: the next one may not be.
        let deleted = self.ike.remembers_deleted(ike, iface);
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        if peer.additions.leaving.contains(&iface) {
            return refuse(reply, "the peer has not answered yet that it left");
        }
        if !peer.initiator && !deleted {
            return refuse(
                reply,
                "that peer connected to us: it adds what it measures, ours are announced",
            );
        }
        peer.additions.one_by_one.remove(&iface);
        // What was refused before is asked for again now.
        let refused = |pair: &IfacePair, until: &Option<_>| pair.local == iface && until.is_some();
        peer.pending
            .retain(|(_, pair), until| !refused(pair, until));
        peer.additions.waiting.push(Waiting {
            iface,
            change: Change::Add,
            since: now,
            before,
            failed: None,
            reply,
        });
        self.set_deleted(ike, iface, false);
        // Before there is a path on it: this IKE SA may end without one.
        self.ike
            .handle_command(Command::RestoreInterface { ike, iface }, now);
        self.path.forget(ike, path::End::Local, iface, false, now);
        self.changed = true;
    }

    /// Deletes an access for one peer, with all Child SAs on it; with `move_first`
    /// they live on at its first alternate. The IKE channel moves off it first.
    pub(in crate::agent) fn delete_interface(
        &mut self,
        peer: &str,
        access: &str,
        move_first: bool,
        reply: oneshot::Sender<String>,
    ) {
        let now = Instant::now();
        let found = self.one_peer(peer);
        let found = found.and_then(|ike| Ok((ike, self.our_iface(access)?)));
        let (ike, iface) = match found {
            Ok(found) => found,
            Err(error) => return refuse(reply, &error),
        };
        let on_it = |agent: &Self| {
            let peer = agent.peers.get(&ike);
            peer.is_some_and(|p| p.channel.local_iface == iface)
        };
        if on_it(self) {
            let views = self.path.views();
            let others: Vec<_> = views
                .into_iter()
                .filter(|v| v.pair.local != iface)
                .collect();
            self.move_channel(ike, &others, now);
        }
        if on_it(self) {
            let error = "it carries the IKE channel, and no other path is known to work";
            return refuse(reply, error);
        }
        let before = self.on_interface(ike, iface);
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        peer.additions.waiting.push(Waiting {
            iface,
            change: Change::Delete,
            since: now,
            before,
            failed: None,
            reply,
        });
        if peer.additions.leaving.contains(&iface) {
            // The peer has been asked, and answers once.
            return;
        }
        if peer.additions.deleted.contains(&iface) {
            let nothing = Outcome {
                sas: 0,
                skipped: 0,
                leases: Vec::new(),
            };
            return self.answer_change(ike, iface, Change::Delete, &Ok(nothing), now);
        }
        peer.additions.leaving.insert(iface);
        self.set_deleted(ike, iface, true);
        // What can go elsewhere does so before the peer stops to receive. What is to
        // be moved first still has its home here until the peer has answered.
        if !move_first {
            self.path.forget(ike, path::End::Local, iface, true, now);
        }
        self.ike.handle_command(
            Command::DeleteInterface {
                ike,
                iface,
                outer: true,
                ts: true,
                move_first,
            },
            now,
        );
        self.changed = true;
    }

    /// Child SAs at home on an interface of ours.
    fn on_interface(&self, ike: IkeId, iface: IfaceId) -> usize {
        let mine = self.children.values().filter(|c| c.ike == ike);
        mine.filter(|c| c.pair.local == iface && !c.retired).count()
    }

    /// A Child SA that was asked for by itself could not be made.
    pub(in crate::agent) fn addition_failed(
        &mut self,
        ike: IkeId,
        child: &str,
        iface: IfaceId,
        reason: &Failure,
    ) {
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        let waiting = peer.additions.waiting.iter_mut();
        for waiting in waiting.filter(|w| w.iface == iface && w.change == Change::Add) {
            waiting.failed = Some(format!("no Child SA {child:?}: {reason}"));
        }
    }

    /// Tells whoever waits for an interface whose Child SAs are made one by one, once
    /// nothing of them is under way any more.
    pub(in crate::agent) fn answer_additions(&mut self, now: Instant) {
        let mut settled = Vec::new();
        for (ike, peer) in &self.peers {
            for waiting in &peer.additions.waiting {
                let iface = waiting.iface;
                let mut pending = peer.pending.iter();
                let under_way =
                    pending.any(|((_, pair), until)| pair.local == iface && until.is_none());
                if waiting.change != Change::Add || under_way {
                    continue;
                }
                let there = self.on_interface(*ike, iface);
                let outcome = match &waiting.failed {
                    Some(reason) => Err(reason.clone()),
                    // It has no path that works yet; or what it has comes by itself, from
                    // a peer that connected to us.
                    None if there == 0 && peer.initiator => continue,
                    None => {
                        let sas = there.saturating_sub(waiting.before);
                        Ok(Outcome {
                            sas,
                            skipped: if sas == 0 { there } else { 0 },
                            leases: Vec::new(),
                        })
                    }
                };
                settled.push((*ike, iface, outcome));
            }
        }
        for (ike, iface, outcome) in settled {
            self.answer_change(ike, iface, Change::Add, &outcome, now);
        }
    }

    /// Tells whoever waits for it.
    pub(super) fn answer_change(
        &mut self,
        ike: IkeId,
        iface: IfaceId,
        change: Change,
        outcome: &Result<Outcome, String>,
        now: Instant,
    ) {
        let access = self.accesses.label(iface);
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        for Waiting { since, reply, .. } in peer.additions.take_waiting(iface, change) {
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(reason) => {
                    refuse(reply, reason);
                    continue;
                }
            };
            let took = now.duration_since(since).as_millis();
            let view = ChangeView {
                schema: CHANGE_SCHEMA.into(),
                change: match change {
                    Change::Add => "add".into(),
                    Change::Delete => "delete".into(),
                },
                peer: peer.remote_id.clone(),
                access: access.clone(),
                sas: outcome.sas,
                skipped: outcome.skipped,
                leases: outcome.leases.iter().map(IpAddr::to_string).collect(),
                took_ms: u64::try_from(took).unwrap_or(u64::MAX),
            };
            let line = serde_json::to_string(&view).unwrap_or_default();
            let _ = reply.send(line);
        }
    }

    /// Whoever has waited too long is told so.
    pub(in crate::agent) fn changes_due(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            let late = |w: &mut Waiting| now >= w.since + PATIENCE;
            for waiting in peer.additions.waiting.extract_if(.., late) {
                refuse(
                    waiting.reply,
                    "no answer yet: the access has no path to the peer that works, or the peer is silent",
                );
            }
        }
    }

    /// When somebody will have.
    pub(in crate::agent) fn changes_until(&self) -> Option<Instant> {
        let waiting = self.peers.values().flat_map(|p| &p.additions.waiting);
        waiting.map(|w| w.since + PATIENCE).min()
    }
}
