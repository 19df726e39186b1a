//! What one frame on the router is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::lab::load::MAGIC;
use crate::lab::topology::{LAN, POOL};

/// What a packet, or a segment of a super-packet, is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// ESP, native or in UDP.
    Esp {
        /// The security parameter index.
        spi: u32,
        /// Octets from the SPI to the end.
        octets: u32,
    },
    /// An IKE message.
    Ike,
    /// Anything that a host with a full tunnel must not send.
    Clear(String),
    /// What keeps a link or a NAT working: ARP, neighbour discovery,
    /// keepalives, and ICMP errors about ESP and IKE.
    Other,
}

const NAT_T: u16 = 4500;
const IKE: u16 = 500;
const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
/// Router and neighbour solicitation and advertisement, redirect (RFC 4861 4).
const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
const UDP: u8 = 17;
/// Destination unreachable, time exceeded, parameter problem.
const ICMP_ERRORS: [u8; 3] = [3, 11, 12];
const ESP: u8 = 50;

/// The packets in one Ethernet frame; `segment` is the payload size of each
/// part of a super-packet, 0 for a single packet.
#[must_use]
pub fn classify(frame: &[u8], segment: usize) -> Vec<Kind> {
    let Some(packet) = frame.get(14..) else {
        return vec![Kind::Other];
    };
    let Some(ip) = Ip::parse(packet) else {
        return vec![Kind::Other];
    };
    let kinds = match ip.protocol {
        // To an inner address the gateway announced as one of its own (RFC 4555 3.5).
        UDP if ip.is_ike_to_the_outside() => Some(vec![Kind::Ike]),
        _ if ip.protected() || contains(packet, &MAGIC) => None,
        // Judged by its first fragment.
        _ if ip.later_fragment => Some(vec![Kind::Other]),
        ESP => Some(vec![esp(ip.payload)]),
        UDP => udp(ip.payload, segment),
        ICMP if ip.quotes_protected() => Some(vec![Kind::Other]),
        _ if ip.of_the_link() => Some(vec![Kind::Other]),
        _ => None,
    };
    kinds.unwrap_or_else(|| {
        vec![Kind::Clear(format!(
            "{} > {} protocol {}",
            ip.source, ip.destination, ip.protocol
        ))]
    })
}

struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Not the first fragment of a packet: has no ports to look at.
    later_fragment: bool,
    payload: &'a [u8],
}

impl<'a> Ip<'a> {
    fn parse(packet: &'a [u8]) -> Option<Self> {
        let first = *packet.first()?;
        match first >> 4 {
            4 => {
                let address = |at: usize| -> Option<IpAddr> {
                    let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                    Some(Ipv4Addr::from(octets).into())
                };
                Some(Self {
                    source: address(12)?,
                    destination: address(16)?,
                    protocol: *packet.get(9)?,
                    later_fragment: *packet.get(6)? & 0x1f != 0 || *packet.get(7)? != 0,
                    payload: packet.get(usize::from(first & 15) * 4..)?,
                })
            }
            6 => {
                let address = |at: usize| -> Option<IpAddr> {
                    let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                    Some(Ipv6Addr::from(octets).into())
                };
                Some(Self {
                    source: address(8)?,
                    destination: address(24)?,
                    protocol: *packet.get(6)?,
                    later_fragment: false,
                    payload: packet.get(40..)?,
                })
            }
            _ => None,
        }
    }

    /// IPv6 between link-local addresses: neighbour discovery and group membership;
    /// discovery between other addresses too.
    fn of_the_link(&self) -> bool {
        let kind = self.payload.first().copied().unwrap_or(0);
        if self.protocol == ICMP_V6 && DISCOVERY.contains(&kind) {
            return true;
        }
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.source, self.destination) else {
            return false;
        };
        let [first, last, ..] = destination.octets();
        (source.is_unspecified() || source.is_unicast_link_local())
            && (destination.is_unicast_link_local() || (first, last & 15) == (0xff, 2))
    }

    /// Whether this ICMP message is an error about ESP or IKE, as routers send
    /// them when an address is gone.
    fn quotes_protected(&self) -> bool {
        let is_error = self
            .payload
            .first()
            .is_some_and(|kind| ICMP_ERRORS.contains(kind));
        let quoted = self.payload.get(8..).and_then(Ip::parse);
        is_error
            && quoted.is_some_and(|quoted| match quoted.protocol {
                _ if quoted.protected() => false,
                ESP => true,
                UDP => udp(quoted.payload, 0).is_some(),
                _ => false,
            })
    }

    /// IKE, and only one of the ends is a protected address.
    fn is_ike_to_the_outside(&self) -> bool {
        let ends = [self.source, self.destination];
        ends.iter().filter(|end| is_protected(**end)).count() == 1
            && udp(self.payload, 0).is_some_and(|kinds| kinds == [Kind::Ike])
    }

    fn protected(&self) -> bool {
        [self.source, self.destination]
            .into_iter()
            .any(is_protected)
    }
}

fn is_protected(address: IpAddr) -> bool {
    let networks = [POOL, LAN];
    networks
        .iter()
        .any(|(network, length)| within(address, *network, *length))
}

fn within(address: IpAddr, network: Ipv4Addr, length: u8) -> bool {
    let IpAddr::V4(address) = address else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    u32::from(address) & mask == u32::from(network) & mask
}

/// ESP, IKE and keepalives; `None` when it is no port of ours.
fn udp(datagram: &[u8], segment: usize) -> Option<Vec<Kind>> {
    let port = |at: usize| -> Option<u16> {
        let octets = datagram.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_be_bytes(octets))
    };
    let ports = [port(0)?, port(2)?];
    if ports.contains(&IKE) {
        return Some(vec![Kind::Ike]);
    }
    if !ports.contains(&NAT_T) {
        return None;
    }
    let payload = datagram.get(8..).unwrap_or_default();
    if payload.is_empty() {
        return Some(vec![Kind::Other]);
    }
    let size = if segment == 0 { payload.len() } else { segment };
    Some(payload.chunks(size).map(nat_t).collect())
}

/// RFC 3948: one octet 0xff keeps a NAT awake, four zero octets precede IKE.
fn nat_t(payload: &[u8]) -> Kind {
    match payload {
        [0xff] => Kind::Other,
        [0, 0, 0, 0, ..] => Kind::Ike,
        _ => esp(payload),
    }
}

fn esp(packet: &[u8]) -> Kind {
    match packet {
        [a, b, c, d, _, _, _, _, ..] => Kind::Esp {
            spi: u32::from_be_bytes([*a, *b, *c, *d]),
            octets: u32::try_from(packet.len()).unwrap_or(u32::MAX),
        },
        _ => Kind::Other,
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    // The load's words are at the start of a payload, far from the end of a large packet.
    let near = &haystack[..haystack.len().min(256)];
    near.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(source: [u8; 4], destination: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0u8; 14];
        bytes.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0]);
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(port.to_be_bytes());
        bytes.extend(port.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    const EU: [u8; 4] = [198, 51, 100, 2];
    const GW: [u8; 4] = [203, 0, 113, 1];

    #[test]
    fn every_segment_of_a_super_packet_is_seen() {
        let mut payload = Vec::new();
        for spi in [7u32, 7, 9] {
            payload.extend(spi.to_be_bytes());
            payload.extend([0xaa; 28]);
        }
        payload.extend([0, 0, 0, 0, 1, 2, 3, 4]);
        let kinds = classify(&frame(EU, GW, 4500, &payload), 32);
        let esp = |spi| Kind::Esp { spi, octets: 32 };
        assert_eq!(kinds, [esp(7), esp(7), esp(9), Kind::Ike]);
    }

    #[test]
    fn ike_keepalives_and_short_packets_are_no_esp() {
        let one = |payload: &[u8]| classify(&frame(EU, GW, 4500, payload), 0);
        assert_eq!(one(&[0xff]), [Kind::Other]);
        assert_eq!(one(&[0, 0, 0, 0, 9, 9, 9, 9]), [Kind::Ike]);
        assert_eq!(one(&[1, 2, 3]), [Kind::Other]);
        assert_eq!(classify(&frame(EU, GW, 500, &[1; 28]), 0), [Kind::Ike]);
    }

    #[test]
    fn protected_addresses_and_the_loads_words_are_clear() {
        let inner = frame([10, 66, 0, 2], GW, 53, &[1; 20]);
        assert!(matches!(classify(&inner, 0)[0], Kind::Clear(_)));
        let server = frame(EU, [10, 99, 0, 2], 53, &[1; 20]);
        assert!(matches!(classify(&server, 0)[0], Kind::Clear(_)));
        let words = frame(EU, GW, 53, &MAGIC);
        assert!(matches!(classify(&words, 0)[0], Kind::Clear(_)));
    }

    #[test]
    fn with_a_full_tunnel_whatever_is_not_esp_or_ike_is_clear() {
        let clear = |frame: &[u8]| matches!(classify(frame, 0)[0], Kind::Clear(_));
        assert!(clear(&frame(EU, GW, 53, &[1; 20])));
        let mut tcp = frame(EU, GW, 443, &[1; 20]);
        tcp[14 + 9] = 6;
        assert!(clear(&tcp));
        assert!(clear(&icmp(8, &frame(EU, GW, 4500, &[1; 20]))));
        assert!(clear(&six("2001:db8::1", "2001:db8::2", 58)));
        assert!(clear(&six("fe80::1", "2001:db8::2", 17)));
    }

    #[test]
    fn what_keeps_a_link_working_is_not_clear() {
        let arp = [[0u8; 14].as_slice(), &[0, 1, 8, 0, 6, 4, 0, 1]].concat();
        for frame in [
            arp,
            six("::", "ff02::1:ff00:1", 58),
            six("fe80::1", "ff02::16", 0),
            six("fe80::1", "fe80::2", 58),
            icmp(3, &frame(EU, GW, 4500, &[1; 20])),
        ] {
            assert_eq!(classify(&frame, 0), [Kind::Other]);
        }
    }

    #[test]
    fn an_icmp_error_about_something_clear_is_clear() {
        for quoted in [
            frame(EU, GW, 53, &[1; 20]),
            frame([10, 66, 0, 2], GW, 4500, &[1; 20]),
        ] {
            assert!(matches!(classify(&icmp(3, &quoted), 0)[0], Kind::Clear(_)));
        }
    }

    fn icmp(kind: u8, quoted: &[u8]) -> Vec<u8> {
        let mut bytes = frame(GW, EU, 0, &[]);
        bytes[14 + 9] = ICMP;
        bytes.truncate(14 + 20);
        bytes.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(&quoted[14..]);
        bytes
    }

    fn six(source: &str, destination: &str, next: u8) -> Vec<u8> {
        let address = |text: &str| text.parse::<Ipv6Addr>().expect("an address").octets();
        let mut bytes = vec![0u8; 14];
        bytes.extend([0x60, 0, 0, 0, 0, 0, next, 255]);
        bytes.extend(address(source));
        bytes.extend(address(destination));
        bytes
    }

    #[test]
    fn truncated_frames_are_taken() {
        let whole = frame(EU, GW, 4500, &[1; 32]);
        for length in 0..whole.len() {
            let _ = classify(&whole[..length], 0);
        }
    }
}
