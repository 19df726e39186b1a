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
            .or_else(|| self.as_before())
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
        up(self.views, pair)
    }

    /// Whether everything on an interface can go to another.
    fn goes(&self, end: End, iface: IfaceId, by: IfaceId) -> bool {
        let places = self.members.iter().map(|m| self.place(m.home));
        let there: Vec<_> = places.filter(|p| at_end(*p, end) == iface).collect();
        !there.is_empty() && missing(self.views, &there, end, by).is_none()
    }

    fn drain(&self) -> Option<Step> {
        self.drained.iter().find_map(|iface| {
            let mut others = (self.alternates)(End::Local, *iface).into_iter();
            let free = |by: &IfaceId| !self.drained.contains(by);
            let by = others.find(|by| free(by) && self.goes(End::Local, *iface, *by))?;
            self.lend(End::Local, *iface, by, Why::Drained)
        })
    }

    /// What the operator moved in the IKE SA before this one, once it can be.
    fn as_before(&self) -> Option<Step> {
        self.moves.wishes.iter().find_map(|((end, iface), by)| {
            let allowed = match end {
                End::Local => !self.drained.contains(by),
                End::Remote => (self.alternates)(*end, *iface).contains(by),
            };
            (allowed && self.goes(*end, *iface, *by))
                .then(|| self.lend(*end, *iface, *by, Why::Operator))
                .flatten()
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
            let iface = at_end(place, end);
            let mut others = (self.alternates)(end, iface).into_iter();
            let by = others.find(|by| self.up(with_end(place, end, *by)))?;
            self.lend(end, iface, by, Why::Dead)
        })
    }

    fn lend(&self, end: End, iface: IfaceId, by: IfaceId, why: Why) -> Option<Step> {
        self.moves.may(end, iface, self.now).then_some(Step {
            end,
            iface,
            by,
            why,
        })
    }

    /// To a better interface of the responder's, off one that works.
    fn better(&self) -> Option<Step> {
        if !self.initiator {
            return None;
        }
        let places: BTreeSet<_> = self.members.iter().map(|m| self.place(m.home)).collect();
        let works = places.iter().filter(|place| self.up(**place));
        let used: BTreeSet<_> = works.map(|place| place.remote).collect();
        used.into_iter().find_map(|iface| {
            let told = |(at, loan): (&(End, IfaceId), &super::Loan)| {
                let here = (self.carrier)(End::Remote, at.1) == iface;
                // What its owner decided is the owner's to undo.
                at.0 == End::Remote && here && matches!(loan.why, Why::Operator | Why::Peer)
            };
            let rank = self.moves.ranks.get(&iface)?;
            if self.moves.loans.iter().any(told) {
                return None;
            }
            let better = |by: &IfaceId| self.moves.ranks.get(by).is_some_and(|other| other < rank);
            let mut others = (self.alternates)(End::Remote, iface).into_iter();
            let by = others.find(|by| better(by) && self.goes(End::Remote, iface, *by))?;
            self.lend(End::Remote, iface, by, Why::Better)
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

/// Whether Child SAs at a place have a path that works.
fn up(views: &[PathView], place: IfacePair) -> bool {
    // Until the peer's table is known the channel's pair has no name.
    let same = |v: &PathView| {
        let unnamed = place.remote == IfaceId::CHANNEL;
        v.pair.local == place.local && (unnamed || v.pair.remote == place.remote)
    };
    views.iter().any(|v| same(v) && v.up && v.validated)
}

/// The path that is missing for what is at `places` to go to another interface of one
/// end: what works has to go on to, and one of them has to work.
pub(super) fn missing(
    views: &[PathView],
    places: &[IfacePair],
    end: End,
    by: IfaceId,
) -> Option<IfacePair> {
    let there = |place: &IfacePair| with_end(*place, end, by);
    let lost = |place: &&IfacePair| up(views, **place) && !up(views, there(place));
    let none = !places.iter().any(|place| up(views, there(place)));
    let lost = places.iter().find(lost);
    lost.or(places.first().filter(|_| none)).map(there)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Loan;
    use super::*;
    use crate::ids::{AccessId, Family, IkeId, PathIndex};
    use crate::ike::mif::Features;
    use crate::path::{IfaceState, Validation};

    /// Paths that are up, and those that are down, as (ours, the peer's).
    fn views(up: &[(u16, u16)], down: &[(u16, u16)]) -> Vec<PathView> {
        let view = |(local, remote): &(u16, u16), up: bool| PathView {
            path: PathIndex(u32::from(10 * local + remote)),
            ike: IkeId(1),
            access: AccessId(*local),
            pair: pair(*local, *remote),
            family: Family::V4,
            local: None,
            remote: None,
            nat: false,
            local_nat: false,
            up,
            validation: Validation::Validated,
            validated: true,
            channel: false,
            home: true,
            watched: true,
            carried_by: None,
            rtt: None,
            loss_ppm: 0,
            mtu: 1500,
        };
        let up = up.iter().map(|pair| view(pair, true));
        up.chain(down.iter().map(|pair| view(pair, false)))
            .collect()
    }

    fn pair(local: u16, remote: u16) -> IfacePair {
        IfacePair {
            local: IfaceId(local),
            remote: IfaceId(remote),
        }
    }

    fn member(local: u16, remote: u16, bundle: bool) -> Member {
        Member {
            home: pair(local, remote),
            bundle,
        }
    }

    /// The peer's interfaces with their priorities, all up.
    fn moves(remotes: &[(u16, u8)]) -> Moves {
        let mut moves = Moves::new(Features(u32::MAX));
        let rank = |(id, priority): &(u16, u8)| (IfaceId(*id), (IfaceState::Up, *priority));
        moves.ranks = remotes.iter().map(rank).collect();
        moves
    }

    /// Interfaces 1 to 3 at both ends, alternates in that order, nothing carried but
    /// what `carried` says.
    fn scene<'a>(
        views: &'a [PathView],
        members: &'a [Member],
        moves: &'a Moves,
        carried: &'a [(End, u16, u16)],
    ) -> Scene<'a> {
        Scene {
            initiator: true,
            views,
            members,
            moves,
            usable: [1, 2, 3].map(IfaceId).into(),
            drained: BTreeSet::new(),
            carrier: Box::new(|end, iface| {
                let mut found = carried
                    .iter()
                    .filter(|c| (c.0, IfaceId(c.1)) == (end, iface));
                found.next().map_or(iface, |c| IfaceId(c.2))
            }),
            alternates: Box::new(|_, iface| {
                let all = [1, 2, 3].map(IfaceId).into_iter();
                all.filter(|other| *other != iface).collect()
            }),
            now: Instant::now(),
        }
    }

    fn step(end: End, iface: u16, by: u16, why: Why) -> Option<Step> {
        Some(Step {
            end,
            iface: IfaceId(iface),
            by: IfaceId(by),
            why,
        })
    }

    #[test]
    fn what_is_alone_on_a_dead_path_goes_to_the_first_alternate_that_works() {
        let moves = moves(&[(1, 0)]);
        let members = [member(1, 1, false), member(3, 1, false)];
        let paths = views(&[(3, 1)], &[(1, 1), (2, 1)]);
        let mut here = scene(&paths, &members, &moves, &[]);
        assert_eq!(here.step(), step(End::Local, 1, 3, Why::Dead));
        here.initiator = false;
        assert_eq!(
            here.step(),
            step(End::Local, 1, 3, Why::Dead),
            "the other is fine"
        );
        let unknown = views(&[(3, 1)], &[]);
        assert_eq!(
            scene(&unknown, &members, &moves, &[]).step(),
            None,
            "never worked"
        );
        let bundle = [member(1, 1, true), member(3, 1, true)];
        let here = scene(&paths, &bundle, &moves, &[]);
        assert_eq!(here.step(), None, "its flows are elsewhere");
    }

    #[test]
    fn what_works_goes_on_to_or_nothing_moves_and_what_is_down_does_not_count() {
        let places = [pair(1, 1), pair(2, 1)];
        let to = |up: &[(u16, u16)], down: &[(u16, u16)]| {
            missing(&views(up, down), &places, End::Remote, IfaceId(2))
        };
        let gone = [(2, 1), (2, 2)];
        assert_eq!(to(&[(1, 1), (1, 2)], &gone), None, "2 is out of range");
        assert_eq!(to(&[(1, 1), (2, 1), (1, 2)], &[]), Some(pair(2, 2)));
        assert_eq!(to(&[(1, 1)], &gone), Some(pair(1, 2)));
        assert_eq!(
            to(&[], &[(1, 1), (2, 1)]),
            Some(pair(1, 2)),
            "nothing works"
        );
        assert_eq!(to(&[(2, 2)], &[(1, 1), (2, 1)]), None, "one does then");
        let unnamed = [pair(1, 0)];
        let paths = views(&[(1, 1), (3, 1)], &[]);
        assert_eq!(missing(&paths, &unnamed, End::Local, IfaceId(3)), None);
        let none = missing(&paths, &unnamed, End::Local, IfaceId(2));
        assert_eq!(none, Some(pair(2, 0)));
    }

    #[test]
    fn a_drained_interface_is_left_for_one_where_all_that_works_works() {
        let table = moves(&[(1, 0), (2, 0)]);
        // The gateway's: of the end user's two accesses.
        let members = [member(1, 1, true), member(1, 2, false)];
        let drain = |up: &[(u16, u16)], down: &[(u16, u16)]| {
            let paths = views(up, down);
            let mut here = scene(&paths, &members, &table, &[]);
            here.initiator = false;
            here.drained.insert(IfaceId(1));
            here.drain()
        };
        let left_for = |by| step(End::Local, 1, by, Why::Drained);
        let home = [(1, 1), (1, 2)];
        let with = |more: &[(u16, u16)]| [&home, more].concat();
        assert_eq!(drain(&with(&[(2, 2)]), &[]), None, "(2, 1) never worked");
        assert_eq!(drain(&with(&[(2, 2), (3, 1), (3, 2)]), &[]), left_for(3));
        let gone = [(1, 1), (2, 1), (3, 1)];
        assert_eq!(drain(&[(1, 2), (2, 2)], &gone), left_for(2));
    }

    #[test]
    fn the_gateway_blames_the_end_users_access() {
        let moves = moves(&[(1, 0), (2, 0)]);
        let members = [member(1, 1, false)];
        let paths = views(&[(1, 2)], &[(1, 1)]);
        let mut here = scene(&paths, &members, &moves, &[]);
        here.initiator = false;
        assert_eq!(here.step(), step(End::Remote, 1, 2, Why::Dead));
    }

    #[test]
    fn a_bundle_without_any_path_follows_the_gateway_to_another_interface() {
        let moves = moves(&[(1, 0), (2, 0)]);
        let members = [member(1, 1, true), member(2, 1, true)];
        let paths = views(&[(1, 2), (2, 2)], &[(1, 1), (2, 1)]);
        let here = scene(&paths, &members, &moves, &[]);
        assert_eq!(here.step(), step(End::Remote, 1, 2, Why::Dead));
    }

    #[test]
    fn to_a_better_interface_go_all_or_nobody() {
        let table = moves(&[(1, 5), (2, 1)]);
        let members = [member(1, 1, true), member(2, 1, true)];
        let all = views(&[(1, 1), (2, 1), (1, 2), (2, 2)], &[]);
        let here = scene(&all, &members, &table, &[]);
        assert_eq!(here.step(), step(End::Remote, 1, 2, Why::Better));
        let some = views(&[(1, 1), (2, 1), (1, 2)], &[(2, 2)]);
        assert_eq!(scene(&some, &members, &table, &[]).step(), None);
        let equal = moves(&[(1, 5), (2, 5)]);
        assert_eq!(scene(&all, &members, &equal, &[]).step(), None);
        let mut responder = scene(&all, &members, &table, &[]);
        responder.initiator = false;
        assert_eq!(responder.step(), None, "the end user chooses");
        for why in [Why::Operator, Why::Peer] {
            let mut told = moves(&[(1, 5), (2, 1)]);
            let until = Instant::now();
            let loan = Loan { why, until };
            told.loans.insert((End::Remote, IfaceId(3)), loan);
            let carried = [(End::Remote, 3, 1)];
            let here = scene(&all, &members, &told, &carried);
            assert_eq!(here.step(), None, "{why:?}: it was told to be there");
        }
    }

    #[test]
    fn a_loan_ends_when_home_works_and_it_was_for_that() {
        let members = [member(1, 1, false), member(2, 1, false)];
        let carried = [(End::Local, 1, 2)];
        let both = views(&[(1, 1), (2, 1)], &[]);
        for why in [Why::Dead, Why::Operator, Why::Drained, Why::Peer] {
            let mut moves = moves(&[(1, 0)]);
            let until = Instant::now();
            let loan = Loan { why, until };
            moves.loans.insert((End::Local, IfaceId(1)), loan);
            let here = scene(&both, &members, &moves, &carried);
            let expected = (why == Why::Dead).then(|| step(End::Local, 1, 1, why));
            assert_eq!(here.step(), expected.flatten(), "{why:?}");
            let dead = views(&[(2, 1)], &[(1, 1)]);
            assert_eq!(scene(&dead, &members, &moves, &carried).step(), None);
        }
        let mut moves = moves(&[(1, 0)]);
        let loan = Loan {
            why: Why::Dead,
            until: Instant::now() + Duration::from_secs(3),
        };
        moves.loans.insert((End::Local, IfaceId(1)), loan);
        let here = scene(&both, &members, &moves, &carried);
        assert_eq!(here.step(), None, "it was up when it was lent: wait");
    }

    #[test]
    fn what_the_operator_moved_is_moved_again_in_the_next_ike_sa() {
        let mut moves = moves(&[(1, 0)]);
        let wish = ((End::Local, IfaceId(1)), IfaceId(2));
        moves.set_wishes([wish].into());
        let members = [member(1, 1, true), member(2, 1, true)];
        let some = views(&[(1, 1)], &[(2, 1)]);
        assert_eq!(scene(&some, &members, &moves, &[]).step(), None, "not yet");
        let both = views(&[(1, 1), (2, 1)], &[]);
        let here = scene(&both, &members, &moves, &[]);
        assert_eq!(here.step(), step(End::Local, 1, 2, Why::Operator));
        let carried = [(End::Local, 1, 2)];
        let here = scene(&both, &members, &moves, &carried);
        assert_eq!(here.step(), None, "done");
    }

    #[test]
    fn what_was_refused_is_not_asked_again_soon_and_drained_is_left_first() {
        let mut moves = moves(&[(1, 0)]);
        let members = [member(1, 1, true), member(2, 1, true)];
        let both = views(&[(1, 1), (2, 1)], &[]);
        let drained = |moves: &Moves| {
            let mut here = scene(&both, &members, moves, &[]);
            here.drained.insert(IfaceId(1));
            here.step()
        };
        assert_eq!(drained(&moves), step(End::Local, 1, 2, Why::Drained));
        let later = Instant::now() + Duration::from_secs(5);
        moves.refused.insert((End::Remote, IfaceId(1)), later);
        let drain = step(End::Local, 1, 2, Why::Drained);
        assert_eq!(drained(&moves), drain, "that is the peer's interface");
        moves.refused.insert((End::Local, IfaceId(1)), later);
        assert_eq!(drained(&moves), None);
    }
}
