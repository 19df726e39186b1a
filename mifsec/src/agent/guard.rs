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
            if !out.iter().any(|r| *r == rule) {
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
