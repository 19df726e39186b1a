//! Two path engines in virtual time: an end user with several accesses, some
//! behind a NAT, and a gateway. The world plays the data plane, the agents and
//! the IKE channel, delivers packets with delay, loss, duplication and
//! reordering, and checks what must always hold at every step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mifsec::crypto::{Entropy, SeededEntropy};
use mifsec::ids::{AccessId, Arrival, Family, IfaceId, IfacePair, IkeId, PathIndex};
use mifsec::path::probe::{PROBE_LEN, Probe, ProbeKind};
use mifsec::path::timing::{AMPLIFICATION, ANNOUNCED_ALLOWANCE, REFILL, REPLIES_PER_SECOND};
use mifsec::path::{
    Activity, Channel, Config, End, Engine, Entry, Event, IfaceState, LinkClass, LocalIface,
    NO_PATH, PathView, PeerParams, Probing, RemoteAddr, RemoteIface, RemoteMove, TransmitKind,
    credited,
};

pub(crate) const PORT: u16 = 4500;
pub(crate) const IKE: IkeId = IkeId(1);
pub(crate) const MS: Duration = Duration::from_millis(1);
/// Between data packets on every usable home path, each way.
pub(crate) const DATA_EVERY: Duration = Duration::from_millis(10);

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    SocketAddr::new(ip(text), PORT)
}

/// What the network does with the packets of one of the user's accesses.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// Of 1,000 packets.
    pub(crate) loss: u32,
    pub(crate) duplicate: u32,
    /// Swallows everything and says nothing.
    pub(crate) dead: bool,
    /// The same of what goes to the user only.
    pub(crate) deaf: bool,
    /// Challenges to the user that are still to be lost.
    pub(crate) swallow: u32,
    /// The user's own address whose packets are lost on the way out.
    pub(crate) dead_for: Option<IpAddr>,
    /// The NAT's outer address, if there is one.
    pub(crate) nat: Option<IpAddr>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            delay: 10 * MS,
            jitter: Duration::ZERO,
            loss: 0,
            duplicate: 0,
            dead: false,
            deaf: false,
            swallow: 0,
            dead_for: None,
            nat: None,
        }
    }
}

#[derive(Clone)]
enum Payload {
    Probe { sequence: u64, bytes: Vec<u8> },
    Keepalive,
    Data { pair: IfacePair },
}

#[derive(Clone)]
enum What {
    Packet {
        to: usize,
        local: SocketAddr,
        remote: SocketAddr,
        payload: Payload,
    },
    Table {
        to: usize,
        ifaces: Vec<RemoteIface>,
    },
    Moved {
        to: usize,
        moved: RemoteMove,
    },
    Carried {
        to: usize,
        end: End,
        iface: IfaceId,
        by: IfaceId,
    },
}

/// One end: engine, maps, and what its agent and data plane know.
pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) ifaces: BTreeMap<IfaceId, LocalIface>,
    pub(crate) entries: BTreeMap<PathIndex, Entry>,
    pub(crate) arrivals: BTreeMap<Arrival, PathIndex>,
    pub(crate) pairs: BTreeMap<PathIndex, IfacePair>,
    pub(crate) events: Vec<(Duration, Event)>,
    homes: BTreeSet<PathIndex>,
    sent: BTreeMap<PathIndex, u64>,
    last_rx: BTreeMap<PathIndex, Instant>,
    sequence: u64,
    seen: BTreeSet<u64>,
    /// Tokens of its challenges, by the address they went to.
    asked: BTreeMap<u64, SocketAddr>,
    /// Tokens the peer has really received.
    reached: BTreeSet<u64>,
    /// Addresses the peer has answered from having been asked there.
    pub(crate) proven: BTreeSet<SocketAddr>,
    octets_to: BTreeMap<SocketAddr, u64>,
    octets_from: BTreeMap<SocketAddr, u64>,
    pub(crate) probes_sent: u64,
    pub(crate) probes_from: BTreeMap<IpAddr, u64>,
    /// Challenges, by the path they are for.
    pub(crate) challenges_on: BTreeMap<PathIndex, u64>,
    pub(crate) keepalives_sent: u64,
    pub(crate) data_sent: u64,
    pub(crate) data_received: u64,
    /// Data that the network or the end could not deliver.
    pub(crate) data_lost: u64,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    /// 0 the user, the initiator; 1 the gateway.
    pub(crate) hosts: [Host; 2],
    /// By the user's interface.
    pub(crate) links: BTreeMap<IfaceId, Link>,
    mappings: BTreeMap<(IfaceId, SocketAddr), SocketAddr>,
    next_port: u16,
    queue: BTreeMap<(Instant, u64), What>,
    queued: u64,
    random: SeededEntropy,
    pub(crate) control_delay: Duration,
    next_data: Option<Instant>,
    pub(crate) data_every: Duration,
    /// How often timers were handled at the last time they were.
    timers: u32,
    timers_at: Instant,
    pub(crate) data: bool,
    /// The agents send MIF_UPDATE_ADDRS and MIF_INTERFACES.
    pub(crate) signalling: bool,
}

impl World {
    /// The user's and the gateway's interfaces; the channel runs between the
    /// first ones.
    pub(crate) fn new(
        seed: u64,
        user: &[(u16, &[&str], Link)],
        gateway: &[(u16, &[&str])],
    ) -> Self {
        let mut world = Self::without_peer(seed, user, gateway);
        world.connect(true);
        world
    }

    pub(crate) fn without_peer(
        seed: u64,
        user: &[(u16, &[&str], Link)],
        gateway: &[(u16, &[&str])],
    ) -> Self {
        let start = Instant::now();
        let links = user
            .iter()
            .map(|(id, _, link)| (IfaceId(*id), link.clone()))
            .collect();
        let ours: Vec<_> = user.iter().map(|(id, addrs, _)| (*id, *addrs)).collect();
        Self {
            now: start,
            start,
            hosts: [
                Host::new(seed ^ 0x5eed, &ours, 10, start),
                Host::new(seed ^ 0xface, gateway, 50, start),
            ],
            links,
            mappings: BTreeMap::new(),
            next_port: 20_000,
            queue: BTreeMap::new(),
            queued: 0,
            random: SeededEntropy::new(seed),
            control_delay: 20 * MS,
            next_data: Some(start),
            data_every: DATA_EVERY,
            timers: 0,
            timers_at: start,
            data: true,
            signalling: true,
        }
    }

    /// The IKE SA comes up, and the tables are exchanged.
    pub(crate) fn connect(&mut self, probes: bool) {
        let (user_id, gateway_id) = (self.first_iface(0), self.first_iface(1));
        let local = self.hosts[0].address(user_id);
        let remote = self.hosts[1].address(gateway_id);
        let family = Family::of(remote.ip());
        assert_eq!(family, Family::of(local.ip()));
        let seen = self.translate(user_id, local);
        for (host, channel, initiator) in [
            (0, (user_id, local, remote), true),
            (1, (gateway_id, remote, seen), false),
        ] {
            let (local, local_addr, remote_addr) = channel;
            let params = PeerParams {
                initiator,
                probes,
                behind_nat: initiator && seen != local_addr,
                channel: Channel {
                    local,
                    local_addr,
                    remote_addr,
                },
            };
            self.hosts[host].proven.insert(remote_addr);
            self.hosts[host].engine.add_peer(IKE, params, self.now);
        }
        if probes {
            self.announce(1);
            self.announce(0);
        }
        self.drain();
    }

    fn first_iface(&self, host: usize) -> IfaceId {
        *self.hosts[host].ifaces.keys().next().unwrap()
    }

    fn draw(&mut self, below: u32) -> u32 {
        self.random.u32() % below.max(1)
    }

    pub(crate) fn random(&mut self, below: u32) -> u32 {
        self.draw(below)
    }

    /// Sends the host's table to its peer.
    pub(crate) fn announce(&mut self, host: usize) {
        let nat = |world: &Self, id: &IfaceId| {
            host == 0 && world.links.get(id).is_some_and(|link| link.nat.is_some())
        };
        let ifaces = self.hosts[host]
            .ifaces
            .values()
            .map(|iface| RemoteIface {
                id: iface.id,
                state: iface.state,
                class: iface.class,
                priority: iface.priority,
                weight: iface.weight,
                mtu: iface.mtu,
                addresses: iface
                    .addresses
                    .iter()
                    .map(|ip| RemoteAddr {
                        ip: *ip,
                        port: 0,
                        behind_nat: nat(self, &iface.id),
                    })
                    .collect(),
            })
            .collect();
        let to = 1 - host;
        self.push(self.control_delay, What::Table { to, ifaces });
    }

    /// Changes one interface of a host and tells its engine; the agent's
    /// announcement follows.
    pub(crate) fn change(&mut self, host: usize, id: u16, change: impl FnOnce(&mut LocalIface)) {
        let iface = self.hosts[host].ifaces.get_mut(&IfaceId(id)).unwrap();
        change(iface);
        let iface = iface.clone();
        self.hosts[host].engine.set_local(iface, self.now);
        if self.signalling {
            self.announce(host);
        }
        self.drain();
    }

    /// One of `owner`'s interfaces is carried by another; `by` decides so, and tells
    /// the other end.
    pub(crate) fn carry(&mut self, owner: usize, by: usize, iface: u16, carrier: u16) {
        let (iface, carrier) = (IfaceId(iface), IfaceId(carrier));
        let end = |host| {
            if host == owner {
                End::Local
            } else {
                End::Remote
            }
        };
        let told = What::Carried {
            to: 1 - by,
            end: end(1 - by),
            iface,
            by: carrier,
        };
        self.push(self.control_delay, told);
        let now = self.now;
        self.hosts[by]
            .engine
            .carry(IKE, end(by), iface, carrier, now);
        self.drain();
    }

    /// A host has a further interface.
    pub(crate) fn appear(&mut self, host: usize, id: u16, addresses: &[&str], priority: u8) {
        let (_, like) = self.hosts[host].ifaces.last_key_value().unwrap();
        let iface = LocalIface {
            id: IfaceId(id),
            access: AccessId(id),
            ifindex: like.ifindex + 1,
            addresses: addresses.iter().map(|text| ip(text)).collect(),
            priority,
            ..like.clone()
        };
        self.hosts[host].ifaces.insert(iface.id, iface.clone());
        self.hosts[host].engine.set_local(iface, self.now);
        self.announce(host);
        self.drain();
    }

    /// The NAT of an access forgets its mappings.
    pub(crate) fn rebind(&mut self, id: u16) {
        self.mappings.retain(|(iface, _), _| *iface != IfaceId(id));
    }

    pub(crate) fn link(&mut self, id: u16) -> &mut Link {
        self.links.get_mut(&IfaceId(id)).unwrap()
    }

    fn push(&mut self, after: Duration, what: What) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), what);
    }

    /// Lets the world go on for a while.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Until `done`, at most for `time`; how long it took.
    pub(crate) fn run_until(
        &mut self,
        time: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Duration {
        let begin = self.now;
        let end = self.now + time;
        while !done(self) {
            assert!(self.step(end), "did not happen within {time:?}");
        }
        self.now - begin
    }

    fn step(&mut self, end: Instant) -> bool {
        let timers = self
            .hosts
            .iter()
            .filter_map(|host| host.engine.poll_timeout())
            .map(|(at, _)| at);
        let data = self.next_data.filter(|_| self.data);
        let packet = self.queue.keys().next().map(|(at, _)| *at);
        let Some(next) = timers
            .chain(data)
            .chain(packet)
            .min()
            .filter(|at| *at <= end)
        else {
            return false;
        };
        self.now = self.now.max(next);
        if packet == Some(next) {
            if let Some((_, what)) = self.queue.pop_first() {
                self.deliver(what);
            }
        } else if data.is_some_and(|at| at <= self.now) {
            self.next_data = Some(self.now + self.data_every);
            self.send_data();
        } else {
            for host in &mut self.hosts {
                if let Some((at, kind)) = host.engine.poll_timeout()
                    && at <= self.now
                {
                    host.engine.handle_timeout(self.now);
                    if self.now > self.timers_at {
                        (self.timers_at, self.timers) = (self.now, 0);
                    }
                    self.timers += 1;
                    assert!(self.timers < 20, "{kind:?} is due again and again");
                }
            }
        }
        self.drain();
        true
    }

    /// Takes everything out of both engines.
    fn drain(&mut self) {
        for host in 0..2 {
            while let Some(event) = self.hosts[host].engine.poll_event() {
                self.apply(host, event);
            }
            while let Some(transmit) = self.hosts[host].engine.poll_transmit() {
                let end = &mut self.hosts[host];
                assert_eq!(transmit.ike, IKE);
                let payload = match transmit.kind {
                    TransmitKind::Keepalive => {
                        end.keepalives_sent += 1;
                        assert!(end.proven.contains(&transmit.remote));
                        Payload::Keepalive
                    }
                    TransmitKind::Probe(bytes) => {
                        end.probe_leaves(&bytes, transmit.remote, self.now - self.start);
                        if Probe::decode(&bytes).unwrap().kind == ProbeKind::Challenge {
                            *end.challenges_on.entry(transmit.path).or_default() += 1;
                        }
                        *end.probes_from.entry(transmit.local.ip()).or_default() += 1;
                        end.sequence += 1;
                        Payload::Probe {
                            sequence: end.sequence,
                            bytes,
                        }
                    }
                };
                self.send(
                    host,
                    transmit.ifindex,
                    transmit.local,
                    transmit.remote,
                    payload,
                );
            }
        }
    }

    fn apply(&mut self, host: usize, event: Event) {
        let at = self.now - self.start;
        let end = &mut self.hosts[host];
        match &event {
            Event::Entry { path, entry } => {
                assert!(
                    !entry.up || end.proven.contains(&entry.remote),
                    "{host} sends to {}, which has not been validated",
                    entry.remote
                );
                end.entries.insert(*path, *entry);
            }
            Event::Removed { path } => {
                end.entries.remove(path);
                end.homes.remove(path);
                end.pairs.remove(path);
            }
            Event::ArrivalAdded { arrival, path } => {
                end.arrivals.insert(*arrival, *path);
            }
            Event::ArrivalRemoved { arrival } => {
                assert!(end.arrivals.remove(arrival).is_some());
            }
            Event::Validated {
                path, pair, home, ..
            } => {
                end.pairs.insert(*path, *pair);
                if *home {
                    let gone: Vec<_> = end.homes.iter().copied().collect();
                    for other in gone {
                        if end.pairs.get(&other) == Some(pair) {
                            end.homes.remove(&other);
                        }
                    }
                    end.homes.insert(*path);
                }
            }
            Event::Resolved { remote, path, .. } => {
                if let Some(pair) = end.pairs.get_mut(path) {
                    pair.remote = *remote;
                }
            }
            Event::LocalMoved {
                pair,
                old,
                new,
                behind_nat,
                ..
            } if self.signalling => {
                let here = end.ifaces.get(&pair.local).unwrap();
                let moved = RemoteMove {
                    old_iface: pair.local,
                    new_iface: pair.local,
                    old: *old,
                    new: RemoteAddr {
                        ip: *new,
                        port: 0,
                        behind_nat: *behind_nat,
                    },
                    old_is_dead: !here.addresses.contains(old),
                    channel: end
                        .engine
                        .views()
                        .iter()
                        .any(|view| view.channel && view.pair == *pair),
                };
                let to = 1 - host;
                self.push(self.control_delay, What::Moved { to, moved });
            }
            Event::LocalMoved { .. } | Event::Up { .. } | Event::Down { .. } => {}
        }
        self.hosts[host].events.push((at, event));
    }

    fn send_data(&mut self) {
        for host in 0..2 {
            let homes: Vec<_> = self.hosts[host].homes.iter().copied().collect();
            for path in homes {
                let end = &mut self.hosts[host];
                let Some(entry) = end.entries.get(&path).copied().filter(|entry| entry.up) else {
                    continue;
                };
                let pair = end.pairs[&path];
                let pair = IfacePair {
                    local: pair.remote,
                    remote: pair.local,
                };
                *end.sent.entry(path).or_default() += 1;
                end.data_sent += 1;
                let data = Payload::Data { pair };
                self.send(host, entry.ifindex, entry.local, entry.remote, data);
            }
            self.report(host);
        }
    }

    /// The agent reads the data plane's counters.
    fn report(&mut self, host: usize) {
        let end = &mut self.hosts[host];
        let paths: Vec<_> = end.entries.keys().copied().collect();
        for path in paths {
            let activity = Activity {
                sent: end.sent.get(&path).copied().unwrap_or(0),
                last_rx: end.last_rx.get(&path).copied(),
            };
            end.engine.handle_activity(path, activity, self.now);
        }
    }

    /// The outer source of a packet of the user's, as the gateway sees it.
    fn translate(&mut self, iface: IfaceId, local: SocketAddr) -> SocketAddr {
        let Some(outer) = self.links[&iface].nat else {
            return local;
        };
        let port = self.next_port;
        let mapped = *self
            .mappings
            .entry((iface, local))
            .or_insert(SocketAddr::new(outer, port));
        if mapped.port() == port {
            self.next_port += 1;
        }
        mapped
    }

    /// Where the gateway would see the user's interface now.
    pub(crate) fn seen_at(&mut self, id: u16) -> SocketAddr {
        let local = self.hosts[0].address(IfaceId(id));
        self.translate(IfaceId(id), local)
    }

    fn send(
        &mut self,
        host: usize,
        ifindex: u32,
        local: SocketAddr,
        remote: SocketAddr,
        payload: Payload,
    ) {
        let is_data = matches!(payload, Payload::Data { .. });
        // Which of the user's accesses it passes, and its addresses at the other end.
        let route = if host == 0 {
            self.hosts[0]
                .iface_by_index(ifindex)
                .filter(|id| self.hosts[0].owns(*id, local))
                .map(|id| (id, self.translate(id, local), remote))
        } else {
            assert!(self.hosts[1].iface_by_index(ifindex).is_some());
            let mapped = self
                .mappings
                .iter()
                .find(|(_, outer)| **outer == remote)
                .map(|((id, inner), _)| (*id, *inner));
            let direct = || {
                self.hosts[0]
                    .ifaces
                    .values()
                    .find(|iface| iface.addresses.contains(&remote.ip()))
                    .filter(|iface| self.links[&iface.id].nat.is_none())
                    .map(|iface| (iface.id, remote))
            };
            mapped
                .or_else(direct)
                .filter(|_| {
                    let here = self.hosts[1].ifaces.values();
                    here.into_iter()
                        .any(|iface| iface.state.usable() && iface.addresses.contains(&local.ip()))
                })
                .map(|(id, inner)| (id, local, inner))
        };
        let lost = &mut self.hosts[host].data_lost;
        let Some((id, source, destination)) = route else {
            *lost += u64::from(is_data);
            return;
        };
        if host == 1
            && let Payload::Probe { bytes, .. } = &payload
            && Probe::decode(bytes).unwrap().kind == ProbeKind::Challenge
            && let Some(left) = self.links[&id].swallow.checked_sub(1)
        {
            self.link(id.0).swallow = left;
            return;
        }
        let link = self.links[&id].clone();
        let dead =
            link.dead || host == 1 && link.deaf || host == 0 && link.dead_for == Some(local.ip());
        if dead || self.draw(1000) < link.loss {
            self.hosts[host].data_lost += u64::from(is_data);
            return;
        }
        let copies = if self.draw(1000) < link.duplicate {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let jitter = self.draw(link.jitter.as_micros() as u32 + 1);
            let delay = link.delay + Duration::from_micros(jitter.into());
            self.push(
                delay,
                What::Packet {
                    to: 1 - host,
                    local: destination,
                    remote: source,
                    payload: payload.clone(),
                },
            );
        }
    }

    fn deliver(&mut self, what: What) {
        match what {
            What::Table { to, ifaces } => {
                self.hosts[to].engine.set_remote(IKE, ifaces, self.now);
            }
            What::Moved { to, moved } => {
                self.hosts[to].engine.remote_moved(IKE, moved, self.now);
            }
            What::Carried { to, end, iface, by } => {
                self.hosts[to].engine.carry(IKE, end, iface, by, self.now)
            }
            What::Packet {
                to,
                local,
                remote,
                payload,
            } => self.arrive(to, local, remote, payload),
        }
    }

    /// A packet reaches a host, if it still has that address.
    fn arrive(&mut self, to: usize, local: SocketAddr, remote: SocketAddr, payload: Payload) {
        let Some(ifindex) = self.hosts[to].index_of(local) else {
            if matches!(payload, Payload::Data { .. }) {
                self.hosts[1 - to].data_lost += 1;
            }
            return;
        };
        let arrival = Arrival {
            ifindex,
            local,
            remote,
        };
        match payload {
            Payload::Keepalive => {}
            Payload::Probe { sequence, bytes } => self.probe(to, arrival, sequence, &bytes),
            Payload::Data { pair } => {
                let end = &mut self.hosts[to];
                end.data_received += 1;
                if end.arrivals.contains_key(&arrival) {
                    end.credit(arrival, self.now);
                } else {
                    let known = |path: &PathIndex| {
                        let known = end.pairs[path];
                        known == pair || known.remote == IfaceId::CHANNEL
                    };
                    if let Some(path) = end.homes.iter().copied().find(known) {
                        end.engine.handle_new_source(path, arrival, self.now);
                    }
                }
            }
        }
    }

    /// The probe SA: no sequence number opens twice.
    pub(crate) fn probe(&mut self, to: usize, arrival: Arrival, sequence: u64, bytes: &[u8]) {
        if !self.hosts[to].seen.insert(sequence) {
            return;
        }
        let probe = Probe::decode(bytes).unwrap();
        match probe.kind {
            ProbeKind::Challenge => {
                self.hosts[1 - to].reached.insert(probe.token);
            }
            ProbeKind::Reply => {
                let end = &mut self.hosts[to];
                if end.reached.contains(&probe.token)
                    && let Some(asked) = end.asked.get(&probe.token)
                {
                    end.proven.insert(*asked);
                }
            }
        }
        let end = &mut self.hosts[to];
        *end.octets_from.entry(arrival.remote).or_default() += bytes.len() as u64;
        end.engine
            .handle_probe(IKE, arrival, sequence, bytes, self.now);
        // What a router in the data plane would know at once.
        end.credit(arrival, self.now);
        self.drain();
    }

    /// Takes the next sequence number of a host's probe SA, as if something it
    /// sent were held back.
    pub(crate) fn take_sequence(&mut self, host: usize) -> u64 {
        self.hosts[host].sequence += 1;
        self.hosts[host].sequence
    }

    pub(crate) fn view(&self, host: usize, local: u16, remote: u16) -> PathView {
        self.hosts[host].view(local, remote, Family::V4)
    }

    pub(crate) fn count(&self, host: usize, matches: impl Fn(&Event) -> bool) -> usize {
        self.hosts[host]
            .events
            .iter()
            .filter(|(_, event)| matches(event))
            .count()
    }
}

impl Host {
    fn new(seed: u64, ifaces: &[(u16, &[&str])], first_index: u32, now: Instant) -> Self {
        let config = Config {
            port: PORT,
            max_paths: 64,
        };
        let mut engine = Engine::new(config, Box::new(SeededEntropy::new(seed)));
        let ifaces: BTreeMap<_, _> = ifaces
            .iter()
            .zip(first_index..)
            .map(|((id, addresses), ifindex)| {
                let iface = LocalIface {
                    id: IfaceId(*id),
                    access: AccessId(*id),
                    ifindex,
                    state: IfaceState::Up,
                    class: LinkClass(1),
                    priority: 0,
                    weight: 50,
                    mtu: 1500,
                    addresses: addresses.iter().map(|text| ip(text)).collect(),
                    next_hop_v4: None,
                    next_hop_v6: None,
                    layer3: false,
                    probing: Probing::Default,
                };
                (iface.id, iface)
            })
            .collect();
        for iface in ifaces.values() {
            engine.set_local(iface.clone(), now);
        }
        Self {
            engine,
            ifaces,
            entries: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            pairs: BTreeMap::new(),
            events: Vec::new(),
            homes: BTreeSet::new(),
            sent: BTreeMap::new(),
            last_rx: BTreeMap::new(),
            sequence: 0,
            seen: BTreeSet::new(),
            asked: BTreeMap::new(),
            reached: BTreeSet::new(),
            proven: BTreeSet::new(),
            octets_to: BTreeMap::new(),
            octets_from: BTreeMap::new(),
            probes_sent: 0,
            probes_from: BTreeMap::new(),
            challenges_on: BTreeMap::new(),
            keepalives_sent: 0,
            data_sent: 0,
            data_received: 0,
            data_lost: 0,
        }
    }

    /// Notes a probe on its way out, and checks the bound for addresses that
    /// have never been validated.
    fn probe_leaves(&mut self, bytes: &[u8], remote: SocketAddr, elapsed: Duration) {
        self.probes_sent += 1;
        let probe = Probe::decode(bytes).unwrap();
        assert_eq!(bytes.len(), PROBE_LEN);
        if probe.kind == ProbeKind::Challenge {
            let repeated = self.asked.insert(probe.token, remote);
            assert_eq!(repeated, None, "a token is drawn for one challenge only");
        }
        if self.proven.contains(&remote) {
            return;
        }
        let sent = self.octets_to.entry(remote).or_default();
        *sent += PROBE_LEN as u64;
        let received = self.octets_from.get(&remote).copied().unwrap_or(0);
        let ifaces = self.ifaces.len() as u64;
        let grown = (elapsed.as_secs() / REFILL.as_secs() + 1) * PROBE_LEN as u64;
        let allowed = received * AMPLIFICATION + ifaces * (ANNOUNCED_ALLOWANCE + grown);
        assert!(
            *sent <= allowed,
            "{sent} octets to {remote}, {allowed} allowed"
        );
        assert!(self.probes_sent < u64::from(REPLIES_PER_SECOND) * (elapsed.as_secs() + 2));
    }

    /// Octets of probes sent to an address, as long as it was not validated.
    pub(crate) fn octets_to(&self, remote: SocketAddr) -> u64 {
        self.octets_to.get(&remote).copied().unwrap_or(0)
    }

    /// Something opened: the data plane notes when, for the path it speaks for.
    fn credit(&mut self, arrival: Arrival, now: Instant) {
        let credited: BTreeMap<_, _> = credited(&self.arrivals, &self.entries);
        if let Some(path) = credited.get(&arrival).filter(|path| **path != NO_PATH) {
            self.last_rx.insert(*path, now);
        }
    }

    fn iface_by_index(&self, ifindex: u32) -> Option<IfaceId> {
        self.ifaces
            .values()
            .find(|iface| iface.ifindex == ifindex)
            .map(|iface| iface.id)
    }

    fn owns(&self, id: IfaceId, local: SocketAddr) -> bool {
        let iface = &self.ifaces[&id];
        iface.state.usable() && iface.addresses.contains(&local.ip())
    }

    fn index_of(&self, local: SocketAddr) -> Option<u32> {
        self.ifaces
            .values()
            .find(|iface| self.owns(iface.id, local))
            .map(|iface| iface.ifindex)
    }

    pub(crate) fn address(&self, id: IfaceId) -> SocketAddr {
        SocketAddr::new(self.ifaces[&id].addresses[0], PORT)
    }

    pub(crate) fn view(&self, local: u16, remote: u16, family: Family) -> PathView {
        let pair = IfacePair {
            local: IfaceId(local),
            remote: IfaceId(remote),
        };
        self.engine
            .views()
            .into_iter()
            .find(|view| view.pair == pair && view.family == family)
            .unwrap_or_else(|| panic!("no path {pair:?} {family:?}"))
    }

    pub(crate) fn up(&self, local: u16, remote: u16) -> bool {
        self.engine.views().iter().any(|view| {
            view.pair.local == IfaceId(local)
                && view.pair.remote == IfaceId(remote)
                && view.up
                && view.home
        })
    }
}
