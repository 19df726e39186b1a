//! The initiator's side of a redirection (RFC 5685). As responder we send none.
//!
//! ```text
//!  request   HDR(A,0), SAi1, KEi, Ni, N(REDIRECT_SUPPORTED | REDIRECTED_FROM)
//!  response  HDR(A,0), N(REDIRECT, gateway, Ni)         nothing stands
//!        or  SK{IDr, AUTH, N(REDIRECT, gateway)}        in IKE_AUTH: deleted again
//!  request   SK{N(REDIRECT, gateway)}                   later: answered, then deleted
//! ```
//! The engine ends the IKE SA and says where to; the agent decides by which
//! access and sends [`Command::Follow`](crate::ike::Command::Follow).

use std::net::IpAddr;

use crate::ike::engine::Context;
use crate::ike::error::{DropReason, Failure};
use crate::ike::event::Event;
use crate::ike::message::{Notify, NotifyType, Payload};
use crate::ike::redirect::Gateway;
use crate::ike::sa::{IkeSa, Phase};

use super::{Payloads, Task, delete};

/// What an IKE_SA_INIT request says about it: that we follow, or whence we come,
/// which says the same.
pub(super) fn offer(from: Option<IpAddr>) -> Payload {
    Payload::Notify(match from {
        Some(from) => Notify::new(
            NotifyType::REDIRECTED_FROM,
            Gateway::Address(from).encode(&[]),
        ),
        None => Notify::new(NotifyType::REDIRECT_SUPPORTED, Vec::new()),
    })
}

/// The gateway of an IKE_SA_INIT response. Only who has seen our request knows
/// its nonce; a REDIRECT without it is nobody's.
pub(super) fn in_init(notify: &Notify, nonce: &[u8]) -> Option<Gateway> {
    let (gateway, shown) = Gateway::decode(&notify.data).ok()?;
    (shown == nonce).then_some(gateway)
}

/// Whether an authenticated IKE_AUTH response sends us elsewhere; if so its
/// IKE SA is on its way out.
pub(super) fn in_auth(sa: &mut IkeSa, cx: &mut Context, payloads: &Payloads) -> bool {
    let Some(notify) = payloads.notify(NotifyType::REDIRECT) else {
        return false;
    };
    if let Some(gateway) = read(notify, cx) {
        let reason = depart(&gateway, sa, cx);
        sa.begin_closing(reason, cx);
        return true;
    }
    false
}

/// The gateway of a standing IKE SA sends us away: its request is answered first,
/// then deleted (RFC 5685 5).
pub(super) fn in_informational(notify: &Notify, sa: &mut IkeSa, cx: &mut Context) {
    if !sa.caller || !sa.is_established() {
        return cx.drop(DropReason::Unexpected);
    }
    let Some(gateway) = read(notify, cx) else {
        return;
    };
    let reason = depart(&gateway, sa, cx);
    if reason == Failure::RedirectLoop {
        // What stands is better than nothing.
        return;
    }
    sa.phase = Phase::Closing {
        reason,
        announced: true,
    };
    sa.queue.push(Task::Delete(delete::Target::Ike));
}

/// The redirection of IKE_SA_INIT: there is nothing to delete.
pub(super) fn leave(gateway: &Gateway, sa: &mut IkeSa, cx: &mut Context) {
    let reason = depart(gateway, sa, cx);
    sa.close(reason, cx);
}

fn read(notify: &Notify, cx: &mut Context) -> Option<Gateway> {
    match Gateway::decode(&notify.data) {
        Ok((gateway, _)) => Some(gateway),
        Err(error) => {
            cx.count(error.reason());
            None
        }
    }
}

/// Tells the agent, unless gateways send us round in circles.
fn depart(gateway: &Gateway, sa: &IkeSa, cx: &mut Context) -> Failure {
    let peer = sa.peer_name();
    let now = cx.now();
    if !cx.redirects.allow(&peer, now) {
        cx.count("ike_redirect_loop");
        return Failure::RedirectLoop;
    }
    cx.event(Event::Redirected {
        ike: sa.id,
        peer,
        gateway: gateway.clone(),
        from: sa.channel.remote.ip(),
    });
    Failure::Redirected {
        gateway: gateway.to_string(),
    }
}
