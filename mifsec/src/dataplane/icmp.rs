//! "Packet too big": what a sender is told whose packet does not fit the tunnel
//! (RFC 1191 4, RFC 8201 4).
//!
//! The answer goes back into the TUN, from the address the packet was for: no
//! other address is sure to be routed there.

use std::net::IpAddr;

use crate::wire::Checksum;

use super::packet::{Fragment, ICMP, ICMPV6, IPV4_LEN, IPV6_LEN, Inner};

/// An IPv4 error quotes so much that it has at most 576 octets (RFC 1812 4.3.2.3).
const V4_MAX: usize = 576;
/// An IPv6 error does not exceed the minimum MTU (RFC 4443 2.4 c).
const V6_MAX: usize = 1280;
const ICMP_HEADER: usize = 8;

/// The error about `packet`, for a tunnel that takes `mtu` octets; `None` when
/// no error may be sent about it.
pub(super) fn too_big(packet: &[u8], inner: &Inner, mtu: usize) -> Option<Vec<u8>> {
    let packet = packet.get(..inner.total)?;
    if !answerable(packet, inner) {
        return None;
    }
    let mtu = u16::try_from(mtu).ok()?;
    match (inner.source, inner.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let quoted = packet.get(..packet.len().min(V4_MAX - IPV4_LEN - ICMP_HEADER))?;
            let total = u16::try_from(IPV4_LEN + ICMP_HEADER + quoted.len()).ok()?;
            let mut out = Vec::with_capacity(usize::from(total));
            out.extend([0x45, 0xc0]);
            out.extend(total.to_be_bytes());
            out.extend([0, 0, 0, 0, 64, ICMP, 0, 0]);
            out.extend(destination.octets());
            out.extend(source.octets());
            store(&mut out, 0, 10, Checksum::new());
            // Destination unreachable, fragmentation needed.
            out.extend([3, 4, 0, 0, 0, 0]);
            out.extend(mtu.to_be_bytes());
            out.extend(quoted);
            store(&mut out, IPV4_LEN, 2, Checksum::new());
            Some(out)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let quoted = packet.get(..packet.len().min(V6_MAX - IPV6_LEN - ICMP_HEADER))?;
            let len = u16::try_from(ICMP_HEADER + quoted.len()).ok()?;
            let mut out = Vec::with_capacity(IPV6_LEN + usize::from(len));
            out.extend([0x60, 0, 0, 0]);
            out.extend(len.to_be_bytes());
            out.extend([ICMPV6, 64]);
            out.extend(destination.octets());
            out.extend(source.octets());
            // Packet too big.
            out.extend([2, 0, 0, 0]);
            out.extend(u32::from(mtu).to_be_bytes());
            out.extend(quoted);
            let pseudo = Checksum::new().with_pseudo_header(
                inner.destination,
                inner.source,
                ICMPV6,
                u32::from(len),
            );
            store(&mut out, IPV6_LEN, 2, pseudo);
            Some(out)
        }
        _ => None,
    }
}

/// Computes the checksum of `out[start..]` and stores it at `start + offset`.
fn store(out: &mut [u8], start: usize, offset: usize, pseudo: Checksum) {
    let sum = pseudo.with(&out[start..]).finish();
    out[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
}

/// RFC 1122 3.2.2 and RFC 4443 2.4 e: no error about an error, a later
/// fragment, or what has no single sender.
fn answerable(packet: &[u8], inner: &Inner) -> bool {
    if inner.fragment == Fragment::Later
        || inner.source.is_unspecified()
        || inner.source.is_multicast()
        || inner.source.is_loopback()
    {
        return false;
    }
    let kind = packet.get(inner.transport).copied();
    match (inner.destination, inner.protocol) {
        (IpAddr::V4(to), _) if to.is_multicast() || to.is_broadcast() => false,
        // Echo and its kin are questions; the others are errors.
        (_, ICMP) => matches!(kind, Some(0 | 8 | 13 | 14)),
        (_, ICMPV6) => kind.is_some_and(|kind| kind >= 128),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::UDP;
    use super::super::packet::tests::{assert_checksums, build, udp};
    use super::*;

    #[test]
    fn the_error_names_the_mtu_and_quotes_the_packet() {
        for v6 in [false, true] {
            let packet = build(v6, UDP, 0, &udp(&[7; 1450]));
            let inner = Inner::parse(&packet).unwrap();
            let error = too_big(&packet, &inner, 1390).unwrap();
            assert_checksums(&error);
            let parsed = Inner::parse(&error).unwrap();
            assert_eq!(parsed.source, inner.destination);
            assert_eq!(parsed.destination, inner.source);
            let body = &error[parsed.transport..];
            assert_eq!(body[6..8], 1390u16.to_be_bytes());
            assert_eq!(body[..2], if v6 { [2, 0] } else { [3, 4] });
            assert_eq!(body[8..], packet[..body.len() - 8]);
            assert_eq!(error.len(), if v6 { 1280 } else { 576 });
            if !v6 {
                let sum = Checksum::new().with(&error[parsed.transport..]);
                assert_eq!(sum.finish(), 0);
            }
        }
    }

    #[test]
    fn no_error_answers_an_error_or_a_crowd() {
        let error = build(false, ICMP, 0, &[3; 40]);
        assert!(too_big(&error, &Inner::parse(&error).unwrap(), 1000).is_none());
        let echo = build(false, ICMP, 0, &[8; 40]);
        assert!(too_big(&echo, &Inner::parse(&echo).unwrap(), 1000).is_some());
        let mut multicast = build(false, UDP, 0, &udp(b"x"));
        multicast[16] = 224;
        assert!(too_big(&multicast, &Inner::parse(&multicast).unwrap(), 1000).is_none());
        let error = build(true, ICMPV6, 0, &[1; 40]);
        assert!(too_big(&error, &Inner::parse(&error).unwrap(), 1000).is_none());
    }
}
