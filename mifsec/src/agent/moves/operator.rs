//! `mifsec move` and `mifsec drain`.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::agent::Agent;
use crate::agent::place::of_peer;
use crate::agent::views::MovePlan;
use crate::ids::{IfaceId, IkeId};
use crate::ike::End;
use crate::path::PathView;

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
        self.planned(ike, step, dry_run)
    }

    /// Moves everything of all peers off an access, and keeps it off until `undo`.
    ///
    /// # Errors
    /// With one line for the operator when the access is unknown, or a peer has no
    /// other path.
    pub fn drain_access(&mut self, access: &str, undo: bool) -> Result<Vec<MovePlan>, String> {
        let index = self
            .config
            .accesses
            .iter()
            .position(|a| a.interface == access);
        let index = index.ok_or_else(|| format!("there is no access {access:?}"))?;
        let news = match undo {
            true => self.drained.remove(&index),
            false => self.drained.insert(index),
        };
        if !news {
            return Ok(Vec::new());
        }
        let ifaces: Vec<IfaceId> = {
            let local = self.accesses.local();
            let on = |id: &IfaceId| {
                let settings = self.accesses.settings(*id);
                settings.is_some_and(|a| a.interface == access)
            };
            local.map(|iface| iface.id).filter(on).collect()
        };
        let mut plans = Vec::new();
        let ikes: Vec<IkeId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.mif)
            .map(|(ike, _)| *ike)
            .collect();
        for ike in ikes {
            for iface in &ifaces {
                let by = if undo {
                    *iface
                } else {
                    match self.way_out(ike, *iface) {
                        Some(by) => by,
                        // The only one there is: it is left when there is another.
                        None => continue,
                    }
                };
                let step = Step {
                    end: End::Local,
                    iface: *iface,
                    by,
                    why: if undo { Why::Operator } else { Why::Drained },
                };
                let plan = self.planned(ike, step, false);
                plans.extend(plan.ok().filter(|plan| plan.messages > 0));
            }
        }
        if undo {
            self.end_drained(&ifaces);
        }
        self.changed = true;
        Ok(plans)
    }

    /// What could not be taken home at once goes when its home works.
    fn end_drained(&mut self, ifaces: &[IfaceId]) {
        for peer in self.peers.values_mut() {
            for ((end, iface), loan) in &mut peer.moves.loans {
                if *end == End::Local && ifaces.contains(iface) && loan.why == Why::Drained {
                    loan.why = Why::Dead;
                }
            }
        }
    }

    /// Our interfaces that are to be left.
    pub(in crate::agent) fn drained_ifaces(&self) -> BTreeSet<IfaceId> {
        if self.drained.is_empty() {
            return BTreeSet::new();
        }
        let local = self.accesses.local();
        local
            .filter(|iface| self.drained.contains(&usize::from(iface.access.0)))
            .map(|iface| iface.id)
            .collect()
    }

    /// The first alternate of an interface of ours that works and is not drained.
    fn way_out(&self, ike: IkeId, iface: IfaceId) -> Option<IfaceId> {
        let views = self.path.views();
        let drained = self.drained_ifaces();
        let works = |by: &IfaceId| {
            let mut mine = of_peer(&views, ike).iter();
            mine.any(|v| v.pair.local == *by && v.up && v.validated)
        };
        let mut others = self.ike.alternates(ike, End::Local, iface).into_iter();
        others.find(|by| !drained.contains(by) && works(by))
    }

    /// What a step means, and, unless it is a rehearsal, the step.
    fn planned(&mut self, ike: IkeId, step: Step, dry_run: bool) -> Result<MovePlan, String> {
        let now = Instant::now();
        let all = self.path.views();
        let views = of_peer(&all, ike);
        let Step { end, iface, by, .. } = step;
        let (from, to) = (self.iface_name(end, iface), self.iface_name(end, by));
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
        let sas = children
            .filter(|c| c.ike == ike && !c.retired && moves(at_end(c.pair, end)))
            .count();
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

    fn one_peer(&self, name: &str) -> Result<IkeId, String> {
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
        let mut local = self.accesses.local();
        let of = |id: IfaceId| {
            let settings = self.accesses.settings(id);
            settings.is_some_and(|a| a.interface == name)
        };
        local
            .find(|iface| of(iface.id) || iface.addresses.iter().any(|a| a.to_string() == name))
            .map(|iface| (End::Local, iface.id))
            .ok_or_else(|| format!("there is no access {name:?}"))
    }

    fn iface_name(&self, end: End, iface: IfaceId) -> String {
        match end {
            End::Local => self.accesses.name(iface),
            End::Remote => format!("peer:{}", iface.0),
        }
    }
}
