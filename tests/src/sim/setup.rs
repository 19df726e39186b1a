//! The usual two: an end user with WLAN and RAN, a gateway with a pool.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mifsec::crypto::{Secret, SeededEntropy};
use mifsec::ids::{IfaceId, IfacePair, IkeId};
use mifsec::ike::config::{ChildConfig, EngineConfig, Lifetime, PeerConfig, Require};
use mifsec::ike::lease::PoolConfig;
use mifsec::ike::mif::{IfaceState, InterfaceRecord, LinkClass, Maddr};
use mifsec::ike::peer::{LocalAuth, PskSource, RemoteAuth};
use mifsec::ike::selector::TsSpec;
use mifsec::ike::{Channel, Command, Engine};

use super::{A, B, Pair, ip};

/// The end user's WLAN interface.
pub const WLAN: IfaceId = IfaceId(1);
/// The end user's RAN interface.
pub const RAN: IfaceId = IfaceId(2);
/// The gateway's only interface.
pub const GATEWAY: IfaceId = IfaceId(1);

/// The end user's address on its WLAN.
pub const WLAN_ADDRESS: &str = "192.0.2.10";
/// The end user's address on its RAN.
pub const RAN_ADDRESS: &str = "198.51.100.20";
/// The gateway's address.
pub const GATEWAY_ADDRESS: &str = "203.0.113.1";

/// What the kernel would call the interface of an address.
#[must_use]
pub fn ifindex(address: IpAddr) -> u32 {
    if address == ip(RAN_ADDRESS) { 3 } else { 2 }
}

/// The end user's configuration; change it before [`engine`].
#[must_use]
pub fn user() -> EngineConfig {
    EngineConfig {
        peers: vec![PeerConfig {
            name: "gw".into(),
            remote: vec![ip(GATEWAY_ADDRESS)],
            local_id: "laptop@example.org".parse().expect("an identity"),
            remote_id: "gw.example.org".parse().expect("a pattern"),
            local_auth: LocalAuth::Psk,
            remote_auth: psk("correct horse battery staple"),
            request_v4: true,
            request_v6: true,
            inner_addresses: 1,
            pool: None,
            require: Require::Any,
            mobility: Default::default(),
            ike_proposals: vec![Default::default()],
            esp_proposals: vec![Default::default()],
            dpd: None,
            rekey: Lifetime::NEVER,
            ike_rekey: Lifetime::NEVER,
            childless: false,
            children: vec![child(
                "internet",
                &[None],
                &[Some("0.0.0.0/0"), Some("::/0")],
            )],
        }],
        ..EngineConfig::default()
    }
}

/// The gateway's configuration; change it before [`engine`].
#[must_use]
pub fn gateway() -> EngineConfig {
    EngineConfig {
        pools: vec![PoolConfig {
            name: "subscribers".into(),
            cidr: vec![net("10.66.0.0/16"), net("fd66::/64")],
            exclude: Vec::new(),
            dns: vec![ip("10.66.0.1")],
            domains: vec!["corp.example".into()],
        }],
        peers: vec![PeerConfig {
            name: "subscribers".into(),
            remote: Vec::new(),
            local_id: "gw.example.org".parse().expect("an identity"),
            remote_id: "*@example.org".parse().expect("a pattern"),
            local_auth: LocalAuth::Psk,
            remote_auth: psk("correct horse battery staple"),
            request_v4: false,
            request_v6: false,
            inner_addresses: 1,
            pool: Some("subscribers".into()),
            require: Require::Any,
            mobility: Default::default(),
            ike_proposals: vec![Default::default()],
            esp_proposals: vec![Default::default()],
            dpd: None,
            rekey: Lifetime::NEVER,
            ike_rekey: Lifetime::NEVER,
            childless: false,
            children: vec![child(
                "internet",
                &[Some("0.0.0.0/0"), Some("::/0")],
                &[None],
            )],
        }],
        ..EngineConfig::default()
    }
}

/// The same secret for everybody.
#[must_use]
pub fn psk(secret: &str) -> RemoteAuth {
    RemoteAuth::psk(PskSource::One(Secret::new(secret.as_bytes().to_vec())))
}

/// A bundle child; `None` is `dynamic`.
#[must_use]
pub fn child(name: &str, local: &[Option<&str>], remote: &[Option<&str>]) -> ChildConfig {
    let specs = |list: &[Option<&str>]| {
        list.iter()
            .map(|spec| spec.map_or(TsSpec::Dynamic, |text| TsSpec::Net(net(text))))
            .collect()
    };
    ChildConfig {
        name: name.into(),
        local_ts: specs(local),
        remote_ts: specs(remote),
        bundle: true,
        replay_window: 8192,
    }
}

fn net<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a prefix")
}

/// An engine whose random choices follow `seed`.
///
/// # Panics
/// When the configuration is unusable.
#[must_use]
pub fn engine(config: EngineConfig, seed: u64) -> Engine {
    Engine::new(config, Box::new(SeededEntropy::new(seed))).expect("a usable configuration")
}

/// Both ends with their interface tables set.
#[must_use]
pub fn pair(user: EngineConfig, gateway: EngineConfig, seed: u64) -> Pair {
    let mut pair = Pair::new(
        engine(user, seed.wrapping_mul(2)),
        engine(gateway, seed.wrapping_mul(2) + 1),
        seed,
    );
    let ifaces = vec![record(WLAN, WLAN_ADDRESS), record(RAN, RAN_ADDRESS)];
    pair.command(A, Command::SetInterfaces { ifaces });
    let ifaces = vec![record(GATEWAY, GATEWAY_ADDRESS)];
    pair.command(B, Command::SetInterfaces { ifaces });
    pair
}

/// An interface that is up with one address.
#[must_use]
pub fn record(id: IfaceId, address: &str) -> InterfaceRecord {
    InterfaceRecord {
        id,
        class: LinkClass::UNSPECIFIED,
        state: IfaceState::UP,
        priority: 0,
        weight: 50,
        mtu: 1500,
        addresses: vec![Maddr::new(ip(address), 0)],
    }
}

/// The pair of addresses from one of the end user's interfaces.
#[must_use]
pub fn channel(iface: IfaceId, address: &str) -> Channel {
    Channel {
        local_iface: iface,
        ifindex: ifindex(ip(address)),
        local: SocketAddr::new(ip(address), 4500),
        remote: SocketAddr::new(ip(GATEWAY_ADDRESS), 4500),
    }
}

/// The end user connects over its RAN.
pub fn connect(pair: &mut Pair) {
    let channel = channel(RAN, RAN_ADDRESS);
    let peer = "gw".into();
    pair.command(A, Command::Initiate { peer, channel });
}

/// An established pair: connected, tables exchanged, windows grown.
///
/// # Panics
/// When that takes more than a second on perfect links.
#[must_use]
pub fn established(user: EngineConfig, gateway: EngineConfig, seed: u64) -> Pair {
    let mut pair = pair(user, gateway, seed);
    connect(&mut pair);
    pair.run(Duration::from_secs(1));
    let (a, b) = (pair.ends[A].established(), pair.ends[B].established());
    assert_eq!((a.len(), b.len()), (1, 1), "{:?}", pair.ends[A].failures());
    pair
}

/// A further member of the bundle, on the WLAN.
#[must_use]
pub fn second_member(ike: IkeId) -> Command {
    Command::CreateChild {
        ike,
        child: "internet".into(),
        pair: IfacePair {
            local: WLAN,
            remote: GATEWAY,
        },
        local: ip(WLAN_ADDRESS),
        remote: ip(GATEWAY_ADDRESS),
    }
}

/// What both ends of every Child SA must agree on.
///
/// # Panics
/// When they do not.
pub fn assert_agreement(pair: &Pair) {
    let [a, b] = &pair.ends;
    assert_eq!(
        a.children.len(),
        b.children.len(),
        "same number of Child SAs"
    );
    for ours in a.children.values() {
        let theirs = b
            .children
            .values()
            .find(|theirs| theirs.spi_in == ours.spi_out)
            .expect("every Child SA has its other half");
        assert_eq!(theirs.spi_out, ours.spi_in);
        assert_eq!(theirs.key_in, ours.key_out);
        assert_eq!(theirs.key_out, ours.key_in);
        assert_eq!(theirs.algorithm, ours.algorithm);
        assert_eq!(theirs.esn, ours.esn);
        assert_eq!(theirs.name, ours.name);
        assert_eq!(theirs.ts_local, ours.ts_remote);
        assert_eq!(theirs.ts_remote, ours.ts_local);
    }
}
