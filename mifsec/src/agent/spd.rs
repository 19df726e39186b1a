//! The SPD as configured, in the one order that guard rules, routing rules and
//! bundles share (RFC 4301 4.4.1, R61).
//!
//! First `order`, lower before higher; of equal ones the narrower selector: longer
//! remote prefix, then protocol or ports before none, then the file's order. So a
//! configuration that names no order reads like a routing table.

use std::cmp::Reverse;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{Config, Policy, Routing, Ts};
use crate::dataplane::{Bundle, Selector};

/// One selector of one child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Index into `config.peers`.
    pub(super) peer: usize,
    /// Index into its children.
    pub(super) child: usize,
    pub(super) policy: Policy,
    pub(super) order: i32,
    pub(super) remote: IpNet,
    /// 0 = any.
    pub(super) protocol: u8,
    pub(super) local_ports: (u16, u16),
    pub(super) remote_ports: (u16, u16),
    /// The remote side are leases of ours, wherever the pool put them.
    pub(super) leased: bool,
}

impl Entry {
    /// Whether it names protocol or ports.
    pub(super) fn is_part(&self) -> bool {
        self.protocol != 0
    }

    /// Whether a flow is of this entry; a port that is not said is any.
    pub(super) fn selects(
        &self,
        remote: IpAddr,
        protocol: u8,
        ports: (Option<u16>, Option<u16>),
    ) -> bool {
        let within = |(first, last): (u16, u16), port: Option<u16>| {
            (first, last) == Ts::ANY_PORTS || port.is_some_and(|p| (first..=last).contains(&p))
        };
        self.remote.contains(&remote)
            && (self.protocol == 0 || self.protocol == protocol)
            && within(self.local_ports, ports.0)
            && within(self.remote_ports, ports.1)
    }
}

/// All selectors of all children, in order.
pub(super) fn entries(config: &Config) -> Vec<Entry> {
    let mut out = Vec::new();
    for (peer, settings) in config.peers.iter().enumerate() {
        let pool = config
            .pools
            .iter()
            .filter(|p| Some(&p.name) == settings.pool.as_ref());
        let leases: Vec<IpNet> = pool.flat_map(|p| p.cidr.iter().copied()).collect();
        for (child, service) in settings.children.iter().enumerate() {
            for local in &service.local_ts {
                for remote in &service.remote_ts {
                    let (Some(protocol), nets) = (
                        protocol(local, remote),
                        remote.net.map_or_else(|| leases.clone(), |net| vec![net]),
                    ) else {
                        continue;
                    };
                    out.extend(nets.into_iter().map(|net| Entry {
                        peer,
                        child,
                        policy: service.policy,
                        order: service.order,
                        remote: net,
                        protocol,
                        local_ports: local.ports,
                        remote_ports: remote.ports,
                        leased: remote.net.is_none(),
                    }));
                }
            }
        }
    }
    out.sort_by_key(|e| {
        let ports = e.local_ports == Ts::ANY_PORTS && e.remote_ports == Ts::ANY_PORTS;
        (
            e.order,
            Reverse(e.remote.prefix_len()),
            !e.is_part(),
            ports,
            (e.peer, e.child),
        )
    });
    // Prefixes of the local side are no part of an entry: they tell nothing apart here.
    out.dedup();
    out
}

/// The protocol both sides can have; none if they exclude each other.
fn protocol(local: &Ts, remote: &Ts) -> Option<u8> {
    match (local.protocol, remote.protocol) {
        (0, p) | (p, 0) => Some(p),
        (a, b) => (a == b).then_some(a),
    }
}

/// Whether destinations alone do not tell what happens to a packet: routes need
/// rules in front of them.
pub(super) fn is_ordered(config: &Config) -> bool {
    let child = |c: &crate::config::Child| {
        c.policy != Policy::Protect
            || c.order != 0
            || c.local_ts.iter().chain(&c.remote_ts).any(Ts::is_part)
    };
    config.agent.routing == Routing::Managed
        && config.peers.iter().flat_map(|p| &p.children).any(child)
}

/// How many routing rules of their own selectors have.
pub(super) fn rules(config: &Config) -> usize {
    if is_ordered(config) {
        entries(config).len()
    } else {
        0
    }
}

/// The same Child SAs once for each remote selector: each has its place in the order.
pub(super) fn split(bundle: Bundle) -> Vec<Bundle> {
    if bundle.remote.len() < 2 {
        return vec![bundle];
    }
    let part = |remote: &Selector| Bundle {
        remote: vec![remote.clone()],
        ..bundle.clone()
    };
    bundle.remote.iter().map(part).collect()
}

/// Where selectors stand in the SPD: `order`, then width, protocol and ports of the
/// remote ones, then the width of the local ones.
pub(super) type Rank = (i32, u128, bool, bool, u128);

/// Sorts negotiated selectors as [`entries`] sorts configured ones; the first sort
/// key is `order`.
pub(super) fn rank(order: i32, local: &[Selector], remote: &[Selector]) -> Rank {
    let widest = |list: &[Selector]| list.iter().map(width).max().unwrap_or(u128::MAX);
    let both = || local.iter().chain(remote);
    let protocol = both().any(|s| s.protocol != 0);
    let ports = both().all(|s| s.ports == (0..=u16::MAX));
    (order, widest(remote), !protocol, ports, widest(local))
}

/// How much of its family a selector is.
fn width(selector: &Selector) -> u128 {
    match (selector.addresses.start(), selector.addresses.end()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            u128::from(u32::from(*last).saturating_sub(u32::from(*first))) << 96
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            u128::from(*last).saturating_sub(u128::from(*first))
        }
        _ => u128::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(first: &str, last: &str, protocol: u8, port: Option<u16>) -> Selector {
        Selector {
            addresses: first.parse().unwrap()..=last.parse().unwrap(),
            protocol,
            ports: port.map_or(0..=u16::MAX, |p| p..=p),
        }
    }

    #[test]
    fn negotiated_selectors_rank_as_configured_ones_are_sorted() {
        let lease = [selector("10.66.0.7", "10.66.0.7", 0, None)];
        let net = |protocol, port| [selector("10.0.0.0", "10.255.255.255", protocol, port)];
        let all = [selector("0.0.0.0", "255.255.255.255", 0, None)];
        let web = rank(0, &lease, &net(6, Some(80)));
        let tcp = rank(0, &lease, &net(6, None));
        let ten = rank(0, &lease, &net(0, None));
        let rest = rank(0, &lease, &all);
        assert!(web < tcp && tcp < ten && ten < rest);
        assert!(rank(-1, &lease, &all) < web, "order comes first");
        // What a gateway has for one lease: the service before the rest.
        let service = rank(0, &net(6, Some(80)), &lease);
        assert!(service < rank(0, &net(0, None), &lease));
        assert!(rank(0, &net(0, None), &lease) < rank(0, &all, &lease));
    }
}
