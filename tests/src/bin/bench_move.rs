//! Data-plane time of a move: from the decision that one interface carries another
//! until the last entry is in the maps, with ever more security associations.
//! Called by `cargo xtask bench move`. Needs root.
//!
//! Beside it, what it would cost to rewrite each security association instead.

#![expect(clippy::print_stdout, reason = "the table is the purpose")]

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use mifsec::crypto::SeededEntropy;
use mifsec::ebpf::{self, Ebpf};
use mifsec::ids::{AccessId, Arrival, IfaceId, IkeId, PathIndex, Spi};
use mifsec::path::{
    Channel, Config, End, Engine, Event, IfaceState, LinkClass, LocalIface, PeerParams, Probing,
    RemoteAddr, RemoteIface, TransmitKind,
};
use mifsec_common::SaOut;
use mifsec_tests::bpf;

const PORT: u16 = 4500;
const IKE: IkeId = IkeId(1);
/// Between moves: a slot that was left rests for 100 ms.
const PAUSE: Duration = Duration::from_millis(4);

/// Measures moves.
#[derive(Parser)]
struct Args {
    /// Moves for each number of security associations.
    #[arg(long, default_value_t = 400)]
    rounds: u32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let counts = [1u32, 1000, 100_000];
    println!(
        "{:>10} {:>9} {:>12} {:>12} {:>22}",
        "Child SAs", "entries", "median us", "p99 us", "each SA rewritten, us"
    );
    let mut medians = Vec::new();
    for count in counts {
        let config = ebpf::Config {
            max_sas: 2 * count.max(64),
            ..bpf::config()
        };
        let mut maps = Ebpf::open(&config, 0).context("load the programs (are you root?)")?;
        let mut ends = Ends::connected()?;
        let home = ends.path(1)?;
        let anchor: IpAddr = [240, 0, 0, 1].into();
        let sa = |home: PathIndex| SaOut {
            home_v4: home.0,
            ..SaOut::default()
        };
        for spi in 0..count {
            maps.set_sa_out(anchor, Spi(0x1_0000 + spi), sa(home))?;
        }
        ends.write(&mut maps)?;
        let (mut times, mut entries) = (Vec::new(), 0);
        for round in 0..args.rounds {
            sleep(PAUSE);
            let by = IfaceId(if round % 2 == 0 { 2 } else { 1 });
            let now = ends.now;
            let begin = Instant::now();
            ends.user.carry(IKE, End::Local, IfaceId(1), by, now);
            entries = ends.write(&mut maps)?;
            times.push(begin.elapsed());
        }
        let carrier = ends.path(2)?;
        let begin = Instant::now();
        for spi in 0..count {
            maps.set_sa_out(anchor, Spi(0x1_0000 + spi), sa(carrier))?;
        }
        let each = begin.elapsed();
        times.sort();
        let at = |part: usize| times.get(times.len() * part / 100).copied();
        let (median, p99) = (at(50).unwrap_or_default(), at(99).unwrap_or_default());
        println!(
            "{count:>10} {entries:>9} {:>12.1} {:>12.1} {:>22.1}",
            micros(median),
            micros(p99),
            micros(each)
        );
        ensure!(entries == 1, "one entry, not {entries}");
        medians.push(micros(median));
    }
    if let [one, thousand, all] = medians[..] {
        println!(
            "1,000 Child SAs take {:.2} times as long as one, 100,000 {:.2} times",
            thousand / one,
            all / one
        );
    }
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// An end user with two accesses and a gateway, with nothing in between.
struct Ends {
    user: Engine,
    gateway: Engine,
    now: Instant,
    sequence: u64,
}

impl Ends {
    fn connected() -> Result<Self> {
        let now = Instant::now();
        let config = Config {
            port: PORT,
            max_paths: 16,
        };
        let engine = |seed| Engine::new(config.clone(), Box::new(SeededEntropy::new(seed)));
        let mut ends = Self {
            user: engine(1),
            gateway: engine(2),
            now,
            sequence: 0,
        };
        for id in [1, 2] {
            ends.user.set_local(iface(id, user(id)), now);
        }
        ends.gateway.set_local(iface(1, gateway()), now);
        let channel = |local, remote| Channel {
            local: IfaceId(1),
            local_addr: SocketAddr::new(local, PORT),
            remote_addr: SocketAddr::new(remote, PORT),
        };
        let params = |initiator, channel| PeerParams {
            initiator,
            probes: true,
            behind_nat: false,
            channel,
        };
        let (there, back) = (channel(user(1), gateway()), channel(gateway(), user(1)));
        ends.user.add_peer(IKE, params(true, there), now);
        ends.gateway.add_peer(IKE, params(false, back), now);
        let remote = |id, ip| RemoteIface {
            id: IfaceId(id),
            state: IfaceState::Up,
            class: LinkClass(1),
            priority: 0,
            weight: 1,
            mtu: 1500,
            addresses: vec![RemoteAddr {
                ip,
                port: 0,
                behind_nat: false,
            }],
        };
        let users = [1, 2].map(|id| remote(id, user(id)));
        ends.user.set_remote(IKE, vec![remote(1, gateway())], now);
        ends.gateway.set_remote(IKE, users.into(), now);
        for _ in 0..200 {
            ends.turn();
        }
        let up = ends.user.views().iter().filter(|view| view.up).count();
        ensure!(up == 2, "{up} paths are up");
        Ok(ends)
    }

    /// Delivers what waits, and lets 10 ms pass.
    fn turn(&mut self) {
        self.now += Duration::from_millis(10);
        self.user.handle_timeout(self.now);
        self.gateway.handle_timeout(self.now);
        loop {
            let (from, to, ifindex) = if let Some(sent) = self.user.poll_transmit() {
                (sent, &mut self.gateway, Some(1))
            } else if let Some(sent) = self.gateway.poll_transmit() {
                (sent, &mut self.user, None)
            } else {
                break;
            };
            let TransmitKind::Probe(bytes) = from.kind else {
                continue;
            };
            let index = |ip| if ip == user(2) { 2 } else { 1 };
            let arrival = Arrival {
                ifindex: ifindex.unwrap_or_else(|| index(from.remote.ip())),
                local: from.remote,
                remote: from.local,
            };
            self.sequence += 1;
            to.handle_probe(IKE, arrival, self.sequence, &bytes, self.now);
        }
    }

    /// The index of an access's path.
    fn path(&self, id: u16) -> Result<PathIndex> {
        let views = self.user.views();
        let view = views.iter().find(|view| view.pair.local == IfaceId(id));
        Ok(view.context("no such path")?.path)
    }

    /// Puts what the engine says into the maps; how many entries there were.
    fn write(&mut self, maps: &mut Ebpf) -> Result<u32> {
        let mut entries = 0;
        while let Some(event) = self.user.poll_event() {
            let Event::Entry { path, entry } = event else {
                continue;
            };
            let entry = ebpf::path_entry(
                entry.local,
                entry.remote,
                Some(entry.next_hop),
                entry.ifindex,
                entry.mtu,
                entry.up,
                entry.layer3,
            );
            maps.set_path(path, &entry)?;
            entries += 1;
        }
        Ok(entries)
    }
}

fn user(id: u16) -> IpAddr {
    [10, 0, id.to_be_bytes()[1], 2].into()
}

fn gateway() -> IpAddr {
    [203, 0, 113, 1].into()
}

fn iface(id: u16, ip: IpAddr) -> LocalIface {
    LocalIface {
        id: IfaceId(id),
        access: AccessId(id),
        ifindex: u32::from(id),
        state: IfaceState::Up,
        class: LinkClass(1),
        priority: 0,
        weight: 1,
        mtu: 1500,
        addresses: vec![ip],
        next_hop_v4: None,
        next_hop_v6: None,
        layer3: false,
        probing: Probing::Default,
    }
}
