//! IKE_AUTH with pre-shared keys and certificates (RFC 7296 1.2, 2.15, 2.21.2),
//! the first Child SA and the offer of the multiple-interface extension.
//!
//! ```text
//!  request   SK{IDi, [CERT+], [CERTREQ], [IDr], AUTH, [N(INITIAL_CONTACT)], [CP], SAi2, TSi, TSr,
//!               V, N(MIF_SUPPORTED), [N(MIF_INTERFACES)]}
//!  response  SK{IDr, [CERT+], AUTH, [CP], SAr2, TSi, TSr, [V, N(MIF_SUPPORTED), N(MIF_INTERFACES)]}
//!        or  SK{IDr, [CERT+], AUTH, [CP], N(error)}   the IKE SA stands without Child SA
//!        or  SK{N(AUTHENTICATION_FAILED)}       nothing stands
//! ```

mod choice;
mod proof;

use crate::ids::Spi;
use crate::ike::cert::authorities;
use crate::ike::config::{PeerConfig, Require};
use crate::ike::engine::Context;
use crate::ike::error::{DropReason, Failure};
use crate::ike::event::Event;
use crate::ike::message::{Auth, AuthMethod, Notify, NotifyType, Payload};
use crate::ike::peer::{Identity, IdentityPattern};
use crate::ike::sa::{IkeSa, Phase};

use super::child::{self, Create, Nonces};
use super::{Payloads, Received, config, interfaces, mobike, reauth, redirect};

pub(in crate::ike) use choice::request_within;
use proof::Proof;
pub(in crate::ike) use proof::{Announced, hashes};

/// What IKE_SA_INIT left for AUTH to cover.
pub(in crate::ike) struct Initial {
    pub(in crate::ike) request: Vec<u8>,
    pub(in crate::ike) response: Vec<u8>,
    pub(in crate::ike) ni: Vec<u8>,
    pub(in crate::ike) nr: Vec<u8>,
    /// What the peer said in them.
    pub(in crate::ike) announced: Announced,
}

/// A responder's IKE SA whose peer is not known yet.
pub(in crate::ike) struct HalfOpen {
    pub(in crate::ike) initial: Initial,
    /// How often its IKE_SA_INIT response was sent again.
    pub(in crate::ike) repeats: u32,
}

/// Our IKE_AUTH request.
pub(in crate::ike) struct AuthTask {
    initial: Initial,
    child: Option<Create>,
    probe_spi: Spi,
    /// Our table in it.
    early: Option<interfaces::Early>,
}

impl AuthTask {
    /// The first Child SA is the first one configured.
    pub(in crate::ike) fn new(initial: Initial, sa: &IkeSa, cx: &mut Context) -> Self {
        let with_child = sa.peer.as_ref().filter(|peer| !peer.is_childless());
        let first = with_child.and_then(|peer| peer.children.first());
        Self {
            initial,
            child: first.map(|config| Create::on_channel(config.clone(), sa)),
            probe_spi: cx.allocate_spi(),
            early: None,
        }
    }

    /// Gives back what the request reserved and no response will use.
    pub(in crate::ike) fn abandon(self, cx: &mut Context) {
        cx.release_spi(self.probe_spi);
        if let Some(create) = self.child {
            create.abandon(cx);
        }
    }

    /// The request.
    pub(in crate::ike) fn build(
        &mut self,
        sa: &mut IkeSa,
        cx: &mut Context,
    ) -> Option<Vec<Payload>> {
        let peer = sa.peer.clone()?;
        let id = choice::local_id(&peer);
        let keys = &sa.keys.as_ref()?.ike;
        let ours = Proof {
            prf: keys.suite.prf,
            first_message: &self.initial.request,
            other_nonce: &self.initial.nr,
            sk_p: &keys.sk_pi,
            id_body: &id.body(),
        };
        let secret = choice::initiator_secret(&peer, cx);
        let made = choice::prove(&peer, &ours, secret, &self.initial.announced, false);
        let (auth, certificates) = match made {
            Ok(made) => made,
            Err(reason) => {
                sa.close(reason, cx);
                return None;
            }
        };
        let mut payloads = vec![Payload::IdI(id)];
        payloads.extend(certificates);
        payloads.extend(choice::request([&peer]));
        if let IdentityPattern::Exact(remote) = &peer.remote_id {
            payloads.push(Payload::IdR(remote.to_id()));
        }
        payloads.push(Payload::Auth(auth));
        // Only when it is true: a second IKE SA must not end the first
        // (RFC 7296 2.4).
        let first = !cx
            .sas
            .values()
            .any(|other| other.is_authenticated() && other.peer_name() == peer.name);
        if first {
            let notify = Notify::new(NotifyType::INITIAL_CONTACT, Vec::new());
            payloads.push(Payload::Notify(notify));
        }
        payloads.extend(config::request(&peer).map(Payload::Config));
        if let Some(create) = &mut self.child {
            payloads.extend(create.offer(sa, cx, false));
        }
        if peer.mobility.mif {
            payloads.extend(interfaces::offer(self.probe_spi, cx));
            if peer.mobility.early_announce {
                self.early = interfaces::early(sa, cx, &mut payloads);
            }
        }
        payloads.extend(mobike::offer(sa, cx));
        Some(payloads)
    }

    /// The response.
    pub(in crate::ike) fn process(
        self: Box<Self>,
        sa: &mut IkeSa,
        cx: &mut Context,
        received: &Received,
    ) {
        // Called off meanwhile; the Delete for what the peer has set up is queued.
        if matches!(sa.phase, Phase::Closing { .. }) {
            return self.abandon(cx);
        }
        let payloads = &received.payloads;
        let Self {
            initial,
            child,
            probe_spi,
            early,
        } = *self;
        if let Err(reason) = authenticate_responder(sa, cx, &initial, payloads) {
            cx.release_spi(probe_spi);
            if let Some(create) = child {
                create.abandon(cx);
            }
            // A responder that refused has no IKE SA to delete (RFC 7296 2.21.2).
            return if payloads.auth().is_none() {
                sa.close(reason, cx);
            } else {
                sa.begin_closing(reason, cx);
            };
        }
        if redirect::in_auth(sa, cx, payloads) {
            cx.release_spi(probe_spi);
            if let Some(create) = child {
                create.abandon(cx);
            }
            return;
        }
        sa.acquaint(payloads);
        let given = payloads.config().zip(sa.peer.as_deref());
        let given = given.map(|(reply, peer)| config::read(reply, peer));
        let (leases, dns) = given.unwrap_or_default();
        sa.leases = leases;
        interfaces::agree(sa, cx, payloads, probe_spi);
        interfaces::taken_early(sa, early, cx);
        mobike::agree(sa, cx, payloads);
        if let Some(reason) = lacking(sa) {
            if let Some(create) = child {
                create.abandon(cx);
            }
            return sa.begin_closing(reason, cx);
        }
        sa.establish(dns, cx);
        reauth::receive(sa, cx, payloads);
        interfaces::receive_table(sa, cx, payloads);
        if let Some(create) = child {
            let nonces = Nonces {
                ni: &initial.ni,
                nr: &initial.nr,
                in_auth: true,
            };
            create.finish(sa, cx, payloads, &nonces);
        }
        interfaces::announce(sa, cx);
    }
}

/// The responder's answer to IKE_AUTH.
pub(in crate::ike) fn respond(
    sa: &mut IkeSa,
    cx: &mut Context,
    received: &Received,
) -> Vec<Payload> {
    let Phase::HalfOpen(half_open) = std::mem::replace(&mut sa.phase, Phase::Spent) else {
        return Vec::new();
    };
    let outcome = mobike::check_no_nats(&received.payloads, received.arrival)
        .map_err(|_| Failure::UnexpectedNat)
        .and_then(|()| authenticate_initiator(sa, cx, &half_open.initial, &received.payloads));
    let proof = match outcome {
        Ok(proof) => proof,
        Err(reason) => {
            cx.drop(DropReason::Authentication);
            let refusal = mobike::refusal(&reason);
            sa.phase = Phase::HalfOpen(half_open);
            sa.close(reason, cx);
            // The same for an unknown identity and a wrong secret, so that
            // neither can be guessed (RFC 7296 2.21.2).
            return vec![child::error(refusal)];
        }
    };
    if received
        .payloads
        .notify(NotifyType::INITIAL_CONTACT)
        .is_some()
    {
        cx.close_others(sa);
    }
    // It floated: the channel is where this message came from.
    sa.channel = sa.channel_of(received.arrival, cx);
    mobike::authenticated_from(sa, received.arrival.remote);
    sa.acquaint(&received.payloads);
    let mut response = proof;
    let refused_address = match config::asked(&received.payloads) {
        Some(request) => match config::respond(request, sa, cx) {
            Ok(reply) => {
                response.push(Payload::Config(reply));
                None
            }
            Err(reason) => Some(reason),
        },
        None => None,
    };
    sa.establish(config::Resolvers::default(), cx);
    // A table before the tables' time: of one that cannot be read no word, it comes
    // again.
    interfaces::receive_table(sa, cx, &received.payloads);
    let initial = half_open.initial;
    match refused_address {
        // No address, no Child SA; the IKE SA stands (RFC 7296 3.15.4).
        Some(reason) => {
            response.push(child::error(NotifyType::INTERNAL_ADDRESS_FAILURE));
            cx.event(Event::ChildFailed {
                ike: sa.id,
                child: String::new(),
                pair: sa.channel_pair(),
                reason,
            });
        }
        None if received.payloads.sa().is_some() => {
            let nonces = Nonces {
                ni: &initial.ni,
                nr: &initial.nr,
                in_auth: true,
            };
            response.extend(child::accept(sa, cx, &received.payloads, &nonces));
        }
        None => {}
    }
    response.extend(interfaces::answer(sa, cx));
    response.extend(mobike::answer(sa, cx));
    response
}

/// Checks IDi and AUTH; gives IDr and our AUTH.
fn authenticate_initiator(
    sa: &mut IkeSa,
    cx: &mut Context,
    initial: &Initial,
    payloads: &Payloads,
) -> Result<Vec<Payload>, Failure> {
    let (Some(id), Some(auth)) = (payloads.id_i(), payloads.auth()) else {
        return Err(Failure::Protocol { what: "IKE_AUTH" });
    };
    let invalid = Failure::Protocol { what: "identity" };
    let identity = Identity::from_id(id).map_err(|_| invalid.clone())?;
    let wanted = payloads.id_r().map(Identity::from_id).transpose();
    let wanted = wanted.map_err(|_| invalid)?;
    let name = identity.to_string();
    let authorities = authorities(&payloads.0);
    let accepted = authorities.as_deref();
    let from = sa.channel.remote.ip();
    let peer = choice::entry(cx, &identity, wanted.as_ref(), from, auth, accepted);
    let peer = peer.ok_or_else(|| Failure::UnknownPeer { id: name.clone() })?;
    sa.peer = Some(peer.clone());
    let Some(keys) = &sa.keys else {
        return Err(Failure::Protocol { what: "IKE_AUTH" });
    };
    let keys = &keys.ike;
    // Chosen before it was known who calls.
    if !peer.ike_proposals.iter().any(|ours| ours.has(&keys.suite)) {
        return Err(Failure::SuiteNotAllowed { id: name });
    }
    let theirs = Proof {
        prf: keys.suite.prf,
        first_message: &initial.request,
        other_nonce: &initial.nr,
        sk_p: &keys.sk_pi,
        id_body: &id.body(),
    };
    choice::check(&peer, &identity, cx, &theirs, auth, payloads)?;
    let id = choice::local_id(&peer);
    let ours = Proof {
        prf: keys.suite.prf,
        first_message: &initial.response,
        other_nonce: &initial.ni,
        sk_p: &keys.sk_pr,
        id_body: &id.body(),
    };
    let secret = choice::remote_secret(&peer, &identity, cx);
    // Who used a secret and asked for no certificate could not check one.
    let by_secret =
        auth.method == AuthMethod::SHARED_KEY && authorities.is_none() && secret.is_some();
    let (ours, certificates) = choice::prove(&peer, &ours, secret, &initial.announced, by_secret)?;
    sa.remote_id = name;
    let probe_spi = cx.allocate_spi();
    interfaces::agree(sa, cx, payloads, probe_spi);
    mobike::agree(sa, cx, payloads);
    if let Some(reason) = lacking(sa) {
        return Err(reason);
    }
    let mut proof = vec![Payload::IdR(id)];
    proof.extend(certificates);
    proof.push(Payload::Auth(ours));
    Ok(proof)
}

/// Checks IDr and AUTH.
fn authenticate_responder(
    sa: &mut IkeSa,
    cx: &Context,
    initial: &Initial,
    payloads: &Payloads,
) -> Result<(), Failure> {
    let incomplete = Failure::Protocol { what: "IKE_AUTH" };
    let (Some(id), Some(auth)) = (payloads.id_r(), payloads.auth()) else {
        return Err(payloads
            .error()
            .map_or(incomplete, |error| Failure::from_notify(error.kind, false)));
    };
    let (Some(peer), Some(keys)) = (&sa.peer, &sa.keys) else {
        return Err(incomplete);
    };
    let identity = Identity::from_id(id).map_err(|_| Failure::Protocol { what: "identity" })?;
    if !peer.remote_id.matches(&identity) {
        return Err(Failure::WrongIdentity {
            found: identity.to_string(),
            wanted: peer.remote_id.to_string(),
        });
    }
    let keys = &keys.ike;
    let theirs = Proof {
        prf: keys.suite.prf,
        first_message: &initial.response,
        other_nonce: &initial.ni,
        sk_p: &keys.sk_pr,
        id_body: &id.body(),
    };
    check_responder(peer, &identity, cx, &theirs, auth, payloads)?;
    sa.remote_id = identity.to_string();
    Ok(())
}

/// What the configuration demands and the peer does not have.
pub(in crate::ike) fn lacking(sa: &IkeSa) -> Option<Failure> {
    let require = sa.peer.as_ref().map_or(Require::Any, |peer| peer.require);
    match require {
        Require::Mif if sa.mif.is_none() => Some(Failure::MifRequired),
        Require::Mobike if sa.mif.is_none() && sa.mobike.is_none() => Some(Failure::MobikeRequired),
        _ => None,
    }
}

/// A responder with a secret is looked up as the initiator does it.
fn check_responder(
    peer: &PeerConfig,
    identity: &Identity,
    cx: &Context,
    theirs: &Proof<'_>,
    auth: &Auth,
    payloads: &Payloads,
) -> Result<(), Failure> {
    let by_own_name = auth.method == AuthMethod::SHARED_KEY && !peer.remote_id.is_exact();
    let named = if by_own_name {
        &peer.local_id
    } else {
        identity
    };
    choice::check(peer, named, cx, theirs, auth, payloads)
}

/// Tells a responder that we do not believe it (RFC 7296 2.21.2).
pub(super) fn rejection(sa: &IkeSa) -> Option<Payload> {
    match &sa.phase {
        Phase::Closing {
            reason,
            announced: false,
        } if reason.is_authentication() => Some(child::error(NotifyType::AUTHENTICATION_FAILED)),
        _ => None,
    }
}
