//! The decision: a pure function of what is known of one peer.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::ids::{IfaceId, IfacePair};
use crate::ike::End;
use crate::path::PathView;

use super::{Moves, Step, Why, at_end, home_up, with_end};

/// Child SAs of one home and one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) home: IfacePair,
    pub(super) bundle: bool,
}

/// What is known of one peer.
pub(super) struct Scene<'a> {
    pub(super) initiator: bool,
    pub(super) views: &'a [PathView],
    pub(super) members: &'a [Member],
    pub(super) moves: &'a Moves,
    /// Our interfaces that can be used.
    pub(super) usable: BTreeSet<IfaceId>,
    /// Our interfaces that are to be left.
    pub(super) drained: BTreeSet<IfaceId>,
    pub(super) carrier: Box<dyn Fn(End, IfaceId) -> IfaceId + 'a>,
    pub(super) alternates: Box<dyn Fn(End, IfaceId) -> Vec<IfaceId> + 'a>,
    pub(super) now: Instant,
}

impl Scene<'_> {
    /// The next thing to do.
    pub(super) fn step(&self) -> Option<Step> {
        self.drain()
            .or_else(|| self.leave_dead())
            .or_else(|| self.better())
            .or_else(|| self.go_home())
    }

    /// Where the Child SAs of a home are now.
    fn place(&self, home: IfacePair) -> IfacePair {
        IfacePair {
            local: (self.carrier)(End::Local, home.local),
            remote: (self.carrier)(End::Remote, home.remote),
        }
    }

    fn up(&self, pair: IfacePair) -> bool {
        let works = |v: &PathView| v.pair == pair && v.up && v.validated;
        self.views.iter().any(works)
    }

    fn drain(&self) -> Option<Step> {
        let places = self.members.iter().map(|m| self.place(m.home));
        let there = |place: &IfacePair| self.drained.contains(&place.local);
        places.filter(there).find_map(|place| {
            let others = self.others(End::Local, place);
            let by = others.into_iter().find(|by| !self.drained.contains(by))?;
            self.lend(End::Local, place, by, Why::Drained)
        })
    }

    /// Away from a path that is down: off our interface or the peer's, whichever is
    /// to blame.
    fn leave_dead(&self) -> Option<Step> {
        let places = |bundle: bool| {
            let members = self.members.iter().filter(move |m| m.bundle == bundle);
            members.map(|m| self.place(m.home))
        };
        // What never worked is not dead: it may be there in a moment.
        let known = |place: &IfacePair| self.views.iter().any(|v| v.pair == *place && v.validated);
        let alone = places(false).filter(known).find(|place| !self.up(*place));
        // A bundle's flows are on its other members, while it has one that works.
        let all_dead = self.initiator && places(true).all(|place| !self.up(place));
        let place = alone.or_else(|| places(true).filter(known).find(|_| all_dead))?;
        let alive = |end| home_up(self.views, end, at_end(place, end));
        let announced = self.moves.ranks.get(&place.remote);
        let local_gone = !self.usable.contains(&place.local);
        let remote_gone = announced.is_none_or(|(state, _)| !state.usable());
        let ours_first = match (alive(End::Local), alive(End::Remote)) {
            _ if local_gone != remote_gone => local_gone,
            (true, false) => false,
            (false, true) => true,
            // Accesses die more often than gateways.
            _ => self.initiator,
        };
        let order = match ours_first {
            true => [End::Local, End::Remote],
            false => [End::Remote, End::Local],
        };
        order.into_iter().find_map(|end| {
            let by = self.others(end, place).into_iter().next()?;
            self.lend(end, place, by, Why::Dead)
        })
    }

    /// Interfaces of one end that a place could be on instead, and would work, best
    /// first.
    fn others(&self, end: End, place: IfacePair) -> Vec<IfaceId> {
        let mut others = (self.alternates)(end, at_end(place, end));
        others.retain(|by| self.up(with_end(place, end, *by)));
        others
    }

    fn lend(&self, end: End, place: IfacePair, by: IfaceId, why: Why) -> Option<Step> {
        let iface = at_end(place, end);
        self.moves.may(end, iface, self.now).then_some(Step {
            end,
            iface,
            by,
            why,
        })
    }

    /// To a better interface of the responder's, where every Child SA that has a
    /// path now would have one, too.
    fn better(&self) -> Option<Step> {
        if !self.initiator {
            return None;
        }
        let places: BTreeSet<_> = self.members.iter().map(|m| self.place(m.home)).collect();
        let used: BTreeSet<_> = places.iter().map(|place| place.remote).collect();
        used.into_iter().find_map(|iface| {
            let told = |(at, loan): (&(End, IfaceId), &super::Loan)| {
                let here = (self.carrier)(End::Remote, at.1) == iface;
                at.0 == End::Remote && here && loan.why == Why::Operator
            };
            let rank = self.moves.ranks.get(&iface)?;
            if self.moves.loans.iter().any(told) {
                return None;
            }
            let here = |place: &&IfacePair| place.remote == iface && self.up(**place);
            let others = (self.alternates)(End::Remote, iface);
            let by = others.into_iter().find(|by| {
                let better = self.moves.ranks.get(by).is_some_and(|other| other < rank);
                let mut there = places.iter().filter(here).peekable();
                let any = there.peek().is_some();
                better && any && there.all(|p| self.up(with_end(*p, End::Remote, *by)))
            })?;
            let place = *places.iter().find(|place| place.remote == iface)?;
            self.lend(End::Remote, place, by, Why::Better)
        })
    }

    /// What was lent because its home was dead, and is not any more.
    fn go_home(&self) -> Option<Step> {
        let over = |end: End, iface: IfaceId| {
            let members = self.members.iter().map(|m| m.home);
            let mut homes = members.filter(|home| at_end(*home, end) == iface);
            homes.any(|home| self.works_at_home(self.place(home), end, iface))
        };
        let ours = |end| end == End::Local || self.initiator;
        self.moves.loans.iter().find_map(|((end, iface), loan)| {
            let due = loan.why == Why::Dead && loan.until <= self.now && ours(*end);
            let by = (self.carrier)(*end, *iface);
            let rank = |iface| match end {
                End::Local => None,
                End::Remote => self.moves.ranks.get(&iface),
            };
            let worse = rank(*iface) > rank(by);
            let may = self.moves.may(*end, *iface, self.now);
            (due && may && !worse && over(*end, *iface)).then_some(Step {
                end: *end,
                iface: *iface,
                by: *iface,
                why: Why::Dead,
            })
        })
    }

    /// Whether `place` would work on `iface`, by what is known of it now.
    fn works_at_home(&self, place: IfacePair, end: End, iface: IfaceId) -> bool {
        let home = with_end(place, end, iface);
        let works = |v: &PathView| v.pair == home && v.up && v.watched;
        !self.drained.contains(&home.local) && self.views.iter().any(works)
    }
}
