//! Rekeying an IKE SA (RFC 7296 1.3.2, 2.18) and collisions of two such exchanges
//! (2.8.2, 2.25.2).
//!
//! ```text
//!  request   SK{SA, Ni, KEi, [N(MIF_SUPPORTED)]}
//!  response  SK{SA, Nr, KEr, [N(MIF_SUPPORTED)]}
//!        or  SK{N(error)}
//! ```
//! The old IKE SA protects the exchange and its PRF makes SKEYSEED. The responder
//! takes the new one into use with its response, unless its own request is under
//! way: then both wait until all four nonces are known, and the one with the
//! lowest loses.

use crate::crypto::{KeGroup, PrivateKey, Secret};
use crate::ids::{IkeSpi, Spi};
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::event::Event;
use crate::ike::message::{Ke, Notify, NotifyType, Payload};
use crate::ike::mif::{Supported, status};
use crate::ike::proposal::{self, IkeSuite};
use crate::ike::sa::{Handover, IkeSa, Keys, OldIkeSa, Phase, Successor};

use super::child::error;
use super::{Payloads, Received, Task, interfaces};

/// Replaced IKE SAs of one line from which on the peer's rekeys have to wait: each
/// takes memory until the peer deletes it, and a while longer.
const MAX_SHELLS: usize = 4;

/// Our request for an IKE SA in place of this one.
pub(in crate::ike) struct Rekey {
    /// The one to replace, by our SPI.
    of: IkeSpi,
    /// Our SPI of the new one.
    spi: IkeSpi,
    nonce: Vec<u8>,
    group: Option<KeGroup>,
    private: Option<PrivateKey>,
    /// Where we receive probes; only between MIF peers.
    probe_spi: Option<Spi>,
    attempts: u32,
}

impl Rekey {
    /// With the key exchange method in use, if it is still configured.
    pub(in crate::ike) fn new(sa: &IkeSa, cx: &mut Context) -> Self {
        let offers = sa.peer.as_ref().map_or(&[][..], |peer| &peer.ike_proposals);
        let current = sa.keys.as_ref().map(|keys| keys.ike.suite.ke);
        let current = current.filter(|group| offers.iter().any(|o| o.groups.contains(group)));
        let first = offers.first().and_then(|offer| offer.groups.first());
        Self {
            of: sa.own_spi(),
            spi: cx.ike_spi(),
            nonce: Vec::new(),
            group: current.or(first.copied()),
            private: None,
            probe_spi: None,
            attempts: 0,
        }
    }

    /// The request; nothing if the peer's rekey came first, or the IKE SA ends.
    pub(super) fn build(&mut self, sa: &IkeSa, cx: &mut Context) -> Option<Vec<Payload>> {
        if !sa.is_established() || sa.own_spi() != self.of {
            return None;
        }
        let private = PrivateKey::generate(self.group?).ok()?;
        let ke = ke_payload(&private);
        self.private = Some(private);
        self.nonce = cx.nonce();
        let offers = &sa.peer.as_ref()?.ike_proposals;
        let mut payloads = vec![
            Payload::Sa(proposal::offer_ike(offers, &self.spi.0.to_be_bytes())),
            Payload::Nonce(self.nonce.clone()),
            ke,
        ];
        if sa.mif.is_some() {
            let spi = match self.probe_spi {
                Some(spi) => spi,
                None => *self.probe_spi.insert(cx.allocate_spi()),
            };
            payloads.push(Payload::Notify(interfaces::supported(spi, cx)));
        }
        Some(payloads)
    }

    /// Gives back what it reserved.
    pub(in crate::ike) fn abandon(self, cx: &mut Context) {
        if let Some(spi) = self.probe_spi {
            cx.release_spi(spi);
        }
    }

    /// The response.
    pub(super) fn process(
        mut self: Box<Self>,
        sa: &mut IkeSa,
        cx: &mut Context,
        received: &Received,
    ) {
        let payloads = &received.payloads;
        if let Some(error) = payloads.error() {
            return self.refused(error, sa, cx);
        }
        let Some(next) = self.agreed(sa, payloads, cx) else {
            // The peer uses an IKE SA that we cannot.
            self.abandon(cx);
            let what = "answer to the rekeying of the IKE SA";
            return sa.close(Failure::Protocol { what }, cx);
        };
        let (next, old, loser) = match sa.rival.take() {
            None => (next, OldIkeSa::Delete, None),
            Some(rival) if next.lowest < rival.lowest => (*rival, OldIkeSa::Await, Some(next)),
            Some(rival) => (next, OldIkeSa::Delete, Some(*rival)),
        };
        sa.handover = Some(Box::new(Handover { next, old, loser }));
    }

    fn refused(mut self: Box<Self>, error: &Notify, sa: &mut IkeSa, cx: &mut Context) {
        // The peer had finished its own rekey when ours came (RFC 7296 2.8.2).
        if adopt_rival(sa, OldIkeSa::Await) {
            return self.abandon(cx);
        }
        if !sa.is_established() {
            return self.abandon(cx);
        }
        match error.kind {
            NotifyType::TEMPORARY_FAILURE if sa.postpone(self.attempts, cx) => {
                self.attempts += 1;
                return sa.postponed.push(Task::RekeyIke(self));
            }
            NotifyType::INVALID_KE_PAYLOAD if self.take_group(error, sa) => {
                return sa.queue.push(Task::RekeyIke(self));
            }
            // It does not rekey at all: only a new IKE SA helps.
            NotifyType::NO_ADDITIONAL_SAS if sa.caller => {
                cx.event(Event::ReauthDue { ike: sa.id });
            }
            NotifyType::NO_ADDITIONAL_SAS => {}
            _ => sa.ageing.try_again(cx),
        }
        cx.count("ike_rekey_refused");
        self.abandon(cx);
    }

    /// Takes the method the peer wants, if we offered it.
    fn take_group(&mut self, notify: &Notify, sa: &IkeSa) -> bool {
        let number = <[u8; 2]>::try_from(notify.data.as_slice()).ok();
        let group = number.and_then(|n| KeGroup::from_number(u16::from_be_bytes(n)));
        let offers = sa.peer.as_ref().map_or(&[][..], |peer| &peer.ike_proposals);
        let offered = |group: &KeGroup| offers.iter().any(|o| o.groups.contains(group));
        let group = group.filter(|g| offered(g) && self.group != Some(*g));
        self.group = group.or(self.group);
        group.is_some()
    }

    fn agreed(&mut self, sa: &IkeSa, payloads: &Payloads, cx: &mut Context) -> Option<Successor> {
        let offers = &sa.peer.as_ref()?.ike_proposals;
        let chosen = proposal::accept_ike(offers, payloads.sa()?).ok()?;
        let private = self.private.take()?;
        let ke = payloads
            .ke()
            .filter(|ke| ke.group == private.group().number())?;
        if chosen.suite.ke != private.group() {
            return None;
        }
        let shared = private.agree(&ke.data).ok()?;
        let peers = ike_spi(&chosen.spi)?;
        let exchange = Exchange {
            initiator: true,
            spis: (self.spi, peers),
            suite: chosen.suite,
            shared: &shared,
            nonces: (&self.nonce, payloads.nonce()?),
        };
        let next = exchange.successor(sa)?;
        let probe_out = peers_probe_spi(payloads, cx);
        let probe = self.probe_spi.take();
        let probe = match (probe, probe_out) {
            (Some(ours), Some(theirs)) => Some((ours, theirs)),
            (Some(ours), None) => {
                cx.release_spi(ours);
                None
            }
            (None, _) => None,
        };
        Some(Successor { probe, ..next })
    }
}

/// The peer's rekey is the one that counts after all. Whether there was one.
pub(super) fn adopt_rival(sa: &mut IkeSa, old: OldIkeSa) -> bool {
    let Some(rival) = sa.rival.take() else {
        return false;
    };
    sa.handover = Some(Box::new(Handover {
        next: *rival,
        old,
        loser: None,
    }));
    true
}

/// The peer asks for an IKE SA in place of this one.
pub(super) fn respond(sa: &mut IkeSa, cx: &mut Context, received: &Received) -> Vec<Payload> {
    let rekeying = |task: &Task| matches!(task, Task::RekeyIke(_));
    // RFC 7296 2.25.1: not while Child SAs are made, rekeyed or deleted.
    let busy = |task: &Task| task.changes_sas() && !rekeying(task);
    if sa.outbound.tasks().any(busy) || sa.rival.is_some() {
        return vec![error(NotifyType::TEMPORARY_FAILURE)];
    }
    let left = sa.shells.iter().filter(|id| cx.sas.contains_key(id));
    if left.count() >= MAX_SHELLS {
        cx.count("ike_rekey_too_often");
        return vec![error(NotifyType::TEMPORARY_FAILURE)];
    }
    let (next, response) = match accept(sa, cx, &received.payloads) {
        Ok(accepted) => accepted,
        Err(notify) => return vec![Payload::Notify(notify)],
    };
    if sa.outbound.tasks().any(rekeying) {
        sa.rival = Some(Box::new(next));
    } else {
        sa.handover = Some(Box::new(Handover {
            next,
            old: OldIkeSa::Await,
            loser: None,
        }));
    }
    response
}

fn accept(
    sa: &IkeSa,
    cx: &mut Context,
    payloads: &Payloads,
) -> Result<(Successor, Vec<Payload>), Notify> {
    let refuse = |kind| Notify::new(kind, Vec::new());
    let syntax = || refuse(NotifyType::INVALID_SYNTAX);
    let (Some(peer), Some(offer), Some(ni), Some(ke)) =
        (&sa.peer, payloads.sa(), payloads.nonce(), payloads.ke())
    else {
        return Err(syntax());
    };
    let chosen = proposal::select_ike(&peer.ike_proposals, offer)
        .map_err(|_| refuse(NotifyType::NO_PROPOSAL_CHOSEN))?;
    let group = chosen.suite.ke;
    if ke.group != group.number() {
        let wanted = group.number().to_be_bytes().to_vec();
        return Err(Notify::new(NotifyType::INVALID_KE_PAYLOAD, wanted));
    }
    let peers = ike_spi(&chosen.spi).ok_or_else(syntax)?;
    let private = PrivateKey::generate(group).map_err(|_| refuse(NotifyType::TEMPORARY_FAILURE))?;
    let public = ke_payload(&private);
    let shared = private.agree(&ke.data).map_err(|_| syntax())?;
    let (spi, nr) = (cx.ike_spi(), cx.nonce());
    let exchange = Exchange {
        initiator: false,
        spis: (peers, spi),
        suite: chosen.suite,
        shared: &shared,
        nonces: (ni, &nr),
    };
    let next = exchange.successor(sa).ok_or_else(syntax)?;
    let mut response = vec![
        Payload::Sa(proposal::answer_ike(&chosen, &spi.0.to_be_bytes())),
        Payload::Nonce(nr.clone()),
        public,
    ];
    let theirs = peers_probe_spi(payloads, cx).filter(|_| sa.mif.is_some());
    let probe = theirs.map(|theirs| {
        let ours = cx.allocate_spi();
        response.push(Payload::Notify(interfaces::supported(ours, cx)));
        (ours, theirs)
    });
    Ok((Successor { probe, ..next }, response))
}

/// What makes a new IKE SA.
struct Exchange<'a> {
    /// We asked.
    initiator: bool,
    spis: (IkeSpi, IkeSpi),
    suite: IkeSuite,
    shared: &'a Secret,
    nonces: (&'a [u8], &'a [u8]),
}

impl Exchange<'_> {
    fn successor(&self, old: &IkeSa) -> Option<Successor> {
        let keys = &old.keys.as_ref()?.ike;
        let keys = keys.rekey(self.suite, self.shared, self.nonces, self.spis);
        // Everything else is inherited when it takes over.
        let mut sa = IkeSa::new(old.id, self.initiator, self.spis, old.channel, Phase::Spent);
        sa.keys = Some(Keys::new(keys, self.initiator)?);
        Some(Successor {
            sa: Box::new(sa),
            probe: None,
            lowest: self.nonces.0.min(self.nonces.1).to_vec(),
        })
    }
}

/// The SPI of a proposal that rekeys an IKE SA (RFC 7296 3.3.1).
fn ike_spi(octets: &[u8]) -> Option<IkeSpi> {
    let spi = u64::from_be_bytes(octets.try_into().ok()?);
    (spi != 0).then_some(IkeSpi(spi))
}

/// The peer's fresh probe SPI (protocol 3.4).
fn peers_probe_spi(payloads: &Payloads, cx: &mut Context) -> Option<Spi> {
    let notify = payloads.notify(status::MIF_SUPPORTED)?;
    match Supported::decode(&notify.data) {
        Ok(supported) => Some(supported.probe_spi).filter(|spi| spi.0 >= 256),
        Err(error) => {
            cx.count(error.reason());
            None
        }
    }
}

fn ke_payload(private: &PrivateKey) -> Payload {
    Payload::Ke(Ke {
        group: private.group().number(),
        data: private.public().to_vec(),
    })
}
