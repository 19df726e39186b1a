//! Control messages of `sendmsg` and `recvmsg`.

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{UDP_GRO, UDP_SEGMENT};
use crate::ids::Family;

/// Room for every message we send or ask for.
pub(super) const ROOM: usize = 256;

/// Control octets, aligned as `cmsghdr` wants.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Buffer(pub(super) [u8; ROOM]);

/// Control messages to send.
pub(super) struct Control {
    buffer: Buffer,
    len: usize,
}

impl Control {
    pub(super) fn new() -> Self {
        Self {
            buffer: Buffer([0; ROOM]),
            len: 0,
        }
    }

    /// `UDP_SEGMENT`: cut the datagram into pieces of `size` octets.
    pub(super) fn segment(&mut self, size: u16) {
        self.push(libc::SOL_UDP, UDP_SEGMENT, &size.to_ne_bytes());
    }

    /// TOS or traffic class of the outer header.
    pub(super) fn tos(&mut self, family: Family, tos: u8) {
        let value = libc::c_int::from(tos).to_ne_bytes();
        match family {
            Family::V4 => self.push(libc::IPPROTO_IP, libc::IP_TOS, &value),
            Family::V6 => self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &value),
        }
    }

    /// Interface and source address.
    pub(super) fn packet_info(&mut self, ifindex: u32, source: IpAddr) {
        match source {
            IpAddr::V4(address) => {
                // `struct in_pktinfo`: ifindex, source to use, destination.
                let mut info = [0; size_of::<libc::in_pktinfo>()];
                info[..4].copy_from_slice(&ifindex.to_ne_bytes());
                info[4..8].copy_from_slice(&address.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(address) => {
                // `struct in6_pktinfo`: source to use, ifindex.
                let mut info = [0; size_of::<libc::in6_pktinfo>()];
                info[..16].copy_from_slice(&address.octets());
                info[16..].copy_from_slice(&ifindex.to_ne_bytes());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.buffer.0[..self.len]
    }

    fn push(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        let header = size_of::<libc::cmsghdr>();
        let at = self.len;
        let len = header + data.len();
        let out = &mut self.buffer.0[at..];
        // `struct cmsghdr`: length, level, type; data follows, padded to 8.
        out[..8].copy_from_slice(&len.to_ne_bytes());
        out[8..12].copy_from_slice(&level.to_ne_bytes());
        out[12..16].copy_from_slice(&kind.to_ne_bytes());
        out[header..len].copy_from_slice(data);
        self.len = at + len.next_multiple_of(size_of::<usize>());
    }
}

const _: () = assert!(size_of::<libc::cmsghdr>() == 16 && size_of::<usize>() == 8);

/// What the kernel told about a received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) ifindex: u32,
    pub(super) local: Option<IpAddr>,
    pub(super) tos: u8,
    pub(super) segment: Option<usize>,
}

/// Reads the control messages in `bytes`; unknown ones are passed over.
pub(super) fn parse(mut bytes: &[u8]) -> Info {
    let mut info = Info {
        ifindex: 0,
        local: None,
        tos: 0,
        segment: None,
    };
    let header = size_of::<libc::cmsghdr>();
    while let Some((
        &[
            l0,
            l1,
            l2,
            l3,
            l4,
            l5,
            l6,
            l7,
            v0,
            v1,
            v2,
            v3,
            t0,
            t1,
            t2,
            t3,
        ],
        _,
    )) = bytes.split_first_chunk::<16>()
    {
        let len = usize::from_ne_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let level = libc::c_int::from_ne_bytes([v0, v1, v2, v3]);
        let kind = libc::c_int::from_ne_bytes([t0, t1, t2, t3]);
        let Some(data) = bytes.get(header..len) else {
            break;
        };
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let &[i0, i1, i2, i3, _, _, _, _, a, b, c, d] = data {
                    info.ifindex = u32::from_ne_bytes([i0, i1, i2, i3]);
                    info.local = Some(Ipv4Addr::new(a, b, c, d).into());
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let Some((address, &[i0, i1, i2, i3])) = data.split_first_chunk::<16>() {
                    info.ifindex = u32::from_ne_bytes([i0, i1, i2, i3]);
                    info.local = Some(Ipv6Addr::from(*address).into());
                }
            }
            // IPv4 delivers one octet, IPv6 an int.
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                info.tos = data.first().copied().unwrap_or(0);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                if let Ok(value) = data.try_into() {
                    info.tos = u8::try_from(libc::c_int::from_ne_bytes(value)).unwrap_or(0);
                }
            }
            (libc::SOL_UDP, UDP_GRO) => {
                if let Ok(value) = data.try_into() {
                    info.segment = usize::try_from(libc::c_int::from_ne_bytes(value)).ok();
                }
            }
            _ => {}
        }
        let next = len.next_multiple_of(size_of::<usize>());
        bytes = bytes.get(next..).unwrap_or_default();
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_parses_and_truncation_never_panics() {
        let mut control = Control::new();
        control.tos(Family::V6, 3);
        control.packet_info(9, "2001:db8::1".parse().unwrap());
        let bytes = control.as_slice();
        let info = parse(bytes);
        assert_eq!(info.tos, 3);
        assert_eq!(info.ifindex, 9);
        assert_eq!(info.local, Some("2001:db8::1".parse().unwrap()));
        for len in 0..bytes.len() {
            let _ = parse(&bytes[..len]);
        }
    }
}
