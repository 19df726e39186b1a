//! Headers in front of what the programs look at: Ethernet with up to two VLAN
//! tags, IPv4 with options, IPv6 with extension headers, UDP.
//!
//! Input is anything that implements [`Octets`]; output is plain values.
//! Nothing is assumed about a length field that was not read.

use crate::{Addr, octets::Octets};

/// IP protocol numbers used here.
pub mod protocol {
    /// IPv6 hop-by-hop options (RFC 8200 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header (RFC 8200 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header (RFC 8200 4.5).
    pub const FRAGMENT: u8 = 44;
    /// ESP (RFC 4303).
    pub const ESP: u8 = 50;
    /// AH (RFC 4302).
    pub const AH: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options (RFC 8200 4.6).
    pub const DESTINATION: u8 = 60;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDPLITE: u8 = 136;
}

/// EtherType of IPv4.
pub const ETHERTYPE_V4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_V6: u16 = 0x86dd;
/// Octets of an Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Octets of a UDP header.
pub const UDP_LEN: usize = 8;

/// Extension headers [`ip`] walks before it calls the transport unknown.
pub const MAX_EXTENSIONS: usize = 6;

/// Which part of a fragmented packet this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// A whole packet.
    Whole,
    /// The first fragment: has the transport header.
    First,
    /// A later fragment: has none.
    Later,
}

/// The fields of an IP header and where the transport begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip {
    /// IPv4, else IPv6.
    pub v4: bool,
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Protocol of the transport; meaningless when `opaque`.
    pub protocol: u8,
    /// Offset of the transport from the start of the packet.
    pub transport: usize,
    /// Hop limit or time to live.
    pub hops: u8,
    /// Octets of the IP packet by its own length field (0 for a jumbogram or BIG TCP).
    pub len: u32,
    /// Fragmentation.
    pub fragment: Fragment,
    /// The header chain is longer or stranger than we read: the transport is unknown.
    pub opaque: bool,
    /// IPv6 extension headers were walked: the transport is at no fixed offset.
    pub extended: bool,
}

/// Why a header could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// The packet ends inside.
    Truncated,
    /// The version or header length is impossible.
    Malformed,
}

/// Skips Ethernet and up to two VLAN tags: offset of the network header, if it is IP.
///
/// `Ok(None)` is a frame that is not IP.
#[inline(always)]
pub fn ethernet<P: Octets + ?Sized>(packet: &P) -> Result<Option<usize>, Unreadable> {
    let mut at = ETHERNET_LEN - 2;
    let mut tags = 0;
    loop {
        let kind = u16::from_be_bytes(packet.load(at).ok_or(Unreadable::Truncated)?);
        match kind {
            ETHERTYPE_V4 | ETHERTYPE_V6 => return Ok(Some(at + 2)),
            // 802.1Q, 802.1ad.
            0x8100 | 0x88a8 if tags < 2 => {
                tags += 1;
                at += 4;
            }
            // A third tag or a PPPoE session: may be IP, and is not read.
            0x8100 | 0x88a8 | 0x8864 => return Err(Unreadable::Malformed),
            _ => return Ok(None),
        }
    }
}

/// Reads the fixed IPv4 or IPv6 header at `at` without extension headers: for
/// IPv6 `protocol` is the first next header.
#[inline(always)]
pub fn ip_fixed<P: Octets + ?Sized>(packet: &P, at: usize) -> Result<Ip, Unreadable> {
    // Both headers have 20 octets. (The verifier learns nothing from a check
    // for the first octet of a packet alone.)
    let [w0, w1, w2, w3, w4] = packet.words(at).ok_or(Unreadable::Truncated)?;
    let (w0, w1) = (u32::from_be(w0), u32::from_be(w1));
    match w0 >> 28 {
        4 => {
            let header = (w0 >> 22 & 0x3c) as usize;
            if header < 20 {
                return Err(Unreadable::Malformed);
            }
            Ok(Ip {
                v4: true,
                src: Addr::v4_word(w3),
                dst: Addr::v4_word(w4),
                protocol: (u32::from_be(w2) >> 16) as u8,
                transport: at + header,
                hops: (u32::from_be(w2) >> 24) as u8,
                len: w0 & 0xffff,
                fragment: fragment(w1 & 0x1fff, w1 & 0x2000 != 0),
                opaque: false,
                extended: false,
            })
        }
        6 => {
            let src = packet.words(at + 8).ok_or(Unreadable::Truncated)?;
            let dst = packet.words(at + 24).ok_or(Unreadable::Truncated)?;
            let payload = w1 >> 16;
            Ok(Ip {
                v4: false,
                src: Addr::from_words(src),
                dst: Addr::from_words(dst),
                protocol: (w1 >> 8) as u8,
                transport: at + 40,
                hops: w1 as u8,
                len: if payload == 0 { 0 } else { payload + 40 },
                fragment: Fragment::Whole,
                opaque: false,
                extended: false,
            })
        }
        _ => Err(Unreadable::Malformed),
    }
}

/// Reads the IP header at `at` and walks IPv6 extension headers.
#[inline(always)]
pub fn ip<P: Octets + ?Sized>(packet: &P, at: usize) -> Result<Ip, Unreadable> {
    let mut ip = ip_fixed(packet, at)?;
    if ip.v4 {
        return Ok(ip);
    }
    let mut left = MAX_EXTENSIONS;
    loop {
        match ip.protocol {
            protocol::FRAGMENT => {
                let h: [u8; 8] = packet.load_far(ip.transport).ok_or(Unreadable::Truncated)?;
                let word = u16::from_be_bytes([h[2], h[3]]);
                ip.extended = true;
                ip.fragment = fragment(u32::from(word >> 3), word & 1 != 0);
                ip.protocol = h[0];
                ip.transport += 8;
                if let Fragment::Later = ip.fragment {
                    // What follows is not a header chain any more. A protocol
                    // that could still be an extension header says nothing.
                    ip.opaque = is_extension(ip.protocol);
                    return Ok(ip);
                }
            }
            p if is_extension(p) => {
                let h: [u8; 2] = packet.load_far(ip.transport).ok_or(Unreadable::Truncated)?;
                ip.extended = true;
                ip.protocol = h[0];
                // AH counts in 4-octet units minus 2 (RFC 4302 2.2).
                ip.transport += if p == protocol::AH {
                    (usize::from(h[1]) + 2) * 4
                } else {
                    (usize::from(h[1]) + 1) * 8
                };
            }
            _ => return Ok(ip),
        }
        left -= 1;
        if left == 0 {
            ip.opaque = true;
            return Ok(ip);
        }
    }
}

/// Whether `protocol` begins with source and destination port.
#[inline(always)]
#[must_use]
pub const fn has_ports(protocol: u8) -> bool {
    matches!(
        protocol,
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::DCCP | protocol::UDPLITE
    )
}

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION
            | protocol::FRAGMENT
            | protocol::AH
    )
}

#[inline(always)]
const fn fragment(offset: u32, more: bool) -> Fragment {
    if offset != 0 {
        Fragment::Later
    } else if more {
        Fragment::First
    } else {
        Fragment::Whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut p = std::vec![0x60, 0, 0, 0];
        p.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        p.extend([next, 64]);
        p.extend([0x20; 16]);
        p.extend([0x21; 16]);
        p.extend(rest);
        p
    }

    #[test]
    fn vlan_tags_are_skipped_and_a_third_or_pppoe_is_unreadable() {
        let mut frame = std::vec![0u8; 12];
        frame.extend([0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x08, 0]);
        assert_eq!(ethernet(&frame[..]), Ok(Some(22)));
        for len in 0..frame.len() {
            assert_eq!(ethernet(&frame[..len]), Err(Unreadable::Truncated), "{len}");
        }
        let mut deep = std::vec![0u8; 12];
        deep.extend([0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 0x08, 0]);
        assert_eq!(ethernet(&deep[..]), Err(Unreadable::Malformed));
        deep[12..14].copy_from_slice(&[0x88, 0x64]);
        assert_eq!(ethernet(&deep[..]), Err(Unreadable::Malformed));
        let mut arp = std::vec![0u8; 12];
        arp.extend([0x08, 0x06]);
        assert_eq!(ethernet(&arp[..]), Ok(None));
    }

    #[test]
    fn ipv4_options_move_the_transport_and_short_headers_are_malformed() {
        let mut p = std::vec![0u8; 60];
        p[0] = 0x4f;
        p[9] = 17;
        assert_eq!(ip(&p[..], 0).unwrap().transport, 60);
        p[0] = 0x44;
        assert_eq!(ip(&p[..], 0), Err(Unreadable::Malformed));
        p[0] = 0x50;
        assert_eq!(ip(&p[..], 0), Err(Unreadable::Malformed));
    }

    #[test]
    fn extension_headers_are_walked_and_truncation_is_seen_at_every_length() {
        let rest = [
            [60, 0, 0, 0, 0, 0, 0, 0],
            [44, 0, 0, 0, 0, 0, 0, 0],
            [17, 0, 0, 1, 0, 0, 0, 9],
        ]
        .concat();
        let p = v6(0, &rest);
        let read = ip(&p[..], 0).unwrap();
        assert_eq!((read.protocol, read.transport), (17, 64));
        assert_eq!(read.fragment, Fragment::First);
        assert!(!read.opaque);
        for len in 0..p.len() {
            // The last header is 8 octets and read whole.
            assert_eq!(ip(&p[..len], 0), Err(Unreadable::Truncated), "{len}");
        }
    }

    #[test]
    fn a_chain_that_does_not_end_is_opaque() {
        let p = v6(60, &[60, 0, 0, 0, 0, 0, 0, 0].repeat(12));
        assert!(ip(&p[..], 0).unwrap().opaque);
        let later = v6(44, &[60, 0, 0, 8, 0, 0, 0, 1]);
        let read = ip(&later[..], 0).unwrap();
        assert_eq!(read.fragment, Fragment::Later);
        assert!(read.opaque);
    }
}
