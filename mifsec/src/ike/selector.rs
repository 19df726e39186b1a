//! Traffic selectors (RFC 7296 3.13) and their narrowing (2.9).
//!
//! A [`TrafficSelector`] is one address range, protocol and port range. A
//! policy is written as [`TsSpec`]s, where `dynamic` stands for addresses known
//! only after the configuration payload was answered. Two selectors are equal
//! when protocol, ports and addresses are; overlapping ones are different.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::message::DecodeError;
use crate::wire::{Reader, Writer};

/// Most selectors in one payload; the wire could hold 255.
pub const MAX_SELECTORS: usize = 64;

const TS_IPV4_ADDR_RANGE: u8 = 7;
const TS_IPV6_ADDR_RANGE: u8 = 8;

/// Protocol 0: any.
pub const ANY_PROTOCOL: u8 = 0;

/// An address range, a protocol (0 any) and a port range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrafficSelector {
    protocol: u8,
    start_port: u16,
    end_port: u16,
    start: IpAddr,
    end: IpAddr,
}

/// One entry of a TS payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TsEntry {
    /// An IPv4 or IPv6 range.
    Range(TrafficSelector),
    /// A type we do not know: body after the selector length, kept.
    Unknown {
        /// TS type.
        kind: u8,
        /// The octet after it: protocol for the types known.
        protocol: u8,
        /// The rest.
        body: Vec<u8>,
    },
}

/// A selector as policy writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TsSpec {
    /// The leased inner addresses, whatever they turn out to be.
    Dynamic,
    /// All protocols and ports of a prefix.
    Net(IpNet),
}

/// What narrowing came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Narrowed {
    /// The common part, in the order of the offer; never empty.
    pub selectors: Vec<TrafficSelector>,
    /// More was offered than one first selector picks out: tell the initiator
    /// ADDITIONAL_TS_POSSIBLE.
    pub additional: bool,
}

impl TrafficSelector {
    /// All ports and protocols of `start..=end`; none if the ends are of
    /// different families or out of order.
    #[must_use]
    pub fn range(start: IpAddr, end: IpAddr) -> Option<Self> {
        let same = start.is_ipv4() == end.is_ipv4();
        (same && start <= end).then_some(Self {
            protocol: ANY_PROTOCOL,
            start_port: 0,
            end_port: u16::MAX,
            start,
            end,
        })
    }

    /// All ports and protocols of one address.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self {
            protocol: ANY_PROTOCOL,
            start_port: 0,
            end_port: u16::MAX,
            start: address,
            end: address,
        }
    }

    /// Restricted to a protocol and ports (for ICMP: type << 8 | code); none if
    /// the ports are out of order and not OPAQUE (65535 to 0).
    #[must_use]
    pub fn with_ports(mut self, protocol: u8, start: u16, end: u16) -> Option<Self> {
        let opaque = start == u16::MAX && end == 0;
        (self.protocol, self.start_port, self.end_port) = (protocol, start, end);
        (start <= end || opaque).then_some(self)
    }

    /// Protocol number, 0 for any.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// First and last port; (65535, 0) is OPAQUE: only packets without ports.
    #[must_use]
    pub const fn ports(&self) -> (u16, u16) {
        (self.start_port, self.end_port)
    }

    /// First address.
    #[must_use]
    pub const fn start(&self) -> IpAddr {
        self.start
    }

    /// Last address.
    #[must_use]
    pub const fn end(&self) -> IpAddr {
        self.end
    }

    /// Whether both ends are the same address.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.start == self.end
    }

    /// Whether a packet's address, protocol and port are inside. `port` is
    /// `None` where the packet shows none (a later fragment, or a protocol
    /// without ports): then only "all ports" and OPAQUE match.
    #[must_use]
    pub fn contains(&self, address: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        let address_ok =
            self.start.is_ipv4() == address.is_ipv4() && (self.start..=self.end).contains(&address);
        let protocol_ok = self.protocol == ANY_PROTOCOL || self.protocol == protocol;
        let port_ok = match (self.ports(), port) {
            ((0, u16::MAX), _) => true,
            ((u16::MAX, 0), port) => port.is_none(),
            ((start, end), Some(port)) => (start..=end).contains(&port),
            (_, None) => false,
        };
        address_ok && protocol_ok && port_ok
    }

    /// Whether all of `other` is inside.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.intersection(other).as_ref() == Some(other)
    }

    /// What both select.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        if self.start.is_ipv4() != other.start.is_ipv4() {
            return None;
        }
        let protocol = match (self.protocol, other.protocol) {
            (ANY_PROTOCOL, protocol) | (protocol, ANY_PROTOCOL) => protocol,
            (a, b) if a == b => a,
            _ => return None,
        };
        let (start_port, end_port) = intersect_ports(self.ports(), other.ports())?;
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start <= end).then_some(Self {
            protocol,
            start_port,
            end_port,
            start,
            end,
        })
    }
}

fn intersect_ports(a: (u16, u16), b: (u16, u16)) -> Option<(u16, u16)> {
    const ANY: (u16, u16) = (0, u16::MAX);
    const OPAQUE: (u16, u16) = (u16::MAX, 0);
    match (a, b) {
        (ANY, ports) | (ports, ANY) => Some(ports),
        (OPAQUE, OPAQUE) => Some(OPAQUE),
        (OPAQUE, _) | (_, OPAQUE) => None,
        (a, b) => {
            let ports = (a.0.max(b.0), a.1.min(b.1));
            (ports.0 <= ports.1).then_some(ports)
        }
    }
}

impl From<IpNet> for TrafficSelector {
    fn from(net: IpNet) -> Self {
        let (start, end) = match net {
            IpNet::V4(net) => (IpAddr::V4(net.network()), IpAddr::V4(net.broadcast())),
            IpNet::V6(net) => (IpAddr::V6(net.network()), IpAddr::V6(net.broadcast())),
        };
        Self {
            start,
            end,
            ..Self::host(start)
        }
    }
}

impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.start)?;
        if !self.is_host() {
            write!(f, "-{}", self.end)?;
        }
        if self.protocol != ANY_PROTOCOL {
            write!(f, "[{}", self.protocol)?;
            match self.ports() {
                (0, u16::MAX) => {}
                (u16::MAX, 0) => write!(f, "/opaque")?,
                (start, end) if start == end => write!(f, "/{start}")?,
                (start, end) => write!(f, "/{start}-{end}")?,
            }
            write!(f, "]")?;
        }
        Ok(())
    }
}

impl TsSpec {
    /// The selectors a policy means once `leased` is known.
    #[must_use]
    pub fn resolve(specs: &[Self], leased: &[IpAddr]) -> Vec<TrafficSelector> {
        let mut out = Vec::new();
        for spec in specs {
            match spec {
                Self::Dynamic => out.extend(leased.iter().copied().map(TrafficSelector::host)),
                Self::Net(net) => out.push(TrafficSelector::from(*net)),
            }
        }
        out
    }

    /// What an initiator offers before it has a lease: `dynamic` is every
    /// address of the families it asked for (RFC 7296 2.19).
    #[must_use]
    pub fn offer(specs: &[Self], v4: bool, v6: bool) -> Vec<TrafficSelector> {
        let all = |net: &str| net.parse::<IpNet>().ok();
        let mut out = Vec::new();
        for spec in specs {
            match spec {
                Self::Dynamic => {
                    let families = [all("0.0.0.0/0").filter(|_| v4), all("::/0").filter(|_| v6)];
                    out.extend(families.into_iter().flatten().map(TrafficSelector::from));
                }
                Self::Net(net) => out.push(TrafficSelector::from(*net)),
            }
        }
        out
    }
}

/// Narrows the peer's offer to what `policy` allows (RFC 7296 2.9).
///
/// Every offered selector is cut down to the policy; what stays is the answer.
/// An initiator may put the very packet it wants to send first. If that one
/// selector is allowed the answer always contains it. `None`: nothing in common,
/// TS_UNACCEPTABLE.
#[must_use]
pub fn narrow(offer: &[TrafficSelector], policy: &[TrafficSelector]) -> Option<Narrowed> {
    let mut selectors: Vec<TrafficSelector> = Vec::new();
    let mut lost = false;
    for offered in offer {
        lost |= !policy.iter().any(|allowed| allowed.covers(offered));
        for allowed in policy {
            let Some(common) = offered.intersection(allowed) else {
                continue;
            };
            if selectors.len() < MAX_SELECTORS && !selectors.iter().any(|s| s.covers(&common)) {
                selectors.retain(|s| !common.covers(s));
                selectors.push(common);
            }
        }
    }
    (!selectors.is_empty()).then_some(Narrowed {
        selectors,
        additional: lost,
    })
}

/// Whether an answer stays within what was offered (RFC 7296 2.9): every
/// selector of `answer` is inside one of `offer`, and there is one.
#[must_use]
pub fn is_narrowing(answer: &[TrafficSelector], offer: &[TrafficSelector]) -> bool {
    !answer.is_empty()
        && answer
            .iter()
            .all(|answered| offer.iter().any(|offered| offered.covers(answered)))
}

/// Whether two lists select the same, in whatever order: "equal" of the rule
/// that no SA is derived where an equal one exists.
#[must_use]
pub fn equal(a: &[TrafficSelector], b: &[TrafficSelector]) -> bool {
    let sorted = |list: &[TrafficSelector]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list.dedup();
        list
    };
    sorted(a) == sorted(b)
}

/// Wraps selectors for a TSi or TSr payload.
#[must_use]
pub fn to_entries(selectors: &[TrafficSelector]) -> Vec<TsEntry> {
    selectors.iter().copied().map(TsEntry::Range).collect()
}

/// The selectors of a payload we can understand.
#[must_use]
pub fn from_entries(entries: &[TsEntry]) -> Vec<TrafficSelector> {
    entries
        .iter()
        .filter_map(|entry| match entry {
            TsEntry::Range(selector) => Some(*selector),
            TsEntry::Unknown { .. } => None,
        })
        .collect()
}

pub(super) fn decode_payload(body: &[u8]) -> Result<Vec<TsEntry>, DecodeError> {
    let mut reader = Reader::new(body);
    let count = usize::from(reader.u8()?);
    reader.bytes(3)?;
    if count > MAX_SELECTORS {
        return Err(DecodeError::TooMany("traffic selectors"));
    }
    if count == 0 {
        return Err(DecodeError::Malformed("empty traffic selector payload"));
    }
    let entries = (0..count)
        .map(|_| decode_entry(&mut reader))
        .collect::<Result<_, _>>()?;
    if !reader.is_empty() {
        return Err(DecodeError::Malformed("octets after the last selector"));
    }
    Ok(entries)
}

fn decode_entry(reader: &mut Reader<'_>) -> Result<TsEntry, DecodeError> {
    let kind = reader.u8()?;
    let protocol = reader.u8()?;
    let length = usize::from(reader.u16()?);
    let mut body = reader.sub(length.checked_sub(4).ok_or(DecodeError::Length)?)?;
    if kind != TS_IPV4_ADDR_RANGE && kind != TS_IPV6_ADDR_RANGE {
        let body = body.rest().to_vec();
        return Ok(TsEntry::Unknown {
            kind,
            protocol,
            body,
        });
    }
    let (start_port, end_port) = (body.u16()?, body.u16()?);
    let (start, end) = if kind == TS_IPV4_ADDR_RANGE {
        (
            IpAddr::from(body.array::<4>()?),
            IpAddr::from(body.array::<4>()?),
        )
    } else {
        (
            IpAddr::from(body.array::<16>()?),
            IpAddr::from(body.array::<16>()?),
        )
    };
    if !body.is_empty() {
        return Err(DecodeError::Length);
    }
    TrafficSelector::range(start, end)
        .and_then(|selector| selector.with_ports(protocol, start_port, end_port))
        .map(TsEntry::Range)
        .ok_or(DecodeError::Malformed("traffic selector range"))
}

pub(super) fn encode_payload(entries: &[TsEntry], out: &mut Writer) {
    out.u8(u8::try_from(entries.len()).expect("our own selectors are few"))
        .bytes(&[0; 3]);
    for entry in entries {
        let start = out.len();
        match entry {
            TsEntry::Range(selector) => encode_range(selector, start, out),
            TsEntry::Unknown {
                kind,
                protocol,
                body,
            } => {
                out.u8(*kind).u8(*protocol);
                out.length16(start, |out| {
                    out.bytes(body);
                });
            }
        }
    }
}

fn encode_range(selector: &TrafficSelector, start: usize, out: &mut Writer) {
    let kind = match selector.start {
        IpAddr::V4(_) => TS_IPV4_ADDR_RANGE,
        IpAddr::V6(_) => TS_IPV6_ADDR_RANGE,
    };
    out.u8(kind).u8(selector.protocol);
    out.length16(start, |out| {
        out.u16(selector.start_port).u16(selector.end_port);
        for address in [selector.start, selector.end] {
            match address {
                IpAddr::V4(address) => out.bytes(&address.octets()),
                IpAddr::V6(address) => out.bytes(&address.octets()),
            };
        }
    });
}
