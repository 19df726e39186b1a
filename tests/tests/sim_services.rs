//! Several services between two engines: children with selectors of their own (R16,
//! R60), in virtual time.

use std::time::Duration;

use mifsec::ids::{IfaceId, IfacePair};
use mifsec::ike::Command;
use mifsec::ike::config::{ChildConfig, EngineConfig};
use mifsec::ike::selector::TsSpec;
use mifsec_tests::covers;
use mifsec_tests::sim::setup::{
    self, GATEWAY, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS, assert_agreement,
    established,
};
use mifsec_tests::sim::{A, B, Pair, ip};

const SECOND: Duration = Duration::from_secs(1);
const LAN: &str = "10.99.0.0/24";

/// TCP or UDP ports of the network behind the gateway.
fn part(protocol: u8, first: u16, last: u16) -> TsSpec {
    TsSpec::Part {
        net: Some(LAN.parse().expect("a prefix")),
        protocol,
        ports: (first, last),
    }
}

/// A service as each end has it: (end user's, gateway's).
fn service(name: &str, net: TsSpec) -> (ChildConfig, ChildConfig) {
    let child = |local, remote| ChildConfig {
        name: name.into(),
        local_ts: vec![local],
        remote_ts: vec![remote],
        bundle: true,
        replay_window: 1024,
    };
    (child(TsSpec::Dynamic, net), child(net, TsSpec::Dynamic))
}

/// Both configurations with the services in the order given for each.
fn configs(user_order: &[usize], gateway_order: &[usize]) -> (EngineConfig, EngineConfig) {
    let all = TsSpec::Net(LAN.parse().expect("a prefix"));
    let services = [
        service("web", part(6, 80, 80)),
        service("voice", part(17, 5060, 5090)),
        service("rest", all),
    ];
    let (mut user, mut gateway) = (setup::user(), setup::gateway());
    let list = |order: &[usize], end: fn(&(ChildConfig, ChildConfig)) -> &ChildConfig| {
        order.iter().map(|i| end(&services[*i]).clone()).collect()
    };
    user.peers[0].children = list(user_order, |s| &s.0);
    gateway.peers[0].children = list(gateway_order, |s| &s.1);
    (user, gateway)
}

fn ask(pair: &mut Pair, child: &str, iface: IfaceId) {
    let local = if iface == WLAN {
        WLAN_ADDRESS
    } else {
        RAN_ADDRESS
    };
    let ike = pair.a().ike();
    let command = Command::CreateChild {
        ike,
        child: child.into(),
        pair: IfacePair {
            local: iface,
            remote: GATEWAY,
        },
        local: ip(local),
        remote: ip(GATEWAY_ADDRESS),
    };
    pair.command(A, command);
    pair.run(SECOND);
}

#[test]
fn each_service_is_the_same_one_at_both_ends_in_whatever_order_they_have_it() {
    covers!("R16", "R60");
    for (user_order, gateway_order) in [
        ([0, 1, 2], [0, 1, 2]),
        ([2, 1, 0], [0, 1, 2]),
        ([1, 2, 0], [1, 0, 2]),
        // The wide one would take any.
        ([0, 1, 2], [2, 1, 0]),
        ([1, 0, 2], [2, 0, 1]),
    ] {
        let (user, gateway) = configs(&user_order, &gateway_order);
        let mut pair = established(user, gateway, 7);
        let names = ["web", "voice", "rest"];
        for child in names {
            // The first one came with IKE_AUTH, on the channel.
            if child != names[user_order[0]] {
                ask(&mut pair, child, RAN);
            }
            ask(&mut pair, child, WLAN);
        }
        // Names, selectors, keys; one IKE SA.
        assert_agreement(&pair);
        assert_eq!(pair.ends[B].children.len(), 6, "two paths, three services");
        assert_eq!(pair.ends[A].established().len(), 1);
        for end in &pair.ends {
            assert!(end.failures().is_empty(), "{:?}", end.failures());
        }
        let mut told: Vec<String> = pair.ends[A]
            .children
            .values()
            .map(|c| format!("{} {}", c.name, c.ts_remote[0]))
            .collect();
        told.sort();
        told.dedup();
        let expected = [
            "rest 10.99.0.0-10.99.0.255",
            "voice 10.99.0.0-10.99.0.255[17/5060-5090]",
            "web 10.99.0.0-10.99.0.255[6/80]",
        ];
        assert_eq!(told, expected);
    }
}

#[test]
fn a_gateway_with_one_child_narrows_it_to_each_service() {
    covers!("R16");
    let (user, mut gateway) = configs(&[0, 1, 2], &[2]);
    gateway.peers[0].children[0].name = "all".into();
    let mut pair = established(user, gateway, 7);
    for child in ["voice", "rest"] {
        ask(&mut pair, child, RAN);
    }
    assert_eq!(pair.ends[A].children.len(), 3);
    for ours in pair.ends[A].children.values() {
        let mut theirs = pair.ends[B].children.values();
        let theirs = theirs.find(|c| c.spi_in == ours.spi_out);
        let theirs = theirs.expect("the other half");
        assert_eq!(theirs.ts_local, ours.ts_remote, "{}", ours.name);
        assert_eq!(theirs.name, "all");
    }
}

#[test]
fn a_service_the_gateway_does_not_have_is_refused_alone() {
    let (user, gateway) = configs(&[0, 1], &[0]);
    let mut pair = established(user, gateway, 7);
    ask(&mut pair, "voice", RAN);
    assert_eq!(pair.ends[A].children.len(), 1, "web");
    let failures = pair.ends[A].failures();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(pair.ends[A].established().len(), 1, "the IKE SA stands");
}
