//! Inner addresses a gateway leases (RFC 7296 2.19, 3.15).
//!
//! A pool is one or more prefixes per family. The address of an identity is
//! looked for from a place its name hashes to, and kept for it after release
//! until no fresh address is left: the same identity gets the same address. An
//! identity is one of the `[[peer]]` entry that proved it: under another entry
//! the same name is somebody else. It may hold several addresses of a family (R12),
//! a bounded number; its n-th is looked for as if it were a name of its own, so that
//! each is the same again.
//! Network and broadcast address, the first host address (the gateway's own)
//! and what `exclude` covers are never leased. Memory is bounded by leases,
//! not by the size of the prefix: of IPv6 prefixes only the low 32 bits vary.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::ids::Family;

/// Released addresses remembered for their identity, per family.
const MAX_REMEMBERED: usize = 65_536;

/// Addresses of one family an identity may hold.
pub const MAX_LEASES: usize = 16;

/// A pool as configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolConfig {
    /// What peers refer to it by.
    pub name: String,
    /// Prefixes of either family.
    pub cidr: Vec<IpNet>,
    /// Never leased.
    pub exclude: Vec<IpNet>,
    /// Resolvers handed out with the leases.
    pub dns: Vec<IpAddr>,
    /// Domains the resolvers are for; empty for all (RFC 8598).
    pub domains: Vec<String>,
}

/// Why a pool cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Two of its prefixes overlap.
    #[error("pool \"{pool}\": {first} and {second} overlap; keep one of them")]
    Overlap {
        /// Which pool.
        pool: String,
        /// One prefix.
        first: IpNet,
        /// The other.
        second: IpNet,
    },
    /// A prefix without an address to lease.
    #[error("pool \"{pool}\": {cidr} has no address to lease; use a shorter prefix")]
    TooSmall {
        /// Which pool.
        pool: String,
        /// The prefix.
        cidr: IpNet,
    },
}

/// Why there is no lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The pool has no prefix of that family.
    #[error("pool has no prefix of that family")]
    NoFamily,
    /// Every address is held.
    #[error("pool is exhausted")]
    Exhausted,
}

/// A pool in use.
#[derive(Debug)]
pub struct Pool {
    config: PoolConfig,
    v4: Space,
    v6: Space,
}

impl Pool {
    /// Checks the configuration.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn new(config: PoolConfig) -> Result<Self, PoolError> {
        for (index, first) in config.cidr.iter().enumerate() {
            for second in config.cidr.iter().skip(index + 1) {
                if first.contains(&second.network()) || second.contains(&first.network()) {
                    return Err(PoolError::Overlap {
                        pool: config.name.clone(),
                        first: *first,
                        second: *second,
                    });
                }
            }
        }
        let space = |family| Space::new(&config, family);
        let (v4, v6) = (space(Family::V4)?, space(Family::V6)?);
        Ok(Self { config, v4, v6 })
    }

    /// As configured.
    #[must_use]
    pub const fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Leases an address to an identity of the peer entry `entry`. A second lease
    /// of the same is the same address, and is held until released as often as
    /// leased.
    ///
    /// # Errors
    /// [`LeaseError`].
    pub fn lease(
        &mut self,
        entry: &str,
        identity: &str,
        family: Family,
    ) -> Result<IpAddr, LeaseError> {
        self.space(family).lease(entry, identity)
    }

    /// Leases an identity one more address beside those it holds in `held`: the
    /// first of its [`MAX_LEASES`] that is not among them.
    ///
    /// # Errors
    /// [`LeaseError`]; `Exhausted` also when it has all it may.
    pub fn lease_beside(
        &mut self,
        entry: &str,
        identity: &str,
        family: Family,
        held: &[IpAddr],
    ) -> Result<IpAddr, LeaseError> {
        let space = self.space(family);
        let held = |space: &Space, name: &str| {
            let address = space.address_of(&holder(entry, name));
            address.is_some_and(|address| held.contains(&address))
        };
        let name = (0..MAX_LEASES)
            .map(|place| nth(identity, place))
            .find(|name| !held(space, name))
            .ok_or(LeaseError::Exhausted)?;
        space.lease(entry, &name)
    }

    /// Gives one lease back; nothing happens if the identity does not hold it.
    pub fn release(&mut self, entry: &str, identity: &str, address: IpAddr) {
        let space = self.space(Family::of(address));
        let held = (0..MAX_LEASES)
            .map(|place| holder(entry, &nth(identity, place)))
            .find(|holder| space.address_of(holder) == Some(address));
        if let Some(holder) = held {
            space.release(&holder);
        }
    }

    /// Addresses held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.v4.holders + self.v6.holders
    }

    /// Whether `address` is from this pool's prefixes.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.config.cidr.iter().any(|net| net.contains(&address))
    }

    const fn space(&mut self, family: Family) -> &mut Space {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// The leasable addresses of one family, numbered through all prefixes.
#[derive(Debug)]
struct Space {
    ranges: Vec<Range>,
    size: u64,
    /// Numbers held or remembered, a bit each, by word.
    taken: BTreeMap<u64, u64>,
    leases: BTreeMap<String, Lease>,
    /// Released holders, oldest first; entries may be stale.
    released: VecDeque<(String, u64)>,
    holders: usize,
    releases: u64,
}

/// Numbers `first .. first + count` are `base`, `base + 1` and so on.
#[derive(Debug)]
struct Range {
    first: u64,
    count: u64,
    base: IpAddr,
}

#[derive(Debug)]
struct Lease {
    number: u64,
    holders: u32,
    /// Which release made it unheld.
    released: u64,
}

impl Space {
    fn new(config: &PoolConfig, family: Family) -> Result<Self, PoolError> {
        let mut space = Self {
            ranges: Vec::new(),
            size: 0,
            taken: BTreeMap::new(),
            leases: BTreeMap::new(),
            released: VecDeque::new(),
            holders: 0,
            releases: 0,
        };
        let of_family = |net: &&IpNet| Family::of(net.network()) == family;
        for cidr in config.cidr.iter().filter(of_family) {
            let before = space.size;
            for (base, count) in leasable(*cidr, &config.exclude) {
                let first = space.size;
                space.size += count;
                space.ranges.push(Range { first, count, base });
            }
            if space.size == before {
                return Err(PoolError::TooSmall {
                    pool: config.name.clone(),
                    cidr: *cidr,
                });
            }
        }
        Ok(space)
    }

    fn lease(&mut self, entry: &str, identity: &str) -> Result<IpAddr, LeaseError> {
        if self.size == 0 {
            return Err(LeaseError::NoFamily);
        }
        let holder = holder(entry, identity);
        if let Some(lease) = self.leases.get_mut(&holder) {
            self.holders += usize::from(lease.holders == 0);
            lease.holders += 1;
            let number = lease.number;
            return self.address(number).ok_or(LeaseError::Exhausted);
        }
        let number = match self.free(hash(identity) % self.size) {
            Some(number) => number,
            None => self.reclaim().ok_or(LeaseError::Exhausted)?,
        };
        *self.taken.entry(number / 64).or_default() |= 1 << (number % 64);
        self.holders += 1;
        let lease = Lease {
            number,
            holders: 1,
            released: 0,
        };
        self.leases.insert(holder, lease);
        self.address(number).ok_or(LeaseError::Exhausted)
    }

    fn release(&mut self, holder: &str) {
        let Some(lease) = self.leases.get_mut(holder) else {
            return;
        };
        if lease.holders == 0 {
            return;
        }
        lease.holders -= 1;
        if lease.holders > 0 {
            return;
        }
        self.releases += 1;
        lease.released = self.releases;
        self.holders -= 1;
        self.released.push_back((holder.to_owned(), self.releases));
        if self.released.len() > MAX_REMEMBERED {
            self.forget_oldest();
        }
    }

    /// Forgets the holder whose release is longest ago; its address.
    fn reclaim(&mut self) -> Option<u64> {
        while !self.released.is_empty() {
            if let Some(number) = self.forget_oldest() {
                return Some(number);
            }
        }
        None
    }

    fn forget_oldest(&mut self) -> Option<u64> {
        let (holder, release) = self.released.pop_front()?;
        let lease = self.leases.get(&holder)?;
        if lease.holders > 0 || lease.released != release {
            return None;
        }
        let number = lease.number;
        self.leases.remove(&holder);
        if let Some(word) = self.taken.get_mut(&(number / 64)) {
            *word &= !(1 << (number % 64));
            if *word == 0 {
                self.taken.remove(&(number / 64));
            }
        }
        Some(number)
    }

    /// The first free number from `start` on, around the end.
    fn free(&self, start: u64) -> Option<u64> {
        let words = self.size.div_ceil(64);
        let (start_word, start_bit) = (start / 64, start % 64);
        (0..=words).find_map(|step| {
            let word = (start_word + step) % words;
            let mut taken = self.taken.get(&word).copied().unwrap_or(0);
            if step == 0 {
                taken |= (1 << start_bit) - 1;
            }
            let number = word * 64 + u64::from(taken.trailing_ones());
            (taken != u64::MAX && number < self.size).then_some(number)
        })
    }

    /// What a holder has or had last.
    fn address_of(&self, holder: &str) -> Option<IpAddr> {
        self.address(self.leases.get(holder)?.number)
    }

    fn address(&self, number: u64) -> Option<IpAddr> {
        let range = self
            .ranges
            .iter()
            .find(|range| number >= range.first && number - range.first < range.count)?;
        add(range.base, number - range.first)
    }
}

/// The name an identity has its `place`-th address under.
fn nth(identity: &str, place: usize) -> String {
    match place {
        0 => identity.to_owned(),
        _ => format!("{identity}\0{place}"),
    }
}

/// Whom a lease belongs to. No name has a NUL in it.
fn holder(entry: &str, identity: &str) -> String {
    format!("{entry}\0{identity}")
}

/// FNV-1a: spreads names over the pool, the same way after a restart.
fn hash(identity: &str) -> u64 {
    identity.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The runs of leasable addresses of one prefix.
fn leasable(cidr: IpNet, exclude: &[IpNet]) -> Vec<(IpAddr, u64)> {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len()).min(32);
    let size = 1u64 << bits;
    // A lone address or pair has neither network nor gateway in it.
    let (mut start, mut end) = (0, size);
    if bits >= 2 {
        start = 2;
        end = if cidr.network().is_ipv4() {
            size - 1
        } else {
            size
        };
    }
    let base = cidr.network();
    let mut holes: Vec<(u64, u64)> = exclude
        .iter()
        .filter_map(|net| hole(base, size, *net))
        .collect();
    holes.sort_unstable();
    let mut runs = Vec::new();
    for (first, after) in holes {
        push_run(&mut runs, base, start, first.min(end));
        start = start.max(after);
    }
    push_run(&mut runs, base, start, end);
    runs
}

fn push_run(runs: &mut Vec<(IpAddr, u64)>, base: IpAddr, start: u64, end: u64) {
    if start < end
        && let Some(first) = add(base, start)
    {
        runs.push((first, end - start));
    }
}

/// The part of `net` within `size` addresses from `base`, as offsets.
fn hole(base: IpAddr, size: u64, net: IpNet) -> Option<(u64, u64)> {
    if base.is_ipv4() != net.network().is_ipv4() {
        return None;
    }
    let base = number(base);
    let last = base + u128::from(size - 1);
    let (first, end) = (
        number(net.network()).max(base),
        number(net.broadcast()).min(last),
    );
    if first > end {
        return None;
    }
    let offset = |n: u128| u64::try_from(n - base).ok();
    Some((offset(first)?, offset(end)? + 1))
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn add(base: IpAddr, offset: u64) -> Option<IpAddr> {
    match base {
        IpAddr::V4(base) => {
            let offset = u32::try_from(offset).ok()?;
            u32::from(base)
                .checked_add(offset)
                .map(|ip| Ipv4Addr::from(ip).into())
        }
        IpAddr::V6(base) => u128::from(base)
            .checked_add(u128::from(offset))
            .map(|ip| Ipv6Addr::from(ip).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ENTRY: &str = "staff";

    fn pool(cidr: &[&str], exclude: &[&str]) -> Result<Pool, PoolError> {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        Pool::new(PoolConfig {
            name: "subscribers".to_owned(),
            cidr: nets(cidr),
            exclude: nets(exclude),
            dns: Vec::new(),
            domains: Vec::new(),
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Gives back the first address of an identity.
    fn release(pool: &mut Pool, entry: &str, identity: &str, family: Family) {
        let address = pool.space(family).address_of(&holder(entry, identity));
        if let Some(address) = address {
            pool.release(entry, identity, address);
        }
    }

    /// Leases to new identities until there is none left.
    fn drain(pool: &mut Pool, family: Family) -> BTreeSet<IpAddr> {
        let mut all = BTreeSet::new();
        for n in 0.. {
            match pool.lease(ENTRY, &format!("user{n}@example.org"), family) {
                Ok(address) => assert!(all.insert(address), "{address} leased twice"),
                Err(error) => {
                    assert_eq!(error, LeaseError::Exhausted);
                    break;
                }
            }
        }
        all
    }

    #[test]
    fn every_address_but_network_gateway_and_broadcast_is_leased_once() {
        let mut pool = pool(&["10.66.0.0/24"], &[]).unwrap();
        let all = drain(&mut pool, Family::V4);
        let expected = (2..255u8).map(|n| IpAddr::from([10, 66, 0, n])).collect();
        assert_eq!(all, expected);
        assert_eq!(pool.held(), 253);
        assert!(pool.contains(ip("10.66.0.1")) && !pool.contains(ip("10.66.1.1")));
    }

    #[test]
    fn excluded_addresses_are_never_leased() {
        let mut pool = pool(
            &["10.66.0.0/28"],
            &["10.66.0.0/30", "10.66.0.9/32", "192.0.2.0/24"],
        );
        let all = drain(pool.as_mut().unwrap(), Family::V4);
        let expected = [4, 5, 6, 7, 8, 10, 11, 12, 13, 14];
        assert_eq!(all, expected.map(|n| IpAddr::from([10, 66, 0, n])).into());
    }

    #[test]
    fn an_excluded_prefix_wider_than_the_pool_leaves_nothing() {
        let error = pool(&["10.66.0.0/28"], &["10.0.0.0/8"]).unwrap_err();
        assert!(matches!(error, PoolError::TooSmall { .. }));
        assert!(pool(&["10.66.0.0/28"], &["::/0"]).is_ok());
    }

    #[test]
    fn a_second_prefix_is_used_when_the_first_is_full() {
        let mut pool = pool(&["10.66.0.0/30", "10.77.0.0/30", "10.88.0.4/32"], &[]).unwrap();
        let all = drain(&mut pool, Family::V4);
        assert_eq!(
            all,
            [ip("10.66.0.2"), ip("10.77.0.2"), ip("10.88.0.4")].into()
        );
    }

    #[test]
    fn the_same_identity_gets_the_same_address_while_held_after_release_and_after_restart() {
        let fresh = || pool(&["10.66.0.0/16", "fd66::/64"], &[]).unwrap();
        let (mut one, mut other) = (fresh(), fresh());
        for family in [Family::V4, Family::V6] {
            let first = one.lease(ENTRY, "alice@example.org", family).unwrap();
            assert_eq!(one.lease(ENTRY, "alice@example.org", family), Ok(first));
            release(&mut one, ENTRY, "alice@example.org", family);
            release(&mut one, ENTRY, "alice@example.org", family);
            drain_some(&mut one, family);
            assert_eq!(one.lease(ENTRY, "alice@example.org", family), Ok(first));
            assert_eq!(other.lease(ENTRY, "alice@example.org", family), Ok(first));
        }
    }

    #[test]
    fn the_same_name_under_another_entry_holds_another_address() {
        let mut pool = pool(&["10.66.0.0/24"], &[]).unwrap();
        let alice = pool.lease("staff", "alice", Family::V4).unwrap();
        let guest = pool.lease("guests", "alice", Family::V4).unwrap();
        assert_ne!(alice, guest);
        release(&mut pool, "guests", "alice", Family::V4);
        assert_eq!(pool.held(), 1);
        // Kept for whoever had it.
        release(&mut pool, "staff", "alice", Family::V4);
        assert_eq!(pool.lease("guests", "alice", Family::V4), Ok(guest));
        assert_eq!(pool.lease("staff", "alice", Family::V4), Ok(alice));
    }

    fn drain_some(pool: &mut Pool, family: Family) {
        for n in 0..1000 {
            pool.lease(ENTRY, &format!("other{n}"), family).unwrap();
        }
    }

    #[test]
    fn a_lease_is_held_until_released_as_often_as_taken() {
        let mut pool = pool(&["10.66.0.0/30"], &[]).unwrap();
        let address = pool.lease(ENTRY, "a", Family::V4).unwrap();
        pool.lease(ENTRY, "a", Family::V4).unwrap();
        release(&mut pool, ENTRY, "a", Family::V4);
        assert_eq!(
            pool.lease(ENTRY, "b", Family::V4),
            Err(LeaseError::Exhausted)
        );
        release(&mut pool, ENTRY, "a", Family::V4);
        release(&mut pool, ENTRY, "a", Family::V4);
        assert_eq!(pool.lease(ENTRY, "b", Family::V4), Ok(address));
        assert_eq!(pool.held(), 1);
        assert_eq!(
            pool.lease(ENTRY, "a", Family::V4),
            Err(LeaseError::Exhausted)
        );
    }

    #[test]
    fn the_address_released_longest_ago_is_given_away_first() {
        let mut pool = pool(&["10.66.0.0/29"], &[]).unwrap();
        let names = ["a", "b", "c", "d", "e"];
        let held = names.map(|name| pool.lease(ENTRY, name, Family::V4).unwrap());
        for name in ["c", "a", "c"] {
            release(&mut pool, ENTRY, name, Family::V4);
        }
        // "c" comes back and goes again: now "a" is the oldest.
        pool.lease(ENTRY, "c", Family::V4).unwrap();
        release(&mut pool, ENTRY, "c", Family::V4);
        assert_eq!(pool.lease(ENTRY, "new", Family::V4), Ok(held[0]));
        assert_eq!(pool.lease(ENTRY, "newer", Family::V4), Ok(held[2]));
        assert_eq!(
            pool.lease(ENTRY, "newest", Family::V4),
            Err(LeaseError::Exhausted)
        );
    }

    #[test]
    fn a_huge_v6_prefix_leases_within_its_low_32_bits_and_never_its_first_two() {
        let mut pool = pool(&["fd66::/64"], &[]).unwrap();
        for n in 0..2000 {
            let IpAddr::V6(address) = pool.lease(ENTRY, &n.to_string(), Family::V6).unwrap() else {
                panic!("an IPv6 address");
            };
            let low = u128::from(address) - u128::from("fd66::".parse::<Ipv6Addr>().unwrap());
            assert!((2..1 << 32).contains(&low));
        }
        assert_eq!(
            pool.lease(ENTRY, "x", Family::V4),
            Err(LeaseError::NoFamily)
        );
    }

    #[test]
    fn a_release_of_nothing_does_nothing() {
        let mut pool = pool(&["10.66.0.0/24"], &[]).unwrap();
        release(&mut pool, ENTRY, "nobody", Family::V4);
        pool.lease(ENTRY, "a", Family::V4).unwrap();
        release(&mut pool, ENTRY, "a", Family::V6);
        assert_eq!(pool.held(), 1);
    }

    #[test]
    fn memory_of_released_leases_is_bounded() {
        let mut pool = pool(&["fd66::/64"], &[]).unwrap();
        for n in 0..MAX_REMEMBERED + 100 {
            let name = n.to_string();
            pool.lease(ENTRY, &name, Family::V6).unwrap();
            release(&mut pool, ENTRY, &name, Family::V6);
        }
        assert!(pool.v6.leases.len() <= MAX_REMEMBERED);
        assert!(pool.v6.released.len() <= MAX_REMEMBERED);
        assert_eq!(pool.held(), 0);
        // One identity that comes and goes leaves no trail either.
        for _ in 0..MAX_REMEMBERED + 100 {
            pool.lease(ENTRY, "commuter", Family::V6).unwrap();
            release(&mut pool, ENTRY, "commuter", Family::V6);
        }
        assert!(pool.v6.released.len() <= MAX_REMEMBERED);
        assert!(pool.v6.leases.contains_key(&holder(ENTRY, "commuter")));
    }

    #[test]
    fn overlapping_prefixes_are_a_mistake() {
        let error = pool(&["10.66.0.0/16", "fd66::/64", "10.66.3.0/24"], &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pool \"subscribers\": 10.66.0.0/16 and 10.66.3.0/24 overlap; keep one of them"
        );
    }

    #[test]
    fn an_identity_holds_several_addresses_and_gets_each_of_them_again() {
        let fresh = || pool(&["10.66.0.0/24", "fd66::/64"], &[]).unwrap();
        let lease = |pool: &mut Pool, count: usize, family| {
            let mut held = Vec::new();
            for _ in 0..count {
                let next = pool.lease_beside(ENTRY, "alice", family, &held);
                held.extend(next);
            }
            held
        };
        let (mut one, mut other) = (fresh(), fresh());
        for family in [Family::V4, Family::V6] {
            let first = lease(&mut one, 3, family);
            let distinct: BTreeSet<_> = first.iter().collect();
            assert_eq!(distinct.len(), 3);
            assert_eq!(one.lease(ENTRY, "alice", family), Ok(first[0]));
            assert_eq!(lease(&mut other, 3, family), first, "after a restart");
            // The one in the middle goes and comes back: it is the same.
            let held = [first[0], first[2]];
            one.release(ENTRY, "alice", first[1]);
            let again = one.lease_beside(ENTRY, "alice", family, &held);
            assert_eq!(again, Ok(first[1]));
            // Somebody else's is not theirs to give back.
            let held = one.held();
            one.release(ENTRY, "bob", first[0]);
            assert_eq!(one.held(), held);
            let bob = lease(&mut one, 2, family);
            assert!(bob.iter().all(|b| one.contains(*b)));
        }
    }

    #[test]
    fn no_identity_takes_the_whole_pool() {
        let mut pool = pool(&["10.66.0.0/24"], &[]).unwrap();
        let mut held = Vec::new();
        while let Ok(address) = pool.lease_beside(ENTRY, "greedy", Family::V4, &held) {
            assert!(!held.contains(&address));
            held.push(address);
        }
        assert_eq!(held.len(), MAX_LEASES);
        assert_eq!(pool.held(), MAX_LEASES);
        for address in held {
            pool.release(ENTRY, "greedy", address);
        }
        assert_eq!(pool.held(), 0);
    }
}
