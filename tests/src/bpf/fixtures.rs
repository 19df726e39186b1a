//! The fixture table and the map state it assumes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use mifsec::ebpf::{Direction, Ebpf, EbpfEvent, SaOut, SpdAction, SpdRule, path_entry};
use mifsec::ids::{Arrival, PathIndex, Spi};

use super::frame::{ESP, TCP, UDP, esp, ethernet, ip, udp};
use super::skb::{Context, LOOPBACK};
use super::{Outcome, frame};

/// TC and TCX: on to the next.
pub const NEXT: i32 = -1;
/// TC: dropped.
pub const SHOT: i32 = 2;
/// TC: sent elsewhere.
pub const REDIRECT: i32 = 7;
/// XDP: dropped.
pub const XDP_DROP: i32 = 1;
/// XDP: to the stack.
pub const XDP_PASS: i32 = 2;

const US: &str = "192.0.2.10";
const THEM: &str = "198.51.100.1";
const US6: &str = "2001:db8::10";
const THEM6: &str = "2001:db8:7::1";
const ANCHOR: &str = "240.0.0.9";
const ANCHOR6: &str = "fd6d:6966::9";
const SENDER: &str = "240.0.0.1";
const SENDER6: &str = "fd6d:6966::1";

/// Outbound SPIs by what their paths are.
const OUT_PLAIN: u32 = 0x1001;
const OUT_NAT: u32 = 0x1002;
const OUT_DIVERTED: u32 = 0x1003;
const OUT_DEAD: u32 = 0x1004;
const OUT_SMALL: u32 = 0x1005;
/// MTU of the path of `OUT_SMALL`: GSO packets of a test run fit a page.
const SMALL_MTU: u16 = 500;
/// Inbound SPIs.
const IN_KNOWN: u32 = 0x2001;
const IN_LARVAL: u32 = 0x2002;
const IN_UNKNOWN: u32 = 0x2bad;

/// One packet through one program.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// What it shows.
    pub name: String,
    /// The program.
    pub program: &'static str,
    /// The packet, from where the program sees it.
    pub packet: Vec<u8>,
    /// Its context.
    pub context: Context,
    /// What must come out.
    pub expected: Expected,
}

/// What must come out; what is not named must not have changed.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Return value.
    pub verdict: i32,
    /// Octets; `None` for the same as went in.
    pub packet: Option<Vec<u8>>,
    /// Reasons counted.
    pub reasons: Vec<(&'static str, u64)>,
    /// Paths counted, as in [`Outcome::paths`].
    pub paths: Vec<(u32, [u64; 5])>,
    /// Events reported.
    pub events: Vec<EbpfEvent>,
}

impl Fixture {
    /// The outcome that passes.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let Expected {
            verdict,
            packet,
            reasons,
            paths,
            events,
        } = self.expected.clone();
        Outcome {
            verdict,
            packet: packet.unwrap_or_else(|| self.packet.clone()),
            reasons: reasons.into_iter().collect(),
            paths: paths.into_iter().collect::<BTreeMap<_, _>>(),
            events,
        }
    }
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("a constant address")
}

fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(addr(text), port)
}

/// Puts the maps into the state the table assumes.
///
/// # Errors
/// A map refuses a write.
pub fn set_up(ebpf: &mut Ebpf) -> Result<()> {
    ebpf.set_ports(&[4500], &[500])?;
    ebpf.set_local(&[addr(US), addr(US6)])?;
    let (v4, v6) = (path_v4(4500), path_v6());
    ebpf.set_path(PathIndex(0), &v4)?;
    ebpf.set_path(PathIndex(1), &v6)?;
    ebpf.set_path(PathIndex(2), &path_v4(61_000))?;
    let down = mifsec::ebpf::PathEntry {
        state: mifsec_common::path::STATE_DOWN,
        ..v4
    };
    ebpf.set_path(PathIndex(3), &down)?;
    let small = path_entry(
        at(US, 4500),
        at(THEM, 4500),
        None,
        LOOPBACK,
        SMALL_MTU,
        true,
        true,
    );
    ebpf.set_path(PathIndex(4), &small)?;

    for (spi, home, alt) in [
        (OUT_PLAIN, 0, [mifsec_common::NO_PATH; 3]),
        (OUT_NAT, 2, [mifsec_common::NO_PATH; 3]),
        (OUT_DIVERTED, 3, [1, 2, 0]),
        (OUT_DEAD, 3, [mifsec_common::NO_PATH, 3, 1]),
        (OUT_SMALL, 4, [mifsec_common::NO_PATH; 3]),
    ] {
        let sa = SaOut {
            home_v4: home,
            home_v6: 1,
            alt,
            ..SaOut::default()
        };
        ebpf.set_sa_out(addr(ANCHOR), Spi(spi), sa)?;
        ebpf.set_sa_out(addr(ANCHOR6), Spi(spi), sa)?;
    }

    ebpf.set_sa_in(Spi(IN_KNOWN), false)?;
    ebpf.set_sa_in(Spi(IN_LARVAL), true)?;
    for (us, them, path) in [(US, THEM, 5), (US6, THEM6, 7)] {
        for (port, path) in [(4500, path), (0, path + 1)] {
            let arrival = Arrival {
                ifindex: LOOPBACK,
                local: at(us, 4500),
                remote: at(them, port),
            };
            ebpf.set_arrival(&arrival, PathIndex(path))?;
        }
    }
    ebpf.set_spd(&rules())
}

fn path_v4(dport: u16) -> mifsec::ebpf::PathEntry {
    path_entry(
        at(US, 4500),
        at(THEM, dport),
        Some(addr("192.0.2.1")),
        LOOPBACK,
        1500,
        true,
        false,
    )
}

fn path_v6() -> mifsec::ebpf::PathEntry {
    path_entry(
        at(US6, 4500),
        at(THEM6, 4500),
        Some(addr("fe80::1")),
        LOOPBACK,
        1500,
        true,
        false,
    )
}

/// A bypass, a protected network and a forbidden one for IPv4; all of IPv6.
fn rules() -> Vec<SpdRule> {
    let rule = |direction, remote: &str, action| SpdRule {
        direction,
        local: if remote.contains(':') {
            "::/0"
        } else {
            "0.0.0.0/0"
        }
        .parse()
        .expect("a constant"),
        remote: remote.parse().expect("a constant"),
        protocol: 0,
        local_ports: 0..=u16::MAX,
        remote_ports: 0..=u16::MAX,
        action,
    };
    let mut dns = rule(Direction::Out, "198.51.100.0/24", SpdAction::Bypass);
    (dns.protocol, dns.remote_ports) = (UDP, 53..=53);
    let mut rules = vec![dns];
    for direction in [Direction::Out, Direction::In] {
        rules.push(rule(direction, "198.51.100.128/25", SpdAction::Bypass));
        rules.push(rule(direction, "198.51.100.0/24", SpdAction::ProtectTunnel));
        rules.push(rule(direction, "203.0.113.0/24", SpdAction::Discard));
        rules.push(rule(direction, "::/0", SpdAction::ProtectTransport));
    }
    rules
}

/// SPI whose path leads back to the anchor: every repetition finds the packet
/// the one before left, and it has to have the same key.
const OUT_LOOP: u32 = 0x1100;

/// Adds what [`for_bench`] needs to [`set_up`].
///
/// # Errors
/// A map refuses a write.
pub fn set_up_for_bench(ebpf: &mut Ebpf) -> Result<()> {
    for (path, sender, anchor) in [(10, SENDER, ANCHOR), (11, SENDER6, ANCHOR6)] {
        let (local, remote) = (at(sender, 4500), at(anchor, 4500));
        let entry = path_entry(local, remote, None, LOOPBACK, 1500, true, false);
        ebpf.set_path(PathIndex(path), &entry)?;
        let sa = SaOut {
            home_v4: 10,
            home_v6: 11,
            ..SaOut::default()
        };
        ebpf.set_sa_out(addr(anchor), Spi(OUT_LOOP), sa)?;
    }
    Ok(())
}

/// The fixtures worth timing: the good paths, and the drops an attacker causes.
#[must_use]
pub fn for_bench() -> Vec<Fixture> {
    let mut table = Vec::new();
    for (name, sender, anchor) in [("v4", SENDER, ANCHOR), ("v6", SENDER6, ANCHOR6)] {
        table.push(Fixture {
            name: format!("egress {name} udp"),
            program: "mif_egress",
            packet: ethernet(
                &[],
                &udp(at(sender, 4500), at(anchor, 4500), &esp(OUT_LOOP, 1400)),
            ),
            context: Context::default(),
            expected: Expected::default(),
        });
    }
    table.extend(all().into_iter().filter(|fixture| {
        [
            "mif_ingress_xdp v4 udp known spi",
            "mif_ingress_xdp v6 udp known spi",
            "mif_ingress_xdp v4 native known spi",
            "mif_ingress_xdp v4 udp unknown spi",
            "mif_ingress_xdp v4 tcp",
            "mif_ingress_tc v4 udp known spi",
            "mif_ingress_tc v6 udp known spi",
            "mif_guard_out our udp port v4",
            "mif_guard_in our udp port v4",
            "mif_guard_out bypassed v4",
            "mif_guard_out unmentioned v4",
            "mif_guard_out protected v6",
        ]
        .contains(&fixture.name.as_str())
    }));
    table
}

/// All fixtures.
#[must_use]
pub fn all() -> Vec<Fixture> {
    let mut table = egress();
    table.extend(ingress());
    table.extend(guard());
    table
}

struct Table(Vec<Fixture>);

impl Table {
    fn add(
        &mut self,
        name: impl Into<String>,
        program: &'static str,
        packet: Vec<u8>,
        expected: Expected,
    ) {
        self.add_in(name, program, packet, Context::default(), expected);
    }

    fn add_in(
        &mut self,
        name: impl Into<String>,
        program: &'static str,
        packet: Vec<u8>,
        context: Context,
        expected: Expected,
    ) {
        self.0.push(Fixture {
            name: name.into(),
            program,
            packet,
            context,
            expected,
        });
    }
}

fn egress() -> Vec<Fixture> {
    const P: &str = "mif_egress";
    let mut t = Table(Vec::new());
    let drop = |reason| Expected {
        verdict: SHOT,
        reasons: vec![(reason, 1)],
        ..Expected::default()
    };
    let sent = |path, packet: Vec<u8>| Expected {
        verdict: REDIRECT,
        paths: vec![(path, [1, packet.len() as u64 - 14, 0, 0, 0])],
        packet: Some(packet),
        ..Expected::default()
    };
    let to_anchor = |anchor, spi| {
        let sender = if anchor == ANCHOR { SENDER } else { SENDER6 };
        ethernet(
            &[],
            &udp(at(sender, 4500), at(anchor, 4500), &esp(spi, 100)),
        )
    };
    let outer =
        |us, them, port, spi| ethernet(&[], &udp(at(us, 4500), at(them, port), &esp(spi, 100)));

    t.add(
        "egress v4 udp",
        P,
        to_anchor(ANCHOR, OUT_PLAIN),
        sent(0, outer(US, THEM, 4500, OUT_PLAIN)),
    );
    t.add(
        "egress v6 udp",
        P,
        to_anchor(ANCHOR6, OUT_PLAIN),
        sent(1, outer(US6, THEM6, 4500, OUT_PLAIN)),
    );
    t.add(
        "egress v4 udp, other ports",
        P,
        to_anchor(ANCHOR, OUT_NAT),
        sent(2, outer(US, THEM, 61_000, OUT_NAT)),
    );
    t.add(
        "egress v4 native",
        P,
        ethernet(
            &[],
            &ip(addr(SENDER), addr(ANCHOR), ESP, &esp(OUT_PLAIN, 100)),
        ),
        sent(
            0,
            ethernet(&[], &ip(addr(US), addr(THEM), ESP, &esp(OUT_PLAIN, 100))),
        ),
    );
    t.add(
        "egress v6 native",
        P,
        ethernet(
            &[],
            &ip(addr(SENDER6), addr(ANCHOR6), ESP, &esp(OUT_PLAIN, 100)),
        ),
        sent(
            1,
            ethernet(&[], &ip(addr(US6), addr(THEM6), ESP, &esp(OUT_PLAIN, 100))),
        ),
    );
    t.add(
        "egress v4, home down, alternate of the family",
        P,
        to_anchor(ANCHOR, OUT_DIVERTED),
        {
            let mut expected = sent(2, outer(US, THEM, 61_000, OUT_DIVERTED));
            expected.reasons = vec![("diverted", 1)];
            expected
        },
    );
    t.add(
        "egress v4, nothing up",
        P,
        to_anchor(ANCHOR, OUT_DEAD),
        Expected {
            events: vec![EbpfEvent::NoPath {
                spi: Spi(OUT_DEAD),
                anchor: addr(ANCHOR),
            }],
            ..drop("no_path")
        },
    );
    t.add(
        "egress layer-3 device",
        P,
        to_anchor(ANCHOR, OUT_SMALL),
        sent(4, outer(US, THEM, 4500, OUT_SMALL)),
    );

    let big = ethernet(
        &[],
        &udp(at(SENDER, 4500), at(ANCHOR, 4500), &esp(OUT_SMALL, 465)),
    );
    t.add(
        "egress one octet over the mtu",
        P,
        big,
        Expected {
            paths: vec![(4, [0, 0, 0, 0, 1])],
            events: vec![EbpfEvent::Oversize {
                spi: Spi(OUT_SMALL),
                path: PathIndex(4),
                size: 501,
            }],
            ..drop("mtu")
        },
    );
    let gso = |gso_size: usize, segments: usize| {
        (
            ethernet(
                &[],
                &udp(
                    at(SENDER, 4500),
                    at(ANCHOR, 4500),
                    &esp(OUT_SMALL, segments * gso_size - 8),
                ),
            ),
            Context {
                gso_segs: u32::try_from(segments).expect("few"),
                gso_size: u32::try_from(gso_size).expect("small"),
            },
        )
    };
    let (packet, context) = gso(472, 5);
    let outer_gso = ethernet(
        &[],
        &udp(at(US, 4500), at(THEM, 4500), &esp(OUT_SMALL, 5 * 472 - 8)),
    );
    t.add_in(
        "egress gso counts every segment",
        P,
        packet,
        context,
        Expected {
            paths: vec![(4, [5, 5 * 500, 0, 0, 0])],
            ..sent(4, outer_gso)
        },
    );
    let (packet, context) = gso(473, 5);
    t.add_in(
        "egress gso, segments over the mtu",
        P,
        packet,
        context,
        Expected {
            paths: vec![(4, [0, 0, 0, 0, 1])],
            events: vec![EbpfEvent::Oversize {
                spi: Spi(OUT_SMALL),
                path: PathIndex(4),
                size: 501,
            }],
            ..drop("mtu")
        },
    );
    t.add(
        "egress unknown spi",
        P,
        to_anchor(ANCHOR, 0xdead),
        drop("no_sa"),
    );
    t.add(
        "egress v6 unknown spi",
        P,
        to_anchor(ANCHOR6, 0xdead),
        drop("no_sa"),
    );
    t.add(
        "egress not esp",
        P,
        ethernet(&[], &ip(addr(SENDER), addr(ANCHOR), TCP, &[0; 40])),
        drop("egress_malformed"),
    );
    let whole = to_anchor(ANCHOR, OUT_PLAIN);
    t.add(
        "egress truncated in the spi",
        P,
        whole[..45].to_vec(),
        drop("egress_malformed"),
    );
    t.add(
        "egress vlan tag",
        P,
        ethernet(
            &[7],
            &udp(at(SENDER, 4500), at(ANCHOR, 4500), &esp(OUT_PLAIN, 9)),
        ),
        drop("egress_malformed"),
    );
    let no_check = |packet: Vec<u8>| {
        let mut packet = packet;
        packet[40..42].copy_from_slice(&[0, 0]);
        packet
    };
    t.add(
        "egress v4 without udp checksum stays without",
        P,
        no_check(to_anchor(ANCHOR, OUT_NAT)),
        sent(2, no_check(outer(US, THEM, 61_000, OUT_NAT))),
    );
    t.0
}

fn ike_sa_init(marker: bool) -> Vec<u8> {
    let mut message = if marker { vec![0; 4] } else { Vec::new() };
    message.extend([7; 8]);
    message.extend([0; 8]);
    message.extend([33, 0x20, 34, 0x08, 0, 0, 0, 0, 0, 0, 0, 28]);
    message
}

fn ingress() -> Vec<Fixture> {
    let mut t = Table(Vec::new());
    for (program, l2, pass, drop) in [
        ("mif_ingress_xdp", true, XDP_PASS, XDP_DROP),
        ("mif_ingress_tc", true, NEXT, SHOT),
        ("mif_ingress_l3", false, NEXT, SHOT),
    ] {
        let wire = |tags: &[u16], packet: &[u8]| {
            if l2 {
                ethernet(tags, packet)
            } else {
                packet.to_vec()
            }
        };
        let passed = || Expected {
            verdict: pass,
            ..Expected::default()
        };
        let dropped = |reason| Expected {
            verdict: drop,
            reasons: vec![(reason, 1)],
            ..Expected::default()
        };
        let counted = |path, packet: &[u8]| Expected {
            paths: vec![(path, [0, 0, 1, packet.len() as u64, 0])],
            ..passed()
        };
        for (family, us, them, path) in [("v4", US, THEM, 5), ("v6", US6, THEM6, 7)] {
            let name = |what: &str| format!("{program} {family} {what}");
            let datagram = |port, payload: &[u8]| udp(at(them, 4500), at(us, port), payload);

            let known = datagram(4500, &esp(IN_KNOWN, 64));
            t.add(
                name("udp known spi"),
                program,
                wire(&[], &known),
                counted(path, &known),
            );
            let larval = datagram(4500, &esp(IN_LARVAL, 64));
            t.add(
                name("udp larval spi"),
                program,
                wire(&[], &larval),
                counted(path, &larval),
            );
            let native = ip(addr(them), addr(us), ESP, &esp(IN_KNOWN, 64));
            t.add(
                name("native known spi"),
                program,
                wire(&[], &native),
                counted(path + 1, &native),
            );
            let unknown = datagram(4500, &esp(IN_UNKNOWN, 64));
            t.add(
                name("udp unknown spi"),
                program,
                wire(&[], &unknown),
                dropped("unknown_spi"),
            );
            let native_unknown = ip(addr(them), addr(us), ESP, &esp(IN_UNKNOWN, 64));
            t.add(
                name("native unknown spi"),
                program,
                wire(&[], &native_unknown),
                Expected {
                    reasons: vec![("unknown_esp", 1)],
                    ..passed()
                },
            );
            let not_local = udp(at(us, 4500), at(them, 4500), &esp(IN_UNKNOWN, 64));
            t.add(
                name("unknown spi for somebody else"),
                program,
                wire(&[], &not_local),
                passed(),
            );

            let moved = udp(at(them, 4999), at(us, 4500), &esp(IN_KNOWN, 64));
            t.add(
                name("known spi, new source"),
                program,
                wire(&[], &moved),
                Expected {
                    reasons: vec![("new_source", 1)],
                    events: vec![EbpfEvent::NewSource {
                        spi: Spi(IN_KNOWN),
                        ifindex: LOOPBACK,
                        local: addr(us),
                        remote: at(them, 4999),
                    }],
                    ..passed()
                },
            );
            for (what, port, payload) in [
                ("keepalive", 4500, vec![0xff]),
                ("ike on 500", 500, ike_sa_init(false)),
                ("ike on 4500", 4500, ike_sa_init(true)),
                ("a stranger's udp", 53, esp(IN_UNKNOWN, 64)),
            ] {
                let packet = datagram(port, &payload);
                t.add(name(what), program, wire(&[], &packet), passed());
            }
            let tcp = ip(addr(them), addr(us), TCP, &[0; 20]);
            t.add(name("tcp"), program, wire(&[], &tcp), passed());
            if l2 {
                t.add(
                    name("one vlan tag"),
                    program,
                    wire(&[7], &known),
                    counted(path, &known),
                );
                t.add(
                    name("two vlan tags"),
                    program,
                    wire(&[7, 8], &known),
                    counted(path, &known),
                );
                t.add(
                    name("three vlan tags"),
                    program,
                    wire(&[7, 8, 9], &unknown),
                    passed(),
                );
            }
            if program != "mif_ingress_xdp" {
                // Two datagrams glued by GRO: the second SPI is unknown, or the first.
                let glued = |first, second| {
                    let payload = [esp(first, 64), esp(second, 64)].concat();
                    udp(at(them, 4500), at(us, 4500), &payload)
                };
                let context = Context {
                    gso_segs: 2,
                    gso_size: 72,
                };
                let known_first = glued(IN_KNOWN, IN_UNKNOWN);
                let octets = known_first.len() as u64 + if family == "v4" { 28 } else { 48 };
                t.add_in(
                    name("gro packet, second spi unknown"),
                    program,
                    wire(&[], &known_first),
                    context,
                    Expected {
                        paths: vec![(path, [0, 0, 2, octets, 0])],
                        ..passed()
                    },
                );
                t.add_in(
                    name("gro packet, first spi unknown"),
                    program,
                    wire(&[], &glued(IN_UNKNOWN, IN_KNOWN)),
                    context,
                    Expected {
                        reasons: vec![("unknown_spi_gro", 2)],
                        ..passed()
                    },
                );
            }
            if l2 {
                let spi_cut = wire(&[], &unknown[..unknown.len() - 70]);
                t.add(
                    name("truncated before the spi ends"),
                    program,
                    spi_cut,
                    Expected {
                        reasons: vec![("ingress_truncated", 1)],
                        ..passed()
                    },
                );
            }
        }
        let mut fragment = udp(at(THEM, 4500), at(US, 4500), &esp(IN_UNKNOWN, 64));
        fragment[6] = 0x20;
        t.add(
            format!("{program} v4 first fragment"),
            program,
            wire(&[], &fragment),
            passed(),
        );
        let mut options = frame::ip(addr(THEM), addr(US), UDP, &[]);
        options[0] = 0x46;
        options.extend([1, 1, 1, 1]);
        options.extend_from_slice(&udp(at(THEM, 4500), at(US, 4500), &esp(IN_UNKNOWN, 64))[20..]);
        t.add(
            format!("{program} v4 options, unknown spi"),
            program,
            wire(&[], &options),
            dropped("unknown_spi"),
        );
    }
    t.0
}

fn guard() -> Vec<Fixture> {
    let mut t = Table(Vec::new());
    for (l2, out, inward) in [
        (true, "mif_guard_out", "mif_guard_in"),
        (true, "mif_guard_top", "mif_guard_in"),
        (false, "mif_guard_out_l3", "mif_guard_in_l3"),
        (false, "mif_guard_top_l3", "mif_guard_in_l3"),
    ] {
        let wire = |tags: &[u16], packet: &[u8]| {
            if l2 {
                ethernet(tags, packet)
            } else {
                packet.to_vec()
            }
        };
        let passed = || Expected {
            verdict: NEXT,
            ..Expected::default()
        };
        let dropped = |reason| Expected {
            verdict: SHOT,
            reasons: vec![(reason, 1)],
            ..Expected::default()
        };
        let later = |packet: Vec<u8>| {
            let mut packet = packet;
            packet[6..8].copy_from_slice(&[0, 9]);
            packet
        };
        for (name, src, dst, there, back) in [
            (
                "protected v4",
                at(US, 9),
                at(THEM, 80),
                dropped("clear_out"),
                dropped("clear_in"),
            ),
            (
                "bypassed v4",
                at(US, 9),
                at("198.51.100.200", 80),
                passed(),
                passed(),
            ),
            (
                "discarded v4",
                at(US, 9),
                at("203.0.113.9", 80),
                dropped("discard"),
                dropped("discard"),
            ),
            (
                "unmentioned v4",
                at(US, 9),
                at("192.0.2.99", 80),
                passed(),
                passed(),
            ),
            (
                "bypassed port v4",
                at(US, 9),
                at(THEM, 53),
                passed(),
                dropped("clear_in"),
            ),
            (
                "protected v6",
                at(US6, 9),
                at(THEM6, 80),
                dropped("clear_out"),
                dropped("clear_in"),
            ),
            (
                "link-local v6",
                at(US6, 9),
                at("fe80::7", 80),
                passed(),
                passed(),
            ),
            (
                "our udp port v4",
                at(US, 4500),
                at(THEM, 80),
                passed(),
                passed(),
            ),
            (
                "our ike port v6",
                at(US6, 500),
                at(THEM6, 80),
                passed(),
                passed(),
            ),
            (
                "their udp port v4",
                at(US, 80),
                at(THEM, 4500),
                dropped("clear_out"),
                dropped("clear_in"),
            ),
            ("dhcp v4", at(US, 68), at(THEM, 67), passed(), passed()),
            (
                "dhcp server v4",
                at(US, 67),
                at(THEM, 68),
                dropped("clear_out"),
                dropped("clear_in"),
            ),
            (
                "dhcp v6 beyond the link",
                at(US6, 546),
                at(THEM6, 547),
                dropped("clear_out"),
                dropped("clear_in"),
            ),
        ] {
            let (leaving, arriving) = (udp(src, dst, b"clear"), udp(dst, src, b"clear"));
            t.add(format!("{out} {name}"), out, wire(&[], &leaving), there);
            t.add(
                format!("{inward} {name}"),
                inward,
                wire(&[], &arriving),
                back,
            );
        }
        for (us, them) in [(US, THEM), (US6, THEM6)] {
            let own = ip(addr(us), addr(them), ESP, &esp(OUT_PLAIN, 64));
            t.add(
                format!("{out} native esp to {them}"),
                out,
                wire(&[], &own),
                passed(),
            );
        }
        let through = udp(at(THEM, 9), at("192.0.2.77", 4500), b"clear");
        t.add(
            format!("{inward} our udp port at another's address"),
            inward,
            wire(&[], &through),
            dropped("clear_in"),
        );
        for (us, them, icmp, kind) in [(US, THEM, 1, 3), (US6, THEM6, 58, 2)] {
            let about = |quoted: &[u8]| {
                let body = [&[kind, 0, 0, 0, 0, 0, 5, 0], quoted].concat();
                wire(&[], &ip(addr(them), addr(us), icmp, &body))
            };
            t.add(
                format!("{inward} icmp error about our esp, from {them}"),
                inward,
                about(&udp(at(us, 4500), at(them, 4500), &esp(OUT_PLAIN, 64))),
                passed(),
            );
            t.add(
                format!("{inward} icmp error about another packet, from {them}"),
                inward,
                about(&udp(at(us, 9), at(them, 4500), b"clear")),
                dropped("clear_in"),
            );
        }
        // A fragment of a bypassed port does not show it: it could be any.
        let fragment = later(udp(at(US, 9), at(THEM, 53), b"clear"));
        t.add(
            format!("{out} later fragment"),
            out,
            wire(&[], &fragment),
            dropped("clear_out"),
        );
        let ping = ip(addr(US), addr(THEM), 1, &[8, 0, 0, 0, 0, 0, 0, 0]);
        t.add(
            format!("{out} ping"),
            out,
            wire(&[], &ping),
            dropped("clear_out"),
        );
        let solicitation = ip(addr(US6), addr(THEM6), 58, &[135, 0, 0, 0, 0, 0, 0, 0]);
        t.add(
            format!("{out} neighbour solicitation, forwarded"),
            out,
            wire(&[], &solicitation),
            dropped("clear_out"),
        );
        let mut on_link = solicitation;
        on_link[7] = 255;
        t.add(
            format!("{out} neighbour solicitation"),
            out,
            wire(&[], &on_link),
            passed(),
        );
        let echo = ip(addr(US6), addr(THEM6), 58, &[128, 0, 0, 0, 0, 0, 0, 0]);
        t.add(
            format!("{out} ping v6"),
            out,
            wire(&[], &echo),
            dropped("clear_out"),
        );
        if l2 {
            let packet = udp(at(US, 9), at(THEM, 80), b"clear");
            t.add(
                format!("{out} protected, two vlan tags"),
                out,
                wire(&[7, 8], &packet),
                dropped("clear_out"),
            );
            t.add(
                format!("{out} protected, three vlan tags"),
                out,
                wire(&[7, 8, 9], &packet),
                dropped("guard_malformed"),
            );
            let mut arp = ethernet(&[], &packet);
            arp[12..14].copy_from_slice(&[8, 6]);
            t.add(format!("{out} arp"), out, arp, passed());
        }
    }
    t.0
}
