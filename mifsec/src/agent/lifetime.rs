//! How long the keys of a Child SA are used: octets, packets, sequence numbers.
//! Time is the engine's.
//!
//! Each limit is drawn once, at installation, with the configured jitter, so that
//! many SAs and both ends do not rekey at the same moment. What is reached first
//! counts, in either direction. The limits of the algorithms hold whatever the
//! configuration says: a sequence number never comes twice, and an AES key
//! encrypts at most 2^36 blocks, which keeps an attacker's advantage below 2^-57
//! (the figure of RFC 8446 5.5).
//!
//! A limit that is reached asks for new keys, again and again; the SA goes on
//! meanwhile. It is given up only at a limit of the algorithm, or just before the
//! last sequence number: what the configuration says is a wish, and no reason to
//! lose packets when the peer is slow with new keys.

use std::time::{Duration, Instant};

use crate::config::Rekey;
use crate::crypto::{AeadAlgorithm, Entropy};
use crate::esp::{InboundSa, OutboundSa};
use crate::ids::ChildId;
use crate::ike::Command;

use super::Agent;

/// Without extended sequence numbers 3/4 of all, and so far from the end that
/// nothing is given up before a new SA could be there.
const SEQUENCE: u64 = 3 << 30;
const SEQUENCE_END: u64 = (1 << 32) - (1 << 24);
/// With them: centuries away, and still far below 2^64.
const SEQUENCE_ESN: u64 = 1 << 48;
const SEQUENCE_ESN_END: u64 = 1 << 56;
/// Blocks of 16 octets under one AES key.
const BLOCKS: u64 = 1 << 36;
/// Header, trailer and counter block: what a packet costs beside its octets.
const BLOCKS_PER_PACKET: u64 = 3;
/// No SA is replaced for its octets or packets before this age: a limit of a
/// fraction of a second would be nothing but rekeying.
const LEAST_AGE: Duration = Duration::from_secs(1);
/// When the engine is asked again after it could not rekey.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// What one Child SA may be used for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lifetime {
    /// Beyond it new keys are asked for.
    pub(super) soft: Limit,
    /// Beyond it the SA is given up; never for what is configured.
    hard: Limit,
    /// When the engine was asked last.
    asked: Option<Instant>,
    /// When it may be replaced.
    from: Instant,
    given_up: bool,
}

/// `u64::MAX` where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) packets: u64,
    pub(super) octets: u64,
    /// Of either direction: the peer may not care for its own.
    sequence: u64,
    blocks: u64,
}

/// What it was used for so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Use {
    packets: u64,
    octets: u64,
    /// The last sequence number handed out or received.
    sequence: u64,
}

/// What follows from its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Rekey,
    Expire,
}

impl Lifetime {
    pub(super) fn new(
        rekey: &Rekey,
        algorithm: AeadAlgorithm,
        esn: bool,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Self {
        let off = rekey.jitter * f64::from(entropy.u32()) / f64::from(u32::MAX);
        let (packets, octets) = (
            rekey.packets.unwrap_or(u64::MAX),
            rekey.octets.unwrap_or(u64::MAX),
        );
        let (sequence, end) = if esn {
            (SEQUENCE_ESN, SEQUENCE_ESN_END)
        } else {
            (SEQUENCE, SEQUENCE_END)
        };
        // ChaCha20 has no such bound (RFC 8446 5.5).
        let blocks = match algorithm {
            AeadAlgorithm::ChaCha20Poly1305 => u64::MAX,
            _ => BLOCKS,
        };
        Self {
            soft: Limit {
                packets: less(packets, off),
                octets: less(octets, off),
                sequence: less(sequence, off),
                blocks: less(blocks / 4 * 3, off),
            },
            hard: Limit {
                packets: u64::MAX,
                octets: u64::MAX,
                sequence: end,
                blocks,
            },
            asked: None,
            from: now + LEAST_AGE.mul_f64(1.0 - off),
            given_up: false,
        }
    }

    /// What is to be done now; each answer once, the milder one again after a while.
    pub(super) fn check(&mut self, used: Use, now: Instant) -> Option<Verdict> {
        if self.given_up {
            return None;
        }
        if self.hard.reached(used) {
            self.given_up = true;
            return Some(Verdict::Expire);
        }
        let again = self.asked.is_none_or(|at| now >= at + ASK_AGAIN);
        if !again || now < self.from || !self.soft.reached(used) {
            return None;
        }
        self.asked = Some(now);
        Some(Verdict::Rekey)
    }
}

impl Limit {
    const fn reached(&self, used: Use) -> bool {
        let blocks =
            (used.octets / 16).saturating_add(used.packets.saturating_mul(BLOCKS_PER_PACKET));
        used.packets >= self.packets
            || used.octets >= self.octets
            || used.sequence >= self.sequence
            || blocks >= self.blocks
    }
}

impl Use {
    /// The busier direction counts: each has a key of its own. Numbers are the
    /// peer's to skip, and lost ones are not accepted; where they may run out,
    /// without ESN, the newest counts and the replay lock is worth it.
    pub(super) fn of(outbound: &OutboundSa, inbound: &InboundSa, esn: bool) -> Self {
        let sent = outbound.counters();
        let (packets, octets) = inbound.accepted();
        let received = if esn {
            packets
        } else {
            inbound.counters().newest
        };
        Self {
            packets: sent.packets.max(packets),
            octets: sent.octets.max(octets),
            sequence: sent.reserved.max(received),
        }
    }
}

/// `limit` less a share of it.
fn less(limit: u64, share: f64) -> u64 {
    if limit == u64::MAX {
        return limit;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share between 0 and 1/2 of a limit far below 2^64, of no exact size"
    )]
    let off = (limit as f64 * share) as u64;
    limit.saturating_sub(off).max(1)
}

impl Agent {
    /// Looks at what Child SAs were used for, and has those replaced that are used up.
    pub(super) fn check_lifetimes(&mut self, now: Instant) {
        let mut due: Vec<(ChildId, Verdict)> = Vec::new();
        for (id, child) in &mut self.children {
            if !child.sends {
                continue;
            }
            let used = Use::of(&child.outbound, &child.inbound, child.esn);
            if let Some(verdict) = child.lifetime.check(used, now) {
                due.push((*id, verdict));
            }
        }
        for (child, verdict) in due {
            let spi = self.children.get(&child).map(|c| c.inbound.spi());
            let command = match verdict {
                Verdict::Rekey => {
                    tracing::debug!(?spi, "Child SA reached its limit: new keys");
                    Command::RekeyChild { child }
                }
                Verdict::Expire => {
                    tracing::warn!(?spi, "Child SA is used up and has no successor: given up");
                    self.refuse("child_sa_expired");
                    Command::ExpireChild { child }
                }
            };
            self.ike.handle_command(command, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Secret, SeededEntropy};
    use crate::esp::SaParams;
    use crate::ids::Spi;

    const NEVER: Rekey = Rekey {
        time: None,
        octets: None,
        packets: None,
        jitter: 0.1,
    };

    fn lifetime(rekey: &Rekey, algorithm: AeadAlgorithm, esn: bool) -> Lifetime {
        let long_ago = Instant::now().checked_sub(2 * LEAST_AGE).unwrap();
        Lifetime::new(rekey, algorithm, esn, &mut SeededEntropy::new(7), long_ago)
    }

    fn at(packets: u64, octets: u64) -> Use {
        Use {
            packets,
            octets,
            sequence: packets,
        }
    }

    #[test]
    fn limits_are_drawn_within_the_jitter_and_differ() {
        let rekey = Rekey {
            packets: Some(1_000_000),
            ..NEVER
        };
        let mut entropy = SeededEntropy::new(1);
        let drawn: Vec<u64> = (0..64)
            .map(|_| {
                let gcm = AeadAlgorithm::Aes256Gcm16;
                let life = Lifetime::new(&rekey, gcm, true, &mut entropy, Instant::now());
                life.soft.packets
            })
            .collect();
        assert!(drawn.iter().all(|p| (900_000..=1_000_000).contains(p)));
        assert!(drawn.iter().any(|p| *p < 950_000) && drawn.iter().any(|p| *p > 950_000));
    }

    #[test]
    fn new_keys_are_asked_for_once_and_again_after_a_while() {
        let rekey = Rekey {
            octets: Some(1000),
            jitter: 0.0,
            ..NEVER
        };
        let (mut life, now) = (
            lifetime(&rekey, AeadAlgorithm::Aes256Gcm16, true),
            Instant::now(),
        );
        assert_eq!(life.check(at(10, 999), now), None);
        assert_eq!(life.check(at(10, 1000), now), Some(Verdict::Rekey));
        assert_eq!(life.check(at(10, 2000), now), None);
        let later = now + ASK_AGAIN;
        assert_eq!(life.check(at(10, 2000), later), Some(Verdict::Rekey));
    }

    #[test]
    fn a_configured_limit_far_exceeded_gives_nothing_up() {
        let rekey = Rekey {
            octets: Some(1000),
            packets: Some(1000),
            ..NEVER
        };
        let (gcm, mut now) = (AeadAlgorithm::Aes256Gcm16, Instant::now());
        let mut young = Lifetime::new(&rekey, gcm, true, &mut SeededEntropy::new(7), now);
        let far = at(1 << 30, 1 << 38);
        assert_eq!(young.check(far, now), None, "not even asked yet");
        for _ in 0..20 {
            now += ASK_AGAIN;
            assert_eq!(young.check(far, now), Some(Verdict::Rekey));
        }
    }

    #[test]
    fn a_limit_reached_at_once_does_not_make_it_rekey_all_the_time() {
        let rekey = Rekey {
            packets: Some(100),
            jitter: 0.0,
            ..NEVER
        };
        let now = Instant::now();
        let gcm = AeadAlgorithm::Aes256Gcm16;
        let mut life = Lifetime::new(&rekey, gcm, true, &mut SeededEntropy::new(7), now);
        assert_eq!(life.check(at(5000, 0), now), None);
        let later = now + LEAST_AGE;
        assert_eq!(life.check(at(5000, 0), later), Some(Verdict::Rekey));
    }

    #[test]
    fn without_esn_keys_are_replaced_at_three_quarters_even_if_never_is_configured() {
        let mut life = lifetime(&NEVER, AeadAlgorithm::ChaCha20Poly1305, false);
        let now = Instant::now();
        assert_eq!(life.check(at(2 << 30, 0), now), None);
        assert_eq!(life.check(at(3 << 30, 0), now), Some(Verdict::Rekey));
        let last = at(SEQUENCE_END, 0);
        assert_eq!(life.check(last, now), Some(Verdict::Expire));
        let later = now + ASK_AGAIN;
        assert_eq!(life.check(last, later), None, "once");
        assert!(SEQUENCE_END < u64::from(u32::MAX), "before the numbers end");
    }

    #[test]
    fn without_esn_the_numbers_of_a_peer_that_only_sends_run_out_too() {
        let algorithm = AeadAlgorithm::ChaCha20Poly1305;
        let keymat = Secret::new(vec![1; algorithm.keymat_len()]);
        let params = SaParams {
            spi: Spi(0x1000),
            algorithm,
            keymat: &keymat,
            esn: false,
            replay_window: 64,
        };
        let (outbound, inbound) = (
            OutboundSa::new(&params).unwrap(),
            InboundSa::new(&params).unwrap(),
        );
        let mut packet = vec![0; outbound.sealed_len(0)];
        outbound.seal(SEQUENCE, 59, 0, &mut packet);
        inbound.open(&mut packet).unwrap();
        let used = Use::of(&outbound, &inbound, false);
        let mut life = lifetime(&NEVER, algorithm, false);
        assert_eq!(life.check(used, Instant::now()), Some(Verdict::Rekey));
    }

    #[test]
    fn with_esn_the_sequence_is_no_limit_but_an_aes_key_has_one() {
        let now = Instant::now();
        let mut chacha = lifetime(&NEVER, AeadAlgorithm::ChaCha20Poly1305, true);
        assert_eq!(chacha.check(at(1 << 34, 1 << 45), now), None);
        for octets in [true, false] {
            let mut gcm = lifetime(&NEVER, AeadAlgorithm::Aes128Gcm16, true);
            let of = |blocks: u64| {
                if octets {
                    at(0, blocks * 16)
                } else {
                    at(blocks / BLOCKS_PER_PACKET + 1, 0)
                }
            };
            assert_eq!(gcm.check(of(BLOCKS / 2), now), None);
            assert_eq!(gcm.check(of(BLOCKS / 4 * 3), now), Some(Verdict::Rekey));
            assert_eq!(gcm.check(of(BLOCKS), now), Some(Verdict::Expire));
        }
    }
}
