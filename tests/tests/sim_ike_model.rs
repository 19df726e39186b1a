//! Both agents do anything at any time over bad links; when it is quiet again
//! both ends agree on everything.

use std::net::SocketAddr;
use std::time::Duration;

use mifsec::crypto::{Entropy as _, SeededEntropy};
use mifsec::ids::{IfaceId, IfacePair};
use mifsec::ike::{Channel, Command};
use mifsec_tests::sim::setup::{
    self, GATEWAY, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS, assert_agreement,
    established,
};
use mifsec_tests::sim::{A, B, Link, Pair, ip};

/// What the model keeps of the end user: the address of each interface and which
/// one carries the channel.
struct Model {
    random: SeededEntropy,
    wlan: String,
    ran: String,
    on: IfaceId,
    moves: u32,
}

impl Model {
    fn pick(&mut self, of: u32) -> u32 {
        self.random.u32() % of
    }

    fn address(&self, iface: IfaceId) -> String {
        if iface == WLAN {
            self.wlan.clone()
        } else {
            self.ran.clone()
        }
    }

    fn channel(&self, iface: IfaceId) -> Channel {
        Channel {
            local: SocketAddr::new(ip(&self.address(iface)), 4500),
            ..setup::channel(iface, RAN_ADDRESS)
        }
    }

    fn table(&self) -> Command {
        Command::SetInterfaces {
            ifaces: vec![
                setup::record(WLAN, &self.wlan),
                setup::record(RAN, &self.ran),
            ],
        }
    }

    /// One random thing one of the agents may do.
    fn act(&mut self, pair: &mut Pair) {
        let iface = [WLAN, RAN][usize::from(self.pick(2) == 1)];
        let who = [A, B][usize::from(self.pick(4) == 0)];
        let Some(ike) = pair.ends[who].established().first().copied() else {
            return;
        };
        match self.pick(7) {
            0 | 1 => {
                let (ours, theirs) = (ip(&self.address(iface)), ip(GATEWAY_ADDRESS));
                let user = who == A;
                let (local_iface, remote_iface) = if user {
                    (iface, GATEWAY)
                } else {
                    (GATEWAY, iface)
                };
                let (local, remote) = if user { (ours, theirs) } else { (theirs, ours) };
                let child = "internet".into();
                let pair_of = IfacePair {
                    local: local_iface,
                    remote: remote_iface,
                };
                pair.command(
                    who,
                    Command::CreateChild {
                        ike,
                        child,
                        pair: pair_of,
                        local,
                        remote,
                    },
                );
            }
            2 => {
                let children: Vec<_> = pair.ends[who].children.keys().copied().collect();
                if children.len() > 1 {
                    let at = usize::try_from(self.pick(99)).expect("small") % children.len();
                    let child = children[at];
                    pair.command(who, Command::DeleteChild { child });
                }
            }
            3 | 4 => self.move_address(pair, iface),
            5 => {
                let ike = pair.a().ike();
                self.on = iface;
                let channel = self.channel(iface);
                pair.command(A, Command::MoveChannel { ike, channel });
            }
            _ => pair.command(who, Command::CheckLiveness { ike }),
        }
    }

    fn move_address(&mut self, pair: &mut Pair, iface: IfaceId) {
        let ike = pair.a().ike();
        self.moves += 1;
        let old = self.address(iface);
        let net = if iface == WLAN {
            "192.0.2"
        } else {
            "198.51.100"
        };
        let new = format!("{net}.{}", 30 + self.moves % 200);
        *(if iface == WLAN {
            &mut self.wlan
        } else {
            &mut self.ran
        }) = new.clone();
        pair.dead.insert(ip(&old));
        pair.dead.remove(&ip(&new));
        let channel = (self.on == iface).then(|| self.channel(iface));
        pair.command(
            A,
            Command::UpdateAddresses {
                ike,
                old_iface: iface,
                new_iface: iface,
                old: ip(&old),
                new: ip(&new),
                behind_nat: false,
                old_is_dead: true,
                grace: Duration::ZERO,
                channel,
            },
        );
        let table = self.table();
        pair.command(A, table);
    }
}

#[test]
fn after_any_storm_both_ends_agree() {
    let mut survived = 0;
    for seed in 0..2_000 {
        let mut pair = established(setup::user(), setup::gateway(), seed);
        pair.links = [Link {
            loss: 0.1,
            duplicate: 0.1,
            jitter: Duration::from_millis(60),
            ..Link::default()
        }; 2];
        let mut model = Model {
            random: SeededEntropy::new(seed ^ 0x5eed),
            wlan: WLAN_ADDRESS.into(),
            ran: RAN_ADDRESS.into(),
            on: RAN,
            moves: 0,
        };
        let mut first = pair.ends[A].ike();
        for _ in 0..40 {
            if pair.ends[A].established().is_empty() {
                break;
            }
            model.act(&mut pair);
            let pause = Duration::from_millis(u64::from(model.pick(200)));
            pair.run(pause);
            first = first.max(pair.ends[A].established().first().copied().unwrap_or(first));
        }
        pair.run(Duration::from_secs(600));
        for end in &pair.ends {
            assert!(end.larval.is_empty(), "seed {seed}");
            assert!(end.engine.poll_timeout().is_none(), "seed {seed}: quiet");
        }
        // A request that started on a channel now dead may be given up.
        if pair.ends[A].established().is_empty() || pair.ends[B].established().is_empty() {
            continue;
        }
        survived += 1;
        assert_agreement(&pair);
        for ours in pair.ends[A].children.values() {
            let theirs = pair.ends[B]
                .children
                .values()
                .find(|c| c.spi_in == ours.spi_out);
            let theirs = theirs.expect("checked by agreement").pair;
            assert_eq!(
                (ours.pair.local, ours.pair.remote),
                if theirs.remote == IfaceId::CHANNEL {
                    (RAN, IfaceId::CHANNEL)
                } else {
                    (theirs.remote, theirs.local)
                },
                "seed {seed}: the same path"
            );
        }
        let at = model.channel(model.on).local;
        assert_eq!(
            pair.ends[A].engine.views()[0].channel.local,
            at,
            "seed {seed}"
        );
        assert_eq!(
            pair.ends[B].engine.views()[0].channel.remote,
            at,
            "seed {seed}"
        );
        let mut failures = [pair.ends[A].failures(), pair.ends[B].failures()].concat();
        // A Delete may overtake the response that made its Child SA.
        failures.retain(|failure| !failure.contains("deleted by the peer"));
        assert!(failures.is_empty(), "seed {seed}: {failures:?}");
    }
    assert!(survived > 1_950, "{survived} of 2000 survived");
}
