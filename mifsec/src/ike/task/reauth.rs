//! Repeated authentication (RFC 4478): the responder says how long ours counts,
//! and the agent sets up another IKE SA before that is over.

use std::time::Duration;

use crate::ike::engine::Context;
use crate::ike::message::NotifyType;
use crate::ike::sa::IkeSa;

use super::Payloads;

/// Part of the time left for setting up the other one.
const SPARE: f64 = 0.1;
/// Part of it that is drawn at random, so that the peers of one gateway do not
/// all come back at once.
const JITTER: f64 = 0.1;

/// No authentication is repeated sooner, however little time the responder gives:
/// each takes both ends a key exchange and whole new SAs. Longer would miss the
/// limits of responders that mean a few seconds, and their Delete costs traffic.
const LEAST: Duration = Duration::from_secs(2);

/// Takes AUTH_LIFETIME out of the responder's IKE_AUTH or INFORMATIONAL. A later
/// one counts, whether it says more or less.
pub(super) fn receive(sa: &mut IkeSa, cx: &mut Context, payloads: &Payloads) {
    let Some(notify) = payloads.notify(NotifyType::AUTH_LIFETIME) else {
        return;
    };
    let Ok(seconds) = <[u8; 4]>::try_from(notify.data.as_slice()) else {
        return cx.count("ike_auth_lifetime");
    };
    // Only the first initiator can repeat IKE_AUTH as such.
    if sa.caller {
        let lifetime = Duration::from_secs(u32::from_be_bytes(seconds).into());
        let wait = lifetime.mul_f64(1.0 - SPARE - JITTER * cx.unit());
        sa.reauth_at = cx.now().checked_add(wait.max(LEAST));
    }
}
