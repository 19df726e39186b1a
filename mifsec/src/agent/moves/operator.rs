//! `mifsec move` and `mifsec drain`.

use std::time::Instant;

use crate::agent::Agent;
use crate::agent::place::of_peer;
use crate::agent::views::{MovePlan, StayView};
use crate::ids::{IfaceId, IfacePair, IkeId};
use crate::ike::mif::Features;
use crate::ike::{End, IkeSaView, IkeState};
use crate::path::PathView;

use super::choose::missing;
use super::{Step, Why, at_end};

impl Agent {
    /// Moves everything of a peer (its identity or configured name) that is on `from`
    /// to `to`: both are accesses of ours, or interfaces of the peer's, as `peer:ID`.
    /// The same twice ends a loan.
    ///
    /// # Errors
    /// With one line for the operator when a name is unknown, both are not of one
    /// end, or there is no path over `to` that works.
    pub fn move_interface(
        &mut self,
        peer: &str,
        from: &str,
        to: &str,
        dry_run: bool,
    ) -> Result<MovePlan, String> {
        let ike = self.one_peer(peer)?;
        let (end, iface) = self.named_iface(ike, from)?;
        let (other, by) = self.named_iface(ike, to)?;
        if end != other {
            return Err("both interfaces must be ours, or both the peer's".into());
        }
        let step = Step {
            end,
            iface,
            by,
            why: Why::Operator,
        };
        let plan = self.planned(ike, step, dry_run)?;
        if let (false, Some(told)) = (dry_run, self.told_mut(ike)) {
            // As carriers are kept: nothing is carried by what is carried itself.
            told.moved.remove(&(end, by));
            let on = told.moved.iter_mut();
            on.filter(|((e, _), carrier)| *e == end && **carrier == iface)
                .for_each(|(_, carrier)| *carrier = by);
            if iface == by {
                told.moved.remove(&(end, iface));
            } else {
                told.moved.insert((end, iface), by);
            }
        }
        if let (false, Some(peer)) = (dry_run, self.peers.get_mut(&ike)) {
            peer.moves.wishes.remove(&(end, iface));
        }
        Ok(plan)
    }

    /// Moves everything of all peers off an access, and keeps it off until `undo`; says
    /// also who stays, and why.
    ///
    /// # Errors
    /// With one line for the operator when the access is unknown.
    pub fn drain_access(
        &mut self,
        access: &str,
        undo: bool,
    ) -> Result<(Vec<MovePlan>, Vec<StayView>), String> {
        let mut accesses = self.config.accesses.iter();
        let index = accesses.position(|a| a.interface == access);
        let index = index.ok_or_else(|| format!("there is no access {access:?}"))?;
        let now = Instant::now();
        for iface in self.accesses.drain(index, !undo) {
            self.path.set_local(iface, now);
        }
        let ifaces: Vec<IfaceId> = self.accesses.ifaces_of(index).collect();
        let ikes: Vec<IkeId> = self.peers.keys().copied().collect();
        let (mut plans, mut stays) = (Vec::new(), Vec::new());
        for ike in ikes {
            for iface in &ifaces {
                let done = match undo {
                    true => self.take_home(ike, *iface),
                    false => self.leave(ike, *iface),
                };
                match done {
                    Ok(plan) => plans.extend(plan.filter(|plan| plan.messages > 0)),
                    Err(reason) => stays.push(StayView {
                        peer: self.names(ike).1,
                        access: self.accesses.label(*iface),
                        reason,
                    }),
                }
            }
        }
        // The peers are told where to go before they hear that this is the last choice.
        self.announce(now);
        self.changed = true;
        Ok((plans, stays))
    }

    /// Everything of a peer off an interface of ours, if anything is there.
    fn leave(&mut self, ike: IkeId, iface: IfaceId) -> Result<Option<MovePlan>, String> {
        let Some(peer) = self.peers.get(&ike) else {
            return Ok(None);
        };
        let on = |home: IfaceId| self.path_carrier(ike, End::Local, home) == iface;
        let mut mine = self
            .children
            .values()
            .filter(|c| c.ike == ike && !c.retired);
        if peer.channel.local_iface != iface && !mine.any(|c| on(c.pair.local)) {
            return Ok(None);
        }
        if !peer.mif {
            return self.leave_pair(ike, iface, Instant::now()).map(Some);
        }
        let drained = self.accesses.drained();
        let mut why = None;
        for by in self.ike.alternates(ike, End::Local, iface) {
            if drained.contains(&by) {
                continue;
            }
            let step = Step {
                end: End::Local,
                iface,
                by,
                why: Why::Drained,
            };
            match self.planned(ike, step, false) {
                Ok(plan) => return Ok(Some(plan)),
                Err(error) => why = why.or(Some(error)),
            }
        }
        Err(why.unwrap_or_else(|| "no other access may carry it".into()))
    }

    /// What was drained from an interface is at home again, now or once that works.
    fn take_home(&mut self, ike: IkeId, iface: IfaceId) -> Result<Option<MovePlan>, String> {
        let at = (End::Local, iface);
        let loan = self
            .peers
            .get_mut(&ike)
            .and_then(|peer| peer.moves.loans.get_mut(&at));
        let Some(loan) = loan.filter(|loan| loan.why == Why::Drained) else {
            return Ok(None);
        };
        // What ends a loan whose home was dead.
        loan.why = Why::Dead;
        let step = Step {
            end: End::Local,
            iface,
            by: iface,
            why: Why::Operator,
        };
        Ok(self.planned(ike, step, false).ok())
    }

    /// What a step means, and, unless it is a rehearsal, the step.
    fn planned(&mut self, ike: IkeId, step: Step, dry_run: bool) -> Result<MovePlan, String> {
        let now = Instant::now();
        let all = self.path.views();
        let views = of_peer(&all, ike);
        let Step { end, iface, by, .. } = step;
        let (from, to) = (self.iface_name(end, iface), self.iface_name(end, by));
        self.may_be(ike, &step)?;
        let works = |v: &PathView| at_end(v.pair, end) == by && v.up && v.validated;
        if !views.iter().any(works) {
            return Err(format!("no path over {to} works; see `mifsec path`"));
        }
        let current = |home: IfaceId| self.path_carrier(ike, end, home);
        // Taken home goes what is at home there, lent what is there now.
        let moves = |home: IfaceId| match iface == by {
            true => home == iface && current(home) != iface,
            false => current(home) == iface,
        };
        let children = self.children.values();
        let moved: Vec<_> = children
            .filter(|c| c.ike == ike && !c.retired && moves(at_end(c.pair, end)))
            .map(|c| c.pair)
            .collect();
        // Else the move would end what works.
        let places = moved.iter().map(|home| IfacePair {
            local: self.path_carrier(ike, End::Local, home.local),
            remote: self.path_carrier(ike, End::Remote, home.remote),
        });
        let places: Vec<_> = places.collect();
        if let Some(missing) = missing(views, &places, end, by) {
            let local = self.iface_name(End::Local, missing.local);
            let remote = self.iface_name(End::Remote, missing.remote);
            return Err(format!(
                "no path from {local} to {remote} works; see `mifsec path`"
            ));
        }
        let sas = moved.len();
        let is_moved = |v: &&PathView| moves(at_end(v.pair, end));
        let paths = views.iter().filter(is_moved);
        let paths = paths.filter(|v| v.validated || v.carried_by.is_some());
        let (paths, channel) = (
            paths.count(),
            self.channel_along(ike, end, iface, by, views).is_some(),
        );
        let peer = self.peers.get(&ike).ok_or("the peer has gone")?;
        let plan = MovePlan {
            peer: peer.remote_id.clone(),
            from,
            to,
            sas,
            paths,
            messages: usize::from(paths > 0 || channel),
            channel,
        };
        if plan.messages > 0 && !dry_run {
            self.take(ike, step, &all, now);
        }
        Ok(plan)
    }

    /// Whether both ends can do that, and we are allowed to.
    fn may_be(&self, ike: IkeId, step: &Step) -> Result<(), String> {
        let Step { end, iface, by, .. } = *step;
        let (from, to) = (self.iface_name(end, iface), self.iface_name(end, by));
        let peer = self.peers.get(&ike).ok_or("the peer has gone")?;
        if !peer.moves.features.has(Features::UPDATE) {
            return Err(
                "the peer has no MIF_UPDATE_ADDRS: nothing moves on its word or ours".into(),
            );
        }
        if end == End::Local && iface != by && self.accesses.drained().contains(&by) {
            return Err(format!(
                "{to} is drained; `mifsec drain {to} --undo` ends that"
            ));
        }
        if end == End::Local || iface == by {
            return Ok(());
        }
        if !peer.moves.features.has(Features::ALTERNATES) {
            return Err("the peer lets nobody choose among its interfaces; move them there".into());
        }
        let list = self.ike.alternates(ike, end, iface);
        if list.contains(&by) {
            return Ok(());
        }
        let names: Vec<_> = list.iter().map(|id| self.iface_name(end, *id)).collect();
        Err(match names.is_empty() {
            true => format!("the peer lets nothing stand in for {from}; move it there"),
            false => format!(
                "the peer does not let {to} stand in for {from}; choose one of: {}",
                names.join(", ")
            ),
        })
    }

    pub(in crate::agent) fn one_peer(&self, name: &str) -> Result<IkeId, String> {
        let named = self.peers.iter().filter(|(_, peer)| {
            let config = self.config.peers.get(peer.config);
            peer.remote_id == name || config.is_some_and(|c| c.name == name)
        });
        let mut found = named.collect::<Vec<_>>();
        // Of several IKE SAs with one peer the newest is the one in use.
        found.reverse();
        let Some((ike, first)) = found.first() else {
            return Err(format!("no peer {name:?} is established"));
        };
        if found
            .iter()
            .any(|(_, other)| other.remote_id != first.remote_id)
        {
            return Err(format!(
                "{name:?} is several peers; name one by its identity"
            ));
        }
        if !first.mif {
            return Err(format!(
                "{name:?} does not have MIF: its one path moves by itself"
            ));
        }
        let engine = self.ike.views();
        let stands = |v: &IkeSaView| v.ike == **ike && v.state == IkeState::Established;
        if !engine.iter().any(stands) {
            return Err(format!(
                "the IKE SA with {name:?} is being closed; `mifsec status` says when there is another"
            ));
        }
        Ok(**ike)
    }

    fn named_iface(&self, ike: IkeId, name: &str) -> Result<(End, IfaceId), String> {
        if let Some(id) = name.strip_prefix("peer:") {
            let id = id.parse().ok().map(IfaceId);
            let known = |id: &IfaceId| {
                let peer = self.peers.get(&ike);
                peer.is_some_and(|peer| peer.moves.ranks.contains_key(id))
            };
            let id = id.filter(known);
            return id
                .map(|id| (End::Remote, id))
                .ok_or_else(|| format!("the peer has no interface {name:?}; see `mifsec path`"));
        }
        self.our_iface(name).map(|id| (End::Local, id))
    }

    fn iface_name(&self, end: End, iface: IfaceId) -> String {
        match end {
            End::Local => self.accesses.label(iface),
            End::Remote => format!("peer:{}", iface.0),
        }
    }
}
