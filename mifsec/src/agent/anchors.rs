//! Anchor addresses: one of each family for each IKE SA, from a free list.
//!
//! ESP is sent to an anchor and never seen on a network; the programs look the
//! SA up by (anchor, SPI). The first sixteen hosts of a prefix are left for the
//! device itself.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

const FIRST: u32 = 16;

/// A pair of anchors in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Anchor {
    index: u32,
    /// For paths of IPv4.
    pub(super) v4: Ipv4Addr,
    /// For paths of IPv6.
    pub(super) v6: Ipv6Addr,
}

impl Anchor {
    /// The one for packets that will leave over `address`'s family.
    pub(super) fn like(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(_) => self.v4.into(),
            IpAddr::V6(_) => self.v6.into(),
        }
    }
}

/// What is left of the prefixes.
pub(super) struct Anchors {
    v4: Ipv4Net,
    v6: Ipv6Net,
    free: BTreeSet<u32>,
    next: u32,
    end: u32,
}

impl Anchors {
    pub(super) fn new((v4, v6): (Ipv4Net, Ipv6Net)) -> Self {
        let hosts = 1u64 << (32 - v4.prefix_len());
        Self {
            v4,
            v6,
            free: BTreeSet::new(),
            next: FIRST,
            // The last address of the prefix is its broadcast address.
            end: u32::try_from(hosts - 1).unwrap_or(u32::MAX),
        }
    }

    /// Takes a pair; `None` when the prefixes are used up.
    pub(super) fn take(&mut self) -> Option<Anchor> {
        let index = match self.free.pop_first() {
            Some(index) => index,
            None if self.next < self.end => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        Some(Anchor {
            index,
            v4: (u32::from(self.v4.network()) | index).into(),
            v6: (u128::from(self.v6.network()) | u128::from(index)).into(),
        })
    }

    /// Gives a pair back.
    pub(super) fn give(&mut self, anchor: Anchor) {
        self.free.insert(anchor.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchors(v4: &str) -> Anchors {
        Anchors::new((v4.parse().unwrap(), "fd6d:6966::/64".parse().unwrap()))
    }

    #[test]
    fn anchors_are_distinct_and_come_back() {
        let mut anchors = anchors("240.0.0.0/8");
        let a = anchors.take().unwrap();
        let b = anchors.take().unwrap();
        assert_eq!(a.v4, Ipv4Addr::new(240, 0, 0, 16));
        assert_eq!(b.v6, "fd6d:6966::11".parse::<Ipv6Addr>().unwrap());
        anchors.give(a);
        assert_eq!(anchors.take(), Some(a));
    }

    #[test]
    fn a_small_prefix_runs_out_instead_of_leaving_itself() {
        let mut anchors = anchors("198.18.7.0/24");
        let mut taken = 0;
        while let Some(anchor) = anchors.take() {
            assert!(anchors.v4.contains(&anchor.v4));
            assert_ne!(anchor.v4, anchors.v4.broadcast());
            taken += 1;
        }
        assert_eq!(taken, 256 - 16 - 1);
    }
}
