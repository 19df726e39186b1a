//! The one address form of the maps: 16 octets, IPv4 as `::ffff:a.b.c.d`.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address in 16 octets; IPv4 in the v4-mapped form.
///
/// Held as four words in memory order: the programs load, compare and sum
/// words, and a compiler given octets handles each alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct Addr([u32; 4]);

/// The third word of a v4-mapped address.
const MAPPED: u32 = u32::from_be(0xffff);

impl Addr {
    /// The unspecified address.
    pub const NONE: Self = Self([0; 4]);

    /// From the four octets of an IPv4 header.
    #[inline(always)]
    #[must_use]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self([0, 0, MAPPED, u32::from_ne_bytes(octets)])
    }

    /// From the word of an IPv4 header, in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn v4_word(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// From the sixteen octets of an IPv6 header, or of this form.
    #[inline(always)]
    #[must_use]
    pub const fn v6(o: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }

    /// From words in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The four 32-bit words in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// The sixteen octets.
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        let mut octets = [0; 16];
        let mut i = 0;
        while i < 16 {
            octets[i] = self.0[i / 4].to_ne_bytes()[i % 4];
            i += 1;
        }
        octets
    }

    /// The last four octets: the IPv4 address of a v4-mapped one.
    #[inline(always)]
    #[must_use]
    pub const fn low(self) -> [u8; 4] {
        self.0[3].to_ne_bytes()
    }

    /// Whether this is a v4-mapped address, by words.
    #[inline(always)]
    #[must_use]
    pub const fn is_mapped(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    pub const fn is_v4(self) -> bool {
        matches!(self.to_ip(), IpAddr::V4(_))
    }

    /// The address as the standard library has it.
    #[must_use]
    pub const fn to_ip(self) -> IpAddr {
        let v6 = Ipv6Addr::from_octets(self.octets());
        match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(v6),
        }
    }

    /// The mask of the first `len` bits of a prefix of `family_v4`, in this form.
    ///
    /// A zero-length IPv4 prefix still holds the 96 bits that mark IPv4, so it
    /// matches no IPv6 address. `len` beyond the family's length counts as full.
    #[must_use]
    pub const fn mask(family_v4: bool, len: u8) -> Self {
        let bits = if family_v4 {
            96 + if len > 32 { 32 } else { len as u32 }
        } else if len > 128 {
            128
        } else {
            len as u32
        };
        let mask = if bits == 0 {
            0
        } else {
            u128::MAX << (128 - bits)
        };
        Self::v6(mask.to_be_bytes())
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(ip: Ipv6Addr) -> Self {
        Self::v6(ip.octets())
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_ip(), f)
    }
}

const _: () = {
    assert!(size_of::<Addr>() == 16);
    assert!(align_of::<Addr>() == 4);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_round_trip() {
        for text in ["203.0.113.9", "2001:db8::1", "0.0.0.0", "::"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Addr::from(ip).to_ip(), ip);
            assert_eq!(Addr::from(ip).is_v4(), ip.is_ipv4());
        }
    }

    #[test]
    fn a_default_route_of_one_family_never_matches_the_other() {
        let v4 = Addr::from(Ipv4Addr::new(192, 0, 2, 1));
        let mask = Addr::mask(true, 0);
        let net = Addr::from(Ipv4Addr::UNSPECIFIED);
        let hit = |a: Addr| (0..4).all(|i| (a.words()[i] ^ net.words()[i]) & mask.words()[i] == 0);
        assert!(hit(v4));
        assert!(!hit(Addr::from(Ipv6Addr::LOCALHOST)));
        assert_eq!(Addr::mask(false, 0), Addr::NONE);
        assert_eq!(Addr::mask(true, 24).low(), [255, 255, 255, 0]);
        assert_eq!(Addr::mask(false, 64).octets()[7..9], [255, 0]);
    }
}
