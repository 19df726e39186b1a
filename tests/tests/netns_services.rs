//! Services of one host (R60, R61): what is protected by which gateway, what leaves in
//! clear and what not at all, judged on the router.
//!
//! Needs root and the built `mifsec` binary; says so and passes otherwise.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something unexpected happens, and says why it was skipped"
)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mifsec_tests::covers;
use mifsec_tests::daemon::{Crossed, Daemon, Echo, Watch, patiently};
use mifsec_tests::lab::sys::Netns;
use mifsec_tests::lab::topology::{SERVER, Topology};
use mifsec_tests::session;

/// What every payload is made of.
const MARK: &[u8] = b"mifsec-services-7d3f";
/// The second gateway, and the host it protects: itself.
const GATEWAY2: Ipv4Addr = Ipv4Addr::new(203, 0, 114, 1);
const SERVER2: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 2);

const GATEWAY: &str = r#"
routing = "manual"
[[access]]
interface = "eth0"
addresses = ["203.0.113.1"]
[[pool]]
name = "subscribers"
cidr = ["10.66.0.0/24"]
[[peer]]
name = "subscribers"
local_id = "gw.example.org"
remote_id = "*@example.org"
psk_file = "secret"
pool = "subscribers"
[[peer.child]]
name = "net"
local_ts = ["10.99.0.0/24"]
remote_ts = ["dynamic"]
"#;

/// Two accesses and one gateway; children follow.
const CLIENT: &str = r#"
[[access]]
interface = "wlan0"
[[access]]
interface = "wwan0"
[[peer]]
name = "gw"
remote = ["203.0.113.1"]
local_id = "carol@example.org"
remote_id = "gw.example.org"
psk_file = "secret"
addresses = ["ipv4"]
"#;

fn skipped() -> bool {
    if let Some(why) = session::missing() {
        println!("skipped: {why}");
        return true;
    }
    false
}

/// The gateway with a configuration derived from the usual one.
fn second_gateway() -> String {
    GATEWAY
        .replace("203.0.113.1", &GATEWAY2.to_string())
        .replace("10.66.0.0/24", "10.67.0.0/24")
        .replace("gw.example.org", "gw2.example.org")
        .replace("10.99.0.0/24", "10.98.0.0/24")
}

/// Another gateway beside the lab's, with a protected address of its own.
fn add_gateway(topology: &Topology) -> Result<Netns> {
    let name = format!("mif{}-gw2", topology.tag);
    let gw2 = topology.scope().namespace(&name)?;
    let ip = |arguments: &str| -> Result<()> {
        let words: Vec<&str> = arguments.split(' ').collect();
        mifsec_tests::lab::cleanup::ip(&words).map(drop)
    };
    let rt = topology.rt.name();
    ip(&format!(
        "link add eth0 netns {name} type veth peer name gw2 netns {rt}"
    ))?;
    for (namespace, words) in [
        (name.as_str(), "link set lo up"),
        (&name, "link set eth0 up"),
        (rt, "link set gw2 up"),
        (rt, "address add 203.0.114.254/24 dev gw2"),
        (&name, &format!("address add {GATEWAY2}/24 dev eth0")),
        (&name, &format!("address add {SERVER2}/32 dev lo")),
        (&name, "route add default via 203.0.114.254"),
        (rt, &format!("route add 10.98.0.0/24 via {GATEWAY2}")),
    ] {
        ip(&format!("-n {namespace} {words}"))?;
    }
    topology
        .nft("add rule ip nat post oifname gw2 ip saddr 192.168.10.0/24 masquerade fully-random")?;
    Ok(gw2)
}

/// Sends marked datagrams until one comes back; from which address it went.
fn udp(from: &Netns, to: SocketAddr) -> Result<IpAddr> {
    let socket = from.run(|| -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        Ok(socket)
    })??;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    patiently(&format!("an answer of {to}"), || {
        let _ = socket.send(&MARK.repeat(20));
        let mut room = [0; 2048];
        let back = socket.recv(&mut room);
        Ok(back.is_ok().then_some(()))
    })?;
    Ok(socket.local_addr()?.ip())
}

/// One connection that carries marked octets both ways; from which address it went.
fn tcp(from: &Netns, to: SocketAddr) -> Result<IpAddr> {
    let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(5));
    let mut stream = from.run(connect)?.with_context(|| format!("TCP to {to}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let sent = MARK.repeat(2000);
    let mut back = vec![0; sent.len()];
    std::thread::scope(|scope| {
        let mut reading = stream.try_clone()?;
        let reader = scope.spawn(move || reading.read_exact(&mut back).map(|()| back));
        stream.write_all(&sent)?;
        let back = reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(back == sent, "TCP was damaged");
        Ok(())
    })?;
    Ok(stream.local_addr()?.ip())
}

/// How a connection attempt ends.
fn refused(from: &Netns, to: SocketAddr) -> Option<ErrorKind> {
    let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(2));
    from.run(connect).unwrap().err().map(|e| e.kind())
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

fn is_esp(crossed: &Crossed) -> bool {
    crossed.protocol == 17
        && [crossed.source, crossed.destination]
            .iter()
            .any(|a| a.port() == 4500)
}

fn run(name: &str, work: impl FnOnce(&Topology) -> Result<String>) {
    if skipped() {
        return;
    }
    let begun = std::time::Instant::now();
    let said = Topology::new().and_then(|topology| work(&topology));
    match said {
        Ok(said) => println!("{name}: {said} ({:.1?})", begun.elapsed()),
        Err(error) => panic!("{name}: {error:#}"),
    }
}

/// R61: video by port range is bypassed, clear http protected, telnet discarded, and
/// what no rule names leaves as if there were no agent.
#[test]
fn video_leaves_in_clear_http_is_protected_and_telnet_goes_nowhere() {
    covers!("R60", "R61");
    run("services", |topology| {
        let _echo = Echo::start(&topology.srv, SERVER, &[23, 80, 443, 4999, 5004])?;
        let watch = Watch::start(&topology.rt, &["wlan", "ran", "gw"], MARK)?;
        let gw = Daemon::start(topology, &topology.gw, "gw", GATEWAY)?;
        let client = format!(
            r#"{CLIENT}
            [[peer.child]]
            name = "video"
            policy = "bypass"
            remote_ts = ["10.99.0.0/24[udp/5000-5010]"]
            [[peer.child]]
            name = "telnet"
            policy = "discard"
            remote_ts = ["10.99.0.0/24[tcp/23]"]
            [[peer.child]]
            name = "http"
            remote_ts = ["10.99.0.0/24[tcp/80]"]
            [[peer.child]]
            name = "beside"
            remote_ts = ["10.99.0.0/24[udp/4999]"]
            "#
        );
        let eu = Daemon::start(topology, &topology.eu, "eu", &client)?;
        eu.wait_children(&["http", "http", "beside", "beside"])?;
        let lease = eu.leases("gw")?;
        ensure!(lease.len() == 1, "{lease:?}");
        for (port, source) in [(80, "tcp"), (4999, "udp")] {
            let from = match source {
                "tcp" => tcp(&topology.eu, at(SERVER, port))?,
                _ => udp(&topology.eu, at(SERVER, port))?,
            };
            ensure!(from == lease[0], "{source}/{port} left from {from}");
        }
        ensure!(watch.readable().is_empty(), "{:?}", watch.readable());
        let esp = watch.seen(is_esp);
        ensure!(esp.frames > 20, "{esp:?}");
        // Nothing of it crosses the router at all.
        let telnet = refused(&topology.eu, at(SERVER, 23));
        ensure!(telnet == Some(ErrorKind::PermissionDenied), "{telnet:?}");
        let port = |port: u16| {
            watch.seen(move |c| c.source.port() == port || c.destination.port() == port)
        };
        ensure!(port(23).frames == 0);
        let from = udp(&topology.eu, at(SERVER, 5004))?;
        ensure!(from.to_string() == "192.168.10.2", "video left from {from}");
        let from = tcp(&topology.eu, at(SERVER, 443))?;
        ensure!(from.to_string() == "192.168.10.2", "https left from {from}");
        let (video, https) = (port(5004), port(443));
        ensure!(
            video.marked >= 2 && https.marked >= 2,
            "{video:?} {https:?}"
        );
        let others = |c: &Crossed| {
            let ports = [c.source.port(), c.destination.port()];
            !ports.contains(&5004) && !ports.contains(&443)
        };
        let readable = watch.readable();
        ensure!(!readable.iter().any(others), "{readable:?}");
        // The gateway goes without a word: http fails closed, video goes on.
        gw.kill();
        let from = udp(&topology.eu, at(SERVER, 5004))?;
        ensure!(from.to_string() == "192.168.10.2", "video left from {from}");
        let http = refused(&topology.eu, at(SERVER, 80));
        ensure!(http.is_some(), "http went through without a gateway");
        let readable = watch.readable();
        ensure!(!readable.iter().any(others), "{readable:?}");
        eu.stop()?;
        Ok(format!(
            "video {video:?}, https {https:?}, ESP {esp:?}, http and telnet never readable"
        ))
    });
}

/// Services that may use different accesses: one that comes back is answered for once
/// the Child SAs it may have are there, derived or one by one.
#[test]
fn an_access_of_some_services_comes_back_with_theirs() {
    covers!("R62");
    run("some services", |topology| {
        let _gw = Daemon::start(topology, &topology.gw, "gw", GATEWAY)?;
        let child = |name: &str, ports: &str, accesses: &str| {
            format!(
                "[[peer.child]]\nname = \"{name}\"\nremote_ts = [\"10.99.0.0/24[{ports}]\"]\n\
                 accesses = [{accesses}]\n"
            )
        };
        let client = format!(
            "{CLIENT}{}{}",
            child("web", "tcp/80", "\"wlan0\", \"wwan0\""),
            child("voice", "udp/5004", "\"wlan0\"")
        );
        let eu = Daemon::start(topology, &topology.eu, "eu", &client)?;
        eu.wait_children(&["web", "web", "voice"])?;
        for _ in 0..2 {
            let left = eu.json("delete-interface gw wwan0")?;
            ensure!(left["sas"] == 1, "{left}");
            let back = eu.json("add-interface gw wwan0")?;
            ensure!(back["sas"] == 1 && back["skipped"] == 0, "{back}");
            ensure!(back["took_ms"].as_u64() < Some(5000), "{back}");
        }
        let again = eu.json("add-interface gw wwan0")?;
        ensure!(again["sas"] == 0 && again["skipped"] == 1, "{again}");
        eu.stop()?;
        Ok("one by one".to_owned())
    });
}

/// What `mifsec explain` says of a flow is what happens to it.
#[test]
fn what_is_explained_is_what_happens() {
    covers!("R61");
    run("explain", |topology| {
        let _echo = Echo::start(&topology.srv, SERVER, &[80, 5004])?;
        let client = format!(
            r#"{CLIENT}
            [[peer.child]]
            name = "video"
            policy = "bypass"
            remote_ts = ["10.99.0.0/24[udp/5000-5010]"]
            [[peer.child]]
            name = "telnet"
            policy = "discard"
            order = -1
            remote_ts = ["10.99.0.0/24[tcp/23]"]
            [[peer.child]]
            name = "http"
            remote_ts = ["10.99.0.0/24[tcp/80]"]
            "#
        );
        let eu = Daemon::start(topology, &topology.eu, "eu", &client)?;
        let say = |flow: &str| eu.json(&format!("explain {flow}"));
        let early = say("tcp 192.168.10.2:40000 10.99.0.2:80")?;
        ensure!(early["verdict"] == "refused", "{early}");
        let _gw = Daemon::start(topology, &topology.gw, "gw", GATEWAY)?;
        eu.wait_children(&["http", "http"])?;
        let lease = eu.leases("gw")?[0];
        for (flow, verdict, rules) in [
            ("udp 192.168.10.2:40000 10.99.0.2:5004", "bypass", 2),
            ("tcp 192.168.10.2:40000 10.99.0.2:23", "discard", 1),
            ("tcp 192.168.10.2:40000 10.99.0.2:443", "clear", 3),
            (&format!("tcp {lease}:40000 10.99.0.2:80"), "protect", 3),
        ] {
            let said = say(flow)?;
            let count = said["rules"].as_array().map_or(0, Vec::len);
            ensure!(
                said["verdict"] == verdict && count == rules,
                "{flow}: {said}"
            );
        }
        let text = eu.text("explain udp 192.168.10.2:40000 10.99.0.2:5004")?;
        println!("{text}");
        // The member it names is the one whose counter moves, whatever the port.
        let mut accesses = std::collections::BTreeSet::new();
        for port in 41_000..41_012u16 {
            let said = say(&format!("tcp {lease}:{port} 10.99.0.2:80"))?;
            let spi = said["sa"]["spi_out"].clone();
            let count = |mine: bool| -> Result<u64> {
                let sas = eu.list("sa", "sas")?;
                let of = sas.iter().filter(|sa| (sa["spi_out"] == spi) == mine);
                Ok(of.filter_map(|sa| sa["packets_out"].as_u64()).sum())
            };
            let before = (count(true)?, count(false)?);
            let connected = topology.eu.run(move || -> std::io::Result<()> {
                let kind = socket2::Type::STREAM;
                let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None)?;
                socket.bind(&SocketAddr::new(lease, port).into())?;
                socket.connect_timeout(&at(SERVER, 80).into(), Duration::from_secs(5))?;
                // No word of its end comes later.
                socket.set_linger(Some(Duration::ZERO))
            })?;
            connected.with_context(|| format!("from port {port}"))?;
            std::thread::sleep(Duration::from_millis(50));
            let after = (count(true)?, count(false)?);
            ensure!(
                after.0 > before.0 && after.1 == before.1,
                "{port}: {before:?} {after:?}"
            );
            accesses.insert(said["path"]["access"].to_string());
        }
        ensure!(accesses.len() == 2, "{accesses:?}");
        Ok(format!("12 flows on {accesses:?}"))
    });
}

/// Before any tunnel stands the protected service is refused and the bypassed one works.
#[test]
fn without_a_gateway_the_protected_service_is_refused_and_the_bypassed_one_works() {
    covers!("R61");
    run("services without gateway", |topology| {
        let _echo = Echo::start(&topology.srv, SERVER, &[80, 5004])?;
        let watch = Watch::start(&topology.rt, &["wlan", "ran"], MARK)?;
        let client = format!(
            r#"{CLIENT}
            [[peer.child]]
            name = "video"
            policy = "bypass"
            remote_ts = ["10.99.0.0/24[udp/5000-5010]"]
            [[peer.child]]
            name = "all"
            remote_ts = ["0.0.0.0/0"]
            "#
        );
        let eu = Daemon::start(topology, &topology.eu, "eu", &client)?;
        let http = refused(&topology.eu, at(SERVER, 80));
        ensure!(
            matches!(
                http,
                Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
            ),
            "{http:?}"
        );
        let from = udp(&topology.eu, at(SERVER, 5004))?;
        ensure!(from.to_string() == "192.168.10.2", "video left from {from}");
        // Bound to the access it would leave, and the guard takes it.
        let bound = topology.eu.run(|| -> std::io::Result<TcpStream> {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(Ipv4Addr::new(192, 168, 10, 2).into(), 0).into())?;
            socket.connect_timeout(&at(SERVER, 80).into(), Duration::from_secs(1))?;
            Ok(socket.into())
        })?;
        ensure!(bound.is_err());
        let http = watch.seen(|c| c.destination.port() == 80 || c.source.port() == 80);
        ensure!(http.frames == 0, "{http:?}");
        eu.stop()?;
        let rules = topology.eu.command("ip").args(["rule"]).output()?;
        let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
        ensure!(rules.lines().count() == 3, "{rules}");
        Ok("http refused, video in clear".into())
    });
}

/// R61: the order says which of two that select the same packet decides.
#[test]
fn order_decides_between_bypass_and_protect() {
    covers!("R61");
    run("order", |topology| {
        let _echo = Echo::start(&topology.srv, SERVER, &[5004])?;
        let _gw = Daemon::start(topology, &topology.gw, "gw", GATEWAY)?;
        let client = |order: i32| {
            format!(
                r#"{CLIENT}
                [[peer.child]]
                name = "video"
                policy = "bypass"
                order = {order}
                remote_ts = ["10.99.0.0/24[udp/5000-5010]"]
                [[peer.child]]
                name = "all"
                remote_ts = ["10.99.0.0/24"]
                "#
            )
        };
        let mut eu = Daemon::start(topology, &topology.eu, "eu", &client(10))?;
        eu.wait_children(&["all", "all"])?;
        let lease = eu.leases("gw")?;
        let watch = Watch::start(&topology.rt, &["wlan", "ran", "gw"], MARK)?;
        let from = udp(&topology.eu, at(SERVER, 5004))?;
        ensure!(lease == [from], "behind the other: protected, from {from}");
        ensure!(watch.readable().is_empty(), "{:?}", watch.readable());
        eu.stop()?;
        for order in [0, -10] {
            eu.again(&client(order))?;
            eu.wait_children(&["all", "all"])?;
            let from = udp(&topology.eu, at(SERVER, 5004))?;
            ensure!(from.to_string() == "192.168.10.2", "order {order}: {from}");
            eu.stop()?;
        }
        let video = watch.seen(|c| c.destination == at(SERVER, 5004));
        ensure!(video.marked >= 2, "{video:?}");
        Ok(format!("{video:?}"))
    });
}

/// R16, R60: services with selectors of their own, on one gateway and on two at once.
#[test]
fn each_service_has_its_child_on_its_gateway() {
    covers!("R10", "R16", "R60", "R61");
    run("two gateways", |topology| {
        let gw2 = add_gateway(topology)?;
        let _one = Echo::start(&topology.srv, SERVER, &[80, 5060, 7000])?;
        let _other = Echo::start(&gw2, SERVER2, &[80])?;
        let watch = Watch::start(&topology.rt, &["wlan", "ran", "gw", "gw2"], MARK)?;
        let gw = Daemon::start(topology, &topology.gw, "gw", GATEWAY)?;
        let second = Daemon::start(topology, &gw2, "gw2", &second_gateway())?;
        let client = format!(
            r#"{CLIENT}
            [[peer.child]]
            name = "web"
            remote_ts = ["10.99.0.0/24[tcp/80]"]
            [[peer.child]]
            name = "voice"
            remote_ts = ["10.99.0.0/24[udp/5060-5090]"]
            [[peer.child]]
            name = "rest"
            remote_ts = ["10.99.0.0/24"]
            [[peer]]
            name = "gw2"
            remote = ["{GATEWAY2}"]
            local_id = "carol@example.org"
            remote_id = "gw2.example.org"
            psk_file = "secret"
            addresses = ["ipv4"]
            [[peer.child]]
            name = "corp"
            remote_ts = ["10.98.0.0/24"]
            "#
        );
        let eu = Daemon::start(topology, &topology.eu, "eu", &client)?;
        let all = [
            "web", "web", "voice", "voice", "rest", "rest", "corp", "corp",
        ];
        eu.wait_children(&all)?;
        let (lease, lease2) = (eu.leases("gw")?, eu.leases("gw2")?);
        let packets = |agent: &Daemon, child: &str, key: &str| -> Result<u64> {
            let sas = agent.list("sa", "sas")?;
            let mine = sas.iter().filter(|sa| sa["child"] == child);
            Ok(mine.filter_map(|sa| sa[key].as_u64()).sum())
        };
        let mut said = Vec::new();
        for (child, to, stream) in [
            ("web", at(SERVER, 80), true),
            ("voice", at(SERVER, 5060), false),
            ("rest", at(SERVER, 7000), true),
            ("corp", at(SERVER2, 80), true),
        ] {
            let count = |key: &str| -> Result<Vec<u64>> {
                let names = ["web", "voice", "rest", "corp"];
                names.iter().map(|name| packets(&eu, name, key)).collect()
            };
            let before = [count("packets_out")?, count("packets_in")?];
            let from = match stream {
                true => tcp(&topology.eu, to)?,
                false => udp(&topology.eu, to)?,
            };
            let expected = if child == "corp" { &lease2 } else { &lease };
            ensure!(expected == &[from], "{child} left from {from}");
            let after = [count("packets_out")?, count("packets_in")?];
            for (before, after) in before.iter().zip(&after) {
                for (name, (before, after)) in ["web", "voice", "rest", "corp"]
                    .iter()
                    .zip(before.iter().zip(after))
                {
                    ensure!(
                        (after > before) == (*name == child),
                        "{child} moved {name} from {before} to {after}"
                    );
                }
            }
            said.push(format!(
                "{child} {}",
                after[0].iter().sum::<u64>() - before[0].iter().sum::<u64>()
            ));
        }
        ensure!(watch.readable().is_empty(), "{:?}", watch.readable());
        // One IKE SA for each gateway, whatever the services (R10).
        for (agent, peers) in [(&eu, 2), (&gw, 1), (&second, 1)] {
            let up = agent.list("status", "peers")?;
            let up = up.iter().filter(|p| p["state"] == "established").count();
            ensure!(up == peers, "{up} IKE SAs");
        }
        Ok(format!("packets {}", said.join(", ")))
    });
}
