//! Cutting a super-packet into the packets it stands for, straight into their
//! places in the send buffer.
//!
//! TCP may be cut smaller than the kernel asked for (the tunnel's MTU is known
//! here only); UDP datagrams keep their size. What results is what a sender
//! without offload would have sent: IPv4 identification, TCP sequence number
//! and flags, lengths and all checksums.

use std::net::IpAddr;

use crate::wire::Checksum;

use super::packet::{Inner, TCP, UDP, UDP_LEN};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// A super-packet being cut.
pub(super) struct Cutter<'a> {
    packet: &'a [u8],
    inner: Inner,
    /// Octets of IP and transport headers.
    header: usize,
    /// Octets of payload per segment.
    size: usize,
    /// Octets of payload already cut.
    done: usize,
    index: u16,
}

impl<'a> Cutter<'a> {
    /// Cuts the payload of `packet` every `size` octets; `None` when it is not
    /// whole, not TCP or UDP, or its transport header is cut short.
    pub(super) fn new(packet: &'a [u8], inner: Inner, size: usize) -> Option<Self> {
        let packet = packet.get(..inner.total)?;
        let transport = packet.get(inner.transport..)?;
        let header = match inner.protocol {
            TCP => usize::from(transport.get(12)? >> 4) * 4,
            UDP => UDP_LEN,
            _ => return None,
        };
        let minimum = if inner.protocol == TCP { 20 } else { UDP_LEN };
        if header < minimum || header > transport.len() || size == 0 {
            return None;
        }
        Some(Self {
            packet,
            inner,
            header: inner.transport + header,
            size,
            done: 0,
            index: 0,
        })
    }

    /// How many segments are left.
    pub(super) fn count(&self) -> usize {
        let payload = self.packet.len() - self.header - self.done;
        match (payload, self.index) {
            (0, 0) => 1,
            _ => payload.div_ceil(self.size),
        }
    }

    /// Octets of the next segment with its headers; `None` after the last.
    pub(super) fn next_len(&self) -> Option<usize> {
        let left = self.packet.len() - self.header - self.done;
        (left > 0 || self.index == 0).then(|| self.header + left.min(self.size))
    }

    /// Writes the next segment into `out`, which has
    /// [`next_len`](Self::next_len) octets.
    pub(super) fn write(&mut self, out: &mut [u8]) {
        let len = out.len();
        let Some(payload) = len.checked_sub(self.header) else {
            return;
        };
        let (header, body) = out.split_at_mut(self.header);
        header.copy_from_slice(&self.packet[..self.header]);
        body.copy_from_slice(&self.packet[self.header + self.done..][..payload]);

        let (ip, transport) = header.split_at_mut(self.inner.transport);
        fix_ip(ip, &self.inner, len, self.index);
        let transport_len = len - self.inner.transport;
        let sum = self.inner.pseudo_header(transport_len).with(body);
        if self.inner.protocol == TCP {
            let last = self.done + payload >= self.packet.len() - self.header;
            self.fix_tcp(transport, last);
            transport[16..18].fill(0);
            let sum = sum.with(transport).finish();
            transport[16..18].copy_from_slice(&sum.to_be_bytes());
        } else {
            // A UDP length fits: the segment is no longer than a 64 KiB packet.
            let length = (transport_len & 0xffff) as u16;
            transport[4..6].copy_from_slice(&length.to_be_bytes());
            transport[6..8].fill(0);
            let sum = sum.with(transport).finish_udp();
            transport[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        self.done += payload;
        self.index += 1;
    }

    fn fix_tcp(&self, transport: &mut [u8], last: bool) {
        let [_, _, _, _, s0, s1, s2, s3, _, _, _, _, _, flags, ..] = transport else {
            return;
        };
        let sequence = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
        // Modulo 2^32, as TCP counts; `done` is below 64 KiB.
        let sequence = sequence.wrapping_add((self.done & 0xffff) as u32);
        [*s0, *s1, *s2, *s3] = sequence.to_be_bytes();
        if !last {
            *flags &= !(FIN | PSH);
        }
        if self.index != 0 {
            // Congestion window reduced is said once (RFC 3168 6.1.2).
            *flags &= !CWR;
        }
    }
}

/// Sets the length, IPv4 identification and IPv4 header checksum of segment
/// `index`, `len` octets long.
fn fix_ip(ip: &mut [u8], inner: &Inner, len: usize, index: u16) {
    match inner.source {
        IpAddr::V4(_) => {
            ip[2..4].copy_from_slice(&((len & 0xffff) as u16).to_be_bytes());
            let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(index);
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            ip[10..12].fill(0);
            let sum = Checksum::new().with(ip).finish();
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        IpAddr::V6(_) => {
            let payload = ((len - super::packet::IPV6_LEN) & 0xffff) as u16;
            ip[4..6].copy_from_slice(&payload.to_be_bytes());
        }
    }
}

/// Completes a partial checksum (`VIRTIO_NET_HDR_F_NEEDS_CSUM`): the field at
/// `start + offset` holds the pseudo-header's sum. `false` when these lie
/// outside the packet.
pub(super) fn complete(packet: &mut [u8], start: usize, offset: usize) -> bool {
    let Some(covered) = packet.get_mut(start..) else {
        return false;
    };
    let sum = Checksum::new().with(covered).finish_udp();
    let Some([c0, c1]) = covered.get_mut(offset..offset + 2) else {
        return false;
    };
    [*c0, *c1] = sum.to_be_bytes();
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::packet::tests::{assert_checksums, build, tcp, udp};
    use super::*;

    fn cut(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
        let inner = Inner::parse(packet).unwrap();
        let mut cutter = Cutter::new(packet, inner, size).unwrap();
        let count = cutter.count();
        let mut out = Vec::new();
        while let Some(len) = cutter.next_len() {
            let mut segment = vec![0xaa; len];
            cutter.write(&mut segment);
            out.push(segment);
        }
        assert_eq!(out.len(), count);
        out
    }

    proptest! {
        #[test]
        fn every_segment_has_right_checksums_and_the_payload_is_whole(
            v6: bool,
            is_tcp: bool,
            size in 1usize..1500,
            seq: u32,
            payload in prop::collection::vec(any::<u8>(), 1..6000),
        ) {
            let transport = if is_tcp {
                tcp(seq, 0x18, &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], &payload)
            } else {
                udp(&payload)
            };
            let protocol = if is_tcp { TCP } else { UDP };
            let packet = build(v6, protocol, 2, &transport);
            let segments = cut(&packet, size);
            prop_assert_eq!(segments.len(), payload.len().div_ceil(size));
            let mut joined = Vec::<u8>::new();
            for (index, segment) in segments.iter().enumerate() {
                assert_checksums(segment);
                let inner = Inner::parse(segment).unwrap();
                let transport = &segment[inner.transport..];
                if is_tcp {
                    let at = seq.wrapping_add((index * size) as u32);
                    prop_assert_eq!(&transport[4..8], &at.to_be_bytes());
                    let last = index + 1 == segments.len();
                    prop_assert_eq!(transport[13] & PSH != 0, last);
                    joined.extend(&transport[32..]);
                } else {
                    joined.extend(&transport[8..]);
                }
                if !v6 {
                    let id = u16::from_be_bytes([segment[4], segment[5]]);
                    prop_assert_eq!(usize::from(id), 0x1234 + index);
                }
            }
            prop_assert_eq!(joined, payload);
        }
    }

    #[test]
    fn one_time_flags_stay_on_their_segment() {
        let packet = build(false, TCP, 0, &tcp(7, 0x99, &[], &[1; 25]));
        let flags: Vec<u8> = cut(&packet, 10).iter().map(|s| s[33]).collect();
        assert_eq!(flags, [0x90, 0x10, 0x19]);
    }

    #[test]
    fn a_packet_without_payload_is_one_segment() {
        let packet = build(true, TCP, 0, &tcp(7, 0x10, &[], &[]));
        assert_eq!(cut(&packet, 10), [packet]);
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let packet = build(false, 50, 0, &[0; 40]);
        let inner = Inner::parse(&packet).unwrap();
        assert!(Cutter::new(&packet, inner, 10).is_none());
        let mut packet = build(false, TCP, 0, &tcp(7, 0x10, &[], &[1; 9]));
        let inner = Inner::parse(&packet).unwrap();
        packet[32] = 0xf0;
        assert!(Cutter::new(&packet, inner, 10).is_none());
        packet[32] = 0x40;
        assert!(Cutter::new(&packet, inner, 10).is_none());
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        for v6 in [false, true] {
            let right = build(v6, UDP, 0, &udp(b"an odd one!"));
            let inner = Inner::parse(&right).unwrap();
            let mut packet = right.clone();
            let pseudo = inner.pseudo_header(inner.transport_len()).folded();
            packet[inner.transport + 6..inner.transport + 8].copy_from_slice(&pseudo.to_be_bytes());
            assert!(complete(&mut packet, inner.transport, 6));
            assert_eq!(packet, right);
            assert!(!complete(&mut packet, 4000, 6));
            assert!(!complete(&mut packet, inner.transport, 4000));
        }
    }
}
