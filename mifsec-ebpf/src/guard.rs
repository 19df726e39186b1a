//! What `mif_guard` decides: whether a clear packet may cross an access.
//!
//! The rules are those of the SPD; the first match decides, no match passes.
//! Where a packet does not say enough (a later fragment has no ports), a
//! PROTECT or DISCARD rule that could match does match, and a BYPASS rule does
//! not. Without rules everything passes.
//!
//! Exempt, because the tunnel itself needs it: ESP and our UDP ports, neighbour
//! discovery, DHCP, link-local remotes, multicast and broadcast. Our ports are
//! ours by the socket's owner on the way out, so that neither a forwarded packet
//! nor another user's socket leaves by their number; on the way in, by an
//! address of ours. ICMP errors that quote such a packet are exempt on the way in.
//!
//! Later fragments of our own UDP show no port either: where all is protected
//! they are dropped, so whoever sends on our ports keeps below the path MTU.

use mifsec_common::maps::PORT_FOREIGN;
use mifsec_common::octets::Octets;
use mifsec_common::parse::{Fragment, Ip, Unreadable, ethernet, has_ports, ip, protocol};
use mifsec_common::path::{FAMILY_V4, FAMILY_V6};
use mifsec_common::spd::{BYPASS, DISCARD, OUT};
use mifsec_common::{Addr, Reason, SpdEntry};

use crate::Verdict;

/// What the hook knows about the packet.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Whether the packet begins with an Ethernet header, else with IP.
    pub ethernet: bool,
    /// [`OUT`] or [`mifsec_common::spd::IN`].
    pub direction: u8,
    /// Whose socket it is from; nobody's on the way in.
    pub owner: Owner,
}

/// Whose socket a packet is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The agent's user.
    Agent,
    /// Another user of this host.
    Other,
    /// No socket: forwarded, or arriving.
    Nobody,
}

/// The maps behind the decision.
pub trait World {
    /// Table in force: index of its first rule, number of rules.
    fn table(&self) -> (u32, u32);
    /// A rule by its index in `SPD`.
    fn rule(&self, index: u32) -> Option<&SpdEntry>;
    /// The `PORT_` value of a UDP port.
    fn port(&self, port: [u8; 2]) -> u64;
    /// Whether an outer address is ours.
    fn is_local(&self, address: &Addr) -> bool;
    /// Counts a reason.
    fn count(&self, reason: Reason, n: u64);
    /// Applies the rules: [`apply`], behind whatever the programs need to call it.
    fn apply(&self, flow: Flow, direction: u8) -> Verdict;
}

/// Judges one packet.
#[inline(always)]
pub fn judge<P: Octets + ?Sized, W: World>(packet: &P, meta: &Meta, world: &W) -> Verdict {
    if world.table().1 == 0 {
        return Verdict::Pass;
    }
    match classify(packet, meta, world) {
        Ok(None) => Verdict::Pass,
        Ok(Some(flow)) => world.apply(flow, meta.direction),
        Err(_) => {
            // It says it is IP and nobody can say which: no way to be sure it
            // is not protected.
            world.count(Reason::GUARD_MALFORMED, 1);
            Verdict::Drop
        }
    }
}

/// What rules are matched against.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Flow {
    local: [u32; 4],
    remote: [u32; 4],
    local_port: u16,
    remote_port: u16,
    family: u8,
    protocol: u8,
    /// One of the `PORTS_` values.
    ports: u8,
    /// 1: the protocol is not known.
    opaque: u8,
}

/// [`Flow::ports`]: the protocol has none.
const PORTS_NONE: u8 = 0;
/// [`Flow::ports`]: they are in the flow.
const PORTS_SHOWN: u8 = 1;
/// [`Flow::ports`]: this part of the packet does not show them.
const PORTS_HIDDEN: u8 = 2;

/// Reads the packet; `None` when it is exempt or not IP.
#[inline(always)]
fn classify<P: Octets + ?Sized, W: World>(
    packet: &P,
    meta: &Meta,
    world: &W,
) -> Result<Option<Flow>, Unreadable> {
    let network = if meta.ethernet {
        let Some(at) = ethernet(packet)? else {
            return Ok(None);
        };
        at
    } else {
        0
    };
    let ip = ip(packet, network)?;
    let out = meta.direction == OUT;
    if ip.protocol == protocol::ESP && !ip.opaque {
        return Ok(None);
    }
    let (local, remote) = if out {
        (ip.src, ip.dst)
    } else {
        (ip.dst, ip.src)
    };
    let (mut ports, mut local_port, mut remote_port) = (PORTS_NONE, 0, 0);
    if ip.opaque || has_ports(ip.protocol) {
        ports = PORTS_HIDDEN;
    }
    let transport = if ip.extended {
        packet.load_far::<4>(ip.transport)
    } else {
        packet
            .words::<1>(ip.transport)
            .map(|[word]| word.to_ne_bytes())
    };
    let shows_transport = !matches!(ip.fragment, Fragment::Later) && !ip.opaque;
    if shows_transport && has_ports(ip.protocol) {
        if let Some([s0, s1, d0, d1]) = transport {
            let (near, far) = if out {
                ([s0, s1], [d0, d1])
            } else {
                ([d0, d1], [s0, s1])
            };
            if ip.protocol == protocol::UDP {
                let ours = world.port(near) != PORT_FOREIGN
                    && if out {
                        matches!(meta.owner, Owner::Agent)
                    } else {
                        world.is_local(&local)
                    };
                // A client's packets with its server: requests are from a
                // socket here, answers may be to an address not ours yet.
                // DHCPv6 is exempt by its addresses, link-local and multicast.
                let dhcp = ip.v4
                    && matches!(
                        (u16::from_be_bytes(near), u16::from_be_bytes(far)),
                        (68, 67)
                    )
                    && !(out && matches!(meta.owner, Owner::Nobody));
                if ours || dhcp {
                    return Ok(None);
                }
            }
            ports = PORTS_SHOWN;
            local_port = u16::from_be_bytes(near);
            remote_port = u16::from_be_bytes(far);
        }
    } else if shows_transport && ip.protocol == protocol::ICMPV6 && !ip.v4 {
        // Neighbour discovery as its receiver has to check it (RFC 4861 7.1): a
        // forwarded packet is none.
        if ip.hops == 255
            && let Some([133..=137, 0, ..]) = transport
        {
            return Ok(None);
        }
    }
    if !out && shows_transport && quotes_ours(packet, &ip, world) {
        return Ok(None);
    }
    if is_multicast(&ip) || is_link_local(ip.v4, remote) {
        return Ok(None);
    }
    Ok(Some(Flow {
        local: local.words(),
        remote: remote.words(),
        family: if ip.v4 { FAMILY_V4 } else { FAMILY_V6 } as u8,
        local_port,
        remote_port,
        protocol: ip.protocol,
        ports,
        opaque: u8::from(ip.opaque),
    }))
}

/// Whether an arriving ICMP error is about an outer packet of ours: path MTU and
/// unreachable hosts are the tunnel's business. What it quotes has to be ESP or
/// UDP from our port, sent by the address of ours that the error is for.
#[inline(always)]
fn quotes_ours<P: Octets + ?Sized, W: World>(packet: &P, ip: &Ip, world: &W) -> bool {
    let error = match (ip.v4, ip.protocol) {
        (true, protocol::ICMP) => packet
            .load_far::<1>(ip.transport)
            .is_some_and(|[kind]| matches!(kind, 3 | 11)),
        (false, protocol::ICMPV6) => packet
            .load_far::<1>(ip.transport)
            .is_some_and(|[kind]| matches!(kind, 1..=4)),
        _ => false,
    };
    if !error {
        return false;
    }
    let quoted = ip.transport + 8;
    let (source, next, transport) = if ip.v4 {
        let Some(h) = packet.load_far::<20>(quoted) else {
            return false;
        };
        // A later fragment shows no port, and a quoted header is at least 20 octets.
        let later = h[6] & 0x1f != 0 || h[7] != 0;
        let header = usize::from(h[0] & 15) * 4;
        if h[0] >> 4 != 4 || header < 20 || later {
            return false;
        }
        let source = u32::from_ne_bytes([h[12], h[13], h[14], h[15]]);
        (Addr::v4_word(source), h[9], quoted + header)
    } else {
        // Our outer packets have no extension headers.
        let Some([first, ..]) = packet.load_far::<1>(quoted) else {
            return false;
        };
        let (Some([next]), Some(source)) = (
            packet.load_far::<1>(quoted + 6),
            packet.load_far::<16>(quoted + 8),
        ) else {
            return false;
        };
        if first >> 4 != 6 {
            return false;
        }
        (Addr::v6(source), next, quoted + 40)
    };
    if source.words() != ip.dst.words() || !world.is_local(&source) {
        return false;
    }
    match next {
        protocol::ESP => true,
        protocol::UDP => packet
            .load_far::<2>(transport)
            .is_some_and(|port| world.port(port) != PORT_FOREIGN),
        _ => false,
    }
}

#[inline(always)]
fn is_multicast(ip: &Ip) -> bool {
    let [first, _, _, last] = ip.dst.words();
    if ip.v4 {
        last & u32::from_be(0xf000_0000) == u32::from_be(0xe000_0000) || last == u32::MAX
    } else {
        first & u32::from_be(0xff00_0000) == u32::from_be(0xff00_0000)
    }
}

#[inline(always)]
fn is_link_local(v4: bool, address: Addr) -> bool {
    let [first, _, _, last] = address.words();
    if v4 {
        last & u32::from_be(0xffff_0000) == u32::from_be(0xa9fe_0000)
    } else {
        first & u32::from_be(0xffc0_0000) == u32::from_be(0xfe80_0000)
    }
}

/// The first rule that matches decides.
#[inline(always)]
pub fn apply<W: World>(flow: &Flow, direction: u8, world: &W) -> Verdict {
    let (first, rules) = world.table();
    (first..first + rules)
        .find_map(|index| step(flow, direction, index, world))
        .unwrap_or(Verdict::Pass)
}

/// What one rule says: `None` leaves it to the next.
#[inline(always)]
pub fn step<W: World>(flow: &Flow, direction: u8, index: u32, world: &W) -> Option<Verdict> {
    let rule = world.rule(index)?;
    if rule.direction != direction || rule.family != flow.family || !addresses(rule, flow) {
        return None;
    }
    let certain = match selects(rule, flow) {
        Selects::No => return None,
        Selects::Yes => true,
        Selects::Perhaps => false,
    };
    if rule.action == BYPASS {
        return certain.then_some(Verdict::Pass);
    }
    let reason = if rule.action == DISCARD {
        Reason::DISCARD
    } else if !certain {
        Reason::CLEAR_FRAGMENT
    } else if direction == OUT {
        Reason::CLEAR_OUT
    } else {
        Reason::CLEAR_IN
    };
    world.count(reason, 1);
    Some(Verdict::Drop)
}

#[inline(always)]
fn addresses(rule: &SpdEntry, flow: &Flow) -> bool {
    let outside = |a: [u32; 4], net: [u32; 4], mask: [u32; 4]| {
        let ([a0, a1, a2, a3], [n0, n1, n2, n3], [m0, m1, m2, m3]) = (a, net, mask);
        ((a0 ^ n0) & m0) | ((a1 ^ n1) & m1) | ((a2 ^ n2) & m2) | ((a3 ^ n3) & m3)
    };
    let local = outside(flow.local, rule.local.words(), rule.local_mask.words());
    let remote = outside(flow.remote, rule.remote.words(), rule.remote_mask.words());
    local | remote == 0
}

enum Selects {
    No,
    Yes,
    Perhaps,
}

/// Whether protocol and ports of a flow are a rule's.
#[inline(always)]
fn selects(rule: &SpdEntry, flow: &Flow) -> Selects {
    let opaque = flow.opaque != 0;
    if rule.protocol != 0 && rule.protocol != flow.protocol && !opaque {
        return Selects::No;
    }
    let ([l0, l1], [r0, r1]) = (rule.local_ports, rule.remote_ports);
    let any_port = l0 == 0 && l1 == u16::MAX && r0 == 0 && r1 == u16::MAX;
    if !any_port {
        if flow.ports == PORTS_HIDDEN {
            return Selects::Perhaps;
        }
        // ICMP and the like have no ports: only a rule for all ports is theirs.
        if flow.ports == PORTS_NONE
            || flow.local_port < l0
            || flow.local_port > l1
            || flow.remote_port < r0
            || flow.remote_port > r1
        {
            return Selects::No;
        }
    }
    if rule.protocol != 0 && opaque {
        Selects::Perhaps
    } else {
        Selects::Yes
    }
}

#[cfg(test)]
mod tests;
