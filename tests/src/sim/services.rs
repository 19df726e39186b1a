//! What a further interface costs for so many services: one MIF_ADD_INTERFACE, or
//! one CREATE_CHILD_SA for each of them. Two engines, no links: only what they
//! send and the time they take counts.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mifsec::ids::{Arrival, IfacePair, IkeId};
use mifsec::ike::config::EngineConfig;
use mifsec::ike::{Channel, Command, Engine, Event, SaRequest, Transmit};

use super::ip;
use super::setup::{self, GATEWAY, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS};

/// How the Child SAs of the further interface are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Derived in one exchange.
    Derive,
    /// The same with a key exchange.
    DerivePfs,
    /// Asked for one by one.
    Create,
}

/// What that took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Datagrams both ways, fragments counted each.
    pub datagrams: usize,
    /// Octets of IKE in them.
    pub octets: usize,
    /// Child SAs of the end user on the further interface.
    pub created: usize,
    /// Both ends' work in one thread, which is the processor's time if nobody else
    /// wants it: of several runs the least counts.
    pub time: Duration,
}

/// End user and gateway with `count` services, each with a network of its own.
#[must_use]
pub fn configs(count: usize) -> (EngineConfig, EngineConfig) {
    let (mut user, mut gateway) = (setup::user(), setup::gateway());
    let name = |n: usize| format!("service{n}");
    let net = |n: usize| format!("10.{}.{}.0/24", 100 + n / 256, n % 256);
    user.peers[0].request_v6 = false;
    user.peers[0].children = (0..count)
        .map(|n| setup::child(&name(n), &[None], &[Some(&net(n))]))
        .collect();
    gateway.peers[0].children = (0..count)
        .map(|n| setup::child(&name(n), &[Some(&net(n))], &[None]))
        .collect();
    (user, gateway)
}

/// Adds the WLAN for `count` services that are on the RAN.
///
/// # Panics
/// When the two ends do not do what they are told.
#[must_use]
pub fn further_interface(count: usize, way: Way) -> Cost {
    let (user, gateway) = configs(count);
    let mut both = Both {
        ends: [setup::engine(user, 1), setup::engine(gateway, 2)],
        now: Instant::now(),
        datagrams: 0,
        octets: 0,
        installed: [0, 0],
        up: [None, None],
    };
    let ifaces = vec![
        setup::record(WLAN, WLAN_ADDRESS),
        setup::record(RAN, RAN_ADDRESS),
    ];
    both.command(0, Command::SetInterfaces { ifaces });
    let ifaces = vec![setup::record(GATEWAY, GATEWAY_ADDRESS)];
    both.command(1, Command::SetInterfaces { ifaces });
    let channel = Channel {
        local_iface: RAN,
        ifindex: 3,
        local: SocketAddr::new(ip(RAN_ADDRESS), 4500),
        remote: SocketAddr::new(ip(GATEWAY_ADDRESS), 4500),
    };
    let peer = "gw".into();
    both.command(0, Command::Initiate { peer, channel });
    for (who, local, remote) in [(0, RAN, GATEWAY), (1, GATEWAY, RAN)] {
        let ike = both.up[who].expect("established");
        both.command(who, Command::ResolveChannel { ike, local, remote });
    }
    let ike = both.up[0].expect("established");
    for n in 1..count {
        both.command(0, create(ike, n, RAN_ADDRESS));
    }
    assert_eq!(both.installed, [count, count], "all on the first access");
    (both.datagrams, both.octets) = (0, 0);
    let start = Instant::now();
    match way {
        Way::Create => {
            for n in 0..count {
                both.command(0, create(ike, n, WLAN_ADDRESS));
            }
        }
        Way::Derive | Way::DerivePfs => both.command(
            0,
            Command::AddInterface {
                ike,
                iface: WLAN,
                remote: GATEWAY,
                local_addr: ip(WLAN_ADDRESS),
                remote_addr: ip(GATEWAY_ADDRESS),
                inner: Vec::new(),
                lease: false,
                bundle: true,
                from: Vec::new(),
                pfs: way == Way::DerivePfs,
            },
        ),
    }
    let time = start.elapsed();
    assert_eq!(both.installed, [2 * count, 2 * count]);
    Cost {
        datagrams: both.datagrams,
        octets: both.octets,
        created: both.installed[0] - count,
        time,
    }
}

fn create(ike: IkeId, n: usize, from: &str) -> Command {
    let local = if from == WLAN_ADDRESS { WLAN } else { RAN };
    Command::CreateChild {
        ike,
        child: format!("service{n}"),
        pair: IfacePair {
            local,
            remote: GATEWAY,
        },
        local: ip(from),
        remote: ip(GATEWAY_ADDRESS),
    }
}

struct Both {
    ends: [Engine; 2],
    now: Instant,
    datagrams: usize,
    octets: usize,
    installed: [usize; 2],
    up: [Option<IkeId>; 2],
}

impl Both {
    /// Gives a command and carries everything to and fro until nothing moves.
    fn command(&mut self, who: usize, command: Command) {
        self.ends[who].handle_command(command, self.now);
        loop {
            let sent = [self.drain(0), self.drain(1)];
            if sent.iter().all(Vec::is_empty) {
                return;
            }
            for (from, transmits) in sent.into_iter().enumerate() {
                for transmit in transmits {
                    self.datagrams += 1;
                    self.octets += transmit.payload.len();
                    let arrival = Arrival {
                        ifindex: 2,
                        local: transmit.remote,
                        remote: transmit.local,
                    };
                    self.ends[1 - from].handle_datagram(arrival, &transmit.payload, self.now);
                }
            }
        }
    }

    fn drain(&mut self, who: usize) -> Vec<Transmit> {
        let engine = &mut self.ends[who];
        while let Some(event) = engine.poll_event() {
            if let Event::Established { ike, .. } = event {
                self.up[who] = Some(ike);
            }
        }
        while let Some(request) = engine.poll_sa_request() {
            self.installed[who] += usize::from(matches!(request, SaRequest::Install(_)));
        }
        std::iter::from_fn(|| engine.poll_transmit()).collect()
    }
}
