//! Traffic selectors (RFC 7296 3.13) and their narrowing (2.9).
//!
//! A [`TrafficSelector`] is one address range, protocol and port range. A
//! policy is written as [`TsSpec`]s, where `dynamic` stands for addresses known
//! only after the configuration payload was answered. Two selectors are equal
//! when protocol, ports and addresses are; overlapping ones are different.

#![forbid(unsafe_code)]

mod wire;

pub use wire::{MAX_SELECTORS, TsEntry, from_entries, to_entries};
pub(super) use wire::{decode_payload, encode_payload};

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

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

/// A selector as policy writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TsSpec {
    /// The leased inner addresses, whatever they turn out to be.
    Dynamic,
    /// All protocols and ports of a prefix.
    Net(IpNet),
    /// One protocol, and ports of it, of a prefix or of the leased addresses.
    Part {
        /// The prefix; `None` for the leased addresses.
        net: Option<IpNet>,
        /// IP protocol.
        protocol: u8,
        /// First and last port; `(0, 65535)` for all.
        ports: (u16, u16),
    },
}

/// What narrowing came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Narrowed {
    /// The common part, in the order of the offer; never empty.
    pub selectors: Vec<TrafficSelector>,
    /// Something that was offered is not in it whole.
    pub cut: bool,
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
        let leased = || leased.iter().copied().map(TrafficSelector::host).collect();
        specs.iter().flat_map(|spec| spec.with(leased)).collect()
    }

    /// What an initiator offers before it has a lease: `dynamic` is every
    /// address of the families it asked for (RFC 7296 2.19).
    #[must_use]
    pub fn offer(specs: &[Self], v4: bool, v6: bool) -> Vec<TrafficSelector> {
        let all = |net: &str| net.parse::<IpNet>().ok().map(TrafficSelector::from);
        let families = || {
            let families = [all("0.0.0.0/0").filter(|_| v4), all("::/0").filter(|_| v6)];
            families.into_iter().flatten().collect()
        };
        specs.iter().flat_map(|spec| spec.with(families)).collect()
    }

    /// What it means where `dynamic` gives what `dynamic` stands for.
    fn with(&self, dynamic: impl Fn() -> Vec<TrafficSelector>) -> Vec<TrafficSelector> {
        match *self {
            Self::Dynamic => dynamic(),
            Self::Net(net) => vec![net.into()],
            Self::Part {
                net,
                protocol,
                ports: (first, last),
            } => net
                .map_or_else(dynamic, |net| vec![net.into()])
                .into_iter()
                .filter_map(|all| all.with_ports(protocol, first, last))
                .collect(),
        }
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
    let mut cut = false;
    for offered in offer {
        cut |= !policy.iter().any(|allowed| allowed.covers(offered));
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
    (!selectors.is_empty()).then_some(Narrowed { selectors, cut })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TCP: u8 = 6;
    const UDP: u8 = 17;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> TrafficSelector {
        text.parse::<IpNet>().unwrap().into()
    }

    #[test]
    fn a_prefix_is_its_whole_range_whatever_host_bits_it_has() {
        let selector = net("10.1.2.3/24");
        assert_eq!(
            (selector.start(), selector.end()),
            (ip("10.1.2.0"), ip("10.1.2.255"))
        );
        assert_eq!(
            net("::/0").end(),
            ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
        );
        assert!(net("10.0.0.7/32").is_host());
    }

    #[test]
    fn ranges_out_of_order_or_of_two_families_are_none() {
        assert!(TrafficSelector::range(ip("10.0.0.2"), ip("10.0.0.1")).is_none());
        assert!(TrafficSelector::range(ip("10.0.0.2"), ip("::1")).is_none());
        assert!(net("::/0").with_ports(TCP, 2, 1).is_none());
        assert!(net("::/0").with_ports(TCP, 65535, 0).is_some());
    }

    #[test]
    fn a_packet_is_contained_by_address_protocol_and_port() {
        let web = net("10.0.0.0/8").with_ports(TCP, 80, 443).unwrap();
        assert!(web.contains(ip("10.9.9.9"), TCP, Some(80)));
        assert!(!web.contains(ip("11.0.0.1"), TCP, Some(80)));
        assert!(!web.contains(ip("::ffff:10.0.0.1"), TCP, Some(80)));
        assert!(!web.contains(ip("10.9.9.9"), UDP, Some(80)));
        assert!(!web.contains(ip("10.9.9.9"), TCP, Some(444)));
        assert!(!web.contains(ip("10.9.9.9"), TCP, None));
        assert!(net("10.0.0.0/8").contains(ip("10.0.0.1"), 50, None));
        let opaque = net("10.0.0.0/8").with_ports(UDP, 65535, 0).unwrap();
        assert!(opaque.contains(ip("10.0.0.1"), UDP, None));
        assert!(!opaque.contains(ip("10.0.0.1"), UDP, Some(0)));
    }

    #[test]
    fn intersection_is_the_common_part_or_nothing() {
        let a = net("10.0.0.0/8").with_ports(TCP, 0, 100).unwrap();
        let b = TrafficSelector::range(ip("10.255.0.0"), ip("11.0.0.0")).unwrap();
        let b = b.with_ports(TCP, 50, 200).unwrap();
        let common = a.intersection(&b).unwrap();
        assert_eq!(
            (common.start(), common.end()),
            (ip("10.255.0.0"), ip("10.255.255.255"))
        );
        assert_eq!((common.protocol(), common.ports()), (TCP, (50, 100)));
        assert!(a.intersection(&net("192.0.2.0/24")).is_none());
        assert!(a.intersection(&net("::/0")).is_none());
        assert!(
            a.intersection(&net("0.0.0.0/0").with_ports(UDP, 0, 65535).unwrap())
                .is_none()
        );
        assert!(
            a.intersection(&net("0.0.0.0/0").with_ports(TCP, 101, 102).unwrap())
                .is_none()
        );
        let opaque = net("0.0.0.0/0").with_ports(TCP, 65535, 0).unwrap();
        assert!(a.intersection(&opaque).is_none());
        assert_eq!(opaque.intersection(&net("0.0.0.0/0")), Some(opaque));
    }

    #[test]
    fn a_client_that_asks_for_everything_gets_its_lease() {
        let lease = [ip("10.66.0.5"), ip("fd66::5")];
        let offer = TsSpec::offer(&[TsSpec::Dynamic], true, true);
        assert_eq!(offer, [net("0.0.0.0/0"), net("::/0")]);
        let policy = TsSpec::resolve(&[TsSpec::Dynamic], &lease);
        let narrowed = narrow(&offer, &policy).unwrap();
        assert_eq!(narrowed.selectors, lease.map(TrafficSelector::host));
        assert!(narrowed.cut);
        assert!(is_narrowing(&narrowed.selectors, &offer));
        assert_eq!(
            TsSpec::offer(&[TsSpec::Dynamic], false, true),
            [net("::/0")]
        );
    }

    #[test]
    fn an_offer_within_the_policy_is_not_cut() {
        let offer = [net("10.0.0.0/24"), net("10.0.1.0/24")];
        let narrowed = narrow(&offer, &[net("10.0.0.0/8")]).unwrap();
        assert_eq!(narrowed.selectors, offer);
        assert!(!narrowed.cut);
    }

    #[test]
    fn the_first_selector_of_an_offer_is_in_the_answer_if_it_is_allowed() {
        let first = TrafficSelector::host(ip("192.0.2.7"))
            .with_ports(UDP, 5000, 5000)
            .unwrap();
        let offer = [first, net("0.0.0.0/0")];
        let narrowed = narrow(&offer, &[net("192.0.2.0/24")]).unwrap();
        assert!(
            narrowed
                .selectors
                .iter()
                .any(|selector| selector.covers(&first))
        );
        assert_eq!(narrowed.selectors, [net("192.0.2.0/24")]);
    }

    #[test]
    fn nothing_in_common_is_unacceptable() {
        assert_eq!(narrow(&[net("10.0.0.0/8")], &[net("192.0.2.0/24")]), None);
        assert_eq!(narrow(&[], &[net("192.0.2.0/24")]), None);
        assert_eq!(narrow(&[net("10.0.0.0/8")], &[]), None);
    }

    #[test]
    fn an_answer_wider_than_the_offer_is_not_a_narrowing() {
        let offer = [net("10.0.0.0/24")];
        assert!(is_narrowing(&[net("10.0.0.0/25")], &offer));
        assert!(!is_narrowing(&[net("10.0.0.0/23")], &offer));
        assert!(!is_narrowing(&[net("10.0.0.0/25"), net("::/0")], &offer));
        assert!(!is_narrowing(&[], &offer));
    }

    #[test]
    fn equal_is_the_same_set_and_overlap_is_different() {
        let (a, b) = (net("10.0.0.0/24"), net("10.0.1.0/24"));
        assert!(equal(&[a, b], &[b, a, a]));
        assert!(!equal(&[a, b], &[net("10.0.0.0/23")]));
        assert!(!equal(&[a], &[a.with_ports(TCP, 0, 65535).unwrap()]));
    }

    #[test]
    fn unknown_types_do_not_become_selectors() {
        let unknown = TsEntry::Unknown {
            kind: 9,
            protocol: 0,
            body: vec![1],
        };
        let known = net("10.0.0.0/24");
        assert_eq!(from_entries(&[unknown, TsEntry::Range(known)]), [known]);
        assert_eq!(to_entries(&[known]), [TsEntry::Range(known)]);
    }

    #[test]
    fn selectors_print_compactly() {
        let selector = net("10.0.0.0/31");
        assert_eq!(selector.to_string(), "10.0.0.0-10.0.0.1");
        let host = TrafficSelector::host(ip("::1"));
        assert_eq!(host.to_string(), "::1");
        assert_eq!(
            host.with_ports(UDP, 53, 53).unwrap().to_string(),
            "::1[17/53]"
        );
        assert_eq!(
            host.with_ports(UDP, 65535, 0).unwrap().to_string(),
            "::1[17/opaque]"
        );
        assert_eq!(
            host.with_ports(TCP, 1, 2).unwrap().to_string(),
            "::1[6/1-2]"
        );
    }

    /// Selectors of a small world, so that they often meet.
    fn selector() -> impl Strategy<Value = TrafficSelector> {
        (0..8u8, 0..8u8, 0..2u8, 0..8u16, 0..8u16, any::<bool>()).prop_map(
            |(a, b, protocol, p, q, all)| {
                let range = TrafficSelector::range(
                    IpAddr::from([10, 0, 0, a.min(b)]),
                    IpAddr::from([10, 0, 0, a.max(b)]),
                );
                let (start, end) = if all {
                    (0, u16::MAX)
                } else {
                    (p.min(q), p.max(q))
                };
                range.unwrap().with_ports(protocol, start, end).unwrap()
            },
        )
    }

    proptest! {
        /// A packet passes the answer if and only if it passes offer and policy.
        #[test]
        fn narrowing_selects_exactly_what_both_sides_allow(
            offer in proptest::collection::vec(selector(), 1..4),
            policy in proptest::collection::vec(selector(), 1..4),
        ) {
            let answer = narrow(&offer, &policy).map_or(Vec::new(), |narrowed| narrowed.selectors);
            prop_assert!(answer.is_empty() || is_narrowing(&answer, &offer));
            let pass = |list: &[TrafficSelector], address, protocol, port| {
                list.iter().any(|selector| selector.contains(address, protocol, Some(port)))
            };
            for host in 0..8 {
                for (protocol, port) in [(1, 0), (1, 3), (1, 7), (2, 3), (2, 9)] {
                    let address = IpAddr::from([10, 0, 0, host]);
                    let both = pass(&offer, address, protocol, port)
                        && pass(&policy, address, protocol, port);
                    prop_assert_eq!(pass(&answer, address, protocol, port), both);
                }
            }
        }
    }
}
