//! The tables, and which path an input is for.

mod carry;
mod resolve;
mod tables;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::NO_PATH;
use super::candidates::Rank;
use super::carry::Carriers;
use super::output::Output;
use super::probe::{Probe, ProbeKind};
use super::state::{Key, Path, pair_of, path_id};
use super::timing::{ACTIVE_FOR, MAX_REMOTE_IFACES, REPLIES_PER_SECOND};
use super::types::{
    Activity, Channel, Config, End, Event, LocalIface, PathView, PeerParams, RemoteIface,
    RemoteMove, TimerKind, Transmit, TransmitKind,
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
    /// A deliberate fault: of an interface that is carried one path alone moves.
    #[cfg(feature = "testing")]
    pub one_path_moves: bool,
}

struct Peer {
    params: PeerParams,
    remotes: BTreeMap<IfaceId, RemoteIface>,
    has_table: bool,
    paths: BTreeMap<(IfacePair, Family), PathIndex>,
    channel: PathIndex,
    /// The path the IKE SA was made on, wherever the channel has gone since.
    origin: PathIndex,
    /// Until when indices of its former paths rest.
    resting: VecDeque<Instant>,
    homes: BTreeMap<IfaceId, IfaceId>,
    carriers: Carriers,
    /// Interfaces of either end it does without.
    forgotten: BTreeSet<(End, IfaceId)>,
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

    fn does_without(&self, pair: IfacePair) -> bool {
        self.forgotten.contains(&(End::Local, pair.local))
            || self.forgotten.contains(&(End::Remote, pair.remote))
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
            #[cfg(feature = "testing")]
            one_path_moves: false,
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
            origin: NO_PATH,
            resting: VecDeque::new(),
            homes: BTreeMap::new(),
            carriers: Carriers::default(),
            forgotten: BTreeSet::new(),
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
            peer.origin = index;
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
        let first = !std::mem::replace(&mut peer.has_table, true);
        let newest = if !first {
            Rank {
                sequence: peer.newest,
                announced: true,
            }
        } else {
            Rank::default()
        };
        peer.remotes = ifaces.into_iter().map(|iface| (iface.id, iface)).collect();
        let remotes = &peer.remotes;
        peer.forgotten
            .retain(|(end, iface)| *end == End::Local || !remotes.contains_key(iface));
        while peer.remotes.len() > MAX_REMOTE_IFACES {
            peer.remotes.pop_last();
            self.out.count("path_table_limit");
        }
        // Where IKE has reached the peer is no mere label, whatever it says.
        let reached = peer.params.channel.remote_addr.ip();
        for iface in peer.remotes.values_mut() {
            for address in &mut iface.addresses {
                address.behind_nat &= address.ip != reached;
            }
        }
        self.resolve_announced(ike, first, now);
        self.discard_untried(ike, now);
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
        self.resolve_moved(ike, &moved, now);
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
            let Some(path) = self.paths.get_mut(&index) else {
                continue;
            };
            let on = path.key().pair.remote;
            if on == moved.new_iface {
                path.remote_at(&moved.new, rank, &mut self.out, now);
            }
            if on == moved.old_iface && moved.old_is_dead {
                path.remote_dead(&moved, &mut self.out, now);
            }
        }
        self.settle_peer(ike, now);
    }

    /// The IKE channel now runs on this path.
    pub fn set_channel(&mut self, ike: IkeId, path: PathIndex) {
        if let Some(peer) = self.peers.get_mut(&ike)
            && peer.paths.values().any(|known| *known == path)
            && let Some(now) = self.last_now
        {
            let old = std::mem::replace(&mut peer.channel, path);
            self.discard_forgotten(ike, now);
            for index in [old, path] {
                if let Some(pair) = self.paths.get(&index).map(|path| path.key().pair) {
                    self.settle_pair(ike, pair, now);
                }
            }
        }
    }

    /// The one path of a peer without probes now uses this pair, whatever the
    /// interface and the family; it keeps its index. Nothing for a peer with probes,
    /// or an interface that does not exist.
    pub fn rehome(&mut self, ike: IkeId, channel: Channel, behind_nat: bool, now: Instant) {
        self.last_now = Some(now);
        let (Some(peer), Some(iface)) = (self.peers.get_mut(&ike), self.locals.get(&channel.local))
        else {
            self.out.count("path_unknown_peer");
            return;
        };
        let index = peer.channel;
        let Some(path) = self.paths.get_mut(&index).filter(|_| !peer.params.probes) else {
            return;
        };
        let old = path.key();
        path.rehome(iface, channel, behind_nat, &mut self.out, now);
        let key = path.key();
        peer.params.channel = channel;
        peer.paths.remove(&(old.pair, old.family));
        peer.paths.insert((key.pair, key.family), index);
        self.settle_pair(ike, key.pair, now);
        self.reschedule(index);
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
        if pair.local == IfaceId::CHANNEL {
            if probe.kind == ProbeKind::Challenge {
                self.resolve_named(ike, pair.remote, arrival, now);
            }
            if let Some(iface) = self.local_of(arrival) {
                pair.local = iface;
            }
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
        let path = self.carrier_at(path, arrival);
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
        let active = if self.out.carriage.is_carried(path) {
            let sent = state.sent_elsewhere(activity);
            if sent {
                self.sent_for_riders(path, now);
            }
            sent
        } else {
            state.activity(activity, now)
        };
        if active {
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
                    let pair = path.key().pair;
                    let by = Some(peer.carriers.pair(pair)).filter(|by| *by != pair);
                    // Not before its entry is the carrier's.
                    let by = by.filter(|_| !self.out.carriage.waits(*index));
                    Some(path.view(*index == peer.channel, by))
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
                allowed = path.replied(arrival.remote, &mut self.out, now);
            }
            // A reply would make the peer believe in a path that is not this one.
            Some(_) => {
                self.out.count("path_probe_interface");
                return;
            }
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
        let others = [&peer.origin, &peer.channel];
        let tried: Vec<_> = named.into_iter().chain(others).copied().collect();
        for index in tried {
            if let Some(path) = self.paths.get_mut(&index)
                && path.key().ike == ike
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
        self.out.budget.forget(ike);
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
