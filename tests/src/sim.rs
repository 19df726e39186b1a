//! Two IKE engines on a virtual network in virtual time: no sockets, no root,
//! thousands of handshakes a second.
//!
//! [`Pair::step`] advances to the earliest deadline of an engine or arrival of a
//! datagram. Links lose, duplicate, reorder, cut at an MTU and may translate
//! addresses; all of it is drawn from one seed. After every input both ends are
//! drained and what must always hold is checked ([`end`]). Exchanges can be led
//! message by message ([`script`]); a failed test prints its seed and the whole
//! exchange in words ([`trace`]).

pub mod end;
pub mod link;
pub mod multi;
pub mod script;
pub mod sending;
pub mod services;
pub mod setup;
pub mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mifsec::crypto::SeededEntropy;
use mifsec::ids::Arrival;
use mifsec::ike::message::{ExchangeType, Payload};
use mifsec::ike::{Command, Engine, IkeState, Transmit};

use crate::emul::{Course, Fate, Impairments};

pub use end::{End, Installed};
pub use link::{Link, Nat};
pub use script::Held;
pub use trace::Trace;

/// Steps at one instant after which there must be a timer loop.
const MAX_STEPS_AT_ONCE: u32 = 10_000;

/// Index of the end user.
pub const A: usize = 0;
/// Index of the gateway.
pub const B: usize = 1;

/// Two engines and what is between them.
pub struct Pair {
    /// The time.
    pub now: Instant,
    /// When it began.
    pub start: Instant,
    /// Both ends, [`A`] and [`B`].
    pub ends: [End; 2],
    /// What leaves `A`, what leaves `B`.
    pub links: [Link; 2],
    /// Translates A's addresses.
    pub nat: Option<Nat>,
    /// Addresses nothing reaches or leaves.
    pub dead: BTreeSet<IpAddr>,
    /// Every datagram that was put on a link: when, by whom, what.
    pub log: Vec<(Instant, usize, Transmit)>,
    /// Both ways: nothing arrives.
    pub partition: bool,
    /// Ends that do not run: nothing reaches them and none of their timers goes off.
    pub asleep: [bool; 2],
    /// The exchange in words.
    pub trace: Trace,
    /// Set while a script decides about each datagram.
    held: Option<Vec<Held>>,
    in_flight: BTreeMap<(Instant, u64), (usize, Arrival, Vec<u8>)>,
    next: u64,
    courses: [Course; 2],
    random: SeededEntropy,
    steps_at_once: u32,
}

impl Pair {
    /// Two engines on perfect links of 10 ms.
    #[must_use]
    pub fn new(a: Engine, b: Engine, seed: u64) -> Self {
        let start = Instant::now();
        Self {
            now: start,
            start,
            ends: [End::new(a), End::new(b)],
            links: [Link::default(); 2],
            nat: None,
            dead: BTreeSet::new(),
            log: Vec::new(),
            partition: false,
            asleep: [false; 2],
            trace: Trace::new(seed, start),
            held: None,
            in_flight: BTreeMap::new(),
            next: 0,
            courses: [(); 2].map(|()| Course::new(Impairments::default())),
            random: SeededEntropy::new(seed),
            steps_at_once: 0,
        }
    }

    /// The end user's.
    pub fn a(&mut self) -> &mut End {
        &mut self.ends[A]
    }

    /// The gateway's.
    pub fn b(&mut self) -> &mut End {
        &mut self.ends[B]
    }

    /// Gives one engine a command and sends what comes of it.
    pub fn command(&mut self, who: usize, command: Command) {
        let said = format!("{command:?}");
        let name = said.split([' ', '{', '(']).next().unwrap_or_default();
        let line = format!("{} does {name}", ["A", "B"][who]);
        self.trace.note(self.now, line);
        self.ends[who].engine.handle_command(command, self.now);
        self.drain(who);
    }

    /// Hands one engine a datagram as if it had just arrived.
    pub fn inject(&mut self, who: usize, arrival: Arrival, bytes: &[u8]) {
        self.ends[who]
            .engine
            .handle_datagram(arrival, bytes, self.now);
        self.drain(who);
    }

    /// Sends what an end that keeps no rule could: sealed under the keys of its
    /// first IKE SA, as its next request unless `message_id` is given.
    pub fn forge(
        &mut self,
        who: usize,
        exchange: ExchangeType,
        message_id: Option<u32>,
        response: bool,
        payloads: &[Payload],
    ) {
        let end = &mut self.ends[who];
        let first = end.engine.views().into_iter().next();
        let Some(view) = first.filter(|view| view.state == IkeState::Established) else {
            return;
        };
        let bytes = end
            .engine
            .forge(view.ike, exchange, message_id, response, payloads);
        let Some(payload) = bytes else {
            return;
        };
        if !response && message_id.is_none() {
            end.requested(&payload);
        }
        let transmit = Transmit {
            ifindex: view.channel.ifindex,
            local: view.channel.local,
            remote: view.channel.remote,
            payload,
        };
        self.log.push((self.now, who, transmit.clone()));
        self.send(who, transmit);
    }

    /// Advances to the next thing that happens, if it does so before `until`.
    pub fn step(&mut self, until: Instant) -> bool {
        let arrival = self.in_flight.first_key_value().map(|((at, _), _)| *at);
        let timer = self
            .ends
            .iter()
            .zip(self.asleep)
            .filter(|(_, asleep)| !asleep)
            .filter_map(|(end, _)| end.engine.poll_timeout())
            .map(|(at, _)| at)
            .min();
        let Some(next) = arrival
            .into_iter()
            .chain(timer)
            .min()
            .filter(|at| *at <= until)
        else {
            self.now = until;
            return false;
        };
        if next > self.now {
            self.now = next;
            self.steps_at_once = 0;
        }
        self.steps_at_once += 1;
        assert!(self.steps_at_once < MAX_STEPS_AT_ONCE, "timer loop");
        if arrival.is_some_and(|at| at <= self.now) {
            if let Some((_, (to, arrival, bytes))) = self.in_flight.pop_first()
                && !self.asleep[to]
            {
                self.inject(to, arrival, &bytes);
            }
        } else {
            for who in [A, B] {
                if self.asleep[who] {
                    continue;
                }
                let due = self.ends[who].engine.poll_timeout();
                if due.is_some_and(|(at, _)| at <= self.now) {
                    self.ends[who].engine.handle_timeout(self.now);
                    self.drain(who);
                    let next = self.ends[who].engine.poll_timeout();
                    assert!(
                        next.is_none_or(|(at, _)| at > self.now),
                        "the deadline did not advance: {next:?}"
                    );
                }
            }
        }
        true
    }

    /// Lets `time` pass.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
    }

    /// Lets time pass until `done` or `limit` is over; whether it was done.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + limit;
        while !done(self) {
            if !self.step(until) {
                return done(self);
            }
        }
        true
    }

    /// Throws away what is on the links.
    pub fn lose_all(&mut self) {
        self.in_flight.clear();
    }

    /// Datagrams on the links.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn drain(&mut self, who: usize) {
        for transmit in self.ends[who].drain(self.now) {
            self.log.push((self.now, who, transmit.clone()));
            self.send(who, transmit);
        }
    }

    /// Puts a datagram on the link of `who`.
    pub fn send(&mut self, who: usize, transmit: Transmit) {
        let engines = [&self.ends[A].engine, &self.ends[B].engine];
        let says = trace::describe(engines, &transmit.payload);
        let arrow = ["A -> B", "A <- B"][who];
        if let Some(held) = &mut self.held {
            self.trace.note(self.now, format!("{arrow}  held: {says}"));
            let from = who;
            return held.push(Held {
                from,
                says,
                transmit,
            });
        }
        let pair = format!("{} > {}", transmit.local, transmit.remote);
        let fate = self.travel(who, transmit);
        let line = format!("{arrow}  {says}  {pair}{fate}");
        self.trace.note(self.now, line);
    }

    /// What becomes of a datagram, for the trace.
    fn travel(&mut self, who: usize, transmit: Transmit) -> &'static str {
        let to = 1 - who;
        let Transmit {
            mut local,
            mut remote,
            payload,
            ..
        } = transmit;
        if self.partition {
            return "  (partition)";
        }
        if self.dead.contains(&local.ip()) {
            return "  (from a dead address)";
        }
        if let Some(nat) = &mut self.nat {
            if who == A {
                local = nat.outbound(local, remote);
            } else {
                let Some(inside) = nat.inbound(remote, local) else {
                    return "  (no mapping)";
                };
                remote = inside;
            }
        }
        if self.dead.contains(&remote.ip()) {
            return "  (to a dead address)";
        }
        let course = &mut self.courses[who];
        course.set(self.links[who].into());
        let sent = self.now - self.start;
        let (at, again) = match course.send(sent, payload.len(), &mut self.random) {
            Fate::Arrives { at, again } => (at, again),
            Fate::Lost => return "  (lost)",
            Fate::QueueFull => return "  (no room)",
            Fate::TooLong => return "  (too long)",
        };
        let arrival = Arrival {
            ifindex: setup::ifindex(remote.ip()),
            local: remote,
            remote: local,
        };
        for at in [Some(at), again].into_iter().flatten() {
            self.next += 1;
            self.in_flight
                .insert((self.start + at, self.next), (to, arrival, payload.clone()));
        }
        if again.is_some() { "  (twice)" } else { "" }
    }
}

/// An address for tests.
///
/// # Panics
/// When `text` is none.
#[must_use]
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// An address with port for tests.
///
/// # Panics
/// When `text` is none.
#[must_use]
pub fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address with port")
}
