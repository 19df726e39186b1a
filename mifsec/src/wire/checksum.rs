//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::IpAddr;

/// A ones' complement sum in the making.
///
/// Kept in the machine's octet order, which RFC 1071 section 2(B) allows and
/// which lets the compiler add wide words.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Checksum(u64);

impl Checksum {
    /// Nothing summed.
    #[must_use]
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds octets that start at an even offset. Only the last slice added may
    /// have odd length.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        let (words, tail) = bytes.as_chunks::<4>();
        let mut sum = words
            .iter()
            .map(|word| u64::from(u32::from_ne_bytes(*word)))
            .fold(self.0, |sum, word| sum + word);
        let (pairs, odd) = tail.as_chunks::<2>();
        for pair in pairs {
            sum += u64::from(u16::from_ne_bytes(*pair));
        }
        for last in odd {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(sum)
    }

    /// Adds one 16-bit field.
    #[must_use]
    pub fn with_u16(self, value: u16) -> Self {
        self.with(&value.to_be_bytes())
    }

    /// Adds the pseudo-header of TCP and UDP (RFC 9293 3.1, RFC 8200 8.1);
    /// `length` counts the transport header and what follows.
    #[must_use]
    pub fn with_pseudo_header(
        self,
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        length: u32,
    ) -> Self {
        let address = |sum: Self, address| match address {
            IpAddr::V4(v4) => sum.with(&v4.octets()),
            IpAddr::V6(v6) => sum.with(&v6.octets()),
        };
        address(address(self, source), destination)
            .with(&length.to_be_bytes())
            .with_u16(u16::from(protocol))
    }

    /// The sum itself: what a partial checksum (`CHECKSUM_PARTIAL`) holds.
    #[must_use]
    pub const fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        u16::from_be(sum as u16)
    }

    /// The checksum field: the sum's complement.
    #[must_use]
    pub const fn finish(self) -> u16 {
        !self.folded()
    }

    /// As [`finish`](Self::finish) for UDP, where 0 means "none" and is sent as
    /// its other representation (RFC 768).
    #[must_use]
    pub const fn finish_udp(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            sum => sum,
        }
    }
}

/// `checksum` after a 16-bit field it covers changed from `old` to `new`
/// (RFC 1624 equation 3).
#[must_use]
pub const fn adjust(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = !checksum as u32 + !old as u32 + new as u32;
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 section 3.
    #[test]
    fn sums_the_example_of_rfc_1071() {
        let sum = Checksum::new().with(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
        assert_eq!(sum.finish(), 0x220d);
    }

    /// RFC 1624 section 4: the case where equation 2 goes wrong.
    #[test]
    fn adjusts_as_in_rfc_1624() {
        assert_eq!(adjust(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn a_udp_checksum_is_never_zero() {
        let sum = Checksum::new().with_u16(0xffff);
        assert_eq!((sum.finish(), sum.finish_udp()), (0, 0xffff));
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut sum: u32 = 0;
            for pair in bytes.chunks(2) {
                let word = u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
                sum += u32::from(word);
                sum = (sum & 0xffff) + (sum >> 16);
            }
            prop_assert_eq!(Checksum::new().with(&bytes).folded(), sum as u16);
        }

        #[test]
        fn adjusting_is_summing_again(
            mut words in prop::collection::vec(any::<u16>(), 2..20),
            at in any::<prop::sample::Index>(),
            new in any::<u16>(),
        ) {
            // Checksums of all-zero data have two representations.
            words[0] = 0x4500;
            let at = 1 + at.index(words.len() - 1);
            let sum = |words: &[u16]| {
                words.iter().fold(Checksum::new(), |sum, word| sum.with_u16(*word)).finish()
            };
            let before = sum(&words);
            let old = std::mem::replace(&mut words[at], new);
            prop_assert_eq!(adjust(before, old, new), sum(&words));
        }
    }
}
