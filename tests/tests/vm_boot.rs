//! What the guest's kernel is for: it has BTF, netem and ESP, loads our programs and
//! carries two agents over an impaired link.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something unexpected happens, and says why it was skipped"
)]

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mifsec::ebpf::Ebpf;
use mifsec_tests::interop::traffic::{echo, lease, tcp};
use mifsec_tests::interop::{Agent, AgentConfig, End, Net};
use mifsec_tests::lab::topology::Access;
use mifsec_tests::namespace::Namespace;
use mifsec_tests::{bpf, vm};

/// The device of both ends of a [`Link`].
const DEVICE: &str = "veth0";
const ADDRESS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const MAC: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];

fn skipped() -> bool {
    if let Some(why) = vm::missing() {
        println!("skipped: {why}");
        return true;
    }
    false
}

/// Two namespaces that know each other's link-layer address, so that every packet
/// between them is a test's.
struct Link {
    ends: [Namespace; 2],
}

impl Link {
    fn new() -> Self {
        let ends = [Namespace::new("a").unwrap(), Namespace::new("b").unwrap()];
        let link = Self { ends };
        let far = link.ends[1].name();
        link.ip(
            0,
            &format!(
                "link add {DEVICE} address {} type veth peer name {DEVICE} address {} netns {far}",
                MAC[0], MAC[1]
            ),
        );
        for end in [0, 1] {
            let other = 1 - end;
            link.ip(end, &format!("link set {DEVICE} addrgenmode none up"));
            link.ip(end, &format!("addr add {}/24 dev {DEVICE}", ADDRESS[end]));
            let (address, mac) = (ADDRESS[other], MAC[other]);
            link.ip(
                end,
                &format!("neigh replace {address} lladdr {mac} dev {DEVICE} nud permanent"),
            );
        }
        link
    }

    fn ip(&self, end: usize, arguments: &str) {
        let arguments: Vec<_> = arguments.split(' ').collect();
        self.ends[end].ip(&arguments).unwrap();
    }

    fn netem(&self, end: usize, how: &str) {
        let arguments = format!("qdisc replace dev {DEVICE} root netem {how}");
        let arguments: Vec<_> = arguments.split(' ').collect();
        self.ends[end].tc(&arguments).unwrap();
    }

    fn socket(&self, end: usize) -> UdpSocket {
        let bound = self.ends[end].run(|| Ok(UdpSocket::bind((ADDRESS[end], 4000))?));
        let socket = bound.unwrap();
        let other = (ADDRESS[1 - end], 4000);
        socket.connect(other).unwrap();
        let patience = Some(Duration::from_secs(2));
        socket.set_read_timeout(patience).unwrap();
        socket
    }

    /// The shortest of some round trips.
    fn round_trip(&self) -> Duration {
        let [near, far] = [0, 1].map(|end| self.socket(end));
        let one = |_| {
            let begun = Instant::now();
            near.send(b"?").unwrap();
            far.recv(&mut [0; 8]).unwrap();
            far.send(b"!").unwrap();
            near.recv(&mut [0; 8]).unwrap();
            begun.elapsed()
        };
        (0..10).map(one).min().unwrap()
    }
}

/// What `program` prints.
fn shown(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_guest_runs_the_kernel_it_was_given_and_describes_its_types() {
    if skipped() {
        return;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(std::env::var("MIFSEC_VM").unwrap(), release.trim());
    let btf = fs::read("/sys/kernel/btf/vmlinux").unwrap();
    assert_eq!(btf[..2], 0xeb9f_u16.to_ne_bytes());
}

#[test]
fn a_bpf_file_system_mounts() {
    if skipped() {
        return;
    }
    let dir = Path::new("/tmp/bpf");
    fs::create_dir_all(dir).unwrap();
    shown("mount", "-t bpf bpf /tmp/bpf");
    // Only there can directories be made but no plain files.
    fs::create_dir(dir.join("pins")).unwrap();
    assert!(fs::write(dir.join("file"), "").is_err());
    shown("umount", "/tmp/bpf");
}

#[test]
fn netem_delays() {
    if skipped() {
        return;
    }
    let link = Link::new();
    let before = link.round_trip();
    link.netem(0, "delay 200ms");
    let after = link.round_trip();
    println!("round trip {before:?}, with 200 ms one way {after:?}");
    assert!(before < Duration::from_millis(100), "{before:?}");
    assert!(after >= Duration::from_millis(200), "{after:?}");
}

#[test]
fn netem_loses_what_it_says_it_lost() {
    const SENT: u64 = 2000;
    if skipped() {
        return;
    }
    let link = Link::new();
    link.netem(0, "loss 25%");
    let [near, far] = [0, 1].map(|end| link.socket(end));
    let receiver = std::thread::spawn(move || {
        let mut received = 0;
        while far.recv(&mut [0; 8]).is_ok() {
            received += 1;
        }
        received
    });
    for _ in 0..SENT {
        // Some of netem's losses are told to the sender.
        let _ = near.send(b"?");
        std::thread::sleep(Duration::from_micros(100));
    }
    let received: u64 = receiver.join().unwrap();
    let namespace = link.ends[0].name();
    let stats = shown(
        "tc",
        &format!("-n {namespace} -s -j qdisc show dev {DEVICE}"),
    );
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let lost = stats[0]["drops"].as_u64().unwrap();
    println!("{SENT} sent, {received} received, {lost} lost by netem");
    assert_eq!(received + lost, SENT, "{stats}");
    // A quarter, give or take ten standard deviations.
    assert!((300..700).contains(&lost), "{lost}");
}

#[test]
fn the_kernel_protects_packets_with_esp_of_both_families() {
    if skipped() {
        return;
    }
    let link = Link::new();
    let key = format!("0x{}", "5a".repeat(20));
    let esp = |spi: u32| format!("proto esp spi {spi} reqid 1");
    let inner = ["2001:db8::1", "2001:db8::2"];
    for end in [0, 1] {
        // One state each way, at both ends; one of IPv6 only to be made.
        for from in [0, 1] {
            let spi = 1000 + u32::try_from(from).unwrap();
            for addresses in [ADDRESS, inner] {
                let (source, destination) = (addresses[from], addresses[1 - from]);
                link.ip(
                    end,
                    &format!(
                        "xfrm state add src {source} dst {destination} {} mode transport \
                         aead rfc4106(gcm(aes)) {key} 128",
                        esp(spi)
                    ),
                );
            }
            let (source, destination) = (ADDRESS[from], ADDRESS[1 - from]);
            let direction = if from == end { "out" } else { "in" };
            link.ip(
                end,
                &format!(
                    "xfrm policy add src {source} dst {destination} proto 17 dir {direction} \
                     tmpl proto esp reqid 1 mode transport"
                ),
            );
        }
    }
    link.round_trip();
    let namespace = link.ends[1].name();
    let states = shown("ip", &format!("-n {namespace} -s xfrm state"));
    // Ten round trips: ten packets through each of the two states of IPv4.
    assert_eq!(states.matches(", 10(packets)").count(), 2, "{states}");
    assert!(states.contains("src 2001:db8::1"), "{states}");
}

#[test]
fn our_programs_load_and_do_in_this_kernel_what_the_fixtures_say() {
    if skipped() {
        return;
    }
    let mut ebpf = Ebpf::open(&bpf::config(), 0).unwrap();
    assert_eq!(bpf::wrong(&mut ebpf).unwrap(), Vec::<String>::new());
}

#[test]
fn two_agents_connect_and_carry_traffic_over_a_link_that_delays_and_loses() {
    if skipped() {
        return;
    }
    if vm::release() < (6, 6) {
        println!("skipped: the agent needs Linux 6.6");
        return;
    }
    let net = Net::new().unwrap();
    let netem = |how: &str| {
        for (namespace, device) in [(&net.topology.gw, "eth0"), (&net.topology.rt, "gw")] {
            let arguments = format!(
                "-n {} qdisc replace dev {device} root netem {how}",
                namespace.name()
            );
            shown("tc", &arguments);
        }
    };
    netem("delay 50ms");
    let over_it = || {
        let _gw = Agent::start(&net, End::Gateway, &AgentConfig::gateway())?;
        let eu = Agent::start(&net, End::Client, &AgentConfig::client(&[Access::Wlan]))?;
        let inner = lease(&eu)?;
        let server = Net::server(inner);
        let patience = Duration::from_secs(20);
        assert_eq!(echo(&net, inner, 1, patience)?, 1);
        let begun = Instant::now();
        assert_eq!(echo(&net, inner, 1, patience)?, 1);
        let round_trip = begun.elapsed();
        assert_eq!(echo(&net, inner, 100, patience)?, 100);
        tcp(&net.topology.eu, inner, &net.topology.srv, server)?;
        netem("delay 50ms loss 20%");
        let back = echo(&net, inner, 100, Duration::from_secs(6))?;
        anyhow::Ok((round_trip, back))
    };
    let outcome = over_it();
    if outcome.is_err() {
        println!("{}", net.logs());
    }
    let (round_trip, back) = outcome.unwrap();
    println!("round trip {round_trip:?}; {back} of 100 came back with 20 % loss each way");
    assert!(round_trip >= Duration::from_millis(100), "{round_trip:?}");
    assert!((1..100).contains(&back), "{back}");
}
