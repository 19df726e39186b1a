//! Interfaces that carry others: who lends, to which, and when it is over.
//!
//! | what | who acts | and when it is over |
//! |---|---|---|
//! | Child SAs without a bundle on a path that is down, or no path of a bundle is up | the end that noticed: its own interface by MIF_UPDATE_ADDRS, the peer's by SELECT_PEER; to the first alternate that works | the owner takes them home when the path is up again, of the responder's interfaces the initiator |
//! | the responder has a better interface, and all paths there work | the initiator, by SELECT_PEER | when a better one comes, or this one dies |
//! | `mifsec move`, `mifsec drain` | who is told to | when told to |
//!
//! Whatever decides, one thing happens: the engine keeps the table of carriers and
//! says what changed, and the path engine rewrites the entry of each path. No Child
//! SA is touched.

mod choose;
mod operator;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::ids::{IfaceId, IfacePair, IkeId};
use crate::ike::mif::Features;
use crate::ike::{self, Command, End};
use crate::path::{self, IfaceState, PathView, RemoteIface, timing::RETURN_AFTER};

use super::Agent;
use super::peer::Peer;
use super::place::of_peer;

use choose::{Member, Scene};

/// How long a loan the peer refused is not asked for again.
const REFUSED: Duration = Duration::from_secs(5);

/// Why an interface is carried by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// What is at home there does not work, and returns when it does.
    Dead,
    /// The other one is better.
    Better,
    /// We were told to.
    Operator,
    /// The access is drained.
    Drained,
    /// The peer decided.
    Peer,
}

impl Why {
    /// Of what the peer decided: off an interface of ours that is dead we go home by
    /// ourselves, what its operator decided stays.
    fn of_peer(end: End, initiator: bool, dead: bool) -> Self {
        match (end, initiator) {
            (End::Local, true) if dead => Self::Dead,
            _ => Self::Peer,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Loan {
    why: Why,
    /// Not ended before then, although home works.
    until: Instant,
}

/// What is kept of one peer.
#[derive(Debug, Default)]
pub(super) struct Moves {
    features: Features,
    /// State and priority of the peer's interfaces.
    ranks: BTreeMap<IfaceId, (IfaceState, u8)>,
    loans: BTreeMap<(End, IfaceId), Loan>,
    /// Why the command under way was given.
    asking: Option<Why>,
    /// Interfaces of which a loan was refused, and until when none is tried.
    refused: BTreeMap<(End, IfaceId), Instant>,
    /// What the operator moved in an IKE SA before this one: it is moved once here.
    wishes: BTreeMap<(End, IfaceId), IfaceId>,
}

impl Moves {
    /// With the features both ends have.
    pub(super) fn new(features: Features) -> Self {
        Self {
            features,
            ..Self::default()
        }
    }

    /// What is to be moved, once it can be.
    pub(super) fn set_wishes(&mut self, wishes: BTreeMap<(End, IfaceId), IfaceId>) {
        self.wishes = wishes;
    }

    /// The peer's table.
    pub(super) fn set_remotes(&mut self, ifaces: &[RemoteIface]) {
        let rank = |iface: &RemoteIface| (iface.id, (iface.state, iface.priority));
        self.ranks = ifaces.iter().map(rank).collect();
    }

    /// The peer deleted one.
    pub(super) fn forget_remote(&mut self, iface: IfaceId) {
        self.ranks.remove(&iface);
    }

    fn may(&self, end: End, iface: IfaceId, now: Instant) -> bool {
        let chooses = end == End::Local || self.features.has(Features::ALTERNATES);
        let refused = self.refused.get(&(end, iface));
        let refused = refused.is_some_and(|until| now < *until);
        self.features.has(Features::UPDATE) && chooses && !refused
    }
}

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    end: End,
    iface: IfaceId,
    by: IfaceId,
    why: Why,
}

impl Step {
    /// What the peer hears of the interface that is left. The owner takes home what was
    /// chosen for it because its path is down, so of its interfaces only that is said.
    fn old_is_dead(&self, left_up: bool) -> bool {
        match self.end {
            End::Local => !left_up,
            End::Remote => self.why == Why::Dead && self.iface != self.by,
        }
    }
}

impl Agent {
    /// Another interface carries one of the two ends from now; `dead`: because what
    /// is left does not work, as the peer says.
    pub(super) fn carried(
        &mut self,
        ike: IkeId,
        end: End,
        iface: IfaceId,
        by: IfaceId,
        dead: bool,
        now: Instant,
    ) {
        let views = self.path.views();
        let up = home_up(of_peer(&views, ike), end, iface);
        if let Some(peer) = self.peers.get_mut(&ike) {
            let by_peer = Why::of_peer(end, peer.initiator, dead);
            let why = peer.moves.asking.unwrap_or(by_peer);
            let until = if up { now + RETURN_AFTER } else { now };
            peer.moves.wishes.remove(&(end, iface));
            if iface == by {
                peer.moves.loans.remove(&(end, iface));
                if end == End::Remote && peer.moves.asking.is_none() {
                    // It works for its owner; for us it may take its time.
                    peer.moves.refused.insert((end, iface), now + REFUSED);
                }
            } else {
                peer.moves.loans.insert((end, iface), Loan { why, until });
            }
            tracing::info!(
                ike = ike.0,
                ?end,
                iface = iface.0,
                by = by.0,
                ?why,
                "interface carried"
            );
            if why == Why::Peer {
                self.forget_move(ike, end, iface);
            }
        }
        self.path.carry(ike, side(end), iface, by, now);
        self.changed = true;
    }

    /// A loan was refused: it is not tried again soon.
    pub(super) fn loan_refused(&mut self, ike: IkeId, end: End, iface: IfaceId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&ike) {
            peer.moves.refused.insert((end, iface), now + REFUSED);
            peer.moves.wishes.remove(&(end, iface));
        }
        self.forget_move(ike, end, iface);
    }

    /// What the operator moved is elsewhere by the peer's word.
    fn forget_move(&mut self, ike: IkeId, end: End, iface: IfaceId) {
        if self.told(ike).is_some()
            && let Some(told) = self.told_mut(ike)
        {
            told.moved.remove(&(end, iface));
        }
    }

    /// A Child SA shows where its initiator's interface is at home.
    pub(super) fn homed(&mut self, ike: IkeId, pair: IfacePair, now: Instant) {
        if self.peers.get(&ike).is_some_and(|p| p.mif && !p.initiator) {
            self.path.set_home(ike, pair, now);
        }
    }

    /// Lends and takes home, one decision for each peer; each is news that leads here
    /// again.
    pub(super) fn ensure_carriers(&mut self, views: &[PathView], now: Instant) {
        if self.sabotage.no_update {
            return;
        }
        let mut members: BTreeMap<IkeId, Vec<Member>> = BTreeMap::new();
        for child in self
            .children
            .values()
            .filter(|c| !c.retired && !c.redundant)
        {
            members.entry(child.ike).or_default().push(Member {
                home: child.pair,
                bundle: child.bundle,
            });
        }
        for all in members.values_mut() {
            all.sort_unstable();
            all.dedup();
        }
        let mut steps = Vec::new();
        for (ike, members) in &members {
            let Some(peer) = self.peers.get(ike).filter(|peer| peer.mif) else {
                continue;
            };
            let scene = self.scene(*ike, peer, of_peer(views, *ike), members, now);
            steps.extend(scene.step().map(|step| (*ike, step)));
        }
        for (ike, step) in steps {
            self.take(ike, step, views, now);
        }
    }

    fn scene<'a>(
        &'a self,
        ike: IkeId,
        peer: &'a Peer,
        views: &'a [PathView],
        members: &'a [Member],
        now: Instant,
    ) -> Scene<'a> {
        let local = self.accesses.local();
        Scene {
            initiator: peer.initiator,
            views,
            members,
            moves: &peer.moves,
            usable: local
                .filter(|iface| iface.state.usable())
                .map(|iface| iface.id)
                .collect(),
            drained: self.accesses.drained(),
            carrier: Box::new(move |end, iface| self.path.carrier(ike, side(end), iface)),
            alternates: Box::new(move |end, iface| self.ike.alternates(ike, end, iface)),
            now,
        }
    }

    /// Carries a decision out: our engine, the peer and the maps follow.
    fn take(&mut self, ike: IkeId, step: Step, views: &[PathView], now: Instant) {
        let Step {
            end,
            iface,
            by,
            why,
        } = step;
        let views = of_peer(views, ike);
        let Some((old, new)) = self.ends_of(end, iface, by, views, ike) else {
            return;
        };
        let left_up = home_up(views, end, self.path_carrier(ike, end, iface));
        let moves_channel = matches!(why, Why::Operator | Why::Drained | Why::Better);
        let channel = moves_channel
            .then(|| self.channel_along(ike, end, iface, by, views))
            .flatten();
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        peer.moves.asking = Some(why);
        if let Some((channel, path)) = channel {
            peer.channel = channel;
            self.path.set_channel(ike, path);
        }
        self.ike.handle_command(
            Command::Carry {
                ike,
                end,
                iface,
                by,
                old,
                new,
                old_is_dead: step.old_is_dead(left_up),
                grace: super::MOVE_GRACE,
                channel: channel.map(|(channel, _)| channel),
            },
            now,
        );
        // The engine says at once what changed, and only now why is known.
        while let Some(event) = self.ike.poll_event() {
            self.ike_event(event, now);
        }
        if let Some(peer) = self.peers.get_mut(&ike) {
            peer.moves.asking = None;
        }
    }

    fn path_carrier(&self, ike: IkeId, end: End, iface: IfaceId) -> IfaceId {
        self.path.carrier(ike, side(end), iface)
    }

    /// The address that is left and the one that is gone to.
    fn ends_of(
        &self,
        end: End,
        iface: IfaceId,
        by: IfaceId,
        views: &[PathView],
        ike: IkeId,
    ) -> Option<(IpAddr, IpAddr)> {
        let at = |id: IfaceId| {
            let on = views.iter().filter(|v| at_end(v.pair, end) == id);
            let best = on.max_by_key(|v| (v.up, v.home, v.validated));
            let address = best.and_then(|v| if end == End::Local { v.local } else { v.remote });
            let known = (end == End::Local)
                .then(|| self.accesses.iface(id)?.addresses.first().copied())
                .flatten();
            address.map(|a| a.ip()).or(known)
        };
        let new = at(by)?;
        // Taken home: what is left is the carrier's.
        let left = if iface == by {
            self.path_carrier(ike, end, iface)
        } else {
            iface
        };
        Some((at(left).unwrap_or(new), new))
    }

    /// Where the IKE channel goes with an interface it is on.
    fn channel_along(
        &self,
        ike: IkeId,
        end: End,
        iface: IfaceId,
        by: IfaceId,
        views: &[PathView],
    ) -> Option<(ike::Channel, crate::ids::PathIndex)> {
        let current = views.iter().find(|v| v.channel)?;
        if iface == by || at_end(current.pair, end) != iface {
            return None;
        }
        let pair = with_end(current.pair, end, by);
        let to = views
            .iter()
            .filter(|v| v.pair == pair && v.up && v.validated)
            .max_by_key(|v| v.family == current.family)?;
        let peer = self.peers.get(&ike)?;
        // Of the peer's choice of interfaces only the initiator decides.
        if !peer.initiator && end == End::Remote {
            return None;
        }
        let may_ike = self.accesses.settings(to.pair.local).is_some_and(|a| a.ike);
        let channel = ike::Channel {
            local_iface: to.pair.local,
            ifindex: self.accesses.iface(to.pair.local)?.ifindex,
            local: to.local?,
            remote: to.remote?,
        };
        may_ike.then_some((channel, to.path))
    }

    /// Loans that may end by now, and refusals that are over.
    pub(super) fn moves_due(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            let before = peer.moves.refused.len();
            peer.moves.refused.retain(|_, until| *until > now);
            self.changed |= peer.moves.refused.len() != before;
            let due = |loan: &&mut Loan| loan.why == Why::Dead && loan.until <= now;
            for loan in peer.moves.loans.values_mut().filter(due) {
                // Looked at once; then its path's news leads to it.
                if loan.until > self.started {
                    loan.until = self.started;
                    self.changed = true;
                }
            }
        }
    }

    /// When the next one may.
    pub(super) fn moves_until(&self) -> Option<Instant> {
        let peers = self.peers.values();
        let times = peers.flat_map(|peer| {
            let loans = peer.moves.loans.values();
            let waits = |loan: &&Loan| loan.why == Why::Dead && loan.until > self.started;
            let loans = loans.filter(waits).map(|loan| loan.until);
            loans.chain(peer.moves.refused.values().copied())
        });
        times.min()
    }
}

/// Whether an interface's own paths work, by what is known of them now.
fn home_up(views: &[PathView], end: End, iface: IfaceId) -> bool {
    views
        .iter()
        .any(|v| at_end(v.pair, end) == iface && v.up && v.watched)
}

fn at_end(pair: IfacePair, end: End) -> IfaceId {
    match end {
        End::Local => pair.local,
        End::Remote => pair.remote,
    }
}

fn with_end(pair: IfacePair, end: End, iface: IfaceId) -> IfacePair {
    match end {
        End::Local => IfacePair {
            local: iface,
            ..pair
        },
        End::Remote => IfacePair {
            remote: iface,
            ..pair
        },
    }
}

fn side(end: End) -> path::End {
    match end {
        End::Local => path::End::Local,
        End::Remote => path::End::Remote,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_peers_operator_decided_of_our_interface_stays() {
        let of = |why, by| Step {
            end: End::Remote,
            iface: IfaceId(1),
            by: IfaceId(by),
            why,
        };
        // What it means for the end user whose interface it is.
        let heard = |step: Step, left_up| {
            let dead = step.old_is_dead(left_up);
            Why::of_peer(End::Local, true, dead)
        };
        for up in [true, false] {
            assert_eq!(heard(of(Why::Dead, 2), up), Why::Dead);
            assert_eq!(heard(of(Why::Dead, 1), up), Why::Peer, "home again");
            assert_eq!(heard(of(Why::Operator, 2), up), Why::Peer, "{up}");
        }
        assert_eq!(Why::of_peer(End::Remote, true, true), Why::Peer);
        let responder = Why::of_peer(End::Local, false, true);
        assert_eq!(responder, Why::Peer, "the initiator decides");
    }
}
