//! The Internet checksum (RFC 1071, RFC 1624).
//!
//! Sums are 16-bit ones' complement, as big-endian values; a checksum field is
//! the complement of a sum.

use std::net::IpAddr;

/// The sum over `bytes`, an odd last octet padded with zero. Pieces summed
/// separately and joined by [`add`] must start at even offsets.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    // Four independent chains of native words, carries kept in the upper half:
    // the sum is byte-order independent until the end (RFC 1071 2B).
    let mut lanes = [0u128; 4];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u128::from(u64::from_ne_bytes(*word));
        }
    }
    let mut total: u128 = lanes.iter().sum();
    let (words, tail) = rest.as_chunks::<8>();
    for word in words {
        total += u128::from(u64::from_ne_bytes(*word));
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    total += u128::from(u64::from_ne_bytes(last));
    // 2^16, and so every larger power of it, is 1 in ones' complement.
    let total = (total >> 64) + (total & u128::from(u64::MAX));
    let total = (total >> 32) + (total & 0xffff_ffff);
    let total = (total >> 16) + (total & 0xffff);
    let total = (total >> 16) + (total & 0xffff);
    let total = (total >> 16) + (total & 0xffff);
    u16::from_be((total & 0xffff) as u16)
}

/// The sum of two sums.
pub(super) const fn add(a: u16, b: u16) -> u16 {
    let (sum, carried) = a.overflowing_add(b);
    sum + carried as u16
}

/// The sum over the pseudo-header of TCP, UDP and ICMPv6 (RFC 9293 3.1, RFC
/// 8200 8.1).
pub(super) fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u16 {
    let addresses = match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => add(sum(&s.octets()), sum(&d.octets())),
        (IpAddr::V6(s), IpAddr::V6(d)) => add(sum(&s.octets()), sum(&d.octets())),
        _ => 0,
    };
    let len = ((len >> 16) as u16, (len & 0xffff) as u16);
    add(add(addresses, u16::from(protocol)), add(len.0, len.1))
}

/// A checksum after one 16-bit word of what it covers changed (RFC 1624 eq. 3).
pub(super) const fn replace(checksum: u16, old: u16, new: u16) -> u16 {
    !add(add(!checksum, !old), new)
}

/// The complement, with UDP's rule that zero is sent as all ones (RFC 768).
pub(super) const fn udp(sum: u16) -> u16 {
    match !sum {
        0 => 0xffff,
        checksum => checksum,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, word by word.
    pub(in super::super) fn reference(bytes: &[u8]) -> u16 {
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

    proptest! {
        #[test]
        fn the_fast_sum_is_the_sum_of_rfc_1071(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(sum(&bytes), reference(&bytes));
        }

        #[test]
        fn replacing_a_word_is_recomputing(mut bytes in prop::collection::vec(any::<u8>(), 2..60), at in any::<prop::sample::Index>(), new: u16) {
            let at = at.index(bytes.len() / 2) * 2;
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let before = !sum(&bytes);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            let (fast, slow) = (replace(before, old, new), !sum(&bytes));
            // Both zeros of ones' complement mean the same.
            prop_assert!(fast == slow || fast ^ slow == 0xffff && (fast == 0 || slow == 0));
        }
    }

    #[test]
    fn all_ones_do_not_overflow() {
        assert_eq!(sum(&[0xff; 65536]), 0xffff);
        assert_eq!(sum(&[]), 0);
    }
}
