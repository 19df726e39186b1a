use core::cell::RefCell;
use std::collections::BTreeMap;
use std::vec::Vec;

use super::*;
use crate::testing::{SPI, addr, esp, ethernet, ip, udp};
use mifsec_common::path::STATE_DOWN;

#[derive(Default)]
struct Fake {
    sas: BTreeMap<SaOutKey, SaOut>,
    paths: BTreeMap<u32, PathEntry>,
    counts: RefCell<BTreeMap<Reason, u64>>,
    sent: RefCell<Vec<(u32, u64, u64)>>,
    events: RefCell<Vec<&'static str>>,
}

impl World for Fake {
    fn sa_out(&self, key: &SaOutKey) -> Option<&SaOut> {
        self.sas.get(key)
    }
    fn path(&self, index: u32) -> Option<&PathEntry> {
        self.paths.get(&index)
    }
    fn count(&self, reason: Reason, n: u64) {
        *self.counts.borrow_mut().entry(reason).or_default() += n;
    }
    fn sent(&self, path: u32, packets: u64, octets: u64) {
        self.sent.borrow_mut().push((path, packets, octets));
    }
    fn oversize(&self, _: u32, _: &PathEntry, _: &SaOutKey, _: u32) {
        self.events.borrow_mut().push("oversize");
    }
    fn no_path(&self, _: &SaOutKey) {
        self.events.borrow_mut().push("no path");
    }
}

const V4: (&str, &str) = ("240.0.0.1", "240.0.0.9");
const V6: (&str, &str) = ("fd6d:6966::1", "fd6d:6966::9");

fn entry(family: u32, state: u32) -> PathEntry {
    PathEntry {
        state,
        family,
        ifindex: 7,
        mtu: 1500,
        ..PathEntry::default()
    }
}

/// Path 0 is IPv4, path 1 IPv6, paths 2 and 3 alternates of each family.
fn world() -> Fake {
    let mut world = Fake::default();
    for anchor in [V4.1, V6.1] {
        world.sas.insert(
            SaOutKey {
                anchor: addr(anchor),
                spi: SPI,
            },
            SaOut {
                home_v4: 0,
                home_v6: 1,
                alt: [3, 2, NO_PATH],
                ..SaOut::default()
            },
        );
    }
    for (path, family) in [
        (0, FAMILY_V4),
        (1, FAMILY_V6),
        (2, FAMILY_V4),
        (3, FAMILY_V6),
    ] {
        world.paths.insert(path, entry(family, STATE_UP));
    }
    world
}

fn frame((src, dst): (&str, &str), encapsulated: bool, len: usize) -> Vec<u8> {
    let esp = esp(len);
    ethernet(&if encapsulated {
        ip(src, dst, protocol::UDP, &udp(4500, 4500, &esp))
    } else {
        ip(src, dst, protocol::ESP, &esp)
    })
}

fn single(frame: &[u8]) -> Meta {
    Meta {
        len: u32::try_from(frame.len()).unwrap(),
        gso_size: 0,
        segments: 1,
    }
}

fn path_of(world: &Fake, frame: &[u8]) -> Result<u32, Reason> {
    plan(frame, &single(frame), world)?;
    Ok(world.sent.borrow().last().unwrap().0)
}

#[test]
fn each_family_takes_its_own_home_with_udp_and_without() {
    for (addresses, path) in [(V4, 0), (V6, 1)] {
        for encapsulated in [true, false] {
            let frame = frame(addresses, encapsulated, 100);
            let world = world();
            let plan = plan(&frame[..], &single(&frame), &world).unwrap();
            assert_eq!(plan.ports.is_some(), encapsulated);
            assert_eq!(
                world.sent.borrow()[..],
                [(path, 1, frame.len() as u64 - 14)]
            );
        }
    }
}

#[test]
fn every_truncation_is_malformed_and_nothing_is_sent() {
    for addresses in [V4, V6] {
        for encapsulated in [true, false] {
            let whole = frame(addresses, encapsulated, 0);
            // The sequence number is not read.
            let needed = whole.len() - 4;
            for len in 0..needed {
                let world = world();
                let refused = plan(&whole[..len], &single(&whole), &world);
                assert_eq!(refused.unwrap_err(), Reason::EGRESS_MALFORMED, "{len}");
                assert!(world.sent.borrow().is_empty());
                assert_eq!(world.counts.borrow()[&Reason::EGRESS_MALFORMED], 1);
            }
            assert!(plan(&whole[..needed], &single(&whole), &world()).is_ok());
        }
    }
}

#[test]
fn a_home_that_is_down_diverts_to_the_alternate_of_the_family() {
    let mut world = world();
    world.paths.insert(0, entry(FAMILY_V4, STATE_DOWN));
    assert_eq!(path_of(&world, &frame(V4, true, 0)), Ok(2));
    assert_eq!(world.counts.borrow()[&Reason::DIVERTED], 1);

    world.paths.remove(&2);
    assert_eq!(path_of(&world, &frame(V4, true, 0)), Err(Reason::NO_PATH));
    assert_eq!(world.events.borrow()[..], ["no path"]);
    assert_eq!(path_of(&world, &frame(V6, true, 0)), Ok(1));
}

#[test]
fn an_unknown_spi_or_anchor_has_no_sa() {
    let mut frame = frame(V4, true, 0);
    frame[42] ^= 1;
    assert_eq!(path_of(&world(), &frame), Err(Reason::NO_SA));
    frame[42] ^= 1;
    frame[33] ^= 1;
    assert_eq!(path_of(&world(), &frame), Err(Reason::NO_SA));
}

#[test]
fn the_mtu_holds_for_segments_and_not_for_the_gso_packet() {
    let world = world();
    let big = frame(V4, true, 60_000);
    let mut meta = single(&big);
    assert_eq!(plan(&big[..], &meta, &world).unwrap_err(), Reason::MTU);
    assert_eq!(world.events.borrow()[..], ["oversize"]);

    // 20 + 8 + 1472 is exactly the path's MTU.
    (meta.gso_size, meta.segments) = (1472, 41);
    assert!(plan(&big[..], &meta, &world).is_ok());
    let ip_len = big.len() as u64 - 14;
    assert_eq!(world.sent.borrow()[..], [(0, 41, ip_len + 40 * 28)]);
    meta.gso_size = 1473;
    assert_eq!(plan(&big[..], &meta, &world).unwrap_err(), Reason::MTU);
}

#[test]
fn what_the_agent_never_sends_is_refused() {
    let mut options = frame(V4, true, 0);
    options[14] = 0x46;
    assert_eq!(path_of(&world(), &options), Err(Reason::EGRESS_MALFORMED));
    let mut fragment = frame(V4, true, 0);
    fragment[20] = 0x20;
    assert_eq!(path_of(&world(), &fragment), Err(Reason::EGRESS_MALFORMED));
    let tcp = ethernet(&ip(V4.0, V4.1, protocol::TCP, &[0; 40]));
    assert_eq!(path_of(&world(), &tcp), Err(Reason::EGRESS_MALFORMED));
}

#[test]
fn differences_name_only_the_addresses_of_the_family() {
    for (addresses, new) in [
        (V4, ("192.0.2.1", "198.51.100.7")),
        (V6, ("2001:db8::1", "2001:db8:9::2")),
    ] {
        let frame = frame(addresses, true, 0);
        let ip = ip_fixed(&frame[..], ETHERNET_LEN).unwrap();
        let (src, dst) = (addr(new.0), addr(new.1));
        let there = address_difference(&ip, &src, &dst);
        let changed = checksum::apply([0x12, 0x34], there);
        assert_ne!(changed, [0x12, 0x34]);
        let back = address_difference(&Ip { src, dst, ..ip }, &ip.src, &ip.dst);
        assert_eq!(checksum::apply(changed, back), [0x12, 0x34]);
    }
}
