//! The IKEv2 engine: finds the IKE SA a message belongs to, admits new ones,
//! carries out commands. Datagrams, commands and time go in by `handle_*`;
//! after each input everything is drained by `poll_event`, `poll_sa_request`,
//! `poll_transmit`, in that order, and then `poll_timeout` says when to call
//! [`Engine::handle_timeout`]. No socket, clock, lock or runtime.
//!
//! Invariants: nothing unauthenticated changes an established IKE SA; message
//! ids only grow; an inbound SPI is unique while its SA lives; state that
//! unauthenticated peers can cause is bounded; whatever has no effect is counted.

mod accept;
mod allowance;
mod command;
mod context;
mod cookie;
mod half_open;
#[cfg(feature = "testing")]
mod inspect;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::crypto::Entropy;
use crate::ids::{Arrival, IfaceId, IkeId, IkeSpi, Spi};

use super::config::EngineConfig;
use super::error::{DropReason, Failure};
use super::event::{Command, End, Event, IkeSaView, SaRequest, Transmit};
use super::lease::PoolError;
use super::message::{self, Body, DecodeError, ExchangeType, Header, NotifyType, Payload};
use super::sa::{Handover, IkeSa, OldIkeSa, handed_over};
use super::task::{Task, delete};
use super::timer::TimerKind;

pub(in crate::ike) use context::Context;

/// Errors answered in clear, per second: enough for whoever misconfigured a peer,
/// of no use for a flood. Cookies and wanted groups do not count, a handshake
/// needs them.
const ANSWERS_PER_SECOND: u32 = 100;
/// Signs of life asked for because of a notify in clear, per second.
const DOUBTS_PER_SECOND: u32 = 4;

/// How often one [`Engine::handle_timeout`] looks for what is due.
const ROUNDS: u32 = 4;

/// All IKE SAs of this host.
pub struct Engine {
    cx: Context,
    /// By our own SPI.
    by_spi: BTreeMap<IkeSpi, IkeId>,
    /// What finds a repeated IKE_SA_INIT, and what is bounded.
    half_open: half_open::HalfOpenTable,
    deadlines: BTreeSet<(Instant, TimerKind, IkeId)>,
    deadline_of: BTreeMap<IkeId, (Instant, TimerKind)>,
    cookies: cookie::CookieJar,
    /// Errors told to whom nothing is known of.
    answers: allowance::Allowance,
    /// Doubts of a peer's life that anybody can raise.
    doubts: allowance::Allowance,
    /// When a public value was none.
    last_spoiled: Option<Instant>,
    next_id: u64,
}

impl Engine {
    /// An engine without IKE SAs.
    ///
    /// # Errors
    /// [`PoolError`] for a pool that cannot lease.
    pub fn new(config: EngineConfig, entropy: Box<dyn Entropy>) -> Result<Self, PoolError> {
        Ok(Self {
            cx: Context::new(config, entropy)?,
            by_spi: BTreeMap::new(),
            half_open: half_open::HalfOpenTable::default(),
            deadlines: BTreeSet::new(),
            deadline_of: BTreeMap::new(),
            cookies: cookie::CookieJar::default(),
            answers: allowance::Allowance::new(ANSWERS_PER_SECOND),
            doubts: allowance::Allowance::new(DOUBTS_PER_SECOND),
            last_spoiled: None,
            next_id: 1,
        })
    }

    /// Takes an IKE message, without the non-ESP marker.
    pub fn handle_datagram(&mut self, arrival: Arrival, bytes: &[u8], now: Instant) {
        self.cx.begin(now);
        if bytes.len() > self.cx.limits.message {
            return self.cx.drop(DropReason::Oversized);
        }
        let (header, body) = match message::decode(bytes) {
            Ok(decoded) => decoded,
            Err(error) => return self.refuse_undecodable(&error, arrival, bytes),
        };
        if header.exchange == ExchangeType::IKE_SA_INIT && !header.response {
            return match body {
                Body::Clear(payloads) => self.accept(&header, payloads, bytes, arrival),
                Body::Protected(_) | Body::Fragment(_) => self.cx.drop(DropReason::Unexpected),
            };
        }
        let (own, peers) = if header.initiator {
            (header.spi_r, header.spi_i)
        } else {
            (header.spi_i, header.spi_r)
        };
        let Some(id) = self.by_spi.get(&own).copied() else {
            return self.stray(&header, &body, arrival);
        };
        self.step(id, |sa, cx| {
            let known = if sa.initiator { sa.spi_r } else { sa.spi_i };
            if known == peers || known == IkeSpi(0) {
                sa.receive(&header, body, bytes, arrival, cx);
            } else {
                cx.drop(DropReason::UnknownSpi);
            }
        });
    }

    /// Sets the clock certificates are checked against: `unix` is the time since
    /// 1970 at `now`. It runs on from there; until it is set no certificate is
    /// accepted.
    pub fn set_wall_clock(&mut self, unix: Duration, now: Instant) {
        self.cx.wall = Some((unix, now));
    }

    /// Takes a decision of the agent.
    pub fn handle_command(&mut self, command: Command, now: Instant) {
        self.cx.begin(now);
        self.command(command);
    }

    /// Lets time pass: retransmission, liveness, expiry.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.cx.begin(now);
        let now = self.cx.now();
        // What one does may leave another, a replaced one say, with something due.
        for _ in 0..ROUNDS {
            let due: Vec<_> = self
                .deadlines
                .iter()
                .take_while(|(at, ..)| *at <= now)
                .map(|(.., id)| *id)
                .collect();
            if due.is_empty() {
                break;
            }
            for id in due {
                self.step(id, |sa, cx| sa.handle_timeout(cx));
            }
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.cx.poll_transmit()
    }

    /// The next thing the data plane must do.
    pub fn poll_sa_request(&mut self) -> Option<SaRequest> {
        self.cx.poll_request()
    }

    /// The next news.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.cx.poll_event()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and for what. While
    /// output waits this is the time of the last input, so that a driver that
    /// only follows deadlines drains it too.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        if let Some(last) = self.cx.undrained() {
            return Some((last, TimerKind::Drain));
        }
        self.deadlines.first().map(|(at, kind, _)| (*at, *kind))
    }

    /// All IKE SAs, oldest first.
    #[must_use]
    pub fn views(&self) -> Vec<IkeSaView> {
        self.cx.sas.values().filter_map(|sa| sa.view()).collect()
    }

    /// Which interfaces stand in for `iface` of one end of an IKE SA, best first, as
    /// its owner says, else by the default rule (protocol 3.9).
    #[must_use]
    pub fn alternates(&self, ike: IkeId, end: End, iface: IfaceId) -> Vec<IfaceId> {
        let sa = self.cx.sas.get(&ike);
        sa.map_or_else(Vec::new, |sa| sa.alternates(end, iface, &self.cx))
    }

    /// Interfaces whose Child SAs another one carries: whose, which, by which.
    #[must_use]
    pub fn carried(&self, ike: IkeId) -> Vec<(End, IfaceId, IfaceId)> {
        let sa = self.cx.sas.get(&ike);
        sa.map_or_else(Vec::new, |sa| sa.carried().collect())
    }

    /// Interfaces of ours that are deleted for the peer of an IKE SA, by this one or one
    /// before it.
    #[must_use]
    pub fn deleted(&self, ike: IkeId) -> BTreeSet<IfaceId> {
        let mif = self.cx.sas.get(&ike).and_then(|sa| sa.mif.as_ref());
        mif.map_or_else(BTreeSet::new, |mif| mif.operations.withheld.clone())
    }

    /// Input that had no effect, by reason.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        self.cx.counters().clone()
    }

    /// Lets one IKE SA take a step and notes what became of it and of others.
    fn step(&mut self, id: IkeId, step: impl FnOnce(&mut IkeSa, &mut Context)) {
        if let Some(mut sa) = self.cx.sas.remove(&id) {
            step(&mut sa, &mut self.cx);
            let handover = sa.handover.take();
            self.cx.sas.insert(id, sa);
            match handover {
                Some(handover) => self.hand_over(id, *handover),
                None => self.settle(id),
            }
        }
        for other in self.cx.take_touched() {
            self.settle(other);
        }
    }

    /// A rekey ended: the successor takes the handle, the old IKE SA and, if both
    /// ends rekeyed, the loser get one of their own until they are deleted.
    fn hand_over(&mut self, id: IkeId, handover: Handover) {
        let Some(mut old) = self.cx.sas.remove(&id) else {
            return;
        };
        let (shell_id, loser_id) = (self.next_id(), self.next_id());
        let end_old = handover.old;
        let (next, loser) = old.hand_over(handover, shell_id, loser_id, &mut self.cx);
        for sa in [next, old].into_iter().chain(loser) {
            self.by_spi.insert(sa.own_spi(), sa.id);
            self.cx.sas.insert(sa.id, sa);
        }
        self.step(shell_id, |sa, cx| match end_old {
            OldIkeSa::Delete => sa.submit(Task::Delete(delete::Target::Ike), cx),
            OldIkeSa::Await => {}
            OldIkeSa::Gone => sa.close(Failure::DeletedByPeer, cx),
        });
        self.step(loser_id, |sa, cx| {
            if sa.initiator {
                sa.submit(Task::Delete(delete::Target::Ike), cx);
            }
        });
        self.step(id, handed_over);
    }

    /// Keeps the indices true to what an IKE SA is now.
    fn settle(&mut self, id: IkeId) {
        let Some(sa) = self.cx.sas.get(&id) else {
            return;
        };
        if sa.is_authenticated() || sa.is_gone() {
            self.half_open.remove(id);
        }
        let deadline = sa.next_deadline();
        if sa.is_gone() {
            self.by_spi.remove(&sa.own_spi());
            self.cx.sas.remove(&id);
        }
        let previous = match deadline {
            Some(deadline) => self.deadline_of.insert(id, deadline),
            None => self.deadline_of.remove(&id),
        };
        if let Some((at, kind)) = previous {
            self.deadlines.remove(&(at, kind, id));
        }
        if let Some((at, kind)) = deadline {
            self.deadlines.insert((at, kind, id));
        }
    }

    /// Adds an IKE SA and lets it take its first step.
    fn add(&mut self, sa: IkeSa, first: impl FnOnce(&mut IkeSa, &mut Context)) {
        let id = sa.id;
        self.by_spi.insert(sa.own_spi(), id);
        self.cx.sas.insert(id, Box::new(sa));
        self.step(id, first);
    }

    fn next_id(&mut self) -> IkeId {
        let id = IkeId(self.next_id);
        self.next_id += 1;
        id
    }

    /// An IKE SPI none of our IKE SAs has.
    fn fresh_spi(&mut self) -> IkeSpi {
        loop {
            let spi = self.cx.ike_spi();
            if !self.by_spi.contains_key(&spi) {
                return spi;
            }
        }
    }

    /// A message of no IKE SA of ours. What a peer sealed is a request of an IKE SA
    /// we have lost: it learns so, and may ask whether we live (RFC 7296 1.5,
    /// 2.21.4). INVALID_SPI in clear makes us ask the same; no more, because
    /// anybody can write it.
    fn stray(&mut self, header: &Header, body: &Body, arrival: Arrival) {
        self.cx.drop(DropReason::UnknownSpi);
        // One of ours that came back names us as the peer.
        let ours = |spi| self.by_spi.contains_key(spi);
        if header.response || ours(&header.spi_i) || ours(&header.spi_r) {
            return;
        }
        let Body::Clear(payloads) = body else {
            if self.answers.take(self.cx.now()) {
                self.refuse(header, arrival, NotifyType::INVALID_IKE_SPI, Vec::new());
            }
            return;
        };
        let invalid = payloads.iter().find_map(|payload| match payload {
            Payload::Notify(notify) if notify.kind == NotifyType::INVALID_SPI => {
                <[u8; 4]>::try_from(notify.data.as_slice()).ok()
            }
            _ => None,
        });
        let Some(spi) = invalid.map(|octets| Spi(u32::from_be_bytes(octets))) else {
            return;
        };
        if header.exchange == ExchangeType::INFORMATIONAL && self.doubts.take(self.cx.now()) {
            let sends = |sa: &&IkeSa| {
                sa.channel.remote.ip() == arrival.remote.ip()
                    && sa.children.values().any(|child| child.spi_out == spi)
            };
            let sas = self.cx.sas.values().map(|sa| &**sa);
            if let Some(ike) = sas.into_iter().find(sends).map(|sa| sa.id) {
                self.command(Command::CheckLiveness { ike });
            }
        }
    }

    /// Counts what is no message. A request for another major version, or with a
    /// critical payload before there are keys, gets an unprotected answer
    /// (RFC 7296 2.5); the rest is silence.
    fn refuse_undecodable(&mut self, error: &DecodeError, arrival: Arrival, bytes: &[u8]) {
        self.cx.count(error.reason());
        let header = match (error, Header::decode(bytes)) {
            (DecodeError::Version(header, version), _) if *version > 2 => *header,
            (DecodeError::UnsupportedCritical(_), Ok((header, ..)))
                if header.exchange == ExchangeType::IKE_SA_INIT =>
            {
                header
            }
            _ => return,
        };
        if !header.response && self.answers.take(self.cx.now()) {
            self.answer_in_clear(&header, arrival, Payload::Notify(error.notify()));
        }
    }

    /// An unprotected response: never longer than 3 times a request's header.
    fn answer_in_clear(&mut self, request: &Header, arrival: Arrival, payload: Payload) {
        let header = Header {
            response: true,
            initiator: !request.initiator,
            higher_version: false,
            ..*request
        };
        let bytes = message::encode_clear(&header, &[payload]);
        self.cx.reply(arrival, bytes);
    }

    /// An unprotected error notify.
    fn refuse(&mut self, request: &Header, arrival: Arrival, kind: NotifyType, data: Vec<u8>) {
        let notify = message::Notify::new(kind, data);
        self.answer_in_clear(request, arrival, Payload::Notify(notify));
    }
}

#[cfg(test)]
mod tests;
