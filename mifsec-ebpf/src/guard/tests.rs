use core::cell::RefCell;
use std::collections::BTreeMap;
use std::vec::Vec;

use super::*;
use crate::testing::{addr, esp, ethernet, ip as ip_packet, udp};
use mifsec_common::spd::{IN, MAX_RULES, PROTECT_TRANSPORT, PROTECT_TUNNEL};

#[derive(Default)]
struct Fake {
    rules: Vec<SpdEntry>,
    counts: RefCell<BTreeMap<Reason, u64>>,
}

impl World for Fake {
    fn table(&self) -> (u32, u32) {
        (MAX_RULES, u32::try_from(self.rules.len()).unwrap())
    }
    fn rule(&self, index: u32) -> Option<&SpdEntry> {
        self.rules.get((index - MAX_RULES) as usize)
    }
    fn port(&self, port: [u8; 2]) -> u64 {
        u64::from(port == 4500u16.to_be_bytes())
    }
    fn is_local(&self, address: &Addr) -> bool {
        [addr(US), addr(US6)].contains(address)
    }
    fn apply(&self, flow: Flow, direction: u8) -> Verdict {
        apply(&flow, direction, self)
    }
    fn count(&self, reason: Reason, n: u64) {
        *self.counts.borrow_mut().entry(reason).or_default() += n;
    }
}

fn rule(direction: u8, remote: &str, bits: u8, action: u8) -> SpdEntry {
    let v4 = !remote.contains(':');
    SpdEntry {
        local: addr(if v4 { "0.0.0.0" } else { "::" }),
        local_mask: Addr::mask(v4, 0),
        remote: addr(remote),
        remote_mask: Addr::mask(v4, bits),
        local_ports: [0, u16::MAX],
        remote_ports: [0, u16::MAX],
        protocol: 0,
        direction,
        action,
        family: if v4 { 4 } else { 6 },
    }
}

fn with(rules: Vec<SpdEntry>) -> Fake {
    Fake {
        rules,
        ..Fake::default()
    }
}

/// A full tunnel: everything is protected both ways.
fn lockdown() -> Fake {
    let mut rules = Vec::new();
    for direction in [OUT, IN] {
        rules.push(rule(direction, "0.0.0.0", 0, PROTECT_TUNNEL));
        rules.push(rule(direction, "::", 0, PROTECT_TUNNEL));
    }
    with(rules)
}

fn meta(direction: u8) -> Meta {
    Meta {
        ethernet: true,
        direction,
        owner: if direction == OUT {
            Owner::Agent
        } else {
            Owner::Nobody
        },
    }
}

fn outbound(world: &Fake, packet: &[u8]) -> Verdict {
    judge(&ethernet(packet)[..], &meta(OUT), world)
}

fn inbound(world: &Fake, packet: &[u8]) -> Verdict {
    judge(&ethernet(packet)[..], &meta(IN), world)
}

const US: &str = "192.0.2.10";
const THEM: &str = "198.51.100.7";
const US6: &str = "2001:db8::10";
const THEM6: &str = "2001:db8:7::7";

#[test]
fn under_a_full_tunnel_nothing_clear_crosses_in_either_direction() {
    let world = lockdown();
    for (us, them) in [(US, THEM), (US6, THEM6)] {
        for (protocol, payload) in [
            (protocol::TCP, std::vec![0; 20]),
            (protocol::UDP, udp(4501, 53, b"x")),
            (protocol::ICMP, std::vec![8; 8]),
            (protocol::ICMPV6, std::vec![128; 8]),
            (47, std::vec![0; 8]),
        ] {
            assert_eq!(
                outbound(&world, &ip_packet(us, them, protocol, &payload)),
                Verdict::Drop
            );
            assert_eq!(
                inbound(&world, &ip_packet(them, us, protocol, &payload)),
                Verdict::Drop
            );
        }
    }
    assert_eq!(world.counts.borrow()[&Reason::CLEAR_OUT], 10);
    assert_eq!(world.counts.borrow()[&Reason::CLEAR_IN], 10);
}

#[test]
fn what_the_tunnel_itself_needs_passes() {
    let world = lockdown();
    for packet in [
        ip_packet(US, THEM, protocol::ESP, &esp(20)),
        ip_packet(US6, THEM6, protocol::ESP, &esp(20)),
        ip_packet(US, THEM, protocol::UDP, &udp(4500, 9, b"x")),
        ip_packet(US6, THEM6, protocol::UDP, &udp(4500, 9, b"x")),
        ip_packet(US, THEM, protocol::UDP, &udp(68, 67, b"x")),
        ip_packet(US6, "ff02::1:2", protocol::UDP, &udp(546, 547, b"x")),
        ip_packet(US6, "fe80::1", protocol::UDP, &udp(546, 547, b"x")),
        on_link(ip_packet(US6, THEM6, protocol::ICMPV6, &[135, 0, 0, 0])),
        ip_packet(US6, "fe80::1", protocol::TCP, &[0; 20]),
        ip_packet(US, "169.254.1.1", protocol::TCP, &[0; 20]),
        ip_packet(US, "224.0.0.251", protocol::UDP, &udp(5353, 5353, b"x")),
        ip_packet(US, "255.255.255.255", protocol::UDP, &udp(1, 1, b"x")),
        ip_packet(US6, "ff02::fb", protocol::UDP, &udp(5353, 5353, b"x")),
    ] {
        assert_eq!(outbound(&world, &packet), Verdict::Pass, "{packet:02x?}");
    }
    let back = ip_packet(THEM, US, protocol::UDP, &udp(9, 4500, b"x"));
    assert_eq!(inbound(&world, &back), Verdict::Pass);
    // Our port at the wrong end is a stranger's packet.
    assert_eq!(outbound(&world, &back), Verdict::Drop);
    let arp = [[2u8; 12].as_slice(), &[8, 6], &[0; 28]].concat();
    assert_eq!(judge(&arp[..], &meta(OUT), &world), Verdict::Pass);
}

#[test]
fn our_ports_are_exempt_for_our_sockets_and_addresses_alone() {
    let world = lockdown();
    for (us, them, else_) in [(US, THEM, "192.0.2.77"), (US6, THEM6, "2001:db8::77")] {
        let leaving = ethernet(&ip_packet(us, them, protocol::UDP, &udp(4500, 9, b"x")));
        for (owner, verdict) in [
            (Owner::Agent, Verdict::Pass),
            (Owner::Other, Verdict::Drop),
            (Owner::Nobody, Verdict::Drop),
        ] {
            let meta = Meta { owner, ..meta(OUT) };
            assert_eq!(judge(&leaving[..], &meta, &world), verdict, "{owner:?}");
        }
        let through = ip_packet(them, else_, protocol::UDP, &udp(9, 4500, b"x"));
        assert_eq!(inbound(&world, &through), Verdict::Drop);
    }
}

/// As sent by a neighbour: nobody has forwarded it.
fn on_link(mut packet: Vec<u8>) -> Vec<u8> {
    packet[7] = 255;
    packet
}

#[test]
fn neighbour_discovery_that_could_be_forwarded_is_not_exempt() {
    let world = lockdown();
    let discovery = |kind, code| ip_packet(US6, THEM6, protocol::ICMPV6, &[kind, code, 0, 0]);
    for kind in 133..=137 {
        assert_eq!(outbound(&world, &discovery(kind, 0)), Verdict::Drop);
        assert_eq!(
            outbound(&world, &on_link(discovery(kind, 1))),
            Verdict::Drop
        );
        assert_eq!(
            outbound(&world, &on_link(discovery(kind, 0))),
            Verdict::Pass
        );
    }
}

#[test]
fn dhcp_is_exempt_as_a_client_of_this_host_does_it() {
    let world = lockdown();
    let dhcp = |us, them, near, far| ip_packet(us, them, protocol::UDP, &udp(near, far, b"x"));
    let request = ethernet(&dhcp(US, THEM, 68, 67));
    for (owner, verdict) in [
        (Owner::Other, Verdict::Pass),
        (Owner::Nobody, Verdict::Drop),
    ] {
        let meta = Meta { owner, ..meta(OUT) };
        assert_eq!(judge(&request[..], &meta, &world), verdict, "{owner:?}");
    }
    assert_eq!(inbound(&world, &dhcp(THEM, US, 67, 68)), Verdict::Pass);
    for packet in [
        dhcp(US, THEM, 67, 68),
        dhcp(US, THEM, 67, 67),
        dhcp(US, THEM, 68, 68),
        dhcp(US6, THEM6, 546, 547),
        dhcp(US6, THEM6, 68, 67),
    ] {
        assert_eq!(outbound(&world, &packet), Verdict::Drop, "{packet:02x?}");
    }
    for packet in [dhcp(THEM, US, 68, 67), dhcp(THEM6, US6, 547, 546)] {
        assert_eq!(inbound(&world, &packet), Verdict::Drop, "{packet:02x?}");
    }
}

#[test]
fn icmp_errors_are_exempt_when_they_quote_a_packet_of_ours() {
    let world = lockdown();
    let router = |v4| if v4 { THEM } else { THEM6 };
    let error = |kind: u8, to: &str, quoted: &[u8]| {
        let v4 = !to.contains(':');
        let icmp = if v4 { protocol::ICMP } else { protocol::ICMPV6 };
        let body = [&[kind, 0, 0, 0, 0, 0, 5, 0], quoted].concat();
        ip_packet(router(v4), to, icmp, &body)
    };
    for (us, them, else_, kinds, other) in [
        (US, THEM, "192.0.2.77", &[3, 11][..], 5),
        (US6, THEM6, "2001:db8::77", &[1, 2, 3, 4][..], 128),
    ] {
        let encapsulated = ip_packet(us, them, protocol::UDP, &udp(4500, 9, b"x"));
        let native = ip_packet(us, them, protocol::ESP, &esp(20));
        for kind in kinds {
            assert_eq!(
                inbound(&world, &error(*kind, us, &encapsulated)),
                Verdict::Pass
            );
            assert_eq!(inbound(&world, &error(*kind, us, &native)), Verdict::Pass);
            // Their port is the far one of ours, or not ours at all.
            let clear = ip_packet(us, them, protocol::UDP, &udp(9, 4500, b"x"));
            assert_eq!(inbound(&world, &error(*kind, us, &clear)), Verdict::Drop);
            let tcp = ip_packet(us, them, protocol::TCP, &[17, 148, 0, 9]);
            assert_eq!(inbound(&world, &error(*kind, us, &tcp)), Verdict::Drop);
            // Another's packet, and ours in an error for another.
            let anothers = ip_packet(else_, them, protocol::ESP, &esp(20));
            assert_eq!(
                inbound(&world, &error(*kind, else_, &anothers)),
                Verdict::Drop
            );
            assert_eq!(
                inbound(&world, &error(*kind, else_, &native)),
                Verdict::Drop
            );
            // Every quotation that ends before the port.
            let shows = encapsulated.len() - 9 + 2;
            for len in 0..shows {
                let short = error(*kind, us, &encapsulated[..len]);
                assert_eq!(inbound(&world, &short), Verdict::Drop, "{len}");
            }
        }
        assert_eq!(inbound(&world, &error(other, us, &native)), Verdict::Drop);
        assert_eq!(
            outbound(&world, &error(kinds[0], us, &native)),
            Verdict::Drop
        );
    }
}

#[test]
fn every_truncation_of_a_protected_packet_is_dropped() {
    let world = lockdown();
    for (us, them) in [(US, THEM), (US6, THEM6)] {
        let whole = ethernet(&ip_packet(us, them, protocol::TCP, &[0; 20]));
        for len in 14..=whole.len() {
            assert_eq!(
                judge(&whole[..len], &meta(OUT), &world),
                Verdict::Drop,
                "{len}"
            );
        }
    }
}

#[test]
fn the_first_match_decides_and_no_match_passes() {
    let world = with(
        [
            rule(OUT, "198.51.100.0", 24, BYPASS),
            rule(OUT, "198.51.0.0", 16, PROTECT_TUNNEL),
            rule(OUT, "203.0.113.0", 24, DISCARD),
        ]
        .into(),
    );
    let to = |dst: &str| ip_packet(US, dst, protocol::TCP, &[0; 20]);
    assert_eq!(outbound(&world, &to("198.51.100.7")), Verdict::Pass);
    assert_eq!(outbound(&world, &to("198.51.101.7")), Verdict::Drop);
    assert_eq!(outbound(&world, &to("203.0.113.7")), Verdict::Drop);
    assert_eq!(outbound(&world, &to("192.0.2.99")), Verdict::Pass);
    let from = ip_packet("198.51.101.7", US, protocol::TCP, &[0; 20]);
    assert_eq!(inbound(&world, &from), Verdict::Pass);
    assert_eq!(world.counts.borrow()[&Reason::CLEAR_OUT], 1);
    assert_eq!(world.counts.borrow()[&Reason::DISCARD], 1);
}

#[test]
fn ports_and_protocol_select_and_their_absence_is_on_the_safe_side() {
    let mut only_dns = rule(OUT, "0.0.0.0", 0, BYPASS);
    (only_dns.protocol, only_dns.remote_ports) = (protocol::UDP, [53, 53]);
    let mut world = lockdown();
    world.rules.insert(0, only_dns);
    let dns = ip_packet(US, THEM, protocol::UDP, &udp(40_000, 53, b"x"));
    assert_eq!(outbound(&world, &dns), Verdict::Pass);
    let mut later = dns.clone();
    later[6..8].copy_from_slice(&[0, 9]);
    assert_eq!(outbound(&world, &later), Verdict::Drop);
    let other = ip_packet(US, THEM, protocol::UDP, &udp(40_000, 54, b"x"));
    assert_eq!(outbound(&world, &other), Verdict::Drop);

    let mut https = rule(OUT, "::", 0, PROTECT_TRANSPORT);
    (https.protocol, https.remote_ports) = (protocol::TCP, [443, 443]);
    world.rules = [https].into();
    let tcp = |port: u8| ip_packet(US6, THEM6, protocol::TCP, &[0, 9, 1, port, 0, 0, 0, 0]);
    assert_eq!(outbound(&world, &tcp(187)), Verdict::Drop);
    assert_eq!(outbound(&world, &tcp(188)), Verdict::Pass);
    let udp443 = ip_packet(US6, THEM6, protocol::UDP, &udp(9, 443, b"x"));
    assert_eq!(outbound(&world, &udp443), Verdict::Pass);
    // A later TCP fragment could be part of it; the same of UDP could not.
    let fragment = |p: u8| {
        ip_packet(
            US6,
            THEM6,
            protocol::FRAGMENT,
            &[p, 0, 0, 9, 0, 0, 0, 1, 5, 5],
        )
    };
    assert_eq!(outbound(&world, &fragment(protocol::TCP)), Verdict::Drop);
    assert_eq!(outbound(&world, &fragment(protocol::UDP)), Verdict::Pass);
    assert_eq!(world.counts.borrow()[&Reason::CLEAR_FRAGMENT], 1);
}

#[test]
fn extension_headers_hide_nothing() {
    let mut https = rule(OUT, "::", 0, PROTECT_TUNNEL);
    (https.protocol, https.remote_ports) = (protocol::TCP, [443, 443]);
    let world = Fake {
        rules: [https].into(),
        ..Fake::default()
    };
    let mut chain = [protocol::TCP, 0, 0, 0, 0, 0, 0, 0].to_vec();
    chain.extend([0, 9, 1, 187, 0, 0, 0, 0]);
    let packet = ip_packet(US6, THEM6, protocol::DESTINATION, &chain);
    assert_eq!(outbound(&world, &packet), Verdict::Drop);

    // A chain that does not end could be anything.
    let endless = [protocol::DESTINATION, 0, 0, 0, 0, 0, 0, 0].repeat(9);
    let packet = ip_packet(US6, THEM6, protocol::DESTINATION, &endless);
    assert_eq!(outbound(&world, &packet), Verdict::Drop);
}

#[test]
fn a_rule_for_all_of_one_family_leaves_the_other_alone() {
    let world = Fake {
        rules: [rule(OUT, "::", 0, PROTECT_TUNNEL)].into(),
        ..Fake::default()
    };
    assert_eq!(
        outbound(&world, &ip_packet(US, THEM, protocol::TCP, &[0; 20])),
        Verdict::Pass
    );
    assert_eq!(
        outbound(&world, &ip_packet(US6, THEM6, protocol::TCP, &[0; 20])),
        Verdict::Drop
    );
}

#[test]
fn without_rules_even_nonsense_passes() {
    let world = Fake::default();
    assert_eq!(judge(&[0u8; 3][..], &meta(OUT), &world), Verdict::Pass);
}

#[test]
fn the_last_of_the_rules_still_counts() {
    let mut rules = std::vec![rule(OUT, "203.0.113.0", 24, BYPASS); MAX_RULES as usize - 1];
    rules.push(rule(OUT, "198.51.100.0", 24, PROTECT_TUNNEL));
    let world = with(rules);
    assert_eq!(
        outbound(&world, &ip_packet(US, THEM, protocol::TCP, &[0; 20])),
        Verdict::Drop
    );
}
