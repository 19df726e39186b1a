//! The inner packet path without devices (feature `testing`): everything both
//! halves do with octets they did not make, for fuzzing.
//!
//! Panics when a property does not hold: what is read lies within the octets;
//! segments, fragments and answers are packets whose lengths and checksums are
//! right; merging what was cut loses nothing.

use std::io::IoSlice;
use std::ops::Range;

use crate::io::tun::{Gso, VNET_LEN, VnetHeader};
use crate::wire::Checksum;

use super::fragment::Fragments;
use super::packet::{self, Fragment, Inner, TCP, UDP};
use super::segment::{self, Cutter};
use super::{ecn, icmp, merge, mss};

/// What the outbound half does with one TUN read (vnet header and packet) for a
/// tunnel of `mtu` octets. Returns the packets that would be sealed.
#[must_use]
pub fn outbound(bytes: &mut [u8], mtu: usize) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let (Some(header), Some(inner)) = (
        VnetHeader::parse(bytes),
        bytes.get(VNET_LEN..).and_then(Inner::parse),
    ) else {
        return out;
    };
    let packet = bytes.get_mut(VNET_LEN..).unwrap_or_default();
    assert!(inner.transport <= inner.total && inner.total <= packet.len());
    mss::clamp(packet, &inner, mtu, header.needs_checksum);
    let size = usize::from(header.gso_size);
    match header.gso {
        Gso::Tcp4 | Gso::Tcp6 if inner.protocol == TCP => {
            let offset = packet.get(inner.transport + 12).copied().unwrap_or(0);
            let headers = inner.transport + usize::from(offset >> 4) * 4;
            let size = size.min(mtu.saturating_sub(headers));
            cut(packet, inner, size, &mut out);
        }
        Gso::Udp if inner.protocol == UDP => cut(packet, inner, size, &mut out),
        Gso::None => {
            if header.needs_checksum {
                let (start, offset) = (header.checksum_start, header.checksum_offset);
                let covered = packet.get_mut(..inner.total).unwrap_or_default();
                if !segment::complete(covered, usize::from(start), usize::from(offset)) {
                    return out;
                }
            }
            // Completing a checksum may have written anywhere, headers included.
            if let Some(inner) = Inner::parse(packet) {
                single(packet, &inner, mtu, &mut out);
            }
        }
        Gso::Tcp4 | Gso::Tcp6 | Gso::Udp | Gso::Other => {}
    }
    out
}

fn cut(packet: &[u8], inner: Inner, size: usize, out: &mut Vec<Vec<u8>>) {
    let Some(mut cutter) = Cutter::new(packet, inner, size) else {
        return;
    };
    let (count, first) = (cutter.count(), out.len());
    while let Some(len) = cutter.next_len() {
        let mut room = vec![0; len];
        cutter.write(&mut room);
        let cut = Inner::parse(&room).expect("a segment is a packet");
        assert_eq!(cut.total, len);
        if inner.fragment == Fragment::Whole {
            assert_eq!((cut.protocol, cut.ports), (inner.protocol, inner.ports));
            let sum = cut.pseudo_header(cut.transport_len());
            assert_eq!(sum.with(&room[cut.transport..]).finish(), 0, "checksum");
        }
        out.push(room);
    }
    assert_eq!(
        out.len() - first,
        count,
        "the count sequence numbers are for"
    );
}

fn single(packet: &[u8], inner: &Inner, mtu: usize, out: &mut Vec<Vec<u8>>) {
    let packet = packet.get(..inner.total).unwrap_or_default();
    if packet.len() <= mtu {
        return out.push(packet.to_vec());
    }
    if inner.dont_fragment {
        if let Some(error) = icmp::too_big(packet, inner, mtu) {
            let error = Inner::parse(&error).expect("an answer is a packet");
            assert_eq!(error.destination, inner.source);
        }
        return;
    }
    let Some(mut fragments) = Fragments::new(packet, inner, mtu) else {
        return;
    };
    let (count, first) = (fragments.count(), out.len());
    let mut payload = 0;
    while let Some(len) = fragments.next_len() {
        assert!(len <= mtu, "a fragment fits");
        let mut room = vec![0; len];
        fragments.write(&mut room);
        let part = Inner::parse(&room).expect("a fragment is a packet");
        assert_eq!(part.total, len);
        assert_eq!(Checksum::new().with(&room[..part.transport]).finish(), 0);
        payload += part.transport_len();
        out.push(room);
    }
    assert_eq!(payload, inner.transport_len(), "nothing lost");
    assert_eq!(
        out.len() - first,
        count,
        "the count sequence numbers are for"
    );
}

/// What the inbound half does with opened packets that arrived in a row, each
/// with the outer TOS it came with. Returns octets of packets taken and written.
pub fn inbound(packets: &[(u8, &[u8])], mtu: usize) -> (usize, usize) {
    let mut buffer = Vec::new();
    let mut places: Vec<(Range<usize>, Inner)> = Vec::new();
    for (tos, bytes) in packets {
        let start = buffer.len();
        buffer.extend_from_slice(bytes);
        let payload = buffer.get_mut(start..).unwrap_or_default();
        let Some(mut inner) = Inner::parse(payload) else {
            continue;
        };
        let payload = payload.get_mut(..inner.total).unwrap_or_default();
        let Ok(marked) = ecn::decapsulate(*tos, inner.tos) else {
            continue;
        };
        if marked != inner.tos {
            packet::set_tos(payload, marked);
            inner.tos = marked;
        }
        mss::clamp(payload, &inner, mtu, false);
        assert_eq!(Inner::parse(payload), Some(inner), "still the same packet");
        places.push((start..start + inner.total, inner));
    }
    let taken = places.iter().map(|(_, inner)| inner.transport_len()).sum();
    let mut written = 0;
    merge::merge(&buffer, &places, true, &mut |parts: &[IoSlice<'_>]| {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        written += super_packet(&bytes);
    });
    (taken, written)
}

/// Octets behind the IP headers of all parts of what is written to the TUN.
fn super_packet(bytes: &[u8]) -> usize {
    let header = VnetHeader::parse(bytes).expect("what is written has a vnet header");
    let packet = bytes.get(VNET_LEN..).unwrap_or_default();
    let inner = Inner::parse(packet).expect("what is written is a packet");
    assert_eq!(inner.total, packet.len());
    if header.gso == Gso::None {
        return inner.transport_len();
    }
    let size = usize::from(header.gso_size);
    assert!(inner.total <= 65_535 && size > 0);
    let cutter = Cutter::new(packet, inner, size).expect("the kernel can cut it again");
    let headers = usize::from(header.header_len) - inner.transport;
    inner.transport_len() + (cutter.count() - 1) * headers
}
