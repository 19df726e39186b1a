//! The peer's INFORMATIONAL requests (RFC 7296 1.4): deletes, moves, tables,
//! window sizes, or nothing at all. Every one is answered.

use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::message::{Notify, NotifyType, Payload};
use crate::ike::mif::{error, status};
use crate::ike::sa::IkeSa;

use super::{
    Received, add, alternates, delete, interfaces, mobike, reauth, redirect, remove, update,
};

/// First and last of the extension's status notifies.
const MIF_BLOCK: std::ops::RangeInclusive<u16> = 47104..=47135;

/// The response.
pub(in crate::ike) fn respond(
    sa: &mut IkeSa,
    cx: &mut Context,
    received: &Received,
) -> Vec<Payload> {
    // The initiator could not believe our IKE_AUTH response (RFC 7296 2.21.2).
    if received
        .payloads
        .notify(NotifyType::AUTHENTICATION_FAILED)
        .is_some()
    {
        sa.close(Failure::Refused, cx);
        return Vec::new();
    }
    reauth::receive(sa, cx, &received.payloads);
    let mut response = mobike::respond(sa, cx, received);
    for notify in received.payloads.notifies() {
        response.extend(answer(notify, sa, cx, received).map(Payload::Notify));
    }
    // Not what follows from a table that was refused.
    let error = |payload: &Payload| matches!(payload, Payload::Notify(n) if n.kind.is_error());
    if !response.iter().any(error) {
        response.extend(remove::respond(sa, cx, received));
        response.extend(add::respond(sa, cx, received));
    }
    response.extend(delete::respond(sa, cx, received));
    response
}

/// Status notifies we do not know are ignored (RFC 7296 3.10.1).
fn answer(
    notify: &Notify,
    sa: &mut IkeSa,
    cx: &mut Context,
    received: &Received,
) -> Option<Notify> {
    match notify.kind {
        NotifyType::SET_WINDOW_SIZE => Some(interfaces::answer_window(notify, sa, cx)),
        NotifyType::REDIRECT => {
            redirect::in_informational(notify, sa, cx);
            None
        }
        // Return routability of the sender (RFC 4555 3.7).
        NotifyType::COOKIE2 if (8..=64).contains(&notify.data.len()) => Some(notify.clone()),
        _ if sa.mif.is_none() => None,
        status::MIF_INTERFACES => interfaces::receive_table(sa, cx, &received.payloads),
        status::MIF_ALTERNATES => alternates::respond(notify, sa, cx),
        status::MIF_UPDATE_ADDRS => update::respond(notify, sa, cx, received.arrival),
        // Together, below.
        status::MIF_ADD_INTERFACE | status::MIF_DERIVED_SAS | status::MIF_DELETE_INTERFACE => None,
        kind if MIF_BLOCK.contains(&kind.0) => {
            Some(Notify::new(error::MIF_UNSUPPORTED, Vec::new()))
        }
        _ => None,
    }
}
