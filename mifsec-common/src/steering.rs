//! Which member of a bundle a flow takes: one pure function for the data plane
//! and the programs.
//!
//! A flow's symmetric hash picks one of 256 buckets; the table says which member
//! a bucket belongs to. The table is a function of weights and usability alone,
//! so both ends of a queue and a restarted agent agree on it.

use crate::octets::Octets;
use crate::parse::{self, Fragment, protocol};

/// Buckets of a table.
pub const BUCKETS: usize = 256;
/// Bucket → index of a member.
pub type Table = [u8; BUCKETS];
/// "No member is usable" in a [`Table`].
pub const NO_MEMBER: u8 = 255;

/// What a table needs to know of a bundle's member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Share of the flows, relative to the other members. A member of weight 0
    /// gets flows only when no usable member has a weight.
    pub weight: u32,
    /// Whether it can carry packets now.
    pub usable: bool,
}

/// The table for `members` (the first 255 count).
///
/// Each bucket has an ideal member: quotas by largest remainder over all
/// members. It keeps that member while it is usable, whatever happens to
/// others; the buckets of unusable members are spread so that the usable ones
/// come within one bucket of their share.
#[must_use]
pub fn table(members: &[Member]) -> Table {
    let members = members.get(..NO_MEMBER as usize).unwrap_or(members);
    let mut table = [NO_MEMBER; BUCKETS];
    let ideal = quotas(members, |_| true);
    let target = quotas(members, |m| m.usable);

    let mut have = [0u16; BUCKETS];
    let mut next = 0;
    for ((i, quota), member) in ideal.iter().enumerate().zip(members) {
        let end = next + usize::from(*quota);
        if member.usable {
            for bucket in table.iter_mut().take(end).skip(next) {
                *bucket = narrow(i);
            }
            if let Some(have) = have.get_mut(i) {
                *have = *quota;
            }
        }
        next = end;
    }
    for bucket in table.iter_mut().filter(|b| **b == NO_MEMBER) {
        let neediest = members
            .iter()
            .zip(target.iter().zip(have.iter_mut()))
            .enumerate()
            .filter(|(_, (m, (target, _)))| m.usable && **target > 0)
            .max_by_key(|(i, (_, (target, have)))| {
                (i32::from(**target) - i32::from(**have), usize::MAX - i)
            });
        if let Some((i, (_, (_, have)))) = neediest {
            *bucket = narrow(i);
            *have += 1;
        }
    }
    table
}

/// The member of a flow with this `hash`; [`NO_MEMBER`] when none is usable.
#[inline(always)]
#[must_use]
pub const fn member(table: &Table, hash: u32) -> u8 {
    table[(hash & (BUCKETS as u32 - 1)) as usize]
}

/// Hash of a packet's flow: the same for both directions.
///
/// Addresses, protocol and ports; of a fragment (the first included) addresses
/// and identification only, so that all parts of a packet go one way. A packet
/// too short to have an IP header hashes to 0.
#[must_use]
pub fn flow_hash(inner_packet: &[u8]) -> u32 {
    flow_hash_of(inner_packet)
}

/// [`flow_hash`] over anything readable.
#[inline(always)]
#[must_use]
pub fn flow_hash_of<P: Octets + ?Sized>(packet: &P) -> u32 {
    let Ok(ip) = parse::ip_fixed(packet, 0) else {
        return 0;
    };
    let (mut src, mut dst) = (SEED, SEED);
    let (s, d) = (ip.src.words(), ip.dst.words());
    let mut salt = u32::from(ip.protocol);
    if !ip.v4 {
        src = step(step(step(src, s[0]), s[1]), s[2]);
        dst = step(step(step(dst, d[0]), d[1]), d[2]);
    }
    src = step(src, s[3]);
    dst = step(dst, d[3]);
    if ip.v4 && !matches!(ip.fragment, Fragment::Whole) {
        let id: [u8; 2] = packet.load(4).unwrap_or([0; 2]);
        salt |= u32::from(u16::from_be_bytes(id)) << 8;
    } else if ip.protocol == protocol::FRAGMENT {
        let id: [u8; 4] = packet.load(ip.transport + 4).unwrap_or([0; 4]);
        salt = u32::from_be_bytes(id);
    } else if parse::has_ports(ip.protocol) {
        let ports: [u8; 4] = packet.load(ip.transport).unwrap_or([0; 4]);
        src = step(src, u32::from(u16::from_be_bytes([ports[0], ports[1]])));
        dst = step(dst, u32::from(u16::from_be_bytes([ports[2], ports[3]])));
    }
    // The sum makes it symmetric; mixing each side first keeps a = b apart
    // from small differences that would cancel out.
    finish(step(finish(src).wrapping_add(finish(dst)), salt))
}

/// Hash of the inner destination alone: what a gateway spreads subscribers by.
#[inline(always)]
#[must_use]
pub fn destination_hash_of<P: Octets + ?Sized>(packet: &P) -> u32 {
    let Ok(ip) = parse::ip_fixed(packet, 0) else {
        return 0;
    };
    let d = ip.dst.words();
    finish(step(step(step(step(SEED, d[0]), d[1]), d[2]), d[3]))
}

const SEED: u32 = 0x6d69_6673;

/// Murmur3's block step.
#[inline(always)]
const fn step(hash: u32, word: u32) -> u32 {
    let k = word
        .wrapping_mul(0xcc9e_2d51)
        .rotate_left(15)
        .wrapping_mul(0x1b87_3593);
    (hash ^ k)
        .rotate_left(13)
        .wrapping_mul(5)
        .wrapping_add(0xe654_6b64)
}

/// Murmur3's finaliser.
#[inline(always)]
const fn finish(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// Buckets per member by largest remainder; ties go to the lower index.
fn quotas(members: &[Member], counts: impl Fn(&Member) -> bool) -> [u16; BUCKETS] {
    let mut quotas = [0u16; BUCKETS];
    let weighted = members.iter().any(|m| counts(m) && m.weight > 0);
    let weight = |m: &Member| match (counts(m), weighted) {
        (false, _) => 0,
        (true, true) => u64::from(m.weight),
        (true, false) => 1,
    };
    let sum: u64 = members.iter().map(weight).sum();
    if sum == 0 {
        return quotas;
    }
    let mut left = BUCKETS;
    for (quota, m) in quotas.iter_mut().zip(members) {
        let share = weight(m) * BUCKETS as u64 / sum;
        *quota = u16::try_from(share).unwrap_or(0);
        left -= usize::from(*quota);
    }
    let mut raised = [false; BUCKETS];
    // Fewer than one bucket per member is left, so no member is raised twice.
    for _ in 0..left {
        let next = members
            .iter()
            .zip(raised.iter_mut().zip(quotas.iter_mut()))
            .enumerate()
            .filter(|(_, (m, (raised, _)))| !**raised && weight(m) > 0)
            .max_by_key(|(i, (m, _))| (weight(m) * BUCKETS as u64 % sum, usize::MAX - i));
        if let Some((_, (_, (raised, quota)))) = next {
            *raised = true;
            *quota += 1;
        }
    }
    quotas
}

/// Indexes are below 255: `table` cuts the members.
const fn narrow(index: usize) -> u8 {
    if index < NO_MEMBER as usize {
        index as u8
    } else {
        NO_MEMBER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn members(weights: &[u32]) -> Vec<Member> {
        weights
            .iter()
            .map(|&weight| Member {
                weight,
                usable: true,
            })
            .collect()
    }

    fn count(table: &Table, member: usize) -> i64 {
        table.iter().filter(|m| usize::from(**m) == member).count() as i64
    }

    fn v4_udp(src: u32, dst: u32, sport: u16, dport: u16) -> Vec<u8> {
        let mut p = std::vec![0u8; 28];
        p[0] = 0x45;
        p[9] = 17;
        p[12..16].copy_from_slice(&src.to_be_bytes());
        p[16..20].copy_from_slice(&dst.to_be_bytes());
        p[20..22].copy_from_slice(&sport.to_be_bytes());
        p[22..24].copy_from_slice(&dport.to_be_bytes());
        p
    }

    #[test]
    fn quotas_are_within_one_bucket_of_the_weights_whoever_is_usable() {
        for weights in [
            &[70, 30][..],
            &[1, 1, 1],
            &[1],
            &[u32::MAX, u32::MAX, 1],
            &[5, 0, 9, 13, 2, 7],
            &[3; 100],
        ] {
            for down in 0..(1usize << weights.len().min(6)) {
                let mut members = members(weights);
                for (i, m) in members.iter_mut().enumerate() {
                    m.usable = down & (1 << i.min(20)) == 0;
                }
                let table = table(&members);
                let sum: u64 = members
                    .iter()
                    .filter(|m| m.usable)
                    .map(|m| u64::from(m.weight))
                    .sum();
                if sum == 0 {
                    continue;
                }
                for (i, m) in members.iter().enumerate() {
                    let share = if m.usable { u64::from(m.weight) } else { 0 };
                    let exact = share as f64 * 256.0 / sum as f64;
                    let got = count(&table, i) as f64;
                    assert!(
                        (got - exact).abs() <= 1.0,
                        "{weights:?} {down:b} {i}: {got} {exact}"
                    );
                }
                assert_eq!(count(&table, usize::from(NO_MEMBER)), 0);
            }
        }
    }

    #[test]
    fn a_member_going_down_moves_only_its_own_buckets_and_they_come_back() {
        let mut members = members(&[70, 30, 50]);
        let before = table(&members);
        members[1].usable = false;
        let during = table(&members);
        for (b, d) in before.iter().zip(&during) {
            if *b == 1 {
                assert!(*d == 0 || *d == 2);
            } else {
                assert_eq!(b, d);
            }
        }
        members[1].usable = true;
        assert_eq!(table(&members), before);
    }

    #[test]
    fn nothing_usable_is_no_member_and_weightless_members_are_the_last_resort() {
        let mut none = members(&[1, 2]);
        none.iter_mut().for_each(|m| m.usable = false);
        assert_eq!(table(&none), [NO_MEMBER; BUCKETS]);
        assert_eq!(table(&[]), [NO_MEMBER; BUCKETS]);
        let mut spare = members(&[10, 0, 0]);
        assert_eq!(table(&spare), [0; BUCKETS]);
        spare[0].usable = false;
        let t = table(&spare);
        assert_eq!((count(&t, 1), count(&t, 2)), (128, 128));
    }

    #[test]
    fn more_members_than_a_table_can_name_do_no_harm() {
        let t = table(&members(&[1; 300]));
        assert_eq!(count(&t, usize::from(NO_MEMBER)), 0);
    }

    #[test]
    fn both_directions_of_a_flow_hash_alike() {
        let out = v4_udp(0x0a00_0001, 0xc000_0201, 40_000, 443);
        let back = v4_udp(0xc000_0201, 0x0a00_0001, 443, 40_000);
        assert_eq!(flow_hash(&out), flow_hash(&back));
        assert_ne!(
            flow_hash(&out),
            flow_hash(&v4_udp(0x0a00_0001, 0xc000_0201, 40_001, 443))
        );
    }

    #[test]
    fn fragments_of_a_packet_hash_alike_and_short_packets_do_not_panic() {
        let mut first = v4_udp(1, 2, 3, 4);
        first[4..6].copy_from_slice(&77u16.to_be_bytes());
        first[6] = 0x20;
        let mut later = v4_udp(1, 2, 0xdead, 0xbeef);
        later[4..6].copy_from_slice(&77u16.to_be_bytes());
        later[7] = 185;
        assert_eq!(flow_hash(&first), flow_hash(&later));
        for len in 0..first.len() {
            let _ = flow_hash(&first[..len]);
        }
        assert_eq!(flow_hash(&first[..19]), 0);
        assert_eq!(flow_hash(&[]), 0);
    }

    #[test]
    fn near_identical_flows_spread_evenly_over_the_buckets() {
        // 64 sequential source ports are what a lab or a download manager makes.
        let mut used = std::collections::BTreeSet::new();
        for port in 0..64 {
            used.insert(flow_hash(&v4_udp(0x0a42_0002, 0x0a63_0002, 5_000 + port, 6_000)) & 255);
        }
        assert!(used.len() > 45, "{}", used.len());

        let mut buckets = [0f64; BUCKETS];
        let flows = 256 * 256;
        for i in 0..flows {
            let p = v4_udp(
                0x0a42_0000 + i / 256,
                0x0a63_0002,
                (i % 256) as u16 + 1024,
                443,
            );
            buckets[(flow_hash(&p) & 255) as usize] += 1.0;
        }
        let expected = f64::from(flows) / 256.0;
        let chi: f64 = buckets
            .iter()
            .map(|b| (b - expected).powi(2) / expected)
            .sum();
        // 255 degrees of freedom: mean 255, standard deviation 22.6.
        assert!((140.0..370.0).contains(&chi), "{chi}");
    }

    #[test]
    fn ipv6_flows_hash_by_all_of_the_address() {
        let mut p = std::vec![0u8; 48];
        p[0] = 0x60;
        p[6] = 6;
        let base = flow_hash(&p);
        for at in [8, 23, 24, 39, 40, 43] {
            let mut q = p.clone();
            q[at] ^= 1;
            assert_ne!(flow_hash(&q), base, "{at}");
        }
    }
}
