//! What an IKE SA sees of the engine around it while it takes a step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::crypto::Entropy;
use crate::ids::{Arrival, ChildId, IfaceId, IkeId, IkeSpi, Spi};
use crate::ike::config::{EngineConfig, Limits, PeerConfig, RetransmitConfig};
use crate::ike::error::{DropReason, Failure};
use crate::ike::event::{Event, SaRequest, Transmit};
use crate::ike::lease::{Pool, PoolError};
use crate::ike::mif::{AddressPolicy, InterfaceRecord};
use crate::ike::peer::PskTable;
use crate::ike::redirect::History;
use crate::ike::sa::IkeSa;
use crate::ike::window::Datagrams;

/// Octets of our nonces: half the key of the largest PRF is the least
/// (RFC 7296 2.10).
const NONCE_LEN: usize = 32;

/// Refusals of who has not proved who it is are reported at most this often, those
/// of IKE_SA_INIT and of IKE_AUTH each.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Octets of an IKE message that fit the least packet every path has to pass
/// (1280, RFC 8200 5), next to IP, UDP and non-ESP marker. Longer ones may be
/// fragmented, which is where firewalls lose them; they are sent, and counted.
pub(super) fn room(remote: SocketAddr) -> usize {
    let ip = if remote.is_ipv4() { 20 } else { 40 };
    1280 - ip - 8 - 4
}

/// Configuration, randomness, the other IKE SAs, and the output queues.
pub(in crate::ike) struct Context {
    pub(in crate::ike) peers: Vec<Arc<PeerConfig>>,
    pub(in crate::ike) limits: Limits,
    pub(in crate::ike) retransmit: RetransmitConfig,
    /// Longest datagram towards peers that take fragments.
    pub(in crate::ike) fragment_size: usize,
    pub(in crate::ike) port: u16,
    pub(in crate::ike) ike_port: u16,
    pub(in crate::ike) pools: BTreeMap<String, Pool>,
    /// Shared keys that replace those of the configuration, by peer.
    pub(in crate::ike) psk_tables: BTreeMap<String, PskTable>,
    /// The clock on the wall, and when it showed that.
    pub(in crate::ike) wall: Option<(Duration, Instant)>,
    /// All IKE SAs but the one that takes the step.
    pub(in crate::ike) sas: BTreeMap<IkeId, Box<IkeSa>>,
    /// Our own interfaces, as announced.
    pub(in crate::ike) ifaces: Vec<InterfaceRecord>,
    /// Number of that table.
    pub(in crate::ike) epoch: u32,
    /// Interfaces of ours that are deleted for a peer, by its entry and identity: for
    /// its next IKE SA too.
    deleted: BTreeMap<(String, String), BTreeSet<IfaceId>>,
    /// Redirections followed lately.
    pub(in crate::ike) redirects: History,
    /// Other IKE SAs this step changed.
    touched: Vec<IkeId>,
    #[cfg(feature = "testing")]
    pub(in crate::ike) fault: Option<crate::ike::fault::Fault>,
    entropy: Box<dyn Entropy>,
    now: Option<Instant>,
    spis: BTreeSet<Spi>,
    next_child: u64,
    transmits: VecDeque<Transmit>,
    requests: VecDeque<SaRequest>,
    events: VecDeque<Event>,
    counters: BTreeMap<&'static str, u64>,
    /// When one was last reported, by whether there was an IKE SA.
    refusals: BTreeMap<bool, Instant>,
}

impl Context {
    /// An engine without IKE SAs.
    pub(super) fn new(config: EngineConfig, entropy: Box<dyn Entropy>) -> Result<Self, PoolError> {
        let pools = config
            .pools
            .into_iter()
            .map(|pool| Ok((pool.name.clone(), Pool::new(pool)?)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            peers: config.peers.into_iter().map(Arc::new).collect(),
            limits: config.limits,
            retransmit: config.retransmit,
            fragment_size: config.fragment_size,
            port: config.port,
            ike_port: config.ike_port,
            pools,
            psk_tables: BTreeMap::new(),
            wall: None,
            sas: BTreeMap::new(),
            ifaces: Vec::new(),
            epoch: 0,
            deleted: BTreeMap::new(),
            #[cfg(feature = "testing")]
            fault: None,
            entropy,
            now: None,
            spis: BTreeSet::new(),
            next_child: 1,
            transmits: VecDeque::new(),
            requests: VecDeque::new(),
            events: VecDeque::new(),
            counters: BTreeMap::new(),
            redirects: History::default(),
            touched: Vec::new(),
            refusals: BTreeMap::new(),
        })
    }

    /// Notes whether an interface of ours is deleted for the peer of `sa`.
    pub(in crate::ike) fn note_deleted(&mut self, sa: &IkeSa, iface: IfaceId, deleted: bool) {
        let key = (sa.peer_name(), sa.remote_id.clone());
        let all = self.deleted.entry(key).or_default();
        match deleted {
            true => all.insert(iface),
            false => all.remove(&iface),
        };
        self.deleted.retain(|_, ifaces| !ifaces.is_empty());
    }

    /// Interfaces of ours that are deleted for the peer of `sa`, whoever it may be of
    /// its entry while it has not proved that. One that it is connected over is not.
    pub(in crate::ike) fn deleted_for(&self, sa: &IkeSa) -> BTreeSet<IfaceId> {
        let name = sa.peer_name();
        let unknown = sa.remote_id.is_empty();
        let is =
            |(entry, id): &(String, String)| *entry == name && (unknown || *id == sa.remote_id);
        let all = self.deleted.iter().filter(|(key, _)| is(key));
        let mut all: BTreeSet<_> = all.flat_map(|(_, ifaces)| ifaces).copied().collect();
        let over = match sa.channel.local_iface {
            IfaceId::CHANNEL => self.iface_of(sa.channel.local.ip()),
            known => known,
        };
        all.remove(&over);
        all
    }

    /// Starts a step. Time never goes back, whatever the driver passes.
    pub(super) fn begin(&mut self, now: Instant) {
        self.now = Some(self.now.map_or(now, |last| last.max(now)));
    }

    /// The time of this step.
    pub(in crate::ike) fn now(&self) -> Instant {
        self.now
            .expect("every input passes the time before anything runs")
    }

    /// What the clock on the wall shows now, since 1970; `None` while nobody said.
    pub(in crate::ike) fn wall_clock(&self) -> Option<Duration> {
        let (shown, at) = self.wall?;
        Some(shown + self.now().saturating_duration_since(at))
    }

    /// The time of the last step while its output waits to be drained.
    pub(super) fn undrained(&self) -> Option<Instant> {
        let waiting =
            !(self.transmits.is_empty() && self.requests.is_empty() && self.events.is_empty());
        self.now.filter(|_| waiting)
    }

    pub(in crate::ike) fn transmit(&mut self, transmit: Transmit) {
        if transmit.payload.len() > room(transmit.remote) {
            self.count("ike_oversize_sent");
        }
        self.transmits.push_back(transmit);
    }

    /// Sends a response to where its request came from (protocol 3.8).
    pub(in crate::ike) fn reply(&mut self, arrival: Arrival, payload: Vec<u8>) {
        self.transmit(Transmit {
            ifindex: arrival.ifindex,
            local: arrival.local,
            remote: arrival.remote,
            payload,
        });
    }

    /// The same of a message that may be in fragments.
    pub(in crate::ike) fn reply_all(&mut self, arrival: Arrival, datagrams: Datagrams) {
        for datagram in datagrams {
            self.reply(arrival, datagram);
        }
    }

    pub(in crate::ike) fn request(&mut self, request: SaRequest) {
        self.requests.push_back(request);
    }

    pub(in crate::ike) fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// News that somebody was refused before it proved who it is: one line for the
    /// operator, not one per packet, and of no peer, because anybody can claim to
    /// be one. The caller counts.
    pub(in crate::ike) fn refused(&mut self, ike: Option<IkeId>, reason: Failure) {
        let now = self.now();
        let last = self.refusals.get(&ike.is_some());
        if last.is_none_or(|last| now.duration_since(*last) >= REPORT_EVERY) {
            self.refusals.insert(ike.is_some(), now);
            self.event(Event::Failed {
                peer: String::new(),
                ike,
                reason,
            });
        }
    }

    /// Counts input that had no effect.
    pub(in crate::ike) fn drop(&mut self, reason: DropReason) {
        self.count(reason.name());
    }

    pub(in crate::ike) fn count(&mut self, name: &'static str) {
        let counter = self.counters.entry(name).or_default();
        *counter = counter.saturating_add(1);
    }

    pub(super) fn counters(&self) -> &BTreeMap<&'static str, u64> {
        &self.counters
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub(super) fn poll_request(&mut self) -> Option<SaRequest> {
        self.requests.pop_front()
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A fresh nonce.
    pub(in crate::ike) fn nonce(&mut self) -> Vec<u8> {
        let mut nonce = vec![0; NONCE_LEN];
        self.entropy.fill(&mut nonce);
        nonce
    }

    /// From 0 up to but not including 1.
    pub(in crate::ike) fn unit(&mut self) -> f64 {
        f64::from(self.entropy.u32()) / (f64::from(u32::MAX) + 1.0)
    }

    pub(super) fn entropy(&mut self) -> &mut dyn Entropy {
        self.entropy.as_mut()
    }

    /// An IKE SPI of ours; 0 is no SPI.
    pub(in crate::ike) fn ike_spi(&mut self) -> IkeSpi {
        loop {
            let spi = self.entropy.u64();
            if spi != 0 {
                return IkeSpi(spi);
            }
        }
    }

    /// Lets another IKE SA take a step within this one's.
    pub(in crate::ike) fn with<R>(
        &mut self,
        id: IkeId,
        step: impl FnOnce(&mut IkeSa, &mut Self) -> R,
    ) -> Option<R> {
        let mut sa = self.sas.remove(&id)?;
        let out = step(&mut sa, self);
        sa.pump(self);
        self.sas.insert(id, sa);
        self.touched.push(id);
        Some(out)
    }

    /// An inbound SPI no live SA has; values below 256 are reserved (RFC 4303 2.1).
    pub(in crate::ike) fn allocate_spi(&mut self) -> Spi {
        loop {
            let spi = Spi(self.entropy.u32());
            if spi.0 >= 256 && self.spis.insert(spi) {
                return spi;
            }
        }
    }

    /// Inbound SPIs that are not free.
    #[cfg(feature = "testing")]
    pub(super) fn taken_spis(&self) -> usize {
        self.spis.len()
    }

    /// Gives an inbound SPI back.
    pub(in crate::ike) fn release_spi(&mut self, spi: Spi) {
        self.spis.remove(&spi);
    }

    /// A handle no Child SA had before.
    pub(in crate::ike) fn child_id(&mut self) -> ChildId {
        let id = ChildId(self.next_child);
        self.next_child += 1;
        id
    }

    /// Ends other IKE SAs that this peer began (RFC 7296 2.4): the identity `of`
    /// proved, under the same entry. Another entry may let anybody have that name.
    pub(in crate::ike) fn close_others(&mut self, of: &IkeSa) {
        let peer = of.peer_name();
        let same = |sa: &IkeSa| {
            !sa.caller
                && sa.remote_id == of.remote_id
                && sa.peer_name() == peer
                && sa.is_authenticated()
        };
        let ids: Vec<_> = self
            .sas
            .iter()
            .filter(|(_, sa)| same(sa))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if let Some(mut sa) = self.sas.remove(&id) {
                sa.close(Failure::Replaced, self);
                self.sas.insert(id, sa);
                self.touched.push(id);
            }
        }
    }

    /// IKE SAs other than the stepping one that changed since the last call.
    pub(super) fn take_touched(&mut self) -> Vec<IkeId> {
        std::mem::take(&mut self.touched)
    }

    /// Which of our interfaces has this address; [`IfaceId::CHANNEL`] if none.
    pub(in crate::ike) fn iface_of(&self, address: IpAddr) -> IfaceId {
        self.ifaces
            .iter()
            .find(|iface| iface.addresses.iter().any(|maddr| maddr.ip == address))
            .map_or(IfaceId::CHANNEL, |iface| iface.id)
    }

    /// Which addresses a peer may name. An address of ours is never a peer's,
    /// except a private one: both ends may be behind NATs with the same inside.
    pub(in crate::ike) fn address_policy(&self) -> AddressPolicy {
        // RFC 6598: 100.64.0.0/10 is the inside of providers' NATs.
        let is_shared = |ip: Ipv4Addr| ip.to_bits() >> 22 == 0x6440_0000 >> 22;
        let is_private = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => ip.is_private() || is_shared(*ip),
            IpAddr::V6(ip) => ip.is_unique_local(),
        };
        AddressPolicy {
            own: self
                .ifaces
                .iter()
                .flat_map(|iface| iface.addresses.iter().map(|maddr| maddr.ip))
                .filter(|ip| !is_private(ip))
                .collect(),
            max_ifaces: u8::try_from(self.limits.interfaces).unwrap_or(u8::MAX),
            ..AddressPolicy::default()
        }
    }
}

/// What the operator took from peers, for as long as the engine lives.
impl super::Engine {
    /// Whether an interface of ours is deleted for the peer of an IKE SA, by this one or
    /// one before it; also when this one is connected over it.
    #[must_use]
    pub fn remembers_deleted(&self, ike: IkeId, iface: IfaceId) -> bool {
        let sa = self.cx.sas.get(&ike);
        let key = sa.map(|sa| (sa.peer_name(), sa.remote_id.clone()));
        let of_peer = key.and_then(|key| self.cx.deleted.get(&key));
        of_peer.is_some_and(|deleted| deleted.contains(&iface))
    }

    /// Whether it is for any peer of an entry in the configuration.
    #[must_use]
    pub fn is_deleted_for(&self, entry: &str, iface: IfaceId) -> bool {
        let all = self.cx.deleted.iter();
        let mut of_entry = all.filter(|((name, _), _)| name == entry);
        of_entry.any(|(_, deleted)| deleted.contains(&iface))
    }
}
