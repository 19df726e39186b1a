//! Following a peer whose NAT gave it another address or port, without a word of
//! its own (RFC 7296 2.23, RFC 4555 3.8).

use crate::ids::Arrival;
use crate::ike::engine::Context;
use crate::ike::event::Event;
use crate::ike::message::ExchangeType;
use crate::ike::sa::IkeSa;
use crate::ike::task::Task;

use super::Ask;

/// Authentic ESP came in from another address. With MOBIKE the peer is asked
/// there first; without it is followed at once, as far as it has a NAT.
pub(in crate::ike) fn follow(sa: &mut IkeSa, cx: &mut Context, observed: Arrival) {
    let elsewhere = observed.remote != sa.channel.remote;
    if !sa.is_established() || sa.mif.is_some() || !sa.nat.remote || !elsewhere {
        return;
    }
    if sa.mobike.is_none() {
        // Behind a NAT ourselves we would follow forgers (RFC 7296 2.23).
        if !sa.nat.local {
            adopt(sa, cx, observed);
        }
        return;
    }
    // The initiator decides where it sends to; the responder tells it.
    if sa.caller {
        return;
    }
    // One at a time: what is asked already is asked of the newest address.
    let asked = |task: &Task| task.elsewhere().is_some();
    if !sa.queue.iter().any(asked) && !sa.outbound.tasks().any(asked) {
        let candidate = sa.channel_of(observed, cx);
        sa.submit(
            Task::Mobike(Box::new(Ask::routability(Some(candidate)))),
            cx,
        );
    }
}

impl IkeSa {
    /// A new request was authenticated: a peer without MOBIKE that sits behind a
    /// NAT is where it sends from (RFC 7296 2.23).
    pub(in crate::ike) fn follow_request(
        &mut self,
        exchange: ExchangeType,
        arrival: Arrival,
        cx: &mut Context,
    ) {
        let plain = self.mif.is_none() && self.mobike.is_none();
        let translated = self.nat.remote && !self.nat.local;
        let known = arrival.remote == self.channel.remote;
        if exchange != ExchangeType::IKE_AUTH
            && self.is_established()
            && plain
            && translated
            && !known
        {
            adopt(self, cx, arrival);
        }
    }
}

fn adopt(sa: &mut IkeSa, cx: &mut Context, observed: Arrival) {
    let channel = sa.channel_of(observed, cx);
    sa.move_channel(channel, cx);
    sa.gather_children(cx);
    cx.event(Event::ChannelMoved {
        ike: sa.id,
        observed,
        nat: sa.nat,
    });
}
