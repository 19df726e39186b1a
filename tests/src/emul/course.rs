//! What becomes of each packet of one direction, and when.
//!
//! A packet that is too long is dropped first. It waits in the queue for its
//! turn or finds no room; behind the queue it may be lost, doubled, delayed and
//! held back. Nothing is drawn for what is not configured.

use std::time::Duration;

use mifsec::crypto::{Entropy as _, SeededEntropy};

use super::impairments::{Impairments, Jitter, Queue, Rate};

/// The state of one direction.
#[derive(Debug, Clone)]
pub struct Course {
    impairments: Impairments,
    /// The bad state of the bursts.
    bad: bool,
    /// When the bucket is full again if nothing comes.
    full_at: Duration,
    /// Nothing that keeps its place arrives before this.
    last: Duration,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Arrives {
        /// When.
        at: Duration,
        /// When its copy does, not before it.
        again: Option<Duration>,
    },
    /// It is lost on the way.
    Lost,
    /// There was no room in the queue.
    QueueFull,
    /// It is longer than the MTU.
    TooLong,
}

impl Course {
    /// A direction on which nothing has been sent.
    #[must_use]
    pub fn new(impairments: Impairments) -> Self {
        Self {
            impairments,
            bad: false,
            full_at: Duration::ZERO,
            last: Duration::ZERO,
        }
    }

    /// What it does to packets.
    #[must_use]
    pub fn impairments(&self) -> Impairments {
        self.impairments
    }

    /// Changes that from the next packet on. What waits for the rate keeps the
    /// time it takes.
    pub fn set(&mut self, impairments: Impairments) {
        self.impairments = impairments;
    }

    /// Sends a packet of `octets` at `now`, which never goes back.
    pub fn send(&mut self, now: Duration, octets: usize, random: &mut SeededEntropy) -> Fate {
        let impairments = self.impairments;
        if octets > impairments.mtu {
            return Fate::TooLong;
        }
        let Some(leaves) = self.leave_queue(now, octets, impairments.rate) else {
            return Fate::QueueFull;
        };
        let burst = self.lost_in_burst(random);
        if chance(impairments.loss, random) || burst {
            return Fate::Lost;
        }
        let twice = chance(impairments.duplicate, random);
        let at = self.arrival(leaves, random);
        if !twice {
            return Fate::Arrives { at, again: None };
        }
        let other = self.arrival(leaves, random);
        Fate::Arrives {
            at: at.min(other),
            again: Some(at.max(other)),
        }
    }

    /// When the last octet has left; `None` if there is no room to wait.
    fn leave_queue(
        &mut self,
        now: Duration,
        octets: usize,
        rate: Option<Rate>,
    ) -> Option<Duration> {
        let Some(rate) = rate else {
            return Some(now);
        };
        let depth = rate.time_of(rate.burst);
        let waiting = self.full_at.saturating_sub(now + depth);
        let full = match rate.queue {
            Queue::Octets(most) => rate.octets_in(waiting).saturating_add(octets) > most,
            Queue::Time(most) => waiting > most,
        };
        // The packet that is being sent does not wait.
        if full && !waiting.is_zero() {
            return None;
        }
        self.full_at = self.full_at.max(now) + rate.time_of(octets);
        Some(self.full_at.saturating_sub(depth).max(now))
    }

    fn lost_in_burst(&mut self, random: &mut SeededEntropy) -> bool {
        let Some(bursts) = self.impairments.bursts else {
            self.bad = false;
            return false;
        };
        let (loss, change) = if self.bad {
            (bursts.bad_loss, bursts.leave)
        } else {
            (bursts.good_loss, bursts.enter)
        };
        let lost = chance(loss, random);
        self.bad ^= chance(change, random);
        lost
    }

    fn arrival(&mut self, leaves: Duration, random: &mut SeededEntropy) -> Duration {
        let Impairments {
            delay,
            jitter,
            keep_order,
            reordering,
            ..
        } = self.impairments;
        let mut at = leaves
            + match jitter {
                Jitter::None => delay,
                Jitter::Uniform(most) if most.is_zero() => delay,
                Jitter::Uniform(most) => delay + most.mul_f64(unit(random)),
                Jitter::Normal(deviation) => {
                    let off = normal(random);
                    let by = deviation.mul_f64(off.abs());
                    if off < 0.0 {
                        delay.saturating_sub(by)
                    } else {
                        delay + by
                    }
                }
            };
        if keep_order {
            at = at.max(self.last);
        }
        if let Some(reordering) = reordering
            && chance(reordering.probability, random)
        {
            return at + reordering.by;
        }
        self.last = self.last.max(at);
        at
    }
}

fn chance(probability: f64, random: &mut SeededEntropy) -> bool {
    probability > 0.0 && unit(random) < probability
}

/// From 0 to below 1.
fn unit(random: &mut SeededEntropy) -> f64 {
    f64::from(random.u32()) / (f64::from(u32::MAX) + 1.0)
}

/// Standard normal, cut at 3 (Box and Muller).
fn normal(random: &mut SeededEntropy) -> f64 {
    let (radius, angle) = (1.0 - unit(random), unit(random));
    let value = (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
    value.clamp(-3.0, 3.0)
}
