//! The rules of `mif_guard`: what may never leave or arrive in clear.
//!
//! Made from the configuration alone, so they stand before any tunnel does and
//! after all are gone: lockdown. With `lockdown = false` a peer's selectors are
//! protected only while its IKE SA stands.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::spd;
use crate::config::{Config, Policy, Start};
use crate::ebpf::{Direction, SpdAction, SpdRule};

/// All rules, in order. `established` names the peers with an IKE SA.
pub(super) fn rules(config: &Config, established: &BTreeSet<&str>) -> Vec<SpdRule> {
    let mut out: Vec<SpdRule> = Vec::new();
    for entry in spd::entries(config) {
        let up = || {
            config
                .peers
                .get(entry.peer)
                .is_some_and(|p| established.contains(p.name.as_str()) || p.start == Start::Trap)
        };
        let action = match entry.policy {
            Policy::Protect if !config.agent.lockdown && !up() => continue,
            Policy::Protect => SpdAction::ProtectTunnel,
            Policy::Bypass => SpdAction::Bypass,
            Policy::Discard => SpdAction::Discard,
        };
        for direction in [Direction::Out, Direction::In] {
            let rule = SpdRule {
                direction,
                local: any(entry.remote),
                remote: entry.remote,
                protocol: entry.protocol,
                local_ports: entry.local_ports.0..=entry.local_ports.1,
                remote_ports: entry.remote_ports.0..=entry.remote_ports.1,
                action,
            };
            // What comes first decides: a second one says nothing.
            if !out.contains(&rule) {
                out.push(rule);
            }
        }
    }
    out
}

fn any(like: IpNet) -> IpNet {
    match like {
        IpNet::V4(_) => Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
        IpNet::V6(_) => Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::network::tests::{LAPTOP, config};
    use super::*;

    #[test]
    fn rules_follow_the_order_of_the_spd() {
        let text = format!(
            r#"{LAPTOP}
            [[peer.child]]
            name = "video"
            policy = "bypass"
            remote_ts = ["0.0.0.0/0[udp/5000-5010]"]
            [[peer.child]]
            name = "telnet"
            policy = "discard"
            order = -1
            remote_ts = ["0.0.0.0/0[tcp/23]"]
            "#
        );
        let config = config(&text, "guard");
        let lines = |established: &BTreeSet<&str>, config: &Config| -> Vec<_> {
            rules(config, established)
                .into_iter()
                .filter(|r| r.direction == Direction::Out)
                .map(|r| (r.action, r.remote.to_string(), r.protocol, r.remote_ports))
                .collect()
        };
        use SpdAction::{Bypass, Discard, ProtectTunnel};
        let whole = || "0.0.0.0/0".to_owned();
        let all = lines(&BTreeSet::new(), &config);
        assert_eq!(
            all,
            [
                (Discard, whole(), 6, 23..=23),
                (ProtectTunnel, "10.0.0.0/8".into(), 0, 0..=u16::MAX),
                (Bypass, whole(), 17, 5000..=5010),
                (ProtectTunnel, whole(), 0, 0..=u16::MAX),
            ]
        );
        let mut open = config;
        open.agent.lockdown = false;
        assert_eq!(
            lines(&BTreeSet::new(), &open).len(),
            2,
            "discard and bypass stay"
        );
        assert_eq!(lines(&BTreeSet::from(["gw"]), &open), all);
    }
}
