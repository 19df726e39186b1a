//! One direction of a link: packets go in, and come out when they are due.

use std::collections::BTreeMap;
use std::time::Duration;

use mifsec::crypto::SeededEntropy;

use super::{Course, Fate, Impairments};

/// One direction with the packets on it.
pub struct Link<P> {
    course: Course,
    random: SeededEntropy,
    /// By time of arrival, then in the order they were sent.
    on_the_way: BTreeMap<(Duration, u64), OnTheWay<P>>,
    /// Packets put on the way, copies included.
    put: u64,
    /// One more than the newest that arrived.
    newest: u64,
    counters: Counters,
}

struct OnTheWay<P> {
    packet: P,
    number: u64,
    copy: bool,
}

/// What became of the packets of one direction. At any time `sent` and
/// `duplicated` are all the others but `reordered`, and what is still on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets put in.
    pub sent: u64,
    /// Packets taken out, copies included.
    pub arrived: u64,
    /// Octets of these.
    pub octets: u64,
    /// Lost on the way, in bursts or each for itself.
    pub lost: u64,
    /// The queue had no room.
    pub queue_dropped: u64,
    /// Longer than the MTU.
    pub too_long: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Arrived, not as a copy, after one that was sent later.
    pub reordered: u64,
    /// Thrown away by [`Link::clear`].
    pub cleared: u64,
}

impl<P: AsRef<[u8]> + Clone> Link<P> {
    /// An empty one. Everything it draws comes from `seed`.
    #[must_use]
    pub fn new(impairments: Impairments, seed: u64) -> Self {
        Self {
            course: Course::new(impairments),
            random: SeededEntropy::new(seed),
            on_the_way: BTreeMap::new(),
            put: 0,
            newest: 0,
            counters: Counters::default(),
        }
    }

    /// What it does to packets.
    #[must_use]
    pub fn impairments(&self) -> Impairments {
        self.course.impairments()
    }

    /// Changes that from the next packet on.
    pub fn set(&mut self, impairments: Impairments) {
        self.course.set(impairments);
    }

    /// Puts a packet in at `now`, which never goes back. The octets that count
    /// are those of [`AsRef`].
    pub fn send(&mut self, now: Duration, packet: P) -> Fate {
        let number = self.counters.sent;
        self.counters.sent += 1;
        let fate = self
            .course
            .send(now, packet.as_ref().len(), &mut self.random);
        match fate {
            Fate::Arrives { at, again } => {
                if let Some(again) = again {
                    self.counters.duplicated += 1;
                    self.put(at, packet.clone(), number, false);
                    self.put(again, packet, number, true);
                } else {
                    self.put(at, packet, number, false);
                }
            }
            Fate::Lost => self.counters.lost += 1,
            Fate::QueueFull => self.counters.queue_dropped += 1,
            Fate::TooLong => self.counters.too_long += 1,
        }
        fate
    }

    /// When the next packet is due.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.on_the_way.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next packet that is due at `now`, and since when.
    pub fn receive(&mut self, now: Duration) -> Option<(Duration, P)> {
        let next = self.on_the_way.first_entry()?;
        let (at, _) = *next.key();
        if at > now {
            return None;
        }
        let OnTheWay {
            packet,
            number,
            copy,
        } = next.remove();
        self.counters.arrived += 1;
        self.counters.octets += packet.as_ref().len() as u64;
        if !copy {
            self.counters.reordered += u64::from(number < self.newest);
            self.newest = self.newest.max(number + 1);
        }
        Some((at, packet))
    }

    /// Throws away what is on the way.
    pub fn clear(&mut self) {
        self.counters.cleared += self.on_the_way.len() as u64;
        self.on_the_way.clear();
    }

    /// Packets on the way.
    #[must_use]
    pub fn on_the_way(&self) -> usize {
        self.on_the_way.len()
    }

    /// What became of the packets so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn put(&mut self, at: Duration, packet: P, number: u64, copy: bool) {
        self.put += 1;
        let on_the_way = OnTheWay {
            packet,
            number,
            copy,
        };
        self.on_the_way.insert((at, self.put), on_the_way);
    }
}
