//! What keeps a session usable: liveness behind data, a flood of strangers, name
//! servers, a gateway that dies and comes back.
//!
//! Needs root and the built `mifsec` binary; says so and passes otherwise.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something unexpected happens, and says why it was skipped"
)]

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use mifsec::ike::Command;
use mifsec_tests::lab::agents::Extra;
use mifsec_tests::lab::load::{Load, Plan};
use mifsec_tests::lab::topology::{GATEWAY, Topology};
use mifsec_tests::session::{self, Session, counter, total};
use mifsec_tests::sim::setup;

fn skipped() -> bool {
    if let Some(why) = session::missing() {
        println!("skipped: {why}");
        return true;
    }
    false
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what} never came");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn liveness_every_10_ms_behind_saturated_esp_needs_no_retransmission() {
    if skipped() {
        return;
    }
    let extra = Extra {
        eu_peer: "dpd = \"10ms\"".into(),
        gw_peer: "dpd = \"10ms\"".into(),
        ..Extra::default()
    };
    let topology = Topology::new().unwrap();
    // Else a veth hands on what it gets as it came, and nothing is glued to the data.
    for (namespace, link) in [
        (&topology.eu, "wlan0"),
        (&topology.eu, "wwan0"),
        (&topology.gw, "eth0"),
    ] {
        let mut ethtool = namespace.command("ethtool");
        let forced = ethtool.args(["-K", link, "gro", "on"]).status();
        if !forced.is_ok_and(|status| status.success()) {
            println!("skipped: ethtool cannot force GRO on {link}");
            return;
        }
    }
    let session = Session::up(topology, &extra).unwrap();
    let counts = |name: &str| session.both().map(|agent| counter(agent, name).unwrap());
    let (before, sent_before) = (counts("ike_liveness_answered"), counts("ike_retransmitted"));
    let mut plan = Plan::new(session.inner, 64);
    (plan.up, plan.down, plan.payload) = (15_000, 15_000, 1000);
    let load = Load::start(&session.topology, plan).unwrap();
    sleep(Duration::from_secs(8));
    let outcome = load.stop();
    let (after, sent_after) = (counts("ike_liveness_answered"), counts("ike_retransmitted"));
    for (before, after) in before.iter().zip(&after) {
        println!(
            "{} liveness exchanges beside {} datagrams received of {}",
            after - before,
            outcome.received(),
            outcome.sent()
        );
        assert!(after - before >= 100);
    }
    assert_eq!(sent_before, sent_after, "{:#?}", session.agents.drops());
}

/// An IKE_SA_INIT as a stranger sends it.
fn stranger() -> Vec<u8> {
    let now = Instant::now();
    let mut engine = setup::engine(setup::user(), 7);
    let channel = setup::channel(setup::RAN, setup::RAN_ADDRESS);
    let peer = "gw".into();
    engine.handle_command(Command::Initiate { peer, channel }, now);
    engine.poll_transmit().unwrap().payload
}

/// Sends IKE_SA_INIT with ever new sources and SPIs until told to stop.
fn flood(stop: &AtomicBool, sent: &AtomicU64) {
    let raw = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::from(libc::SOCK_RAW),
        Some(socket2::Protocol::from(libc::IPPROTO_RAW)),
    )
    .unwrap();
    let mut message = stranger();
    let to: socket2::SockAddr = SocketAddrV4::new(GATEWAY, 0).into();
    let mut number = 0u32;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..25 {
            number += 1;
            message[..4].copy_from_slice(&number.to_be_bytes());
            let source = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number % 100_000;
            let packet = datagram(source.into(), &message);
            if raw.send_to(&packet, &to).is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        sleep(Duration::from_millis(5));
    }
}

/// IPv4 and UDP around `payload`, from and to port 500; the kernel completes the
/// IP header, and no UDP checksum is a valid one.
fn datagram(source: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let udp = u16::try_from(8 + payload.len()).unwrap();
    let mut out = vec![0x45, 0];
    out.extend((20 + udp).to_be_bytes());
    out.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    out.extend(source.octets());
    out.extend(GATEWAY.octets());
    for word in [500, 500, udp, 0] {
        out.extend(u16::to_be_bytes(word));
    }
    out.extend(payload);
    out
}

/// Resident memory of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_client_connects_through_ten_thousand_strangers_and_memory_is_bounded() {
    if skipped() {
        return;
    }
    let topology = Topology::new().unwrap();
    let control = topology.dir.join("gw.sock");
    let (stop, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let router = mifsec_tests::lab::sys::Netns::open(topology.rt.name()).unwrap();
    let flooding = thread::spawn({
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        move || {
            wait_until("the gateway", || control.exists());
            router.run(|| flood(&stop, &sent)).unwrap();
        }
    });
    let session = Session::up(topology, &Extra::default());
    let during = sent.load(Ordering::Relaxed);
    let session = session.unwrap();
    println!("connected beside {during} strangers");
    assert!(during > 0);
    let gw = &session.agents.gw;
    let before = resident(gw.pid());
    wait_until("the flood", || {
        sent.load(Ordering::Relaxed) >= during + 10_000
    });
    stop.store(true, Ordering::Relaxed);
    flooding.join().unwrap();
    let (sent, after) = (sent.load(Ordering::Relaxed), resident(gw.pid()));
    println!("{sent} strangers, resident memory {before} KiB, then {after} KiB");
    assert!(after < before + 16 * 1024, "{before} KiB, then {after} KiB");
    let drops = session.agents.drops();
    let refused: u64 = drops
        .iter()
        .filter(|(reason, _)| reason.starts_with("gw ike_"))
        .map(|(_, count)| *count)
        .sum();
    println!("{drops:#?}");
    assert!(refused >= sent / 2, "the counters say why: {drops:#?}");
    let outcome = session.load(Duration::from_secs(2)).unwrap();
    assert_eq!(outcome.lost(), 0, "traffic goes on");
}

/// A `resolvectl` that writes down what it was told.
fn fake_resolvectl(directory: &Path) {
    let script = directory.join("resolvectl");
    let log = directory.join("told");
    fs::write(
        &script,
        format!("#!/bin/sh\necho \"$@\" >> {}\n", log.display()),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn name_servers_are_set_on_the_tunnel_and_taken_back() {
    if skipped() {
        return;
    }
    let topology = Topology::new().unwrap();
    fake_resolvectl(&topology.dir);
    let told = topology.dir.join("told");
    let path = std::env::var("PATH").unwrap_or_default();
    let extra = Extra {
        gw_pool: "dns = [\"10.66.0.1\"]".into(),
        env: vec![("PATH".into(), format!("{}:{path}", topology.dir.display()))],
        ..Extra::default()
    };
    let session = Session::up(topology, &extra).unwrap();
    let said = || fs::read_to_string(&told).unwrap_or_default();
    wait_until("the resolver", || said().lines().count() >= 2);
    assert_eq!(said(), "dns mif0 10.66.0.1\ndomain mif0 ~.\n");
    let eu = session.agents.eu.pid();
    mifsec_tests::lab::sys::signal(eu, libc::SIGTERM).unwrap();
    wait_until("the end", || said().contains("revert mif0"));
}

#[test]
fn name_servers_of_an_agent_that_was_killed_are_taken_back_by_the_next() {
    if skipped() {
        return;
    }
    let topology = Topology::new().unwrap();
    fake_resolvectl(&topology.dir);
    let told = topology.dir.join("told");
    let path = std::env::var("PATH").unwrap_or_default();
    let extra = Extra {
        env: vec![("PATH".into(), format!("{}:{path}", topology.dir.display()))],
        ..Extra::default()
    };
    let mut session = Session::up(topology, &extra).unwrap();
    assert!(!told.exists(), "nothing to take back on a new TUN");
    session.topology.scope().kill(session.agents.gw.pid());
    session
        .agents
        .restart_gateway(&session.topology, &session::binary().unwrap(), &extra)
        .unwrap();
    let said = || fs::read_to_string(&told).unwrap_or_default();
    wait_until("the resolver", || said() == "revert mif0\n");
}

#[test]
fn a_gateway_that_died_and_came_back_is_connected_to_again_soon() {
    if skipped() {
        return;
    }
    let extra = Extra::default();
    let mut session = Session::up(Topology::new().unwrap(), &extra).unwrap();
    let load = Load::start(&session.topology, Plan::new(session.inner, 16)).unwrap();
    let killed = Instant::now();
    session.topology.scope().kill(session.agents.gw.pid());
    session
        .agents
        .restart_gateway(&session.topology, &session::binary().unwrap(), &extra)
        .unwrap();
    let eu = &session.agents.eu;
    wait_until("another IKE SA", || total(eu, "ike_created").unwrap() >= 2);
    println!("connected again after {:?}", killed.elapsed());
    assert!(counter(eu, "peer_given_up").unwrap() >= 1);
    // IKE alone would need more than a minute to find out.
    assert!(killed.elapsed() < Duration::from_secs(45));
    let _ = load.stop();
    let up = || eu.paths_up().is_ok_and(|paths| paths.len() >= 2);
    wait_until("both paths", up);
}
