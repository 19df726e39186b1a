//! What the data plane needs to know of an inner packet, read once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::{Checksum, Reader, Truncated, adjust};

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;

/// Octets of an IPv4 header without options.
pub(super) const IPV4_LEN: usize = 20;
/// Octets of an IPv6 header.
pub(super) const IPV6_LEN: usize = 40;
/// Octets of a UDP header.
pub(super) const UDP_LEN: usize = 8;

/// More extension headers than any sane packet has.
const MAX_EXTENSIONS: usize = 8;

/// Where a packet stands in a fragmented datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment {
    /// Not fragmented.
    Whole,
    /// The first fragment: has the transport header.
    First,
    /// A later one.
    Later,
}

/// The headers of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inner {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Transport protocol, behind any extension headers.
    pub(super) protocol: u8,
    /// TOS or traffic class.
    pub(super) tos: u8,
    /// Octets of the packet; what follows in the buffer is not part of it.
    pub(super) total: usize,
    /// Where the transport header starts.
    pub(super) transport: usize,
    pub(super) fragment: Fragment,
    /// IPv4 DF; always set for IPv6.
    pub(super) dont_fragment: bool,
    /// Neither IPv4 options nor IPv6 extension headers.
    pub(super) plain: bool,
    /// Source and destination port of TCP, UDP, SCTP, DCCP, UDP-Lite.
    pub(super) ports: Option<(u16, u16)>,
}

impl Inner {
    /// As the head of a packet that goes the other way.
    pub(super) fn answer(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ports: self
                .ports
                .map(|(source, destination)| (destination, source)),
            ..*self
        }
    }

    /// Reads the headers of the packet at the start of `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes).ok().flatten(),
            _ => None,
        }
    }

    /// 4 or 41, the ESP next header of this packet.
    pub(super) const fn next_header(&self) -> u8 {
        match self.source {
            IpAddr::V4(_) => 4,
            IpAddr::V6(_) => 41,
        }
    }

    /// Octets behind the IP headers.
    pub(super) const fn transport_len(&self) -> usize {
        self.total - self.transport
    }

    /// The sum of the pseudo-header before `len` octets of transport header and
    /// payload.
    pub(super) fn pseudo_header(&self, len: usize) -> Checksum {
        // A packet is shorter than 4 GiB.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        Checksum::new().with_pseudo_header(self.source, self.destination, self.protocol, len)
    }

    fn parse_v4(bytes: &[u8]) -> Option<Self> {
        let &[
            version,
            tos,
            l0,
            l1,
            _,
            _,
            f0,
            f1,
            _,
            protocol,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
            ..,
        ] = bytes
        else {
            return None;
        };
        let transport = usize::from(version & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([l0, l1]));
        if transport < IPV4_LEN || total < transport || total > bytes.len() {
            return None;
        }
        let field = u16::from_be_bytes([f0, f1]);
        let fragment = match (field & 0x1fff, field & 0x2000 != 0) {
            (0, false) => Fragment::Whole,
            (0, true) => Fragment::First,
            _ => Fragment::Later,
        };
        Some(Self {
            source: Ipv4Addr::new(s0, s1, s2, s3).into(),
            destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
            protocol,
            tos,
            total,
            transport,
            fragment,
            dont_fragment: field & 0x4000 != 0,
            plain: transport == IPV4_LEN,
            ports: ports(bytes.get(transport..total)?, protocol, fragment),
        })
    }

    fn parse_v6(bytes: &[u8]) -> Result<Option<Self>, Truncated> {
        let mut reader = Reader::new(bytes);
        let first = reader.u32()?;
        let total = usize::from(reader.u16()?) + IPV6_LEN;
        let mut protocol = reader.u8()?;
        let _hop_limit = reader.u8()?;
        let source = Ipv6Addr::from(reader.array::<16>()?);
        let destination = Ipv6Addr::from(reader.array::<16>()?);
        if total > bytes.len() {
            return Ok(None);
        }
        let mut reader = reader.sub(total - IPV6_LEN)?;
        let mut fragment = Fragment::Whole;
        let mut plain = true;
        for _ in 0..MAX_EXTENSIONS {
            match protocol {
                // Hop-by-hop, routing, destination options (RFC 8200 4).
                0 | 43 | 60 => {
                    protocol = reader.u8()?;
                    let len = usize::from(reader.u8()?) * 8 + 6;
                    reader.bytes(len)?;
                }
                44 => {
                    protocol = reader.u8()?;
                    let _reserved = reader.u8()?;
                    let field = reader.u16()?;
                    let _identification = reader.u32()?;
                    fragment = match (field >> 3, field & 1) {
                        (0, 0) => Fragment::Whole,
                        (0, _) => Fragment::First,
                        _ => Fragment::Later,
                    };
                }
                _ => break,
            }
            plain = false;
            if fragment == Fragment::Later {
                break;
            }
        }
        let transport = total - reader.len();
        Ok(Some(Self {
            source: source.into(),
            destination: destination.into(),
            protocol,
            tos: ((first >> 20) & 0xff) as u8,
            total,
            transport,
            fragment,
            dont_fragment: true,
            plain,
            ports: ports(reader.rest(), protocol, fragment),
        }))
    }
}

fn ports(transport: &[u8], protocol: u8, fragment: Fragment) -> Option<(u16, u16)> {
    const SCTP: u8 = 132;
    const DCCP: u8 = 33;
    const UDP_LITE: u8 = 136;
    if fragment == Fragment::Later || !matches!(protocol, TCP | UDP | SCTP | DCCP | UDP_LITE) {
        return None;
    }
    let &[s0, s1, d0, d1, ..] = transport else {
        return None;
    };
    Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
}

/// Replaces the TOS or traffic class, and the IPv4 header checksum with it.
pub(super) fn set_tos(packet: &mut [u8], tos: u8) {
    match packet {
        [0x40..=0x4f, old, _, _, _, _, _, _, ttl_and_on @ ..] => {
            let [_, _, c0, c1, ..] = ttl_and_on else {
                return;
            };
            let checksum = u16::from_be_bytes([*c0, *c1]);
            let fixed = adjust(checksum, u16::from(*old), u16::from(tos));
            [*c0, *c1] = fixed.to_be_bytes();
            *old = tos;
        }
        [first @ 0x60..=0x6f, second, ..] => {
            *first = 0x60 | tos >> 4;
            *second = tos << 4 | *second & 0xf;
        }
        _ => {}
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, word by word.
    fn reference(bytes: &[u8]) -> u16 {
        let mut total = 0u64;
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            total += u64::from(u16::from_be_bytes([pair[0], low]));
        }
        while total > 0xffff {
            total = (total >> 16) + (total & 0xffff);
        }
        total as u16
    }

    /// A packet between two documentation hosts, all checksums right.
    pub(in super::super) fn build(v6: bool, protocol: u8, tos: u8, transport: &[u8]) -> Vec<u8> {
        let (source, destination): (IpAddr, IpAddr) = if v6 {
            (
                "2001:db8::1".parse().unwrap(),
                "2001:db8::2".parse().unwrap(),
            )
        } else {
            (
                "192.0.2.1".parse().unwrap(),
                "198.51.100.2".parse().unwrap(),
            )
        };
        let mut packet = Vec::new();
        match (source, destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                let total = (20 + transport.len()) as u16;
                packet.extend([0x45, tos]);
                packet.extend(total.to_be_bytes());
                packet.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
                packet.extend(s.octets());
                packet.extend(d.octets());
                let sum = Checksum::new().with(&packet).finish();
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                packet.extend([0x60 | tos >> 4, tos << 4, 0, 7]);
                packet.extend((transport.len() as u16).to_be_bytes());
                packet.extend([protocol, 64]);
                packet.extend(s.octets());
                packet.extend(d.octets());
            }
            _ => unreachable!(),
        }
        let start = packet.len();
        packet.extend(transport);
        let at = match protocol {
            TCP => 16,
            UDP => 6,
            ICMPV6 => 2,
            _ => return packet,
        };
        packet[start + at..start + at + 2].fill(0);
        let sum = Checksum::new()
            .with_pseudo_header(source, destination, protocol, transport.len() as u32)
            .with(&packet[start..])
            .finish_udp();
        packet[start + at..start + at + 2].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// A TCP header of 20 octets plus `options`, then `payload`.
    pub(in super::super) fn tcp(seq: u32, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        assert!(options.len().is_multiple_of(4));
        let mut out = vec![0x30, 0x39, 0, 80];
        out.extend(seq.to_be_bytes());
        out.extend(0x0102_0304u32.to_be_bytes());
        let offset = ((20 + options.len()) / 4) as u8;
        out.extend([offset << 4, flags, 0x20, 0, 0, 0, 0, 0]);
        out.extend(options);
        out.extend(payload);
        out
    }

    /// A UDP datagram.
    pub(in super::super) fn udp(payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0x30, 0x39, 0, 53];
        out.extend(((8 + payload.len()) as u16).to_be_bytes());
        out.extend([0, 0]);
        out.extend(payload);
        out
    }

    /// Asserts that every checksum of `packet` is right, computed from scratch.
    pub(in super::super) fn assert_checksums(packet: &[u8]) {
        let inner = Inner::parse(packet).unwrap();
        assert_eq!(inner.total, packet.len());
        if inner.next_header() == 4 {
            let header = &packet[..usize::from(packet[0] & 0xf) * 4];
            assert_eq!(reference(header), 0xffff);
        }
        if inner.fragment == Fragment::Whole && matches!(inner.protocol, TCP | UDP | ICMPV6) {
            let mut whole = Vec::new();
            match (inner.source, inner.destination) {
                (IpAddr::V4(s), IpAddr::V4(d)) => {
                    whole.extend(s.octets());
                    whole.extend(d.octets());
                }
                (IpAddr::V6(s), IpAddr::V6(d)) => {
                    whole.extend(s.octets());
                    whole.extend(d.octets());
                }
                _ => unreachable!(),
            }
            whole.extend((inner.transport_len() as u32).to_be_bytes());
            whole.extend([0, 0, 0, inner.protocol]);
            whole.extend(&packet[inner.transport..]);
            assert_eq!(reference(&whole), 0xffff);
        }
    }

    #[test]
    fn headers_are_read_in_both_families() {
        for v6 in [false, true] {
            let packet = build(v6, TCP, 0x2a, &tcp(1, 0x10, &[], b"hello"));
            let inner = Inner::parse(&packet).unwrap();
            assert_eq!(inner.ports, Some((12345, 80)));
            assert_eq!(inner.tos, 0x2a);
            assert_eq!(inner.total, packet.len());
            assert!(inner.plain && inner.dont_fragment);
            assert_eq!(inner.next_header(), if v6 { 41 } else { 4 });
            for len in 0..packet.len() {
                assert_eq!(Inner::parse(&packet[..len]), None, "cut at {len}");
            }
        }
    }

    #[test]
    fn extension_headers_and_fragments_are_walked() {
        let mut packet = build(true, UDP, 0, &udp(b"x"));
        // Hop-by-hop (8 octets), then a later fragment.
        packet[6] = 0;
        packet.splice(
            40..40,
            [44, 0, 1, 4, 0, 0, 0, 0, UDP, 0, 0x05, 0xa8, 0, 0, 0, 1],
        );
        packet[5] += 16;
        let inner = Inner::parse(&packet).unwrap();
        assert_eq!(inner.fragment, Fragment::Later);
        assert_eq!(inner.transport, 56);
        assert_eq!(inner.protocol, UDP);
        assert_eq!(inner.ports, None);
        for len in 0..packet.len() {
            assert_eq!(Inner::parse(&packet[..len]), None);
        }
    }

    #[test]
    fn an_endless_chain_of_extensions_ends() {
        let chain = [60, 0, 0, 0, 0, 0, 0, 0].repeat(50);
        let packet = build(true, 60, 0, &chain);
        assert_eq!(Inner::parse(&packet).unwrap().protocol, 60);
    }

    #[test]
    fn a_new_tos_keeps_the_header_checksum() {
        for v6 in [false, true] {
            let mut packet = build(v6, UDP, 0x02, &udp(b"payload"));
            set_tos(&mut packet, 0xbb);
            assert_eq!(Inner::parse(&packet).unwrap().tos, 0xbb);
            assert_checksums(&packet);
        }
    }
    proptest! {
        #[test]
        fn whatever_is_read_lies_inside_the_octets(
            mut bytes in prop::collection::vec(any::<u8>(), 20..120),
            v6: bool,
            next in prop::sample::select(vec![0u8, 43, 44, 60, TCP, UDP, ICMPV6]),
        ) {
            // Likely enough to be a packet: version and length fit.
            let len = bytes.len() as u16;
            if v6 {
                bytes[0] = 0x60;
                bytes[4..6].copy_from_slice(&len.saturating_sub(40).to_be_bytes());
                bytes[6] = next;
            } else {
                bytes[0] = 0x40 | bytes[0] & 0xf;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
            }
            if let Some(inner) = Inner::parse(&bytes) {
                prop_assert!(inner.transport <= inner.total);
                prop_assert!(inner.total <= bytes.len());
            }
        }
    }
}
