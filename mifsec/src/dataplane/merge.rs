//! Merging consecutive segments of a flow into one super-packet for the TUN,
//! without moving a payload octet: headers are rebuilt, payloads are referred to.
//!
//! The rules are those of the kernel's GRO: same headers, consecutive sequence
//! numbers, equal sizes up to a shorter last one. PSH ends nothing here: it asks
//! not to wait for more, and nothing waits beyond the read at hand. A merged packet tells the
//! kernel that its checksum is good, so each part's is verified first; a packet
//! that stays alone goes on as it is and is the receiver's to verify.

use std::io::IoSlice;
use std::ops::Range;

use crate::io::tun::{Gso, VNET_LEN, VnetHeader};
use crate::wire::Checksum;

use super::packet::{Fragment, IPV6_LEN, Inner, TCP, UDP, UDP_LEN};

/// The most parts of one super-packet (`UDP_MAX_SEGMENTS`, and what one GRO read holds).
const MAX_PARTS: usize = 64;
/// The most octets of a super-packet: its length is a 16-bit field.
const MAX_LEN: usize = 65535;
/// Room for a vnet header, an IPv6 header and a full TCP header.
const HEADER_ROOM: usize = VNET_LEN + IPV6_LEN + 60;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Writes `packets` (places in `buffer`, in order of arrival) with as few
/// super-packets as possible. `uso`: UDP may be merged too.
pub(super) fn merge(
    buffer: &[u8],
    packets: &[(Range<usize>, Inner)],
    uso: bool,
    emit: &mut impl FnMut(&[IoSlice<'_>]),
) {
    let mut rest = packets
        .iter()
        .filter_map(|(range, inner)| Some((buffer.get(range.clone())?, inner)))
        .peekable();
    while let Some((bytes, inner)) = rest.next() {
        let Some(first) = Shape::of(bytes, inner, uso) else {
            alone(bytes, emit);
            continue;
        };
        let mut group = Group::new(first);
        while let Some((bytes, inner)) = rest.peek() {
            let next = Shape::of(bytes, inner, uso);
            if !next.is_some_and(|next| group.push(next)) {
                break;
            }
            rest.next();
        }
        group.emit(emit);
    }
}

fn alone(bytes: &[u8], emit: &mut impl FnMut(&[IoSlice<'_>])) {
    emit(&[
        IoSlice::new(&VnetHeader::PLAIN.build()),
        IoSlice::new(bytes),
    ]);
}

/// A packet that may be part of a super-packet.
struct Shape<'a> {
    bytes: &'a [u8],
    inner: Inner,
    /// Octets of IP and transport headers.
    header: usize,
}

impl<'a> Shape<'a> {
    fn of(bytes: &'a [u8], inner: &Inner, uso: bool) -> Option<Self> {
        if !inner.plain || inner.fragment != Fragment::Whole || inner.total != bytes.len() {
            return None;
        }
        let transport = bytes.get(inner.transport..)?;
        let header = match inner.protocol {
            TCP => {
                let (offset, flags) = (*transport.get(12)?, *transport.get(13)?);
                if flags & !PSH != ACK {
                    return None;
                }
                usize::from(offset >> 4) * 4
            }
            UDP if uso => {
                let &[_, _, _, _, l0, l1, c0, c1, ..] = transport else {
                    return None;
                };
                let length = usize::from(u16::from_be_bytes([l0, l1]));
                if length != transport.len() || [c0, c1] == [0, 0] {
                    return None;
                }
                UDP_LEN
            }
            _ => return None,
        };
        let minimum = if inner.protocol == TCP { 20 } else { UDP_LEN };
        (header >= minimum && header < transport.len()).then_some(Self {
            bytes,
            inner: *inner,
            header: inner.transport + header,
        })
    }

    fn payload(&self) -> &'a [u8] {
        &self.bytes[self.header..]
    }

    fn transport(&self) -> &'a [u8] {
        &self.bytes[self.inner.transport..self.header]
    }

    fn sequence(&self) -> u32 {
        match self.transport() {
            &[_, _, _, _, s0, s1, s2, s3, ..] => u32::from_be_bytes([s0, s1, s2, s3]),
            _ => 0,
        }
    }

    fn pushed(&self) -> bool {
        self.inner.protocol == TCP && self.transport()[13] & PSH != 0
    }

    fn ipv4_id(&self) -> u16 {
        u16::from_be_bytes([self.bytes[4], self.bytes[5]])
    }

    /// Whether only fields that differ between segments of one send differ.
    fn same_flow(&self, other: &Self) -> bool {
        if self.header != other.header || self.inner.protocol != other.inner.protocol {
            return false;
        }
        let (a, b) = (self.bytes, other.bytes);
        let ip = if self.inner.next_header() == 4 {
            // Version, TOS; flags, TTL, protocol; addresses.
            a[..2] == b[..2] && a[6..10] == b[6..10] && a[12..20] == b[12..20]
        } else {
            a[..4] == b[..4] && a[6..IPV6_LEN] == b[6..IPV6_LEN]
        };
        let (a, b) = (self.transport(), other.transport());
        if self.inner.protocol == TCP {
            // Ports; acknowledgment, offset; window; urgent pointer, options.
            ip && a[..4] == b[..4]
                && a[8..13] == b[8..13]
                && a[14..16] == b[14..16]
                && a[18..] == b[18..]
        } else {
            ip && a[..4] == b[..4]
        }
    }

    fn checksum_is_right(&self) -> bool {
        let pseudo = self.inner.pseudo_header(self.inner.transport_len());
        pseudo.with(&self.bytes[self.inner.transport..]).finish() == 0
    }
}

/// A super-packet being put together.
struct Group<'a> {
    first: Shape<'a>,
    parts: [IoSlice<'a>; MAX_PARTS + 1],
    /// How many of `parts[1..]` are payloads.
    count: usize,
    /// Octets of payload.
    len: usize,
    /// Takes no more: the last part was short.
    closed: bool,
    push: bool,
}

impl<'a> Group<'a> {
    fn new(first: Shape<'a>) -> Self {
        let mut parts = [IoSlice::new(&[]); MAX_PARTS + 1];
        parts[1] = IoSlice::new(first.payload());
        let push = first.pushed();
        Self {
            parts,
            count: 1,
            len: first.payload().len(),
            closed: false,
            push,
            first,
        }
    }

    /// Takes `next` if it continues this super-packet.
    fn push(&mut self, next: Shape<'a>) -> bool {
        let size = self.first.payload().len();
        let payload = next.payload();
        if self.closed
            || self.count >= MAX_PARTS
            || payload.len() > size
            || self.first.header + self.len + payload.len() > MAX_LEN
            || !self.first.same_flow(&next)
        {
            return false;
        }
        if self.first.inner.protocol == TCP {
            // Below 64 KiB, and TCP counts modulo 2^32.
            let expected = self.first.sequence().wrapping_add(self.len as u32);
            if next.sequence() != expected {
                return false;
            }
        }
        if self.first.inner.next_header() == 4 && !self.first.inner.dont_fragment {
            // With DF the identification means nothing (RFC 6864 4.1).
            let expected = self.first.ipv4_id().wrapping_add(self.count as u16);
            if next.ipv4_id() != expected {
                return false;
            }
        }
        if (self.count == 1 && !self.first.checksum_is_right()) || !next.checksum_is_right() {
            return false;
        }
        self.push |= next.pushed();
        self.closed = payload.len() < size;
        self.count += 1;
        self.len += payload.len();
        self.parts[self.count] = IoSlice::new(payload);
        true
    }

    fn emit(self, emit: &mut impl FnMut(&[IoSlice<'_>])) {
        if self.count == 1 {
            return alone(self.first.bytes, emit);
        }
        let mut room = [0; HEADER_ROOM];
        let len = VNET_LEN + self.first.header;
        let header = &mut room[..len];
        self.write_header(header);
        let mut parts: [IoSlice<'_>; MAX_PARTS + 1] = self.parts;
        parts[0] = IoSlice::new(header);
        emit(&parts[..=self.count]);
    }

    fn write_header(&self, out: &mut [u8]) {
        let inner = &self.first.inner;
        let v4 = inner.next_header() == 4;
        let tcp = inner.protocol == TCP;
        let total = self.first.header + self.len;
        let (vnet, header) = out.split_at_mut(VNET_LEN);
        // All of these are below 64 KiB: `MAX_LEN`.
        vnet.copy_from_slice(
            &VnetHeader {
                needs_checksum: true,
                gso: match (tcp, v4) {
                    (true, true) => Gso::Tcp4,
                    (true, false) => Gso::Tcp6,
                    (false, _) => Gso::Udp,
                },
                header_len: self.first.header as u16,
                gso_size: self.first.payload().len() as u16,
                checksum_start: inner.transport as u16,
                checksum_offset: if tcp { 16 } else { 6 },
            }
            .build(),
        );
        header.copy_from_slice(&self.first.bytes[..self.first.header]);
        let (ip, transport) = header.split_at_mut(inner.transport);
        if v4 {
            ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            ip[10..12].fill(0);
            let sum = Checksum::new().with(ip).finish();
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            ip[4..6].copy_from_slice(&((total - IPV6_LEN) as u16).to_be_bytes());
        }
        let transport_len = total - inner.transport;
        let pseudo = inner.pseudo_header(transport_len).folded().to_be_bytes();
        if tcp {
            if self.push {
                transport[13] |= PSH;
            }
            transport[16..18].copy_from_slice(&pseudo);
        } else {
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            transport[6..8].copy_from_slice(&pseudo);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::packet::tests::{build, tcp, udp};
    use super::super::segment::{Cutter, complete};
    use super::*;

    /// What `merge` writes: vnet header and packet of each.
    fn merged(packets: &[Vec<u8>], uso: bool) -> Vec<(VnetHeader, Vec<u8>)> {
        let mut buffer = Vec::new();
        let mut places = Vec::new();
        for packet in packets {
            let start = buffer.len();
            buffer.extend(packet);
            places.push((start..buffer.len(), Inner::parse(packet).unwrap()));
        }
        let mut out = Vec::new();
        merge(&buffer, &places, uso, &mut |parts| {
            let bytes: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
            let header = VnetHeader::parse(&bytes).unwrap();
            out.push((header, bytes[VNET_LEN..].to_vec()));
        });
        out
    }

    fn cut(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
        let mut cutter = Cutter::new(packet, Inner::parse(packet).unwrap(), size).unwrap();
        let mut out = Vec::new();
        while let Some(len) = cutter.next_len() {
            let mut segment = vec![0; len];
            cutter.write(&mut segment);
            out.push(segment);
        }
        out
    }

    proptest! {
        #[test]
        fn merging_what_was_cut_gives_the_packet_back(
            v6: bool,
            is_tcp: bool,
            size in 200usize..1400,
            payload in prop::collection::vec(any::<u8>(), 1..12000),
        ) {
            let packet = if is_tcp {
                build(v6, TCP, 2, &tcp(u32::MAX - 1000, 0x18, &[1, 1, 1, 1], &payload))
            } else {
                build(v6, UDP, 2, &udp(&payload))
            };
            let out = merged(&cut(&packet, size), true);
            prop_assert_eq!(out.len(), 1);
            let (header, mut bytes) = out.into_iter().next().unwrap();
            if payload.len() > size {
                prop_assert_eq!(usize::from(header.gso_size), size);
                prop_assert!(header.needs_checksum);
                let start = usize::from(header.checksum_start);
                prop_assert!(complete(&mut bytes, start, usize::from(header.checksum_offset)));
            } else {
                prop_assert_eq!(header, VnetHeader::PLAIN);
            }
            prop_assert_eq!(bytes, packet);
        }
    }

    fn segments() -> Vec<Vec<u8>> {
        cut(&build(false, TCP, 0, &tcp(100, 0x10, &[], &[5; 300])), 100)
    }

    #[test]
    fn a_gap_in_the_sequence_is_not_merged() {
        let mut packets = segments();
        packets.remove(1);
        assert_eq!(merged(&packets, true).len(), 2);
    }

    #[test]
    fn segments_of_different_flows_are_not_merged() {
        let mut packets = segments();
        packets[1] = build(true, TCP, 0, &tcp(200, 0x10, &[], &[5; 100]));
        assert_eq!(merged(&packets, true).len(), 3);
    }

    #[test]
    fn a_wrong_checksum_is_neither_merged_nor_mended() {
        for wrong in 0..3 {
            let mut packets = segments();
            let last = packets[wrong].len() - 1;
            packets[wrong][last] ^= 1;
            let out = merged(&packets, true);
            let kept = out
                .iter()
                .find(|(header, bytes)| *header == VnetHeader::PLAIN && *bytes == packets[wrong]);
            assert!(kept.is_some(), "segment {wrong}");
        }
    }

    #[test]
    fn flags_other_than_ack_and_push_stay_alone() {
        for flags in [0x11, 0x12, 0x14, 0x30, 0x50, 0x90] {
            let mut packets = segments();
            packets[1] = build(false, TCP, 0, &tcp(200, flags, &[], &[5; 100]));
            assert_eq!(merged(&packets, true).len(), 3, "flags {flags:#x}");
        }
    }

    #[test]
    fn a_push_is_kept_and_does_not_divide() {
        let packets = [
            build(false, TCP, 0, &tcp(0, 0x18, &[], &[1; 100])),
            build(false, TCP, 0, &tcp(100, 0x10, &[], &[1; 100])),
        ];
        let out = merged(&packets, true);
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].1[33], 0x18);
    }

    #[test]
    fn a_longer_segment_starts_anew_and_a_shorter_one_ends() {
        let packets = [
            build(false, TCP, 0, &tcp(0, 0x10, &[], &[1; 100])),
            build(false, TCP, 0, &tcp(100, 0x10, &[], &[1; 50])),
            build(false, TCP, 0, &tcp(150, 0x10, &[], &[1; 50])),
            build(false, TCP, 0, &tcp(200, 0x10, &[], &[1; 100])),
        ];
        let lens: Vec<usize> = merged(&packets, true)
            .iter()
            .map(|(_, bytes)| bytes.len() - 40)
            .collect();
        assert_eq!(lens, [150, 50, 100]);
    }

    #[test]
    fn udp_is_merged_only_where_the_device_takes_it() {
        let packets = cut(&build(false, UDP, 0, &udp(&[9; 1000])), 400);
        assert_eq!(merged(&packets, true).len(), 1);
        assert_eq!(merged(&packets, false).len(), 3);
    }

    #[test]
    fn no_super_packet_exceeds_its_length_field() {
        let packet = build(true, TCP, 0, &tcp(0, 0x10, &[], &vec![1; 60000]));
        let mut packets = cut(&packet, 1400);
        let more = build(true, TCP, 0, &tcp(60000, 0x10, &[], &vec![1; 60000]));
        packets.pop();
        packets.extend(cut(&more, 1400));
        for (_, bytes) in merged(&packets, true) {
            assert!(bytes.len() <= MAX_LEN);
            assert!(Inner::parse(&bytes).is_some_and(|inner| inner.total == bytes.len()));
        }
    }
}
