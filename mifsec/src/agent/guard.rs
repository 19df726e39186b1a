//! The rules of `mif_guard`: what may never leave or arrive in clear.
//!
//! Made from the configuration alone, so they stand before any tunnel does and
//! after all are gone: lockdown. With `lockdown = false` a peer's selectors are
//! protected only while its IKE SA stands, or waits for a packet.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::{Config, Start, Ts};
use crate::ebpf::{Direction, SpdAction, SpdRule};

/// All rules, in order. `established` names the peers with an IKE SA.
pub(super) fn rules(config: &Config, established: &BTreeSet<&str>) -> Vec<SpdRule> {
    let mut protected = BTreeSet::new();
    for peer in &config.peers {
        let stands = established.contains(peer.name.as_str()) || peer.start == Start::Trap;
        if !config.agent.lockdown && !stands {
            continue;
        }
        for ts in peer.children.iter().flat_map(|c| &c.remote_ts) {
            match ts {
                Ts::Net(net) => {
                    protected.insert(*net);
                }
                // The peer's leases: wherever the pool may put it.
                Ts::Dynamic => {
                    let pool = config
                        .pools
                        .iter()
                        .filter(|p| Some(&p.name) == peer.pool.as_ref());
                    protected.extend(pool.flat_map(|p| p.cidr.iter().copied()));
                }
            }
        }
    }
    // Longer prefixes first: the order is that of a reader, all rules protect.
    let mut protected: Vec<IpNet> = protected.into_iter().collect();
    protected.sort_by_key(|net| std::cmp::Reverse(net.prefix_len()));
    protected
        .into_iter()
        .flat_map(|remote| {
            [Direction::Out, Direction::In].map(|direction| SpdRule {
                direction,
                local: any(remote),
                remote,
                protocol: 0,
                local_ports: 0..=u16::MAX,
                remote_ports: 0..=u16::MAX,
                action: SpdAction::ProtectTunnel,
            })
        })
        .collect()
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
    fn without_lockdown_a_peer_is_protected_while_it_stands_or_waits_for_a_packet() {
        let open = format!("[agent]\nlockdown = false\n{LAPTOP}");
        let auto = config(&open, "open");
        assert!(rules(&auto, &BTreeSet::new()).is_empty());
        assert_eq!(rules(&auto, &BTreeSet::from(["gw"])).len(), 4);
        let text = open.replace("addresses", "start = \"trap\"\naddresses");
        assert_eq!(rules(&config(&text, "waits"), &BTreeSet::new()).len(), 4);
    }
}
