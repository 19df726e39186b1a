//! Clamping the TCP maximum segment size to what the tunnel carries whole.

use crate::wire::adjust;

use super::packet::{Fragment, Inner, TCP};

const SYN: u8 = 0x02;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;

/// Whether `packet` opens a TCP connection, either direction.
pub(super) fn is_syn(packet: &[u8], inner: &Inner) -> bool {
    inner.protocol == TCP
        && inner.fragment == Fragment::Whole
        && packet
            .get(inner.transport + 13)
            .is_some_and(|flags| flags & SYN != 0)
}

/// Lowers the MSS option of a SYN so that packets of `mtu` octets result, and
/// fixes the checksum unless it is still partial. A SYN without the option is
/// left alone: its sender gets 536 or 1220 (RFC 9293 3.7.1).
pub(super) fn clamp(packet: &mut [u8], inner: &Inner, mtu: usize, partial: bool) {
    if !is_syn(packet, inner) {
        return;
    }
    let headers = match inner.next_header() {
        4 => 40,
        _ => 60,
    };
    let Ok(limit) = u16::try_from(mtu.saturating_sub(headers)) else {
        return;
    };
    let Some(transport) = packet.get_mut(inner.transport..inner.total) else {
        return;
    };
    let Some(offset) = transport.get(12).map(|b| usize::from(b >> 4) * 4) else {
        return;
    };
    let Some(at) = find(transport.get(..offset).unwrap_or_default()) else {
        return;
    };
    let Some([m0, m1]) = transport.get_mut(at..at + 2) else {
        return;
    };
    let old = u16::from_be_bytes([*m0, *m1]);
    if old <= limit {
        return;
    }
    [*m0, *m1] = limit.to_be_bytes();
    if partial {
        return;
    }
    if let Some([c0, c1]) = transport.get_mut(16..18) {
        let checksum = u16::from_be_bytes([*c0, *c1]);
        // At an odd offset both octets count in the other half of their words.
        let (old, new) = if at % 2 == 0 {
            (old, limit)
        } else {
            (old.swap_bytes(), limit.swap_bytes())
        };
        [*c0, *c1] = adjust(checksum, old, new).to_be_bytes();
    }
}

/// Where the value of the MSS option is in a TCP header.
fn find(header: &[u8]) -> Option<usize> {
    let mut at = 20;
    loop {
        match *header.get(at)? {
            OPTION_END => return None,
            OPTION_NOP => at += 1,
            OPTION_MSS if *header.get(at + 1)? == 4 => {
                return (at + 4 <= header.len()).then_some(at + 2);
            }
            _ => at += usize::from(*header.get(at + 1)?).max(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::{assert_checksums, build, tcp};
    use super::*;

    fn clamped(v6: bool, options: &[u8], mtu: usize) -> Vec<u8> {
        let mut packet = build(v6, TCP, 0, &tcp(1, SYN, options, &[]));
        let inner = Inner::parse(&packet).unwrap();
        clamp(&mut packet, &inner, mtu, false);
        assert_checksums(&packet);
        packet[inner.transport + 20..].to_vec()
    }

    #[test]
    fn a_large_mss_is_lowered_wherever_it_stands() {
        assert_eq!(
            clamped(false, &[2, 4, 5, 180], 1438)[2..],
            1398u16.to_be_bytes()
        );
        assert_eq!(
            clamped(true, &[2, 4, 5, 180], 1438)[2..],
            1378u16.to_be_bytes()
        );
        let odd = clamped(false, &[1, 2, 4, 5, 180, 1, 1, 0], 1438);
        assert_eq!(odd[3..5], 1398u16.to_be_bytes());
        let behind = clamped(false, &[3, 3, 7, 2, 4, 5, 180, 1], 1438);
        assert_eq!(behind[5..7], 1398u16.to_be_bytes());
    }

    #[test]
    fn a_small_mss_and_strange_options_are_left_alone() {
        for options in [
            [2, 4, 2, 24, 0, 0, 0, 0],
            [0, 2, 4, 5, 180, 0, 0, 0],
            [9, 0, 1, 1, 1, 1, 1, 1],
            [1, 1, 1, 1, 1, 1, 2, 4],
            [2, 6, 5, 180, 0, 0, 0, 0],
            [9, 200, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(clamped(false, &options, 1438), options);
        }
    }

    #[test]
    fn only_syns_are_clamped() {
        let mut packet = build(false, TCP, 0, &tcp(1, 0x10, &[2, 4, 5, 180], &[]));
        let before = packet.clone();
        let inner = Inner::parse(&packet).unwrap();
        clamp(&mut packet, &inner, 1438, false);
        assert_eq!(packet, before);
    }
}
