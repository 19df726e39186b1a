//! `struct virtio_net_hdr`: what the kernel says about a packet, and we about ours.

/// Octets of the header before each packet.
pub const VNET_LEN: usize = 10;

const F_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What kind of super-packet this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gso {
    /// An ordinary packet.
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// Equal-sized UDP datagrams.
    Udp,
    /// Something we did not ask the kernel for.
    Other,
}

/// The header, in the byte order of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VnetHeader {
    /// The transport checksum covers only the pseudo-header so far.
    pub needs_checksum: bool,
    /// Kind of super-packet.
    pub gso: Gso,
    /// Octets of IP and transport headers.
    pub header_len: u16,
    /// Octets of payload per segment.
    pub gso_size: u16,
    /// Where the checksum starts to count.
    pub checksum_start: u16,
    /// Where it is stored, from there.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// An ordinary packet with all checksums in place.
    pub const PLAIN: Self = Self {
        needs_checksum: false,
        gso: Gso::None,
        header_len: 0,
        gso_size: 0,
        checksum_start: 0,
        checksum_offset: 0,
    };

    /// Splits what a TUN read returned; `None` when it is shorter than a header.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let &[flags, gso, h0, h1, g0, g1, s0, s1, o0, o1, ..] = bytes else {
            return None;
        };
        Some(Self {
            needs_checksum: flags & F_NEEDS_CSUM != 0,
            gso: match gso & !GSO_ECN {
                GSO_NONE => Gso::None,
                GSO_TCPV4 => Gso::Tcp4,
                GSO_TCPV6 => Gso::Tcp6,
                GSO_UDP_L4 => Gso::Udp,
                _ => Gso::Other,
            },
            header_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            checksum_start: u16::from_ne_bytes([s0, s1]),
            checksum_offset: u16::from_ne_bytes([o0, o1]),
        })
    }

    /// The octets to write before the packet.
    #[must_use]
    pub fn build(&self) -> [u8; VNET_LEN] {
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.checksum_start.to_ne_bytes();
        let [o0, o1] = self.checksum_offset.to_ne_bytes();
        let flags = if self.needs_checksum { F_NEEDS_CSUM } else { 0 };
        let gso = match self.gso {
            Gso::None | Gso::Other => GSO_NONE,
            Gso::Tcp4 => GSO_TCPV4,
            Gso::Tcp6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        [flags, gso, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_build_and_parse() {
        let header = VnetHeader {
            needs_checksum: true,
            gso: Gso::Tcp6,
            header_len: 72,
            gso_size: 1366,
            checksum_start: 40,
            checksum_offset: 16,
        };
        assert_eq!(VnetHeader::parse(&header.build()), Some(header));
        assert_eq!(VnetHeader::parse(&header.build()[..9]), None);
    }

    #[test]
    fn the_ecn_mark_does_not_hide_the_kind() {
        let mut bytes = VnetHeader::PLAIN.build();
        bytes[1] = GSO_TCPV4 | GSO_ECN;
        assert_eq!(VnetHeader::parse(&bytes).unwrap().gso, Gso::Tcp4);
    }
}
