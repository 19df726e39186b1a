//! One path: which addresses it uses, which it might, and whether it is up.

mod local;
mod select;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use local::Local;

use super::candidates::{Candidates, Pair, Rank};
use super::liveness::{Liveness, Verdict};
use super::output::Output;
use super::probe::{PROBE_LEN, PathId, Probe};
use super::timing::{CHALLENGE_FIRST, GRACE, KEEPALIVE_INTERVAL, MAX_REMOTES};
use super::types::{
    Activity, Channel, DownReason, Entry, Event, LocalIface, RemoteAddr, RemoteIface, RemoteMove,
    TimerKind, Transmit, TransmitKind, Validation,
};
use crate::ids::{Arrival, Family, IfacePair, IkeId, PathIndex};

/// Our addresses tried for one path, of those an interface has.
const MAX_LOCALS: usize = 2;
/// Of an interface that was not in use.
static NO_HOPS: BTreeMap<IpAddr, Option<IpAddr>> = BTreeMap::new();

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Active {
    local: SocketAddr,
    remote: SocketAddr,
    /// The peer sees us by another address.
    nat: bool,
}

impl Active {
    fn pair(self) -> Pair {
        (self.local.ip(), self.remote)
    }
}

/// What names a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) ike: IkeId,
    pub(super) pair: IfacePair,
    pub(super) family: Family,
}

pub(super) struct Path {
    index: PathIndex,
    key: Key,
    initiator: bool,
    probes: bool,
    port: u16,
    local: Local,
    /// The router each of our addresses was the newest one with.
    hops: BTreeMap<IpAddr, Option<IpAddr>>,
    remote_usable: bool,
    remote_mtu: u16,
    active: Option<Active>,
    up: bool,
    why_down: Option<DownReason>,
    validated: bool,
    watched: bool,
    candidates: Candidates,
    live: Liveness,
    old_arrivals: VecDeque<(Instant, Arrival)>,
    /// When anything last left on the path, for the keepalive.
    last_tx: Option<Instant>,
    /// What was last said of being home; `None` before it was validated.
    told_home: Option<bool>,
}

impl Path {
    pub(super) fn new(
        index: PathIndex,
        key: Key,
        initiator: bool,
        probes: bool,
        port: u16,
        iface: &LocalIface,
    ) -> Self {
        let local = Local::of(iface, key.family);
        Self {
            index,
            key,
            initiator,
            probes,
            port,
            hops: local.hops(&BTreeMap::new()),
            local,
            remote_usable: true,
            remote_mtu: 0,
            active: None,
            up: false,
            why_down: None,
            validated: false,
            watched: false,
            candidates: Candidates::default(),
            live: Liveness::new(iface.probing),
            old_arrivals: VecDeque::new(),
            last_tx: None,
            told_home: None,
        }
    }

    pub(super) fn key(&self) -> Key {
        self.key
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    pub(super) fn is_validated(&self) -> bool {
        self.validated
    }

    pub(super) fn is_told_home(&self) -> bool {
        self.told_home == Some(true)
    }

    pub(super) fn ifindex(&self) -> u32 {
        self.local.ifindex
    }

    pub(super) fn active_remote(&self) -> Option<SocketAddr> {
        self.active.map(|active| active.remote)
    }

    /// The IKE channel's path: IKE itself has validated it.
    pub(super) fn adopt_channel(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        nat: bool,
        out: &mut Output,
        now: Instant,
    ) {
        self.candidates.announce(remote, None).prove(now);
        self.active = Some(Active { local, remote, nat });
        self.validated = true;
        // The responder's first probe would overtake its IKE_AUTH response.
        let delay = if self.initiator {
            Duration::ZERO
        } else {
            CHALLENGE_FIRST
        };
        self.live.start(None, false, now + delay, now);
        self.last_tx = Some(now);
        out.claim(self.arrival(local, remote), self.index);
        if self.local.usable_addresses().contains(&local.ip()) {
            self.set_up(out);
        } else {
            self.set_down(DownReason::LocalAddress, out, now);
            self.write_entry(out);
        }
        self.propose(out, now);
    }

    /// IKE moved the only path there is to another pair, and answers for it.
    pub(super) fn rehome(
        &mut self,
        iface: &LocalIface,
        channel: Channel,
        nat: bool,
        out: &mut Output,
        now: Instant,
    ) {
        let (local, remote) = (channel.local_addr, channel.remote_addr);
        let next = Active { local, remote, nat };
        let same_iface = self.key.pair.local == iface.id;
        let gone = self
            .active
            .filter(|old| !same_iface || (old.local, old.remote) != (local, remote))
            .map(|old| self.arrival(old.local, old.remote));
        self.key.pair.local = iface.id;
        self.key.family = Family::of(remote.ip());
        self.local = Local::of(iface, self.key.family);
        self.hops = self
            .local
            .hops(if same_iface { &self.hops } else { &NO_HOPS });
        if let Some(gone) = gone {
            self.outdate(gone, out, now);
            self.live.start(None, true, now, now);
        }
        self.active = Some(next);
        let arrival = self.arrival(local, remote);
        self.old_arrivals.retain(|(_, old)| *old != arrival);
        out.claim(arrival, self.index);
        self.last_tx = Some(now);
        if !self.active_has_local() {
            self.set_down(DownReason::LocalAddress, out, now);
            self.write_entry(out);
        } else if self.up {
            self.write_entry(out);
        } else {
            self.set_up(out);
        }
    }

    /// What still comes that way belongs to the path for a while.
    fn outdate(&mut self, gone: Arrival, out: &mut Output, now: Instant) {
        self.old_arrivals.push_back((now + GRACE, gone));
        while self.old_arrivals.len() > MAX_REMOTES {
            if let Some((_, oldest)) = self.old_arrivals.pop_front() {
                out.release(oldest, self.index);
            }
        }
    }

    /// The interface of the channel turned out to be this one.
    pub(super) fn resolve(&mut self, pair: IfacePair) {
        self.key.pair = pair;
    }

    pub(super) fn set_local(&mut self, iface: &LocalIface, out: &mut Output, now: Instant) {
        let local = Local::of(iface, self.key.family);
        if local == self.local {
            return;
        }
        let old = std::mem::replace(&mut self.local, local);
        let had_hop = self.active.map(|active| self.next_hop(active));
        self.hops = if old.ifindex == self.local.ifindex {
            self.local.hops(&self.hops)
        } else {
            self.local.hops(&BTreeMap::new())
        };
        self.live.set_probing(self.local.probing);
        let usable: Vec<_> = self.local.usable_addresses().to_vec();
        self.candidates
            .pairs
            .retain(|(address, _), _| usable.contains(address));

        if let Some(active) = self.active {
            let had = old.usable_addresses().contains(&active.local.ip());
            let has = usable.contains(&active.local.ip());
            if old.ifindex != self.local.ifindex {
                let arrival = self.arrival(active.local, active.remote);
                let before = Arrival {
                    ifindex: old.ifindex,
                    ..arrival
                };
                out.release(before, self.index);
                out.claim(arrival, self.index);
            }
            if has && !had && self.remote_usable {
                // The address is back: ask again, one answer is enough.
                if self.probes {
                    self.live.take_down(false, now);
                } else {
                    self.set_up(out);
                }
            } else if !has {
                let why = if usable.is_empty() {
                    DownReason::LocalInterface
                } else {
                    DownReason::LocalAddress
                };
                self.live.take_down(true, now);
                self.set_down(why, out, now);
            } else if self.up
                && ((old.ifindex, old.mtu, old.layer3)
                    != (self.local.ifindex, self.local.mtu, self.local.layer3)
                    || had_hop != Some(self.next_hop(active)))
            {
                self.write_entry(out);
            }
        }
        self.propose(out, now);
    }

    /// `iface` is `None` when the peer no longer announces it. `newest` is the
    /// rank of an address that was not known before.
    pub(super) fn set_remote(
        &mut self,
        iface: Option<&RemoteIface>,
        newest: Rank,
        out: &mut Output,
        now: Instant,
    ) {
        let was_usable = self.remote_usable;
        let family = self.key.family;
        self.remote_usable = iface.is_some_and(|iface| {
            let addresses = &mut iface.addresses.iter();
            iface.state.usable() && addresses.any(|address| Family::of(address.ip) == family)
        });
        let old_mtu = self.mtu();
        self.remote_mtu = iface.map_or(0, |iface| iface.mtu);
        let reachable = iface
            .into_iter()
            .flat_map(|iface| &iface.addresses)
            .filter(|address| Family::of(address.ip) == family && !address.behind_nat)
            .take(MAX_REMOTES / 2);
        let active = self.active_remote();
        self.candidates.withdraw();
        for address in reachable {
            let remote = self.remote_addr(address.ip, address.port);
            let known = self.candidates.remotes.contains_key(&remote);
            let entry = self.candidates.announce(remote, active);
            entry.label = Some(address.ip);
            if !known && entry.rank == Rank::default() {
                entry.rank = newest;
            }
        }
        if was_usable && !self.remote_usable {
            self.candidates.pairs.clear();
            self.live.take_down(true, now);
            self.set_down(DownReason::RemoteInterface, out, now);
        } else if !was_usable && self.remote_usable && self.active_has_local() {
            self.live.take_down(false, now);
        } else if self.up && self.mtu() != old_mtu {
            self.write_entry(out);
        }
        self.propose(out, now);
    }

    /// The peer says where its interface is now.
    pub(super) fn remote_at(
        &mut self,
        address: &RemoteAddr,
        rank: Rank,
        out: &mut Output,
        now: Instant,
    ) {
        if Family::of(address.ip) == self.key.family && !address.behind_nat {
            let remote = self.remote_addr(address.ip, address.port);
            let active = self.active_remote();
            let entry = self.candidates.announce(remote, active);
            entry.label = Some(address.ip);
            entry.rank = entry.rank.max(rank);
        }
        self.propose(out, now);
    }

    /// The peer says that it cannot be reached where its interface was.
    pub(super) fn remote_dead(&mut self, moved: &RemoteMove, out: &mut Output, now: Instant) {
        if let Some(active) = self.active
            && Family::of(moved.old) == self.key.family
        {
            let label = self
                .candidates
                .remotes
                .get(&active.remote)
                .and_then(|remote| remote.label)
                .unwrap_or(active.remote.ip());
            // A probe from the new address may have been here first.
            let is_old = label == moved.old || !self.has_label(moved.old);
            let same_iface = moved.old_iface == moved.new_iface;
            if is_old && (label != moved.new.ip || !same_iface) {
                self.live.take_down(true, now);
                self.set_down(DownReason::RemoteAddress, out, now);
            }
        }
        self.propose(out, now);
    }

    fn has_label(&self, label: IpAddr) -> bool {
        self.candidates
            .remotes
            .values()
            .any(|remote| remote.label == Some(label))
    }

    /// Whether to keep asking about it when nothing is wrong.
    pub(super) fn watch(&mut self, watched: bool, now: Instant) {
        self.watched = watched;
        if self.probes && self.active.is_some() {
            self.live.watch(watched, now);
        }
    }

    /// Says that it is validated, and whether it is home, when that is news.
    pub(super) fn tell_home(&mut self, home: bool, out: &mut Output) {
        if !self.validated || self.told_home == Some(home) {
            return;
        }
        let first = self.told_home.is_none();
        self.told_home = Some(home);
        if first || home {
            out.event(Event::Validated {
                ike: self.key.ike,
                pair: self.key.pair,
                path: self.index,
                home,
            });
        }
    }

    /// A challenge of the peer; `newest` when none with a higher sequence
    /// number has been seen on this path.
    pub(super) fn challenged(
        &mut self,
        arrival: Arrival,
        probe: &Probe,
        sequence: u64,
        octets: usize,
        out: &mut Output,
        now: Instant,
    ) {
        let active = self.active;
        let newest = self
            .candidates
            .remotes
            .values()
            .all(|remote| remote.rank.sequence < sequence);
        let remote = self
            .candidates
            .remote(arrival.remote, active.map(|active| active.remote));
        remote.receive(octets);
        remote.label = Some(probe.observed.ip());
        let rank = Rank {
            sequence,
            announced: false,
        };
        remote.rank = remote.rank.max(rank);
        let pair = (arrival.local.ip(), arrival.remote);
        match active {
            Some(active) if active.pair() == pair => {
                if !self.up && self.remote_usable && self.active_has_local() && self.live_paused() {
                    // It was said to be gone, and is not.
                    self.live.take_down(false, now);
                }
                self.live.heard(now);
            }
            Some(active) if active.remote == arrival.remote && self.up => self.live.remind(now),
            _ if newest && self.local.usable_addresses().contains(&pair.0) => {
                let candidate = self.candidates.pair(pair, now);
                if !candidate.is_fresh(now) {
                    candidate.restart(now);
                }
            }
            _ => {}
        }
        if let Some(candidate) = self.candidates.pairs.get_mut(&pair) {
            candidate.hear(now);
        }
        self.propose(out, now);
    }

    fn live_paused(&self) -> bool {
        self.why_down == Some(DownReason::RemoteAddress)
    }

    /// An answer. Returns whether the token was one of ours.
    pub(super) fn answered(
        &mut self,
        arrival: Arrival,
        probe: &Probe,
        sequence: u64,
        out: &mut Output,
        now: Instant,
    ) -> bool {
        let nat = |local: SocketAddr| probe.observed != local;
        if let Some(active) = &mut self.active {
            let pair = active.pair();
            if let Some(verdict) = self.live.answered(probe.token, now) {
                if arrival.local.ip() == pair.0 {
                    active.nat = nat(active.local);
                }
                if let Some(remote) = self.candidates.remotes.get_mut(&pair.1) {
                    remote.prove(now);
                }
                if verdict == Verdict::Returned && self.remote_usable && self.active_has_local() {
                    self.set_up(out);
                }
                return true;
            }
        }
        let Some(pair) = self.candidates.answer(probe.token, now) else {
            return false;
        };
        let account = (self.key.pair.local, pair.1.ip());
        out.budget.answered(self.key.ike, account);
        let local = SocketAddr::new(pair.0, self.port);
        if let Some(candidate) = self.candidates.pairs.get_mut(&pair) {
            candidate.nat = nat(local);
        }
        if let Some(remote) = self.candidates.remotes.get_mut(&pair.1) {
            remote.prove(now);
            if std::mem::take(&mut remote.from_data) {
                let rank = Rank {
                    sequence,
                    announced: false,
                };
                remote.rank = remote.rank.max(rank);
            }
        }
        self.choose(out, now);
        self.propose(out, now);
        true
    }

    /// Data from an address we did not know, on an SA of this path.
    pub(super) fn new_source(&mut self, arrival: Arrival, out: &mut Output, now: Instant) {
        let pair = (arrival.local.ip(), arrival.remote);
        let active = self.active;
        if !self.probes
            || arrival.ifindex != self.local.ifindex
            || Family::of(pair.0) != self.key.family
            || !self.local.usable_addresses().contains(&pair.0)
            || active.is_some_and(|active| active.remote == arrival.remote)
        {
            out.count("path_new_source_ignored");
            return;
        }
        let known = self.candidates.pairs.contains_key(&pair);
        let remote = self
            .candidates
            .remote(arrival.remote, active.map(|active| active.remote));
        remote.from_data |= !known;
        // An ESP packet is hardly ever shorter than a probe.
        remote.receive(PROBE_LEN);
        let candidate = self.candidates.pair(pair, now);
        if !known || candidate.state == Validation::Failed {
            candidate.restart(now);
        }
        self.propose(out, now);
    }

    /// Returns whether data has passed.
    pub(super) fn activity(&mut self, activity: Activity, now: Instant) -> bool {
        let (passed, sent) = self.live.activity(activity, now);
        if sent {
            self.last_tx = Some(now);
        }
        passed
    }

    /// Data left on the path's index over what carries it. Returns whether any did.
    pub(super) fn sent_elsewhere(&mut self, activity: Activity) -> bool {
        self.live.sent_elsewhere(activity)
    }

    /// Data of paths that ride on this one has left.
    pub(super) fn sent_for_riders(&mut self, now: Instant) {
        self.live.sent_for_riders(now);
        self.last_tx = Some(now);
    }

    pub(super) fn set_active_until(&mut self, until: Instant, now: Instant) {
        self.live.set_active_until(until, now);
    }

    pub(super) fn timeout(&mut self, out: &mut Output, now: Instant) {
        while let Some((due, arrival)) = self.old_arrivals.front().copied()
            && due <= now
        {
            self.old_arrivals.pop_front();
            out.release(arrival, self.index);
        }
        if self.probes && self.active.is_some() {
            let (verdict, probe) = self.live.timeout(now);
            if verdict == Verdict::Died {
                self.set_down(DownReason::Unanswered, out, now);
                self.propose(out, now);
            }
            if probe {
                self.probe_active(out, now);
            }
        }
        self.challenge_due(out, now);
        if let Some((due, _)) = self.keepalive()
            && due <= now
            && let Some(active) = self.active
        {
            self.last_tx = Some(now);
            out.transmits.push_back(Transmit {
                ike: self.key.ike,
                path: self.index,
                ifindex: self.local.ifindex,
                local: active.local,
                remote: active.remote,
                kind: TransmitKind::Keepalive,
            });
        }
    }

    pub(super) fn deadline(&self) -> Option<(Instant, TimerKind)> {
        let challenge = self
            .candidates
            .next_at()
            .map(|at| (at, TimerKind::Challenge));
        let grace = self
            .old_arrivals
            .front()
            .map(|(at, _)| (*at, TimerKind::Grace));
        let live = (self.probes && self.active.is_some())
            .then(|| self.live.deadline())
            .flatten();
        [challenge, grace, live, self.keepalive()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether a probe may go there; takes its worth from the budget.
    fn may_send(&mut self, remote: SocketAddr, out: &mut Output, now: Instant) -> bool {
        if self.up && self.active_remote() == Some(remote) {
            return true;
        }
        let Some(known) = self.candidates.remotes.get_mut(&remote) else {
            return false;
        };
        let account = (self.key.pair.local, remote.ip());
        known.is_proven(now)
            || known.spend()
            || known.named && out.budget.spend(self.key.ike, account, now)
    }

    /// A reply is to be sent to an address of this path.
    pub(super) fn replied(&mut self, remote: SocketAddr, out: &mut Output, now: Instant) -> bool {
        let allowed = self.may_send(remote, out, now);
        if allowed && self.active_remote() == Some(remote) {
            self.last_tx = Some(now);
        }
        allowed
    }

    pub(super) fn remove(&mut self, out: &mut Output) {
        if let Some(active) = self.active.take() {
            let arrival = self.arrival(active.local, active.remote);
            out.release(arrival, self.index);
        }
        for (_, arrival) in std::mem::take(&mut self.old_arrivals) {
            out.release(arrival, self.index);
        }
        out.removed(self.index);
    }

    pub(super) fn path_id(&self) -> PathId {
        path_id(self.key.pair, self.initiator)
    }

    fn set_up(&mut self, out: &mut Output) {
        let was = std::mem::replace(&mut self.up, true);
        self.why_down = None;
        self.write_entry(out);
        if !was {
            out.event(Event::Up {
                ike: self.key.ike,
                pair: self.key.pair,
                path: self.index,
            });
        }
    }

    fn set_down(&mut self, why: DownReason, out: &mut Output, now: Instant) {
        self.why_down = Some(why);
        if why != DownReason::Unanswered && self.active.is_some() && !self.live.is_dead() {
            self.live.take_down(true, now);
        }
        if !std::mem::replace(&mut self.up, false) {
            return;
        }
        self.write_entry(out);
        out.event(Event::Down {
            ike: self.key.ike,
            pair: self.key.pair,
            path: self.index,
            why,
        });
    }

    fn write_entry(&self, out: &mut Output) {
        let Some(active) = self.active else {
            return;
        };
        let entry = Entry {
            up: self.up,
            ifindex: self.local.ifindex,
            local: active.local,
            remote: active.remote,
            next_hop: self.next_hop(active),
            mtu: self.mtu(),
            layer3: self.local.layer3,
        };
        out.entry(self.index, entry);
    }

    fn next_hop(&self, active: Active) -> IpAddr {
        let known = self.hops.get(&active.local.ip()).copied();
        known
            .unwrap_or(self.local.next_hop)
            .unwrap_or(active.remote.ip())
    }

    fn keepalive(&self) -> Option<(Instant, TimerKind)> {
        let active = self.active?;
        let last = self.last_tx?;
        let kept = self.up && active.nat && (self.watched || !self.probes);
        kept.then(|| (last + KEEPALIVE_INTERVAL, TimerKind::Keepalive))
    }

    fn active_has_local(&self) -> bool {
        self.active
            .is_some_and(|active| self.local.usable_addresses().contains(&active.local.ip()))
    }

    fn mtu(&self) -> u16 {
        match self.remote_mtu {
            0 => self.local.mtu,
            remote => self.local.mtu.min(remote),
        }
    }

    fn remote_addr(&self, ip: IpAddr, port: u16) -> SocketAddr {
        SocketAddr::new(ip, if port == 0 { self.port } else { port })
    }

    fn arrival(&self, local: SocketAddr, remote: SocketAddr) -> Arrival {
        Arrival {
            ifindex: self.local.ifindex,
            local,
            remote,
        }
    }
}

/// A pair as the wire names it.
pub(super) fn path_id(pair: IfacePair, initiator: bool) -> PathId {
    if initiator {
        PathId {
            initiator: pair.local,
            responder: pair.remote,
        }
    } else {
        PathId {
            initiator: pair.remote,
            responder: pair.local,
        }
    }
}

/// The pair a path id means to us.
pub(super) fn pair_of(path: PathId, initiator: bool) -> IfacePair {
    if initiator {
        IfacePair {
            local: path.initiator,
            remote: path.responder,
        }
    } else {
        IfacePair {
            local: path.responder,
            remote: path.initiator,
        }
    }
}
