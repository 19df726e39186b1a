//! The SPD as configured, in the one order that guard rules, routing rules, bundles
//! and `mifsec explain` share (RFC 4301 4.4.1, R61).
//!
//! First `order`, lower before higher; of equal ones the narrower selector: longer
//! remote prefix, then protocol or ports before none, then the file's order. So a
//! configuration that names no order reads like a routing table. A bundle stands
//! where the entry it was negotiated for does, whatever was narrowed.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::{Config, Policy, Routing, Ts};
use crate::dataplane::{Bundle, Selector};
use crate::ids::IkeId;
use crate::ike::selector::MAX_SELECTORS;

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

    /// Where it is sorted, but for the file's order.
    fn key(&self) -> (i32, Reverse<u8>, bool, bool) {
        let ports = self.local_ports == Ts::ANY_PORTS && self.remote_ports == Ts::ANY_PORTS;
        let length = Reverse(self.remote.prefix_len());
        (self.order, length, !self.is_part(), ports)
    }

    /// Whether what was negotiated between two of these selectors lies within it.
    fn covers(&self, bundle: &Bundle) -> bool {
        let ports = |(first, last): (u16, u16), s: &Selector| {
            first <= *s.ports.start() && *s.ports.end() <= last
        };
        let remote = |s: &&Selector| {
            self.remote.contains(s.addresses.start())
                && self.remote.contains(s.addresses.end())
                && ports(self.remote_ports, s)
        };
        let local = |s: &Selector, remote: &Selector| {
            (self.protocol == 0 || [s.protocol, remote.protocol].contains(&self.protocol))
                && ports(self.local_ports, s)
        };
        let mut remotes = bundle.remote.iter().filter(remote);
        remotes.any(|remote| bundle.local.iter().any(|s| local(s, remote)))
    }

    /// What it selects, for a bundle: from any address of its family.
    pub(super) fn selectors(&self) -> (Selector, Selector) {
        let of = |net: IpNet, ports: (u16, u16)| Selector {
            addresses: net.network()..=net.broadcast(),
            protocol: self.protocol,
            ports: ports.0..=ports.1,
        };
        let any = IpNet::new(self.remote.addr(), 0).unwrap_or(self.remote);
        (
            of(any, self.local_ports),
            of(self.remote, self.remote_ports),
        )
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
            let first = out.len();
            for local in &service.local_ts {
                for remote in &service.remote_ts {
                    let (Some(protocol), nets) = (
                        protocol(local, remote),
                        remote.net.map_or_else(|| leases.clone(), |net| vec![net]),
                    ) else {
                        continue;
                    };
                    for net in nets {
                        let entry = Entry {
                            peer,
                            child,
                            policy: service.policy,
                            order: service.order,
                            remote: net,
                            protocol,
                            local_ports: local.ports,
                            remote_ports: remote.ports,
                            leased: remote.net.is_none(),
                        };
                        // Prefixes of the local side are no part of an entry: they
                        // tell nothing apart here.
                        if !out.iter().skip(first).any(|e| *e == entry) {
                            out.push(entry);
                        }
                    }
                }
            }
        }
    }
    out.sort_by_key(|e| (e.key(), e.peer, e.child));
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

/// Bundles of one Child SA at most, as many as one side may have selectors.
const MAX_PARTS: usize = MAX_SELECTORS;
/// Bundles that Child SAs of one IKE SA are split into, at most, all together.
const MAX_PARTS_OF_PEER: usize = 16 * MAX_PARTS;

/// How far the Child SAs of each IKE SA are split: a peer has a choice of selectors.
#[derive(Default)]
pub(super) struct Parts {
    used: BTreeMap<IkeId, usize>,
    /// Those that are not split since their IKE SA has had its share.
    pub(super) whole: u64,
}

impl Parts {
    /// [`split`], within bounds.
    pub(super) fn split(&mut self, ike: IkeId, bundle: Bundle) -> Vec<Bundle> {
        let used = self.used.entry(ike).or_default();
        match parts(&bundle) {
            1 => vec![bundle],
            more if *used + more > MAX_PARTS_OF_PEER => {
                self.whole += 1;
                vec![bundle]
            }
            more => {
                *used += more;
                split(bundle)
            }
        }
    }
}

/// The same Child SAs once for each remote selector, and for each local one where
/// these name protocols and are not too many: each has its place in the order.
pub(super) fn split(bundle: Bundle) -> Vec<Bundle> {
    if parts(&bundle) < 2 {
        return vec![bundle];
    }
    let locals: Vec<Vec<Selector>> = match splits_locals(&bundle) {
        true => bundle.local.iter().map(|s| vec![s.clone()]).collect(),
        false => vec![bundle.local.clone()],
    };
    let part = |remote: &Selector, local: &Vec<Selector>| Bundle {
        local: local.clone(),
        remote: vec![remote.clone()],
        ..bundle.clone()
    };
    let of = |remote| locals.iter().map(move |local| part(remote, local));
    bundle.remote.iter().flat_map(of).collect()
}

/// How many bundles [`split`] makes of one.
fn parts(bundle: &Bundle) -> usize {
    let locals = match splits_locals(bundle) {
        true => bundle.local.len(),
        false => 1,
    };
    (bundle.remote.len() * locals).max(1)
}

fn splits_locals(bundle: &Bundle) -> bool {
    differs_by_locals(bundle) && bundle.remote.len() * bundle.local.len() <= MAX_PARTS
}

/// Whether its local selectors may have different places; prefixes alone have not.
fn differs_by_locals(bundle: &Bundle) -> bool {
    bundle.local.len() > 1 && bundle.local.iter().any(|s| s.protocol != 0)
}

/// Where a bundle stands in the SPD: place of its entry, whether that covers it or is
/// the one it stands before; then, of what was narrowed from one entry, width,
/// protocol and ports of the remote selectors and width of the local ones.
pub(super) type Rank = (usize, bool, u128, bool, bool, u128);

/// What bundles are sorted by: rank, peer, child, and whether it cannot send.
pub(super) type Place = (Rank, usize, usize, bool);

/// The rank of a bundle of the child `(peer, child)`, whose `order` is given: that of
/// the first of its entries that covers it. One that was not split is behind all of
/// them that cover any of it, so that it takes nothing from others.
pub(super) fn rank(entries: &[Entry], child: (usize, usize), order: i32, bundle: &Bundle) -> Rank {
    let covers = |e: &Entry| (e.peer, e.child) == child && e.covers(bundle);
    let place = match bundle.remote.len() > 1 || differs_by_locals(bundle) {
        true => entries.iter().rposition(covers),
        false => entries.iter().position(covers),
    };
    // What no entry says, as an address without a pool, is behind its like.
    let behind = || entries.partition_point(|e| e.order <= order);
    let widest = |list: &[Selector]| list.iter().map(width).max().unwrap_or(u128::MAX);
    let each = || bundle.local.iter().chain(&bundle.remote);
    let protocol = each().any(|s| s.protocol != 0);
    let ports = each().all(|s| s.ports == (0..=u16::MAX));
    let (local, remote) = (widest(&bundle.local), widest(&bundle.remote));
    let covered = place.is_some();
    let place = place.unwrap_or_else(behind);
    (place, covered, remote, !protocol, ports, local)
}

/// The last place that nothing but the file's order tells from `place`.
pub(super) fn last_like(entries: &[Entry], place: usize) -> usize {
    let Some(key) = entries.get(place).map(Entry::key) else {
        return place;
    };
    let after = entries.partition_point(|e| e.key() <= key);
    after.saturating_sub(1)
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
    use mifsec_common::steering;

    use super::super::network::tests::{LAPTOP, config};
    use super::*;

    fn selector(first: &str, last: &str, protocol: u8, port: Option<u16>) -> Selector {
        Selector {
            addresses: first.parse().unwrap()..=last.parse().unwrap(),
            protocol,
            ports: port.map_or(0..=u16::MAX, |p| p..=p),
        }
    }

    fn between(local: &Selector, remote: &Selector) -> Bundle {
        Bundle {
            local: vec![local.clone()],
            remote: vec![remote.clone()],
            members: Vec::new(),
            table: [steering::NO_MEMBER; steering::BUCKETS],
            trap: None,
            discard: false,
        }
    }

    const SERVICES: &str = r#"
        [[peer.child]]
        name = "host"
        remote_ts = ["10.9.9.9/32"]
        [[peer.child]]
        name = "ssh"
        order = -10
        remote_ts = ["10.0.0.0/8[tcp/22]"]
    "#;

    #[test]
    fn bundles_stand_where_their_entries_do() {
        let config = config(&format!("{LAPTOP}{SERVICES}"), "places");
        let entries = entries(&config);
        let lease = selector("10.66.0.7", "10.66.0.7", 0, None);
        let rank =
            |child, remote: &Selector| rank(&entries, (0, child), 0, &between(&lease, remote));
        let all = rank(0, &selector("0.0.0.0", "255.255.255.255", 0, None));
        let ten = rank(0, &selector("10.0.0.0", "10.255.255.255", 0, None));
        let host = rank(1, &selector("10.9.9.9", "10.9.9.9", 0, None));
        let ssh = rank(2, &selector("10.0.0.0", "10.255.255.255", 6, Some(22)));
        assert!(ssh < host && host < ten && ten < all);
        // What the peer made of it is where the configuration is, narrower first.
        let cut = rank(0, &selector("11.0.0.1", "11.0.0.1", 0, None));
        assert!(ten < cut && cut < all);
    }

    #[test]
    fn the_services_of_one_lease_come_before_the_rest() {
        let config = config(LAPTOP, "narrowed");
        let entries = entries(&config);
        let lease = selector("10.66.0.7", "10.66.0.7", 0, None);
        let net = |protocol, port| selector("10.0.0.0", "10.255.255.255", protocol, port);
        let rank = |local: &Selector| rank(&entries, (0, 0), 0, &between(local, &lease));
        let all = selector("0.0.0.0", "255.255.255.255", 0, None);
        assert!(rank(&net(6, Some(80))) < rank(&net(6, None)));
        assert!(rank(&net(6, None)) < rank(&net(0, None)));
        assert!(rank(&net(0, None)) < rank(&all));
    }

    #[test]
    fn selectors_of_one_bundle_have_places_of_their_own() {
        let net = |last, protocol| selector("10.0.0.0", last, protocol, None);
        let mut bundle = between(&net("10.0.0.255", 6), &net("10.0.255.255", 0));
        bundle.remote.push(net("10.255.255.255", 0));
        bundle.local.push(net("10.0.0.255", 0));
        assert_eq!(split(bundle.clone()).len(), 4);
        bundle.local = vec![net("10.0.0.255", 0), net("10.0.1.255", 0)];
        let parts = split(bundle);
        assert_eq!(parts.len(), 2, "local prefixes tell nothing apart");
        assert!(parts.iter().all(|p| p.local.len() == 2));
    }

    /// As many selectors as a payload has, each with a port of its own.
    fn ports(first: &str, last: &str, from: u16) -> Vec<Selector> {
        let of = |port| selector(first, last, 6, Some(port));
        (from..).take(MAX_SELECTORS).map(of).collect()
    }

    /// What a subscriber can make of one Child SA and its lease.
    fn many(from: u16) -> Bundle {
        Bundle {
            local: ports("0.0.0.0", "255.255.255.255", from),
            remote: ports("10.66.0.7", "10.66.0.7", from),
            ..between(
                &selector("::", "::", 0, None),
                &selector("::", "::", 0, None),
            )
        }
    }

    #[test]
    fn a_peer_makes_no_more_bundles_than_its_share() {
        let one = split(many(1));
        assert_eq!(one.len(), MAX_SELECTORS, "not remote x local");
        assert!(one.iter().all(|part| part.local.len() == MAX_SELECTORS));
        let mut parts = Parts::default();
        let children = 1024;
        let mut split = |ike, n| -> usize {
            let all = (0..n).map(|i| parts.split(IkeId(ike), many(i)).len());
            all.sum()
        };
        let made = split(1, children);
        assert!(made <= MAX_PARTS_OF_PEER + usize::from(children), "{made}");
        assert_eq!(split(2, 1), MAX_SELECTORS, "others have their own share");
        assert_eq!(parts.whole, u64::from(children) - 16, "and it is counted");
    }

    #[test]
    fn what_is_not_split_takes_nothing_from_another_peer() {
        let two = SERVICES.replace("order = -10", "").replace("[tcp/22]", "");
        let nets = two.replace("10.9.9.9/32\"", "10.9.0.0/16\", \"10.0.0.0/8\"");
        let config = config(&format!("{LAPTOP}{nets}"), "whole");
        let entries = entries(&config);
        let rank = |child, bundle: &Bundle| rank(&entries, (0, child), 0, bundle);
        let lease = selector("10.66.0.7", "10.66.0.7", 0, None);
        let net = |last: &str| selector("10.0.0.0", last, 0, None);
        let other = between(&lease, &net("10.255.255.255"));
        let narrow = selector("10.9.0.0", "10.9.255.255", 0, None);
        let mut whole = between(&lease, &narrow);
        assert!(rank(1, &whole) < rank(0, &other));
        whole.remote.push(net("10.255.255.255"));
        assert!(rank(1, &whole) > rank(0, &other), "all of it or nothing");
        let parts = split(whole);
        assert!(
            rank(1, &parts[0]) < rank(0, &other),
            "split it is as before"
        );
    }

    const NO_POOL: &str = r#"
        [[peer.child]]
        name = "far"
        order = 5
        remote_ts = ["192.0.2.1/32"]
        [[peer.child]]
        name = "host"
        order = -10
        remote_ts = ["dynamic"]
        [[peer.child]]
        name = "lease"
        remote_ts = ["dynamic"]
    "#;

    #[test]
    fn what_no_entry_says_is_behind_its_order_and_before_the_next() {
        let config = config(&format!("{LAPTOP}{NO_POOL}"), "unsaid");
        let entries = entries(&config);
        let rank = |child: usize, remote: &Selector| {
            let order = config.peers[0].children[child].order;
            let lease = selector("10.66.0.7", "10.66.0.7", 0, None);
            rank(&entries, (0, child), order, &between(&lease, remote))
        };
        let wide = selector("192.0.0.0", "192.255.255.255", 0, None);
        let all = rank(0, &selector("0.0.0.0", "255.255.255.255", 0, None));
        let far = rank(1, &selector("192.0.2.1", "192.0.2.1", 0, None));
        assert!(rank(2, &wide) < all, "its own order, not 0");
        assert!(all < rank(3, &wide) && rank(3, &wide) < far);
    }
}
