//! Frames with right checksums, computed the long way.

use std::net::{IpAddr, SocketAddr};

/// ESP in IP.
pub const ESP: u8 = 50;
/// UDP in IP.
pub const UDP: u8 = 17;
/// TCP in IP.
pub const TCP: u8 = 6;

/// The Internet checksum over `parts` laid end to end (RFC 1071).
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let octets = parts.concat();
    let mut sum: u32 = octets
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// An IP packet with its header checksum.
///
/// # Panics
/// The addresses are of different families.
#[must_use]
pub fn ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    // A GSO packet may be longer than the field says; the kernel writes it modulo.
    #[expect(clippy::cast_possible_truncation, reason = "as the kernel does")]
    let len = payload.len() as u16;
    let mut packet = Vec::new();
    match (src, dst) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            packet.extend([0x45, 0x02]);
            packet.extend(len.wrapping_add(20).to_be_bytes());
            packet.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend(s.octets());
            packet.extend(d.octets());
            let check = checksum(&[&packet]);
            packet[10..12].copy_from_slice(&check.to_be_bytes());
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            packet.extend([0x60, 0x20, 0, 7]);
            packet.extend(len.to_be_bytes());
            packet.extend([protocol, 64]);
            packet.extend(s.octets());
            packet.extend(d.octets());
        }
        _ => panic!("mixed families"),
    }
    packet.extend(payload);
    packet
}

/// A UDP datagram in IP, with its checksum.
#[must_use]
pub fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len() + 8).expect("a datagram");
    let mut datagram = Vec::new();
    datagram.extend(src.port().to_be_bytes());
    datagram.extend(dst.port().to_be_bytes());
    datagram.extend(len.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let pseudo = pseudo_header(src.ip(), dst.ip(), UDP, len);
    let check = match checksum(&[&pseudo, &datagram]) {
        0 => 0xffff,
        check => check,
    };
    datagram[6..8].copy_from_slice(&check.to_be_bytes());
    ip(src.ip(), dst.ip(), UDP, &datagram)
}

/// The pseudo-header of a transport checksum.
#[must_use]
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: u16) -> Vec<u8> {
    let mut octets = Vec::new();
    for address in [src, dst] {
        match address {
            IpAddr::V4(a) => octets.extend(a.octets()),
            IpAddr::V6(a) => octets.extend(a.octets()),
        }
    }
    octets.extend([0, protocol]);
    octets.extend(len.to_be_bytes());
    octets
}

/// An Ethernet frame around an IP packet, with VLAN `tags` in front.
#[must_use]
pub fn ethernet(tags: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in tags {
        frame.extend([0x81, 0]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(match packet.first() {
        Some(first) if first >> 4 == 4 => [0x08, 0],
        _ => [0x86, 0xdd],
    });
    frame.extend(packet);
    frame
}

/// An ESP packet of `len` octets after the header.
#[must_use]
pub fn esp(spi: u32, len: usize) -> Vec<u8> {
    let mut packet = spi.to_be_bytes().to_vec();
    packet.extend(7u32.to_be_bytes());
    packet.extend((0..len).map(|i| u8::try_from(i % 251).expect("below 251")));
    packet
}
