//! The attached programs on veth devices, real sockets on both sides; needs root.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use mifsec::ebpf::{
    Config, Direction, Ebpf, IngressMode, PathEntry, SaOut, SpdAction, SpdRule, XdpChoice,
    path_entry,
};
use mifsec::ids::{PathIndex, Spi};
use mifsec_tests::bpf::frame::{self, checksum, pseudo_header};
use mifsec_tests::bpf::net::{
    Sender, Tap, chain_end, ifindex, in_namespace, ip, mac, topology, tun,
};

const SPI: u32 = 0x1234_5678;
const SEGMENT: u16 = 1200;
const SEGMENTS: u32 = 20;
const PATH: PathIndex = PathIndex(3);

fn config(instance: &str, pin: bool) -> Config {
    Config {
        instance: format!("test-{}-{instance}", std::process::id()),
        anchor_ifindex: ifindex("anchor").unwrap(),
        anchor_prefixes: (
            "240.0.0.0/8".parse().unwrap(),
            "fd6d:6966::/64".parse().unwrap(),
        ),
        max_sas: 16,
        max_paths: 1024,
        pin,
        lockdown: false,
        log_level: 2,
    }
}

struct Family {
    sender: &'static str,
    anchor: &'static str,
    local: [&'static str; 2],
    remote: &'static str,
    hop: [&'static str; 2],
}

const V4: Family = Family {
    sender: "240.0.0.1:4500",
    anchor: "240.0.0.77:4500",
    local: ["192.0.0.10:4500", "192.0.1.10:4600"],
    remote: "203.0.113.1:61234",
    hop: ["192.0.0.1", "192.0.1.1"],
};

const V6: Family = Family {
    sender: "[fd6d:6966::1]:4500",
    anchor: "[fd6d:6966::77]:4500",
    local: ["[2001:db8:0::10]:4500", "[2001:db8:1::10]:4600"],
    remote: "[2001:db8:99::1]:61234",
    hop: ["2001:db8:0::1", "2001:db8:1::1"],
};

impl Family {
    fn local(&self, access: usize) -> SocketAddr {
        self.local[access].parse().unwrap()
    }

    fn remote(&self) -> SocketAddr {
        self.remote.parse().unwrap()
    }

    fn anchor(&self) -> SocketAddr {
        self.anchor.parse().unwrap()
    }

    fn entry(&self, access: usize) -> PathEntry {
        let hop: IpAddr = self.hop[access].parse().unwrap();
        let device = ifindex(&format!("acc{access}")).unwrap();
        path_entry(
            self.local(access),
            self.remote(),
            Some(hop),
            device,
            1500,
            true,
            false,
        )
    }

    fn sender(&self) -> Sender {
        Sender::open("anchor", self.sender.parse().unwrap(), SEGMENT).unwrap()
    }

    fn load(&self, config: &Config) -> Ebpf {
        let mut ebpf = Ebpf::load(config).unwrap();
        let sa = SaOut {
            home_v4: PATH.0,
            home_v6: PATH.0,
            ..SaOut::default()
        };
        ebpf.set_sa_out(self.anchor().ip(), Spi(SPI), sa).unwrap();
        ebpf.set_path(PATH, &self.entry(0)).unwrap();
        ebpf
    }
}

/// One GSO send: ESP packets numbered from `first`.
fn batch(first: u32) -> Vec<u8> {
    let mut octets = Vec::new();
    for sequence in first..first + SEGMENTS {
        let mut packet = frame::esp(SPI, usize::from(SEGMENT) - 8);
        packet[4..8].copy_from_slice(&sequence.to_be_bytes());
        octets.extend(packet);
    }
    octets
}

/// Checks a frame from one access and returns its sequence number.
fn verify(family: &Family, access: usize, octets: &[u8]) -> u32 {
    let packet = &octets[14..];
    let (local, remote) = (family.local(access), family.remote());
    let payload_at = if local.is_ipv4() { 28 } else { 48 };
    let expected = frame::udp(local, remote, &packet[payload_at..]);
    let udp_at = payload_at - 8;
    // Addresses and ports, all of one access.
    let addresses = if local.is_ipv4() { 12..24 } else { 8..44 };
    assert_eq!(
        packet[addresses.clone()],
        expected[addresses],
        "access {access}"
    );
    if local.is_ipv4() {
        assert_eq!(checksum(&[&packet[..20]]), 0, "IP header checksum");
    }
    let datagram = &packet[udp_at..];
    let pseudo = pseudo_header(
        local.ip(),
        remote.ip(),
        frame::UDP,
        u16::try_from(datagram.len()).unwrap(),
    );
    assert_ne!(datagram[6..8], [0, 0], "a UDP checksum is there");
    assert_eq!(checksum(&[&pseudo, datagram]), 0, "UDP checksum");
    assert_eq!(
        octets[..6],
        [2, 0, 0, 0, 1, u8::try_from(access).unwrap()],
        "next hop"
    );
    u32::from_be_bytes(packet[payload_at + 4..payload_at + 8].try_into().unwrap())
}

#[test]
fn gso_datagrams_leave_by_the_access_with_right_addresses_and_checksums() {
    for family in [&V4, &V6] {
        in_namespace(|| {
            topology().unwrap();
            let far = Tap::open("far0").unwrap();
            let ebpf = family.load(&config("gso", false));
            let sender = family.sender();
            let batches = 100;
            for i in 0..batches {
                sender.send(&batch(i * SEGMENTS), family.anchor()).unwrap();
            }
            let total = batches * SEGMENTS;
            for expected in 0..total {
                let octets = far.next().unwrap().expect("a frame is missing");
                assert_eq!(verify(family, 0, &octets), expected);
            }
            assert!(far.next().unwrap().is_none());
            let stats = ebpf.path_stats(PATH);
            let header = if family.anchor().is_ipv4() { 28 } else { 48 };
            assert_eq!(stats.tx_packets, u64::from(total));
            assert_eq!(stats.tx_octets, u64::from(total) * (1200 + header));
        });
    }
}

#[test]
fn thousands_of_flips_between_two_accesses_lose_and_mix_nothing() {
    const FLIPS: u32 = 3000;
    for family in [&V4, &V6] {
        in_namespace(|| {
            topology().unwrap();
            let taps = [Tap::open("far0").unwrap(), Tap::open("far1").unwrap()];
            let mut ebpf = family.load(&config("flip", false));
            let entries = [family.entry(0), family.entry(1)];
            let sender = family.sender();
            let (done, sent) = (AtomicBool::new(false), AtomicU32::new(0));
            let seen = thread::scope(|scope| {
                let readers: Vec<_> = taps
                    .iter()
                    .enumerate()
                    .map(|(access, tap)| {
                        let done = &done;
                        scope.spawn(move || {
                            let mut seen = Vec::new();
                            loop {
                                match tap.next().unwrap() {
                                    Some(octets) => seen.push(verify(family, access, &octets)),
                                    None if done.load(Ordering::Acquire) => return seen,
                                    None => {}
                                }
                            }
                        })
                    })
                    .collect();
                let sending = scope.spawn(|| {
                    while !done.load(Ordering::Acquire) {
                        let first = sent.fetch_add(SEGMENTS, Ordering::Relaxed);
                        sender.send(&batch(first), family.anchor()).unwrap();
                        // The readers share two cores with everybody.
                        thread::sleep(Duration::from_micros(300));
                    }
                });
                for flip in 1..=FLIPS {
                    ebpf.set_path(PATH, &entries[(flip % 2) as usize]).unwrap();
                    thread::sleep(Duration::from_micros(200));
                }
                done.store(true, Ordering::Release);
                sending.join().unwrap();
                readers
                    .into_iter()
                    .map(|r| r.join().unwrap())
                    .collect::<Vec<_>>()
            });
            let sent = sent.load(Ordering::Relaxed);
            let all: BTreeSet<u32> = seen.iter().flatten().copied().collect();
            let received = seen[0].len() + seen[1].len();
            println!("{FLIPS} flips, {sent} sent, {received} received");
            assert_eq!(all.len(), received, "duplicated");
            assert_eq!(received, sent as usize, "lost");
            assert!(sent >= 10_000, "{sent} are too few to say anything");
            assert!(
                seen.iter().all(|s| s.len() > 1000),
                "both accesses were used"
            );
        });
    }
}

#[test]
fn a_layer_3_access_gets_packets_without_an_ethernet_header() {
    in_namespace(|| {
        topology().unwrap();
        let modem = tun("modem").unwrap();
        ip("link set modem addrgenmode none
            link set modem up
            addr add 192.0.0.10/32 dev modem")
        .unwrap();
        let mut ebpf = V4.load(&config("layer3", false));
        let device = ifindex("modem").unwrap();
        assert_eq!(
            ebpf.attach_access(device, XdpChoice::Auto).unwrap(),
            IngressMode::Tc
        );
        ebpf.set_ports(&[4500], &[500]).unwrap();
        ebpf.set_spd(&lockdown()).unwrap();
        let entry = path_entry(V4.local(0), V4.remote(), None, device, 1500, true, true);
        ebpf.set_path(PATH, &entry).unwrap();
        V4.sender()
            .send(&batch(0)[..usize::from(SEGMENT)], V4.anchor())
            .unwrap();
        let mut packet = vec![0; 2000];
        let len = std::fs::File::from(modem).read(&mut packet).unwrap();
        let framed = [&[2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8, 0], &packet[..len]].concat();
        assert_eq!(verify(&V4, 0, &framed), 0);
        assert_eq!(reason(&ebpf, "clear_out"), 0);
    });
}

fn lockdown() -> Vec<SpdRule> {
    [Direction::Out, Direction::In]
        .into_iter()
        .flat_map(|direction| {
            ["0.0.0.0/0", "::/0"].map(|any| SpdRule {
                direction,
                local: any.parse().unwrap(),
                remote: any.parse().unwrap(),
                protocol: 0,
                local_ports: 0..=u16::MAX,
                remote_ports: 0..=u16::MAX,
                action: SpdAction::ProtectTunnel,
            })
        })
        .collect()
}

#[test]
fn redirected_packets_pass_the_guard_and_forwarded_ones_with_our_port_do_not() {
    for family in [&V4, &V6] {
        in_namespace(|| {
            topology().unwrap();
            let far = Tap::open("far0").unwrap();
            let mut ebpf = family.load(&config("owner", false));
            ebpf.attach_access(ifindex("acc0").unwrap(), XdpChoice::Off)
                .unwrap();
            ebpf.set_ports(&[4500], &[500]).unwrap();
            ebpf.set_local(&[family.local(0).ip()]).unwrap();
            ebpf.set_spd(&lockdown()).unwrap();
            family.sender().send(&batch(0), family.anchor()).unwrap();
            for expected in 0..SEGMENTS {
                let octets = far.next().unwrap().expect("a redirected packet is missing");
                assert_eq!(verify(family, 0, &octets), expected);
            }
            assert_eq!(reason(&ebpf, "clear_out"), 0);

            // Another host's packet from port 4500, routed through us.
            for name in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/{name}"), "1").unwrap();
            }
            ip("addr add 198.18.0.1/24 dev acc1
                -6 addr add 2001:db8:18::1/64 dev acc1 nodad
                route add 203.0.113.0/24 via 192.0.0.1 dev acc0
                -6 route add 2001:db8:99::/64 via 2001:db8:0::1 dev acc0")
            .unwrap();
            let host: SocketAddr = if family.anchor().is_ipv4() {
                "198.18.0.9:4500".parse().unwrap()
            } else {
                "[2001:db8:18::9]:4500".parse().unwrap()
            };
            let mut through = frame::ethernet(&[], &frame::udp(host, family.remote(), b"clear"));
            through[..6].copy_from_slice(&mac("acc1").unwrap());
            let into = Tap::open("far1").unwrap();
            into.send(&through).unwrap();
            assert!(far.next().unwrap().is_none(), "a forwarded packet left");
            assert_eq!(reason(&ebpf, "clear_out"), 1, "and not by another's hand");
        });
    }
}

#[test]
fn a_program_that_ends_the_chain_does_not_skip_the_guard() {
    in_namespace(|| {
        topology().unwrap();
        let (far, acc0) = (Tap::open("far0").unwrap(), ifindex("acc0").unwrap());
        let _foreign = chain_end(acc0).unwrap();
        let mut ebpf = V4.load(&config("chain", false));
        ebpf.attach_access(acc0, XdpChoice::Off).unwrap();
        ebpf.set_spd(&lockdown()).unwrap();
        assert!(!leaks(&far, 0));
        assert_eq!(reason(&ebpf, "clear_out"), 1);
    });
}

fn reason(ebpf: &Ebpf, name: &str) -> u64 {
    let reasons = ebpf.reasons();
    reasons.iter().find(|(n, _)| *n == name).unwrap().1
}

/// Sends a datagram in clear by `acc0`; true if it came out at the far end.
fn leaks(far: &Tap, port: u16) -> bool {
    let local: SocketAddr = "192.0.0.10:0".parse().unwrap();
    let socket = std::net::UdpSocket::bind(SocketAddr::new(local.ip(), port)).unwrap();
    socket.connect("192.0.0.1:9").unwrap();
    // A drop may show as an error here.
    let _ = socket.send(b"in clear");
    far.next().unwrap().is_some()
}

/// Removes an instance's pins when a test fails before it does.
struct Unpin(String);

impl Drop for Unpin {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_guard_outlives_its_agent_and_hands_over_without_a_gap() {
    in_namespace(|| {
        topology().unwrap();
        let (far, acc0) = (Tap::open("far0").unwrap(), ifindex("acc0").unwrap());
        let config = config("guard", true);
        let pins = format!("/sys/fs/bpf/mifsec/{}", config.instance);
        let _unpin = Unpin(pins.clone());
        assert!(leaks(&far, 0), "the access works");

        let mut first = V4.load(&config);
        first.attach_access(acc0, XdpChoice::Auto).unwrap();
        first.set_ports(&[4500], &[500]).unwrap();
        first.set_spd(&lockdown()).unwrap();
        assert!(!leaks(&far, 0));
        assert_eq!(reason(&first, "clear_out"), 1);
        assert!(leaks(&far, 4500), "our own port passes");
        // In clear from outside: never seen by a socket.
        let socket = std::net::UdpSocket::bind("192.0.0.10:7777").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let (us, them) = (
            "192.0.0.10:7777".parse().unwrap(),
            "192.0.0.1:9".parse().unwrap(),
        );
        let mut arriving = frame::ethernet(&[], &frame::udp(them, us, b"clear"));
        arriving[..6].fill(0xff);
        far.send(&arriving).unwrap();
        assert!(socket.recv(&mut [0; 9]).is_err());
        assert_eq!(reason(&first, "clear_in"), 1);

        // What a kill leaves: no clean stop, the pins stay.
        drop(first);
        assert!(!leaks(&far, 0), "the guard of a dead agent stands");

        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let leaking = scope.spawn(|| {
                let socket = std::net::UdpSocket::bind("192.0.0.10:0").unwrap();
                socket.connect("192.0.0.1:9").unwrap();
                while !stop.load(Ordering::Acquire) {
                    let _ = socket.send(b"in clear");
                }
            });
            let mut second = V4.load(&config);
            second.attach_access(acc0, XdpChoice::Auto).unwrap();
            second.set_ports(&[4500], &[500]).unwrap();
            second.set_spd(&lockdown()).unwrap();
            thread::sleep(Duration::from_millis(50));
            stop.store(true, Ordering::Release);
            leaking.join().unwrap();
            assert!(far.next().unwrap().is_none(), "a gap at the hand-over");
            assert!(
                reason(&second, "clear_out") > 0,
                "the successor's guard drops now"
            );
            assert_eq!(
                std::fs::read_dir(&pins).unwrap().count(),
                1,
                "one generation"
            );

            second.remove_pins();
        });
        assert!(leaks(&far, 0), "a clean stop removes the guard");
        assert!(!std::path::Path::new(&pins).exists());
    });
}

#[test]
fn lockdown_does_not_start_where_its_guard_would_die_with_the_agent() {
    in_namespace(|| {
        topology().unwrap();
        let mut config = config("no/directory", true);
        drop(Ebpf::load(&config).unwrap());
        config.lockdown = true;
        let error = Ebpf::load(&config).err().unwrap();
        assert!(error.to_string().contains("lockdown"), "{error:#}");
    });
}

#[test]
fn a_failed_attach_can_be_repeated_and_does_what_is_left() {
    in_namespace(|| {
        topology().unwrap();
        let _modem = tun("modem").unwrap();
        let (acc0, modem) = (ifindex("acc0").unwrap(), ifindex("modem").unwrap());
        let config = config("again", true);
        let pins = format!("/sys/fs/bpf/mifsec/{}", config.instance);
        let _unpin = Unpin(pins.clone());
        let mut ebpf = V4.load(&config);
        // The guard is there, XDP is not possible.
        ebpf.attach_access(modem, XdpChoice::Native).unwrap_err();
        assert_eq!(
            ebpf.attach_access(modem, XdpChoice::Auto).unwrap(),
            IngressMode::Tc
        );
        // The first half of the guard is there, the other has no place for its pin.
        let in_the_way = format!("{pins}/0/mif_guard_in-{acc0}");
        std::fs::create_dir(&in_the_way).unwrap();
        ebpf.attach_access(acc0, XdpChoice::Auto).unwrap_err();
        std::fs::remove_dir(&in_the_way).unwrap();
        assert_eq!(
            ebpf.attach_access(acc0, XdpChoice::Auto).unwrap(),
            IngressMode::Tc
        );
        ebpf.remove_pins();
    });
}

#[test]
fn xdp_goes_where_it_may_and_never_in_anothers_place() {
    in_namespace(|| {
        topology().unwrap();
        let device = ifindex("acc0").unwrap();
        let mut one = V4.load(&config("one", false));
        assert_eq!(
            one.attach_access(device, XdpChoice::Auto).unwrap(),
            IngressMode::Tc
        );
        one.detach_access(device);
        assert_eq!(
            one.attach_access(device, XdpChoice::Native).unwrap(),
            IngressMode::Native
        );

        let mut two = V4.load(&config("two", false));
        for choice in [XdpChoice::Native, XdpChoice::Generic] {
            assert_eq!(two.attach_access(device, choice).unwrap(), IngressMode::Tc);
            two.detach_access(device);
        }
        one.detach_access(device);
        assert_eq!(
            two.attach_access(device, XdpChoice::Generic).unwrap(),
            IngressMode::Generic
        );
        two.detach_access(device);
        assert_eq!(
            two.attach_access(device, XdpChoice::Off).unwrap(),
            IngressMode::Off
        );
    });
}

#[test]
fn a_drop_by_the_program_shows_at_the_socket() {
    in_namespace(|| {
        topology().unwrap();
        let mut ebpf = V4.load(&config("drop", false));
        ebpf.remove_path(PATH);
        let error = V4.sender().send(&batch(0), V4.anchor()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
        assert_eq!(reason(&ebpf, "no_path"), 1);
        assert_eq!(ebpf.drain_events().len(), 1);
    });
}
