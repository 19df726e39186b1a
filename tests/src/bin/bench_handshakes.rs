//! Handshakes per second and core, called by `cargo xtask bench handshakes`.
//!
//! Both engines run in one thread, so a figure is of both ends together on one
//! core. A handshake is IKE_SA_INIT and IKE_AUTH with the first Child SA, x25519 and
//! a shared key, and the Delete that makes room for the next.

#![expect(clippy::print_stdout, reason = "the table is the purpose")]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use mifsec::ids::{Arrival, IkeId};
use mifsec::ike::{Channel, Command, Engine, Event, Transmit};
use mifsec_tests::sim::ip;
use mifsec_tests::sim::setup::{self, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN};

/// Measures handshakes and address updates.
#[derive(Parser)]
struct Args {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let time = Duration::from_secs_f64(args.seconds);
    println!(
        "{:<58} {:>12} {:>12}",
        "both ends in one thread", "per second", "us each"
    );
    let line = |name: &str, rate: f64| println!("{name:<58} {rate:>12.0} {:>12.1}", 1e6 / rate);
    line("handshakes, engines only", handshakes(time)?);
    line("handshakes, UDP on 127.0.0.1", over_udp(time)?);
    line("MIF address updates, engines only", updates(time)?);
    line("spoofed IKE_SA_INIT answered with a cookie", refused(time)?);
    Ok(())
}

/// Two engines, and the time they are told.
struct Ends {
    user: Engine,
    gateway: Engine,
    now: Instant,
}

impl Ends {
    fn new() -> Self {
        Self {
            user: setup::engine(setup::user(), 1),
            gateway: setup::engine(setup::gateway(), 2),
            now: Instant::now(),
        }
    }

    /// Carries everything to and fro until nothing moves; the IKE SA of the user
    /// that got established on the way.
    fn settle(&mut self) -> Option<IkeId> {
        let mut up = None;
        loop {
            let mut sent = drain(&mut self.user, &mut up);
            let quiet = sent.is_empty();
            for transmit in sent.drain(..) {
                let at = arrival(&transmit);
                self.gateway
                    .handle_datagram(at, &transmit.payload, self.now);
            }
            let answers = drain(&mut self.gateway, &mut None);
            if quiet && answers.is_empty() {
                return up;
            }
            for transmit in answers {
                let at = arrival(&transmit);
                self.user.handle_datagram(at, &transmit.payload, self.now);
            }
        }
    }

    /// Lets what is left of deleted IKE SAs expire.
    fn pass(&mut self) {
        self.now += Duration::from_millis(50);
        self.user.handle_timeout(self.now);
        self.gateway.handle_timeout(self.now);
    }
}

fn arrival(transmit: &Transmit) -> Arrival {
    Arrival {
        ifindex: transmit.ifindex,
        local: transmit.remote,
        remote: transmit.local,
    }
}

fn drain(engine: &mut Engine, up: &mut Option<IkeId>) -> Vec<Transmit> {
    while let Some(event) = engine.poll_event() {
        if let Event::Established { ike, .. } = event {
            *up = Some(ike);
        }
    }
    while engine.poll_sa_request().is_some() {}
    std::iter::from_fn(|| engine.poll_transmit()).collect()
}

/// Repeats `once` for `time`; how often per second.
fn rate(time: Duration, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    for _ in 0..50 {
        once()?;
    }
    let start = Instant::now();
    let mut count = 0.0;
    while start.elapsed() < time {
        for _ in 0..16 {
            once()?;
            count += 1.0;
        }
    }
    Ok(count / start.elapsed().as_secs_f64())
}

fn call(engine: &mut Engine, channel: Channel, now: Instant) {
    let peer = "gw".into();
    engine.handle_command(Command::Initiate { peer, channel }, now);
}

fn handshakes(time: Duration) -> Result<f64> {
    let mut ends = Ends::new();
    rate(time, || {
        call(&mut ends.user, setup::channel(RAN, RAN_ADDRESS), ends.now);
        let ike = ends.settle().context("no IKE SA")?;
        ends.user
            .handle_command(Command::DeleteIke { ike }, ends.now);
        ends.settle();
        ends.pass();
        Ok(())
    })
}

/// Real sockets; the kernel delivers on the loopback before `send` returns.
fn over_udp(time: Duration) -> Result<f64> {
    const PORTS: [u16; 2] = [25_500, 24_500];
    let socket = |host: &str, port: u16| -> Result<UdpSocket> {
        let socket =
            UdpSocket::bind((host, port)).with_context(|| format!("bind {host}:{port}"))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let hosts = ["127.0.0.1", "127.0.0.2"];
    let mut sockets = Vec::new();
    for (end, host) in hosts.iter().enumerate() {
        for port in PORTS {
            sockets.push((end, socket(host, port)?));
        }
    }
    let mut configs = [setup::user(), setup::gateway()];
    for config in &mut configs {
        [config.ike_port, config.port] = PORTS;
    }
    let [user, gateway] = configs;
    let mut engines = [setup::engine(user, 1), setup::engine(gateway, 2)];
    let channel = Channel {
        local_iface: RAN,
        ifindex: 0,
        local: SocketAddr::new(ip(hosts[0]), PORTS[0]),
        remote: SocketAddr::new(ip(hosts[1]), PORTS[0]),
    };
    let start = Instant::now();
    let mut extra = Duration::ZERO;
    let mut buffer = vec![0; 65_536];
    // One round of all sockets; whether anything came.
    let mut turn =
        |engines: &mut [Engine; 2], now: Instant, up: &mut Option<IkeId>| -> Result<bool> {
            let mut moved = false;
            for (end, socket) in &sockets {
                let local = socket.local_addr()?;
                while let Ok((len, remote)) = socket.recv_from(&mut buffer) {
                    moved = true;
                    let at = Arrival {
                        ifindex: 0,
                        local,
                        remote,
                    };
                    engines[*end].handle_datagram(at, &buffer[..len], now);
                }
            }
            for (end, engine) in engines.iter_mut().enumerate() {
                let mut ours = None;
                for transmit in drain(engine, &mut ours) {
                    moved = true;
                    let from = |(of, socket): &&(usize, UdpSocket)| {
                        *of == end && socket.local_addr().is_ok_and(|at| at == transmit.local)
                    };
                    let (_, socket) = sockets.iter().find(from).context("no such socket")?;
                    socket.send_to(&transmit.payload, transmit.remote)?;
                }
                if end == 0 {
                    *up = ours.or(*up);
                }
            }
            Ok(moved)
        };
    rate(time, || {
        extra += Duration::from_millis(50);
        let now = start + extra;
        for engine in &mut engines {
            engine.handle_timeout(now);
        }
        call(&mut engines[0], channel, now);
        let mut up = None;
        while turn(&mut engines, now, &mut up)? {}
        let ike = up.context("no IKE SA over UDP")?;
        engines[0].handle_command(Command::DeleteIke { ike }, now);
        while turn(&mut engines, now, &mut up)? {}
        Ok(())
    })
}

fn updates(time: Duration) -> Result<f64> {
    let mut ends = Ends::new();
    let ifaces = vec![
        setup::record(WLAN, setup::WLAN_ADDRESS),
        setup::record(RAN, RAN_ADDRESS),
    ];
    ends.user
        .handle_command(Command::SetInterfaces { ifaces }, ends.now);
    let ifaces = vec![setup::record(setup::GATEWAY, GATEWAY_ADDRESS)];
    ends.gateway
        .handle_command(Command::SetInterfaces { ifaces }, ends.now);
    call(&mut ends.user, setup::channel(RAN, RAN_ADDRESS), ends.now);
    let ike = ends.settle().context("no IKE SA")?;
    let mut here = ip("192.0.2.10");
    let mut there = ip("192.0.2.11");
    let before = ends.gateway.counters();
    let rate = rate(time, || {
        std::mem::swap(&mut here, &mut there);
        let update = Command::UpdateAddresses {
            ike,
            old_iface: WLAN,
            new_iface: WLAN,
            old: there,
            new: here,
            behind_nat: false,
            old_is_dead: false,
            grace: Duration::from_secs(1),
            channel: None,
        };
        ends.user.handle_command(update, ends.now);
        ends.settle();
        Ok(())
    })?;
    ensure!(ends.gateway.counters() == before, "updates were refused");
    Ok(rate)
}

/// What a flood costs: the gateway alone, with its threshold reached.
fn refused(time: Duration) -> Result<f64> {
    let mut config = setup::gateway();
    config.limits.cookie_threshold = 0;
    let mut gateway = setup::engine(config, 3);
    let mut user = setup::engine(setup::user(), 4);
    let now = Instant::now();
    call(&mut user, setup::channel(RAN, RAN_ADDRESS), now);
    let first = user.poll_transmit().context("no request")?;
    let mut bytes = first.payload.clone();
    let mut from = 0u32;
    rate(time, || {
        from = from.wrapping_add(1);
        bytes[4..8].copy_from_slice(&from.to_be_bytes());
        let at = Arrival {
            ifindex: 2,
            local: first.remote,
            remote: SocketAddr::new(
                std::net::Ipv4Addr::from(0x0b00_0000 | from & 0xff_ffff).into(),
                500,
            ),
        };
        gateway.handle_datagram(at, &bytes, now);
        ensure!(drain(&mut gateway, &mut None).len() == 1, "one cookie");
        Ok(())
    })
}
