//! Half-open IKE SAs: found by the peer's SPI and address, counted by network.
//! Every operation costs the logarithm of their number, so that a flood is cheap
//! to refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::ids::{IkeId, IkeSpi};

/// The sender of an IKE_SA_INIT.
type Sender = (IkeSpi, SocketAddr);

/// Which half-open IKE SAs there are.
#[derive(Debug, Default)]
pub(super) struct HalfOpenTable {
    by_sender: BTreeMap<Sender, IkeId>,
    senders: BTreeMap<IkeId, Sender>,
    networks: BTreeMap<IpAddr, BTreeSet<IkeId>>,
    /// Networks by how many they have, most last.
    sizes: BTreeSet<(usize, IpAddr)>,
}

/// What one site has many addresses of: an IPv6 /64. An IPv4 address stands for
/// itself.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

impl HalfOpenTable {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_sender.len()
    }

    /// The one this sender began.
    pub(super) fn find(&self, spi_i: IkeSpi, remote: SocketAddr) -> Option<IkeId> {
        self.by_sender.get(&(spi_i, remote)).copied()
    }

    /// Adds one.
    pub(super) fn insert(&mut self, spi_i: IkeSpi, remote: SocketAddr, id: IkeId) {
        let sender = (spi_i, remote);
        if let Some(old) = self.by_sender.insert(sender, id) {
            self.senders.remove(&old);
            self.change(remote.ip(), |of| of.remove(&old));
        }
        self.senders.insert(id, sender);
        self.change(remote.ip(), |of| of.insert(id));
    }

    /// It is half-open no more.
    pub(super) fn remove(&mut self, id: IkeId) {
        if let Some(sender) = self.senders.remove(&id) {
            self.by_sender.remove(&sender);
            self.change(sender.1.ip(), |of| of.remove(&id));
        }
    }

    /// How many this network has.
    pub(super) fn of(&self, network: IpAddr) -> usize {
        self.networks.get(&network).map_or(0, BTreeSet::len)
    }

    /// The oldest this network has.
    pub(super) fn oldest_of(&self, network: IpAddr) -> Option<IkeId> {
        self.networks.get(&network)?.first().copied()
    }

    /// The network that has most.
    pub(super) fn busiest(&self) -> Option<IpAddr> {
        self.sizes.last().map(|(_, network)| *network)
    }

    fn change(&mut self, ip: IpAddr, change: impl FnOnce(&mut BTreeSet<IkeId>) -> bool) {
        let network = network(ip);
        let of = self.networks.entry(network).or_default();
        self.sizes.remove(&(of.len(), network));
        change(of);
        if of.is_empty() {
            self.networks.remove(&network);
        } else {
            self.sizes.insert((of.len(), network));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a list that is searched.
        #[test]
        fn the_counts_are_those_of_a_list(
            steps in proptest::collection::vec((any::<bool>(), 0u64..4, 0u8..6), 0..120),
        ) {
            let mut table = HalfOpenTable::default();
            let mut list: Vec<(Sender, IkeId)> = Vec::new();
            for (index, (add, spi, host)) in steps.into_iter().enumerate() {
                let ip: IpAddr = match host {
                    0..=2 => IpAddr::from([192, 0, 2, host]),
                    _ => format!("2001:db8:{}::{spi}", host % 2).parse().unwrap(),
                };
                let sender = (IkeSpi(spi), SocketAddr::new(ip, 500));
                if add {
                    let id = IkeId(index as u64);
                    list.retain(|(other, _)| *other != sender);
                    list.push((sender, id));
                    table.insert(sender.0, sender.1, id);
                } else if let Some(id) = table.find(sender.0, sender.1) {
                    list.retain(|(_, other)| *other != id);
                    table.remove(id);
                }
                prop_assert_eq!(table.len(), list.len());
                let of = |net| list.iter().filter(move |((_, a), _)| network(a.ip()) == net);
                let most = list.iter().map(|((_, a), _)| of(network(a.ip())).count()).max();
                prop_assert_eq!(table.busiest().map(|net| table.of(net)), most);
                for ((_, address), _) in &list {
                    let net = network(address.ip());
                    prop_assert_eq!(table.of(net), of(net).count());
                    prop_assert_eq!(table.oldest_of(net), of(net).map(|(_, id)| *id).min());
                }
            }
        }
    }
}
