//! Frames for the tests of the decisions.

use std::net::IpAddr;
use std::vec::Vec;

use mifsec_common::Addr;

pub(crate) const SPI: [u8; 4] = [0xc0, 0xff, 0xee, 0x01];

pub(crate) fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().unwrap())
}

/// An IP packet of either family, checksums left zero.
pub(crate) fn ip(src: &str, dst: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap();
    let mut p = Vec::new();
    match (src.parse().unwrap(), dst.parse().unwrap()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            p.extend([0x45, 0]);
            p.extend((len + 20).to_be_bytes());
            p.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            p.extend(s.octets());
            p.extend(d.octets());
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            p.extend([0x60, 0, 0, 0]);
            p.extend(len.to_be_bytes());
            p.extend([protocol, 64]);
            p.extend(s.octets());
            p.extend(d.octets());
        }
        _ => panic!("mixed families"),
    }
    p.extend(payload);
    p
}

pub(crate) fn udp(sport: u16, dport: u16, payload: &[u8]) -> Vec<u8> {
    let mut p = Vec::new();
    p.extend(sport.to_be_bytes());
    p.extend(dport.to_be_bytes());
    p.extend(u16::try_from(payload.len() + 8).unwrap().to_be_bytes());
    p.extend([0, 0]);
    p.extend(payload);
    p
}

/// SPI, sequence number and `len` octets.
pub(crate) fn esp(len: usize) -> Vec<u8> {
    let mut p = SPI.to_vec();
    p.extend([0, 0, 0, 1]);
    p.resize(8 + len, 0xaa);
    p
}

pub(crate) fn ethernet(packet: &[u8]) -> Vec<u8> {
    let mut p = std::vec![2u8; 12];
    p.extend(if packet[0] >> 4 == 4 {
        [0x08, 0x00]
    } else {
        [0x86, 0xdd]
    });
    p.extend(packet);
    p
}
