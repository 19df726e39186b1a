//! Our own requests: moves, lists of addresses, return routability.

use std::time::Instant;

use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::event::{Channel, End, Event};
use crate::ike::message::{Notify, NotifyType, Payload};
use crate::ike::sa::IkeSa;
use crate::ike::task::{Payloads, Received, Task};

use super::{is_news, notify, own_addresses};

/// What an INFORMATIONAL of ours is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// UPDATE_SA_ADDRESSES: the channel's pair as it is when this is sent.
    Update,
    /// The complete list of our addresses.
    Addresses,
    /// Whether the peer is at the channel's address, or at another one.
    Routability(Option<Channel>),
}

/// One request.
pub(in crate::ike) struct Ask {
    what: What,
    /// Given when it is built.
    sent: Option<Sent>,
    /// How often it was refused for the moment.
    attempts: u32,
}

struct Sent {
    cookie: Vec<u8>,
    /// Of the channel then.
    generation: u32,
    at: Instant,
}

impl Ask {
    pub(super) fn update() -> Self {
        Self::new(What::Update)
    }

    pub(super) fn addresses() -> Self {
        Self::new(What::Addresses)
    }

    pub(super) fn routability(candidate: Option<Channel>) -> Self {
        Self::new(What::Routability(candidate))
    }

    fn new(what: What) -> Self {
        Self {
            what,
            sent: None,
            attempts: 0,
        }
    }

    /// Lower goes first: moves before lists.
    pub(in crate::ike::task) const fn priority(&self) -> u8 {
        match self.what {
            What::Update | What::Routability(_) => 1,
            What::Addresses => 3,
        }
    }

    /// Whether `later` need not be queued besides: both say what holds when they
    /// are sent.
    pub(in crate::ike::task) fn serves(&self, later: &Self) -> bool {
        self.what == later.what
    }

    /// Where it goes if not to the channel's address.
    pub(in crate::ike::task) const fn candidate(&self) -> Option<Channel> {
        match self.what {
            What::Routability(candidate) => candidate,
            _ => None,
        }
    }

    /// The request.
    pub(in crate::ike::task) fn build(
        &mut self,
        sa: &mut IkeSa,
        cx: &mut Context,
    ) -> Option<Vec<Payload>> {
        let proven = sa.mobike.as_ref().map(|mobike| mobike.proven);
        let settled = self.what == What::Routability(None) && proven == Some(sa.channel.remote);
        if !sa.moves_by_mobike() || settled {
            return None;
        }
        let cookie = cx.nonce();
        let mut payloads = Vec::new();
        if self.what == What::Update {
            let notify = Notify::new(NotifyType::UPDATE_SA_ADDRESSES, Vec::new());
            payloads.push(Payload::Notify(notify));
            payloads.extend(sa.nat_detection(sa.channel.local, sa.channel.remote));
        }
        let lists = match self.what {
            What::Update => is_news(sa, cx),
            What::Addresses => true,
            What::Routability(_) => false,
        };
        let own = own_addresses(sa, cx);
        if lists {
            payloads.extend(notify::list(&own).into_iter().map(Payload::Notify));
        }
        let no_nats = sa.peer.as_ref().is_some_and(|peer| peer.mobility.no_nats);
        if no_nats && !matches!(self.what, What::Routability(_)) {
            let notify = notify::no_nats(sa.channel.local, sa.channel.remote);
            payloads.push(Payload::Notify(notify));
        }
        if self.what != What::Addresses {
            let notify = Notify::new(NotifyType::COOKIE2, cookie.clone());
            payloads.push(Payload::Notify(notify));
        }
        let mobike = sa.mobike.as_mut()?;
        if lists {
            mobike.told = own;
        }
        self.sent = Some(Sent {
            cookie,
            generation: mobike.generation,
            at: cx.now(),
        });
        Some(payloads)
    }

    /// The response.
    pub(in crate::ike::task) fn process(
        mut self: Box<Self>,
        sa: &mut IkeSa,
        cx: &mut Context,
        received: &Received,
    ) {
        let Some(sent) = self.sent.take() else {
            return;
        };
        if !sa.is_established() {
            return;
        }
        let payloads = &received.payloads;
        if self.what != What::Addresses && !has_cookie(payloads, &sent.cookie) {
            cx.count("mobike_cookie");
            return sa.begin_closing(Failure::WrongCookie, cx);
        }
        let generation = sa.mobike.as_ref().map(|mobike| mobike.generation);
        // A copy that was sent again went to the channel's address: if that is another,
        // an answer proves nothing (RFC 4555 3.7).
        let alone = cx.now() < sent.at + cx.retransmit.initial;
        if let What::Routability(Some(candidate)) = self.what
            && alone
            && candidate.remote == sa.channel.remote
            && candidate.remote == received.arrival.remote
        {
            // It said so itself meanwhile.
            return sa.channel_proven(cx);
        }
        // Another move was made meanwhile, and is asked for by itself.
        if generation != Some(sent.generation) && self.what != What::Addresses {
            return;
        }
        if let Some(refusal) = payloads.error() {
            return self.refused(refusal.kind, sa, cx);
        }
        match self.what {
            What::Addresses => {}
            What::Update => {
                sa.detect_nat(payloads, received.arrival.local, received.arrival.remote);
                cx.event(Event::ChannelConfirmed {
                    ike: sa.id,
                    channel: sa.channel,
                    nat: sa.nat,
                });
            }
            What::Routability(None) => sa.channel_proven(cx),
            What::Routability(Some(candidate)) => {
                if alone && received.arrival.remote == candidate.remote {
                    sa.next_generation();
                    sa.move_channel(candidate, cx);
                    sa.channel_proven(cx);
                } else {
                    cx.count("mobike_not_followed");
                }
            }
        }
    }

    /// A NAT may be an attacker that changed one packet, so that is asked about
    /// several times (RFC 4555 3.9); with other addresses the agent has to try.
    fn refused(mut self: Box<Self>, kind: NotifyType, sa: &mut IkeSa, cx: &mut Context) {
        let passing = [
            NotifyType::TEMPORARY_FAILURE,
            NotifyType::UNEXPECTED_NAT_DETECTED,
        ];
        if passing.contains(&kind) && sa.postpone(self.attempts, cx) {
            self.attempts += 1;
            return sa.postponed.push(Task::Mobike(self));
        }
        cx.event(Event::MoveRefused {
            ike: sa.id,
            end: End::Local,
            iface: sa.channel.local_iface,
            reason: Failure::from_notify(kind, false),
        });
    }
}

/// The peer returned what it was given. With an error it need not.
fn has_cookie(payloads: &Payloads, cookie: &[u8]) -> bool {
    payloads.notify(NotifyType::COOKIE2).map_or_else(
        || payloads.error().is_some(),
        |notify| notify.data == cookie,
    )
}
