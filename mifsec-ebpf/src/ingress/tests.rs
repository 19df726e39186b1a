use core::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use super::*;
use crate::testing::{SPI, addr, esp, ethernet, ip, udp as udp_packet};
use mifsec_common::maps::PORT_IKE;

#[derive(Default)]
struct Fake {
    spis: BTreeSet<[u8; 4]>,
    local: BTreeSet<Addr>,
    arrivals: BTreeMap<PathKey, u32>,
    ike: Option<Reason>,
    exclusive: bool,
    counts: RefCell<BTreeMap<Reason, u64>>,
    received: RefCell<Vec<(u32, u64, u64)>>,
    news: RefCell<Vec<PathKey>>,
}

impl World for Fake {
    fn port(&self, port: [u8; 2]) -> u64 {
        match u16::from_be_bytes(port) {
            4500 => PORT_NAT_T,
            500 => PORT_IKE,
            _ => PORT_FOREIGN,
        }
    }
    fn knows_spi(&self, spi: [u8; 4]) -> bool {
        self.spis.contains(&spi)
    }
    fn is_local(&self, address: &Addr) -> bool {
        self.local.contains(address)
    }
    fn path_in(&self, key: &PathKey) -> Option<u32> {
        self.arrivals.get(key).copied()
    }
    fn received(&self, path: u32, packets: u64, octets: u64) {
        self.received.borrow_mut().push((path, packets, octets));
    }
    fn admit_ike(&self, _: &Addr, _: bool, cookie: bool) -> Result<(), Reason> {
        self.ike.filter(|_| !cookie).map_or(Ok(()), Err)
    }
    fn count(&self, reason: Reason, n: u64) {
        *self.counts.borrow_mut().entry(reason).or_default() += n;
    }
    fn new_source(&self, key: &PathKey, _: [u8; 4]) {
        self.news.borrow_mut().push(*key);
    }
    fn exclusive(&self) -> bool {
        self.exclusive
    }
}

const V4: (&str, &str) = ("203.0.113.1", "192.0.2.10");
const V6: (&str, &str) = ("2001:db8::1", "2001:db8:1::10");
const META: Meta = Meta {
    ifindex: 3,
    ethernet: true,
    segments: 1,
};

/// Knows the SPI; paths 5 (UDP) and 6 (native) for each family.
fn world() -> Fake {
    let mut world = Fake {
        spis: [SPI].into(),
        local: [addr(V4.1), addr(V6.1)].into(),
        ..Fake::default()
    };
    for (src, dst) in [V4, V6] {
        for (port, path) in [(4500u16, 5), (0, 6)] {
            let key = PathKey {
                ifindex: 3,
                local: addr(dst),
                remote: addr(src),
                remote_port: port.to_be_bytes(),
                reserved: [0; 2],
            };
            world.arrivals.insert(key, path);
        }
    }
    world
}

fn udp_frame((src, dst): (&str, &str), dport: u16, payload: &[u8]) -> Vec<u8> {
    ethernet(&ip(
        src,
        dst,
        protocol::UDP,
        &udp_packet(4500, dport, payload),
    ))
}

fn native_frame((src, dst): (&str, &str)) -> Vec<u8> {
    ethernet(&ip(src, dst, protocol::ESP, &esp(40)))
}

fn init(marker: bool) -> Vec<u8> {
    let mut p = if marker { [0; 4].to_vec() } else { Vec::new() };
    p.extend([7; 8]);
    p.extend([0; 8]);
    p.extend([33, 0x20, 34, 0x08, 0, 0, 0, 0, 0, 0, 0, 28]);
    p
}

#[test]
fn a_known_spi_passes_and_is_counted_on_its_path() {
    for addresses in [V4, V6] {
        for (frame, path) in [
            (udp_frame(addresses, 4500, &esp(40)), 5),
            (native_frame(addresses), 6),
        ] {
            let world = world();
            assert_eq!(judge(&frame[..], &META, &world), Verdict::Pass);
            let octets = frame.len() as u64 - 14;
            assert_eq!(world.received.borrow()[..], [(path, 1, octets)]);
            assert!(world.counts.borrow().is_empty());

            let world = self::world();
            let bare = Meta {
                ethernet: false,
                ..META
            };
            assert_eq!(judge(&frame[14..], &bare, &world), Verdict::Pass);
            assert_eq!(world.received.borrow()[..], [(path, 1, octets)]);
        }
    }
}

#[test]
fn no_truncation_is_dropped_and_none_without_its_spi_is_counted_on_a_path() {
    for addresses in [V4, V6] {
        let transport = if addresses == V4 { 34 } else { 54 };
        for (whole, spi_ends) in [
            (udp_frame(addresses, 4500, &esp(0)), transport + 12),
            (native_frame(addresses), transport + 4),
            (udp_frame(addresses, 500, &init(false)), usize::MAX),
            (udp_frame(addresses, 4500, &init(true)), usize::MAX),
        ] {
            for len in 0..=whole.len() {
                let world = world();
                assert_eq!(judge(&whole[..len], &META, &world), Verdict::Pass, "{len}");
                let counted = !world.received.borrow().is_empty();
                assert_eq!(counted, len >= spi_ends, "{len}");
            }
        }
    }
}

#[test]
fn an_unknown_spi_is_dropped_only_when_single_local_and_on_our_port() {
    for addresses in [V4, V6] {
        let frame = udp_frame(addresses, 4500, &esp(40));
        let mut world = world();
        world.spis.clear();
        assert_eq!(judge(&frame[..], &META, &world), Verdict::Drop);
        assert_eq!(world.counts.borrow()[&Reason::UNKNOWN_SPI], 1);

        let gro = Meta {
            segments: 9,
            ..META
        };
        assert_eq!(judge(&frame[..], &gro, &world), Verdict::Pass);
        assert_eq!(world.counts.borrow()[&Reason::UNKNOWN_SPI_GRO], 9);

        let elsewhere = udp_frame(addresses, 4501, &esp(40));
        assert_eq!(judge(&elsewhere[..], &META, &world), Verdict::Pass);
        world.local.clear();
        assert_eq!(judge(&frame[..], &META, &world), Verdict::Pass);
        assert_eq!(world.counts.borrow().len(), 2);
    }
}

#[test]
fn a_gro_packet_counts_by_its_segments_with_their_headers() {
    let frame = udp_frame(V4, 4500, &esp(400));
    let world = world();
    let gro = Meta {
        segments: 4,
        ..META
    };
    assert_eq!(judge(&frame[..], &gro, &world), Verdict::Pass);
    let octets = frame.len() as u64 - 14 + 3 * 28;
    assert_eq!(world.received.borrow()[..], [(5, 4, octets)]);
}

#[test]
fn unknown_native_esp_passes_unless_nobody_else_does_ipsec() {
    let frame = native_frame(V6);
    let mut world = world();
    world.spis.clear();
    assert_eq!(judge(&frame[..], &META, &world), Verdict::Pass);
    world.exclusive = true;
    assert_eq!(judge(&frame[..], &META, &world), Verdict::Drop);
    assert_eq!(world.counts.borrow()[&Reason::UNKNOWN_ESP], 2);
}

#[test]
fn a_known_spi_from_elsewhere_passes_and_is_reported() {
    let mut frame = udp_frame(V4, 4500, &esp(40));
    frame[35] ^= 1; // source port
    let world = world();
    assert_eq!(judge(&frame[..], &META, &world), Verdict::Pass);
    assert_eq!(world.counts.borrow()[&Reason::NEW_SOURCE], 1);
    let news = world.news.borrow();
    assert_eq!(news[0].remote_port, 4501u16.to_be_bytes());
    assert!(world.received.borrow().is_empty());
}

#[test]
fn only_ike_sa_init_requests_meet_the_limit() {
    for addresses in [V4, V6] {
        for (port, marker) in [(500, false), (4500, true)] {
            let mut world = world();
            let frame = udp_frame(addresses, port, &init(marker));
            assert_eq!(judge(&frame[..], &META, &world), Verdict::Pass);
            world.ike = Some(Reason::IKE_LIMIT);
            assert_eq!(judge(&frame[..], &META, &world), Verdict::Drop);
            assert_eq!(world.counts.borrow()[&Reason::IKE_LIMIT], 1);

            let header = frame.len() - 28;
            // A response, a later message, another exchange.
            for (at, value) in [(19, 0x20), (8, 1), (18, 35)] {
                let mut other = frame.clone();
                other[header + at] = value;
                assert_eq!(judge(&other[..], &META, &world), Verdict::Pass, "{at}");
            }
        }
    }
}

#[test]
fn a_request_that_begins_with_a_cookie_is_told_apart() {
    let mut world = world();
    world.ike = Some(Reason::IKE_LIMIT_ALL);
    for (next, kind, verdict) in [
        (41, 16_390u16, Verdict::Pass),
        (41, 16_388, Verdict::Drop),
        (33, 16_390, Verdict::Drop),
    ] {
        for (port, marker) in [(500, false), (4500, true)] {
            let mut message = init(marker);
            let header = message.len() - 28;
            message[header + 16] = next;
            message.extend([33, 0, 0, 12, 0, 0]);
            message.extend(kind.to_be_bytes());
            let whole = udp_frame(V4, port, &message);
            assert_eq!(judge(&whole[..], &META, &world), verdict, "{next} {kind}");
            let short = udp_frame(V4, port, &message[..message.len() - 1]);
            assert_eq!(judge(&short[..], &META, &world), Verdict::Drop);
        }
    }
}

#[test]
fn keepalives_fragments_and_strangers_pass_uncounted() {
    let world = world();
    let mut fragment = udp_frame(V4, 4500, &esp(40));
    fragment[20] = 0x20;
    let mut later = udp_frame(V4, 4500, &esp(40));
    later[21] = 2;
    let arp = [[2u8; 12].as_slice(), &[8, 6], &[0; 28]].concat();
    let tcp = ethernet(&ip(V4.0, V4.1, protocol::TCP, &[0; 20]));
    for frame in [
        udp_frame(V4, 4500, &[0xff]),
        udp_frame(V4, 4500, &[]),
        udp_frame(V4, 500, &[]),
        fragment,
        later,
        arp,
        tcp,
    ] {
        assert_eq!(judge(&frame[..], &META, &world), Verdict::Pass);
    }
    assert!(world.counts.borrow().is_empty());
    assert!(world.received.borrow().is_empty());
}

#[test]
fn a_datagram_that_claims_more_than_it_has_is_counted() {
    let mut frame = udp_frame(V4, 4500, &[1, 2]);
    frame[39] = 40;
    let world = world();
    assert_eq!(judge(&frame[..], &META, &world), Verdict::Pass);
    assert_eq!(world.counts.borrow()[&Reason::INGRESS_TRUNCATED], 1);
}

#[test]
fn the_rate_of_ipv6_is_by_64_and_of_ipv4_by_address() {
    let key = rate_key(&addr("2001:db8:1:2:3:4:5:6"), false);
    assert_eq!(key, addr("2001:db8:1:2::"));
    assert_eq!(rate_key(&addr("192.0.2.3"), true), addr("192.0.2.3"));
}
