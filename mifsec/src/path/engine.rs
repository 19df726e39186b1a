//! The tables, and which path an input is for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::NO_PATH;
use super::candidates::Rank;
use super::home::{self, homes};
use super::output::Output;
use super::probe::{Probe, ProbeKind};
use super::state::{Key, Path, pair_of, path_id};
use super::timing::{ACTIVE_FOR, REPLIES_PER_SECOND};
use super::types::{
    Activity, Channel, Config, Event, LocalIface, PathView, PeerParams, RemoteIface, RemoteMove,
    TimerKind, Transmit, TransmitKind,
};
use crate::crypto::Entropy;
use crate::ids::{Arrival, Family, IfaceId, IfacePair, IkeId, PathIndex};

/// How long a path's index rests before another path gets it: readers of the
/// maps must have let go of the old meaning.
const INDEX_REST: Duration = Duration::from_secs(1);

/// All paths to all peers.
pub struct Engine {
    config: Config,
    locals: BTreeMap<IfaceId, LocalIface>,
    peers: BTreeMap<IkeId, Peer>,
    paths: BTreeMap<PathIndex, Path>,
    /// Every path's next deadline, and each path's place in it.
    schedule: BTreeSet<(Instant, PathIndex)>,
    scheduled: BTreeMap<PathIndex, Instant>,
    next_index: u32,
    free: VecDeque<(Instant, PathIndex)>,
    out: Output,
    last_now: Option<Instant>,
}

struct Peer {
    params: PeerParams,
    remotes: BTreeMap<IfaceId, RemoteIface>,
    has_table: bool,
    paths: BTreeMap<(IfacePair, Family), PathIndex>,
    channel: PathIndex,
    homes: BTreeMap<IfaceId, IfaceId>,
    /// The highest sequence number seen in the probe SA.
    newest: u64,
    active_until: Option<Instant>,
    replies: u32,
    replies_since: Instant,
}

impl Peer {
    /// A token bucket of one second's worth.
    fn may_reply(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.replies_since);
        let earned = elapsed.as_millis() * u128::from(REPLIES_PER_SECOND) / 1000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(REPLIES_PER_SECOND);
            self.replies = self.replies.saturating_add(earned).min(REPLIES_PER_SECOND);
            self.replies_since = now;
        }
        let may = self.replies > 0;
        self.replies = self.replies.saturating_sub(1);
        may
    }

    fn is_home(&self, pair: IfacePair) -> bool {
        let id = path_id(pair, self.params.initiator);
        pair.remote == IfaceId::CHANNEL || self.homes.get(&id.initiator) == Some(&id.responder)
    }

    fn pair_paths(&self, pair: IfacePair) -> impl Iterator<Item = PathIndex> + '_ {
        [Family::V4, Family::V6]
            .into_iter()
            .filter_map(move |family| self.paths.get(&(pair, family)).copied())
    }
}

impl Engine {
    /// An engine without interfaces and peers.
    #[must_use]
    pub fn new(config: Config, entropy: Box<dyn Entropy>) -> Self {
        Self {
            config,
            locals: BTreeMap::new(),
            peers: BTreeMap::new(),
            paths: BTreeMap::new(),
            schedule: BTreeSet::new(),
            scheduled: BTreeMap::new(),
            next_index: 0,
            free: VecDeque::new(),
            out: Output::new(entropy),
            last_now: None,
        }
    }

    /// Replaces what is known of one of our interfaces.
    pub fn set_local(&mut self, iface: LocalIface, now: Instant) {
        self.last_now = Some(now);
        let id = iface.id;
        for path in self.paths.values_mut() {
            if path.key().pair.local == id {
                path.set_local(&iface, &mut self.out, now);
            }
        }
        self.locals.insert(id, iface);
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for ike in peers {
            self.settle_peer(ike, now);
        }
    }

    /// A new IKE SA. The path of its channel exists and is validated at once:
    /// IKE has just been answered there.
    pub fn add_peer(&mut self, ike: IkeId, params: PeerParams, now: Instant) {
        self.last_now = Some(now);
        self.remove_peer_at(ike, now);
        let mut peer = Peer {
            params,
            remotes: BTreeMap::new(),
            has_table: false,
            paths: BTreeMap::new(),
            channel: NO_PATH,
            homes: BTreeMap::new(),
            newest: 0,
            active_until: None,
            replies: REPLIES_PER_SECOND,
            replies_since: now,
        };
        let Channel {
            local,
            local_addr,
            remote_addr,
        } = params.channel;
        let key = Key {
            ike,
            pair: IfacePair {
                local,
                remote: IfaceId::CHANNEL,
            },
            family: Family::of(remote_addr.ip()),
        };
        if let Some(index) = self.create(key, &mut peer, now)
            && let Some(path) = self.paths.get_mut(&index)
        {
            peer.channel = index;
            path.adopt_channel(
                local_addr,
                remote_addr,
                params.behind_nat,
                &mut self.out,
                now,
            );
        }
        self.peers.insert(ike, peer);
        self.settle_peer(ike, now);
    }

    /// Replaces what is known of a peer's interfaces (MIF_INTERFACES). One that
    /// is missing is down.
    pub fn set_remote(&mut self, ike: IkeId, ifaces: Vec<RemoteIface>, now: Instant) {
        self.last_now = Some(now);
        let Some(peer) = self.peers.get_mut(&ike) else {
            self.out.count("path_unknown_peer");
            return;
        };
        if !peer.params.probes {
            return;
        }
        let newest = if std::mem::replace(&mut peer.has_table, true) {
            Rank {
                sequence: peer.newest,
                announced: true,
            }
        } else {
            Rank::default()
        };
        peer.remotes = ifaces.into_iter().map(|iface| (iface.id, iface)).collect();
        self.resolve_announced(ike);
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        let indices: Vec<_> = peer.paths.values().copied().collect();
        for index in indices {
            if let Some(path) = self.paths.get_mut(&index)
                && path.key().pair.remote != IfaceId::CHANNEL
            {
                let iface = peer.remotes.get(&path.key().pair.remote);
                path.set_remote(iface, newest, &mut self.out, now);
            }
        }
        self.settle_peer(ike, now);
    }

    /// The peer says that paths of one of its interfaces move (MIF_UPDATE_ADDRS).
    pub fn remote_moved(&mut self, ike: IkeId, moved: RemoteMove, now: Instant) {
        self.last_now = Some(now);
        let Some(peer) = self.peers.get(&ike).filter(|peer| peer.params.probes) else {
            self.out.count("path_unknown_peer");
            return;
        };
        let rank = Rank {
            sequence: peer.newest,
            announced: true,
        };
        let indices: Vec<_> = peer.paths.values().copied().collect();
        for index in indices {
            if let Some(path) = self.paths.get_mut(&index)
                && path.key().pair.remote == moved.old_iface
            {
                path.remote_moved(&moved, rank, &mut self.out, now);
            }
        }
        self.settle_peer(ike, now);
    }

    /// The IKE channel now runs on this path.
    pub fn set_channel(&mut self, ike: IkeId, path: PathIndex) {
        if let Some(peer) = self.peers.get_mut(&ike)
            && peer.paths.values().any(|known| *known == path)
        {
            peer.channel = path;
        }
    }

    /// Forgets a peer and removes its paths.
    pub fn remove_peer(&mut self, ike: IkeId) {
        if let Some(now) = self.last_now {
            self.remove_peer_at(ike, now);
        }
    }

    /// A packet opened in a peer's probe SA: its sequence number and plaintext.
    pub fn handle_probe(
        &mut self,
        ike: IkeId,
        arrival: Arrival,
        sequence: u64,
        payload: &[u8],
        now: Instant,
    ) {
        self.last_now = Some(now);
        let Some(peer) = self.peers.get_mut(&ike) else {
            self.out.count("path_unknown_peer");
            return;
        };
        let Ok(probe) = Probe::decode(payload) else {
            self.out.count("path_probe_malformed");
            return;
        };
        peer.newest = peer.newest.max(sequence);
        let mut pair = pair_of(probe.path, peer.params.initiator);
        if pair.local == IfaceId::CHANNEL
            && let Some(iface) = self.local_of(arrival)
        {
            pair.local = iface;
        }
        self.resolve_observed(ike, pair.remote, arrival, now);
        match probe.kind {
            ProbeKind::Challenge => {
                self.handle_challenge(ike, pair, arrival, &probe, sequence, payload.len(), now);
            }
            ProbeKind::Reply => self.handle_reply(ike, pair, arrival, &probe, sequence, now),
        }
        self.settle_pair(ike, pair, now);
    }

    /// Data opened on an SA of this path from an address that is not known.
    pub fn handle_new_source(&mut self, path: PathIndex, arrival: Arrival, now: Instant) {
        self.last_now = Some(now);
        if let Some(path) = self.paths.get_mut(&path) {
            path.new_source(arrival, &mut self.out, now);
        }
        self.reschedule(path);
    }

    /// What has passed on a path; to be told at least every 10 ms while there
    /// is traffic, and not needed without.
    pub fn handle_activity(&mut self, path: PathIndex, activity: Activity, now: Instant) {
        self.last_now = Some(now);
        let Some(state) = self.paths.get_mut(&path) else {
            return;
        };
        let ike = state.key().ike;
        if state.activity(activity, now) {
            self.mark_active(ike, now);
        }
        self.reschedule(path);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.last_now = Some(now);
        let due: Vec<_> = self
            .schedule
            .iter()
            .take_while(|(due, _)| *due <= now)
            .map(|(_, index)| *index)
            .collect();
        for index in due {
            if let Some(path) = self.paths.get_mut(&index) {
                path.timeout(&mut self.out, now);
                let key = path.key();
                self.settle_pair(key.ike, key.pair, now);
            }
            self.reschedule(index);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next, and what for.
    /// While output waits to be taken this is the time of the last input.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        if (!self.out.transmits.is_empty() || !self.out.events.is_empty())
            && let Some(now) = self.last_now
        {
            return Some((now, TimerKind::Drain));
        }
        let (_, index) = self.schedule.first()?;
        self.paths.get(index)?.deadline()
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// The next piece of news.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// All paths, by peer and pair.
    #[must_use]
    pub fn views(&self) -> Vec<PathView> {
        self.peers
            .values()
            .flat_map(|peer| {
                peer.paths.values().filter_map(|index| {
                    let path = self.paths.get(index)?;
                    Some(path.view(*index == peer.channel))
                })
            })
            .collect()
    }

    /// What was refused, by reason.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        self.out.counters.clone()
    }

    #[expect(clippy::too_many_arguments, reason = "one call site")]
    fn handle_challenge(
        &mut self,
        ike: IkeId,
        pair: IfacePair,
        arrival: Arrival,
        probe: &Probe,
        sequence: u64,
        octets: usize,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        if !peer.may_reply(now) {
            self.out.count("path_probe_rate");
            return;
        }
        let known = peer.paths.get(&(pair, Family::of(arrival.local.ip())));
        let initiator = peer.params.initiator;
        let index = known.copied().unwrap_or(NO_PATH);
        let mut allowed = true;
        match self.paths.get_mut(&index) {
            Some(path) if path.ifindex() == arrival.ifindex => {
                path.challenged(arrival, probe, sequence, octets, &mut self.out, now);
                allowed = path.replied(arrival.remote, now);
            }
            Some(_) => self.out.count("path_probe_interface"),
            // The tables may be on their way; an answer costs nothing.
            None => self.out.count("path_probe_unknown"),
        }
        if !allowed {
            self.out.count("path_amplification_bound");
            return;
        }
        let reply = Probe {
            kind: ProbeKind::Reply,
            path: path_id(pair, initiator),
            token: probe.token,
            sent_us: self.out.clock_us(now),
            echo_us: probe.sent_us,
            observed: arrival.remote,
            behind_nat: false,
        };
        self.out.transmits.push_back(Transmit {
            ike,
            path: index,
            ifindex: arrival.ifindex,
            local: arrival.local,
            remote: arrival.remote,
            kind: TransmitKind::Probe(reply.encode()),
        });
        self.reschedule(index);
    }

    fn handle_reply(
        &mut self,
        ike: IkeId,
        pair: IfacePair,
        arrival: Arrival,
        probe: &Probe,
        sequence: u64,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        // By its name first; the channel's may have changed meanwhile.
        let named = peer.paths.get(&(pair, Family::of(arrival.local.ip())));
        let tried: Vec<_> = named.into_iter().chain([&peer.channel]).copied().collect();
        for index in tried {
            if let Some(path) = self.paths.get_mut(&index)
                && path.ifindex() == arrival.ifindex
                && path.answered(arrival, probe, sequence, &mut self.out, now)
            {
                let pair = path.key().pair;
                self.reschedule(index);
                self.settle_pair(ike, pair, now);
                return;
            }
        }
        self.out.count("path_probe_stale");
    }

    /// The peer's interface of the IKE channel, by the address it announced.
    fn resolve_announced(&mut self, ike: IkeId) {
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        let remote = peer.params.channel.remote_addr;
        let found = peer.remotes.values().find(|iface| {
            iface
                .addresses
                .iter()
                .any(|address| address.ip == remote.ip() && !address.behind_nat)
        });
        if let Some(id) = found.map(|iface| iface.id) {
            self.resolve(ike, id);
        }
    }

    /// The same, by the source of a probe that names it.
    fn resolve_observed(&mut self, ike: IkeId, remote: IfaceId, arrival: Arrival, now: Instant) {
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        if peer.remotes.contains_key(&remote)
            && let Some(path) = self.paths.get(&peer.channel)
            && path.key().pair.remote == IfaceId::CHANNEL
            && path.ifindex() == arrival.ifindex
            && path.active_remote() == Some(arrival.remote)
        {
            self.resolve(ike, remote);
            self.settle_peer(ike, now);
        }
    }

    fn resolve(&mut self, ike: IkeId, remote: IfaceId) {
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        let index = peer.channel;
        let Some(path) = self.paths.get_mut(&index) else {
            return;
        };
        let Key { pair, family, .. } = path.key();
        if pair.remote != IfaceId::CHANNEL {
            return;
        }
        let resolved = IfacePair {
            local: pair.local,
            remote,
        };
        path.resolve(resolved);
        peer.paths.remove(&(pair, family));
        let twin = peer.paths.insert((resolved, family), index);
        if let Some(twin) = twin
            && let Some(now) = self.last_now
        {
            self.discard(twin, now);
        }
        self.out.event(Event::Resolved {
            ike,
            remote,
            path: index,
        });
    }

    /// Makes a peer's paths what the tables say: creates what is missing,
    /// decides on homes, tells.
    fn settle_peer(&mut self, ike: IkeId, now: Instant) {
        let Some(mut peer) = self.peers.remove(&ike) else {
            return;
        };
        self.create_missing(ike, &mut peer, now);
        peer.homes = self.choose_homes(&peer);
        let pairs: BTreeSet<_> = peer.paths.keys().map(|(pair, _)| *pair).collect();
        self.peers.insert(ike, peer);
        for pair in pairs {
            self.settle_pair(ike, pair, now);
        }
    }

    fn create_missing(&mut self, ike: IkeId, peer: &mut Peer, now: Instant) {
        let mut missing = Vec::new();
        for local in self.locals.values() {
            for remote in peer.remotes.values() {
                for family in [Family::V4, Family::V6] {
                    let pair = IfacePair {
                        local: local.id,
                        remote: remote.id,
                    };
                    let shared = local.addresses.iter().any(|a| Family::of(*a) == family)
                        && remote.addresses.iter().any(|a| Family::of(a.ip) == family);
                    let usable = local.state.usable() && remote.state.usable();
                    if shared && usable && !peer.paths.contains_key(&(pair, family)) {
                        missing.push(Key { ike, pair, family });
                    }
                }
            }
        }
        for key in missing {
            if let Some(index) = self.create(key, peer, now)
                && let Some(path) = self.paths.get_mut(&index)
            {
                let iface = peer.remotes.get(&key.pair.remote);
                path.set_remote(iface, Rank::default(), &mut self.out, now);
            }
        }
    }

    fn create(&mut self, key: Key, peer: &mut Peer, now: Instant) -> Option<PathIndex> {
        let Some(iface) = self.locals.get(&key.pair.local) else {
            self.out.count("path_without_interface");
            return None;
        };
        let index = match self.free.front().copied() {
            Some((rested, index)) if rested <= now => {
                self.free.pop_front();
                index
            }
            _ if self.next_index < self.config.max_paths => {
                self.next_index += 1;
                PathIndex(self.next_index - 1)
            }
            _ => {
                self.out.count("path_limit");
                return None;
            }
        };
        let path = Path::new(
            index,
            key,
            peer.params.initiator,
            peer.params.probes,
            self.config.port,
            iface,
        );
        self.paths.insert(index, path);
        peer.paths.insert((key.pair, key.family), index);
        Some(index)
    }

    fn choose_homes(&self, peer: &Peer) -> BTreeMap<IfaceId, IfaceId> {
        let ours: Vec<_> = self
            .locals
            .values()
            .map(|iface| home::Candidate {
                id: iface.id,
                state: iface.state,
                priority: iface.priority,
                v4: iface.addresses.iter().any(std::net::IpAddr::is_ipv4),
                v6: iface.addresses.iter().any(std::net::IpAddr::is_ipv6),
            })
            .collect();
        let theirs: Vec<_> = peer
            .remotes
            .values()
            .map(|iface| home::Candidate {
                id: iface.id,
                state: iface.state,
                priority: iface.priority,
                v4: iface.addresses.iter().any(|address| address.ip.is_ipv4()),
                v6: iface.addresses.iter().any(|address| address.ip.is_ipv6()),
            })
            .collect();
        let mut chosen = if peer.params.initiator {
            homes(ours, &theirs)
        } else {
            homes(theirs, &ours)
        };
        // An interface without a choice keeps the home it had.
        for (from, to) in &peer.homes {
            chosen.entry(*from).or_insert(*to);
        }
        chosen
    }

    /// Which family of a pair is home: the first that is validated, IPv4 where
    /// both are; the other one when that goes down and this is up.
    fn settle_pair(&mut self, ike: IkeId, pair: IfacePair, now: Instant) {
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        let home = peer.is_home(pair);
        let indices: Vec<_> = peer.pair_paths(pair).collect();
        let state = |index: &PathIndex| self.paths.get(index).filter(|path| path.is_validated());
        let current = indices
            .iter()
            .find(|index| state(index).is_some_and(Path::is_told_home));
        let up = indices
            .iter()
            .find(|index| state(index).is_some_and(Path::is_up));
        let chosen = match current {
            Some(index) if state(index).is_some_and(Path::is_up) => Some(*index),
            _ => up.or(current).or(indices.first()).copied(),
        };
        let channel = peer.channel;
        for index in indices {
            if let Some(path) = self.paths.get_mut(&index) {
                path.watch(home || channel == index, now);
                path.tell_home(home && chosen == Some(index), &mut self.out);
            }
            self.reschedule(index);
        }
    }

    fn mark_active(&mut self, ike: IkeId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        // Told in steps of half the time: this runs for every report.
        if peer
            .active_until
            .is_some_and(|until| now + ACTIVE_FOR / 2 < until)
        {
            return;
        }
        let until = now + ACTIVE_FOR;
        peer.active_until = Some(until);
        let indices: Vec<_> = peer.paths.values().copied().collect();
        for index in indices {
            if let Some(path) = self.paths.get_mut(&index) {
                path.set_active_until(until, now);
            }
            self.reschedule(index);
        }
    }

    fn remove_peer_at(&mut self, ike: IkeId, now: Instant) {
        let Some(peer) = self.peers.remove(&ike) else {
            return;
        };
        for index in peer.paths.into_values() {
            self.discard(index, now);
        }
    }

    fn discard(&mut self, index: PathIndex, now: Instant) {
        if let Some(mut path) = self.paths.remove(&index) {
            path.remove(&mut self.out);
            self.free.push_back((now + INDEX_REST, index));
        }
        self.reschedule(index);
    }

    fn reschedule(&mut self, index: PathIndex) {
        let due = self
            .paths
            .get(&index)
            .and_then(Path::deadline)
            .map(|(at, _)| at);
        let old = match due {
            Some(at) => self.scheduled.insert(index, at),
            None => self.scheduled.remove(&index),
        };
        if old == due {
            return;
        }
        if let Some(old) = old {
            self.schedule.remove(&(old, index));
        }
        if let Some(due) = due {
            self.schedule.insert((due, index));
        }
    }

    /// Which of our interfaces has this destination.
    fn local_of(&self, arrival: Arrival) -> Option<IfaceId> {
        self.locals
            .values()
            .find(|iface| {
                iface.ifindex == arrival.ifindex && iface.addresses.contains(&arrival.local.ip())
            })
            .map(|iface| iface.id)
    }
}
