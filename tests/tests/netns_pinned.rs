//! One inner address for each access (R12), and kernel MPTCP over them (R05, R60).
//!
//! Needs root and the built `mifsec` binary; says so and passes otherwise.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something unexpected happens, and says why it was skipped"
)]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mifsec_tests::covers;
use mifsec_tests::daemon::{Crossed, Daemon, Echo, Watch, patiently};
use mifsec_tests::lab::sys::Netns;
use mifsec_tests::lab::topology::{Access, SERVER, Topology};
use mifsec_tests::session;

const MARK: &[u8] = b"mifsec-pinned-51c0";

const GATEWAY: &str = r#"
routing = "manual"
[[access]]
interface = "eth0"
addresses = ["203.0.113.1"]
[[pool]]
name = "subscribers"
cidr = ["10.66.0.0/24", "fd66::/64"]
[[peer]]
name = "subscribers"
local_id = "gw.example.org"
remote_id = "*@example.org"
psk_file = "secret"
pool = "subscribers"
[[peer.child]]
name = "net"
local_ts = ["10.99.0.0/24", "fd99::/64"]
remote_ts = ["dynamic"]
"#;

const CLIENT: &str = r#"
[[access]]
interface = "wlan0"
[[access]]
interface = "wwan0"
priority = 1
[[peer]]
name = "gw"
remote = ["203.0.113.1"]
local_id = "carol@example.org"
remote_id = "gw.example.org"
psk_file = "secret"
addresses = ["ipv4"]
[[peer.child]]
name = "net"
layout = "pinned"
remote_ts = ["10.99.0.0/24"]
"#;

fn run(name: &str, work: impl FnOnce(&Topology) -> Result<String>) {
    if let Some(why) = session::missing() {
        println!("skipped: {why}");
        return;
    }
    let begun = Instant::now();
    match Topology::new().and_then(|topology| work(&topology)) {
        Ok(said) => println!("{name}: {said} ({:.1?})", begun.elapsed()),
        Err(error) => panic!("{name}: {error:#}"),
    }
}

/// Marked datagrams from one address, until as many came back.
fn datagrams(from: &Netns, source: IpAddr, count: u64) -> Result<()> {
    let to = SocketAddr::new(SERVER.into(), 7000);
    let bind = || UdpSocket::bind(SocketAddr::new(source, 0));
    let socket = from
        .run(bind)?
        .with_context(|| format!("nobody has {source}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut room = [0; 2048];
    let mut back = 0;
    patiently(&format!("answers to {source}"), || {
        socket.send_to(&MARK.repeat(30), to)?;
        back += u64::from(socket.recv(&mut room).is_ok());
        Ok((back >= count).then_some(()))
    })
}

fn is_esp(crossed: &Crossed) -> bool {
    crossed.protocol == 17
        && [crossed.source, crossed.destination]
            .iter()
            .any(|end| end.port() == 4500)
}

/// (access, packets sealed) of every Child SA that sends.
fn sent(agent: &Daemon) -> Result<Vec<(String, u64)>> {
    let mut out: Vec<(String, u64)> = agent
        .list("sa", "sas")?
        .iter()
        .filter(|sa| sa["sends"] == true)
        .map(|sa| {
            let access = sa["path"]["local"].as_str().unwrap_or_default().to_owned();
            (access, sa["packets_out"].as_u64().unwrap_or(0))
        })
        .collect();
    out.sort();
    Ok(out)
}

/// R12: an address for each access, leased in one CP to one identity, the same again;
/// the source address says which access is used.
#[test]
fn each_access_has_an_inner_address_that_is_the_same_again() {
    covers!("R12", "R63");
    run("pinned", |topology| {
        let _echo = Echo::start(&topology.srv, SERVER, &[7000])?;
        let mut gw = Daemon::start(topology, &topology.gw, "gw", GATEWAY)?;
        let mut eu = Daemon::start(topology, &topology.eu, "eu", CLIENT)?;
        eu.wait_children(&["net", "net"])?;
        gw.wait_children(&["net", "net"])?;
        let leases = eu.leases("gw")?;
        ensure!(leases.len() == 2 && leases[0] != leases[1], "{leases:?}");
        ensure!(
            gw.leases("subscribers")? == leases,
            "the gateway says otherwise"
        );
        let sas = eu.list("sa", "sas")?;
        ensure!(sas.iter().all(|sa| sa["bundle"] == false), "{sas:?}");
        let shown = topology
            .eu
            .command("ip")
            .args(["address", "show", "mif0"])
            .output()?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        for lease in &leases {
            ensure!(shown.contains(&format!("inet {lease}/32")), "{shown}");
        }
        let watch = Watch::start(&topology.rt, &["wlan", "ran"], MARK)?;
        let esp = |link: &str| watch.seen(|c| c.link == link && is_esp(c)).frames;
        let mut said = Vec::new();
        for (lease, access) in leases.iter().zip(Access::FIRST) {
            let before = (sent(&eu)?, esp("wlan"), esp("ran"));
            datagrams(&topology.eu, *lease, 100)?;
            let after = (sent(&eu)?, esp("wlan"), esp("ran"));
            for ((name, before), (_, after)) in before.0.iter().zip(&after.0) {
                let moved = after - before;
                ensure!(
                    (name == access.link()) == (moved >= 100) && (moved == 0 || moved >= 100),
                    "{lease} sent {moved} by {name}"
                );
            }
            let (wlan, ran) = (after.1 - before.1, after.2 - before.2);
            said.push(format!("{lease}: {wlan} on the WLAN, {ran} on the RAN"));
            // The other one has probes alone.
            let (mine, other) = match access {
                Access::Wlan => (wlan, ran),
                Access::Ran | Access::Ethernet => (ran, wlan),
            };
            ensure!(mine >= 200 && other < 100, "{said:?}");
        }
        ensure!(watch.readable().is_empty(), "{:?}", watch.readable());
        // Without a word about it an application has the address of the better access.
        let chosen = topology.eu.run(|| -> std::io::Result<IpAddr> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect((SERVER, 7000))?;
            Ok(socket.local_addr()?.ip())
        })??;
        ensure!(chosen == leases[0], "{chosen}");
        eu.stop()?;
        eu.again(CLIENT)?;
        eu.wait_children(&["net", "net"])?;
        ensure!(eu.leases("gw")? == leases, "after the client started anew");
        eu.stop()?;
        gw.stop()?;
        gw.again(GATEWAY)?;
        eu.again(CLIENT)?;
        eu.wait_children(&["net", "net"])?;
        ensure!(eu.leases("gw")? == leases, "after the gateway started anew");
        Ok(said.join("; "))
    });
}

/// R33, R34: the access of an inner address dies and another one carries its SA: the
/// address stays, and whoever uses it need not know.
#[test]
fn an_inner_address_whose_access_died_rides_on_the_other() {
    covers!("R33", "R34");
    run("pinned, lent", |topology| {
        let _echo = Echo::start(&topology.srv, SERVER, &[7000])?;
        let _gw = Daemon::start(topology, &topology.gw, "gw", GATEWAY)?;
        let eu = Daemon::start(topology, &topology.eu, "eu", CLIENT)?;
        eu.wait_children(&["net", "net"])?;
        let leases = eu.leases("gw")?;
        datagrams(&topology.eu, leases[0], 50)?;
        let watch = Watch::start(&topology.rt, &["wlan", "ran"], MARK)?;
        topology.nft("add rule ip lab forward iifname wlan drop")?;
        let begun = Instant::now();
        datagrams(&topology.eu, leases[0], 50)?;
        let took = begun.elapsed();
        let ran = watch.seen(|c| c.link == "ran" && is_esp(c)).frames;
        ensure!(ran >= 100, "{ran} on the RAN");
        let sas = eu.list("sa", "sas")?;
        let at_home = |link: &str| sas.iter().filter(|sa| sa["path"]["local"] == link).count();
        ensure!(
            (at_home("wlan0"), at_home("wwan0")) == (1, 1),
            "homes are kept: {sas:?}"
        );
        ensure!(eu.leases("gw")? == leases, "and so are the addresses");
        let spi = sas.iter().find(|sa| sa["path"]["local"] == "wlan0");
        let spi = spi
            .and_then(|sa| sa["spi_out"].as_str())
            .context("an SPI")?;
        let why = eu.json(&format!("explain {spi}"))?;
        ensure!(
            why["path"]["access"] == "wwan0" && why["path"]["home"] == false,
            "{why}"
        );
        ensure!(
            why["sa"]["local"] == serde_json::json!([leases[0].to_string()]),
            "{why}"
        );
        ensure!(watch.readable().is_empty(), "{:?}", watch.readable());
        Ok(format!(
            "50 datagrams and their answers {took:.1?} after the WLAN died; {}",
            why["why"]
        ))
    });
}

/// Two families, and a child that shares an address beside pinned ones.
#[test]
fn a_shared_address_comes_before_those_of_the_accesses() {
    covers!("R12", "R16");
    run("pinned and shared", |topology| {
        let _echo = Echo::start(&topology.srv, SERVER, &[7000])?;
        let _gw = Daemon::start(topology, &topology.gw, "gw", GATEWAY)?;
        let client = CLIENT
            .replace("[\"ipv4\"]", "[\"ipv4\", \"ipv6\"]")
            .replace("[\"10.99.0.0/24\"]", "[\"10.99.0.0/24\", \"fd99::/64\"]");
        let client = format!(
            r#"{client}
            [[peer.child]]
            name = "shared"
            order = 1
            remote_ts = ["10.99.0.0/24"]
            "#
        );
        let eu = Daemon::start(topology, &topology.eu, "eu", &client)?;
        eu.wait_children(&["net", "net", "shared", "shared"])?;
        let leases = eu.leases("gw")?;
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = leases.iter().partition(|l| l.is_ipv4());
        ensure!((v4.len(), v6.len()) == (3, 3), "{leases:?}");
        let count = |bundle: bool| -> Result<u64> {
            let sas = eu.list("sa", "sas")?;
            let mine = sas.iter().filter(|sa| sa["bundle"] == bundle);
            Ok(mine.filter_map(|sa| sa["packets_out"].as_u64()).sum())
        };
        for (lease, bundle) in v4.iter().zip([true, false, false]) {
            let before = (count(bundle)?, count(!bundle)?);
            datagrams(&topology.eu, *lease, 20)?;
            let after = (count(bundle)?, count(!bundle)?);
            ensure!(
                after.0 - before.0 >= 20 && after.1 == before.1,
                "{lease}: {before:?} {after:?}"
            );
        }
        Ok(format!("{leases:?}"))
    });
}

/// IPPROTO_MPTCP.
const MPTCP: i32 = 262;
/// SOL_MPTCP and MPTCP_INFO.
const SOL_MPTCP: i32 = 284;
const MPTCP_INFO: i32 = 1;

fn mptcp_socket() -> std::io::Result<socket2::Socket> {
    socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::STREAM,
        Some(socket2::Protocol::from(MPTCP)),
    )
}

/// Subflows beside the first one, and whether it fell back to plain TCP.
fn mptcp_info(stream: &TcpStream) -> Result<(u8, bool)> {
    // struct mptcp_info: six counters of one octet, two of limits, then the flags.
    let mut info = [0u8; 128];
    let mut length = libc::socklen_t::try_from(info.len())?;
    // SAFETY: buffer and length describe `info`, which lives through the call.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            SOL_MPTCP,
            MPTCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if done != 0 {
        return Err(std::io::Error::last_os_error()).context("MPTCP_INFO");
    }
    let flags = u32::from_ne_bytes([info[8], info[9], info[10], info[11]]);
    Ok((info[0], flags & 1 != 0))
}

/// R05, R60: the kernel's MPTCP has one connection over both inner addresses, each on
/// its access; one access dies and the connection goes on.
#[test]
fn one_mptcp_connection_uses_both_accesses_and_outlives_one() {
    covers!("R05", "R60");
    if std::fs::read_to_string("/proc/sys/net/mptcp/enabled").is_err() {
        println!("skipped: this kernel has no MPTCP");
        return;
    }
    run("MPTCP", |topology| {
        for access in Access::FIRST {
            topology.shape(access, (20, 32_768))?;
        }
        let _gw = Daemon::start(topology, &topology.gw, "gw", GATEWAY)?;
        let eu = Daemon::start(topology, &topology.eu, "eu", CLIENT)?;
        eu.wait_children(&["net", "net"])?;
        let leases = eu.leases("gw")?;
        let ip = |namespace: &Netns, words: &str| -> Result<()> {
            let mut all = vec!["-n", namespace.name()];
            all.extend(words.split(' '));
            mifsec_tests::lab::cleanup::ip(&all).map(drop)
        };
        ip(
            &topology.eu,
            "mptcp limits set subflow 2 add_addr_accepted 2",
        )?;
        ip(
            &topology.srv,
            "mptcp limits set subflow 2 add_addr_accepted 2",
        )?;
        ip(
            &topology.eu,
            &format!("mptcp endpoint add {} dev mif0 subflow", leases[1]),
        )?;

        let at = SocketAddr::new(SERVER.into(), 9000);
        let listener = topology.srv.run(|| -> std::io::Result<socket2::Socket> {
            let socket = mptcp_socket()?;
            socket.bind(&at.into())?;
            socket.listen(1)?;
            Ok(socket)
        })??;
        // Who asks for a further subflow asks the listener: it stays.
        let accepting = thread::spawn(move || listener.accept().map(|(into, _)| (into, listener)));
        let first = leases[0];
        let mut out: TcpStream = topology.eu.run(move || -> std::io::Result<TcpStream> {
            let socket = mptcp_socket()?;
            socket.bind(&SocketAddr::new(first, 0).into())?;
            socket.connect_timeout(&at.into(), Duration::from_secs(5))?;
            Ok(socket.into())
        })??;
        let (into, _listener) = accepting.join().unwrap()?;
        let mut into: TcpStream = into.into();
        into.set_read_timeout(Some(Duration::from_millis(200)))?;
        out.set_write_timeout(Some(Duration::from_millis(200)))?;
        let (stop, received) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let reader = thread::spawn({
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            move || {
                // Each octet says where it belongs: nothing missing, nothing twice.
                let mut room = vec![0; 65_536];
                let mut wrong = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let Ok(length) = into.read(&mut room) else {
                        continue;
                    };
                    let from = received.load(Ordering::Relaxed);
                    let odd = (from..)
                        .zip(&room[..length])
                        .filter(|(at, o)| at % 251 != u64::from(**o));
                    wrong += u64::try_from(odd.count()).unwrap();
                    received.fetch_add(u64::try_from(length).unwrap(), Ordering::Relaxed);
                }
                wrong
            }
        });
        let watch = Watch::start(&topology.rt, &["wlan", "ran"], MARK)?;
        let inner = Watch::start(&topology.gw, &["lan0"], MARK)?;
        let info = out.try_clone()?;
        let writer = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let pattern: Vec<u8> = (0..251u8).cycle().take(251 * 64).collect();
                let mut sent = 0usize;
                while !stop.load(Ordering::Relaxed) {
                    let from = sent % 251;
                    if let Ok(length) = out.write(&pattern[from..]) {
                        sent += length;
                    }
                }
            }
        });
        let esp = |link: &str| {
            watch
                .seen(|c| c.link == link && is_esp(c) && c.destination.ip() == GATEWAY_IP)
                .octets
        };
        let by = |lease: IpAddr| {
            inner
                .seen(|c| c.source.ip() == lease && c.destination == at)
                .octets
        };
        let counts = || [esp("wlan"), esp("ran"), by(leases[0]), by(leases[1])];
        let subflow = patiently("the second subflow", || {
            let (subflows, fallback) = mptcp_info(&info)?;
            ensure!(!fallback, "fell back to TCP");
            Ok((subflows >= 1).then_some(subflows))
        });
        // A path that is full may be taken for dead on a busy machine, and be lent for a while.
        let (before, begun) = (counts(), Instant::now());
        let grown = || -> Vec<u64> { before.iter().zip(counts()).map(|(b, a)| a - b).collect() };
        let both = patiently("octets on both accesses", || {
            let grown = grown();
            Ok(grown
                .iter()
                .all(|octets| *octets > 2 << 20)
                .then_some(grown))
        });
        let full = begun.elapsed();
        // The WLAN dies without a word: its cable ends at a router that is off.
        topology.nft(
            "add rule ip lab forward iifname wlan drop; add rule ip lab forward oifname wlan drop",
        )?;
        let died = received.load(Ordering::Relaxed);
        let begun = Instant::now();
        let went_on = patiently("octets after an access died", || {
            Ok((received.load(Ordering::Relaxed) > died + (2 << 20)).then(|| begun.elapsed()))
        });
        let ran = esp("ran");
        sleep(Duration::from_secs(2));
        let alone = esp("ran") - ran;
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        let wrong = reader.join().unwrap();
        let subflows = subflow?;
        let both = both?;
        let went_on = went_on?;
        ensure!(wrong == 0, "{wrong} octets wrong");
        ensure!(alone > 1 << 20, "{alone} on the RAN alone");
        Ok(format!(
            "{subflows} further subflow; in {full:.1?} ESP octets WLAN {} RAN {}, inner {} {}; 2 MiB {went_on:.1?} after the WLAN died; {} octets in order",
            both[0],
            both[1],
            both[2],
            both[3],
            received.load(Ordering::Relaxed)
        ))
    });
}

const GATEWAY_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
