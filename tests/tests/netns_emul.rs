//! The link emulator with real packets: it does what it says, counts what it
//! does, and loses nothing of its own.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something unexpected happens, and says what it saw"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use mifsec_tests::emul::{
    Bursts, Counters, Device, Faults, Impairments, Jitter, Rate, Reordering, Way, Wire,
};
use mifsec_tests::lab::sys;
use mifsec_tests::namespace::Namespace;
use mifsec_tests::pump;
use mifsec_tests::stamped::{self, Load, Outcome};

const MS: Duration = Duration::from_millis(1);
const A: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const MACS: [&str; 2] = ["02:00:00:00:00:0a", "02:00:00:00:00:0b"];

/// Two hosts and a wire: nothing but what a test sends travels on it.
struct Hosts {
    wire: Wire,
    a: Namespace,
    b: Namespace,
}

impl Hosts {
    fn new(seed: u64) -> Self {
        let [a, b] = ["a", "b"].map(|label| Namespace::new(label).unwrap());
        for host in [&a, &b] {
            // The devices are to have no link-local address, which would be announced.
            host.run(|| {
                let all = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
                Ok(std::fs::write(all, "1")?)
            })
            .unwrap();
        }
        let device = |host| Device {
            namespace: Namespace::name(host),
            name: "wire",
        };
        let wire = Wire::new(device(&a), device(&b), seed).unwrap();
        for (host, own, mac) in [(&a, A, MACS[0]), (&b, B, MACS[1])] {
            let own = format!("{own}/24");
            host.ip(&["link", "set", "wire", "address", mac]).unwrap();
            host.ip(&["addr", "add", &own, "dev", "wire"]).unwrap();
        }
        let hosts = Self { wire, a, b };
        hosts.neighbours();
        hosts
    }

    /// Makes each know the other, so that nobody asks.
    fn neighbours(&self) {
        for (host, other, mac) in [(&self.a, B, MACS[1]), (&self.b, A, MACS[0])] {
            let replace = format!("neigh replace {other} lladdr {mac} dev wire nud permanent");
            host.ip(&replace.split(' ').collect::<Vec<_>>()).unwrap();
        }
    }

    /// Datagrams of 8 to 1,400 octets one way.
    fn load(&self, way: Way, datagrams: u64) -> Outcome {
        let (from, to, address) = match way {
            Way::AToB => (&self.a, &self.b, B),
            Way::BToA => (&self.b, &self.a, A),
        };
        let load = Load {
            datagrams,
            burst: 20,
            pause: MS,
            flows: 4,
            largest: 1400,
        };
        let outcome = stamped::run(from, to, IpAddr::V4(address), load).unwrap();
        assert_eq!(outcome.damaged, 0, "{outcome:?}");
        outcome
    }

    fn counters(&self) -> [Counters; 2] {
        [Way::AToB, Way::BToA].map(|way| self.wire.counters(way))
    }

    fn udp(&self, host: &Namespace, address: Ipv4Addr) -> UdpSocket {
        host.run(|| Ok(UdpSocket::bind((address, 0))?)).unwrap()
    }

    /// Ends the wire; the instrument itself must have lost nothing.
    fn end(self) {
        assert_eq!(self.wire.faults().unwrap(), Faults::default());
        println!("latest {:?}, {:?}", self.wire.latest(), self.counters());
        self.wire.stop().unwrap();
    }
}

fn skipped() -> bool {
    let skipped = !sys::is_root();
    if skipped {
        println!("skipped: network namespaces need root");
    }
    skipped
}

#[test]
fn a_wire_without_impairments_loses_doubles_and_damages_nothing() {
    if skipped() {
        return;
    }
    let hosts = Hosts::new(1);
    for way in [Way::AToB, Way::BToA] {
        let outcome = hosts.load(way, 10_000);
        assert_eq!((outcome.received, outcome.duplicated), (10_000, 0));
        let counters = hosts.wire.counters(way);
        assert_eq!((counters.sent, counters.arrived), (10_000, 10_000));
        assert_eq!(counters.reordered, 0);
    }
    hosts.end();
}

#[test]
fn a_delay_is_never_shorter_and_hardly_longer() {
    if skipped() {
        return;
    }
    let hosts = Hosts::new(2);
    let (from, to) = (hosts.udp(&hosts.a, A), hosts.udp(&hosts.b, B));
    from.connect(to.local_addr().unwrap()).unwrap();
    to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let one_way = |impairments| {
        hosts.wire.set(Way::AToB, impairments);
        let mut times: Vec<_> = (0..100)
            .map(|_| {
                let sent = Instant::now();
                from.send(b"now").unwrap();
                to.recv(&mut [0; 16]).unwrap();
                sent.elapsed()
            })
            .collect();
        times.sort();
        println!("{:?}: {:?} to {:?}", impairments.delay, times[0], times[99]);
        times
    };
    let least = one_way(Impairments::default())[0];
    for delay in [5 * MS, 20 * MS, 50 * MS] {
        let times = one_way(Impairments::delay(delay));
        assert!(times[0] >= delay, "{:?}", times[0]);
        // A busy machine delays some, not all.
        assert!(times[0] < delay + least + 2 * MS, "{:?}", times[0]);
    }
    hosts.end();
}

#[test]
fn what_is_lost_is_what_was_counted_as_lost() {
    if skipped() {
        return;
    }
    let hosts = Hosts::new(3);
    hosts.wire.set_both(Impairments::loss(0.1));
    let outcome = hosts.load(Way::AToB, 20_000);
    let [there, back] = hosts.counters();
    assert_eq!(there.sent, outcome.sent);
    assert_eq!(there.lost, outcome.sent - outcome.received);
    // Five standard deviations.
    assert!((1_788..=2_212).contains(&there.lost), "{there:?}");
    assert_eq!(back, Counters::default());

    let bursts = Some(Bursts::of(0.05, 10.0));
    let impairments = Impairments {
        bursts,
        duplicate: 0.02,
        reordering: Some(Reordering {
            probability: 0.05,
            by: 5 * MS,
        }),
        jitter: Jitter::Normal(MS),
        ..Impairments::delay(10 * MS)
    };
    hosts.wire.set(Way::BToA, impairments);
    let outcome = hosts.load(Way::BToA, 20_000);
    let [_, back] = hosts.counters();
    assert_eq!(back.sent, outcome.sent);
    assert_eq!(back.lost, outcome.sent - outcome.received);
    assert_eq!(back.duplicated, outcome.duplicated);
    assert!(back.lost > 0 && back.duplicated > 0 && back.reordered > 0);
    hosts.end();
}

#[test]
fn one_way_dies_and_the_other_does_not_mind() {
    if skipped() {
        return;
    }
    let hosts = Hosts::new(4);
    hosts.wire.set(Way::AToB, Impairments::dead());
    assert_eq!(hosts.load(Way::AToB, 1_000).received, 0);
    assert_eq!(hosts.load(Way::BToA, 1_000).received, 1_000);
    hosts.wire.set(Way::AToB, Impairments::default());
    assert_eq!(hosts.load(Way::AToB, 1_000).received, 1_000);
    let [there, back] = hosts.counters();
    assert_eq!((there.sent, there.lost), (2_000, 1_000));
    assert_eq!((back.sent, back.lost), (1_000, 0));
    hosts.end();
}

#[test]
fn no_more_passes_than_the_rate() {
    if skipped() {
        return;
    }
    let hosts = Hosts::new(5);
    let rate = Rate::megabits(20, 50 * MS);
    hosts.wire.set_both(Impairments {
        rate: Some(rate),
        ..Impairments::delay(5 * MS)
    });
    // More than the rate and nobody listens: the queue overflows and says so.
    let from = hosts.udp(&hosts.a, A);
    for _ in 0..2_000 {
        from.send_to(&[0; 1372], SocketAddr::from((B, 9))).unwrap();
        thread::sleep(Duration::from_micros(100));
    }
    let counters = hosts.wire.counters(Way::AToB);
    assert_eq!(counters.sent, 2_000);
    assert!(counters.queue_dropped > 0, "{counters:?}");
    let begun = Instant::now();
    let to = IpAddr::V4(B);
    let pumped = pump::tcp(&hosts.a, &hosts.b, to, Duration::from_secs(4), true).unwrap();
    let most = rate.octets_in(begun.elapsed());
    assert!(pumped.intact);
    assert!(pumped.octets < most as u64, "{pumped:?}");
    // What a TCP leaves of 20 Mbit/s is its matter; half is far below.
    assert!(pumped.gigabits() > 0.010, "{pumped:?}");
    println!("{:.1} Mbit/s of 20", pumped.gigabits() * 1e3);
    hosts.end();
}

#[test]
fn a_device_that_is_down_is_no_fault_of_the_wire() {
    if skipped() {
        return;
    }
    let hosts = Hosts::new(6);
    let set = |state| hosts.b.ip(&["link", "set", "wire", state]).unwrap();
    set("down");
    assert_eq!(hosts.load(Way::AToB, 100).received, 0);
    set("up");
    hosts.neighbours();
    assert_eq!(hosts.load(Way::AToB, 100).received, 100);
    // Also while it goes down and up.
    thread::scope(|scope| {
        let loaded = scope.spawn(|| hosts.load(Way::AToB, 10_000));
        while !loaded.is_finished() {
            set("down");
            thread::sleep(20 * MS);
            set("up");
            thread::sleep(20 * MS);
        }
    });
    assert_eq!(hosts.wire.counters(Way::AToB).arrived, 10_200);
    hosts.end();
}

#[test]
fn what_the_instrument_itself_loses_is_a_fault() {
    if skipped() {
        return;
    }
    let hosts = Hosts::new(8);
    // No frame of the wire is that long for this end.
    hosts.b.ip(&["link", "set", "wire", "mtu", "700"]).unwrap();
    let outcome = hosts.load(Way::AToB, 1_000);
    let faults = hosts.wire.faults().unwrap();
    assert!(faults.refused > 0, "{faults:?}");
    assert_eq!(faults.refused, outcome.sent - outcome.received);
    hosts.wire.stop().unwrap();
}

#[test]
fn three_hundred_megabits_pass_without_a_loss() {
    const DATAGRAMS: u64 = 134_000;
    const OCTETS: usize = 1400;
    if skipped() {
        return;
    }
    let hosts = Hosts::new(7);
    hosts.wire.set_both(Impairments::delay(20 * MS));
    let (from, to) = (hosts.udp(&hosts.a, A), hosts.udp(&hosts.b, B));
    from.connect(to.local_addr().unwrap()).unwrap();
    to.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    sys::force_receive_buffer(std::os::fd::AsRawFd::as_raw_fd(&to), 64 << 20).unwrap();
    let received = thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut buffer = [0; 2048];
            (0..DATAGRAMS)
                .take_while(|_| to.recv(&mut buffer).is_ok())
                .count() as u64
        });
        let begun = Instant::now();
        // IP and UDP headers are part of the rate; who is late makes up for it.
        let rate = Rate::megabits(300, MS);
        let mut sent = 0;
        while sent < DATAGRAMS {
            let due = (rate.octets_in(begun.elapsed()) / OCTETS) as u64;
            while sent < due.min(DATAGRAMS) {
                from.send(&[0x55; OCTETS - 28]).unwrap();
                sent += 1;
            }
            thread::sleep(Duration::from_micros(200));
        }
        let bits = (DATAGRAMS * OCTETS as u64 * 8) as f64;
        println!("{:.0} Mbit/s", bits / begun.elapsed().as_secs_f64() / 1e6);
        receiver.join().unwrap()
    });
    let counters = hosts.wire.counters(Way::AToB);
    assert_eq!(counters.sent, DATAGRAMS, "before the emulator");
    assert_eq!(counters.arrived, DATAGRAMS, "in the emulator");
    assert_eq!(received, DATAGRAMS, "behind the emulator");
    hosts.end();
}
