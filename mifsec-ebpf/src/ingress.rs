//! What `mif_ingress` decides: which path a packet arrived on, and whether it
//! is worth the stack's time. XDP and TC ask the same question.
//!
//! Everything that is not ours passes, fragments and extension headers
//! included: the stack and the data plane look again. Only two things are ever
//! dropped: an unknown SPI in a single packet to a port and address of ours,
//! and IKE_SA_INIT requests beyond the limits.

use mifsec_common::maps::{PORT_FOREIGN, PORT_NAT_T};
use mifsec_common::octets::Octets;
use mifsec_common::parse::{Fragment, Ip, UDP_LEN, ethernet, ip_fixed, protocol};
use mifsec_common::{Addr, PathKey, Reason};

use crate::Verdict;

/// Octets of the non-ESP marker (RFC 3948 2.2).
const MARKER_LEN: usize = 4;
/// Exchange type of IKE_SA_INIT (RFC 7296 3.1).
const IKE_SA_INIT: u8 = 34;
/// Octets of an IKE header (RFC 7296 3.1).
const IKE_HEADER_LEN: usize = 28;
/// Notify payload, and the type of a cookie in it (RFC 7296 3.10).
const PAYLOAD_NOTIFY: u8 = 41;
const NOTIFY_COOKIE: u16 = 16_390;
/// Flag of a response (RFC 7296 3.1).
const FLAG_RESPONSE: u8 = 0x20;

/// What the hook knows about the packet.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Interface of arrival.
    pub ifindex: u32,
    /// Whether the packet begins with an Ethernet header, else with IP.
    pub ethernet: bool,
    /// Segments of a GRO packet; 1 in XDP.
    pub segments: u32,
}

/// The maps behind the decision.
pub trait World {
    /// The `PORT_` value of a UDP port.
    fn port(&self, port: [u8; 2]) -> u64;
    /// Whether `SA_IN` has the SPI.
    fn knows_spi(&self, spi: [u8; 4]) -> bool;
    /// Whether an address is one of ours.
    fn is_local(&self, address: &Addr) -> bool;
    /// Looks up `PATH_IN`.
    fn path_in(&self, key: &PathKey) -> Option<u32>;
    /// Counts what a path received and stamps it.
    fn received(&self, path: u32, packets: u64, octets: u64);
    /// Takes a token for an IKE_SA_INIT request from `source`; `Err` names the limit hit.
    /// A request with a cookie has a bucket of its own: a flood without cookies
    /// does not starve those who answered.
    fn admit_ike(&self, source: &Addr, v4: bool, cookie: bool) -> Result<(), Reason>;
    /// Counts a reason.
    fn count(&self, reason: Reason, n: u64);
    /// Reports a known SPI from an unknown source.
    fn new_source(&self, key: &PathKey, spi: [u8; 4]);
    /// Whether nobody else does IPsec on this host.
    fn exclusive(&self) -> bool;
}

/// Accounts and judges one arriving packet.
#[inline(always)]
pub fn judge<P: Octets + ?Sized, W: World>(packet: &P, meta: &Meta, world: &W) -> Verdict {
    let network = if meta.ethernet {
        match ethernet(packet) {
            Ok(Some(at)) => at,
            Ok(None) | Err(_) => return Verdict::Pass,
        }
    } else {
        0
    };
    let Ok(ip) = ip_fixed(packet, network) else {
        return Verdict::Pass;
    };
    if !matches!(ip.fragment, Fragment::Whole) {
        return Verdict::Pass;
    }
    match ip.protocol {
        protocol::UDP => udp(packet, meta, &ip, network, world),
        protocol::ESP => native(packet, meta, &ip, network, world),
        _ => Verdict::Pass,
    }
}

#[inline(always)]
fn udp<P: Octets + ?Sized, W: World>(
    packet: &P,
    meta: &Meta,
    ip: &Ip,
    network: usize,
    world: &W,
) -> Verdict {
    let at = ip.transport;
    let Some([ports, len]) = packet.words::<2>(at) else {
        return Verdict::Pass;
    };
    let [s0, s1, d0, d1] = ports.to_ne_bytes();
    let kind = world.port([d0, d1]);
    if kind == PORT_FOREIGN {
        return Verdict::Pass;
    }
    if kind != PORT_NAT_T {
        return ike(packet, at + UDP_LEN, meta, ip, world);
    }
    let Some([spi]) = packet.words::<1>(at + UDP_LEN) else {
        // One octet 0xff is a keepalive (RFC 3948 2.3); whatever claims more
        // than it has is the stack's to refuse.
        if (u32::from_be(len) >> 16) as usize >= UDP_LEN + MARKER_LEN {
            world.count(Reason::INGRESS_TRUNCATED, 1);
        }
        return Verdict::Pass;
    };
    if spi == 0 {
        return ike(packet, at + UDP_LEN + MARKER_LEN, meta, ip, world);
    }
    if world.knows_spi(spi.to_ne_bytes()) {
        let headers = at + UDP_LEN - network;
        account(spi.to_ne_bytes(), [s0, s1], headers, meta, ip, world);
        return Verdict::Pass;
    }
    if !world.is_local(&ip.dst) {
        return Verdict::Pass;
    }
    if meta.segments > 1 {
        // GRO glues datagrams of one flow whatever their SPIs: the first says
        // nothing about the others.
        world.count(Reason::UNKNOWN_SPI_GRO, u64::from(meta.segments));
        return Verdict::Pass;
    }
    world.count(Reason::UNKNOWN_SPI, 1);
    Verdict::Drop
}

#[inline(always)]
fn native<P: Octets + ?Sized, W: World>(
    packet: &P,
    meta: &Meta,
    ip: &Ip,
    network: usize,
    world: &W,
) -> Verdict {
    let Some([spi]) = packet.words::<1>(ip.transport) else {
        world.count(Reason::INGRESS_TRUNCATED, 1);
        return Verdict::Pass;
    };
    if world.knows_spi(spi.to_ne_bytes()) {
        account(
            spi.to_ne_bytes(),
            [0, 0],
            ip.transport - network,
            meta,
            ip,
            world,
        );
        return Verdict::Pass;
    }
    if !world.is_local(&ip.dst) {
        return Verdict::Pass;
    }
    world.count(Reason::UNKNOWN_ESP, u64::from(meta.segments));
    if world.exclusive() && meta.segments <= 1 {
        return Verdict::Drop;
    }
    Verdict::Pass
}

/// Counts an ESP packet on the path it arrived on.
#[inline(always)]
fn account<W: World>(
    spi: [u8; 4],
    remote_port: [u8; 2],
    headers: usize,
    meta: &Meta,
    ip: &Ip,
    world: &W,
) {
    let key = PathKey {
        ifindex: meta.ifindex,
        local: ip.dst,
        remote: ip.src,
        remote_port,
        reserved: [0; 2],
    };
    if let Some(path) = world.path_in(&key) {
        let octets = u64::from(ip.len) + u64::from(meta.segments - 1) * headers as u64;
        world.received(path, u64::from(meta.segments), octets);
    } else {
        world.count(Reason::NEW_SOURCE, u64::from(meta.segments));
        world.new_source(&key, spi);
    }
}

/// Limits IKE_SA_INIT requests: the only message that costs us before the peer
/// showed it can receive.
#[inline(always)]
fn ike<P: Octets + ?Sized, W: World>(
    packet: &P,
    at: usize,
    meta: &Meta,
    ip: &Ip,
    world: &W,
) -> Verdict {
    let Some(header) = packet.load::<12>(at + 8) else {
        return Verdict::Pass;
    };
    // Responder SPI (0 in the first request), next payload, version, exchange, flags.
    let [r0, r1, r2, r3, r4, r5, r6, r7, next, _, exchange, flags] = header;
    if exchange != IKE_SA_INIT
        || flags & FLAG_RESPONSE != 0
        || u64::from_ne_bytes([r0, r1, r2, r3, r4, r5, r6, r7]) != 0
        || meta.segments > 1
        || !world.is_local(&ip.dst)
    {
        return Verdict::Pass;
    }
    // A returned cookie comes first (RFC 7296 2.6).
    let cookie = next == PAYLOAD_NOTIFY
        && packet
            .load::<2>(at + IKE_HEADER_LEN + 6)
            .is_some_and(|kind| u16::from_be_bytes(kind) == NOTIFY_COOKIE);
    match world.admit_ike(&ip.src, ip.v4, cookie) {
        Ok(()) => Verdict::Pass,
        Err(reason) => {
            world.count(reason, 1);
            Verdict::Drop
        }
    }
}

/// The prefix one limit applies to: an IPv4 address, an IPv6 /64.
#[inline(always)]
#[must_use]
pub fn rate_key(source: &Addr, v4: bool) -> Addr {
    if v4 {
        return *source;
    }
    let [a, b, _, _] = source.words();
    Addr::from_words([a, b, 0, 0])
}

#[cfg(test)]
mod tests;
