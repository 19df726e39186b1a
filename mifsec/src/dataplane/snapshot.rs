//! The SAD and SPD as the workers see them: immutable, replaced whole.
//!
//! The agent builds a [`Snapshot`]; [`Published`] compiles it (host index over
//! the ordered bundles) and hands it out by generation number. A worker looks at
//! one atomic per batch and takes the lock only when the number changed.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mifsec_common::steering;

use crate::esp::{InboundSa, OutboundSa};
use crate::ids::{AccessId, Arrival, PathIndex, Spi};

use super::MAX_SEND;
use super::packet::Inner;

/// One range of packets: addresses, protocol, ports (RFC 7296 3.13.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// First and last address, of one family.
    pub addresses: RangeInclusive<IpAddr>,
    /// IP protocol; 0 = any.
    pub protocol: u8,
    /// Ports; `0..=65535` = any. A packet without ports matches only "any".
    pub ports: RangeInclusive<u16>,
}

/// One service of one peer: equal selectors over one Child SA per path.
#[derive(Clone)]
pub struct Bundle {
    /// What the inner source must match.
    pub local: Vec<Selector>,
    /// What the inner destination must match.
    pub remote: Vec<Selector>,
    /// The Child SAs, in the order `table` was built for.
    pub members: Vec<Member>,
    /// Flow hash to member.
    pub table: steering::Table,
    /// Of a peer that is connected when there is a packet for it: the agent's number
    /// of that peer. There are no members yet.
    pub trap: Option<usize>,
    /// What it selects is dropped, whichever way it goes; there are no members.
    pub discard: bool,
}

/// One outbound SA of a bundle.
#[derive(Clone)]
pub struct Member {
    /// The SA.
    pub sa: Arc<OutboundSa>,
    /// Where its ESP is sent: the anchor address, of the path's family.
    pub anchor: SocketAddr,
    /// Whose send socket it uses.
    pub access: AccessId,
    /// The path it is homed on.
    pub path: PathIndex,
    /// MTU of that path, octets, outer headers included.
    pub mtu: u16,
    /// Whether the path can carry data now.
    pub usable: bool,
    /// Share of the flows.
    pub weight: u32,
    /// Responder: not before the first valid inbound packet, or 1 s.
    pub held: bool,
}

/// One inbound SA.
#[derive(Clone)]
pub struct Inbound {
    /// The SA.
    pub sa: Arc<InboundSa>,
    /// What the inner destination must match.
    pub ts_local: Vec<Selector>,
    /// What the inner source must match.
    pub ts_remote: Vec<Selector>,
    /// The path it is homed on.
    pub path: PathIndex,
    /// Tell the agent of the first valid packet ([`super::Input::FirstPacket`]).
    pub notify_first: bool,
}

/// Everything a worker needs to know; replaced whole.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// In order of precedence: the first that selects a packet has it.
    pub bundles: Vec<Bundle>,
    /// The SAD.
    pub inbound: HashMap<Spi, Inbound>,
    /// SPIs whose packets go to the agent.
    pub probes: HashSet<Spi>,
    /// SPIs we named in a request that is not answered yet: packets are held.
    pub larval: HashSet<Spi>,
    /// Which path an arrival belongs to.
    pub arrivals: HashMap<Arrival, PathIndex>,
    /// Kernel indexes of the accesses; what arrives elsewhere is dropped.
    pub accesses: HashSet<u32>,
    /// A deliberate fault: what comes in on another path than its SA's is dropped.
    #[cfg(feature = "testing")]
    pub match_outer: bool,
}

impl Snapshot {
    /// Whether the fault above drops it.
    #[cfg(feature = "testing")]
    pub(super) fn misplaced(&self, path: PathIndex, arrival: Arrival) -> bool {
        let known = self.arrivals.get(&arrival);
        self.match_outer && known.is_some_and(|known| *known != path)
    }

    /// Inbound packets are found by their SPI alone.
    #[cfg(not(feature = "testing"))]
    pub(super) const fn misplaced(&self, _: PathIndex, _: Arrival) -> bool {
        false
    }
}

/// What a bundle without members is said to carry, for the MSS of what may come:
/// nothing is sent in it.
const EMPTY_MTU: usize = 528;
/// Outer IPv4 and IPv6 header with UDP.
const OUTER_V4: usize = 28;
const OUTER_V6: usize = 48;

impl Selector {
    /// Everything from and to one address.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self {
            addresses: address..=address,
            protocol: 0,
            ports: 0..=u16::MAX,
        }
    }

    /// Every address in `addresses`, any protocol and port.
    #[must_use]
    pub const fn range(addresses: RangeInclusive<IpAddr>) -> Self {
        Self {
            addresses,
            protocol: 0,
            ports: 0..=u16::MAX,
        }
    }

    fn matches(&self, address: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        // `IpAddr` orders all of IPv4 before IPv6, so a range of one family
        // never contains an address of the other.
        self.addresses.contains(&address)
            && (self.protocol == 0 || self.protocol == protocol)
            && match port {
                Some(port) => self.ports.contains(&port),
                None => self.ports == (0..=u16::MAX),
            }
    }

    fn is_host(&self) -> Option<IpAddr> {
        (self.addresses.start() == self.addresses.end()).then(|| *self.addresses.start())
    }
}

/// Whether a packet lies within the selectors of both ends.
pub(super) fn selected(inner: &Inner, source: &[Selector], destination: &[Selector]) -> bool {
    let ports = inner.ports;
    source
        .iter()
        .any(|s| s.matches(inner.source, inner.protocol, ports.map(|p| p.0)))
        && destination
            .iter()
            .any(|s| s.matches(inner.destination, inner.protocol, ports.map(|p| p.1)))
}

impl Member {
    /// The largest inner packet a path of this MTU and family carries.
    fn inner_mtu(&self) -> usize {
        let outer = if self.anchor.is_ipv4() {
            OUTER_V4
        } else {
            OUTER_V6
        };
        let room = usize::from(self.mtu).saturating_sub(outer).min(MAX_SEND);
        self.sa.payload_room(room)
    }
}

/// A snapshot with what the look-ups need.
pub(super) struct Compiled {
    pub(super) generation: u64,
    pub(super) snapshot: Snapshot,
    /// Bundles whose remote selectors are all single hosts, by host, in order.
    hosts: HashMap<IpAddr, Vec<usize>>,
    /// The others, in order.
    ordered: Vec<usize>,
    /// Whether a bundle discards.
    discards: bool,
    /// Largest inner packet of each bundle: its flows may change members.
    mtus: Vec<usize>,
}

impl Compiled {
    fn new(generation: u64, snapshot: Snapshot) -> Self {
        let mut hosts: HashMap<IpAddr, Vec<usize>> = HashMap::new();
        let mut ordered = Vec::new();
        for (index, bundle) in snapshot.bundles.iter().enumerate() {
            let addresses: Option<Vec<IpAddr>> =
                bundle.remote.iter().map(Selector::is_host).collect();
            match addresses {
                Some(addresses) if !addresses.is_empty() => {
                    for address in addresses {
                        let entry = hosts.entry(address).or_default();
                        if entry.last() != Some(&index) {
                            entry.push(index);
                        }
                    }
                }
                _ => ordered.push(index),
            }
        }
        let mtus = snapshot
            .bundles
            .iter()
            .map(|bundle| {
                let usable = bundle.members.iter().filter(|m| m.usable);
                let least = usable.map(Member::inner_mtu).min();
                least.or_else(|| bundle.members.iter().map(Member::inner_mtu).min())
            })
            .map(|mtu| mtu.unwrap_or(EMPTY_MTU))
            .collect();
        Self {
            generation,
            discards: snapshot.bundles.iter().any(|b| b.discard),
            snapshot,
            hosts,
            ordered,
            mtus,
        }
    }

    /// The bundle an outbound packet belongs to and the largest inner packet it
    /// takes: the first in the order given. The hosts' index only leaves out those
    /// of other hosts (a gateway's leases).
    pub(super) fn lookup(&self, inner: &Inner) -> Option<(&Bundle, usize)> {
        let find = |list: &[usize], before: usize| {
            let mut list = list.iter().copied().take_while(|index| *index < before);
            list.find(|index| {
                let bundle = self.snapshot.bundles.get(*index);
                bundle.is_some_and(|b| selected(inner, &b.local, &b.remote))
            })
        };
        let host = self.hosts.get(&inner.destination);
        let host = host.and_then(|list| find(list, usize::MAX));
        let index = find(&self.ordered, host.unwrap_or(usize::MAX)).or(host)?;
        Some((self.snapshot.bundles.get(index)?, *self.mtus.get(index)?))
    }

    /// Whether a packet that came in may not, whatever its SA's selectors say.
    pub(super) fn refuses(&self, inner: &Inner) -> bool {
        let refused = || self.lookup(&inner.answer()).is_some_and(|(b, _)| b.discard);
        self.discards && refused()
    }

    /// The largest packet that could answer an inbound one, for its MSS.
    pub(super) fn reverse_mtu(&self, inner: &Inner) -> Option<usize> {
        self.lookup(&inner.answer()).map(|(_, mtu)| mtu)
    }
}

/// Where the newest snapshot is found.
pub(super) struct Published {
    generation: AtomicU64,
    current: Mutex<Arc<Compiled>>,
}

impl Published {
    pub(super) fn new() -> Self {
        Self {
            generation: AtomicU64::new(0),
            current: Mutex::new(Arc::new(Compiled::new(0, Snapshot::default()))),
        }
    }

    /// Replaces the snapshot and returns its number.
    pub(super) fn publish(&self, snapshot: Snapshot) -> u64 {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = current.generation + 1;
        *current = Arc::new(Compiled::new(generation, snapshot));
        self.generation.store(generation, Ordering::Release);
        generation
    }

    /// The newest snapshot.
    pub(super) fn current(&self) -> Arc<Compiled> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Brings `have` up to date; whether it changed.
    pub(super) fn refresh(&self, have: &mut Arc<Compiled>) -> bool {
        let newer = self.generation.load(Ordering::Acquire) != have.generation;
        if newer {
            *have = self.current();
        }
        newer
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::packet::tests::{build, tcp, udp};
    use super::super::packet::{TCP, UDP};
    use super::*;
    use crate::crypto::{AeadAlgorithm, AesKey, Integrity, Secret};
    use crate::esp::SaParams;

    /// An outbound SA with a fixed key.
    pub(in super::super) fn outbound(spi: u32) -> Arc<OutboundSa> {
        outbound_of(spi, AeadAlgorithm::Aes128Gcm16)
    }

    fn outbound_of(spi: u32, algorithm: AeadAlgorithm) -> Arc<OutboundSa> {
        Arc::new(
            OutboundSa::new(&SaParams {
                spi: Spi(spi),
                algorithm,
                keymat: &Secret::new(vec![7; algorithm.keymat_len()]),
                esn: true,
                replay_window: 1024,
            })
            .unwrap(),
        )
    }

    /// A usable member on an IPv4 path.
    pub(in super::super) fn member(spi: u32) -> Member {
        Member {
            sa: outbound(spi),
            anchor: "240.0.0.9:4500".parse().unwrap(),
            access: AccessId(0),
            path: PathIndex(0),
            mtu: 1500,
            usable: true,
            weight: 1,
            held: false,
        }
    }

    /// A bundle of `members` for everything between two selectors.
    pub(in super::super) fn bundle(
        local: Selector,
        remote: Selector,
        members: Vec<Member>,
    ) -> Bundle {
        let table = steering::table(
            &members
                .iter()
                .map(|m| steering::Member {
                    weight: m.weight,
                    usable: m.usable && !m.held,
                })
                .collect::<Vec<_>>(),
        );
        Bundle {
            local: vec![local],
            remote: vec![remote],
            members,
            table,
            trap: None,
            discard: false,
        }
    }

    fn any_v4() -> Selector {
        Selector::range("0.0.0.0".parse().unwrap()..="255.255.255.255".parse().unwrap())
    }

    fn spi(compiled: &Compiled, packet: &[u8]) -> Option<u32> {
        let inner = Inner::parse(packet).unwrap();
        let (bundle, _) = compiled.lookup(&inner)?;
        bundle.members.first().map(|m| m.sa.spi().0)
    }

    #[test]
    fn the_first_in_order_wins_be_it_of_one_host_or_of_all() {
        let host = |last: u8| Selector::host([198, 51, 100, last].into());
        let dns = Selector {
            protocol: UDP,
            ports: 1..=1,
            ..any_v4()
        };
        let compiled = |bundles| {
            let snapshot = Snapshot {
                bundles,
                ..Snapshot::default()
            };
            Compiled::new(1, snapshot)
        };
        let packet = build(false, UDP, 0, &udp(b"x"));
        let some = |remote, spi| bundle(any_v4(), remote, vec![member(spi)]);
        let first = |bundles| spi(&compiled(bundles), &packet);
        let all = || some(any_v4(), 256);
        assert_eq!(first(vec![all(), some(host(2), 258)]), Some(256));
        assert_eq!(first(vec![some(host(2), 258), all()]), Some(258));
        assert_eq!(first(vec![some(host(3), 258), all()]), Some(256));
        assert_eq!(
            first(vec![some(dns, 257), some(host(2), 258), all()]),
            Some(258),
            "what comes before and selects other ports"
        );
        let v6 = build(true, UDP, 0, &udp(b"x"));
        assert_eq!(spi(&compiled(vec![all()]), &v6), None);
    }

    #[test]
    fn what_is_discarded_is_refused_both_ways_in_its_turn() {
        let discard = |remote| Bundle {
            discard: true,
            ..bundle(any_v4(), remote, Vec::new())
        };
        let all = || bundle(any_v4(), any_v4(), vec![member(256)]);
        let packet = build(false, UDP, 0, &udp(b"x"));
        let out = Inner::parse(&packet).unwrap();
        let refused = |bundles| {
            let snapshot = Snapshot {
                bundles,
                ..Snapshot::default()
            };
            let compiled = Compiled::new(1, snapshot);
            let sends = compiled.lookup(&out).is_some_and(|(b, _)| !b.discard);
            (!sends, compiled.refuses(&out.answer()))
        };
        assert_eq!(refused(vec![discard(any_v4()), all()]), (true, true));
        assert_eq!(refused(vec![all(), discard(any_v4())]), (false, false));
        assert_eq!(refused(vec![all()]), (false, false));
        let other = Selector {
            protocol: TCP,
            ..any_v4()
        };
        assert_eq!(refused(vec![discard(other), all()]), (false, false));
        let host = Selector::host(out.destination);
        assert_eq!(refused(vec![discard(host), all()]), (true, true));
    }

    #[test]
    fn protocol_and_ports_narrow_a_selector() {
        let web = Selector {
            protocol: TCP,
            ports: 80..=80,
            ..any_v4()
        };
        let inner = |protocol, t: &[u8]| Inner::parse(&build(false, protocol, 0, t)).unwrap();
        let any = [any_v4()];
        let to_web = inner(TCP, &tcp(0, 0x10, &[], b"x"));
        assert!(selected(&to_web, &any, std::slice::from_ref(&web)));
        assert!(!selected(&to_web, std::slice::from_ref(&web), &any));
        let dns = inner(UDP, &udp(b"x"));
        assert!(!selected(&dns, &any, std::slice::from_ref(&web)));
        // What shows no port does not match a port.
        let mut fragment = build(false, TCP, 0, &tcp(0, 0x10, &[], b"x"));
        fragment[7] = 1;
        let fragment = Inner::parse(&fragment).unwrap();
        assert!(!selected(&fragment, &any, std::slice::from_ref(&web)));
        assert!(selected(&fragment, &any, &any));
    }

    #[test]
    fn the_inner_mtu_fills_the_path_and_never_exceeds_it() {
        let cbc = |integrity| AeadAlgorithm::AesCbc(AesKey::Aes128, integrity);
        let algorithms = [
            AeadAlgorithm::Aes128Gcm16,
            cbc(Integrity::HmacSha256_128),
            cbc(Integrity::HmacSha384_192),
            cbc(Integrity::HmacSha512_256),
        ];
        for mtu in (150..1600).chain(65_400..=u16::MAX) {
            for (anchor, algorithm) in ["240.0.0.9:4500", "[fd6d:6966::9]:4500"]
                .into_iter()
                .flat_map(|anchor| algorithms.map(|algorithm| (anchor, algorithm)))
            {
                let member = Member {
                    sa: outbound_of(256, algorithm),
                    mtu,
                    anchor: anchor.parse().unwrap(),
                    ..member(256)
                };
                let outer = if member.anchor.is_ipv4() { 28 } else { 48 };
                let inner = member.inner_mtu();
                let room = usize::from(mtu - outer).min(MAX_SEND);
                assert!(member.sa.sealed_len(inner) <= room);
                assert!(member.sa.sealed_len(inner + 1) > room);
            }
        }
    }

    #[test]
    fn a_path_too_small_for_esp_carries_nothing() {
        for mtu in [0, 28, 60] {
            let member = Member { mtu, ..member(256) };
            assert_eq!(member.inner_mtu(), 0);
        }
    }

    #[test]
    fn a_bundle_takes_the_least_mtu_of_its_usable_members() {
        let small = Member {
            mtu: 1280,
            ..member(257)
        };
        let unusable = Member {
            mtu: 600,
            usable: false,
            ..member(258)
        };
        let members = vec![member(256), small, unusable];
        let snapshot = Snapshot {
            bundles: vec![bundle(any_v4(), any_v4(), members)],
            ..Snapshot::default()
        };
        let compiled = Compiled::new(1, snapshot);
        let packet = build(false, UDP, 0, &udp(b"x"));
        let inner = Inner::parse(&packet).unwrap();
        assert_eq!(compiled.lookup(&inner).unwrap().1, 1218);
        assert_eq!(compiled.reverse_mtu(&inner), Some(1218));
    }

    #[test]
    fn a_reader_sees_each_generation_once() {
        let published = Published::new();
        let mut have = published.current();
        assert!(!published.refresh(&mut have));
        assert_eq!(published.publish(Snapshot::default()), 1);
        assert_eq!(published.publish(Snapshot::default()), 2);
        assert!(published.refresh(&mut have));
        assert_eq!(have.generation, 2);
        assert!(!published.refresh(&mut have));
    }
}
