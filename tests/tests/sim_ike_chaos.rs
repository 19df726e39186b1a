//! Everything at once: both agents make, rekey, delete and move at any time, the
//! links lose, double, delay, fall silent, the NAT forgets, the laptop sleeps or
//! starts anew. Within bounded virtual time after the network is good again, both
//! ends have one IKE SA and agree on all that is in it.

use std::collections::BTreeMap;
use std::time::Duration;

use mifsec::crypto::{Entropy as _, SeededEntropy};
use mifsec::ids::{ChildId, IfaceId, IfacePair};
use mifsec::ike::config::{EngineConfig, Lifetime, Mobility};
use mifsec::ike::{self, Command, IkeSaView};
use mifsec_tests::sim::multi::{self, ETH, GATEWAY2};
use mifsec_tests::sim::setup::{
    self, GATEWAY, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS, assert_agreement,
    connect, established,
};
use mifsec_tests::sim::{A, B, End, Link, Nat, Pair, ip};

/// What kind of peers meet.
#[derive(Clone, Copy)]
struct Kind {
    mobility: Mobility,
    /// Both ends rekey by themselves, and often.
    lifetimes: bool,
    nat: bool,
    /// Interfaces come, go, and carry others.
    interfaces: bool,
}

impl Kind {
    fn configure(self, mut config: EngineConfig) -> EngineConfig {
        let life = |seconds| Lifetime {
            time: self.lifetimes.then(|| Duration::from_secs(seconds)),
            jitter: 0.5,
        };
        for peer in &mut config.peers {
            peer.dpd = Some(Duration::from_secs(20));
            peer.mobility = self.mobility;
            peer.rekey = life(20);
            peer.ike_rekey = life(45);
        }
        config
    }
}

/// How long after the network is good again everything must be well: a request
/// that began on a dead link is given up after 90 s, the dead peer is noticed as
/// late as one quiet time after that, and connecting takes its own tries.
const RECOVERY: Duration = Duration::from_secs(400);

/// Child SAs with equal selectors on one path, when it is quiet.
const MOST_ON_A_PATH: u32 = 1;

struct Chaos {
    random: SeededEntropy,
    kind: Kind,
    seed: u64,
    /// Where the user's channel is to be.
    on: IfaceId,
    restarts: u64,
}

impl Chaos {
    fn pick(&mut self, of: u32) -> u32 {
        self.random.u32() % of
    }

    fn child(&mut self, end: &End) -> Option<ChildId> {
        let children: Vec<_> = end.children.keys().copied().collect();
        let at = usize::try_from(self.pick(97)).expect("small");
        children.get(at % children.len().max(1)).copied()
    }

    fn channel(&self) -> mifsec::ike::Channel {
        let address = if self.on == WLAN {
            WLAN_ADDRESS
        } else {
            RAN_ADDRESS
        };
        setup::channel(self.on, address)
    }

    fn act(&mut self, pair: &mut Pair) {
        let who = [A, B][usize::from(self.pick(2) == 1)];
        if pair.asleep[who] {
            return;
        }
        if self.kind.interfaces {
            self.resolve(pair);
        }
        let ike = pair.ends[who].established().first().copied();
        let child = self.child(&pair.ends[who]);
        let iface = [WLAN, RAN][usize::from(self.pick(2) == 1)];
        if self.kind.interfaces && self.pick(2) == 1 {
            return self.act_on_interfaces(pair, who);
        }
        let command = match self.pick(20) {
            0..=2 => child.map(|child| Command::RekeyChild { child }),
            3..=5 => ike.map(|ike| Command::RekeyIke { ike }),
            6 => child.map(|child| Command::DeleteChild { child }),
            7 => child.map(|child| Command::ExpireChild { child }),
            8 | 9 => ike.map(|ike| create(ike, who, iface)),
            10 => ike.map(|ike| Command::CheckLiveness { ike }),
            11 | 12 if who == A => {
                self.on = iface;
                let channel = self.channel();
                ike.map(|ike| Command::MoveChannel { ike, channel })
            }
            13 if self.pick(4) == 0 => ike.map(|ike| Command::DeleteIke { ike }),
            14 => {
                pair.partition = !pair.partition;
                None
            }
            15 => {
                if let Some(nat) = &mut pair.nat {
                    nat.rebind();
                }
                None
            }
            16 => {
                pair.jump(Duration::from_millis(1 << self.pick(17)));
                None
            }
            17 => {
                pair.asleep[A] = true;
                let time = Duration::from_millis(1 << self.pick(18));
                pair.run(time);
                pair.asleep[A] = false;
                None
            }
            18 if self.pick(4) == 0 => {
                self.restart(pair);
                None
            }
            _ => None,
        };
        if let Some(command) = command {
            pair.command(who, command);
        }
    }

    /// Tables, alternates, moves of either end, choices for the other one.
    fn act_on_interfaces(&mut self, pair: &mut Pair, who: usize) {
        let Some(ike) = pair.ends[who].established().first().copied() else {
            return;
        };
        let ifaces: &[IfaceId] = [&[WLAN, RAN, ETH][..], &[GATEWAY, GATEWAY2]][who];
        let iface = ifaces[self.pick(97) as usize % ifaces.len()];
        let by = ifaces[self.pick(97) as usize % ifaces.len()];
        let others: &[IfaceId] = [&[GATEWAY, GATEWAY2][..], &[WLAN, RAN, ETH]][who];
        let other = others[self.pick(97) as usize % others.len()];
        let otherwise = others[self.pick(97) as usize % others.len()];
        let command = match self.pick(12) {
            0..=2 => multi::carry(pair, who, ike::End::Local, iface, by),
            3 | 4 => multi::carry(pair, who, ike::End::Remote, other, otherwise),
            5 | 6 => multi::add(pair, who, *ifaces.last().expect("some"), other),
            7 => multi::delete(pair, who, *ifaces.last().expect("some")),
            8 => multi::readdress(pair, who, iface, multi::address(who, iface)),
            9 => Command::SetAlternates {
                ike,
                lists: [(
                    iface,
                    ifaces.iter().copied().filter(|i| *i != iface).collect(),
                )]
                .into(),
            },
            10 => multi::table(who, &ifaces[..ifaces.len() - 1]),
            _ => multi::table(who, ifaces),
        };
        pair.command(who, command);
    }

    /// Both agents know which interfaces the channel runs on.
    fn resolve(&self, pair: &mut Pair) {
        for who in [A, B] {
            let Some(ike) = pair.ends[who].established().first().copied() else {
                continue;
            };
            let view = pair.ends[who].engine.views();
            let unnamed = |view: &IkeSaView| {
                let mut pairs = view.children.iter().map(|child| child.pair);
                pairs.any(|pair| [pair.local, pair.remote].contains(&IfaceId::CHANNEL))
            };
            if view.iter().any(unnamed) {
                let (local, remote) = [(RAN, GATEWAY), (GATEWAY, RAN)][who];
                pair.command(who, Command::ResolveChannel { ike, local, remote });
            }
        }
    }

    /// The user's agent was killed and starts again.
    fn restart(&mut self, pair: &mut Pair) {
        self.restarts += 1;
        let config = self.kind.configure(setup::user());
        let seed = self.seed << 20 | self.restarts << 1;
        pair.ends[A] = End::new(setup::engine(config, seed));
        let all = [WLAN, RAN, ETH];
        let ifaces = if self.kind.interfaces { 3 } else { 2 };
        pair.command(A, multi::table(A, &all[..ifaces]));
    }

    /// What the agent does with `start = "auto"`: there is always an IKE SA, or an
    /// attempt at one, and it has a Child SA.
    fn keep_up(&mut self, pair: &mut Pair) {
        if pair.asleep[A] {
            return;
        }
        if pair.ends[A].engine.views().is_empty() {
            self.on = RAN;
            connect(pair);
        }
        if self.kind.interfaces {
            self.resolve(pair);
        }
    }
}

fn create(ike: mifsec::ids::IkeId, who: usize, iface: IfaceId) -> Command {
    let address = if iface == WLAN {
        WLAN_ADDRESS
    } else {
        RAN_ADDRESS
    };
    let (mut local, mut remote) = (iface, GATEWAY);
    let (mut ours, mut theirs) = (ip(address), ip(GATEWAY_ADDRESS));
    if who == B {
        (local, remote) = (remote, local);
        (ours, theirs) = (theirs, ours);
    }
    Command::CreateChild {
        ike,
        child: "internet".into(),
        pair: IfacePair { local, remote },
        local: ours,
        remote: theirs,
    }
}

fn run(kind: Kind, seed: u64) {
    let mut pair = established(
        kind.configure(setup::user()),
        kind.configure(setup::gateway()),
        seed,
    );
    let mut chaos = Chaos {
        random: SeededEntropy::new(seed ^ 0xc4a0_5000),
        kind,
        seed,
        on: RAN,
        restarts: 0,
    };
    if kind.nat {
        pair.nat = Some(Nat::new(ip("198.51.100.200")));
    }
    if kind.interfaces {
        pair = multi::two(pair);
    }
    pair.links = [Link {
        loss: 0.08,
        duplicate: 0.08,
        jitter: Duration::from_millis(80),
        ..Link::default()
    }; 2];
    for _ in 0..40 {
        chaos.act(&mut pair);
        let pause = Duration::from_millis(u64::from(chaos.pick(400)));
        pair.run(pause);
        chaos.keep_up(&mut pair);
    }

    // The network is good again.
    pair.partition = false;
    pair.links = [Link::default(); 2];
    let end = pair.now + RECOVERY;
    while pair.now < end {
        pair.run(Duration::from_secs(2));
        chaos.keep_up(&mut pair);
    }
    // Traffic asks for a Child SA where there is none.
    if pair.ends[A].children.is_empty() {
        let ike = pair.ends[A].ike();
        if kind.mobility.mif {
            let command = create(ike, A, chaos.on);
            pair.command(A, command);
        } else {
            // Without MIF there is no path to ask for one on: connect anew.
            pair.command(A, Command::DeleteIke { ike });
            pair.run(Duration::from_secs(10));
            chaos.keep_up(&mut pair);
        }
        pair.run(Duration::from_secs(10));
    }
    if kind.interfaces {
        all_home(&mut pair);
    }
    settle(&mut pair);
    well(&pair, seed);
}

/// All interfaces are there again, and each agent, who sees that they work, has what
/// was lent come home.
fn all_home(pair: &mut Pair) {
    let all: [&[IfaceId]; 2] = [&[WLAN, RAN, ETH], &[GATEWAY, GATEWAY2]];
    for who in [A, B] {
        pair.command(who, multi::table(who, all[who]));
        pair.run(Duration::from_secs(2));
        for iface in all[who] {
            let command = multi::carry(pair, who, ike::End::Local, *iface, *iface);
            pair.command(who, command);
        }
    }
    pair.run(Duration::from_secs(60));
}

/// Runs to a moment when nothing is under way: rekeying by lifetime never ends.
fn settle(pair: &mut Pair) {
    for end in &pair.ends {
        assert_eq!(end.established().len(), 1, "one IKE SA at each end");
    }
    let quiet = |pair: &Pair| {
        pair.in_flight() == 0
            && pair.ends.iter().all(|end| {
                let views = end.engine.views();
                // A replaced one still receives for a while.
                let settled = |view: &IkeSaView| view.children.len() == end.children.len();
                let alone = paths(end).values().all(|count| *count <= MOST_ON_A_PATH);
                end.larval.is_empty() && views.len() == 1 && views.iter().all(settled) && alone
            })
    };
    for _ in 0..3000 {
        if quiet(pair) && pair.ends[A].children.len() == pair.ends[B].children.len() {
            return;
        }
        pair.run(Duration::from_millis(100));
    }
}

/// How many Child SAs each selector and path has.
fn paths(end: &End) -> BTreeMap<(String, IfacePair), u32> {
    let mut paths = BTreeMap::new();
    for child in end.children.values() {
        *paths.entry((child.name.clone(), child.pair)).or_default() += 1;
    }
    paths
}

/// What must hold when it is quiet.
fn well(pair: &Pair, seed: u64) {
    let [a, b] = &pair.ends;
    for end in &pair.ends {
        assert!(
            end.larval.is_empty(),
            "seed {seed}: an SPI is held for nothing"
        );
        assert_eq!(end.engine.views().len(), 1, "seed {seed}: one IKE SA");
        for (path, count) in paths(end) {
            assert!(count <= MOST_ON_A_PATH, "seed {seed}: {count} on {path:?}");
        }
        let known: Vec<_> = end.engine.views()[0]
            .children
            .iter()
            .map(|child| child.spi_in)
            .collect();
        for child in end.children.values() {
            assert!(known.contains(&child.spi_in), "seed {seed}: nobody's SA");
        }
        assert_eq!(known.len(), end.children.len(), "seed {seed}");
    }
    let (va, vb) = (&a.engine.views()[0], &b.engine.views()[0]);
    assert_eq!(
        (va.spi_i, va.spi_r),
        (vb.spi_i, vb.spi_r),
        "seed {seed}: the same IKE SA"
    );
    assert!(!a.children.is_empty(), "seed {seed}: traffic can flow");
    assert_agreement(pair);
    let carriers = [A, B].map(|who| multi::carried(pair, who));
    assert_eq!(carriers[A], carriers[B], "seed {seed}: the same carriers");
}

fn storm(kind: Kind, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        run(kind, seed);
    }
}

const MIF: Mobility = Mobility {
    mif: true,
    mobike: true,
    force_udp: false,
    no_nats: false,
    early_announce: false,
};
const MOBIKE: Mobility = Mobility { mif: false, ..MIF };
const NEITHER: Mobility = Mobility {
    mobike: false,
    ..MOBIKE
};

#[test]
fn two_of_us_recover_from_anything() {
    let kind = Kind {
        mobility: MIF,
        lifetimes: false,
        nat: false,
        interfaces: false,
    };
    storm(kind, 0..1_000);
}

#[test]
fn two_of_us_recover_while_rekeying_by_themselves_behind_a_nat() {
    let kind = Kind {
        mobility: MIF,
        lifetimes: true,
        nat: true,
        interfaces: false,
    };
    storm(kind, 10_000..10_700);
}

#[test]
fn mobike_peers_recover_from_anything() {
    let kind = Kind {
        mobility: MOBIKE,
        lifetimes: false,
        nat: true,
        interfaces: false,
    };
    storm(kind, 20_000..20_400);
}

#[test]
fn plain_peers_recover_from_anything() {
    let kind = Kind {
        mobility: NEITHER,
        lifetimes: true,
        nat: false,
        interfaces: false,
    };
    storm(kind, 30_000..30_200);
}

#[test]
fn two_of_us_recover_while_interfaces_come_and_go_and_carry_others() {
    mifsec_tests::covers!("R30", "R33", "R47", "R55");
    for (lifetimes, seeds) in [(false, 40_000..40_600), (true, 50_000..50_400)] {
        let kind = Kind {
            mobility: MIF,
            lifetimes,
            nat: false,
            interfaces: true,
        };
        storm(kind, seeds);
    }
}
