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
    /// Of a protected network, or with the load's own words in it.
    Clear(String),
    /// Anything else.
    Other,
}

const NAT_T: u16 = 4500;
const IKE: u16 = 500;
const UDP: u8 = 17;
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
    if ip.protected() || contains(packet, &MAGIC) {
        return vec![Kind::Clear(format!(
            "{} > {} protocol {}",
            ip.source, ip.destination, ip.protocol
        ))];
    }
    match ip.protocol {
        ESP => vec![esp(ip.payload)],
        UDP => udp(ip.payload, segment),
        _ => vec![Kind::Other],
    }
}

struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
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
                    payload: packet.get(40..)?,
                })
            }
            _ => None,
        }
    }

    fn protected(&self) -> bool {
        [self.source, self.destination].iter().any(|address| {
            [POOL, LAN]
                .iter()
                .any(|(network, length)| within(*address, *network, *length))
        })
    }
}

fn within(address: IpAddr, network: Ipv4Addr, length: u8) -> bool {
    let IpAddr::V4(address) = address else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    u32::from(address) & mask == u32::from(network) & mask
}

fn udp(datagram: &[u8], segment: usize) -> Vec<Kind> {
    let port = |at: usize| {
        let octets: Option<[u8; 2]> = datagram.get(at..at + 2).and_then(|two| two.try_into().ok());
        octets.map(u16::from_be_bytes)
    };
    let (Some(source), Some(destination), Some(payload)) = (port(0), port(2), datagram.get(8..))
    else {
        return vec![Kind::Other];
    };
    let is = |number| source == number || destination == number;
    if is(IKE) {
        return vec![Kind::Ike];
    }
    if !is(NAT_T) || payload.is_empty() {
        return vec![Kind::Other];
    }
    let size = if segment == 0 { payload.len() } else { segment };
    payload.chunks(size).map(nat_t).collect()
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
        assert_eq!(classify(&frame(EU, GW, 53, &[1; 20]), 0), [Kind::Other]);
    }

    #[test]
    fn truncated_frames_are_taken() {
        let whole = frame(EU, GW, 4500, &[1; 32]);
        for length in 0..whole.len() {
            let _ = classify(&whole[..length], 0);
        }
    }
}
