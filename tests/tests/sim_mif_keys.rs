//! Keys and counters (protocol 3.10): over any sequence of deriving, moving,
//! rekeying and starting anew, no packet is sealed with a key, salt and IV that
//! were used before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mifsec::crypto::Secret;
use mifsec::esp::{OutboundSa, SaParams};
use mifsec::ids::{ChildId, IfaceId};
use mifsec::ike::{Command, Event};
use mifsec_tests::sim::multi::{self, ETH, GATEWAY2, add, carry, delete, readdress};
use mifsec_tests::sim::setup::{self, GATEWAY, RAN, WLAN, assert_agreement};
use mifsec_tests::sim::{A, B, End, Link, Pair};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

const SECOND: Duration = Duration::from_secs(1);
/// Payload of each packet.
const OCTETS: usize = 20;

/// What the data planes of both ends ever sealed.
#[derive(Default)]
struct Sealed {
    /// Sending SAs: whose, in which of its lives.
    sas: BTreeMap<(usize, u32, ChildId), OutboundSa>,
    /// Key with salt, and IV.
    used: BTreeSet<(Vec<u8>, [u8; 8])>,
    /// Keys of Child SAs, one direction each.
    keys: BTreeSet<Vec<u8>>,
    /// Keys of probe SAs.
    probes: BTreeSet<Vec<u8>>,
    lives: [u32; 2],
    /// Events read, by end.
    read: [usize; 2],
}

impl Sealed {
    /// A few packets on every Child SA there is, those being replaced too.
    fn traffic(&mut self, pair: &Pair) {
        for who in [A, B] {
            let life = self.lives[who];
            for (id, child) in &pair.ends[who].children {
                let sa = self.sas.entry((who, life, *id)).or_insert_with(|| {
                    // At the other end it is the key of what comes in.
                    self.keys.insert(child.key_out.clone());
                    OutboundSa::new(&SaParams {
                        spi: child.spi_out,
                        algorithm: child.algorithm,
                        keymat: &Secret::new(child.key_out.clone()),
                        esn: child.esn,
                        replay_window: 64,
                    })
                    .expect("keys of the right length")
                });
                for _ in 0..3 {
                    let mut packet = vec![0; sa.sealed_len(OCTETS)];
                    let sequence = sa.reserve(1).expect("numbers are left");
                    sa.seal(sequence, 4, OCTETS, &mut packet);
                    let iv = packet[8..16].try_into().expect("8 octets");
                    let used = (child.key_out.clone(), iv);
                    assert!(self.used.insert(used), "a key with an IV twice");
                }
            }
            self.probes(pair, who);
        }
        let both = self.keys.intersection(&self.probes);
        assert_eq!(both.count(), 0, "a probe's key is a Child SA's");
    }

    /// Each probe key is used by one end and comes once.
    fn probes(&mut self, pair: &Pair, who: usize) {
        let events = &pair.ends[who].events;
        for event in &events[self.read[who]..] {
            let probe = match event {
                Event::Established { mif: Some(mif), .. } => &mif.probe,
                Event::ProbeKeysChanged { probe, .. } => probe,
                _ => continue,
            };
            let key = probe.keymat_out.expose().to_vec();
            assert!(self.probes.insert(key), "a probe's key twice");
        }
        self.read[who] = events.len();
    }

    /// An end was killed: it starts with new numbers, and nothing it knew.
    fn restart(&mut self, pair: &mut Pair, who: usize, seed: u64) {
        self.lives[who] += 1;
        self.read[who] = 0;
        let config = if who == A {
            setup::user()
        } else {
            setup::gateway()
        };
        // Other numbers than the other end has in the same of its lives.
        let seed = seed << 9 | u64::from(self.lives[who]) << 2 | 2 | who as u64;
        pair.ends[who] = End::new(setup::engine(config, seed));
        let ifaces: &[_] = [&[WLAN, RAN, ETH][..], &[GATEWAY, GATEWAY2]][who];
        pair.command(who, multi::table(who, ifaces));
    }
}

/// One step of a life, drawn by number.
fn step(pair: &mut Pair, sealed: &mut Sealed, what: u8, seed: u64) {
    let who = usize::from(what & 1);
    let iface = [WLAN, RAN, ETH][usize::from(what >> 1) % 3];
    let remote = [GATEWAY, GATEWAY2][usize::from(what >> 3) % 2];
    if pair.ends.iter().any(|end| end.established().len() != 1) {
        return connect(pair);
    }
    let child = pair.ends[who].children.keys().next_back().copied();
    let command = match what % 11 {
        0 | 1 => (A, add(pair, A, iface, remote)),
        2 => {
            let mut command = add(pair, A, ETH, remote);
            if let Command::AddInterface { pfs, bundle, .. } = &mut command {
                (*pfs, *bundle) = (true, what & 0x10 == 0);
            }
            (A, command)
        }
        3 => (A, delete(pair, A, ETH)),
        4 | 5 => {
            let end = [mifsec::ike::End::Local, mifsec::ike::End::Remote][who];
            (who, carry(pair, who, end, iface, WLAN))
        }
        6 => (A, readdress(pair, A, iface, "198.51.100.99")),
        7 => match child {
            Some(child) => (who, Command::RekeyChild { child }),
            None => return,
        },
        8 => {
            let ike = multi::ike(pair, who);
            (who, Command::RekeyIke { ike })
        }
        9 => {
            let loss = [0.0, 0.2][usize::from(what >> 4) % 2];
            pair.links = [Link {
                loss,
                duplicate: loss,
                ..Link::default()
            }; 2];
            return;
        }
        _ => return sealed.restart(pair, who, seed),
    };
    pair.command(command.0, command.1);
}

/// Anew, whatever there was.
fn connect(pair: &mut Pair) {
    pair.links = [Link::default(); 2];
    for who in [A, B] {
        for ike in pair.ends[who].established() {
            pair.command(who, Command::GiveUp { ike });
        }
    }
    setup::connect(pair);
    pair.run(SECOND * 3);
    if pair.ends.iter().any(|end| end.established().len() != 1) {
        pair.run(SECOND * 200);
    }
}

fn live(steps: &[u8], seed: u64) {
    let mut pair = multi::pair(seed);
    let mut sealed = Sealed::default();
    sealed.traffic(&pair);
    for what in steps {
        step(&mut pair, &mut sealed, *what, seed);
        // In the middle of it, and when it is done.
        for time in [5, 35, 3000] {
            pair.run(Duration::from_millis(time));
            sealed.traffic(&pair);
        }
    }
}

#[test]
fn no_key_meets_an_iv_twice_whatever_happens() {
    mifsec_tests::covers!("R47", "R85");
    let steps = proptest::collection::vec(any::<u8>(), 1..20);
    let config = ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    // The same lives in each run: a failure is met again by running it again.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let result = runner.run(&(steps, any::<u32>()), |(steps, seed)| {
        live(&steps, seed.into());
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Each kind of step in a row, with the keys looked at.
#[test]
fn derived_keys_are_nobody_elses_before_and_after_rekeys_and_moves() {
    mifsec_tests::covers!("R47", "R85");
    let mut pair = multi::pair(1);
    let mut sealed = Sealed::default();
    sealed.traffic(&pair);
    let keys = |pair: &Pair| -> BTreeSet<Vec<u8>> {
        let children = pair.ends[A].children.values();
        children
            .flat_map(|c| [c.key_in.clone(), c.key_out.clone()])
            .collect()
    };
    let negotiated = keys(&pair);
    let mut derived = BTreeSet::new();
    for _ in 0..3 {
        let command = add(&pair, A, ETH, GATEWAY);
        pair.command(A, command);
        pair.run(SECOND);
        assert_agreement(&pair);
        let new: Vec<_> = keys(&pair).difference(&negotiated).cloned().collect();
        assert_eq!(new.len(), 2, "one pair of SAs");
        for key in new {
            assert!(derived.insert(key), "the same key for the same interface");
        }
        sealed.traffic(&pair);
        let command = carry(&pair, A, mifsec::ike::End::Local, ETH, WLAN);
        pair.command(A, command);
        pair.run(SECOND);
        sealed.traffic(&pair);
        let command = delete(&pair, A, ETH);
        pair.command(A, command);
        pair.run(SECOND);
        assert_eq!(keys(&pair), negotiated);
    }
    // A move changes no key and starts no counter over; the set would say so.
    let before = keys(&pair);
    for (iface, by) in [(WLAN, RAN), (WLAN, WLAN), (RAN, WLAN), (RAN, RAN)] {
        let command = carry(&pair, A, mifsec::ike::End::Local, iface, by);
        pair.command(A, command);
        pair.run(SECOND);
        sealed.traffic(&pair);
    }
    assert_eq!(keys(&pair), before);
    let packets = 3 * sealed.sas.len();
    assert!(sealed.used.len() > packets, "counters went on");
}

/// Of two interfaces added one after the other nothing is alike but the templates.
#[test]
fn each_interface_added_has_keys_of_its_own() {
    mifsec_tests::covers!("R47");
    let mut pair = multi::pair(2);
    for remote in [GATEWAY, GATEWAY2] {
        let command = add(&pair, A, ETH, remote);
        pair.command(A, command);
        pair.run(SECOND);
    }
    let keys: BTreeSet<_> = pair.ends[A]
        .children
        .values()
        .flat_map(|child| [&child.key_in, &child.key_out])
        .collect();
    assert_eq!(keys.len(), 2 * pair.ends[A].children.len());
    let homes: BTreeSet<IfaceId> = pair.ends[A]
        .children
        .values()
        .map(|child| child.pair.local)
        .collect();
    assert_eq!(homes, [WLAN, RAN, ETH].into());
}
