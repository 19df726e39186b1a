//! What a step found, and whether that is as it must be.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{LEAST_DATAGRAMS, RESUME, STEADY, Scenario};
use crate::lab::agents::Sas;
use crate::lab::capture::Seen;
use crate::lab::load::Outcome;
use crate::lab::report::Step;
use crate::lab::tcp::TcpOutcome;

/// What a step is meant to do to the Child SAs of each end; the others stay.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Meant {
    /// Pairs that are new.
    pub(super) new: usize,
    /// Pairs that are gone.
    pub(super) gone: usize,
}

/// Collects what a step found.
#[derive(Debug)]
pub struct Judge {
    step: Step,
    facts: Vec<String>,
    pub(super) problems: Vec<String>,
    pub(super) certain: bool,
    pub(super) stood_still: Option<Duration>,
}

impl Judge {
    pub(super) fn new(scenario: Scenario) -> Self {
        Self {
            step: Step {
                name: format!("{:<2} {}", scenario.key, scenario.title),
                ok: false,
                sent: 0,
                lost: 0,
                duplicated: 0,
                switch_ms: 0.0,
                sas_recreated: 0,
                detail: String::new(),
                problems: Vec::new(),
            },
            facts: Vec::new(),
            problems: Vec::new(),
            certain: false,
            stood_still: None,
        }
    }

    pub(super) fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        self.certain |= !holds;
        self.require_in_time(holds, otherwise);
    }

    /// What fails also when the sender stands still.
    pub(super) fn require_in_time(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(otherwise());
        }
    }

    /// The senders kept their pace, else the times of the step mean nothing.
    pub(super) fn steady(&mut self, outcome: &Outcome) {
        let pause = outcome.longest_pause();
        if pause > STEADY {
            self.stood_still = Some(pause);
        }
        self.require_in_time(pause <= STEADY, || {
            format!("a sender stood still for {} ms", pause.as_millis())
        });
    }

    pub(super) fn fact(&mut self, fact: impl Into<String>) {
        self.facts.push(fact.into());
    }

    pub(super) fn count(&mut self, outcome: &Outcome) {
        self.step.sent += outcome.sent();
        self.step.lost += outcome.lost();
        self.step.duplicated += outcome.duplicated();
        let strange = outcome.up.strange() + outcome.down.strange();
        self.require(strange == 0, || {
            format!("{strange} datagrams arrived that were never sent")
        });
        let duplicated = outcome.duplicated();
        self.require(duplicated == 0, || {
            format!("{duplicated} datagrams arrived twice")
        });
    }

    /// SPIs and keys of both ends, SPIs on the router, replay drops.
    pub(super) fn unchanged(&mut self, before: &Sas, after: &Sas, history: &Seen, seen: &Seen) {
        self.unchanged_but(before, after, history, seen, Meant::default());
    }

    /// The same, apart from what the step is about.
    pub(super) fn unchanged_but(
        &mut self,
        before: &Sas,
        after: &Sas,
        history: &Seen,
        seen: &Seen,
        meant: Meant,
    ) {
        let mut known: BTreeSet<u32> = &before.spis() | &history.spis();
        let changes = after.changes_since(before);
        if meant.new > 0 {
            known.extend(changes.iter().flat_map(|end| end.new_spis()));
        }
        let foreign = seen.spis().difference(&known).count();
        let changed: usize = changes
            .iter()
            .map(|end| end.new.len().abs_diff(meant.new) + end.gone.len().abs_diff(meant.gone))
            .sum();
        self.step.sas_recreated = u64::try_from(changed.max(foreign)).unwrap_or(u64::MAX);
        self.require(changed == 0, || {
            let [eu, gw] = &changes;
            format!(
                "SAs new {} and gone {} at the end user, new {} and gone {} at the gateway; \
                 meant: new {} and gone {}",
                eu.new.len(),
                eu.gone.len(),
                gw.new.len(),
                gw.gone.len(),
                meant.new,
                meant.gone
            )
        });
        self.require(foreign == 0, || {
            format!("the router saw {foreign} new SPIs")
        });
        self.require(before.matching() > 0, || {
            "no SA is the same at both ends".into()
        });
        let replayed = after.replay_drops.saturating_sub(before.replay_drops);
        self.require(replayed == 0, || {
            format!("{replayed} packets dropped as replayed")
        });
    }

    pub(super) fn switched(&mut self, up: Duration, down: Duration) {
        let longest = up.max(down);
        self.step.switch_ms = longest.as_secs_f64() * 1000.0;
        self.require_in_time(longest <= RESUME, || {
            format!(
                "silent for {} ms up, {} ms down",
                up.as_millis(),
                down.as_millis()
            )
        });
    }

    pub(super) fn tcp_moves(&mut self, tcp: Option<&TcpOutcome>, from: u64) {
        let Some(tcp) = tcp else {
            self.require(false, || "there was no TCP flow".into());
            return;
        };
        let octets = tcp.octets_since(from);
        let stall = tcp.longest_stall(from);
        self.require(octets > 0, || "TCP moved nothing".into());
        self.require_in_time(stall < Duration::from_secs(1), || {
            format!(
                "TCP moved {octets} octets and stood still for {} ms",
                stall.as_millis()
            )
        });
        self.fact(format!("TCP stall {} ms", stall.as_millis()));
    }

    pub(super) fn finish(mut self) -> Step {
        let sent = self.step.sent;
        self.require_in_time(sent >= LEAST_DATAGRAMS, || {
            format!("only {sent} datagrams, at least {LEAST_DATAGRAMS} are needed")
        });
        self.step.ok = self.problems.is_empty();
        let mut detail = self.problems.clone();
        detail.extend(self.facts);
        self.step.detail = detail.join("; ");
        self.step.problems = self.problems;
        self.step
    }
}

#[cfg(test)]
mod tests {
    use super::super::ALL;
    use super::*;
    use crate::lab::load::Direction;

    /// Sent every millisecond, with one pause; everything arrives at once.
    fn outcome(pause_ms: u64) -> Outcome {
        let direction = || {
            let at = |n: u64| (n + if n > 50 { pause_ms } else { 0 }) * 1_000_000;
            let received: Vec<_> = (0..100u32).map(|n| (n, at(n.into()))).collect();
            Direction::new((0..100).map(at).collect(), &received, 1)
        };
        Outcome {
            up: direction(),
            down: direction(),
        }
    }

    #[test]
    fn a_sender_that_stood_still_fails_the_step_and_excuses_silence_only() {
        let mut judge = Judge::new(ALL[0]);
        judge.steady(&outcome(400));
        judge.switched(Duration::from_millis(400), Duration::ZERO);
        assert_eq!(judge.problems.len(), 2);
        assert!(judge.stood_still.is_some() && !judge.certain);
        judge.require(false, || "lost".into());
        assert!(judge.certain);
    }

    #[test]
    fn a_steady_sender_excuses_nothing() {
        let mut judge = Judge::new(ALL[0]);
        judge.steady(&outcome(50));
        assert!(judge.problems.is_empty() && judge.stood_still.is_none());
    }
}
