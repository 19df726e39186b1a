//! Which pair of addresses a path should use, trying it, and changing over.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Active, MAX_LOCALS, Pair, Path};
use crate::path::output::Output;
use crate::path::probe::{Probe, ProbeKind};
use crate::path::timing::{CHALLENGE_FIRST, FAILED_PAUSE, FAILED_PAUSE_HOME};
use crate::path::types::{Event, Transmit, TransmitKind, Validation};

impl Path {
    /// Sees that the pair the path should be using is in use or being tried:
    /// our best address with the address the peer wants or, while the path is
    /// down, everything that might work.
    pub(super) fn propose(&mut self, out: &mut Output, now: Instant) {
        if !self.probes || !self.remote_usable {
            return;
        }
        let active = self.active.filter(|_| self.up).map(Active::pair);
        let locals = self.local.usable_addresses();
        let wanted: Vec<Pair> = match (active, locals.first()) {
            (Some(active), Some(local)) => self
                .candidates
                .wanted(Some(active.1))
                .map(|remote| (*local, remote))
                .into_iter()
                .filter(|pair| *pair != active)
                .collect(),
            _ => locals
                .iter()
                .take(MAX_LOCALS)
                .flat_map(|local| self.candidates.remotes.keys().map(|r| (*local, *r)))
                // A dead pair is the business of its liveness.
                .filter(|pair| self.active.map(Active::pair) != Some(*pair))
                .collect(),
        };
        for pair in &wanted {
            let candidate = self.candidates.pair(*pair, now);
            if candidate.state == Validation::Validated && !candidate.is_fresh(now) {
                candidate.restart(now);
            }
        }
        // What is neither wanted nor on its way is not tried again.
        self.candidates.pairs.retain(|pair, candidate| {
            wanted.contains(pair)
                || matches!(
                    candidate.state,
                    Validation::Validating | Validation::Unvalidated
                )
                || candidate.is_fresh(now)
        });
        self.choose(out, now);
        self.challenge_due(out, now);
    }

    /// Uses the best validated pair.
    pub(super) fn choose(&mut self, out: &mut Output, now: Instant) {
        let active = self.active.filter(|_| self.up).map(Active::pair);
        let best = self
            .candidates
            .best(self.local.usable_addresses(), active, now);
        if let Some(best) = best.filter(|best| Some(*best) != active)
            && self.remote_usable
        {
            self.flip(best, out, now);
        }
    }

    fn flip(&mut self, pair: Pair, out: &mut Output, now: Instant) {
        let Some(candidate) = self.candidates.pairs.remove(&pair) else {
            return;
        };
        let local = SocketAddr::new(pair.0, self.port);
        let old = self.active.replace(Active {
            local,
            remote: pair.1,
            nat: candidate.nat,
        });
        let arrival = self.arrival(local, pair.1);
        if let Some(old) = old.filter(|old| old.pair() != pair) {
            let gone = self.arrival(old.local, old.remote);
            self.outdate(gone, out, now);
        }
        self.old_arrivals.retain(|(_, old)| *old != arrival);
        out.claim(arrival, self.index);
        self.live
            .start(candidate.rtt, candidate.heard, now + CHALLENGE_FIRST, now);
        self.live.watch(self.watched, now);
        self.last_tx = Some(now);
        self.validated = true;
        if self.up {
            self.write_entry(out);
        } else {
            self.set_up(out);
        }
        if let Some(old) = old.filter(|old| old.local.ip() != pair.0) {
            out.event(Event::LocalMoved {
                ike: self.key.ike,
                pair: self.key.pair,
                old: old.local.ip(),
                new: pair.0,
                behind_nat: candidate.nat,
            });
        }
    }

    pub(super) fn challenge_due(&mut self, out: &mut Output, now: Instant) {
        let first = self
            .live
            .rtt()
            .smoothed()
            .map_or(CHALLENGE_FIRST, |_| self.live.answer_timeout())
            .max(CHALLENGE_FIRST);
        let pause = if self.watched || self.active.is_some() {
            FAILED_PAUSE_HOME
        } else {
            FAILED_PAUSE
        };
        let due: Vec<Pair> = self
            .candidates
            .pairs
            .iter()
            .filter(|(_, candidate)| candidate.next_at.is_some_and(|at| at <= now))
            .map(|(pair, _)| *pair)
            .collect();
        for pair in due {
            if !self.candidates.remotes.contains_key(&pair.1) {
                self.candidates.pairs.remove(&pair);
                continue;
            }
            let may = self.may_send(pair.1, out, now);
            let Some(candidate) = self.candidates.pairs.get_mut(&pair) else {
                continue;
            };
            let gap = candidate.attempt(first, pause);
            candidate.next_at = Some(now + gap);
            if !may {
                out.count("path_amplification_bound");
                continue;
            }
            let token = out.entropy.u64();
            candidate.challenged(token, now);
            self.send_challenge(SocketAddr::new(pair.0, self.port), pair.1, token, out, now);
        }
    }

    pub(super) fn probe_active(&mut self, out: &mut Output, now: Instant) {
        let Some(active) = self.active else {
            return;
        };
        let (token, jitter) = (out.entropy.u64(), out.entropy.u32());
        self.live.probed(token, jitter, now);
        self.last_tx = Some(now);
        self.send_challenge(active.local, active.remote, token, out, now);
    }

    fn send_challenge(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
        token: u64,
        out: &mut Output,
        now: Instant,
    ) {
        let probe = Probe {
            kind: ProbeKind::Challenge,
            path: self.path_id(),
            token,
            sent_us: out.clock_us(now),
            echo_us: 0,
            observed: local,
            behind_nat: self
                .active
                .is_some_and(|active| active.nat && active.local == local),
        };
        out.transmits.push_back(Transmit {
            ike: self.key.ike,
            path: self.index,
            ifindex: self.local.ifindex,
            local,
            remote,
            kind: TransmitKind::Probe(probe.encode()),
        });
    }
}
