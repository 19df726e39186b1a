//! Messages of one IKE SA in and out: windows, keys, retransmission
//! (RFC 7296 2.1 to 2.4, 2.21).

use std::time::Duration;

use crate::ids::Arrival;
use crate::ike::engine::Context;
use crate::ike::error::{DropReason, Failure};
use crate::ike::event::{Channel, Event};
use crate::ike::fault::Fault;
use crate::ike::message::{
    self, Body, DecodeError, Encrypted, EncryptedFragment, ExchangeType, Header, Notify,
    NotifyType, OpenError, Payload,
};
use crate::ike::task::init::InitResponse;
use crate::ike::task::{Payloads, Received, Task, auth, child, informational};
use crate::ike::timer::TimerKind;
use crate::ike::window::{Datagrams, Due, Place};

use super::fragment::Outcome;
use super::{IkeSa, Phase};

/// Retransmissions from which on the channel's path is reported as quiet.
const QUIET_AFTER: u32 = 2;
/// How often a peer is told that its ids are beyond the window.
const OUTSIDE_EVERY: Duration = Duration::from_secs(60);
/// How long a better answer is waited for after an unauthenticated refusal.
const REFUSAL_DOUBT: Duration = Duration::from_secs(2);

impl IkeSa {
    /// Takes a message addressed to this IKE SA.
    pub(in crate::ike) fn receive(
        &mut self,
        header: &Header,
        body: Body,
        bytes: &[u8],
        arrival: Arrival,
        cx: &mut Context,
    ) {
        // The I flag tells which end sent it, so a message of ours that comes
        // back is not taken for the peer's (RFC 7296 3.1).
        if header.initiator == self.initiator {
            return cx.drop(DropReason::Unexpected);
        }
        self.standby.arrived(bytes.len());
        match (body, header.response) {
            (Body::Protected(sealed), false) => self.receive_request(header, sealed, arrival, cx),
            (Body::Protected(sealed), true) => self.receive_response(header, sealed, arrival, cx),
            (Body::Fragment(sealed), _) => self.receive_fragment(header, sealed, arrival, cx),
            (Body::Clear(payloads), true) => {
                self.receive_init_response(header, payloads, bytes, arrival, cx);
            }
            (Body::Clear(_), false) => cx.drop(DropReason::Unexpected),
        }
        self.pump(cx);
    }

    /// The only response in clear there is. A message that does not fit is not
    /// the peer's, so the request stays in flight.
    fn receive_init_response(
        &mut self,
        header: &Header,
        payloads: Vec<Payload>,
        bytes: &[u8],
        arrival: Arrival,
        cx: &mut Context,
    ) {
        let expected = self.keys.is_none()
            && matches!(self.phase, Phase::Connecting { .. })
            && header.exchange == ExchangeType::IKE_SA_INIT
            && self.outbound.expects(header.message_id);
        if !expected {
            // INVALID_IKE_SPI is among them: a hint at most, and what it would be a
            // reason to ask is being asked (RFC 7296 2.21.4).
            return cx.drop(DropReason::ResponseUnexpected);
        }
        let Some(Task::Init(init)) = self.outbound.tasks().next() else {
            return cx.drop(DropReason::ResponseUnexpected);
        };
        let response = InitResponse {
            payloads: Payloads(payloads),
            spi_r: header.spi_r,
            bytes,
            arrival,
        };
        match init.judge(self, &response) {
            Ok(verdict) => {
                if let Some(Task::Init(init)) = self.outbound.answered(header.message_id) {
                    init.proceed(verdict, self, cx, &response);
                }
            }
            Err(refused) => {
                cx.drop(DropReason::Unauthenticated);
                self.note_refusal(refused, cx);
            }
        }
    }

    /// Any error but those with a remedy fails IKE_SA_INIT, but nobody proved to
    /// have sent it: it is believed when nothing better comes for a while
    /// (RFC 7296 2.21.1).
    fn note_refusal(&mut self, reason: Option<Failure>, cx: &mut Context) {
        if let (Phase::Connecting { refused }, Some(reason)) = (&mut self.phase, reason)
            && refused.is_none()
        {
            *refused = Some(reason);
            let doubt = Some(cx.now() + REFUSAL_DOUBT);
            self.timers.set(TimerKind::Expire, doubt);
        }
    }

    fn receive_request(
        &mut self,
        header: &Header,
        sealed: Encrypted,
        arrival: Arrival,
        cx: &mut Context,
    ) {
        let Some(keys) = &self.keys else {
            return cx.drop(DropReason::Unexpected);
        };
        let opened = match sealed.open(&keys.inbound) {
            Err(OpenError::Integrity) => return cx.drop(DropReason::Integrity),
            Err(OpenError::Content(error)) => Err(error),
            Ok(payloads) => Ok(Payloads(payloads)),
        };
        if self.is_new(header, arrival, cx) {
            self.take_request(header, opened, arrival, cx);
        }
    }

    /// Whether a request that the peer sealed is one to look at. One answered
    /// before gets its response again.
    fn is_new(&mut self, header: &Header, arrival: Arrival, cx: &mut Context) -> bool {
        match self.inbound.place(header.message_id) {
            Place::New if !matches!(self.phase, Phase::Spent) => return true,
            Place::New => cx.drop(DropReason::Unexpected),
            Place::Duplicate(response) => {
                cx.drop(DropReason::Duplicate);
                cx.reply_all(arrival, response);
            }
            Place::Old => cx.drop(DropReason::OldRequest),
            Place::Outside => {
                cx.drop(DropReason::RequestOutsideWindow);
                self.tell_outside(header.message_id, cx);
            }
        }
        false
    }

    /// Takes a part of a message (RFC 7383 2.6). A forged one is dropped alone; a
    /// request answered before is answered again upon its first part only.
    fn receive_fragment(
        &mut self,
        header: &Header,
        sealed: EncryptedFragment,
        arrival: Arrival,
        cx: &mut Context,
    ) {
        let (id, response) = (header.message_id, header.response);
        let Some(keys) = self.keys.as_ref().filter(|_| self.fragmentation) else {
            return cx.drop(DropReason::Unexpected);
        };
        if response && !self.outbound.expects(id) {
            return cx.drop(DropReason::ResponseUnexpected);
        }
        if !response && sealed.number() != 1 && self.inbound.was_answered(id) {
            return cx.drop(DropReason::Duplicate);
        }
        let fragment = match sealed.open(&keys.inbound) {
            Err(OpenError::Integrity) => return cx.drop(DropReason::Integrity),
            Err(OpenError::Content(_)) => return cx.drop(DropReason::Fragment),
            Ok(fragment) => fragment,
        };
        if !response && !self.is_new(header, arrival, cx) {
            return;
        }
        let most = cx.limits.message;
        let outcome = self.reassembly.add(response, id, fragment, most, cx.now());
        self.timers
            .set(TimerKind::Reassembly, self.reassembly.next_expiry());
        match outcome {
            Outcome::Waiting => {}
            Outcome::Duplicate => cx.drop(DropReason::Duplicate),
            Outcome::Refused => cx.drop(DropReason::Fragment),
            Outcome::Whole(first, octets) => {
                let opened = message::decode_whole(first, &octets).map(Payloads);
                if response {
                    self.take_response(header, opened, arrival, cx);
                } else {
                    self.take_request(header, opened, arrival, cx);
                }
            }
        }
    }

    /// Answers a request.
    fn take_request(
        &mut self,
        header: &Header,
        opened: Result<Payloads, DecodeError>,
        arrival: Arrival,
        cx: &mut Context,
    ) {
        self.reassembly.forget(false, header.message_id);
        self.standby.authenticated();
        self.alive(cx);
        let refused = opened.is_err();
        self.follow_request(header.exchange, arrival, cx);
        let response = match opened {
            Ok(payloads) => {
                let received = Received {
                    payloads,
                    exchange: header.exchange,
                    message_id: Some(header.message_id),
                    arrival,
                };
                self.respond(&received, cx)
            }
            // A critical payload we do not know refuses its request (RFC 7296 2.5).
            Err(error) => {
                cx.count(error.reason());
                Some(vec![Payload::Notify(error.notify())])
            }
        };
        let Some(response) = response else {
            return cx.drop(DropReason::Unexpected);
        };
        // Fatal for the IKE SA at both ends, without a Delete (RFC 7296 2.21.3).
        let response = Payloads(response);
        let unreadable = refused && matches!(self.phase, Phase::HalfOpen(_));
        if unreadable || response.notify(NotifyType::INVALID_SYNTAX).is_some() {
            self.close(Failure::Protocol { what: "message" }, cx);
        }
        let sealed = self.seal(header.exchange, header.message_id, true, &response.0, cx);
        if let Some(datagrams) = sealed {
            self.inbound.answered(header.message_id, datagrams.clone());
            cx.reply_all(arrival, datagrams);
        }
    }

    /// A request beyond the window: its sender lost count. It is told, but not often
    /// (RFC 7296 2.3).
    fn tell_outside(&mut self, message_id: u32, cx: &mut Context) {
        let lately = |at| cx.now().duration_since(at) < OUTSIDE_EVERY;
        if self.is_established() && !self.told_outside.is_some_and(lately) {
            self.told_outside = Some(cx.now());
            let id = message_id.to_be_bytes().to_vec();
            let notify = Notify::new(NotifyType::INVALID_MESSAGE_ID, id);
            self.queue.push(Task::Tell(notify));
        }
    }

    /// The response's payloads; `None` for a request that has no place here and
    /// that nobody with our keys would send.
    fn respond(&mut self, received: &Received, cx: &mut Context) -> Option<Vec<Payload>> {
        match (&self.phase, received.exchange) {
            (Phase::HalfOpen(_), ExchangeType::IKE_AUTH) => Some(auth::respond(self, cx, received)),
            (Phase::Established | Phase::Closing { .. }, ExchangeType::CREATE_CHILD_SA) => {
                Some(child::respond(self, cx, received))
            }
            (Phase::Established | Phase::Closing { .. }, ExchangeType::INFORMATIONAL) => {
                Some(informational::respond(self, cx, received))
            }
            (
                Phase::Replaced { successor },
                ExchangeType::CREATE_CHILD_SA | ExchangeType::INFORMATIONAL,
            ) => Some(self.respond_replaced(*successor, received, cx)),
            _ => None,
        }
    }

    fn receive_response(
        &mut self,
        header: &Header,
        sealed: Encrypted,
        arrival: Arrival,
        cx: &mut Context,
    ) {
        let Some(keys) = &self.keys else {
            return cx.drop(DropReason::Unexpected);
        };
        if !self.outbound.expects(header.message_id) {
            return cx.drop(DropReason::ResponseUnexpected);
        }
        let opened = match sealed.open(&keys.inbound) {
            Err(OpenError::Integrity) => return cx.drop(DropReason::Integrity),
            Err(OpenError::Content(error)) => Err(error),
            Ok(payloads) => Ok(Payloads(payloads)),
        };
        self.take_response(header, opened, arrival, cx);
    }

    /// Hands a response to what waits for it.
    fn take_response(
        &mut self,
        header: &Header,
        opened: Result<Payloads, DecodeError>,
        arrival: Arrival,
        cx: &mut Context,
    ) {
        self.reassembly.forget(true, header.message_id);
        let payloads = match opened {
            Ok(payloads) => payloads,
            Err(error) => {
                cx.count(error.reason());
                return self.give_up_on(header.message_id, cx);
            }
        };
        self.standby.authenticated();
        self.alive(cx);
        let Some(task) = self.outbound.answered(header.message_id) else {
            return;
        };
        self.note_answered(arrival, cx);
        if task.exchange() != header.exchange {
            task.abandon(cx);
            return self.close(
                Failure::Protocol {
                    what: "exchange type",
                },
                cx,
            );
        }
        if payloads.notify(NotifyType::INVALID_SYNTAX).is_some() {
            task.abandon(cx);
            return self.close(Failure::from_notify(NotifyType::INVALID_SYNTAX, false), cx);
        }
        let received = Received {
            payloads,
            exchange: header.exchange,
            message_id: Some(header.message_id),
            arrival,
        };
        match self.phase {
            Phase::Replaced { successor } => self.process_replaced(successor, task, &received, cx),
            _ => task.process(self, cx, &received),
        }
    }

    /// The peer sealed a response that we cannot read. Whatever it did, it is told
    /// to undo it.
    fn give_up_on(&mut self, message_id: u32, cx: &mut Context) {
        if let Some(task) = self.outbound.answered(message_id) {
            task.abandon(cx);
        }
        let reason = Failure::Protocol { what: "response" };
        if matches!(self.phase, Phase::Closing { .. }) {
            self.close(reason, cx);
        } else {
            self.begin_closing(reason, cx);
        }
    }

    /// Sends queued requests while the window is open.
    pub(in crate::ike) fn pump(&mut self, cx: &mut Context) {
        // What waits is its successor's to ask.
        if self.handover.is_some() {
            return;
        }
        while self.outbound.is_open() && !matches!(self.phase, Phase::Spent) {
            let Some(mut task) = self.queue.pop(self.outbound.tasks()) else {
                break;
            };
            let Some(payloads) = task.build(self, cx) else {
                task.abandon(cx);
                continue;
            };
            let id = self.outbound.next_id();
            let Some(datagrams) = self.seal(task.exchange(), id, false, &payloads, cx) else {
                continue;
            };
            if let (Task::Init(init), [bytes]) = (&mut task, datagrams.as_slice()) {
                init.sent(bytes);
            }
            let home = task.elsewhere().or_else(|| self.misled(&task, cx));
            let home = home.map(|other| std::mem::replace(&mut self.channel, other));
            self.send(datagrams.clone(), cx);
            self.channel = home.unwrap_or(self.channel);
            self.outbound
                .sent(datagrams, task, &cx.retransmit, cx.now());
        }
        if !matches!(self.phase, Phase::Spent) {
            self.timers
                .set(TimerKind::Retransmit, self.outbound.next_due());
        }
    }

    /// What [`Fault::TellElsewhere`] does.
    fn misled(&self, task: &Task, cx: &Context) -> Option<Channel> {
        let left = task.left().filter(|_| cx.faulty(Fault::TellElsewhere))?;
        let mut channel = self.channel;
        channel.local.set_ip(left);
        Some(channel)
    }

    /// One message: in clear while there are no keys, in fragments if it is long and
    /// the peer takes them.
    fn seal(
        &mut self,
        exchange: ExchangeType,
        message_id: u32,
        response: bool,
        payloads: &[Payload],
        cx: &Context,
    ) -> Option<Datagrams> {
        let header = Header {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            exchange,
            response,
            initiator: self.initiator,
            higher_version: false,
            message_id,
        };
        match &mut self.keys {
            Some(keys) => {
                let room = match self.fragmentation {
                    true => cx.fragment_size,
                    false => message::MAX_MESSAGE,
                };
                message::seal_fitting(&header, payloads, &keys.outbound, &mut keys.iv, room)
            }
            None => Some(vec![message::encode_clear(&header, payloads)]),
        }
    }

    /// Lets time pass.
    pub(in crate::ike) fn handle_timeout(&mut self, cx: &mut Context) {
        let now = cx.now();
        if self.timers.take_due(TimerKind::Expire, now) {
            let reason = match &mut self.phase {
                Phase::Spent => return,
                Phase::Connecting { refused } => refused.take(),
                Phase::HalfOpen(_)
                | Phase::Established
                | Phase::Closing { .. }
                | Phase::Replaced { .. } => None,
            };
            let remote = self.channel.remote;
            return self.close(reason.unwrap_or(Failure::Timeout { remote }), cx);
        }
        if self.timers.take_due(TimerKind::Retransmit, now) {
            self.retransmit(cx);
        }
        if self.timers.take_due(TimerKind::Reassembly, now) {
            for _ in 0..self.reassembly.expire(now) {
                cx.drop(DropReason::FragmentsExpired);
            }
            self.timers
                .set(TimerKind::Reassembly, self.reassembly.next_expiry());
        }
        if self.timers.take_due(TimerKind::Retry, now) {
            for task in std::mem::take(&mut self.postponed) {
                self.queue.push(task);
            }
        }
        // A request in flight is a question about its life already.
        let dpd = self.timers.take_due(TimerKind::Dpd, now);
        if dpd && self.is_established() && self.outbound.is_empty() {
            self.queue.push(Task::Liveness);
        }
        self.age(cx);
        self.pump(cx);
    }

    fn retransmit(&mut self, cx: &mut Context) {
        let mut pairs = self.standby_pairs(cx);
        if let Phase::Replaced { successor } = self.phase
            && let Some(sa) = cx.sas.get(&successor)
        {
            self.channel = sa.channel;
            pairs = sa.standby_pairs(cx);
        }
        for due in self.outbound.due(&cx.retransmit, cx.now()) {
            match due {
                Due::Again { datagrams, tries } => {
                    if tries >= QUIET_AFTER && self.is_established() {
                        cx.event(Event::ChannelQuiet {
                            ike: self.id,
                            tries,
                        });
                    }
                    cx.count("ike_retransmitted");
                    self.send(datagrams.clone(), cx);
                    if let Some(turn) = tries.checked_sub(QUIET_AFTER) {
                        self.send_aside(datagrams, turn, &pairs, cx);
                    }
                }
                Due::GaveUp => {
                    let reason = match &self.phase {
                        Phase::Closing { reason, .. } => reason.clone(),
                        _ => Failure::Timeout {
                            remote: self.channel.remote,
                        },
                    };
                    return self.close(reason, cx);
                }
            }
        }
    }
}

#[cfg(test)]
impl IkeSa {
    /// A request as this end would seal it, out of its turn.
    pub(in crate::ike) fn forge(
        &mut self,
        exchange: ExchangeType,
        payloads: &[Payload],
    ) -> Option<Vec<u8>> {
        let id = self.outbound.next_id();
        self.outbound.skip();
        self.seal_now(exchange, id, false, payloads)
    }

    /// An answer as this end would seal it, whatever was asked.
    pub(in crate::ike) fn forge_answer(
        &mut self,
        exchange: ExchangeType,
        id: u32,
        payloads: &[Payload],
    ) -> Option<Vec<u8>> {
        self.seal_now(exchange, id, true, payloads)
    }

    /// What the other end sealed.
    pub(in crate::ike) fn read(&self, bytes: &[u8]) -> Option<Vec<Payload>> {
        let Ok((_, Body::Protected(sealed))) = message::decode(bytes) else {
            return None;
        };
        sealed.open(&self.keys.as_ref()?.inbound).ok()
    }

    /// A request whose inner chain is these octets, beginning with a payload of
    /// this type.
    pub(in crate::ike) fn forge_raw(&mut self, first: u8, chain: &[u8]) -> Option<Vec<u8>> {
        let bytes = self.forge(ExchangeType::INFORMATIONAL, &[])?;
        self.refill(bytes, first, chain)
    }

    /// The same as a response to the request of this id.
    pub(in crate::ike) fn forge_response(
        &mut self,
        message_id: u32,
        first: u8,
        chain: &[u8],
    ) -> Option<Vec<u8>> {
        let bytes = self.seal_now(ExchangeType::INFORMATIONAL, message_id, true, &[])?;
        self.refill(bytes, first, chain)
    }

    pub(in crate::ike) fn seal_now(
        &mut self,
        exchange: ExchangeType,
        message_id: u32,
        response: bool,
        payloads: &[Payload],
    ) -> Option<Vec<u8>> {
        let header = Header {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            exchange,
            response,
            initiator: self.initiator,
            higher_version: false,
            message_id,
        };
        let keys = self.keys.as_mut()?;
        keys.iv += 1;
        Some(message::seal(&header, payloads, &keys.outbound, keys.iv))
    }

    fn refill(&mut self, mut bytes: Vec<u8>, first: u8, chain: &[u8]) -> Option<Vec<u8>> {
        bytes.truncate(message::HEADER_LEN + 4);
        let keys = self.keys.as_mut()?;
        keys.iv += 1;
        let body = message::body_len(&keys.outbound, chain.len());
        let body = u16::try_from(4 + body).ok()?;
        let total = u32::from(body) + 28;
        bytes[24..28].copy_from_slice(&total.to_be_bytes());
        bytes[28] = first;
        bytes[30..32].copy_from_slice(&body.to_be_bytes());
        Some(message::seal_body(&keys.outbound, keys.iv, chain, bytes))
    }
}
