//! What a `[[peer.child]]` is for: selectors, `layout`, `policy`, `order`.

use std::collections::BTreeSet;

use ipnet::IpNet;
use mifsec_common::spd::MAX_RULES;

use super::super::{ConfigError, Layout, Peer, Policy, Pool, Routing, Ts, raw};
use super::{Checker, Section};

/// Most selectors where order or ports decide: each is a routing rule of the 49
/// priorities there are.
pub(crate) const MAX_ORDERED: usize = 48;
/// Most selectors the guard holds: a rule for each direction.
const MAX_GUARDED: usize = MAX_RULES as usize / 2;
/// Names of protocols with selectors of their own; others are numbers.
const PROTOCOLS: [(&str, u8); 6] = [
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("icmpv6", 58),
    ("sctp", 132),
    ("udplite", 136),
];

/// The checked part of a child.
pub(super) struct Service {
    pub(super) local_ts: Vec<Ts>,
    pub(super) remote_ts: Vec<Ts>,
    pub(super) layout: Layout,
    pub(super) policy: Policy,
    pub(super) order: i32,
}

impl Checker<'_> {
    pub(super) fn service(
        &self,
        section: &Section,
        raw: &raw::Child,
    ) -> Result<Service, ConfigError> {
        let service = Service {
            local_ts: self.selectors(section, "local_ts", raw.local_ts.as_deref())?,
            remote_ts: self.selectors(section, "remote_ts", raw.remote_ts.as_deref())?,
            layout: self.choose(
                section,
                "layout",
                raw.layout.as_deref(),
                "bundle",
                &[
                    ("bundle", Some(Layout::Bundle)),
                    ("pinned", Some(Layout::Pinned)),
                ],
            )?,
            policy: self.choose(
                section,
                "policy",
                raw.policy.as_deref(),
                "protect",
                &[
                    ("protect", Some(Policy::Protect)),
                    ("bypass", Some(Policy::Bypass)),
                    ("discard", Some(Policy::Discard)),
                ],
            )?,
            order: self.integer(section, "order", raw.order, 0, -1000..=1000)?,
        };
        if service.policy != Policy::Protect {
            let of_a_tunnel = [
                ("layout", raw.layout.is_some()),
                ("accesses", raw.accesses.is_some()),
                ("alternates", raw.alternates.is_some()),
            ];
            if let Some((key, _)) = of_a_tunnel.iter().find(|(_, given)| *given) {
                return Err(self
                    .error(
                        section,
                        key,
                        "is for what goes through a tunnel, and this does not".into(),
                    )
                    .mend("remove it, or use policy = \"protect\""));
            }
            // Rules in front of the routes and the guard tell nothing apart by source.
            if service.local_ts.iter().any(|ts| ts.net.is_some()) {
                return Err(self
                    .error(
                        section,
                        "local_ts",
                        "lists prefixes, but without a tunnel it holds for every source".into(),
                    )
                    .mend("leave the prefix out (\"dynamic[tcp/80]\" for ports), or use policy = \"protect\""));
            }
            if service.remote_ts.iter().any(|ts| ts.net.is_none()) {
                return Err(self
                    .error(
                        section,
                        "remote_ts",
                        "has no lease to stand for without a tunnel".into(),
                    )
                    .mend("list prefixes, as 0.0.0.0/0[udp/5000-5010]"));
            }
        }
        if service.layout == Layout::Pinned && service.local_ts.iter().any(|ts| ts.net.is_some()) {
            return Err(self
                .error(
                    section,
                    "local_ts",
                    "lists prefixes, but pinned is one leased address for each access".into(),
                )
                .mend("leave it out, or use layout = \"bundle\""));
        }
        Ok(service)
    }

    fn selectors(
        &self,
        section: &Section,
        key: &str,
        raw: Option<&[String]>,
    ) -> Result<Vec<Ts>, ConfigError> {
        let default = ["dynamic".to_owned()];
        let raw = raw.unwrap_or(&default);
        if raw.is_empty() {
            return Err(self
                .error(section, key, "is empty".into())
                .mend("list prefixes, or \"dynamic\" for the lease"));
        }
        raw.iter()
            .map(|text| self.selector(section, key, text))
            .collect()
    }

    /// `dynamic` or a prefix, then protocol and ports in strongSwan's spelling.
    fn selector(&self, section: &Section, key: &str, text: &str) -> Result<Ts, ConfigError> {
        let (address, part) = match text.split_once('[') {
            None => (text, None),
            Some((address, rest)) => (address, Some(rest.strip_suffix(']').unwrap_or(""))),
        };
        let net: Option<IpNet> = if address == "dynamic" {
            None
        } else {
            let nets = self.nets(section, key, &[address.to_owned()])?;
            nets.into_iter().next()
        };
        let any = Ts { net, ..Ts::DYNAMIC };
        let Some(part) = part else { return Ok(any) };
        let ts = upper(part).map(|(protocol, ports)| Ts {
            protocol,
            ports,
            ..any
        });
        ts.ok_or_else(|| {
            self.error(
                section,
                key,
                format!("{text:?} names no protocol and ports"),
            )
            .mend("write one like 0.0.0.0/0[tcp/80], [udp/5000-5010] or [icmp]")
        })
    }

    /// Each selector is two rules of the guard, and a routing rule where order or
    /// ports decide.
    pub(super) fn ordered(
        &self,
        routing: Routing,
        peers: &[Peer],
        pools: &[Pool],
    ) -> Result<(), ConfigError> {
        let children = || peers.iter().flat_map(|p| &p.children);
        let plain = children().all(|c| {
            let parts = c.local_ts.iter().chain(&c.remote_ts).any(Ts::is_part);
            c.policy == Policy::Protect && c.order == 0 && !parts
        });
        let too_many = |count: usize, most: usize, of: &str| {
            let error = format!("{count} selectors, and at most {most} {of}");
            Err(ConfigError::file(self.file, error)
                .key("[[peer.child]]")
                .mend("join prefixes, or split the services over two hosts"))
        };
        let count: usize = children()
            .map(|c| c.local_ts.len() * c.remote_ts.len())
            .sum();
        if !plain && routing != Routing::Manual && count > MAX_ORDERED {
            return too_many(count, MAX_ORDERED, "where policy, order or ports are given");
        }
        let guarded = guarded(peers, pools);
        if guarded > MAX_GUARDED {
            return too_many(guarded, MAX_GUARDED, "can be guarded");
        }
        Ok(())
    }
}

/// How many rules the guard has each way: those that say the same are one.
fn guarded(peers: &[Peer], pools: &[Pool]) -> usize {
    let mut rules = BTreeSet::new();
    for peer in peers {
        let pool = pools.iter().filter(|p| Some(&p.name) == peer.pool.as_ref());
        let leases: Vec<IpNet> = pool.flat_map(|p| p.cidr.iter().copied()).collect();
        for child in &peer.children {
            let policy = (
                child.policy == Policy::Bypass,
                child.policy == Policy::Discard,
            );
            for (local, remote) in child
                .local_ts
                .iter()
                .flat_map(|local| child.remote_ts.iter().map(move |remote| (local, remote)))
            {
                let nets = remote.net.map_or_else(|| leases.clone(), |net| vec![net]);
                let ports = (local.ports, remote.ports);
                let protocol = (local.protocol, remote.protocol);
                let upper = |net| (net, protocol.0.max(protocol.1), ports, policy);
                let either = protocol.0 == 0 || protocol.1 == 0 || protocol.0 == protocol.1;
                rules.extend(nets.into_iter().filter(|_| either).map(upper));
            }
        }
    }
    rules.len()
}

/// `tcp`, `tcp/80`, `udp/5000-5010`, `47`.
fn upper(text: &str) -> Option<(u8, (u16, u16))> {
    let (protocol, ports) = match text.split_once('/') {
        None => (text, None),
        Some((protocol, ports)) => (protocol, Some(ports)),
    };
    let known = PROTOCOLS.iter().find(|(name, _)| *name == protocol);
    let protocol = match known {
        Some((_, number)) => *number,
        None => protocol.parse().ok().filter(|n| *n != 0)?,
    };
    let Some(ports) = ports else {
        return Some((protocol, Ts::ANY_PORTS));
    };
    let has_ports = matches!(protocol, 6 | 17 | 33 | 132 | 136);
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let ports = (first.parse().ok()?, last.parse().ok()?);
    (has_ports && ports.0 <= ports.1).then_some((protocol, ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_and_ports_are_written_as_strongswan_writes_them() {
        assert_eq!(upper("tcp/80"), Some((6, (80, 80))));
        assert_eq!(upper("udp/5000-5010"), Some((17, (5000, 5010))));
        assert_eq!(upper("icmp"), Some((1, Ts::ANY_PORTS)));
        assert_eq!(upper("47"), Some((47, Ts::ANY_PORTS)));
        for bad in [
            "",
            "0",
            "tpc/80",
            "tcp/",
            "tcp/80-79",
            "icmp/8",
            "tcp/70000",
            "300",
        ] {
            assert_eq!(upper(bad), None, "{bad:?}");
        }
    }
}
