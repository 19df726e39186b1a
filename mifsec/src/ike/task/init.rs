//! IKE_SA_INIT (RFC 7296 1.2), initiator's side. The responder's is stateless
//! until it accepts and lives in `engine/accept.rs`.
//!
//! ```text
//!  request   HDR(A,0), [N(COOKIE)], SAi1, KEi, Ni, N(NATD..), N(NATD..), N(support)..
//!  response  HDR(A,B), SAr1, KEr, Nr, N(NATD..), N(NATD..), N(support)..
//!        or  HDR(A,0), N(COOKIE)                    repeat with it (2.6)
//!        or  HDR(A,0), N(INVALID_KE_PAYLOAD, group) repeat with it (1.3, 2.7)
//!        or  HDR(A,0), N(REDIRECT, gateway, Ni)     go there (RFC 5685)
//! ```

use std::net::IpAddr;

use crate::crypto::{KeGroup, PrivateKey};
use crate::ids::{Arrival, IkeSpi};
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::keymat::IkeKeys;
use crate::ike::message::{Ke, Notify, NotifyType, Payload};
use crate::ike::proposal::{self, IkeSuite};
use crate::ike::redirect::Gateway;
use crate::ike::sa::{IkeSa, Keys, Phase};
use crate::ike::timer::TimerKind;

use super::auth::{AuthTask, Initial};
use super::{Payloads, Task, auth, natd, redirect};

/// Most repetitions a responder may ask for: a cookie, a group, a cookie again.
const MAX_ROUNDS: u32 = 4;

/// Our IKE_SA_INIT request.
pub(in crate::ike) struct Init {
    private: PrivateKey,
    nonce: Vec<u8>,
    cookie: Option<Vec<u8>>,
    redirected_from: Option<IpAddr>,
    rounds: u32,
    /// The octets sent, which AUTH covers.
    request: Vec<u8>,
}

/// A response nothing protects.
pub(in crate::ike) struct InitResponse<'a> {
    pub(in crate::ike) payloads: Payloads,
    pub(in crate::ike) spi_r: IkeSpi,
    pub(in crate::ike) bytes: &'a [u8],
    pub(in crate::ike) arrival: Arrival,
}

/// What a response we can use asks of us.
pub(in crate::ike) enum Verdict {
    /// Repeat the same request with this cookie.
    Cookie(Vec<u8>),
    /// Repeat with a key of this method.
    Group(KeGroup),
    /// Go to another gateway.
    Redirect(Gateway),
    /// Go on with these.
    Agreed {
        suite: IkeSuite,
        public: Vec<u8>,
        nonce: Vec<u8>,
    },
}

impl Init {
    /// A first request; `None` when the system gives no randomness.
    pub(in crate::ike) fn new(
        group: KeGroup,
        redirected_from: Option<IpAddr>,
        cx: &mut Context,
    ) -> Option<Self> {
        Some(Self {
            private: PrivateKey::generate(group).ok()?,
            nonce: cx.nonce(),
            cookie: None,
            redirected_from,
            rounds: 0,
            request: Vec::new(),
        })
    }

    /// The request. A cookie comes first (RFC 7296 2.6).
    pub(in crate::ike) fn build(&self, sa: &IkeSa) -> Vec<Payload> {
        let mut payloads = Vec::new();
        if let Some(cookie) = &self.cookie {
            payloads.push(Payload::Notify(Notify::new(
                NotifyType::COOKIE,
                cookie.clone(),
            )));
        }
        let offers = sa.peer.as_ref().map_or(&[][..], |peer| &peer.ike_proposals);
        payloads.push(Payload::Sa(proposal::offer_ike(offers, &[])));
        payloads.push(Payload::Ke(Ke {
            group: self.private.group().number(),
            data: self.private.public().to_vec(),
        }));
        payloads.push(Payload::Nonce(self.nonce.clone()));
        let (local, remote) = (sa.channel.local, sa.channel.remote);
        let forced = sa.peer.as_ref().is_some_and(|peer| peer.mobility.force_udp);
        payloads.extend(natd::build(sa.spi_i, sa.spi_r, local, remote, forced));
        payloads.push(support(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
        payloads.push(auth::hashes());
        payloads.push(redirect::offer(self.redirected_from));
        payloads
    }

    /// Remembers what was sent.
    pub(in crate::ike) fn sent(&mut self, bytes: &[u8]) {
        self.request = bytes.to_vec();
    }

    /// Decides what to make of a response, before the request is given up for it.
    ///
    /// # Errors
    /// A response that must not end the exchange; with what it claims, if that
    /// is an error.
    pub(in crate::ike) fn judge(
        &self,
        sa: &IkeSa,
        response: &InitResponse<'_>,
    ) -> Result<Verdict, Option<Failure>> {
        let payloads = &response.payloads;
        let offers = sa.peer.as_ref().map_or(&[][..], |peer| &peer.ike_proposals);
        if let Some(notify) = payloads.notify(NotifyType::REDIRECT) {
            let gateway = redirect::in_init(notify, &self.nonce).ok_or(None)?;
            return Ok(Verdict::Redirect(gateway));
        }
        if let Some(error) = payloads.error() {
            if error.kind != NotifyType::INVALID_KE_PAYLOAD {
                return Err(Some(Failure::from_notify(error.kind, false)));
            }
            let group = wanted_group(error);
            if group == Some(self.private.group()) {
                // A copy of the answer that made us use it.
                return Err(None);
            }
            let offered = |group: &KeGroup| offers.iter().any(|o| o.groups.contains(group));
            let group = group.filter(offered).ok_or(Some(Failure::NoIkeProposal))?;
            return self.again(Verdict::Group(group));
        }
        let (Some(answer), Some(ke), Some(nonce)) =
            (payloads.sa(), payloads.ke(), payloads.nonce())
        else {
            let cookie = payloads.notify(NotifyType::COOKIE).ok_or(None)?;
            if !(1..=64).contains(&cookie.data.len()) {
                return Err(None);
            }
            return self.again(Verdict::Cookie(cookie.data.clone()));
        };
        let chosen = proposal::accept_ike(offers, answer).map_err(|_| None)?;
        let group = self.private.group();
        let fits = chosen.suite.ke == group
            && ke.group == group.number()
            && ke.data.len() == group.public_len()
            && response.spi_r != IkeSpi(0);
        if !fits {
            return Err(None);
        }
        Ok(Verdict::Agreed {
            suite: chosen.suite,
            public: ke.data.clone(),
            nonce: nonce.clone(),
        })
    }

    fn again(&self, verdict: Verdict) -> Result<Verdict, Option<Failure>> {
        if self.rounds < MAX_ROUNDS {
            Ok(verdict)
        } else {
            Err(None)
        }
    }

    /// Repeats the request, or goes on to IKE_AUTH.
    pub(in crate::ike) fn proceed(
        mut self: Box<Self>,
        verdict: Verdict,
        sa: &mut IkeSa,
        cx: &mut Context,
        response: &InitResponse<'_>,
    ) {
        self.rounds += 1;
        // Something better than a refusal came: whoever sent that is not believed
        // any more (RFC 7296 2.21.1).
        sa.phase = Phase::Connecting { refused: None };
        sa.timers.set(TimerKind::Expire, None);
        match verdict {
            Verdict::Cookie(cookie) => self.cookie = Some(cookie),
            Verdict::Group(group) => match PrivateKey::generate(group) {
                Ok(private) => self.private = private,
                Err(_) => return sa.close(Failure::Entropy, cx),
            },
            Verdict::Redirect(gateway) => return redirect::leave(&gateway, sa, cx),
            Verdict::Agreed {
                suite,
                public,
                nonce,
            } => return (*self).finish(suite, &public, nonce, sa, cx, response),
        }
        sa.outbound.restart();
        sa.queue.push(Task::Init(self));
    }

    fn finish(
        self,
        suite: IkeSuite,
        public: &[u8],
        nr: Vec<u8>,
        sa: &mut IkeSa,
        cx: &mut Context,
        response: &InitResponse<'_>,
    ) {
        let payloads = &response.payloads;
        if payloads
            .notify(NotifyType::CHILDLESS_IKEV2_SUPPORTED)
            .is_none()
            && sa.peer.as_ref().is_some_and(|peer| peer.is_childless())
        {
            return sa.close(Failure::ChildRequired, cx);
        }
        let Ok(shared) = self.private.agree(public) else {
            return sa.close(Failure::Protocol { what: "public key" }, cx);
        };
        let Arrival { local, remote, .. } = response.arrival;
        sa.spi_r = response.spi_r;
        sa.nat = natd::detect(payloads, sa.spi_i, sa.spi_r, local, remote);
        let keys = IkeKeys::derive(suite, &shared, (&self.nonce, &nr), sa.spis());
        sa.keys = Keys::new(keys, true);
        sa.fragmentation = payloads
            .notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)
            .is_some();
        sa.acquaint(payloads);
        // Peers with MOBIKE, and so with MIF, float whether or not there is a
        // NAT (RFC 4555 3.3); for others it does no harm (RFC 7296 2.23).
        sa.channel.local.set_port(cx.port);
        sa.channel.remote.set_port(cx.port);
        let initial = Initial {
            request: self.request,
            response: response.bytes.to_vec(),
            ni: self.nonce,
            nr,
            announced: auth::Announced::read(&response.payloads),
        };
        sa.queue
            .push(Task::Auth(Box::new(AuthTask::new(initial, sa, cx))));
    }
}

/// What an IKE_SA_INIT response says we support. A responder's fragments need the
/// initiator's word (RFC 7383 2.3); a childless IKE SA does not (RFC 6023 3).
pub(in crate::ike) fn answer(request: &Payloads) -> Vec<Payload> {
    let mut kinds = vec![NotifyType::CHILDLESS_IKEV2_SUPPORTED];
    kinds.extend(
        request
            .notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)
            .map(|notify| notify.kind),
    );
    kinds.into_iter().map(support).collect()
}

fn support(kind: NotifyType) -> Payload {
    Payload::Notify(Notify::new(kind, Vec::new()))
}

/// The number in INVALID_KE_PAYLOAD.
fn wanted_group(notify: &Notify) -> Option<KeGroup> {
    let number = <[u8; 2]>::try_from(notify.data.as_slice()).ok()?;
    KeGroup::from_number(u16::from_be_bytes(number))
}
