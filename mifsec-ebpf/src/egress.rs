//! What `mif_egress` decides: which path an ESP packet sent to an anchor takes.
//!
//! The packet is a complete Ethernet frame on the anchor device, from a socket
//! of the agent: IPv4 without options or IPv6 without extension headers, then
//! UDP and ESP or ESP alone, possibly a GSO packet of equal segments. The
//! family never changes: the kernel refuses that for GSO.

use mifsec_common::octets::Octets;
use mifsec_common::parse::{ETHERNET_LEN, Fragment, Ip, UDP_LEN, ip_fixed, protocol};
use mifsec_common::path::{FAMILY_V4, FAMILY_V6, STATE_UP};
use mifsec_common::{Addr, NO_PATH, PathEntry, Reason, SaOut, SaOutKey};

use crate::checksum;

/// What the hook knows about the packet.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Octets of the whole frame.
    pub len: u32,
    /// UDP payload octets of a segment; 0 for a single packet.
    pub gso_size: u32,
    /// Segments; at least 1.
    pub segments: u32,
}

/// The maps behind the decision.
pub trait World {
    /// Looks up `SA_OUT`.
    fn sa_out(&self, key: &SaOutKey) -> Option<&SaOut>;
    /// Follows `PATH_SLOT` to `PATHS`.
    fn path(&self, index: u32) -> Option<&PathEntry>;
    /// Counts a reason.
    fn count(&self, reason: Reason, n: u64);
    /// Counts what a path sends.
    fn sent(&self, path: u32, packets: u64, octets: u64);
    /// Counts and reports a packet larger than its path.
    fn oversize(&self, path: u32, entry: &PathEntry, key: &SaOutKey, size: u32);
    /// Reports an SA without a usable path.
    fn no_path(&self, key: &SaOutKey);
}

/// Where a packet goes and what is there now.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The path taken.
    pub entry: &'a PathEntry,
    /// The IP header found at [`ETHERNET_LEN`].
    pub ip: Ip,
    /// Word of the UDP ports found; `None` for native ESP.
    pub ports: Option<u32>,
}

/// Finds the path of the packet and accounts it; `Err` is a drop, already counted.
#[inline(always)]
pub fn plan<'a, P: Octets + ?Sized, W: World>(
    packet: &P,
    meta: &Meta,
    world: &'a W,
) -> Result<Plan<'a>, Reason> {
    let refuse = |reason| {
        world.count(reason, 1);
        Err(reason)
    };
    let Ok(ip) = ip_fixed(packet, ETHERNET_LEN) else {
        return refuse(Reason::EGRESS_MALFORMED);
    };
    // Constant offsets: the sockets send neither options nor fragments.
    let transport = ETHERNET_LEN + if ip.v4 { 20 } else { 40 };
    if ip.transport != transport || !matches!(ip.fragment, Fragment::Whole) {
        return refuse(Reason::EGRESS_MALFORMED);
    }
    let (ports, spi_at) = match ip.protocol {
        protocol::UDP => (word(packet, transport), transport + UDP_LEN),
        protocol::ESP => (None, transport),
        _ => return refuse(Reason::EGRESS_MALFORMED),
    };
    let Some(spi) = word(packet, spi_at) else {
        return refuse(Reason::EGRESS_MALFORMED);
    };
    let spi = spi.to_ne_bytes();
    let key = SaOutKey {
        anchor: ip.dst,
        spi,
    };
    let Some(sa) = world.sa_out(&key) else {
        return refuse(Reason::NO_SA);
    };
    let Some((index, entry)) = choose(sa, ip.v4, world) else {
        world.no_path(&key);
        return refuse(Reason::NO_PATH);
    };

    let header = (spi_at - ETHERNET_LEN) as u32;
    let len = meta.len.saturating_sub(ETHERNET_LEN as u32);
    let largest = if meta.gso_size != 0 {
        header + meta.gso_size
    } else {
        len
    };
    if largest > entry.mtu {
        world.oversize(index, entry, &key, largest);
        return refuse(Reason::MTU);
    }
    // Every segment but the first gets its own copy of the headers.
    let octets = len + (meta.segments - 1) * header;
    world.sent(index, u64::from(meta.segments), u64::from(octets));
    Ok(Plan { entry, ip, ports })
}

/// Home path, or the first alternate of the same family that is up.
#[inline(always)]
fn choose<'a, W: World>(sa: &SaOut, v4: bool, world: &'a W) -> Option<(u32, &'a PathEntry)> {
    let (home, family) = if v4 {
        (sa.home_v4, FAMILY_V4)
    } else {
        (sa.home_v6, FAMILY_V6)
    };
    let usable = |index: u32| {
        if index == NO_PATH {
            return None;
        }
        let entry = world.path(index)?;
        (entry.state == STATE_UP && entry.family == family).then_some((index, entry))
    };
    if let Some(found) = usable(home) {
        return Some(found);
    }
    let [first, second, third] = sa.alt;
    let found = usable(first)
        .or_else(|| usable(second))
        .or_else(|| usable(third))?;
    world.count(Reason::DIVERTED, 1);
    Some(found)
}

#[inline(always)]
fn word<P: Octets + ?Sized>(packet: &P, offset: usize) -> Option<u32> {
    packet.words::<1>(offset).map(|[word]| word)
}

/// How the addresses change the checksums that cover them.
#[inline(always)]
#[must_use]
pub fn address_difference(ip: &Ip, src: &Addr, dst: &Addr) -> u32 {
    let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (ip.src.words(), ip.dst.words());
    let ([c0, c1, c2, c3], [d0, d1, d2, d3]) = (src.words(), dst.words());
    if ip.v4 {
        checksum::difference([a3, b3], [c3, d3])
    } else {
        checksum::difference(
            [a0, a1, a2, a3, b0, b1, b2, b3],
            [c0, c1, c2, c3, d0, d1, d2, d3],
        )
    }
}

#[cfg(test)]
mod tests;
