//! Peers without MIF: one path, that of the IKE channel, and no probes.
//!
//! | the peer has | when the pair has to change |
//! |---|---|
//! | MOBIKE, we are the initiator | we choose the pair; its path entry is rewritten, Child SAs stay |
//! | MOBIKE, we are the responder | the initiator chooses; off an address that is gone we move and say so |
//! | neither | the IKE SA is set up anew from where we are now |
//!
//! The pair changes at once if the old one is dead, else when the peer confirmed
//! it. Silence shows by itself only in traffic: data that nothing comes back for is
//! followed by a liveness check, and if that stays unanswered the same request is
//! tried on the other pairs in turn.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::ids::{Arrival, IfaceId, IkeId, PathIndex};
use crate::ike::{self, Command};
use crate::path::{self, IfaceState, LocalIface};

use super::Agent;
use super::peer::Peer;
use super::retry::Progress;
use super::views::MovePlan;

/// How long data may go out without anything coming back before the peer is asked.
const SILENCE: Duration = Duration::from_secs(1);
/// Between such questions: traffic may well go one way only.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How long a pair that failed is not the first choice.
const BARRED: Duration = Duration::from_secs(60);

/// What is kept of a peer without MIF.
#[derive(Debug, Default)]
pub(super) struct Mobike {
    /// Both ends have MOBIKE.
    pub(super) on: bool,
    /// Where else the peer says it is.
    addresses: Vec<IpAddr>,
    /// That is all of them: what is not listed it left.
    complete: bool,
    /// Pairs that failed lately, and until when they count as such.
    barred: BTreeMap<(IpAddr, IpAddr), Instant>,
    /// The path follows when the peer confirms.
    unconfirmed: bool,
    /// Data packets sent so far, and since when nothing has come back for them.
    sent: u64,
    last_rx: Option<Instant>,
    silent_since: Option<Instant>,
    asked: Option<Instant>,
}

impl Mobike {
    pub(super) fn new(on: bool, addresses: Vec<IpAddr>) -> Self {
        Self {
            on,
            addresses,
            ..Self::default()
        }
    }
}

/// An access that is not drained, then its priority, then the newer address.
type Rank = (IfaceState, u8, IfaceId, usize);

/// Of an interface's address with this index.
fn rank(local: &LocalIface, index: usize) -> Rank {
    (local.state, local.priority, local.id, index)
}

/// A pair that might be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// Lower is better.
    rank: Rank,
    /// The same for the peer's address.
    remote: usize,
    channel: ike::Channel,
}

impl Way {
    fn pair(&self) -> (IpAddr, IpAddr) {
        pair(&self.channel)
    }
}

fn pair(channel: &ike::Channel) -> (IpAddr, IpAddr) {
    (channel.local.ip(), channel.remote.ip())
}

/// The first of `ways` that is worth leaving `current` for. While `current` can be
/// used that is a better access, a newer address, or the peer's new address.
fn better(ways: &[Way], current: &ike::Channel, barred: &[(IpAddr, IpAddr)]) -> Option<Way> {
    let here = ways.iter().find(|way| way.pair() == pair(current));
    let free = |way: &&Way| !barred.contains(&way.pair());
    let best = ways.iter().filter(free).min_by_key(|way| way.rank);
    match here {
        None => best.or(ways.first()).copied(),
        // Our own choice only: what failed there would be tried at its other addresses.
        Some(here) => ways
            .iter()
            .filter(free)
            .filter(|way| way.remote <= here.remote && way.rank < here.rank)
            .min_by_key(|way| way.rank)
            .copied(),
    }
}

/// The way after `current` in turn, those that did not fail lately first, and all of
/// ours before another address of the peer.
fn next(ways: &[Way], current: &ike::Channel, barred: &[(IpAddr, IpAddr)]) -> Option<Way> {
    let at = ways.iter().position(|way| way.pair() == pair(current));
    let turn = ways.iter().cycle().skip(at.map_or(0, |at| at + 1));
    let others = turn
        .take(ways.len())
        .filter(|way| way.pair() != pair(current));
    others
        .min_by_key(|way| (barred.contains(&way.pair()), way.remote))
        .copied()
}

impl Peer {
    /// How it follows a change of addresses.
    pub(super) fn tier(&self) -> &'static str {
        match (self.mif, self.mobike.on) {
            (true, _) => "mif",
            (false, true) => "mobike",
            (false, false) => "plain",
        }
    }

    /// Which pair is in use is ours to say.
    fn chooses_pair(&self) -> bool {
        self.initiator && !self.mif && self.mobike.on
    }
}

impl Agent {
    /// The path of a peer without MIF; its Child SAs are there, too.
    pub(super) fn only_path(&self, ike: IkeId) -> Option<path::PathView> {
        if self.peers.get(&ike)?.mif {
            return None;
        }
        let mut views = self.path.views().into_iter();
        views.find(|view| view.ike == ike && view.channel)
    }

    /// Everything we could use with this peer, best first.
    fn ways_of(&self, ike: IkeId) -> Vec<Way> {
        let Some(peer) = self.peers.get(&ike) else {
            return Vec::new();
        };
        let Some(config) = self.config.peers.get(peer.config) else {
            return Vec::new();
        };
        let current = peer.channel.remote;
        let mut remotes: Vec<SocketAddr> = Vec::new();
        let listed = &peer.mobike.addresses;
        // What it says it has beside what we were told may be reachable from nowhere.
        let configured = config.remote.iter().copied();
        for ip in configured.chain([current.ip()]).chain(listed.clone()) {
            let left = peer.mobike.complete && !listed.contains(&ip);
            if left || remotes.iter().any(|known| known.ip() == ip) {
                continue;
            }
            remotes.push(if ip == current.ip() {
                current
            } else {
                SocketAddr::new(ip, self.config.agent.port)
            });
        }
        let may = |local: &&LocalIface| {
            let access = usize::from(local.access.0);
            matches!(local.state, IfaceState::Up | IfaceState::Backup)
                && self.accesses.settings(local.id).is_some_and(|a| a.ike)
                && config.children.iter().any(|c| c.accesses.contains(&access))
        };
        let mut out = Vec::new();
        for local in self.accesses.local().filter(may) {
            for (index, address) in local.addresses.iter().enumerate() {
                for (remote_index, remote) in remotes.iter().enumerate() {
                    if address.is_ipv4() != remote.is_ipv4() {
                        continue;
                    }
                    out.push(Way {
                        rank: rank(local, index),
                        remote: remote_index,
                        channel: ike::Channel {
                            local_iface: local.id,
                            ifindex: local.ifindex,
                            local: SocketAddr::new(*address, self.config.agent.port),
                            remote: *remote,
                        },
                    });
                }
            }
        }
        out.sort_by_key(|way| way.rank);
        out
    }

    fn barred(&self, ike: IkeId, now: Instant) -> Vec<(IpAddr, IpAddr)> {
        let barred = self.peers.get(&ike).map(|peer| &peer.mobike.barred);
        barred
            .into_iter()
            .flatten()
            .filter(|(_, until)| **until > now)
            .map(|(pair, _)| *pair)
            .collect()
    }

    /// Keeps a peer without MIF on a pair that exists, and on the best one.
    pub(super) fn ensure_pair(&mut self, ike: IkeId, views: &[path::PathView], now: Instant) {
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        let current = peer.channel;
        let (initiator, on, index) = (peer.initiator, peer.mobike.on, peer.config);
        let chooses = peer.chooses_pair();
        let up = views.iter().any(|view| view.ike == ike && view.up);
        if peer.mobike.unconfirmed && !up {
            // What was kept for safety is gone.
            self.rehome(ike, current, None, now);
        }
        if chooses {
            let ways = self.ways_of(ike);
            if let Some(way) = better(&ways, &current, &self.barred(ike, now)) {
                self.move_pair(ike, way.channel, now);
            }
            return;
        }
        let local_gone = self
            .accesses
            .iface(current.local_iface)
            .is_none_or(|iface| !iface.addresses.contains(&current.local.ip()));
        if !local_gone {
            return;
        }
        let ways = self.ways_of(ike);
        let Some(way) = ways.first() else { return };
        if on {
            self.move_pair(ike, way.channel, now);
        } else if initiator {
            self.connect_anew(ike, index, way.channel, now);
        }
    }

    /// Takes the only path of a peer without MIF off a drained interface.
    pub(super) fn leave_pair(
        &mut self,
        ike: IkeId,
        iface: IfaceId,
        now: Instant,
    ) -> Result<MovePlan, String> {
        let peer = self.peers.get(&ike).ok_or("the peer has gone")?;
        if !peer.chooses_pair() {
            return Err("without IKEv2-MIF only the initiator, by MOBIKE, moves its path".into());
        }
        let better = better(&self.ways_of(ike), &peer.channel, &self.barred(ike, now));
        let drained = self.accesses.drained();
        let way = better.filter(|way| !drained.contains(&way.channel.local_iface));
        let way = way.ok_or("no other access may carry it")?;
        let mine = self.children.values().filter(|c| c.ike == ike);
        let plan = MovePlan {
            peer: peer.remote_id.clone(),
            from: self.accesses.label(iface),
            to: self.accesses.label(way.channel.local_iface),
            sas: mine.filter(|c| !c.retired).count(),
            paths: 1,
            messages: 1,
            channel: true,
        };
        self.move_pair(ike, way.channel, now);
        Ok(plan)
    }

    /// The IKE SA cannot follow: another takes its place. Its end is told from
    /// where we are now.
    fn connect_anew(&mut self, ike: IkeId, index: usize, channel: ike::Channel, now: Instant) {
        let Some(retry) = self.retries.get_mut(index) else {
            return;
        };
        if !matches!(retry.progress, Progress::Up(up) if up == ike) {
            return;
        }
        retry.progress = Progress::Due(now);
        tracing::info!(ike = ike.0, to = %channel.local, "our address changed and the peer has no MOBIKE: connecting anew");
        self.ike
            .handle_command(Command::MoveChannel { ike, channel }, now);
        self.ike.handle_command(Command::DeleteIke { ike }, now);
    }

    fn move_pair(&mut self, ike: IkeId, channel: ike::Channel, now: Instant) {
        let up = self.only_path(ike).is_some_and(|view| view.up);
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        tracing::info!(ike = ike.0, from = %peer.channel.local, to = %channel.local, remote = %channel.remote, "moving to another pair of addresses");
        peer.channel = channel;
        peer.mobike.silent_since = None;
        peer.mobike.unconfirmed = up && peer.initiator;
        if !peer.mobike.unconfirmed {
            self.rehome(ike, channel, None, now);
        }
        self.ike
            .handle_command(Command::MoveChannel { ike, channel }, now);
        self.changed = true;
    }

    /// The path entry is rewritten; nothing of the Child SAs but where they are.
    fn rehome(&mut self, ike: IkeId, channel: ike::Channel, nat: Option<bool>, now: Instant) {
        let behind_nat = match nat {
            Some(nat) => nat,
            None => self.only_path(ike).is_some_and(|view| view.local_nat),
        };
        let with_port = SocketAddr::new(channel.local.ip(), self.config.agent.port);
        let to = path::Channel {
            local: channel.local_iface,
            local_addr: with_port,
            remote_addr: channel.remote,
        };
        self.path.rehome(ike, to, behind_nat, now);
        if let Some(peer) = self.peers.get_mut(&ike) {
            peer.mobike.unconfirmed = false;
        }
        if let Some(view) = self.only_path(ike) {
            for child in self.children.values_mut().filter(|c| c.ike == ike) {
                child.pair = view.pair;
            }
        }
        self.changed = true;
    }

    /// The peer moved; whether it is one without MIF.
    pub(super) fn follow_channel(
        &mut self,
        ike: IkeId,
        observed: Arrival,
        nat: ike::Nat,
        now: Instant,
    ) -> bool {
        let Some(peer) = self.peers.get_mut(&ike).filter(|peer| !peer.mif) else {
            return false;
        };
        let Some(local) = self.accesses.find(observed.ifindex, observed.local.ip()) else {
            return true;
        };
        let channel = ike::Channel {
            local_iface: local,
            ifindex: observed.ifindex,
            local: observed.local,
            remote: observed.remote,
        };
        peer.channel = channel;
        tracing::info!(ike = ike.0, remote = %observed.remote, "the peer moved");
        self.rehome(ike, channel, Some(nat.local), now);
        true
    }

    /// The peer knows the pair we chose.
    pub(super) fn channel_confirmed(
        &mut self,
        ike: IkeId,
        channel: ike::Channel,
        nat: ike::Nat,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&ike).filter(|peer| !peer.mif) else {
            return;
        };
        peer.mobike.barred.remove(&pair(&channel));
        self.rehome(ike, channel, Some(nat.local), now);
    }

    pub(super) fn peer_addresses(&mut self, ike: IkeId, addresses: Vec<IpAddr>, _now: Instant) {
        if let Some(peer) = self.peers.get_mut(&ike) {
            peer.mobike.addresses = addresses;
            peer.mobike.complete = true;
            self.changed = true;
        }
    }

    /// The peer refused the pair: it is not tried again soon.
    pub(super) fn move_refused(&mut self, ike: IkeId, now: Instant) {
        self.bar(ike, now);
        let barred = self.barred(ike, now);
        self.try_next(ike, now, |way| !barred.contains(&way.pair()));
    }

    /// No answer on the pair: the same request goes out on the next one.
    pub(super) fn pair_quiet(&mut self, ike: IkeId, now: Instant) {
        self.bar(ike, now);
        self.try_next(ike, now, |_| true);
    }

    fn bar(&mut self, ike: IkeId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        if peer.chooses_pair() {
            let barred = &mut peer.mobike.barred;
            barred.retain(|_, until| *until > now);
            barred.insert(pair(&peer.channel), now + BARRED);
        }
    }

    fn try_next(&mut self, ike: IkeId, now: Instant, wanted: impl Fn(&Way) -> bool) {
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        if !peer.chooses_pair() {
            return;
        }
        let current = peer.channel;
        let way = next(&self.ways_of(ike), &current, &self.barred(ike, now));
        if let Some(way) = way.filter(wanted) {
            self.move_pair(ike, way.channel, now);
        }
    }

    /// Pairs that may be tried again.
    pub(super) fn pairs_due(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            let before = peer.mobike.barred.len();
            peer.mobike.barred.retain(|_, until| *until > now);
            self.changed |= peer.mobike.barred.len() != before;
        }
    }

    /// When the next may.
    pub(super) fn pairs_until(&self) -> Option<Instant> {
        let barred = self.peers.values().flat_map(|p| p.mobike.barred.values());
        barred.min().copied()
    }

    /// Authentic data of a peer without MIF came from an unknown source; whether
    /// it is such a peer.
    pub(super) fn follow_source(
        &mut self,
        path: PathIndex,
        observed: Arrival,
        now: Instant,
    ) -> bool {
        let views = self.path.views();
        let of_path = views.iter().find(|view| view.path == path);
        let Some(ike) = of_path.map(|view| view.ike) else {
            return false;
        };
        if self.peers.get(&ike).is_none_or(|peer| peer.mif) {
            return false;
        }
        self.ike
            .handle_command(Command::FollowPeer { ike, observed }, now);
        true
    }

    /// Asks a peer that data goes to and nothing comes back from.
    pub(super) fn question_pairs(&mut self, now: Instant) {
        let ours = |peer: &Peer| peer.initiator && !peer.mif;
        if !self.peers.values().any(ours) {
            return;
        }
        let mut ask = Vec::new();
        for view in self.path.views().iter().filter(|view| view.channel) {
            let seen = self.seen.get(&view.path).copied().unwrap_or_default();
            let Some(peer) = self.peers.get_mut(&view.ike).filter(|peer| ours(peer)) else {
                continue;
            };
            if peer.mobike.question(seen, now) {
                ask.push((view.ike, peer.mobike.on.then_some(peer.channel)));
            }
        }
        for (ike, channel) in ask {
            tracing::debug!(ike = ike.0, "nothing comes back: asking the peer");
            // A NAT may have given us another port. A peer with MOBIKE follows only
            // when it is told to (RFC 4555 3.8), so it is, from where we are.
            let command = match channel {
                Some(channel) => Command::MoveChannel { ike, channel },
                None => Command::CheckLiveness { ike },
            };
            self.ike.handle_command(command, now);
        }
    }
}

impl Mobike {
    /// Takes in what the data plane saw; whether the peer is to be asked.
    fn question(&mut self, (sent, last_rx): (u64, Option<Instant>), now: Instant) -> bool {
        if sent != self.sent {
            self.sent = sent;
            self.silent_since.get_or_insert(now);
        }
        if last_rx != self.last_rx {
            self.last_rx = last_rx;
            self.silent_since = None;
        }
        let silent = self
            .silent_since
            .is_some_and(|since| now >= since + SILENCE);
        let due = self.asked.is_none_or(|asked| now >= asked + ASK_AGAIN);
        if silent && due {
            self.asked = Some(now);
            self.silent_since = None;
        }
        silent && due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AccessId;
    use crate::path::{LinkClass, Probing};

    fn way(priority: u8, iface: u16, index: usize, local: &str) -> Way {
        Way {
            rank: (IfaceState::Up, priority, IfaceId(iface), index),
            remote: 0,
            channel: ike::Channel {
                local_iface: IfaceId(iface),
                ifindex: u32::from(iface),
                local: format!("{local}:4500").parse().unwrap(),
                remote: "203.0.113.1:4500".parse().unwrap(),
            },
        }
    }

    #[test]
    fn a_pair_is_left_when_it_is_gone_or_a_better_one_is_there_but_not_for_an_equal_one() {
        let wlan = way(0, 1, 0, "192.0.2.1");
        let ran = way(1, 2, 0, "198.51.100.1");
        let ways = [wlan, ran];
        assert_eq!(better(&ways, &wlan.channel, &[]), None);
        assert_eq!(better(&ways, &ran.channel, &[]), Some(wlan));
        assert_eq!(
            better(&ways, &ran.channel, &[wlan.pair()]),
            None,
            "it failed"
        );
        assert_eq!(better(&[ran], &wlan.channel, &[]), Some(ran), "it is gone");
        let all = [wlan.pair(), ran.pair()];
        let gone = way(0, 3, 0, "192.0.2.9");
        assert_eq!(
            better(&ways, &gone.channel, &all),
            Some(wlan),
            "rather that than none"
        );
        assert_eq!(better(&[], &wlan.channel, &[]), None);
        let newer = way(0, 1, 0, "192.0.2.2");
        let older = way(0, 1, 1, "192.0.2.1");
        assert_eq!(better(&[newer, older], &older.channel, &[]), Some(newer));
    }

    #[test]
    fn a_drained_access_is_left_and_not_returned_to_by_its_priority() {
        let at = |state, iface: u16, priority| {
            let local = LocalIface {
                id: IfaceId(iface),
                access: AccessId(iface),
                ifindex: u32::from(iface),
                state,
                class: LinkClass(0),
                priority,
                weight: 1,
                mtu: 1500,
                addresses: Vec::new(),
                next_hop_v4: None,
                next_hop_v6: None,
                layer3: false,
                probing: Probing::default(),
            };
            let mut way = way(priority, iface, 0, &format!("192.0.2.{iface}"));
            way.rank = rank(&local, 0);
            way
        };
        let ran = at(IfaceState::Up, 2, 1);
        for (state, ours, theirs) in [
            (IfaceState::Backup, Some(ran), None),
            (IfaceState::Up, None, Some(())),
        ] {
            let wlan = at(state, 1, 0);
            let ways = [wlan, ran];
            assert_eq!(better(&ways, &wlan.channel, &[]), ours);
            let back = better(&ways, &ran.channel, &[]);
            assert_eq!(back, theirs.map(|()| wlan));
        }
    }

    #[test]
    fn pairs_are_tried_in_turn_those_that_failed_last() {
        let ways = [
            way(0, 1, 0, "192.0.2.1"),
            way(1, 2, 0, "198.51.100.1"),
            way(2, 3, 0, "198.51.100.9"),
        ];
        assert_eq!(next(&ways, &ways[0].channel, &[]), Some(ways[1]));
        assert_eq!(next(&ways, &ways[2].channel, &[]), Some(ways[0]));
        assert_eq!(
            next(&ways, &ways[0].channel, &[ways[1].pair()]),
            Some(ways[2])
        );
        let all: Vec<_> = ways.iter().map(Way::pair).collect();
        assert_eq!(next(&ways, &ways[0].channel, &all), Some(ways[1]));
        assert_eq!(next(&ways[..1], &ways[0].channel, &[]), None);
        let mut elsewhere = ways[0];
        elsewhere.remote = 1;
        elsewhere.channel.remote = "10.99.0.1:4500".parse().unwrap();
        let ways = [ways[0], elsewhere, ways[1]];
        let first = next(&ways, &ways[0].channel, &[]);
        assert_eq!(first, Some(ways[2]), "its other address comes last");
    }

    #[test]
    fn a_peer_is_asked_when_data_goes_out_and_nothing_comes_back_but_not_all_the_time() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut mobike = Mobike::new(true, Vec::new());
        assert!(!mobike.question((1, None), at(0)));
        assert!(!mobike.question((2, Some(at(400))), at(500)), "it answered");
        assert!(
            !mobike.question((2, Some(at(400))), at(9000)),
            "nothing was sent"
        );
        assert!(!mobike.question((3, Some(at(400))), at(9100)));
        assert!(mobike.question((9, Some(at(400))), at(10_100)));
        for ms in (10_200..20_000).step_by(100) {
            assert!(
                !mobike.question((ms, Some(at(400))), at(ms)),
                "one way only"
            );
        }
        assert!(mobike.question((99_999, Some(at(400))), at(20_200)));
    }
}
