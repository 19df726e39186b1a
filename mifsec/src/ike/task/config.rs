//! Inner addresses in IKE_AUTH (RFC 7296 2.19, 3.15).

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::ids::Family;
use crate::ike::config::PeerConfig;
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::lease::MAX_LEASES;
use crate::ike::message::{Attribute, AttributeType, Config, ConfigType};
use crate::ike::sa::IkeSa;

use super::Payloads;

/// The initiator's CFG_REQUEST; `None` when it wants no address. For each address
/// it wants there is an attribute (R12).
pub(in crate::ike) fn request(peer: &PeerConfig) -> Option<Config> {
    let mut wanted = Vec::new();
    let count = peer.inner_addresses.clamp(1, MAX_LEASES);
    if peer.request_v4 {
        wanted.extend([AttributeType::INTERNAL_IP4_ADDRESS].repeat(count));
        wanted.push(AttributeType::INTERNAL_IP4_DNS);
    }
    if peer.request_v6 {
        wanted.extend([AttributeType::INTERNAL_IP6_ADDRESS].repeat(count));
        wanted.push(AttributeType::INTERNAL_IP6_DNS);
    }
    // Only beside resolvers (RFC 8598 3.1).
    if !wanted.is_empty() {
        wanted.push(AttributeType::INTERNAL_DNS_DOMAIN);
    }
    let attribute = |kind| Attribute {
        kind,
        value: Vec::new(),
    };
    (!wanted.is_empty()).then(|| Config {
        kind: ConfigType::REQUEST,
        attributes: wanted.into_iter().map(attribute).collect(),
    })
}

/// The CFG_REQUEST for the inner addresses of one further interface: one of each
/// family; `None` when none is wanted.
pub(super) fn request_one(peer: &PeerConfig) -> Option<Config> {
    let families = [
        (peer.request_v4, AttributeType::INTERNAL_IP4_ADDRESS),
        (peer.request_v6, AttributeType::INTERNAL_IP6_ADDRESS),
    ];
    let wanted = families.into_iter().filter(|(wanted, _)| *wanted);
    let attributes: Vec<_> = wanted
        .map(|(_, kind)| Attribute {
            kind,
            value: Vec::new(),
        })
        .collect();
    (!attributes.is_empty()).then_some(Config {
        kind: ConfigType::REQUEST,
        attributes,
    })
}

/// Whether a CFG_REQUEST asks for an address of this family.
pub(super) fn asks_for(request: &Config, family: Family) -> bool {
    let wanted = match family {
        Family::V4 => AttributeType::INTERNAL_IP4_ADDRESS,
        Family::V6 => AttributeType::INTERNAL_IP6_ADDRESS,
    };
    request.attributes.iter().any(|a| a.kind == wanted)
}

/// A CFG_REPLY with these addresses alone.
pub(super) fn reply(leases: &[IpAddr]) -> Config {
    Config {
        kind: ConfigType::REPLY,
        attributes: leases.iter().copied().map(address).collect(),
    }
}

/// The peer's CFG_REQUEST. Other kinds ask for nothing and get no answer
/// (RFC 7296 3.15.2 to 3.15.3 leave CFG_SET undefined).
pub(in crate::ike) fn asked(payloads: &Payloads) -> Option<&Config> {
    payloads
        .config()
        .filter(|config| config.kind == ConfigType::REQUEST)
}

/// The responder's CFG_REPLY; the leases become the IKE SA's. As many addresses of
/// a family as were asked for, in the order asked, [`MAX_LEASES`] at most (R12); an
/// identity gets the same ones again.
///
/// # Errors
/// [`Failure::Address`] when no family asked for can be served.
pub(in crate::ike) fn respond(
    request: &Config,
    sa: &mut IkeSa,
    cx: &mut Context,
) -> Result<Config, Failure> {
    let peer = sa.peer.as_ref().ok_or(Failure::Address)?;
    let pool = peer.pool.as_ref();
    let pool = pool
        .and_then(|name| cx.pools.get_mut(name))
        .ok_or(Failure::Address)?;
    let asks = |kind| request.attributes.iter().any(|a| a.kind == kind);
    let families = [
        (AttributeType::INTERNAL_IP4_ADDRESS, Family::V4),
        (AttributeType::INTERNAL_IP6_ADDRESS, Family::V6),
    ];
    for (kind, family) in families {
        let asked = request.attributes.iter().filter(|a| a.kind == kind);
        for _ in asked.take(MAX_LEASES) {
            match pool.lease_beside(&peer.name, &sa.remote_id, family, &sa.leases) {
                Ok(address) => sa.leases.push(address),
                Err(_) => break,
            }
        }
    }
    if sa.leases.is_empty() {
        return Err(Failure::Address);
    }
    let mut attributes: Vec<_> = sa.leases.iter().copied().map(address).collect();
    let leases = attributes.len();
    attributes.extend(pool.config().dns.iter().copied().filter_map(|ip| {
        let attribute = resolver(ip);
        asks(attribute.kind).then_some(attribute)
    }));
    // Only beside resolvers, and only to who asks (RFC 8598 3.2).
    if attributes.len() > leases && asks(AttributeType::INTERNAL_DNS_DOMAIN) {
        let domains = pool.config().domains.iter().take(MAX_DOMAINS);
        attributes.extend(domains.map(|name| Attribute {
            kind: AttributeType::INTERNAL_DNS_DOMAIN,
            value: name.as_bytes().to_vec(),
        }));
    }
    Ok(Config {
        kind: ConfigType::REPLY,
        attributes,
    })
}

/// Most domains sent or taken.
const MAX_DOMAINS: usize = 32;
/// Most resolvers taken.
const MAX_RESOLVERS: usize = 16;

/// Name servers of the network behind the gateway.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::ike) struct Resolvers {
    pub(in crate::ike) dns: Vec<IpAddr>,
    /// What they are for; empty for everything (RFC 8598).
    pub(in crate::ike) domains: Vec<String>,
}

/// What a CFG_REPLY gives of what [`request`] asks this peer for: addresses of each
/// family, in the order given, no more than asked for, and resolvers. Whoever is asked for nothing gives nothing. Netmasks,
/// subnets, versions and what we have no name for say nothing an IKE SA needs
/// (RFC 7296 3.15.1).
pub(in crate::ike) fn read(reply: &Config, peer: &PeerConfig) -> (Vec<IpAddr>, Resolvers) {
    let mut leases = Vec::new();
    let mut resolvers = Resolvers::default();
    let Resolvers { dns, domains } = &mut resolvers;
    if reply.kind != ConfigType::REPLY {
        return (leases, resolvers);
    }
    let asked = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => peer.request_v4,
        IpAddr::V6(_) => peer.request_v6,
    };
    for Attribute { kind, value } in &reply.attributes {
        match *kind {
            AttributeType::INTERNAL_IP4_ADDRESS => leases.extend(ipv4(value)),
            AttributeType::INTERNAL_IP6_ADDRESS => leases.extend(ipv6(value)),
            AttributeType::INTERNAL_IP4_DNS => dns.extend(ipv4(value)),
            AttributeType::INTERNAL_IP6_DNS => dns.extend(ipv6(value)),
            AttributeType::INTERNAL_DNS_DOMAIN => domains.extend(crate::ike::dns::domain(value)),
            _ => {}
        }
    }
    let count = peer.inner_addresses.clamp(1, MAX_LEASES);
    let leases: Vec<IpAddr> = [false, true]
        .into_iter()
        .flat_map(|v6| {
            let mut seen = BTreeSet::new();
            let of_family = leases.iter().copied().filter(move |ip| ip.is_ipv6() == v6);
            of_family.filter(move |ip| seen.insert(*ip)).take(count)
        })
        .filter(asked)
        .collect();
    dns.retain(asked);
    dns.truncate(MAX_RESOLVERS);
    domains.truncate(MAX_DOMAINS);
    // Domains without a resolver for them mean nothing (RFC 8598 3.2).
    if dns.is_empty() {
        domains.clear();
    }
    (leases, resolvers)
}

/// An IPv6 address carries its prefix length (RFC 7296 3.15.1): a lease is a /128.
fn address(ip: IpAddr) -> Attribute {
    match ip {
        IpAddr::V4(ip) => Attribute {
            kind: AttributeType::INTERNAL_IP4_ADDRESS,
            value: ip.octets().to_vec(),
        },
        IpAddr::V6(ip) => Attribute {
            kind: AttributeType::INTERNAL_IP6_ADDRESS,
            value: ip.octets().into_iter().chain([128]).collect(),
        },
    }
}

fn resolver(ip: IpAddr) -> Attribute {
    match ip {
        IpAddr::V4(ip) => Attribute {
            kind: AttributeType::INTERNAL_IP4_DNS,
            value: ip.octets().to_vec(),
        },
        IpAddr::V6(ip) => Attribute {
            kind: AttributeType::INTERNAL_IP6_DNS,
            value: ip.octets().to_vec(),
        },
    }
}

fn ipv4(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value).ok().map(IpAddr::from)
}

/// With or without the prefix length.
fn ipv6(value: &[u8]) -> Option<IpAddr> {
    let (octets, rest) = value.split_first_chunk::<16>()?;
    (rest.len() <= 1).then(|| IpAddr::from(*octets))
}

#[cfg(test)]
mod tests {
    use crate::crypto::Secret;
    use crate::ike::config::{Lifetime, Require};
    use crate::ike::message::Payload;
    use crate::ike::peer::{LocalAuth, PskSource, RemoteAuth};

    use super::*;

    /// A peer that is asked for addresses of these families.
    fn peer(request_v4: bool, request_v6: bool) -> PeerConfig {
        PeerConfig {
            name: "gw".into(),
            remote: Vec::new(),
            local_id: "a.example".parse().unwrap(),
            remote_id: "b.example".parse().unwrap(),
            local_auth: LocalAuth::Psk,
            remote_auth: RemoteAuth::psk(PskSource::One(Secret::new(b"secret".to_vec()))),
            request_v4,
            request_v6,
            inner_addresses: 1,
            pool: None,
            require: Require::Any,
            mobility: Default::default(),
            ike_proposals: Vec::new(),
            esp_proposals: Vec::new(),
            dpd: None,
            rekey: Lifetime::NEVER,
            ike_rekey: Lifetime::NEVER,
            childless: false,
            children: Vec::new(),
        }
    }

    fn read(reply: &Config) -> (Vec<IpAddr>, Resolvers) {
        super::read(reply, &peer(true, true))
    }

    #[test]
    fn one_address_of_each_family_asked_for_is_taken_and_resolvers_of_these() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let leases = ["10.66.0.9", "10.66.0.10", "fd66::9", "fd66::a"].map(ip);
        let dns = ["10.66.0.1", "fd66::1"].map(ip);
        let reply = Config {
            kind: ConfigType::REPLY,
            attributes: leases
                .into_iter()
                .rev()
                .map(address)
                .chain(dns.into_iter().map(resolver))
                .chain([Attribute {
                    kind: AttributeType::INTERNAL_DNS_DOMAIN,
                    value: b"corp.example".to_vec(),
                }])
                .collect(),
        };
        let taken = |v4, v6| {
            let (leases, resolvers) = super::read(&reply, &peer(v4, v6));
            (leases, resolvers.dns, resolvers.domains.len())
        };
        assert_eq!(
            taken(true, true),
            (vec![leases[1], leases[3]], dns.to_vec(), 1)
        );
        assert_eq!(taken(true, false), (vec![leases[1]], vec![dns[0]], 1));
        assert_eq!(taken(false, true), (vec![leases[3]], vec![dns[1]], 1));
        assert_eq!(taken(false, false), (vec![], vec![], 0));
    }

    #[test]
    fn several_addresses_are_asked_for_one_by_one_and_taken_in_their_order() {
        let asks = PeerConfig {
            inner_addresses: 2,
            ..peer(true, true)
        };
        let kinds = |config: Option<Config>| -> Vec<u16> {
            config
                .unwrap()
                .attributes
                .iter()
                .map(|a| a.kind.0)
                .collect()
        };
        // RFC 7296 3.15.1: 1 and 3 are IPv4 address and resolver, 8 and 10 of IPv6.
        assert_eq!(kinds(request(&asks)), [1, 1, 3, 8, 8, 10, 25]);
        assert_eq!(kinds(request(&peer(true, false))), [1, 3, 25]);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let given = [
            "10.66.0.9",
            "fd66::9",
            "10.66.0.9",
            "10.66.0.3",
            "10.66.0.4",
            "fd66::3",
        ];
        let reply = Config {
            kind: ConfigType::REPLY,
            attributes: given.map(ip).map(address).to_vec(),
        };
        assert_eq!(
            super::read(&reply, &asks).0,
            ["10.66.0.9", "10.66.0.3", "fd66::9", "fd66::3"].map(ip),
            "two of each family, none twice"
        );
    }

    #[test]
    fn what_is_leased_is_what_is_read() {
        let lease: Vec<IpAddr> = vec!["10.66.0.9".parse().unwrap(), "fd66::9".parse().unwrap()];
        let dns: Vec<IpAddr> = vec!["10.66.0.1".parse().unwrap(), "fd66::1".parse().unwrap()];
        let domains = vec![];
        let attributes = lease.iter().copied().map(address);
        let reply = Config {
            kind: ConfigType::REPLY,
            attributes: attributes
                .chain(dns.iter().copied().map(resolver))
                .collect(),
        };
        assert_eq!(read(&reply), (lease, Resolvers { dns, domains }));
    }

    #[test]
    fn only_a_request_asks_for_an_address() {
        let kind = |kind| {
            let payload = Payload::Config(Config {
                kind,
                attributes: Vec::new(),
            });
            asked(&Payloads(vec![payload])).is_some()
        };
        assert!(kind(ConfigType::REQUEST));
        for other in [ConfigType::REPLY, ConfigType(3), ConfigType(4)] {
            assert!(!kind(other));
        }
    }

    #[test]
    fn an_attribute_of_a_wrong_length_is_passed_over() {
        let reply = Config {
            kind: ConfigType::REPLY,
            attributes: vec![
                Attribute {
                    kind: AttributeType::INTERNAL_IP4_ADDRESS,
                    value: vec![1, 2, 3],
                },
                Attribute {
                    kind: AttributeType::INTERNAL_IP6_ADDRESS,
                    value: vec![0; 18],
                },
            ],
        };
        assert_eq!(read(&reply), (vec![], Resolvers::default()));
    }

    #[test]
    fn domains_are_names_beside_resolvers_and_no_more_than_so_many() {
        let domain = |value: &[u8]| Attribute {
            kind: AttributeType::INTERNAL_DNS_DOMAIN,
            value: value.to_vec(),
        };
        let reply = |attributes| Config {
            kind: ConfigType::REPLY,
            attributes,
        };
        let names = [
            &b"Corp.Example."[..],
            b"bad name",
            b"",
            b"a\nb",
            b"lab.example",
        ];
        let mut attributes: Vec<_> = names.map(domain).to_vec();
        let alone = read(&reply(attributes.clone())).1;
        assert_eq!(alone, Resolvers::default(), "no resolver for them");
        attributes.push(resolver("10.66.0.1".parse().unwrap()));
        let read_back = read(&reply(attributes.clone())).1;
        assert_eq!(read_back.domains, ["corp.example", "lab.example"]);
        attributes.extend((0..60).map(|n| domain(format!("d{n}.example").as_bytes())));
        assert_eq!(read(&reply(attributes)).1.domains.len(), MAX_DOMAINS);
    }

    #[test]
    fn attributes_we_have_no_use_for_are_passed_over() {
        let kinds = [
            AttributeType::INTERNAL_IP4_NETMASK,
            AttributeType::INTERNAL_IP4_SUBNET,
            AttributeType::INTERNAL_IP6_SUBNET,
            AttributeType::APPLICATION_VERSION,
            AttributeType::SUPPORTED_ATTRIBUTES,
            AttributeType(26),
            AttributeType(0x7abc),
        ];
        let attribute = |kind| Attribute {
            kind,
            value: vec![10, 0, 0, 0, 255, 255, 0, 0],
        };
        let reply = Config {
            kind: ConfigType::REPLY,
            attributes: kinds.map(attribute).to_vec(),
        };
        assert_eq!(read(&reply), (vec![], Resolvers::default()));
    }
}
