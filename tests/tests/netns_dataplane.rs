//! The data plane between two namespaces with static keys, without IKE and
//! without eBPF.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something unexpected happens"
)]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use mifsec::crypto::{AeadAlgorithm, AesKey, Integrity};
use mifsec::dataplane::{Input, Selector};
use mifsec::esp::{OutboundSa, SaParams};
use mifsec::ids::{Arrival, Family, Spi};
use mifsec::io::poll::Poll;
use mifsec::io::udp::{RecvBatch, SendSocket, WildcardSocket};
use mifsec_tests::pump;
use mifsec_tests::stamped::{self, Load, Outcome};
use mifsec_tests::tunnel::{DEVICE, End, Options, PATH, PORT, TUN, Tunnel, keymat, spi};

/// Reasons that must stay at zero while nobody misbehaves.
const NEVER: &[&str] = &[
    "access_full",
    "egress_dropped",
    "send_error",
    "malformed_out",
    "malformed_in",
    "unknown_spi",
    "esp_integrity",
    "esp_replay",
    "esp_too_old",
    "selector",
    "ecn_drop",
    "tun_error",
    "not_access",
];

fn start(options: Options) -> Tunnel {
    Tunnel::start(options).unwrap()
}

fn assert_clean(tunnel: &Tunnel) {
    for end in &tunnel.ends {
        let counters = end.counters();
        for reason in NEVER {
            assert_eq!(counters[reason], 0, "{reason} at end {}", end.index);
        }
    }
}

/// Waits for what the workers do on their own time.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A datagram through the tunnel from `from`; whether it arrives is the caller's matter.
fn say(from: &End, to: SocketAddr, bytes: &[u8]) {
    from.namespace
        .run(|| {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            Ok(UdpSocket::bind(any)?.send_to(bytes, to).map(drop)?)
        })
        .unwrap();
}

/// A socket on the inner address of `end`.
fn listen(end: &End, v6: bool) -> UdpSocket {
    let address = SocketAddr::new(Tunnel::inner(end.index, v6), 0);
    let socket = end.namespace.run(|| Ok(UdpSocket::bind(address)?)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket
}

/// One datagram's octets.
fn hear(socket: &UdpSocket) -> std::io::Result<usize> {
    let mut octets = [0; 2000];
    loop {
        match socket.recv(&mut octets) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Datagrams to the NAT-T port of end 1 that its data plane did not ask for.
fn inject(tunnel: &Tunnel, bytes: &[u8], segment: u16) {
    let [a, _] = &tunnel.ends;
    let to = SocketAddr::new(Tunnel::outer(1, false), PORT);
    a.namespace
        .run(|| Ok(SendSocket::open(Family::V4, DEVICE)?.send(to, bytes, segment, 0)?))
        .unwrap();
}

/// A packet as end 0 would seal it, far ahead of its own sequence numbers.
fn sealed(sequence: u64, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let algorithm = AeadAlgorithm::Aes128Gcm16;
    let sa = OutboundSa::new(&SaParams {
        spi: spi(1),
        algorithm,
        keymat: &keymat(1, algorithm),
        esn: true,
        replay_window: 8192,
    })
    .unwrap();
    let mut packet = vec![0; sa.sealed_len(payload.len())];
    packet[sa.header_len()..][..payload.len()].copy_from_slice(payload);
    sa.seal(sequence, next_header, payload.len(), &mut packet);
    packet
}

/// An inner IPv4 packet of an unassigned protocol from 10.9.0.1.
fn inner_packet(destination: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 24, 0, 0, 0x40, 0, 64, 254, 0, 0, 10, 9, 0, 1];
    packet.extend(destination);
    packet.extend([1, 2, 3, 4]);
    packet
}

#[test]
fn tcp_arrives_intact_in_every_family_over_every_family() {
    for outer_v6 in [false, true] {
        let tunnel = start(Options {
            outer_v6,
            ..Options::default()
        });
        let [a, b] = &tunnel.ends;
        for inner_v6 in [false, true] {
            for (from, to) in [(a, b), (b, a)] {
                let flow = pump::tcp(
                    &from.namespace,
                    &to.namespace,
                    Tunnel::inner(to.index, inner_v6),
                    Duration::from_millis(400),
                    true,
                )
                .unwrap();
                assert!(flow.intact);
                assert!(flow.octets > 1 << 20, "{flow:?}");
            }
        }
        assert_clean(&tunnel);
    }
}

#[test]
fn chacha20_and_one_worker_carry_tcp() {
    let tunnel = start(Options {
        algorithm: AeadAlgorithm::ChaCha20Poly1305,
        workers: 1,
        ..Options::default()
    });
    let [a, b] = &tunnel.ends;
    let time = Duration::from_millis(400);
    let to = Tunnel::inner(1, false);
    let flow = pump::tcp(&a.namespace, &b.namespace, to, time, true).unwrap();
    assert!(flow.intact && flow.octets > 1 << 20);
    assert_clean(&tunnel);
}

#[test]
fn aes_cbc_with_hmac_carries_tcp_and_full_packets_in_every_family() {
    for (outer_v6, key, integrity) in [
        (false, AesKey::Aes128, Integrity::HmacSha256_128),
        (true, AesKey::Aes256, Integrity::HmacSha512_256),
    ] {
        let tunnel = start(Options {
            outer_v6,
            algorithm: AeadAlgorithm::AesCbc(key, integrity),
            ..Options::default()
        });
        let [a, b] = &tunnel.ends;
        for inner_v6 in [false, true] {
            for (from, to) in [(a, b), (b, a)] {
                let time = Duration::from_millis(400);
                let to_address = Tunnel::inner(to.index, inner_v6);
                let flow =
                    pump::tcp(&from.namespace, &to.namespace, to_address, time, true).unwrap();
                assert!(flow.intact);
                assert!(flow.octets > 1 << 20, "{flow:?}");
            }
        }
        assert_clean(&tunnel);
    }
}

#[test]
fn no_datagram_is_lost_repeated_or_damaged_at_a_moderate_rate() {
    let load = Load {
        datagrams: 10_000,
        burst: 10,
        pause: Duration::from_millis(1),
        flows: 64,
        // The largest that fits the tunnel whole in both families.
        largest: 1390,
    };
    for outer_v6 in [false, true] {
        let tunnel = start(Options {
            outer_v6,
            ..Options::default()
        });
        let [a, b] = &tunnel.ends;
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            [(a, b, outer_v6), (b, a, !outer_v6)]
                .map(|(from, to, inner_v6)| {
                    scope.spawn(move || {
                        let address = Tunnel::inner(to.index, inner_v6);
                        let load = Load {
                            largest: if outer_v6 { 1350 } else { load.largest },
                            ..load
                        };
                        stamped::run(&from.namespace, &to.namespace, address, load).unwrap()
                    })
                })
                .map(|thread| thread.join().unwrap())
                .into()
        });
        for outcome in outcomes {
            let all = load.datagrams;
            let expected = Outcome {
                sent: all,
                received: all,
                duplicated: 0,
                damaged: 0,
            };
            assert_eq!(outcome, expected);
        }
        assert_clean(&tunnel);
    }
}

#[test]
fn foreign_tampered_and_repeated_packets_are_counted_and_go_nowhere() {
    let tunnel = start(Options::default());
    let [_, b] = &tunnel.ends;
    let good = sealed(1000, 4, &inner_packet([10, 9, 0, 2]));

    inject(&tunnel, &[0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4], 100);
    eventually("unknown SPI", || b.count("unknown_spi") == 1);
    inject(&tunnel, &[1, 2, 3], 100);
    eventually("short datagram", || b.count("too_short") == 1);
    inject(&tunnel, &[0xff], 100);
    eventually("keepalive", || b.count("keepalive") == 1);
    inject(&tunnel, &good[..30], 100);
    eventually("short ESP", || b.count("esp_too_short") == 1);

    let mut tampered = good.clone();
    tampered[20] ^= 1;
    inject(&tunnel, &tampered, 200);
    eventually("tampered", || b.count("esp_integrity") == 1);
    assert_eq!(b.count("rx_packets"), 0);

    inject(&tunnel, &good, 200);
    eventually("accepted", || b.count("rx_packets") == 1);
    inject(&tunnel, &good, 200);
    eventually("replayed", || b.count("esp_replay") == 1);

    inject(&tunnel, &sealed(1001, 59, &[0; 40]), 200);
    eventually("dummy", || b.count("dummy") == 1);
    inject(&tunnel, &sealed(1002, 17, &[0; 40]), 200);
    eventually("foreign next header", || b.count("next_header") == 1);
    inject(
        &tunnel,
        &sealed(1003, 41, &inner_packet([10, 9, 0, 2])),
        200,
    );
    eventually("wrong family", || b.count("malformed_in") == 1);
    inject(&tunnel, &sealed(1004, 4, &[0x45; 10]), 200);
    eventually("short inner packet", || b.count("malformed_in") == 2);
}

#[test]
fn a_packet_outside_the_selectors_is_dropped_after_it_was_opened() {
    let mut tunnel = start(Options::default());
    let [_, b] = &mut tunnel.ends;
    let entry = b.snapshot.inbound.get_mut(&spi(1)).unwrap();
    entry.ts_local = vec![Selector::host(Tunnel::inner(1, false))];
    b.install();
    inject(&tunnel, &sealed(5, 4, &inner_packet([10, 9, 0, 3])), 200);
    let [_, b] = &tunnel.ends;
    eventually("selector", || b.count("selector") == 1);
    assert_eq!(b.count("rx_packets"), 1);
}

#[test]
fn what_arrives_elsewhere_than_on_an_access_is_dropped() {
    let mut tunnel = start(Options::default());
    let [_, b] = &mut tunnel.ends;
    b.snapshot.accesses.clear();
    b.install();
    inject(&tunnel, &sealed(5, 4, &inner_packet([10, 9, 0, 2])), 200);
    let [_, b] = &mut tunnel.ends;
    eventually("dropped", || b.count("not_access") == 1);
    inject(&tunnel, &[0, 0, 0, 0, 1, 2, 3], 200);
    let [_, b] = &mut tunnel.ends;
    eventually("dropped", || b.count("not_access") == 2);
    assert!(b.inputs.try_recv().is_err());
}

#[test]
fn an_icmp_error_about_one_destination_fails_no_send_to_another() {
    let tunnel = start(Options::default());
    let [a, b] = &tunnel.ends;
    let router = Tunnel::outer(1, false);
    b.namespace
        .run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            Ok(std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0")?)
        })
        .unwrap();
    // The router has no route to the first (net unreachable) and must not
    // forward to the others (host unreachable, administratively prohibited).
    for (kind, to) in [
        ("unreachable", "198.51.100.2"),
        ("prohibit", "198.51.100.3"),
    ] {
        b.namespace.ip(&["route", "add", kind, to]).unwrap();
    }
    let via = [
        "route",
        "add",
        "198.51.100.0/24",
        "via",
        &router.to_string(),
    ];
    a.namespace.ip(&via).unwrap();
    let (poll, mut ready) = (Poll::new().unwrap(), Vec::new());
    let socket = a
        .namespace
        .run(|| Ok(WildcardSocket::open(Family::V4, 0)?))
        .unwrap();
    poll.add(&socket, 0).unwrap();
    for lost in ["198.51.100.1", "198.51.100.2", "198.51.100.3"] {
        let local = Tunnel::outer(0, false);
        let lost = SocketAddr::new(lost.parse().unwrap(), PORT);
        socket.send(0, local, lost, b"lost").unwrap();
        eventually("ICMP error", || {
            poll.wait(Some(Duration::from_millis(5)), &mut ready)
                .unwrap();
            ready.iter().any(|event| event.error)
        });
        let sent = socket.send(0, local, SocketAddr::new(router, PORT), &[0xff]);
        assert!(sent.is_ok(), "after {lost}: {sent:?}");
    }
    eventually("all arrived", || b.count("keepalive") == 3);
}

#[test]
fn every_segment_of_a_glued_read_is_classified() {
    let mut tunnel = start(Options::default());
    let probe = Spi(0xccdd_0001);
    let [_, b] = &mut tunnel.ends;
    b.snapshot.probes.insert(probe);
    b.install();
    // 64 octets each: ESP, IKE, a probe, an unknown SPI, ESP.
    let inner = inner_packet([10, 9, 0, 2]);
    let esp = sealed(1, 4, &inner);
    let segment = esp.len();
    let mut bytes = esp;
    let mut other = |start: [u8; 4], fill: u8| {
        bytes.extend(start);
        bytes.extend(vec![fill; segment - 4]);
    };
    other([0; 4], 7);
    other(probe.0.to_be_bytes(), 8);
    other([9; 4], 9);
    bytes.extend(sealed(2, 4, &inner));
    inject(&tunnel, &bytes, segment.try_into().unwrap());

    let [_, b] = &mut tunnel.ends;
    eventually("two ESP packets", || b.count("rx_packets") == 2);
    eventually("unknown", || b.count("unknown_spi") == 1);
    let (mut ike, mut probes) = (Vec::new(), Vec::new());
    while let Ok(input) = b.inputs.try_recv() {
        match input {
            Input::Ike { arrival, bytes } => {
                assert_eq!(arrival.ifindex, b.ifindex);
                assert_eq!(
                    arrival.local,
                    SocketAddr::new(Tunnel::outer(1, false), PORT)
                );
                assert_eq!(arrival.remote.ip(), Tunnel::outer(0, false));
                ike.push(bytes);
            }
            Input::Probe { spi, bytes, .. } => {
                assert_eq!(spi, probe);
                probes.push(bytes);
            }
            Input::NewSource { .. } | Input::FirstPacket { .. } | Input::Wanted { .. } => {}
            Input::WorkerGone { .. } => panic!("{input:?}"),
        }
    }
    assert_eq!(ike, [vec![7; segment - 4]]);
    assert_eq!(probes.len(), 1);
    assert_eq!(probes[0].len(), segment);
}

#[test]
fn an_unknown_source_is_reported_and_a_known_one_counts_for_its_path() {
    let mut tunnel = start(Options::default());
    let to = SocketAddr::new(Tunnel::inner(1, false), 9);
    let [a, b] = &mut tunnel.ends;
    say(a, to, b"first");
    let mut arrival: Option<Arrival> = None;
    let mut first = false;
    eventually("both notices", || {
        while let Ok(input) = b.inputs.try_recv() {
            match input {
                Input::NewSource {
                    arrival: from,
                    spi: on,
                    path,
                } => {
                    assert_eq!((on, path), (spi(1), PATH));
                    arrival = Some(from);
                }
                Input::FirstPacket { spi: on } => {
                    assert_eq!(on, spi(1));
                    first = true;
                }
                Input::Ike { .. }
                | Input::Probe { .. }
                | Input::Wanted { .. }
                | Input::WorkerGone { .. } => panic!("{input:?}"),
            }
        }
        arrival.is_some() && first
    });
    let arrival = arrival.unwrap();
    assert_eq!(arrival.remote.ip(), Tunnel::outer(0, false));
    let activity = |end: &End| end.dataplane.as_ref().unwrap().activity(PATH);
    assert_eq!(activity(b).1, None);
    assert!(activity(a).0 >= 1);

    // The worker that sends next may have another socket, so another port.
    b.snapshot.arrivals.insert(arrival, PATH);
    b.install();
    let before = Instant::now();
    for _ in 0..3 {
        say(a, to, b"again");
    }
    inject(&tunnel, &[0xff], 100);
    let [_, b] = &mut tunnel.ends;
    eventually("three more", || b.count("rx_packets") >= 4);
    let known = activity(b).1;
    let unknown = std::iter::from_fn(|| b.inputs.try_recv().ok()).count();
    assert!(known.is_some_and(|at| at >= before) || unknown > 0);
}

#[test]
fn a_held_sa_sends_once_it_is_released() {
    let mut tunnel = start(Options::default());
    let [a, b] = &mut tunnel.ends;
    a.snapshot.bundles[0].members[0].held = true;
    a.install();
    let socket = listen(b, false);
    let to = socket.local_addr().unwrap();
    for n in 0..70u8 {
        say(a, to, &[n]);
    }
    a.snapshot.bundles[0].members[0].held = false;
    a.install();
    let mut got = 0u64;
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    while let Ok(n) = hear(&socket) {
        assert_eq!(n, 1);
        got += 1;
    }
    // At most 64 wait at each worker; what found no room is counted.
    assert_eq!(got, 70 - a.count("held_full"));
    assert!(got >= 60, "{got}");
}

#[test]
fn a_held_sa_sends_after_a_second_without_an_answer() {
    let mut tunnel = start(Options::default());
    let [a, b] = &mut tunnel.ends;
    a.snapshot.bundles[0].members[0].held = true;
    a.install();
    let socket = listen(b, true);
    say(a, socket.local_addr().unwrap(), b"late");
    assert_eq!(hear(&socket).unwrap(), 4);
}

#[test]
fn packets_that_come_before_their_sa_wait_for_it() {
    let mut tunnel = start(Options::default());
    let [a, b] = &mut tunnel.ends;
    let entry = b.snapshot.inbound.remove(&spi(1)).unwrap();
    b.snapshot.larval.insert(spi(1));
    b.install();
    let socket = listen(b, false);
    let to = socket.local_addr().unwrap();
    for _ in 0..5 {
        say(a, to, b"early");
    }
    eventually("sent", || a.count("tx_packets") >= 5);
    assert_eq!(b.count("rx_packets"), 0);
    b.snapshot.larval.clear();
    b.snapshot.inbound.insert(spi(1), entry);
    b.install();
    for _ in 0..5 {
        assert_eq!(hear(&socket).unwrap(), 5);
    }
    assert_eq!(b.count("unknown_spi"), 0);
}

#[test]
fn without_a_usable_path_or_policy_nothing_leaves() {
    let mut tunnel = start(Options::default());
    let to = SocketAddr::new(Tunnel::inner(1, false), 9);
    let [a, _] = &mut tunnel.ends;
    a.snapshot.bundles[0].members[0].usable = false;
    a.install();
    let sent = a.count("tx_packets");
    say(a, to, b"x");
    eventually("no path", || a.count("no_path") >= 1);
    a.snapshot.bundles.clear();
    a.install();
    say(a, to, b"x");
    eventually("no policy", || a.count("no_policy") >= 1);
    assert_eq!(a.count("tx_packets"), sent);
}

#[test]
fn a_drop_behind_the_socket_is_counted() {
    let tunnel = start(Options::default());
    let [a, _] = &tunnel.ends;
    let none = [
        "qdisc", "replace", "dev", DEVICE, "root", "pfifo", "limit", "0",
    ];
    a.namespace.tc(&none).unwrap();
    say(a, SocketAddr::new(Tunnel::inner(1, false), 9), b"x");
    eventually("dropped", || a.count("egress_dropped") >= 1);
}

#[test]
fn a_full_access_costs_its_packets_and_stops_nobody() {
    let mut tunnel = start(Options::default());
    let [a, _] = &mut tunnel.ends;
    let slow = [
        "qdisc", "replace", "dev", DEVICE, "root", "tbf", "rate", "1mbit", "burst", "70kb",
        "limit", "100mb",
    ];
    a.namespace.tc(&slow).unwrap();
    let to = SocketAddr::new(Tunnel::inner(1, false), 9);
    a.namespace
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            eventually("full", || {
                for _ in 0..500 {
                    let _ = socket.send_to(&[1; 1400], to);
                }
                a.count("access_full") > 0
            });
            Ok(())
        })
        .unwrap();
    // The workers are not waiting for it: a new snapshot takes effect at once.
    a.snapshot.bundles.clear();
    a.install();
    say(a, to, b"x");
    eventually("no policy", || a.count("no_policy") >= 1);
}

#[test]
fn a_small_path_cuts_tcp_clamps_and_answers_what_does_not_fit() {
    let tunnel = start(Options {
        mtu: 1280,
        ..Options::default()
    });
    let [a, b] = &tunnel.ends;
    for inner_v6 in [false, true] {
        let time = Duration::from_millis(300);
        let to = Tunnel::inner(1, inner_v6);
        let flow = pump::tcp(&a.namespace, &b.namespace, to, time, true).unwrap();
        assert!(flow.intact && flow.octets > 1 << 20);
    }
    assert_eq!(a.count("too_big") + a.count("too_big_silent"), 0);

    // 1280 - 28 outer - 34 ESP.
    let socket = listen(b, false);
    let to = socket.local_addr().unwrap();
    let refused = a
        .namespace
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            let first = socket.send(&[1; 1300]);
            eventually("ICMP error", || a.count("too_big") >= 1);
            // The kernel has learned: from now on it fragments by itself.
            eventually("path MTU known", || socket.send(&[1; 1300]).is_ok());
            Ok(first.is_ok())
        })
        .unwrap();
    assert!(refused);
    assert_eq!(hear(&socket).unwrap(), 1300);
    assert_clean(&tunnel);
}

#[test]
fn a_datagram_that_may_be_fragmented_is_fragmented_before_it_is_sealed() {
    let tunnel = start(Options::default());
    let [a, b] = &tunnel.ends;
    let socket = listen(b, false);
    let to = socket.local_addr().unwrap();
    a.namespace
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            let off: libc::c_int = libc::IP_PMTUDISC_DONT;
            // SAFETY: the option value is one `int` that lives over the call.
            let result = unsafe {
                libc::setsockopt(
                    std::os::fd::AsRawFd::as_raw_fd(&socket),
                    libc::IPPROTO_IP,
                    libc::IP_MTU_DISCOVER,
                    (&raw const off).cast(),
                    4,
                )
            };
            assert_eq!(result, 0);
            Ok(socket.send_to(&[3; 1472], to).map(drop)?)
        })
        .unwrap();
    assert_eq!(hear(&socket).unwrap(), 1472);
    assert_eq!(a.count("too_big"), 0);
    assert_clean(&tunnel);
}

#[test]
fn the_outer_header_copies_the_inner_tos_and_numbers_never_repeat() {
    let mut tunnel = start(Options::default());
    let [a, b] = &mut tunnel.ends;
    drop(b.dataplane.take());
    let wire = b
        .namespace
        .run(|| Ok(WildcardSocket::open(Family::V4, PORT)?))
        .unwrap();
    let to = SocketAddr::new(Tunnel::inner(1, false), 9);
    let marks = [0u32, 0xb8, 0xb9, 0x02, 0];
    a.namespace
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            for tos in marks {
                socket2::SockRef::from(&socket).set_tos_v4(tos)?;
                socket.send_to(&[7; 100], to)?;
            }
            Ok(())
        })
        .unwrap();
    let mut batch = RecvBatch::new(8);
    let mut seen = Vec::new();
    let whole = sealed(1 << 40, 4, &[0; 128]).len();
    eventually("all on the wire", || {
        for index in 0..wire.receive(&mut batch).unwrap_or(0) {
            let read = batch.get(index).unwrap();
            for packet in read.bytes.chunks(read.segment) {
                assert_eq!(packet[..4], spi(1).0.to_be_bytes());
                let sequence = u64::from_be_bytes(packet[8..16].try_into().unwrap());
                // IPv6 router solicitations and the like come in between.
                if packet.len() == whole {
                    seen.push((sequence, u32::from(read.tos)));
                }
            }
        }
        seen.len() == marks.len()
    });
    seen.sort_unstable();
    let tos: Vec<u32> = seen.iter().map(|(_, tos)| *tos).collect();
    assert_eq!(tos, marks);
    seen.dedup_by_key(|(sequence, _)| *sequence);
    assert_eq!(seen.len(), marks.len());
}

#[test]
fn a_tun_that_is_deleted_is_told_by_every_worker() {
    let mut tunnel = start(Options::default());
    let [a, _] = &mut tunnel.ends;
    a.namespace.ip(&["link", "del", TUN]).unwrap();
    let mut gone = std::collections::BTreeSet::new();
    eventually("both workers gone", || {
        while let Ok(input) = a.inputs.try_recv() {
            if let Input::WorkerGone { index, error } = input {
                assert!(error.contains("TUN"), "{error}");
                gone.insert(index);
            }
        }
        gone.len() == 2
    });
}

#[test]
fn an_ipv6_packet_no_sender_makes_smaller_is_counted_apart() {
    let tunnel = start(Options {
        mtu: 1280,
        ..Options::default()
    });
    let [a, _] = &tunnel.ends;
    let to = SocketAddr::new(Tunnel::inner(1, true), 9);
    // 1248 octets with its headers; the tunnel takes 1218.
    say(a, to, &[1; 1200]);
    eventually("counted", || a.count("path_too_small_for_ipv6") == 1);
    assert_eq!(a.count("too_big"), 0);
}
