//! From the TUN to the anchor: look up, cut, seal in place, send.
//!
//! A super-packet's segments are written straight into the send buffer of their
//! SA and sealed there. A buffer leaves when it is full, when a packet does not
//! fit its pattern (one size, one TOS), or when the TUN has no more: a lone
//! packet never waits.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mifsec_common::steering;
use tokio::sync::mpsc;

use crate::esp::OutboundSa;
use crate::ids::{AccessId, Family, PathIndex, Spi};
use crate::io::tun::{Gso, Tun, VNET_LEN, VnetHeader};
use crate::io::udp::{self, MAX_SEGMENTS, SendSocket};

use super::activity::Activity;
use super::counters::{Counters, Reason};
use super::fragment::Fragments;
use super::limit::Limit;
use super::packet::{Inner, TCP, UDP};
use super::segment::{self, Cutter};
use super::snapshot::{Bundle, Compiled, Member};
use super::trap::Told;
use super::waiting::Waiting;
use super::{Input, MAX_SEND, icmp, mss};

/// The least MTU of an IPv6 link (RFC 8200 5): no sender goes below.
const IPV6_MIN_MTU: usize = 1280;
/// Reads from the TUN before the sockets get their turn.
const BURST: usize = 32;
/// SAs with an open send buffer at once; one more sends the oldest.
const BUFFERS: usize = 8;
/// How long a responder holds packets (architecture 5.1).
const HOLD_TIME: Duration = Duration::from_secs(1);
/// ICMP errors: at once, and then one per interval.
const ICMP_BURST: u32 = 50;
const ICMP_INTERVAL: Duration = Duration::from_millis(10);

/// What a worker lends to its outbound half.
pub(super) struct Outside<'a> {
    pub(super) tun: &'a Tun,
    /// By family, by access.
    pub(super) senders: &'a [Vec<SendSocket>; 2],
    pub(super) counters: &'a Counters,
    pub(super) activity: &'a Activity,
    pub(super) compiled: &'a Compiled,
    pub(super) inputs: &'a mpsc::Sender<Input>,
    pub(super) now: Instant,
}

/// One worker's outbound half.
pub(super) struct Outbound {
    read: Box<[u8]>,
    buffers: Vec<Buffer>,
    /// Packets for members that are held, with their vnet headers, by SPI.
    held: Waiting<Vec<u8>>,
    /// Since when each held SA has had packets to send.
    held_since: BTreeMap<Spi, Instant>,
    icmp: Limit,
    told: Told,
}

impl Outbound {
    pub(super) fn new() -> Self {
        Self {
            read: vec![0; VNET_LEN + 65536].into_boxed_slice(),
            buffers: Vec::new(),
            held: Waiting::new(),
            held_since: BTreeMap::new(),
            icmp: Limit::new(ICMP_BURST, ICMP_INTERVAL),
            told: Told::default(),
        }
    }

    /// Reads and sends until the TUN is empty or a burst is done. Fails only
    /// when the TUN is gone.
    pub(super) fn pump(&mut self, outside: &Outside<'_>) -> io::Result<()> {
        let mut read = std::mem::take(&mut self.read);
        let mut result = Ok(());
        for _ in 0..BURST {
            match outside.tun.read(&mut read) {
                Ok(len) => self.packet(read.get_mut(..len).unwrap_or_default(), outside),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.read = read;
        self.flush(outside);
        result
    }

    /// When held packets are due, if there are any.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.held
            .spis()
            .filter_map(|spi| self.held_since.get(spi))
            .min()
            .map(|since| *since + HOLD_TIME)
    }

    /// After a new snapshot or a deadline: held packets try again, and keys of
    /// SAs that may be gone are let go.
    pub(super) fn retry_held(&mut self, outside: &Outside<'_>) {
        for buffer in &mut self.buffers {
            buffer.to = None;
        }
        let bundles = &outside.compiled.snapshot.bundles;
        self.held_since.retain(|spi, _| {
            let mut members = bundles.iter().flat_map(|b| &b.members);
            members.any(|m| m.held && m.sa.spi() == *spi)
        });
        for (_, packets) in self.held.take() {
            for mut packet in packets {
                self.packet(&mut packet, outside);
            }
        }
        self.flush(outside);
    }

    /// One TUN read: vnet header and packet.
    fn packet(&mut self, bytes: &mut [u8], outside: &Outside<'_>) {
        let Some(header) = VnetHeader::parse(bytes) else {
            return outside.counters.hit(Reason::MalformedOut);
        };
        let Some(inner) = bytes.get(VNET_LEN..).and_then(Inner::parse) else {
            return outside.counters.hit(Reason::MalformedOut);
        };
        let Some((bundle, mtu)) = outside.compiled.lookup(&inner) else {
            return outside.counters.hit(Reason::NoPolicy);
        };
        if bundle.discard {
            return outside.counters.hit(Reason::DiscardedOut);
        }
        if let Some(peer) = bundle.trap {
            let (inputs, counters) = (outside.inputs, outside.counters);
            let told = &mut self.told;
            return told.drop(peer, inner.destination, inputs, counters, outside.now);
        }
        let packet = bytes.get_mut(VNET_LEN..).unwrap_or_default();
        let member = match self.choose(bundle, packet, outside.now) {
            Choice::Send(member) => member,
            Choice::Hold(spi) => return self.hold(spi, bytes, outside),
            Choice::Drop => return outside.counters.hit(Reason::NoPath),
        };
        mss::clamp(packet, &inner, mtu, header.needs_checksum);
        match header.gso {
            Gso::Tcp4 | Gso::Tcp6 => self.tcp(header, packet, &inner, member, mtu, outside),
            Gso::Udp => self.udp(header, packet, &inner, member, mtu, outside),
            Gso::None => {
                if header.needs_checksum {
                    let (start, offset) = (header.checksum_start, header.checksum_offset);
                    if !segment::complete(
                        packet.get_mut(..inner.total).unwrap_or_default(),
                        usize::from(start),
                        usize::from(offset),
                    ) {
                        return outside.counters.hit(Reason::MalformedOut);
                    }
                }
                self.single(packet, &inner, member, mtu, outside);
            }
            Gso::Other => outside.counters.hit(Reason::MalformedOut),
        }
    }

    fn choose<'a>(&self, bundle: &'a Bundle, packet: &[u8], now: Instant) -> Choice<'a> {
        let ready = |member: &Member| member.usable && !self.is_held(member, now);
        let hash = steering::flow_hash(packet);
        let ideal = usize::from(steering::member(&bundle.table, hash));
        if let Some(member) = bundle.members.get(ideal).filter(|m| ready(m)) {
            return Choice::Send(member);
        }
        let count = bundle.members.iter().filter(|m| ready(m)).count();
        // A modulo of a 32-bit hash: no loss on a 64-bit machine.
        if let Some(nth) = (hash as usize).checked_rem(count)
            && let Some(member) = bundle.members.iter().filter(|m| ready(m)).nth(nth)
        {
            return Choice::Send(member);
        }
        match bundle.members.iter().find(|m| m.usable) {
            Some(member) => Choice::Hold(member.sa.spi()),
            None => Choice::Drop,
        }
    }

    fn is_held(&self, member: &Member, now: Instant) -> bool {
        member.held
            && self
                .held_since
                .get(&member.sa.spi())
                .is_none_or(|since| now < *since + HOLD_TIME)
    }

    fn hold(&mut self, spi: Spi, bytes: &[u8], outside: &Outside<'_>) {
        self.held_since.entry(spi).or_insert(outside.now);
        if !self.held.push(spi, bytes.len(), || bytes.to_vec()) {
            outside.counters.hit(Reason::HeldFull);
        }
    }

    fn tcp(
        &mut self,
        header: VnetHeader,
        packet: &[u8],
        inner: &Inner,
        member: &Member,
        mtu: usize,
        outside: &Outside<'_>,
    ) {
        let offset = packet.get(inner.transport + 12).copied().unwrap_or(0);
        let headers = inner.transport + usize::from(offset >> 4) * 4;
        let size = usize::from(header.gso_size).min(mtu.saturating_sub(headers));
        let cutter = (inner.protocol == TCP)
            .then(|| Cutter::new(packet, *inner, size))
            .flatten();
        match cutter {
            Some(cutter) => self.cut(cutter, inner, member, outside),
            None if size < usize::from(header.gso_size) => {
                outside.counters.hit(Reason::TooBigSilent);
            }
            None => outside.counters.hit(Reason::MalformedOut),
        }
    }

    fn udp(
        &mut self,
        header: VnetHeader,
        packet: &[u8],
        inner: &Inner,
        member: &Member,
        mtu: usize,
        outside: &Outside<'_>,
    ) {
        let size = usize::from(header.gso_size);
        let cutter = (inner.protocol == UDP)
            .then(|| Cutter::new(packet, *inner, size))
            .flatten();
        let Some(mut cutter) = cutter else {
            return outside.counters.hit(Reason::MalformedOut);
        };
        if cutter.next_len().is_some_and(|len| len <= mtu) {
            return self.cut(cutter, inner, member, outside);
        }
        // Datagrams are never cut smaller: each is treated as if it came alone.
        let mut room = Vec::new();
        while let Some(len) = cutter.next_len() {
            room.resize(len, 0);
            cutter.write(&mut room);
            if let Some(inner) = Inner::parse(&room) {
                self.single(&room, &inner, member, mtu, outside);
            }
        }
    }

    fn cut(
        &mut self,
        mut cutter: Cutter<'_>,
        inner: &Inner,
        member: &Member,
        outside: &Outside<'_>,
    ) {
        let count = cutter.count();
        let Some(mut sequence) = reserve(member, count) else {
            return outside.counters.add(Reason::Exhausted, count as u64);
        };
        while let Some(len) = cutter.next_len() {
            self.seal(member, inner, sequence, len, outside, |out| {
                cutter.write(out);
            });
            sequence += 1;
        }
    }

    /// A packet that stands for itself, checksums complete.
    fn single(
        &mut self,
        packet: &[u8],
        inner: &Inner,
        member: &Member,
        mtu: usize,
        outside: &Outside<'_>,
    ) {
        let packet = packet.get(..inner.total).unwrap_or_default();
        if packet.len() > mtu {
            if inner.dont_fragment {
                return self.too_big(packet, inner, mtu, outside);
            }
            return self.fragments(packet, inner, member, mtu, outside);
        }
        let Some(sequence) = reserve(member, 1) else {
            return outside.counters.hit(Reason::Exhausted);
        };
        self.seal(member, inner, sequence, packet.len(), outside, |out| {
            out.copy_from_slice(packet);
        });
    }

    fn fragments(
        &mut self,
        packet: &[u8],
        inner: &Inner,
        member: &Member,
        mtu: usize,
        outside: &Outside<'_>,
    ) {
        let Some(mut fragments) = Fragments::new(packet, inner, mtu) else {
            return outside.counters.hit(Reason::TooBigSilent);
        };
        let count = fragments.count();
        let Some(mut sequence) = reserve(member, count) else {
            return outside.counters.add(Reason::Exhausted, count as u64);
        };
        while let Some(len) = fragments.next_len() {
            self.seal(member, inner, sequence, len, outside, |out| {
                fragments.write(out);
            });
            sequence += 1;
        }
    }

    fn too_big(&mut self, packet: &[u8], inner: &Inner, mtu: usize, outside: &Outside<'_>) {
        if inner.source.is_ipv6() && packet.len() <= IPV6_MIN_MTU {
            // Its sender may ignore an error about it (RFC 8201 4).
            return outside.counters.hit(Reason::TooSmallForV6);
        }
        let error = icmp::too_big(packet, inner, mtu).filter(|_| self.icmp.take(outside.now));
        let Some(error) = error else {
            return outside.counters.hit(Reason::TooBigSilent);
        };
        outside.counters.hit(Reason::TooBig);
        let header = VnetHeader::PLAIN.build();
        let parts = [io::IoSlice::new(&header), io::IoSlice::new(&error)];
        if outside.tun.write(&parts).is_err() {
            outside.counters.hit(Reason::TunError);
        }
    }

    /// Lets `write` put `len` octets of payload into the next slot of the SA's
    /// send buffer and seals it there.
    fn seal(
        &mut self,
        member: &Member,
        inner: &Inner,
        sequence: u64,
        len: usize,
        outside: &Outside<'_>,
        write: impl FnOnce(&mut [u8]),
    ) {
        let sealed = member.sa.sealed_len(len);
        let header = member.sa.header_len();
        let buffer = self.buffer(member, inner.tos, sealed, outside);
        let start = buffer.len;
        let Some(slot) = buffer.bytes.get_mut(start..start + sealed) else {
            return outside.counters.hit(Reason::TooBigSilent);
        };
        if let Some(payload) = slot.get_mut(header..header + len) {
            write(payload);
        }
        member.sa.seal(sequence, inner.next_header(), len, slot);
        buffer.took(sealed);
    }

    /// The send buffer of `member`'s SA, with room for one more packet of
    /// `sealed` octets under `tos`.
    fn buffer(
        &mut self,
        member: &Member,
        tos: u8,
        sealed: usize,
        outside: &Outside<'_>,
    ) -> &mut Buffer {
        let found = self.buffers.iter().position(|b| b.is_for(member));
        let index = found.unwrap_or_else(|| {
            let free = self.buffers.iter().position(|b| b.count == 0);
            free.unwrap_or_else(|| {
                if self.buffers.len() < BUFFERS {
                    self.buffers.push(Buffer::new());
                    self.buffers.len() - 1
                } else {
                    self.buffers.rotate_left(1);
                    BUFFERS - 1
                }
            })
        });
        let buffer = &mut self.buffers[index];
        if !buffer.is_for(member) || !buffer.fits(tos, sealed) {
            buffer.send(outside);
        }
        if buffer.count == 0 {
            buffer.begin(member, tos);
        }
        buffer
    }

    fn flush(&mut self, outside: &Outside<'_>) {
        for buffer in &mut self.buffers {
            buffer.send(outside);
        }
    }
}

enum Choice<'a> {
    Send(&'a Member),
    /// The only usable members are held; one of them.
    Hold(Spi),
    Drop,
}

fn reserve(member: &Member, count: usize) -> Option<u64> {
    member.sa.reserve(u32::try_from(count).ok()?)
}

/// Sealed packets of one SA that leave in one system call.
struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    count: usize,
    /// Octets of every packet but the last.
    segment: usize,
    /// The last packet was shorter: nothing may follow.
    closed: bool,
    tos: u8,
    to: Option<Target>,
}

/// Where a buffer goes, as long as one snapshot is in force. It keeps the SA, so
/// that no other can be taken for it.
struct Target {
    sa: Arc<OutboundSa>,
    anchor: std::net::SocketAddr,
    access: AccessId,
    path: PathIndex,
}

impl Buffer {
    fn new() -> Self {
        Self {
            bytes: vec![0; MAX_SEND].into_boxed_slice(),
            len: 0,
            count: 0,
            segment: 0,
            closed: false,
            tos: 0,
            to: None,
        }
    }

    fn is_for(&self, member: &Member) -> bool {
        self.to
            .as_ref()
            .is_some_and(|to| Arc::ptr_eq(&to.sa, &member.sa))
    }

    fn fits(&self, tos: u8, sealed: usize) -> bool {
        self.count == 0
            || (!self.closed
                && self.tos == tos
                && self.count < MAX_SEGMENTS
                && sealed <= self.segment
                && self.len + sealed <= MAX_SEND)
    }

    fn begin(&mut self, member: &Member, tos: u8) {
        self.tos = tos;
        self.segment = 0;
        self.closed = false;
        if !self.is_for(member) {
            self.to = Some(Target {
                sa: Arc::clone(&member.sa),
                anchor: member.anchor,
                access: member.access,
                path: member.path,
            });
        }
    }

    fn took(&mut self, sealed: usize) {
        if self.count == 0 {
            self.segment = sealed;
        }
        self.closed = sealed < self.segment;
        self.count += 1;
        self.len += sealed;
    }

    /// Sends what there is. A failure costs these packets, never a wait.
    fn send(&mut self, outside: &Outside<'_>) {
        let (len, count) = (
            std::mem::take(&mut self.len),
            std::mem::take(&mut self.count),
        );
        let Some(to) = self.to.as_ref().filter(|_| count > 0) else {
            return;
        };
        let counters = outside.counters;
        let family = match Family::of(to.anchor.ip()) {
            Family::V4 => 0,
            Family::V6 => 1,
        };
        let socket = outside.senders[family].get(usize::from(to.access.0));
        let bytes = self.bytes.get(..len).unwrap_or_default();
        let (Some(socket), Ok(segment)) = (socket, u16::try_from(self.segment)) else {
            return counters.add(Reason::SendError, count as u64);
        };
        let mut result = socket.send(to.anchor, bytes, segment, self.tos);
        if matches!(&result, Err(error) if udp::may_be_earlier(error)) {
            counters.add(Reason::SocketErrors, socket.clear_errors());
            result = socket.send(to.anchor, bytes, segment, self.tos);
        }
        match result {
            Ok(()) => {
                counters.add(Reason::TxPackets, count as u64);
                counters.add(Reason::TxOctets, len as u64);
                outside.activity.sent(to.path, count as u64);
            }
            Err(error) => {
                let reason = match error.raw_os_error() {
                    _ if error.kind() == io::ErrorKind::WouldBlock => Reason::AccessFull,
                    Some(libc::ENOBUFS) => Reason::EgressDropped,
                    _ => {
                        tracing::debug!(%error, anchor = %to.anchor, "ESP was not sent");
                        Reason::SendError
                    }
                };
                counters.add(reason, count as u64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::{build, udp};
    use super::super::snapshot::Selector;
    use super::super::snapshot::tests::{bundle, member};
    use super::*;

    fn any() -> Selector {
        Selector::range("0.0.0.0".parse().unwrap()..="255.255.255.255".parse().unwrap())
    }

    fn two(change: impl Fn(&mut Member, &mut Member)) -> Bundle {
        let (mut a, mut b) = (member(256), member(257));
        change(&mut a, &mut b);
        bundle(any(), any(), vec![a, b])
    }

    /// A packet of flow `n`.
    fn flow(n: u16) -> Vec<u8> {
        let mut datagram = udp(b"x");
        datagram[..2].copy_from_slice(&n.to_be_bytes());
        build(false, UDP, 0, &datagram)
    }

    fn chosen(outbound: &Outbound, bundle: &Bundle, now: Instant) -> Vec<Option<u32>> {
        (0..64)
            .map(|n| match outbound.choose(bundle, &flow(n), now) {
                Choice::Send(member) => Some(member.sa.spi().0),
                Choice::Hold(spi) => Some(spi.0 + 1000),
                Choice::Drop => None,
            })
            .collect()
    }

    #[test]
    fn flows_spread_and_stick_and_leave_only_an_unusable_member() {
        let (outbound, now) = (Outbound::new(), Instant::now());
        let both = chosen(&outbound, &two(|_, _| {}), now);
        assert!(both.contains(&Some(256)) && both.contains(&Some(257)));
        assert_eq!(both, chosen(&outbound, &two(|_, _| {}), now));
        let one = chosen(&outbound, &two(|a, _| a.usable = false), now);
        assert!(one.iter().all(|spi| *spi == Some(257)));
        let none = two(|a, b| {
            a.usable = false;
            b.usable = false;
        });
        assert!(chosen(&outbound, &none, now).iter().all(Option::is_none));
    }

    #[test]
    fn a_table_older_than_the_members_state_still_finds_a_usable_one() {
        let (outbound, now) = (Outbound::new(), Instant::now());
        let mut stale = two(|_, _| {});
        stale.members[0].usable = false;
        let all = chosen(&outbound, &stale, now);
        assert!(all.iter().all(|spi| *spi == Some(257)));
    }

    #[test]
    fn a_held_member_is_avoided_then_waited_for_then_used() {
        let (mut outbound, now) = (Outbound::new(), Instant::now());
        let one = two(|a, _| a.held = true);
        let all = chosen(&outbound, &one, now);
        assert!(all.iter().all(|spi| *spi == Some(257)));
        let both = two(|a, b| {
            a.held = true;
            b.held = true;
        });
        let all = chosen(&outbound, &both, now);
        assert!(all.iter().all(|spi| *spi == Some(1256)));
        outbound.held_since.insert(Spi(256), now);
        let all = chosen(&outbound, &both, now + HOLD_TIME);
        assert!(all.iter().all(|spi| *spi == Some(256)));
    }

    #[test]
    fn a_send_has_one_size_one_tos_and_bounded_length() {
        let mut buffer = Buffer::new();
        buffer.begin(&member(256), 8);
        assert!(buffer.fits(0, 1400), "an empty buffer takes anything");
        buffer.took(1400);
        assert!(buffer.fits(8, 1400));
        assert!(buffer.fits(8, 700));
        assert!(!buffer.fits(8, 1404), "larger than the first");
        assert!(!buffer.fits(9, 1400), "another TOS");
        buffer.took(700);
        assert!(!buffer.fits(8, 700), "nothing follows a shorter one");

        let mut buffer = Buffer::new();
        buffer.begin(&member(256), 0);
        while buffer.fits(0, 100) {
            buffer.took(100);
        }
        assert_eq!(buffer.count, MAX_SEGMENTS);

        let mut buffer = Buffer::new();
        buffer.begin(&member(256), 0);
        while buffer.fits(0, 1472) {
            buffer.took(1472);
        }
        assert_eq!(buffer.count, 44);
        assert!(buffer.len <= MAX_SEND);
    }
}
