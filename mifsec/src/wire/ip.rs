//! IPv4 and IPv6 headers over octets, checked once.
//!
//! `new_checked` looks at every length that a later accessor relies on; the
//! accessors then never fail. With octets that can be written the same types
//! set fields. A [`Packet`] is either version, with the transport header found.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Checksum, Truncated};

/// IP in IP, RFC 2003: next header of an inner IPv4 packet.
pub const PROTOCOL_IPV4: u8 = 4;
/// TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IPv6 in IP: next header of an inner IPv6 packet.
pub const PROTOCOL_IPV6: u8 = 41;
/// No next header: a dummy packet in ESP (RFC 4303 2.6).
pub const PROTOCOL_NONE: u8 = 59;

/// Octets of an IPv4 header without options.
pub const IPV4_HEADER_LEN: usize = 20;
/// Octets of the IPv6 header.
pub const IPV6_HEADER_LEN: usize = 40;

/// Why octets are not the packet they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IpError {
    /// Shorter than a header or than a length within says.
    #[error("packet ends within a header or its payload")]
    Truncated,
    /// Neither version 4 nor 6.
    #[error("not an IP packet")]
    Version,
    /// A header length or total length that contradicts itself.
    #[error("header length is impossible")]
    Length,
}

impl From<Truncated> for IpError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn set(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// An IPv4 packet (RFC 791).
#[derive(Debug, Clone, Copy)]
pub struct Ipv4<T>(T);

impl<T: AsRef<[u8]>> Ipv4<T> {
    /// Checks version and lengths. Octets after the total length are allowed
    /// and ignored.
    ///
    /// # Errors
    /// [`IpError`].
    pub fn new_checked(bytes: T) -> Result<Self, IpError> {
        let data = bytes.as_ref();
        let first = *data.first().ok_or(IpError::Truncated)?;
        if first >> 4 != 4 {
            return Err(IpError::Version);
        }
        let header = usize::from(first & 0xf) * 4;
        if header < IPV4_HEADER_LEN {
            return Err(IpError::Length);
        }
        if data.len() < header {
            return Err(IpError::Truncated);
        }
        let total = usize::from(u16_at(data, 2));
        if total < header {
            return Err(IpError::Length);
        }
        if data.len() < total {
            return Err(IpError::Truncated);
        }
        Ok(Self(bytes))
    }

    /// Octets of the header with options.
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.0.as_ref()[0] & 0xf) * 4
    }

    /// DSCP and ECN.
    #[must_use]
    pub fn tos(&self) -> u8 {
        self.0.as_ref()[1]
    }

    /// Octets of header and payload.
    #[must_use]
    pub fn total_len(&self) -> u16 {
        u16_at(self.0.as_ref(), 2)
    }

    /// Identification.
    #[must_use]
    pub fn ident(&self) -> u16 {
        u16_at(self.0.as_ref(), 4)
    }

    /// Whether it must not be fragmented.
    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        self.0.as_ref()[6] & 0x40 != 0
    }

    /// Whether it is a fragment of a larger packet.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        u16_at(self.0.as_ref(), 6) & 0x3fff != 0
    }

    /// Whether it is a fragment without the transport header.
    #[must_use]
    pub fn is_later_fragment(&self) -> bool {
        u16_at(self.0.as_ref(), 6) & 0x1fff != 0
    }

    /// Time to live.
    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.0.as_ref()[8]
    }

    /// What the payload is.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.0.as_ref()[9]
    }

    /// The header checksum.
    #[must_use]
    pub fn checksum(&self) -> u16 {
        u16_at(self.0.as_ref(), 10)
    }

    /// Source.
    #[must_use]
    pub fn source(&self) -> Ipv4Addr {
        u32_at(self.0.as_ref(), 12).into()
    }

    /// Destination.
    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        u32_at(self.0.as_ref(), 16).into()
    }

    /// What follows the header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[self.header_len()..usize::from(self.total_len())]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4<T> {
    /// Sets DSCP and ECN; the checksum is the caller's to fill.
    pub fn set_tos(&mut self, tos: u8) {
        self.0.as_mut()[1] = tos;
    }

    /// Sets the octets of header and payload.
    ///
    /// # Panics
    /// When they are less than the header or more than there are.
    pub fn set_total_len(&mut self, total: u16) {
        let within = self.header_len()..=self.0.as_ref().len();
        assert!(within.contains(&usize::from(total)));
        set(self.0.as_mut(), 2, &total.to_be_bytes());
    }

    /// Sets the identification.
    pub fn set_ident(&mut self, ident: u16) {
        set(self.0.as_mut(), 4, &ident.to_be_bytes());
    }

    /// Computes the header checksum.
    pub fn fill_checksum(&mut self) {
        let header = self.header_len();
        set(self.0.as_mut(), 10, &[0, 0]);
        let sum = Checksum::new().with(&self.0.as_ref()[..header]).finish();
        set(self.0.as_mut(), 10, &sum.to_be_bytes());
    }

    /// What follows the header.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let range = self.header_len()..usize::from(self.total_len());
        &mut self.0.as_mut()[range]
    }
}

/// An IPv6 packet (RFC 8200).
#[derive(Debug, Clone, Copy)]
pub struct Ipv6<T>(T);

impl<T: AsRef<[u8]>> Ipv6<T> {
    /// Checks version and lengths. Octets after the payload length are allowed
    /// and ignored; jumbograms are not.
    ///
    /// # Errors
    /// [`IpError`].
    pub fn new_checked(bytes: T) -> Result<Self, IpError> {
        let data = bytes.as_ref();
        if data.first().ok_or(IpError::Truncated)? >> 4 != 6 {
            return Err(IpError::Version);
        }
        if data.len() < IPV6_HEADER_LEN
            || data.len() < IPV6_HEADER_LEN + usize::from(u16_at(data, 4))
        {
            return Err(IpError::Truncated);
        }
        Ok(Self(bytes))
    }

    /// DSCP and ECN.
    #[must_use]
    pub fn traffic_class(&self) -> u8 {
        let data = self.0.as_ref();
        data[0] << 4 | data[1] >> 4
    }

    /// The flow label, 20 bits.
    #[must_use]
    pub fn flow_label(&self) -> u32 {
        u32_at(self.0.as_ref(), 0) & 0xf_ffff
    }

    /// Octets after the header.
    #[must_use]
    pub fn payload_len(&self) -> u16 {
        u16_at(self.0.as_ref(), 4)
    }

    /// What follows the header: an extension header or the transport.
    #[must_use]
    pub fn next_header(&self) -> u8 {
        self.0.as_ref()[6]
    }

    /// Hop limit.
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        self.0.as_ref()[7]
    }

    /// Source.
    #[must_use]
    pub fn source(&self) -> Ipv6Addr {
        self.address(8)
    }

    /// Destination.
    #[must_use]
    pub fn destination(&self) -> Ipv6Addr {
        self.address(24)
    }

    /// What follows the header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        let end = IPV6_HEADER_LEN + usize::from(self.payload_len());
        &self.0.as_ref()[IPV6_HEADER_LEN..end]
    }

    fn address(&self, at: usize) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.0.as_ref()[at..at + 16]);
        octets.into()
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv6<T> {
    /// Sets DSCP and ECN.
    pub fn set_traffic_class(&mut self, class: u8) {
        let data = self.0.as_mut();
        data[0] = 0x60 | class >> 4;
        data[1] = class << 4 | (data[1] & 0xf);
    }

    /// Sets the octets after the header.
    ///
    /// # Panics
    /// When they are more than there are.
    pub fn set_payload_len(&mut self, length: u16) {
        assert!(IPV6_HEADER_LEN + usize::from(length) <= self.0.as_ref().len());
        set(self.0.as_mut(), 4, &length.to_be_bytes());
    }
}

/// An IP packet of either version, as far as selectors and flows care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// The upper-layer protocol, after IPv6 extension headers.
    pub protocol: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Octets of the whole packet.
    pub length: usize,
    /// Octets before the upper-layer header.
    pub transport: usize,
    /// A fragment of a larger packet.
    pub fragment: bool,
    /// A fragment that does not hold the upper-layer header.
    pub later_fragment: bool,
    /// Source and destination port, where the protocol has them and this
    /// packet holds them.
    pub ports: Option<(u16, u16)>,
}

impl Packet {
    /// Reads the headers of `bytes`.
    ///
    /// # Errors
    /// [`IpError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, IpError> {
        match bytes.first().ok_or(IpError::Truncated)? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => Err(IpError::Version),
        }
    }

    fn parse_v4(bytes: &[u8]) -> Result<Self, IpError> {
        let ip = Ipv4::new_checked(bytes)?;
        let later_fragment = ip.is_later_fragment();
        Ok(Self {
            source: ip.source().into(),
            destination: ip.destination().into(),
            protocol: ip.protocol(),
            tos: ip.tos(),
            length: ip.total_len().into(),
            transport: ip.header_len(),
            fragment: ip.is_fragment(),
            later_fragment,
            ports: ports(ip.protocol(), ip.payload(), later_fragment),
        })
    }

    fn parse_v6(bytes: &[u8]) -> Result<Self, IpError> {
        let ip = Ipv6::new_checked(bytes)?;
        let mut protocol = ip.next_header();
        let mut rest = ip.payload();
        let (mut fragment, mut later_fragment) = (false, false);
        while !later_fragment {
            let length = match (protocol, rest) {
                // Hop-by-hop, routing, destination options.
                (0 | 43 | 60, [_, length, ..]) => 8 + usize::from(*length) * 8,
                (44, [_, _, offset_high, offset_low, ..]) => {
                    let offset = u16::from_be_bytes([*offset_high, *offset_low]);
                    fragment = offset & 0xfff9 != 0;
                    later_fragment = offset & 0xfff8 != 0;
                    8
                }
                // Authentication.
                (51, [_, length, ..]) => 8 + usize::from(*length) * 4,
                (0 | 43 | 44 | 51 | 60, _) => return Err(IpError::Truncated),
                _ => break,
            };
            protocol = *rest.first().ok_or(IpError::Truncated)?;
            rest = rest.get(length..).ok_or(IpError::Truncated)?;
        }
        Ok(Self {
            source: ip.source().into(),
            destination: ip.destination().into(),
            protocol,
            tos: ip.traffic_class(),
            length: IPV6_HEADER_LEN + usize::from(ip.payload_len()),
            transport: IPV6_HEADER_LEN + usize::from(ip.payload_len()) - rest.len(),
            fragment,
            later_fragment,
            ports: ports(protocol, rest, later_fragment),
        })
    }
}

/// TCP, UDP, DCCP, SCTP and UDP-Lite begin with their ports.
fn ports(protocol: u8, transport: &[u8], later_fragment: bool) -> Option<(u16, u16)> {
    match (protocol, transport) {
        (PROTOCOL_TCP | PROTOCOL_UDP | 33 | 132 | 136, [s0, s1, d0, d1, ..]) if !later_fragment => {
            Some((
                u16::from_be_bytes([*s0, *s1]),
                u16::from_be_bytes([*d0, *d1]),
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Tcp, Udp};

    /// The ICMP echo of RFC 7634 appendix A, header only, over UDP ports.
    fn v4() -> Vec<u8> {
        let mut bytes = vec![
            0x45, 0x00, 0x00, 0x20, 0xa6, 0xf2, 0x40, 0x00, 0x40, 17, 0, 0, 198, 51, 100, 5, 192,
            0, 2, 5,
        ];
        bytes.extend([0x11, 0x94, 0x00, 0x35, 0, 12, 0, 0, 1, 2, 3, 4]);
        Ipv4::new_checked(&mut bytes[..]).unwrap().fill_checksum();
        bytes
    }

    fn v6(extensions: &[u8], next: u8) -> Vec<u8> {
        let mut bytes = vec![0x6a, 0xb1, 0x23, 0x45];
        let length = u16::try_from(extensions.len() + 20).unwrap();
        bytes.extend(length.to_be_bytes());
        bytes.extend([next, 64]);
        bytes.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend("2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend(extensions);
        bytes.extend([
            0, 80, 1, 187, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0,
        ]);
        bytes
    }

    #[test]
    fn reads_a_v4_header() {
        let bytes = v4();
        let ip = Ipv4::new_checked(&bytes).unwrap();
        assert_eq!(ip.source(), Ipv4Addr::new(198, 51, 100, 5));
        assert_eq!((ip.ttl(), ip.ident(), ip.protocol()), (64, 0xa6f2, 17));
        assert!(ip.dont_fragment() && !ip.is_fragment());
        assert_eq!(Checksum::new().with(&bytes[..20]).finish(), 0);
        let udp = Udp::new_checked(ip.payload()).unwrap();
        assert_eq!((udp.source_port(), udp.destination_port()), (4500, 53));
        assert_eq!(udp.payload(), [1, 2, 3, 4]);
    }

    #[test]
    fn finds_the_transport_behind_v6_extension_headers() {
        let plain = Packet::parse(&v6(&[], PROTOCOL_TCP)).unwrap();
        assert_eq!((plain.protocol, plain.transport, plain.tos), (6, 40, 0xab));
        assert_eq!(plain.ports, Some((80, 443)));

        let options = [44, 0, 1, 4, 0, 0, 0, 0]; // destination options, then a fragment header
        let first = [&options[..], &[6, 0, 0, 1, 0, 0, 0, 9]].concat();
        let first = Packet::parse(&v6(&first, 60)).unwrap();
        assert_eq!((first.protocol, first.transport), (6, 56));
        assert!(first.fragment && !first.later_fragment);
        assert_eq!(first.ports, Some((80, 443)));

        let later = Packet::parse(&v6(&[6, 0, 0, 8, 0, 0, 0, 9], 44)).unwrap();
        assert!(later.fragment && later.later_fragment);
        assert_eq!((later.protocol, later.ports), (6, None));
    }

    #[test]
    fn a_later_v4_fragment_has_no_ports() {
        let mut bytes = v4();
        bytes[6..8].copy_from_slice(&[0x20, 0]);
        let first = Packet::parse(&bytes).unwrap();
        assert!(first.fragment && first.ports.is_some());
        bytes[6..8].copy_from_slice(&[0, 1]);
        assert_eq!(Packet::parse(&bytes).unwrap().ports, None);
    }

    #[test]
    fn every_truncation_is_an_error_and_trailing_octets_are_not() {
        for whole in [v4(), v6(&[17, 0, 1, 4, 0, 0, 0, 0], 60)] {
            for len in 0..whole.len() {
                assert!(Packet::parse(&whole[..len]).is_err(), "length {len}");
            }
            let mut longer = whole.clone();
            longer.extend([0; 6]);
            assert_eq!(Packet::parse(&longer), Packet::parse(&whole));
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        let mut bytes = v4();
        bytes[0] = 0x44;
        assert_eq!(Packet::parse(&bytes), Err(IpError::Length));
        let mut bytes = v4();
        bytes[3] = 19;
        assert_eq!(Packet::parse(&bytes), Err(IpError::Length));
        assert_eq!(Packet::parse(&[0x50; 40]), Err(IpError::Version));
        assert_eq!(Packet::parse(&[]), Err(IpError::Truncated));
    }

    #[test]
    fn fields_can_be_set() {
        let mut bytes = v6(&[], PROTOCOL_TCP);
        let mut ip = Ipv6::new_checked(&mut bytes[..]).unwrap();
        ip.set_traffic_class(0x5c);
        assert_eq!((ip.traffic_class(), ip.flow_label()), (0x5c, 0x1_2345));
        let mut tcp = Tcp::new_checked(&mut bytes[40..]).unwrap();
        tcp.set_sequence(77);
        tcp.set_flags(Tcp::<&[u8]>::SYN);
        assert_eq!((tcp.sequence(), tcp.flags()), (77, 2));
        assert!(tcp.payload().is_empty());
    }

    proptest! {
        #[test]
        fn no_octets_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), version in 0u8..16) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | (*first & 0xf);
            }
            let _ = Packet::parse(&bytes);
            if let Ok(tcp) = Tcp::new_checked(&bytes[..]) {
                let _ = (tcp.mss_offset(), tcp.payload());
            }
            if let Ok(udp) = Udp::new_checked(&bytes[..]) {
                let _ = udp.payload();
            }
        }
    }
}
