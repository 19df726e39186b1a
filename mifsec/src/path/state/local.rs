//! Our end of a path.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::ids::{AccessId, Family};
use crate::path::types::{LocalIface, Probing};

/// What of a [`LocalIface`] concerns paths of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) access: AccessId,
    pub(super) ifindex: u32,
    pub(super) usable: bool,
    pub(super) mtu: u16,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) next_hop: Option<IpAddr>,
    pub(super) layer3: bool,
    pub(super) probing: Probing,
}

impl Local {
    pub(super) fn of(iface: &LocalIface, family: Family) -> Self {
        Self {
            access: iface.access,
            ifindex: iface.ifindex,
            usable: iface.state.usable(),
            mtu: iface.mtu,
            addresses: iface
                .addresses
                .iter()
                .copied()
                .filter(|address| Family::of(*address) == family)
                .collect(),
            next_hop: match family {
                Family::V4 => iface.next_hop_v4.map(IpAddr::from),
                Family::V6 => iface.next_hop_v6.map(IpAddr::from),
            },
            layer3: iface.layer3,
            probing: iface.probing,
        }
    }

    /// The router of each address: ours is the newest address's, the others
    /// keep the one they had.
    pub(super) fn hops(
        &self,
        before: &BTreeMap<IpAddr, Option<IpAddr>>,
    ) -> BTreeMap<IpAddr, Option<IpAddr>> {
        let newest = self.addresses.first();
        self.addresses
            .iter()
            .map(|address| {
                let kept = before.get(address).filter(|_| newest != Some(address));
                (*address, kept.copied().unwrap_or(self.next_hop))
            })
            .collect()
    }

    /// What can be sent from, best first.
    pub(super) fn usable_addresses(&self) -> &[IpAddr] {
        if self.usable { &self.addresses } else { &[] }
    }
}
