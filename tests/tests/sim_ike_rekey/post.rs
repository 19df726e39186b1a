//! Delivering messages by hand, and what must hold in between.

use std::time::Duration;

use mifsec::ids::{Arrival, ChildId};
use mifsec::ike::message::{Delete, ExchangeType, NotifyType, Payload, Protocol};
use mifsec::ike::{Command, IkeState, Transmit};
use mifsec_tests::sim::setup::{self, assert_agreement, established};
use mifsec_tests::sim::{A, B, Pair};

pub const SECOND: Duration = Duration::from_secs(1);

/// The usual two with one Child SA. Nothing is delivered but by hand until
/// [`Post::open`].
pub struct Post {
    pub pair: Pair,
    /// Entries of the log that were taken.
    taken: usize,
}

/// Everything a message may be in a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// A request to rekey a Child SA.
    RekeyChild,
    /// A request to rekey the IKE SA.
    RekeyIke,
    /// A request for a further Child SA.
    Create,
    /// A Child SA or an IKE SA was made.
    Made,
    /// A Delete of Child SAs, or an answer with one.
    DeletesChild,
    /// A Delete of the IKE SA.
    DeletesIke,
    /// An error.
    Error(NotifyType),
    /// Anything else, empty answers among it.
    Other,
}

impl Post {
    pub fn new(seed: u64) -> Self {
        Self::of(established(setup::user(), setup::gateway(), seed))
    }

    pub fn of(mut pair: Pair) -> Self {
        for link in &mut pair.links {
            link.loss = 1.0;
        }
        let taken = pair.log.len();
        Self { pair, taken }
    }

    /// What `who` sent since the last call: one message.
    pub fn sent(&mut self, who: usize) -> Transmit {
        let new: Vec<_> = self.pair.log[self.taken..]
            .iter()
            .filter(|(_, by, _)| *by == who)
            .map(|(_, _, transmit)| transmit.clone())
            .collect();
        assert_eq!(new.len(), 1, "one message");
        self.taken = self.pair.log.len();
        new[0].clone()
    }

    /// Nothing was sent since.
    pub fn nothing_sent(&self) {
        assert_eq!(self.pair.log.len(), self.taken);
    }

    /// A command, and the message it causes.
    pub fn command(&mut self, who: usize, command: Command) -> Transmit {
        self.pair.command(who, command);
        self.sent(who)
    }

    /// Hands a message to the other end than `from`.
    pub fn deliver(&mut self, from: usize, transmit: &Transmit) {
        let arrival = Arrival {
            ifindex: setup::ifindex(transmit.remote.ip()),
            local: transmit.remote,
            remote: transmit.local,
        };
        self.pair.inject(1 - from, arrival, &transmit.payload);
        check(&self.pair);
    }

    /// The same, and the answer.
    pub fn ask(&mut self, from: usize, transmit: &Transmit) -> Transmit {
        self.deliver(from, transmit);
        self.sent(1 - from)
    }

    /// What a message is.
    pub fn says(&self, transmit: &Transmit) -> Says {
        let revealed = self
            .pair
            .ends
            .iter()
            .find_map(|end| end.engine.reveal(&transmit.payload));
        let (header, payloads) = revealed.expect("one of them has the keys");
        let mut says = Says::Other;
        for payload in &payloads {
            match payload {
                Payload::Notify(n) if n.kind.is_error() => return Says::Error(n.kind),
                Payload::Notify(n) if n.kind == NotifyType::REKEY_SA => return Says::RekeyChild,
                Payload::Delete(Delete::Esp(_)) => says = Says::DeletesChild,
                Payload::Delete(Delete::Ike) => says = Says::DeletesIke,
                Payload::Sa(_) if header.response => says = Says::Made,
                Payload::Sa(offer) if offer[0].protocol == Protocol::IKE => says = Says::RekeyIke,
                Payload::Sa(_) => says = Says::Create,
                _ => {}
            }
        }
        if header.exchange == ExchangeType::CREATE_CHILD_SA {
            assert_ne!(says, Says::Other, "{payloads:?}");
        }
        says
    }

    /// From now on the links deliver; gives the scripts' pair.
    pub fn open(mut self) -> Pair {
        for link in &mut self.pair.links {
            link.loss = 0.0;
        }
        self.pair
    }
}

/// Lets time pass, checking after every step.
pub fn run(pair: &mut Pair, time: Duration) {
    let until = pair.now + time;
    loop {
        let more = pair.step(until);
        for end in &mut pair.ends {
            end.sending.release(pair.now);
        }
        check(pair);
        if !more {
            break;
        }
    }
}

/// Nothing is lost: what either end sends on, the other receives on.
pub fn check(pair: &Pair) {
    for who in [A, B] {
        let (this, other) = (&pair.ends[who], &pair.ends[1 - who]);
        let up = |state| state == IkeState::Established;
        let both = [this, other]
            .iter()
            .all(|end| end.engine.views().iter().any(|v| up(v.state)));
        if !both {
            continue;
        }
        // A Child SA that is deleted for good is gone from one end first.
        if other.sending.in_use().len() < this.sending.in_use().len() {
            continue;
        }
        for (name, path, spi) in this.sending.in_use() {
            let received = other.children.values().any(|child| child.spi_in == spi);
            assert!(
                received || other.larval.contains(&spi),
                "{who} sends {name} on {path:?} to {spi}, which nobody has: {:?}",
                other.children
            );
        }
    }
}

/// Quiet again: `count` Child SAs, each of which is sent on at both ends, and
/// nothing else is left.
pub fn settle(pair: &mut Pair, count: usize) {
    run(pair, Duration::from_secs(400));
    assert_agreement(pair);
    for end in &pair.ends {
        assert_eq!(end.children.len(), count);
        assert_eq!(end.sending.in_use().len(), count, "one for each path");
        assert!(end.larval.is_empty());
        assert!(end.engine.poll_timeout().is_none(), "nothing is left to do");
        let (ids, spis) = end.engine.census();
        assert_eq!(ids, end.engine.views().len(), "no shell is left");
        let probes = end.engine.views().iter().filter(|view| view.mif).count();
        assert_eq!(spis, count + probes, "no SPI is left over");
    }
}

/// The only Child SA of an end that nothing has replaced.
pub fn child(pair: &Pair, who: usize) -> ChildId {
    *pair.ends[who]
        .children
        .keys()
        .next_back()
        .expect("there is one")
}

/// Leases, name and path are what they were.
pub fn assert_unchanged(pair: &Pair, before: &[Vec<mifsec::ike::IkeSaView>; 2]) {
    for who in [A, B] {
        let now = pair.ends[who].engine.views();
        let (now, before) = (&now[0], &before[who][0]);
        assert_eq!(now.ike, before.ike, "the handle stays");
        assert_eq!(now.leases, before.leases);
        assert_eq!(now.initiator, before.initiator);
        assert_eq!(now.channel, before.channel);
        let path = |view: &mifsec::ike::IkeSaView| -> Vec<_> {
            view.children
                .iter()
                .map(|c| (c.name.clone(), c.pair))
                .collect()
        };
        assert_eq!(path(now), path(before));
    }
}

pub fn views(pair: &Pair) -> [Vec<mifsec::ike::IkeSaView>; 2] {
    [A, B].map(|who| pair.ends[who].engine.views())
}
