//! What a direction of a link does to packets.

use std::time::Duration;

/// One direction; the default does nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Impairments {
    /// Time from one end to the other.
    pub delay: Duration,
    /// What is added to it, drawn for each packet.
    pub jitter: Jitter,
    /// No packet arrives before one that was sent earlier, whatever the jitter
    /// and changes of the delay; but for [`Self::reordering`].
    pub keep_order: bool,
    /// Probability that a packet is lost, each for itself.
    pub loss: f64,
    /// Loss that comes in bursts, besides.
    pub bursts: Option<Bursts>,
    /// Packets that are held back so that others overtake them.
    pub reordering: Option<Reordering>,
    /// Probability that a packet arrives twice. The copy is made behind the
    /// queue: it takes nothing of the rate.
    pub duplicate: f64,
    /// Octets per time, and how much waits for them.
    pub rate: Option<Rate>,
    /// Longer packets, in octets, are dropped without a word.
    pub mtu: usize,
}

impl Default for Impairments {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Jitter::None,
            keep_order: true,
            loss: 0.0,
            bursts: None,
            reordering: None,
            duplicate: 0.0,
            rate: None,
            mtu: usize::MAX,
        }
    }
}

impl Impairments {
    /// A link that only takes its time.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    /// A link that only loses.
    #[must_use]
    pub fn loss(loss: f64) -> Self {
        Self {
            loss,
            ..Self::default()
        }
    }

    /// A link on which nothing arrives any more, and nobody is told.
    #[must_use]
    pub fn dead() -> Self {
        Self::loss(1.0)
    }
}

/// Additional delay of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// None.
    None,
    /// Anything up to this, all equally likely.
    Uniform(Duration),
    /// Normally distributed around the delay with this standard deviation, cut
    /// at three of them; never less than no delay.
    Normal(Duration),
}

/// The Gilbert-Elliott model: a good and a bad state, changed per packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bursts {
    /// Probability that the bad state begins after a packet.
    pub enter: f64,
    /// Probability that it ends after a packet.
    pub leave: f64,
    /// Loss in the good state.
    pub good_loss: f64,
    /// Loss in the bad state.
    pub bad_loss: f64,
}

impl Bursts {
    /// Everything is lost in bursts of `length` packets on average (from 1), in
    /// all the part `loss` (below 1) of the packets.
    #[must_use]
    pub fn of(loss: f64, length: f64) -> Self {
        let leave = length.max(1.0).recip();
        Self {
            enter: (leave * loss / (1.0 - loss)).min(1.0),
            leave,
            good_loss: 0.0,
            bad_loss: 1.0,
        }
    }
}

/// Packets that are held back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reordering {
    /// Probability that a packet is.
    pub probability: f64,
    /// For how long, after it would have arrived.
    pub by: Duration,
}

/// A token bucket and the queue before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bits per second, at least 1.
    pub bits: u64,
    /// Octets that may pass at once after a pause. With 0 every packet takes
    /// the time its octets need.
    pub burst: usize,
    /// The most that waits; what comes then is dropped.
    pub queue: Queue,
}

/// A bound on what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// In octets, the new packet included.
    Octets(usize),
    /// In time until the new packet's turn.
    Time(Duration),
}

impl Rate {
    /// Megabits per second without bursts and with a queue of `queue`.
    #[must_use]
    pub const fn megabits(megabits: u64, queue: Duration) -> Self {
        Self {
            bits: megabits * 1_000_000,
            burst: 0,
            queue: Queue::Time(queue),
        }
    }

    /// Time that `octets` take, rounded up.
    #[must_use]
    pub fn time_of(&self, octets: usize) -> Duration {
        let bits = octets as u128 * 8 * 1_000_000_000;
        let nanos = bits.div_ceil(self.bits.max(1).into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Octets that pass in `time`.
    #[must_use]
    pub fn octets_in(&self, time: Duration) -> usize {
        let octets = time.as_nanos() * u128::from(self.bits) / 8_000_000_000;
        usize::try_from(octets).unwrap_or(usize::MAX)
    }
}
