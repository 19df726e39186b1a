//! Interfaces that come and go while a peer is there: the Child SAs of a further
//! access are derived in one exchange where both ends can (protocol 3.9), and all
//! of one that goes are deleted in one.

mod operator;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::config::Layout;
use crate::ids::{IfaceId, IfacePair, IkeId};
use crate::ike::mif::{Features, InterfaceRecord};
use crate::ike::{Command, End, Event};
use crate::path;

use super::peer::Wanted;
use super::{Agent, pinned};

use operator::{Change, Outcome, Waiting};

/// How long a refused operation is not asked for again.
const AGAIN: Duration = Duration::from_secs(5);

/// What is kept of this for one peer.
#[derive(Default)]
pub(super) struct Additions {
    /// Both ends derive SAs.
    pub(super) derives: bool,
    /// Interfaces whose Child SAs are asked for one by one.
    one_by_one: BTreeSet<IfaceId>,
    /// Interfaces the peer deleted.
    peers_deleted: BTreeSet<IfaceId>,
    /// Interfaces the operator deleted for this peer.
    pub(super) deleted: BTreeSet<IfaceId>,
    /// Interfaces the peer was told of that they go, and has not answered.
    leaving: BTreeSet<IfaceId>,
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
        // All services that may use the access, none of which it has, alike in how they
        // have their inner addresses.
        let access_of = |iface| {
            let local = self.accesses.iface(iface);
            local.map_or(usize::MAX, |l| usize::from(l.access.0))
        };
        let may = |access| {
            let all = settings.protected();
            all.filter(move |c| c.accesses.contains(&access))
        };
        let access = access_of(pair.local);
        let all: BTreeSet<&str> = may(access).map(|c| c.name.as_str()).collect();
        let mut layouts = may(access).map(|c| c.layout);
        let layout = layouts.next();
        let alike = layouts.all(|other| Some(other) == layout);
        let new = !mine().any(|c| c.pair.local == pair.local);
        if asked != all || !alike || !new || peer.additions.one_by_one.contains(&pair.local) {
            return Plan::OneByOne;
        }
        let mut homes: Homes<'_> = BTreeMap::new();
        for child in mine() {
            let names = homes.entry(child.pair.local).or_default();
            names.insert(&child.name);
        }
        // What may have others has them sooner or later, and they would be derived, too.
        let others = |iface| may(access_of(iface)).any(|c| !asked.contains(c.name.as_str()));
        let everywhere = homes.len();
        homes.retain(|iface, _| !others(*iface));
        let Some(from) = templates(&homes, &asked) else {
            // Of what is under way elsewhere there will be templates.
            let under_way = peer.pending.iter().filter(|(_, until)| until.is_none());
            let elsewhere = |iface| iface != pair.local && !others(iface);
            for ((child, at), _) in under_way.filter(|((_, at), _)| elsewhere(at.local)) {
                homes.entry(at.local).or_default().insert(child);
            }
            let soon = everywhere > 0 && templates(&homes, &asked).is_some();
            return if soon { Plan::Later } else { Plan::OneByOne };
        };
        let pinned = layout == Some(Layout::Pinned);
        let inner = match pinned {
            true => pinned::of_access(settings, &peer.leases, access),
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
            // What all interfaces have, and may have, needs no list.
            from: if from.len() == everywhere && asked.len() == settings.protected().count() {
                Vec::new()
            } else {
                from
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
                    // Where nothing was made each Child SA is asked for by itself.
                    if created > 0 {
                        self.answer_change(ike, iface, Change::Add, &Ok(outcome), now);
                    }
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
                if !fall_back {
                    let refused = Err(reason.to_string());
                    self.answer_change(ike, iface, Change::Add, &refused, now);
                }
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
                    peer.moves.forget_remote(iface);
                }
                if end == End::Local {
                    if let Some(peer) = self.peers.get_mut(&ike) {
                        peer.additions.leaving.remove(&iface);
                    }
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
                    peer.additions.leaving.remove(&iface);
                }
                self.set_deleted(ike, iface, false);
                self.path.forget(ike, path::End::Local, iface, false, now);
                let refused = Err(reason.to_string());
                self.answer_change(ike, iface, Change::Delete, &refused, now);
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
}

/// How the Child SAs of an interface are to be made.
enum Plan {
    OneByOne,
    Later,
    Derive(Box<Command>),
}

/// Which services each interface of ours has Child SAs of.
type Homes<'a> = BTreeMap<IfaceId, BTreeSet<&'a str>>;

/// Interfaces whose Child SAs are templates of the services asked for and of no
/// other: one that has them all, else several together.
fn templates(homes: &Homes<'_>, asked: &BTreeSet<&str>) -> Option<Vec<IfaceId>> {
    let fit = || homes.iter().filter(|(_, names)| names.is_subset(asked));
    if let Some((whole, _)) = fit().find(|(_, names)| names.len() == asked.len()) {
        return Some(vec![*whole]);
    }
    let together: BTreeSet<&str> = fit().flat_map(|(_, names)| names.iter().copied()).collect();
    (together.len() == asked.len() && !asked.is_empty())
        .then(|| fit().map(|(iface, _)| *iface).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_those_of_the_services_that_may_use_the_access() {
        let homes: Homes<'_> = [
            (IfaceId(1), BTreeSet::from(["web", "voice"])),
            (IfaceId(2), BTreeSet::from(["voice"])),
            (IfaceId(3), BTreeSet::from(["mail"])),
        ]
        .into();
        let of = |asked: &[&'static str]| {
            let from = templates(&homes, &asked.iter().copied().collect());
            from.map(|from| from.iter().map(|iface| iface.0).collect::<Vec<_>>())
        };
        assert_eq!(of(&["web", "voice"]), Some(vec![1]), "one has both");
        assert_eq!(of(&["voice"]), Some(vec![2]), "not web's");
        assert_eq!(of(&["web"]), None, "what has it has voice, too");
        assert_eq!(of(&["voice", "mail"]), Some(vec![2, 3]), "together");
        assert_eq!(of(&["voice", "news"]), None);
    }
}
