//! Interfaces that come and go while a peer is there: the Child SAs of a further
//! access are derived in one exchange where both ends can (protocol 3.9), and all
//! of one that goes are deleted in one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::oneshot;

use crate::config::Layout;
use crate::ids::{IfaceId, IfacePair, IkeId};
use crate::ike::mif::{Features, InterfaceRecord};
use crate::ike::{Command, End, Event, Failure};
use crate::path;

use super::peer::{Peer, Wanted};
use super::views::{CHANGE_SCHEMA, ChangeView};
use super::{Agent, pinned};

/// How long a refused operation is not asked for again.
const AGAIN: Duration = Duration::from_secs(5);

/// How long whoever asked for a change waits for the peer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is kept of this for one peer.
#[derive(Default)]
pub(super) struct Additions {
    /// Both ends derive SAs.
    pub(super) derives: bool,
    /// Interfaces whose Child SAs are asked for one by one.
    one_by_one: BTreeSet<IfaceId>,
    /// Interfaces the operator deleted for this peer.
    deleted: BTreeSet<IfaceId>,
    /// Interfaces the peer deleted.
    peers_deleted: BTreeSet<IfaceId>,
    /// Who waits for the outcome of a change.
    waiting: Vec<Waiting>,
}

impl Additions {
    /// Of a session with these features.
    pub(super) fn new(features: u32) -> Self {
        let derives = Features::ADD_IF.0 | Features::DERIVE.0;
        Self {
            derives: Features(features).has(Features(derives)),
            ..Self::default()
        }
    }

    /// Whether the operator took this interface from the peer.
    pub(super) fn is_deleted(&self, iface: IfaceId) -> bool {
        self.deleted.contains(&iface)
    }

    /// All of them.
    pub(super) fn deleted(&self) -> BTreeSet<IfaceId> {
        self.deleted.clone()
    }

    fn take_waiting(&mut self, iface: IfaceId, change: Change) -> Vec<Waiting> {
        let mine = |waiting: &mut Waiting| waiting.iface == iface && waiting.change == change;
        self.waiting.extract_if(.., mine).collect()
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Delete,
}

struct Waiting {
    iface: IfaceId,
    change: Change,
    since: Instant,
    reply: oneshot::Sender<String>,
}

/// What came of a change.
struct Outcome {
    sas: usize,
    skipped: usize,
    leases: Vec<IpAddr>,
}

/// The answer to what could not be done.
fn refuse(reply: oneshot::Sender<String>, error: &str) {
    let line = json!({ "error": error }).to_string();
    // Whoever asked may be gone.
    let _ = reply.send(line);
}

impl Agent {
    /// Takes from `wanted` what one exchange makes: all Child SAs of an interface
    /// that has none yet, where others have the same. What may be derived in a moment
    /// is left for then.
    pub(super) fn derive_members(&mut self, wanted: Vec<Wanted>, now: Instant) -> Vec<Wanted> {
        let mut rest = Vec::new();
        let mut groups: BTreeMap<(IkeId, IfacePair), Vec<Wanted>> = BTreeMap::new();
        for one in wanted {
            let (ike, (_, pair), ..) = &one;
            match self.peers.get(ike) {
                Some(peer) if peer.additions.derives => {
                    groups.entry((*ike, *pair)).or_default().push(one);
                }
                _ => rest.push(one),
            }
        }
        for ((ike, pair), group) in groups {
            match self.addition(ike, pair, &group) {
                Plan::OneByOne => rest.extend(group),
                Plan::Later => {}
                Plan::Derive(command) => {
                    tracing::debug!(
                        ike = ike.0,
                        ?pair,
                        "asking for the Child SAs of an interface"
                    );
                    if let Some(peer) = self.peers.get_mut(&ike) {
                        let keys = group
                            .iter()
                            .map(|(_, (child, pair), ..)| (child.clone(), *pair));
                        peer.pending.extend(keys.map(|key| (key, None)));
                    }
                    self.ike.handle_command(*command, now);
                }
            }
        }
        rest
    }

    fn addition(&self, ike: IkeId, pair: IfacePair, group: &[Wanted]) -> Plan {
        let (Some(peer), Some((_, _, local, remote))) = (self.peers.get(&ike), group.first())
        else {
            return Plan::OneByOne;
        };
        let settings = &self.config.peers[peer.config];
        let mine = || {
            self.children
                .values()
                .filter(|c| c.ike == ike && !c.retired)
        };
        let asked: BTreeSet<&str> = group
            .iter()
            .map(|(_, (child, _), ..)| child.as_str())
            .collect();
        // All services of the peer, none of which the interface has, alike in how they
        // have their inner addresses.
        let all: BTreeSet<&str> = settings.protected().map(|c| c.name.as_str()).collect();
        let mut layouts = settings.protected().map(|c| c.layout);
        let layout = layouts.next();
        let alike = layouts.all(|other| Some(other) == layout);
        let new = !mine().any(|c| c.pair.local == pair.local);
        if asked != all || !alike || !new || peer.additions.one_by_one.contains(&pair.local) {
            return Plan::OneByOne;
        }
        let mut homes: BTreeMap<IfaceId, BTreeSet<&str>> = BTreeMap::new();
        for child in mine() {
            homes
                .entry(child.pair.local)
                .or_default()
                .insert(&child.name);
        }
        let whole = homes.iter().find(|(_, names)| asked.is_subset(names));
        let Some((from, _)) = whole else {
            // Of what is under way elsewhere there will be a template.
            let under_way = |name: &&str| {
                peer.pending
                    .iter()
                    .any(|((child, _), until)| child == name && until.is_none())
            };
            let there = |name: &&str| homes.values().any(|names| names.contains(name));
            let soon = !homes.is_empty() && asked.iter().all(|n| there(n) || under_way(n));
            return if soon { Plan::Later } else { Plan::OneByOne };
        };
        let pinned = layout == Some(Layout::Pinned);
        let inner = match pinned {
            true => {
                let access = self
                    .accesses
                    .iface(pair.local)
                    .map(|l| usize::from(l.access.0));
                let access = access.unwrap_or(usize::MAX);
                pinned::of_access(settings, &peer.leases, access)
            }
            false => pinned::of_bundle(&peer.leases),
        };
        // A gateway's leases are its peer's.
        let inner = if peer.initiator { inner } else { Vec::new() };
        Plan::Derive(Box::new(Command::AddInterface {
            ike,
            iface: pair.local,
            remote: pair.remote,
            local_addr: *local,
            remote_addr: *remote,
            inner,
            lease: false,
            bundle: !pinned,
            // One interface has a template of everything.
            from: match homes.len() {
                1 => Vec::new(),
                _ => vec![*from],
            },
            pfs: false,
        }))
    }

    /// What the engine says of interfaces added and deleted.
    pub(super) fn interface_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::InterfaceAdded {
                ike,
                end,
                iface,
                remote,
                created,
                skipped,
                leases,
            } => {
                let pair = match end {
                    End::Local => (iface, remote),
                    End::Remote => (remote, iface),
                };
                tracing::info!(
                    ike = ike.0,
                    ?end,
                    local = pair.0.0,
                    remote = pair.1.0,
                    created,
                    skipped,
                    ?leases,
                    "interface added"
                );
                let fields = self.change_fields(ike, end, iface);
                self.tell_change("add-interface", fields, created);
                if end == End::Local {
                    // Asked again it would make nothing again.
                    self.asked_for(ike, iface, (created == 0).then_some(None));
                    let outcome = Outcome {
                        sas: created,
                        skipped,
                        leases,
                    };
                    self.answer_change(ike, iface, Change::Add, &Ok(outcome), now);
                }
            }
            Event::AddRefused {
                ike,
                iface,
                reason,
                fall_back,
            } => {
                tracing::warn!(ike = ike.0, iface = iface.0, %reason, fall_back, "no Child SAs derived");
                let until = if fall_back { None } else { Some(now + AGAIN) };
                self.asked_for(ike, iface, Some(until));
                self.answer_change(ike, iface, Change::Add, &Err(reason), now);
            }
            Event::InterfaceDeleted {
                ike,
                end,
                iface,
                removed,
            } => {
                tracing::info!(
                    ike = ike.0,
                    ?end,
                    iface = iface.0,
                    removed,
                    "interface deleted"
                );
                let fields = self.change_fields(ike, end, iface);
                self.tell_change("delete-interface", fields, removed);
                let whose = match end {
                    End::Local => path::End::Local,
                    End::Remote => path::End::Remote,
                };
                self.path.forget(ike, whose, iface, true, now);
                if let (End::Remote, Some(peer)) = (end, self.peers.get_mut(&ike)) {
                    peer.additions.peers_deleted.insert(iface);
                }
                if end == End::Local {
                    let outcome = Outcome {
                        sas: removed,
                        skipped: 0,
                        leases: Vec::new(),
                    };
                    self.answer_change(ike, iface, Change::Delete, &Ok(outcome), now);
                }
            }
            Event::DeleteRefused { ike, iface, reason } => {
                tracing::warn!(ike = ike.0, iface = iface.0, %reason, "interface not deleted");
                if let Some(peer) = self.peers.get_mut(&ike) {
                    peer.additions.deleted.remove(&iface);
                }
                self.path.forget(ike, path::End::Local, iface, false, now);
                self.answer_change(ike, iface, Change::Delete, &Err(reason), now);
            }
            _ => {}
        }
        self.changed = true;
    }

    /// What was asked for on an interface is answered. `refused` says until when
    /// nothing is asked for again; `None` in it, that it is asked for one by one.
    fn asked_for(&mut self, ike: IkeId, iface: IfaceId, refused: Option<Option<Instant>>) {
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        let mine = |pair: &IfacePair| pair.local == iface;
        match refused {
            Some(Some(until)) => {
                let pending = peer.pending.iter_mut().filter(|((_, pair), _)| mine(pair));
                pending.for_each(|(_, at)| *at = Some(until));
            }
            Some(None) => {
                peer.additions.one_by_one.insert(iface);
                peer.pending.retain(|(_, pair), _| !mine(pair));
            }
            None => peer.pending.retain(|(_, pair), _| !mine(pair)),
        }
    }

    /// A table of the peer's: what it had deleted may be in it.
    pub(super) fn announced_again(&mut self, ike: IkeId, ifaces: &[InterfaceRecord], now: Instant) {
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        let deleted = &mut peer.additions.peers_deleted;
        let back: Vec<_> = ifaces
            .iter()
            .map(|i| i.id)
            .filter(|id| deleted.remove(id))
            .collect();
        for iface in back {
            self.path.forget(ike, path::End::Remote, iface, false, now);
        }
    }

    /// What the operator deleted stays so in an IKE SA that comes later; the engine has
    /// not announced it.
    pub(super) fn keep_deleted(&self, ike: IkeId, peer: &mut Peer) {
        peer.additions.deleted = self.ike.deleted(ike);
    }

    fn change_fields(&self, ike: IkeId, end: End, iface: IfaceId) -> (String, String) {
        let peer = self.peers.get(&ike);
        let peer = peer.map_or_else(String::new, |p| p.remote_id.clone());
        let access = match end {
            End::Local => self.accesses.name(iface),
            End::Remote => format!("peer:{}", iface.0),
        };
        (peer, access)
    }

    fn tell_change(&mut self, event: &str, (peer, access): (String, String), sas: usize) {
        let fields = [
            ("peer", json!(peer)),
            ("access", json!(access)),
            ("sas", json!(sas)),
        ];
        self.tell(event, &fields);
    }

    /// Tells whoever waits for it.
    fn answer_change(
        &mut self,
        ike: IkeId,
        iface: IfaceId,
        change: Change,
        outcome: &Result<Outcome, Failure>,
        now: Instant,
    ) {
        let access = self.accesses.name(iface);
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        for Waiting { since, reply, .. } in peer.additions.take_waiting(iface, change) {
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(reason) => {
                    refuse(reply, &reason.to_string());
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
    pub(super) fn changes_due(&mut self, now: Instant) {
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
    pub(super) fn changes_until(&self) -> Option<Instant> {
        let waiting = self.peers.values().flat_map(|p| &p.additions.waiting);
        waiting.map(|w| w.since + PATIENCE).min()
    }

    /// The established peer of this name or identity, the newest if there are several.
    fn established_peer(&self, name: &str) -> Result<IkeId, String> {
        let is = |p: &Peer| p.remote_id == name || self.config.peers[p.config].name == name;
        let found = self.peers.iter().rfind(|(_, p)| is(p)).map(|(ike, _)| *ike);
        found
            .ok_or_else(|| format!("peer {name:?} is not established; see `mifsec status` for why"))
    }

    /// Our interface of an access, with an address.
    fn interface_of(&self, access: &str) -> Result<IfaceId, String> {
        let named = |id: IfaceId| {
            self.accesses
                .settings(id)
                .is_some_and(|a| a.interface == access)
        };
        let found = self.accesses.local().find(|l| named(l.id));
        let found = found.ok_or_else(|| {
            format!("access {access:?} is not there; see `mifsec status` for those that are")
        })?;
        Ok(found.id)
    }

    /// Gives a peer the access again that was deleted for it, and answers when its
    /// Child SAs are there.
    pub(super) fn add_interface(
        &mut self,
        peer: &str,
        access: &str,
        reply: oneshot::Sender<String>,
    ) {
        let now = Instant::now();
        let found = self.established_peer(peer);
        let found = found.and_then(|ike| Ok((ike, self.interface_of(access)?)));
        let (ike, iface) = match found {
            Ok(found) => found,
            Err(error) => return refuse(reply, &error),
        };
        let there = self
            .children
            .values()
            .filter(|c| c.ike == ike && c.pair.local == iface && !c.retired)
            .count();
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        if !peer.mif {
            return refuse(reply, "that peer does not speak IKEv2-MIF");
        }
        if !peer.initiator {
            return refuse(
                reply,
                "that peer connected to us: it adds what it measures, ours are announced",
            );
        }
        peer.additions.deleted.remove(&iface);
        peer.additions.one_by_one.remove(&iface);
        peer.additions.waiting.push(Waiting {
            iface,
            change: Change::Add,
            since: now,
            reply,
        });
        self.path.forget(ike, path::End::Local, iface, false, now);
        self.changed = true;
        if there > 0 {
            let outcome = Outcome {
                sas: 0,
                skipped: there,
                leases: Vec::new(),
            };
            self.answer_change(ike, iface, Change::Add, &Ok(outcome), now);
        }
    }

    /// Deletes an access for one peer, with all Child SAs on it; with `move_first`
    /// they live on at its first alternate. The IKE channel moves off it first.
    pub(super) fn delete_interface(
        &mut self,
        peer: &str,
        access: &str,
        move_first: bool,
        reply: oneshot::Sender<String>,
    ) {
        let now = Instant::now();
        let found = self.established_peer(peer);
        let found = found.and_then(|ike| Ok((ike, self.interface_of(access)?)));
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
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        if !peer.mif {
            return refuse(reply, "that peer does not speak IKEv2-MIF");
        }
        peer.additions.deleted.insert(iface);
        peer.additions.waiting.push(Waiting {
            iface,
            change: Change::Delete,
            since: now,
            reply,
        });
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
}

/// How the Child SAs of an interface are to be made.
enum Plan {
    OneByOne,
    Later,
    Derive(Box<Command>),
}
