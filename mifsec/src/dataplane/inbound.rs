//! From the sockets to the TUN: classify every segment, open in place, check,
//! merge, write.
//!
//! GRO glues whatever arrives in a row on one flow, IKE and several SPIs
//! included, so nothing is concluded from the first segment of a read.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::esp::{EspError, Opened};
use crate::ids::{Arrival, Spi};
use crate::io::tun::Tun;
use crate::io::udp::{RecvBatch, WildcardSocket};

use super::activity::Activity;
use super::counters::{Counters, Reason};
use super::packet::{self, Inner};
use super::snapshot::{Compiled, Inbound as Entry, selected};
use super::waiting::Waiting;
use super::{Input, ecn, merge, mss};

/// GRO reads per system call.
const READS: usize = 8;
/// How often the agent hears of one unknown source.
const NEWS_INTERVAL: Duration = Duration::from_millis(50);
/// Unknown sources remembered for that.
const NEWS: usize = 256;

const KEEPALIVE: [u8; 1] = [0xff];
/// Next headers of tunnel mode, and of a dummy packet (RFC 4303 2.6).
const IPV4: u8 = 4;
const IPV6: u8 = 41;
const NO_NEXT_HEADER: u8 = 59;

/// What a worker lends to its inbound half.
pub(super) struct Outside<'a> {
    pub(super) tun: &'a Tun,
    pub(super) counters: &'a Counters,
    pub(super) activity: &'a Activity,
    pub(super) compiled: &'a Compiled,
    pub(super) inputs: &'a mpsc::Sender<Input>,
    pub(super) port: u16,
    pub(super) now: Instant,
}

/// One worker's inbound half.
pub(super) struct Inbound {
    batch: RecvBatch,
    larval: Waiting<Larval>,
    news: BTreeMap<Arrival, Instant>,
    /// SAs whose first packet was reported.
    reported: Vec<Spi>,
    work: Work,
}

/// Room that is used again for every read.
#[derive(Default)]
struct Work {
    run: Vec<Range<usize>>,
    results: Vec<Result<Opened, EspError>>,
    packets: Vec<(Range<usize>, Inner)>,
}

/// A packet that came before its SA.
struct Larval {
    arrival: Arrival,
    tos: u8,
    bytes: Vec<u8>,
}

/// What a segment is (RFC 3948 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Segment {
    Keepalive,
    Ike,
    Esp(Spi),
    Short,
}

fn classify(segment: &[u8]) -> Segment {
    match *segment {
        [0, 0, 0, 0, ..] => Segment::Ike,
        [a, b, c, d, ..] => Segment::Esp(Spi(u32::from_be_bytes([a, b, c, d]))),
        _ if segment == KEEPALIVE => Segment::Keepalive,
        _ => Segment::Short,
    }
}

impl Inbound {
    pub(super) fn new() -> Self {
        Self {
            batch: RecvBatch::new(READS),
            larval: Waiting::new(),
            news: BTreeMap::new(),
            reported: Vec::new(),
            work: Work::default(),
        }
    }

    /// Receives one batch; whether there may be more.
    pub(super) fn pump(&mut self, socket: &WildcardSocket, outside: &Outside<'_>) -> bool {
        let mut batch = std::mem::replace(&mut self.batch, RecvBatch::empty());
        let received = match socket.receive(&mut batch) {
            Ok(n) => n,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    outside
                        .counters
                        .add(Reason::SocketErrors, 1 + socket.clear_errors());
                }
                0
            }
        };
        for index in 0..received {
            let Some(read) = batch.get(index) else { break };
            let arrival = Arrival {
                ifindex: read.ifindex,
                local: SocketAddr::new(read.local, outside.port),
                remote: read.source,
            };
            self.read(read.bytes, read.segment, arrival, read.tos, outside);
        }
        let more = received == batch.capacity();
        self.batch = batch;
        more
    }

    /// After a new snapshot: packets that came before their SA try again, and
    /// those whose SA will not come are dropped.
    pub(super) fn retry_larval(&mut self, outside: &Outside<'_>) {
        let snapshot = &outside.compiled.snapshot;
        self.reported
            .retain(|spi| snapshot.inbound.contains_key(spi));
        for (spi, packets) in self.larval.take() {
            if snapshot.larval.contains(&spi) {
                // They had room a moment ago.
                for packet in packets {
                    self.larval.push(spi, packet.bytes.len(), || packet);
                }
            } else if snapshot.inbound.contains_key(&spi) {
                for mut packet in packets {
                    let len = packet.bytes.len();
                    self.read(&mut packet.bytes, len, packet.arrival, packet.tos, outside);
                }
            } else {
                let n = packets.len() as u64;
                outside.counters.add(Reason::LarvalGone, n);
            }
        }
    }

    /// One read: datagrams of `segment` octets from one source.
    fn read(
        &mut self,
        bytes: &mut [u8],
        segment: usize,
        arrival: Arrival,
        tos: u8,
        outside: &Outside<'_>,
    ) {
        let counters = outside.counters;
        let segment = segment.max(1);
        if !outside
            .compiled
            .snapshot
            .accesses
            .contains(&arrival.ifindex)
        {
            let datagrams = bytes.len().div_ceil(segment).max(1);
            return counters.add(Reason::NotAccess, datagrams as u64);
        }
        let mut work = std::mem::take(&mut self.work);
        work.packets.clear();
        work.run.clear();
        let mut run = None;
        let mut start = 0;
        while start < bytes.len() {
            let place = start..bytes.len().min(start + segment);
            start = place.end;
            let datagram = bytes.get(place.clone()).unwrap_or_default();
            match classify(datagram) {
                Segment::Esp(spi) => {
                    if run != Some(spi) {
                        self.run(run, bytes, &mut work, arrival, tos, outside);
                        run = Some(spi);
                    }
                    work.run.push(place);
                }
                Segment::Ike => {
                    counters.hit(Reason::Ike);
                    // Without the non-ESP marker.
                    let bytes = datagram.get(4..).unwrap_or_default().to_vec();
                    tell(Input::Ike { arrival, bytes }, outside);
                }
                Segment::Keepalive => counters.hit(Reason::Keepalive),
                Segment::Short => counters.hit(Reason::TooShort),
            }
        }
        self.run(run, bytes, &mut work, arrival, tos, outside);
        merge::merge(bytes, &work.packets, outside.tun.uso(), &mut |parts| {
            if outside.tun.write(parts).is_err() {
                counters.hit(Reason::TunError);
            }
        });
        self.work = work;
    }

    /// A run of segments with one SPI, in `work.run`; what is good goes to
    /// `work.packets`.
    fn run(
        &mut self,
        spi: Option<Spi>,
        bytes: &mut [u8],
        work: &mut Work,
        arrival: Arrival,
        tos: u8,
        outside: &Outside<'_>,
    ) {
        let Some(spi) = spi else { return };
        let snapshot = &outside.compiled.snapshot;
        if let Some(entry) = snapshot.inbound.get(&spi) {
            self.open(spi, entry, bytes, work, arrival, tos, outside);
        } else {
            for place in &work.run {
                let packet = bytes.get(place.clone()).unwrap_or_default();
                self.not_data(spi, packet, arrival, tos, outside);
            }
        }
        work.run.clear();
    }

    #[expect(clippy::too_many_arguments, reason = "one call, split for length")]
    fn open(
        &mut self,
        spi: Spi,
        entry: &Entry,
        bytes: &mut [u8],
        work: &mut Work,
        arrival: Arrival,
        tos: u8,
        outside: &Outside<'_>,
    ) {
        if outside.compiled.snapshot.misplaced(entry.path, arrival) {
            return;
        }
        let counters = outside.counters;
        work.results.clear();
        entry.sa.open_run(bytes, &work.run, &mut work.results);
        let (mut packets, mut octets) = (0, 0);
        for result in &work.results {
            match result {
                Ok(opened) => {
                    packets += 1;
                    octets += opened.payload.len() as u64;
                    match accept(opened, entry, bytes, tos, outside.compiled) {
                        Ok(packet) => work.packets.push(packet),
                        Err(reason) => counters.hit(reason),
                    }
                }
                Err(error) => counters.hit(Reason::of(*error)),
            }
        }
        if packets > 0 {
            counters.add(Reason::RxPackets, packets);
            counters.add(Reason::RxOctets, octets);
            self.authenticated(spi, entry, arrival, outside);
        }
    }

    /// Something authentic came in on `arrival`.
    fn authenticated(&mut self, spi: Spi, entry: &Entry, arrival: Arrival, outside: &Outside<'_>) {
        if entry.notify_first && !self.reported.contains(&spi) {
            self.reported.push(spi);
            tell(Input::FirstPacket { spi }, outside);
        }
        if let Some(path) = outside.compiled.snapshot.arrivals.get(&arrival) {
            return outside.activity.received(*path, outside.now);
        }
        let due = |said: &Instant| outside.now >= *said + NEWS_INTERVAL;
        if self.news.get(&arrival).is_none_or(due) {
            if self.news.len() >= NEWS {
                self.news.retain(|_, said| !due(said));
            }
            if self.news.len() < NEWS {
                self.news.insert(arrival, outside.now);
                tell(
                    Input::NewSource {
                        arrival,
                        spi,
                        path: entry.path,
                    },
                    outside,
                );
            }
        }
    }

    /// A packet of an SPI that is no data SA.
    fn not_data(
        &mut self,
        spi: Spi,
        packet: &[u8],
        arrival: Arrival,
        tos: u8,
        outside: &Outside<'_>,
    ) {
        let snapshot = &outside.compiled.snapshot;
        let bytes = || packet.to_vec();
        if snapshot.probes.contains(&spi) {
            outside.counters.hit(Reason::Probe);
            tell(
                Input::Probe {
                    arrival,
                    spi,
                    bytes: bytes(),
                },
                outside,
            );
        } else if snapshot.larval.contains(&spi) {
            let kept = self.larval.push(spi, packet.len(), || Larval {
                arrival,
                tos,
                bytes: bytes(),
            });
            if !kept {
                outside.counters.hit(Reason::LarvalFull);
            }
        } else {
            outside.counters.hit(Reason::UnknownSpi);
        }
    }
}

/// What RFC 4301 5.2 asks after decryption: an IP packet, within the SA's
/// selectors; then congestion marks and MSS.
fn accept(
    opened: &Opened,
    entry: &Entry,
    bytes: &mut [u8],
    tos: u8,
    compiled: &Compiled,
) -> Result<(Range<usize>, Inner), Reason> {
    if opened.next_header == NO_NEXT_HEADER {
        return Err(Reason::Dummy);
    }
    if !matches!(opened.next_header, IPV4 | IPV6) {
        return Err(Reason::NextHeader);
    }
    let payload = bytes
        .get_mut(opened.payload.clone())
        .ok_or(Reason::MalformedIn)?;
    let mut inner = Inner::parse(payload)
        .filter(|inner| inner.next_header() == opened.next_header)
        .ok_or(Reason::MalformedIn)?;
    if !selected(&inner, &entry.ts_remote, &entry.ts_local) {
        return Err(Reason::Selector);
    }
    if compiled.refuses(&inner) {
        return Err(Reason::DiscardedIn);
    }
    // What lies behind the packet is traffic flow padding (RFC 4303 2.7).
    let payload = payload.get_mut(..inner.total).ok_or(Reason::MalformedIn)?;
    let marked = ecn::decapsulate(tos, inner.tos).map_err(|_| Reason::EcnDrop)?;
    if marked != inner.tos {
        packet::set_tos(payload, marked);
        inner.tos = marked;
    }
    if mss::is_syn(payload, &inner)
        && let Some(mtu) = compiled.reverse_mtu(&inner)
    {
        mss::clamp(payload, &inner, mtu, false);
    }
    let start = opened.payload.start;
    Ok((start..start + inner.total, inner))
}

/// The agent is told without waiting: what it cannot take is dropped.
fn tell(input: Input, outside: &Outside<'_>) {
    if outside.inputs.try_send(input).is_err() {
        outside.counters.hit(Reason::AgentQueueFull);
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::UDP;
    use super::super::packet::tests::{assert_checksums, build, udp};
    use super::super::snapshot::{Selector, Snapshot};
    use super::*;
    use crate::crypto::{AeadAlgorithm, Secret};
    use crate::esp::{InboundSa, SaParams};
    use crate::ids::PathIndex;

    #[test]
    fn segments_are_told_apart_by_their_first_octets() {
        assert_eq!(classify(&[0xff]), Segment::Keepalive);
        assert_eq!(classify(&[0xfe]), Segment::Short);
        assert_eq!(classify(&[]), Segment::Short);
        assert_eq!(classify(&[0xff, 0xff]), Segment::Short);
        assert_eq!(classify(&[0, 0, 0]), Segment::Short);
        assert_eq!(classify(&[0, 0, 0, 0]), Segment::Ike);
        assert_eq!(
            classify(&[0xff, 0, 0, 1, 9]),
            Segment::Esp(Spi(0xff00_0001))
        );
    }

    fn accepted(outer_tos: u8, packet: &[u8], next_header: u8) -> Result<Vec<u8>, Reason> {
        let keymat = Secret::new(vec![1; 20]);
        let everything = || {
            vec![Selector::range(
                "0.0.0.0".parse().unwrap()..="255.255.255.255".parse().unwrap(),
            )]
        };
        let entry = Entry {
            sa: std::sync::Arc::new(
                InboundSa::new(&SaParams {
                    spi: Spi(256),
                    algorithm: AeadAlgorithm::Aes128Gcm16,
                    keymat: &keymat,
                    esn: true,
                    replay_window: 64,
                })
                .unwrap(),
            ),
            ts_local: everything(),
            ts_remote: everything(),
            path: PathIndex(0),
            notify_first: false,
        };
        let published = super::super::snapshot::Published::new();
        published.publish(Snapshot::default());
        let opened = Opened {
            sequence: 1,
            next_header,
            payload: 4..4 + packet.len(),
        };
        let mut bytes = vec![0; 4];
        bytes.extend(packet);
        let current = published.current();
        let (place, inner) = accept(&opened, &entry, &mut bytes, outer_tos, &current)?;
        assert_eq!(inner, Inner::parse(&bytes[place.clone()]).unwrap());
        Ok(bytes[place].to_vec())
    }

    #[test]
    fn congestion_on_the_way_is_marked_on_the_inner_packet() {
        let packet = build(false, UDP, 0x02, &udp(b"x"));
        let out = accepted(0x03, &packet, IPV4).unwrap();
        assert_eq!(out[1], 0x03);
        assert_checksums(&out);
        let deaf = build(false, UDP, 0, &udp(b"x"));
        assert_eq!(accepted(0x03, &deaf, IPV4), Err(Reason::EcnDrop));
    }

    #[test]
    fn padding_behind_the_packet_does_not_get_out() {
        let packet = build(false, UDP, 0, &udp(b"x"));
        let mut padded = packet.clone();
        padded.extend([0xee; 40]);
        assert_eq!(accepted(0, &padded, IPV4), Ok(packet));
    }

    #[test]
    fn what_is_not_tunnel_mode_ip_is_refused() {
        let packet = build(false, UDP, 0, &udp(b"x"));
        assert_eq!(accepted(0, &packet, IPV6), Err(Reason::MalformedIn));
        assert_eq!(accepted(0, &packet, 17), Err(Reason::NextHeader));
        assert_eq!(accepted(0, &packet, NO_NEXT_HEADER), Err(Reason::Dummy));
        let v6 = build(true, UDP, 0, &udp(b"x"));
        assert_eq!(accepted(0, &v6, IPV6), Err(Reason::Selector));
        for len in 0..packet.len() {
            assert_eq!(
                accepted(0, &packet[..len], IPV4),
                Err(Reason::MalformedIn),
                "cut at {len}"
            );
        }
    }
}
